"""Observations in a batch: each gets what it would get alone, whatever its company."""

import numpy as np
import pytest
import torch
from registries import (
    DenseSVD,
    dcdp,
    ddrm,
    dense_gaussian,
    dense_svd,
    dmplug,
    dmplug_variance,
    gaussian_mixture,
    lmaps,
    lmaps_conjugate_gradient,
    lmaps_jacobian,
    lmaps_jacobian_exact,
    map_ga,
    red_diff,
    resample,
    score_mri,
    sitcom,
    vml_map,
    vml_map_preconditioned,
)

from lmaps_science import InverseProblem, load_problem, sample, stack
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine
from lmaps_science.solvers import DMAP, DPS, DSG, LGD, LMAPS, ExactSVD

SHAPE = (1, 6, 5)
MODEL_SPACE = Affine(0.5, 1.0, SHAPE)


def observation(k, sigma=0.3, key=0, prior=dense_gaussian, operator=None):
    operator = dense_svd() if operator is None else operator
    generator = torch.Generator().manual_seed(k)
    image = torch.rand(1, *SHAPE, generator=generator, dtype=torch.float64)
    noise = torch.randn(1, 9, generator=generator, dtype=torch.float64)
    misfit = GaussianMisfit(operator, operator(image) + sigma * noise, sigma)
    facts = {"file": f"observation {k}"}
    return InverseProblem(prior(SHAPE), misfit, MODEL_SPACE, facts=facts, keys=(key,))


def agree(problems, solver, n_samples=3, tolerance=1e-9):
    """Batches of 1, 2, 4 and all of a stack agree with each problem alone."""
    alone = [sample(problem, solver, n_samples, seed=3, progress=False) for problem in problems]
    for size in (1, 2, 4, None):
        joined = sample(stack(problems), solver, n_samples, seed=3, progress=False, batch_size=size)
        assert len(joined) == n_samples * len(problems)
        for part, one in zip(joined.split(), alone, strict=True):
            np.testing.assert_allclose(part.samples, one.samples, rtol=0, atol=tolerance)
            np.testing.assert_allclose(part.misfit, one.misfit, rtol=1e-6, atol=1e-6)
            assert part.observations == 1


@pytest.mark.parametrize(
    "solver",
    [
        lmaps(),
        lmaps_conjugate_gradient(),
        LMAPS(12, local=ExactSVD(), sigma_max=10.0),
        ddrm(),
        DPS(20),
        DMAP(10),
        DSG(20),
        LGD(20, draws=2),
        lmaps_jacobian(),
        lmaps_jacobian_exact(),
        red_diff(),
        score_mri(),
        sitcom(),
        dcdp(),
        resample(),
        dmplug(),
        dmplug_variance(),
        map_ga(),
        vml_map(),
        vml_map_preconditioned(),
    ],
    ids=lambda solver: type(getattr(solver, "local", solver)).__name__,
)
@pytest.mark.parametrize("sigmas", [[0.3] * 5, [0.1, 0.2, 0.3, 0.4, 0.5]], ids=["same", "own"])
def test_five_observations_agree_with_each_alone(solver, sigmas):
    agree([observation(k, sigma) for k, sigma in enumerate(sigmas)], solver)


def test_random_numbers_belong_to_the_observation():
    same = [observation(0, key=7), observation(0, key=8)]
    first, second = sample(stack(same), lmaps(), 2, progress=False).split()
    assert np.abs(first.samples - second.samples).max() > 1e-3
    agree([observation(k, key=k) for k in range(3)], lmaps(), 2)


def test_every_result_keeps_its_own_facts():
    parts = sample(stack([observation(k) for k in range(2)]), lmaps(), 1, progress=False).split()
    assert [part.facts["file"] for part in parts] == ["observation 0", "observation 1"]
    assert "observations" not in parts[0].facts
    (alone,) = sample(observation(0), lmaps(), 1, progress=False).split()
    assert alone.facts["file"] == "observation 0"


def test_a_stack_resumes_from_its_checkpoint(tmp_path):
    problems, file = [observation(k, 0.1 * (k + 1)) for k in range(3)], tmp_path / "run.pt"

    def interrupt(i, state):
        if i == 7:
            raise KeyboardInterrupt

    options = {"n_samples": 2, "progress": False, "batch_size": 4}
    with pytest.raises(KeyboardInterrupt):
        sample(stack(problems), ddrm(), checkpoint=file, callback=interrupt, **options)
    resumed = sample(stack(problems), ddrm(), checkpoint=file, **options)
    whole = sample(stack(problems), ddrm(), **options)
    assert (resumed.samples == whole.samples).all()
    assert resumed.counts == whole.counts


def test_what_cannot_share_a_batch_is_refused_with_the_reason():
    first = observation(0)
    with pytest.raises(ValueError, match=r"problem 1 differs from problem 0: prior is Gaussian"):
        stack([first, observation(1, prior=gaussian_mixture)])
    generator = torch.Generator().manual_seed(5)
    matrix = torch.randn(9, 30, generator=generator, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"operators are the same: DenseSVD\.\w+ differs"):
        stack([first, observation(1, operator=DenseSVD(matrix, SHAPE))])
    shorter = DenseSVD(matrix[:4], SHAPE)
    misfit = GaussianMisfit(shorter, torch.zeros(1, 4, dtype=torch.float64), 0.3)
    fewer = InverseProblem(dense_gaussian(SHAPE), misfit, MODEL_SPACE)
    with pytest.raises(ValueError, match=r"DenseSVD\.\w+ has shapes"):
        stack([first, fewer])
    other = InverseProblem(dense_gaussian(SHAPE), first.misfit, Affine(2.0, 0.0, SHAPE))
    with pytest.raises(ValueError, match="problem 1 differs from problem 0: decode"):
        stack([first, other])
    with pytest.raises(ValueError, match="no problem to stack"):
        stack([])
    with pytest.raises(ValueError, match="holds 2 observations"):
        stack([stack([first, observation(1)]), observation(2)])


# ---------------------------------------------------------------- black holes


SMALL = {
    "image.npix": 16,
    "preset": "single",
    "solver.levels": 4,
    "solver.local.iterations": 5,
}


def black_hole(k, **overrides):
    changes = {**SMALL, "observation.seed": k, "observation.snr_cut": 0.0, **overrides}
    return load_problem(
        "black_hole/simulated", f"phantom:{k}", "gaussian", changes, dtype=torch.float64
    )


def test_five_black_holes_agree_with_each_alone():
    problems = [black_hole(k) for k in range(5)]
    agree(problems, problems[0].solver)
    parts = sample(stack(problems), problems[0].solver, 3, progress=False).split()
    data = problems[4].analyse(parts[4])
    alone = problems[4].analyse(sample(problems[4], problems[4].solver, 3, progress=False))
    np.testing.assert_allclose(data["image"].values, alone["image"].values, atol=1e-12)
    assert data.attrs["data"] == alone.attrs["data"]


def test_black_holes_seen_by_other_arrays_cannot_share_a_batch():
    with pytest.raises(ValueError, match=r"only share a batch.*visibilities\.u has shapes"):
        stack([black_hole(0), black_hole(1, **{"observation.array": "EHT2025"})])

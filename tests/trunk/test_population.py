"""A population of particles: what a sample is, what it costs, and which particle is left."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from registries import dense_gaussian, dense_svd, inverse_problem, linear_problem, lmaps

from lmaps_science import sample, stack
from lmaps_science.cards.load import load_card, load_problem
from lmaps_science.cards.methods import build_solver
from lmaps_science.io import DataError
from lmaps_science.local_map import LBFGS, ConjugateGradient
from lmaps_science.metering import Meter
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.noise import SampleNoise
from lmaps_science.operators import Operator
from lmaps_science.priors import GaussianMixturePrior
from lmaps_science.sampling import State
from lmaps_science.solvers import DPS, LMAPS, FrequencyHopping, Population
from lmaps_science.solvers.particles import best, rows

SHAPE = (1, 6, 5)
ONE = LMAPS(12, local=ConjugateGradient(), sigma_max=10.0)  # down to 0.1


def run(problem, solver, n=2, seed=0, **options):
    return sample(problem, solver, n, seed, progress=False, **options)


def observations(count, sigmas=(0.3,)):
    found = []
    for k in range(count):
        generator = torch.Generator().manual_seed(k)
        image = torch.rand(1, *SHAPE, generator=generator, dtype=torch.float64)
        misfit = GaussianMisfit(dense_svd(), dense_svd()(image), sigmas[k % len(sigmas)])
        found.append(inverse_problem(misfit))
    return found


# ---------------------------------------------------------------- what a sample is


@pytest.mark.parametrize("solver", [lmaps(), ONE], ids=["lbfgs", "exact"])
def test_a_population_of_one_is_the_solver_itself(solver):
    alone, one = run(linear_problem(), solver), run(linear_problem(), Population(solver, 1, {}))
    assert (alone.samples == one.samples).all()
    assert alone.counts == one.counts


def test_the_first_particle_is_the_solvers_sample_and_the_others_are_their_own():
    problem, population = linear_problem(), Population(ONE, 3, {0.1: 1})
    kept = {}
    run(problem, population, 2, callback=lambda i, state: kept.update({i: state}))
    alone = {}
    run(problem, ONE, 2, callback=lambda i, state: alone.update({i: state}))
    for i in range(11):  # until there is a choice, at the last level
        assert kept[i].x.shape == (6, *SHAPE)
        torch.testing.assert_close(kept[i].x[::3], alone[i].x, rtol=0, atol=1e-9)
        torch.testing.assert_close(kept[i].estimate, alone[i].estimate, rtol=0, atol=1e-9)
    apart = torch.cdist(*(2 * (kept[5].x.flatten(1),)))
    assert apart[~torch.eye(6, dtype=bool)].min() > 0.1


def test_no_two_particles_share_their_random_numbers():
    like = torch.zeros(1, 4)
    streams = {}
    for seed, observation, sample_, particle, key in [
        (s, o, k, p, key)
        for s in (0, 1)
        for o in (0, 1)
        for k in (0, 1)
        for p in (0, 1, 2)
        for key in ((0,), (1, 0), (1, 1), (2, 0, 1))
    ]:
        noise = SampleNoise(seed, (sample_,), (observation,), (particle,))
        drawn = tuple(noise.normal(like, *key)[0].tolist())
        streams.setdefault(drawn, []).append((seed, observation, sample_, particle, key))
    assert all(len(same) == 1 for same in streams.values())


@pytest.mark.parametrize("sigmas", [(0.3,), (0.1, 0.2, 0.4)], ids=["same", "own"])
def test_observations_of_a_stack_agree_with_each_alone(sigmas):
    solver, problems = Population(ONE, 4, {2: 3, 0.66: 1}), observations(3, sigmas)
    alone = [run(problem, solver, 2, seed=3) for problem in problems]
    for size in (1, 2, 4, None):
        joined = run(stack(problems), solver, 2, seed=3, batch_size=size)
        for part, one in zip(joined.split(), alone, strict=True):
            np.testing.assert_allclose(part.samples, one.samples, rtol=0, atol=1e-9)
        assert joined.counts["denoiser_calls"] == alone[0].counts["denoiser_calls"]


def test_an_interrupted_run_goes_on_before_and_after_the_choice(tmp_path):
    problem, solver = linear_problem(), Population(ONE, 4, {2: 3, 0.66: 1})
    whole = run(problem, solver)
    for level in (1, 5, 9):

        def interrupt(i, state, level=level):
            if i == level:
                raise KeyboardInterrupt

        file = tmp_path / f"{level}.pt"
        with pytest.raises(KeyboardInterrupt):
            run(problem, solver, checkpoint=file, callback=interrupt)
        resumed = run(problem, solver, checkpoint=file)
        assert (resumed.samples == whole.samples).all()
        assert resumed.counts == whole.counts
    with pytest.raises(ValueError, match="another run"):
        run(problem, replace(solver, keep={2: 2, 0.66: 1}), checkpoint=file)


# ---------------------------------------------------------------- what it costs


def test_calls_are_those_of_all_particles():
    keep = {2: 3, 0.66: 1}
    population = Population(ONE, 4, keep)
    sigmas = ONE.sigmas[:-1]
    each = torch.full((12,), 4)  # particles that enter each level
    each[1:][sigmas[:-1] <= 2] = 3
    each[1:][sigmas[:-1] <= 0.66] = 1
    for size in (None, 1):
        counts = run(linear_problem(), population, 3, batch_size=size).counts
        assert counts["denoiser_calls"] == int(each.sum())
    # A choice takes one more call of the operator for each particle that stands for it.
    exact = Population(LMAPS(12, local=LBFGS(2, tolerance=0), sigma_max=10.0), 4, keep)
    counts = run(linear_problem(), exact, 3).counts
    assert counts["operator_vjps"] == 2 * int(each.sum())
    assert counts["operator_calls"] == 2 * int(each.sum()) + 4 + 3


def test_a_meter_of_several_counts_several():
    meter = Meter()
    meter.times(3).add("operator_calls", "operator_vjps")
    meter.times(2).times(2).add("operator_calls")
    assert meter.counts["operator_calls"] == 7
    assert meter.counts["operator_vjps"] == 3


# ---------------------------------------------------------------- which particle is left


def test_rows_of_particles():
    chosen = best(torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, -1.0]]), 2)
    assert chosen.tolist() == [[1, 2], [2, 0]]
    assert rows(chosen, 3).tolist() == [1, 2, 5, 3]


class Folded(Operator):
    """y = x^2 - x / 2: two images fit about equally well, at least at first sight."""

    image_shape = data_shape = (1, 1, 2)

    def _forward(self, x):
        return x**2 - 0.5 * x


def test_those_of_the_lowest_local_objective_go_on():
    """J = |z - D(x)|^2 / (2 kappa sigma^2) + L(z), made here from its parts."""
    misfit = GaussianMisfit(Folded(), torch.full((1, 1, 1, 2), 0.5).double(), 0.2)
    problem = inverse_problem(misfit, lambda shape: dense_gaussian(shape))
    one = LMAPS(8, local=LBFGS(30), sigma_max=5.0, sigma_min=0.2, kappa=2.0)
    level = 4
    key = float(one.sigmas[level])
    population = Population(one, 5, {key: 2, 0.2: 1})
    states = {}
    run(problem, population, 3, callback=lambda i, state: states.update({i: state}))
    assert len(states[level - 1].x) == 15
    assert len(states[level].x) == 6
    noise = SampleNoise(0, (0, 1, 2)).of_particles(5)
    before = states[level - 1].x
    sigma = float(one.sigmas[level])
    with torch.no_grad():
        reached = one.step(level, State(before, before), problem, noise)
        away = reached.estimate - problem.prior(before, sigma)
        objective = away.square().flatten(1).sum(1) / (2 * 2.0 * sigma**2)
        objective += problem.misfit(reached.estimate)
    order = objective.reshape(3, 5).argsort(1)[:, :2] + 5 * torch.arange(3)[:, None]
    torch.testing.assert_close(states[level].x, reached.x[order.flatten()], rtol=0, atol=1e-8)
    expected = reached.estimate[order[:, 0]]
    torch.testing.assert_close(states[level].estimate, expected, rtol=0, atol=1e-8)


def test_more_samples_end_in_the_better_mode():
    """Two modes of equal prior weight, of which the data like one better by 2 in the logarithm."""
    means = torch.zeros(2, 1, 1, 2, dtype=torch.float64)
    means[0], means[1] = 1.0, -1.0
    scales = torch.full((2,), 0.1, dtype=torch.float64)
    prior = GaussianMixturePrior(torch.ones_like(scales), means, scales)
    misfit = GaussianMisfit(Folded(), torch.full((1, 1, 1, 2), 0.5).double(), 1.0)
    problem = replace(inverse_problem(misfit, lambda shape: dense_gaussian(shape)), prior=prior)
    one = LMAPS(20, local=LBFGS(30), sigma_max=10.0)
    found = [
        (run(problem, solver, 40).estimates.sum((1, 2, 3)) > 0).double().mean()
        for solver in (one, Population(one, 8, {0.66: 1}))
    ]
    assert found[0] < 0.8  # one run falls into the worse mode now and then
    assert found[1] > 0.95


def test_thinning_at_two_noise_levels_of_one_step_takes_the_lower():
    keep = {0.28: 3, 0.2: 1}  # the levels are 0.299 and 0.177
    states = {}
    run(linear_problem(), Population(ONE, 4, keep), 1, callback=lambda i, s: states.update({i: s}))
    sizes = [len(states[i].x) for i in range(12)]
    assert set(sizes) == {4, 1}


# ---------------------------------------------------------------- refusals and cards


@dataclass(frozen=True)
class Other(LMAPS):
    """A method that does something else than LMAPS, of which the objective knows nothing."""

    def step(self, i, state, problem, noise):
        return state


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"solver": DPS(10)}, "needs a solver whose steps have a local objective.*got DPS"),
        ({"solver": Other()}, "needs a solver whose steps have a local objective"),
        ({"solver": Population(ONE, 2, {0.5: 1})}, "needs a solver whose steps have a local"),
        ({"particles": 0}, "fewer particles at every lower noise level, from particles=0"),
        ({"keep": {0.66: 0}}, "fewer particles"),
        ({"keep": {2: 4, 0.66: 4, 0.5: 1}}, "fewer particles"),
        ({"keep": {2: 1, 0.66: 4}}, "fewer particles"),
        ({"keep": {0.66: 9}}, "fewer particles"),
        ({"keep": {0.66: 8, 0.5: 1}}, "fewer particles"),
        ({"keep": {}}, "a sample is one image, but 8 particles are left"),
        ({"keep": {2: 2}}, "a sample is one image, but 2 particles are left"),
        ({"keep": {0.05: 1}}, "noise level 0.05, and the solver's run from below 10 to 0.1"),
        ({"keep": {10.0: 4, 0.66: 1}}, "noise level 10, and"),
        ({"keep": {float("nan"): 1}}, "noise level nan"),
    ],
    ids=str,
)
def test_what_makes_no_population_is_refused(options, why):
    with pytest.raises(ValueError, match=why):
        Population(**{"solver": ONE, "particles": 8, "keep": {0.66: 1}, **options})


SPEC = {
    "method": "population",
    "solver": {"method": "lmaps", "levels": 12, "sigma_max": 10.0, "local": "conjugate_gradient"},
    "particles": 6,
    "keep": {2: 4, 0.66: 1},
}


def test_cards_reach_it():
    expected = Population(ONE, 6, {2: 4, 0.66: 1})
    assert build_solver(SPEC) == expected
    as_json = {**SPEC, "keep": {"2": 4, "0.66": 1}}  # JSON has no numbers for keys
    assert build_solver(as_json) == expected
    hopping = build_solver({**SPEC, "solver": {"method": "frequency_hopping"}})
    assert isinstance(hopping.solver, FrequencyHopping)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"solver": {"method": "dps"}}, r"presets.p.solver.method: there is no 'dps'.*LMAPS"),
        ({"solver": {"method": "lmaps", "level": 3}}, r"no option 'level'.*levels"),
        ({"keep": {0.66: 7}}, "fewer particles"),
        ({"keep": {0.66: "few"}}, r"presets.p.keep: .*integer"),
        ({"keep": [0.66]}, r"presets.p.keep: .*"),
        ({"particle": 3}, "no option 'particle'.*particles"),
    ],
    ids=str,
)
def test_wrong_cards_are_refused_with_the_place(wrong, why):
    with pytest.raises(DataError, match=why):
        load_card("scattering/linear_60", {"presets.p": {**SPEC, **wrong}})


def test_results_say_what_their_spread_is_not(tmp_path):
    small = {
        "image.npix": 16,
        "presets.p": {**SPEC, "solver": {"method": "lmaps", "levels": 4}},
        "preset": "p",
    }
    problem = load_problem("black_hole/simulated", "phantom:0", "gaussian", small)
    card = type(problem.card).model_validate_json(problem.card.model_dump_json())
    assert card.solver() == problem.solver
    data = problem.analyse(run(problem, problem.solver, 2))
    assert sum("no error bar" in note for note in data.attrs["notes"]) == 1
    plain = problem.analyse(run(problem, problem.solver.solver, 2))
    assert not any("no error bar" in note for note in plain.attrs["notes"])

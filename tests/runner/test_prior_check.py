"""A second prior on the same data: what is kept, what is said, what is refused."""

import numpy as np
import pytest

from lmaps_science import load_problem, sample
from lmaps_science.cards.load import load_second
from lmaps_science.io import DataError, read_netcdf
from lmaps_science.plots import plot_prior_check
from lmaps_science.runner import describe, reconstruct

LINEAR, SIMULATED = "scattering/linear_360", "black_hole/simulated"
SMALL = {
    LINEAR: {
        "image.npix": 20,
        "observation.receivers": 40,
        "observation.transmitters": 12,
        "solver.levels": 4,
    },
    SIMULATED: {
        "image.npix": 16,
        "preset": "single",
        "solver.levels": 4,
        "solver.local.iterations": 5,
    },
}


def load(card, **prior):
    overrides = {**SMALL[card], **{f"prior.{key}": value for key, value in prior.items()}}
    return load_problem(card, prior="gaussian", overrides=overrides)


@pytest.mark.parametrize("card", [LINEAR, SIMULATED])
def test_the_result_of_a_second_prior_is_kept_beside_the_first(card, tmp_path):
    first, second = load(card), load(card, std=0.05)
    reconstruct(first, tmp_path, 2, 1, progress=False, second=second)
    data = read_netcdf(tmp_path / "result.nc")
    name = str(first.image.name)
    alone = [
        problem.analyse(sample(problem, first.solver, 2, 1, progress=False))
        for problem in (first, second)
    ]
    np.testing.assert_allclose(data[f"{name}_mean"], alone[0][f"{name}_mean"], rtol=1e-4)
    np.testing.assert_allclose(data[f"{name}_mean_second"], alone[1][f"{name}_mean"], rtol=1e-4)
    assert data[f"{name}_second"].sizes["second_sample"] == 2
    check = data.attrs["prior_check"]
    means = [data[f"{name}_mean{end}"].values for end in ("", "_second")]
    assert check["agreement"] == pytest.approx(first.agreement(*means))
    assert check["samples"] == 2
    metrics = second.evaluate(means[1][None])
    for key, value in check["metrics"]["second"].items():
        assert value == pytest.approx(float(metrics[key][0]), rel=1e-3)
    assert check["text"][0].startswith(f"{check['name']}, 2 samples: ")
    assert check["text"][0] in describe(data)
    assert (tmp_path / "prior_check.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(tmp_path.glob("checkpoint-*"))


def test_equal_images_agree_and_others_do_not():
    problem = load(LINEAR)
    a, b = np.random.default_rng(0).standard_normal((2, 20, 20))
    assert problem.agreement(a, a) == {"difference": 0}
    assert problem.agreement(a, b)["difference"] == pytest.approx(
        np.linalg.norm(a - b) / np.sqrt(np.linalg.norm(a) * np.linalg.norm(b))
    )


def test_black_holes_agree_wherever_they_are_and_however_bright_and_sharp():
    problem = load(SIMULATED)
    axis = (7.5 - np.arange(16)) * 10
    disc = (np.hypot(axis[:, None], axis) < 25).astype(float)
    same = problem.agreement(disc, 3 * np.roll(disc, (2, -1), (0, 1)))
    assert same["correlation_at_beam"] == pytest.approx(1, abs=1e-3)
    assert same["difference_at_beam"] == pytest.approx(0, abs=0.02)
    bar = np.zeros((16, 16))
    bar[8, 2:14] = 1.0
    other = problem.agreement(disc, bar)
    assert other["correlation_at_beam"] < 0.8
    assert other["difference_at_beam"] > 0.4


def test_a_classical_method_is_a_second_prior_too(tmp_path):
    problem = load(SIMULATED)
    assert load_second(problem, "rml") == "rml"
    reconstruct(problem, tmp_path, 1, progress=False, second="rml")
    data = read_netcdf(tmp_path / "result.nc")
    np.testing.assert_allclose(data["image_mean_second"], problem.baseline(), rtol=1e-5)
    check = data.attrs["prior_check"]
    assert (check["name"], check["samples"]) == ("rml", 1)
    said = "\n".join(check["text"])
    assert "correlation at beam" in said
    assert "rings of the two means" in said
    assert "second prior's sample" in data.attrs["ring_test"]["text"][0]


def test_unknown_second_priors_are_refused_before_the_run(tmp_path):
    problem = load(SIMULATED)
    with pytest.raises(DataError, match=r"--prior-check none: .*no such prior.*gaussian, rml"):
        load_second(problem, "none", overrides=SMALL[SIMULATED])
    with pytest.raises(DataError, match="no such classical method here; known: none"):
        reconstruct(load(LINEAR), tmp_path / "out", 1, progress=False, second="rml")
    assert not (tmp_path / "out").exists()


def test_the_second_prior_takes_no_settings_of_the_first():
    problem = load(SIMULATED, std=0.05)
    overrides = {**SMALL[SIMULATED], "prior.std": 0.05}
    second = load_second(problem, "gaussian", overrides=overrides)
    assert second.card.prior.std == 0.15
    assert second.card.presets == problem.card.presets


def test_results_of_one_prior_have_no_such_figure():
    problem = load(SIMULATED)
    data = problem.analyse(sample(problem, problem.solver, 1, progress=False))
    with pytest.raises(DataError, match="--prior-check gaussian"):
        plot_prior_check(data)

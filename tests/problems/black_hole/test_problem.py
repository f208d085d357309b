"""Problem cards: what is refused and how, and what a loaded problem holds."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lmaps_science import load_problem, sample
from lmaps_science.cards.files import list_problems, override, read_card
from lmaps_science.cards.load import load_card
from lmaps_science.cards.methods import build_solver
from lmaps_science.io import DataError, read_netcdf, write_fits, write_netcdf
from lmaps_science.local_map import BarzilaiBorwein, GradientSteps
from lmaps_science.priors import DiagonalCovariance, GaussianPrior
from lmaps_science.problems.black_hole.card import GaussianSection, ImageSection, gaussian_prior
from lmaps_science.problems.black_hole.checks import Amplitudes, drift, flux_checks
from lmaps_science.problems.black_hole.compact_sources import CompactSources
from lmaps_science.runner import metrics_table
from lmaps_science.solvers import DPS, LMAPS

UVFITS = Path(__file__).parents[2] / "golden" / "black_hole_obs.uvfits"
SMALL = {
    "image.npix": 16,
    "preset": "single",
    "solver.levels": 4,
    "solver.local.iterations": 5,
}
M87, SIMULATED = "black_hole/m87_2017", "black_hole/simulated"


@pytest.fixture(scope="module")
def measured():
    return load_problem(M87, data=UVFITS, prior="gaussian", overrides=SMALL)


@pytest.fixture(scope="module")
def simulated():
    return load_problem(SIMULATED, prior="gaussian", overrides=SMALL)


@pytest.fixture(scope="module")
def result(simulated):
    return sample(simulated, simulated.solver, 3, progress=False)


def write_card(folder: Path, **content) -> str:
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


# ---------------------------------------------------------------- cards


@pytest.mark.parametrize("name", list_problems())
def test_shipped_cards_are_valid(name):
    card = load_card(name)
    assert card.title
    published = set() if card.prior.kind == "latent" else {"paper"}  # Table 4 is of pixels
    assert {"default", "quick"} | published <= set(card.presets)
    assert json.dumps(card.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("ratio", "rate", "kappa1", "kappa2"),
    [(3, 0.01, 0.1, 0.01), (10, 0.005, 0.1, 0.03), (100, 0.01, 0.05, 0.05)],
)
def test_paper_presets_are_those_of_table_4(ratio, rate, kappa1, kappa2):
    card = load_card(f"black_hole/inversebench_{ratio}")
    assert card.solver("paper") == LMAPS(100, kappa1, kappa2, local=GradientSteps(200, rate))
    assert card.observation.coverage.fraction == pytest.approx(ratio / 100)


def test_cards_extend_others(tmp_path):
    name = write_card(tmp_path, extends=M87, title="mine", observation={"fraction": 0.5})
    card = load_card(name)
    assert (card.title, card.observation.fraction, card.observation.flux) == ("mine", 0.5, 0.6)


def test_another_kind_of_section_starts_afresh(tmp_path):
    name = write_card(tmp_path, extends=M87, prior={"kind": "gaussian", "std": 0.2})
    assert load_card(name).prior == GaussianSection(kind="gaussian", std=0.2)


def test_cards_may_not_extend_themselves(tmp_path):
    with pytest.raises(DataError, match="extends itself"):
        load_card(write_card(tmp_path, extends="card.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "is not a card"),
        ("- a", "key: value"),
        ("kind: blackhole", "Did you mean 'black_hole'"),
    ],
)
def test_files_that_are_no_cards(tmp_path, content, message):
    path = tmp_path / "card.yaml"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load_card(str(path))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"observation.systematc": 0.1}, "observation: unknown key 'systematc'.*'systematic'"),
        ({"obsevation.fraction": 0.1}, "unknown key 'obsevation'.*'observation'"),
        ({"observation.flux": -1}, "observation.flux: .*greater than 0, got -1"),
        ({"observation.average_seconds": "scans"}, "observation.average_seconds"),
        ({"observation.kind": "simulatoin"}, "observation.kind: there is no.*'simulation'"),
        ({"image.npix": 2.5}, "image.npix: .*got 2.5"),
        ({"preset": "fast"}, "there is no 'fast'.*default, single, uncertainty, dps, quick"),
        ({"solver.method": "lmap"}, "there is no 'lmap'.*'lmaps'"),
        ({"preset": "single", "solver.levls": 3}, "LMAPS has no option 'levls'.*'levels'"),
        ({"preset": "single", "solver.levels": "many"}, "levels.*valid integer.*got 'many'"),
        ({"solver.levels": 9}, r"Population has no .*'levels'.* --set solver\.solver\.levels="),
        ({"solver.solver": None}, "expected `method`"),
        ({"preset": "single", "solver.method": "population"}, "Population needs solver"),
        ({"preset": "single", "solver.rho": 2}, "0 <= rho <= 1"),
        (
            {"preset": "single", "solver.local.method": "newton"},
            "local.method: there is no 'newton'.*LBFGS",
        ),
        ({"preset": "single", "solver.local": 3}, "expected `method`"),
        ({"title.x": 3}, "not a section"),
        ({"observation": {"kind": "uvfits", "file": 3}}, "observation.file: .*string, got 3"),
        ({"misfit.weights": [1, 2]}, "misfit.weights"),
        ({"misfit.weights": [0, 0, 0]}, "misfit.weights: .*not both of the first two 0"),
        ({"misfit.weights": [0, 0, 1]}, "misfit.weights: .*no data would be fitted"),
        ({"misfit.weights": [1, -1, 0]}, "misfit.weights: .*none may be negative"),
        ({"misfit.weights": [1, float("nan"), 0]}, "misfit.weights: .*finite"),
        ({"image.fov_uas": 1e-9}, "image.fov_uas: .*greater than or equal to 1, got 1e-09"),
        ({"image.fov_uas": float("inf")}, "image.fov_uas: .*less than or equal to 1000000"),
        ({"image.npix": 100000}, "image.npix: .*less than or equal to 1024"),
        ({"image.npix": 1}, "image.npix: .*greater than or equal to 8"),
        ({"presets": {}}, "there is no 'default'"),
    ],
)
def test_overrides_are_checked_against_the_schema(overrides, message):
    with pytest.raises(DataError, match=message):
        load_card(M87, overrides)


def test_unknown_cards_are_suggested():
    with pytest.raises(DataError, match="Did you mean 'black_hole/m87_2017'"):
        load_card("black_hole/m87")


def test_overrides_reach_the_preset_in_use():
    card = load_card(M87, {"preset": "paper", "solver.levels": "7", "solver.kappa1": "1e-2"})
    assert card.solver() == LMAPS(7, 0.01, 0.05, local=GradientSteps(200, 0.01))
    assert card.solver("single").levels == 40


def test_another_method_starts_with_its_own_defaults():
    assert load_card(M87, {"solver.method": "dps", "solver.levels": 9}).solver() == DPS(9)
    local = {"preset": "single", "solver.local.method": "barzilai_borwein", "solver.local.steps": 3}
    assert load_card(M87, local).solver().local == BarzilaiBorwein(3)
    assert load_card(M87, {"preset": "single", "solver.method": "lmaps"}).solver().levels == 40


def test_overrides_leave_the_content_alone():
    content = read_card(M87)
    override(content, {"solver.local.iterations": 1})
    assert content == read_card(M87)


def test_methods_by_any_spelling():
    spec = {"method": "L-MAPS", "levels": 3, "local": "gradient_steps"}
    assert build_solver(spec) == LMAPS(3, local=GradientSteps())


# ---------------------------------------------------------------- problems


def test_a_measured_problem(measured):
    assert measured.image_shape == (1, 16, 16)
    assert measured.truth is None
    assert measured.flux == 0.6
    assert "differentiable" in measured.provides
    assert "linear" not in measured.provides
    assert measured.facts["observation"]["file"] == UVFITS.name
    assert len(measured.facts["observation"]["sha256"]) == 64
    assert 24 < measured.resolution_uas < 26
    expected = ["default", "single", "uncertainty", "dps", "quick", "isotropic", "paper"]
    assert list(measured.solvers) == expected


def test_measured_results_have_rings_and_provenance(measured, tmp_path):
    data = measured.analyse(sample(measured, measured.solver, 2, progress=False))
    assert data["image"].dims == ("sample", "y", "x")
    assert data["image"].attrs["units"] == "Jy/pixel"
    np.testing.assert_allclose(data["image"].sum(("y", "x")), 0.6, rtol=1e-5)
    assert {"ring_diameter", "ring_orientation", "chi2_cphase", "chi2_logcamp"} <= set(data)
    assert "psnr" not in data
    write_netcdf(tmp_path / "result.nc", data)
    back = read_netcdf(tmp_path / "result.nc")
    assert back.attrs["card"] == measured.card.model_dump(mode="json")
    np.testing.assert_array_equal(back["image"], data["image"])


def test_chi2_is_the_mean_square_of_the_residuals(simulated, result):
    data = simulated.analyse(result)
    for name in ("cphase", "logcamp"):
        mean_square = (data[f"{name}_residual"] ** 2).mean(name)
        np.testing.assert_allclose(mean_square, data[f"chi2_{name}"], rtol=1e-4)
        assert data.sizes[name] == simulated.observation.sizes[name]


def test_metrics_do_not_depend_on_the_unit_nor_chi2_on_the_position(simulated):
    image = np.zeros((1, 16, 16))
    image[0, 3:-3, 3:-3] = simulated.truth.values[3:-3, 3:-3]
    moved = np.roll(image, (1, -2), axis=(1, 2))
    plain, doubled, elsewhere = (simulated.evaluate(x) for x in (image, 2 * image, moved))
    for name, value in plain.items():
        np.testing.assert_allclose(doubled[name], value, rtol=1e-4, err_msg=name)
    for name in ("chi2_cphase", "chi2_logcamp", "nxcorr"):
        np.testing.assert_allclose(elsewhere[name], plain[name], rtol=1e-3, err_msg=name)


def test_the_truth_explains_its_simulation():
    """chi2 of the truth is 1 within its scatter, though gains and phases were spoilt."""
    problem = load_problem(
        SIMULATED,
        prior="gaussian",
        overrides={"image.npix": 32, "observation.systematic": 0, "observation.gain_std": 0.3},
    )
    values = problem.evaluate(problem.truth.values[None])
    n = problem.observation.sizes
    assert abs(values["chi2_cphase"][0] - 1) < 5 * (2 / n["cphase"]) ** 0.5
    assert abs(values["chi2_logcamp"][0] - 1) < 5 * (2 / n["logcamp"]) ** 0.5
    assert values["psnr"][0] > 60
    assert values["nxcorr"][0] == pytest.approx(1, abs=1e-5)


def test_mean_and_deviation_are_of_aligned_samples(simulated, result):
    moved = dataclasses.replace(
        result,
        samples=np.stack([np.roll(result.samples[0], k, axis=-1) for k in (0, 1, 2)]),
        misfit=np.broadcast_to([0.0, 1.0, 2.0], result.misfit.shape),
    )
    data = simulated.analyse(moved)
    inside = data["image"].values[0, 2:-2, 4:-4]
    np.testing.assert_allclose(
        data["image_mean"].values[2:-2, 4:-4], inside, atol=0.02 * inside.max()
    )


def test_one_sample_has_no_deviation(simulated):
    data = simulated.analyse(sample(simulated, simulated.solver, 1, progress=False))
    assert np.isnan(data["image_std"].values).all()
    np.testing.assert_array_equal(data["image_mean"], data["image"][0])


def test_the_benchmark_s_metrics(result):
    overrides = {**SMALL, "misfit.fit_flux": True, "metrics": "inversebench"}
    problem = load_problem(SIMULATED, prior="gaussian", overrides=overrides)
    truth = problem.truth.values[None] / float(problem.truth.max())
    # Its grid of shifts has no zero, so not even the truth is perfect.
    assert problem.evaluate(truth)["psnr"][0] < 40
    assert problem.evaluate(0.5 * truth)["psnr"][0] < problem.evaluate(truth)["psnr"][0]
    assert problem.closures.chi2(torch.as_tensor(truth, dtype=torch.float32)[None])["flux"] < 1e-6


def test_the_flux_of_measured_data_cannot_be_fitted():
    overrides = {**SMALL, "misfit.fit_flux": True}
    with pytest.raises(DataError, match="fit_flux needs a simulation"):
        load_problem(M87, data=UVFITS, prior="gaussian", overrides=overrides)


def test_coverage_from_measured_data():
    overrides = {
        **SMALL,
        "observation.coverage.manifest": None,
        "observation.coverage.file": str(UVFITS),
        "observation.coverage.average_seconds": None,
    }
    problem = load_problem("black_hole/inversebench_10", prior="gaussian", overrides=overrides)
    full = load_problem("black_hole/inversebench_100", prior="gaussian", overrides=overrides)
    assert full.observation.sizes["vis"] == 271
    assert 3 <= problem.observation.sizes["vis"] < 60


def test_images_as_data(tmp_path, simulated):
    write_fits(tmp_path / "image.fits", simulated.truth)
    overrides = {**SMALL, "observation.flux": None}
    problem = load_problem(SIMULATED, tmp_path / "image.fits", "gaussian", overrides)
    np.testing.assert_allclose(problem.truth, simulated.truth, atol=1e-9)
    assert problem.flux == pytest.approx(0.6)


@pytest.mark.parametrize("name", ["phantom:x", "phantom:-1", "compact:x", "compact:-1"])
def test_wrong_phantoms(name):
    with pytest.raises(DataError, match=f"{name.partition(':')[0]}:K"):
        load_problem(SIMULATED, name, "gaussian", SMALL)


def test_sources_of_wider_kinds_can_be_observed():
    problem = load_problem(SIMULATED, "compact:3", "gaussian", SMALL)
    expected = CompactSources(npix=16, fov_uas=160.0, seed=1)[3][0]
    truth = problem.truth.values / problem.truth.values.max()
    np.testing.assert_allclose(truth, expected, atol=1e-6)


def test_problems_without_data_say_so():
    with pytest.raises(DataError, match="give a uvfits file"):
        load_problem("black_hole/uvfits", prior="gaussian")


def test_any_denoiser_is_a_prior():
    prior = GaussianPrior(torch.zeros(1, 16, 16), DiagonalCovariance(torch.ones(1, 16, 16)))
    problem = load_problem(M87, UVFITS, prior, SMALL, dtype=torch.float64)
    assert problem.prior.mean.dtype == torch.float64
    result = sample(problem, problem.solver, 1, progress=False)
    assert result.estimates.dtype == torch.float64
    with pytest.raises(DataError, match=r"set image\.npix=16"):
        load_problem(M87, UVFITS, prior)


def test_missing_priors(tmp_path):
    with pytest.raises(DataError, match="no such prior"):
        load_problem(M87, UVFITS, tmp_path / "none.safetensors")


def test_the_gaussian_prior_has_the_stated_mean_and_deviation():
    section = GaussianSection(kind="gaussian", peak=0.5, std=0.1, width_uas=40)
    prior = gaussian_prior(section, ImageSection(npix=33))
    images = 0.5 * (prior.sample(400, torch.Generator().manual_seed(0)) + 1)
    assert float(images.std(0).mean()) == pytest.approx(0.1, rel=0.05)
    assert float(images.mean(0)[0, 16, 16]) == pytest.approx(0.5, abs=0.02)
    assert float(prior.mean[0, 16, 16] + 1) / 2 == pytest.approx(0.5)


def test_problems_move(measured):
    moved = measured.to(dtype=torch.float64)
    assert type(moved) is type(measured)
    assert moved.like(1).dtype == torch.float64
    assert measured.like(1).dtype == torch.float32


def test_problems_show_themselves(measured):
    text, page = repr(measured), measured._repr_html_()
    for part in (M87, "M87, 5 April 2017 (MJD 57848)", "closure phases", "16 x 16"):
        assert part in text
        assert part in page
    assert page.count("<circle") == 1 + 2 * measured.observation.sizes["vis"]


@pytest.mark.parametrize(("fov_uas", "pixel"), [(2, "0.125"), (2000, "125")])
def test_grids_that_cannot_show_the_source(fov_uas, pixel):
    overrides = {**SMALL, "image.fov_uas": fov_uas}
    with pytest.raises(DataError, match=f"image.npix=16 has pixels of {pixel} uas"):
        load_problem(M87, UVFITS, "gaussian", overrides)


def test_weights_for_data_that_are_not_there(simulated):
    card = load_card(SIMULATED, {**SMALL, "misfit.weights": [0, 1, 0.5]})
    none = simulated.observation.isel(logcamp=slice(0))
    with pytest.raises(DataError, match="0 log closure amplitudes: nothing would be fitted"):
        card._misfit(simulated.closures.operator, none, None)


# ---------------------------------------------------------------- the verdict


def explained(problem, *images, misfit=None):
    """The analysis of these images (16, 16), with a misfit each, as if they had been sampled."""
    result = sample(problem, LMAPS(2), len(images), progress=False)
    misfit = np.zeros(len(images)) if misfit is None else np.asarray(misfit)
    samples = np.stack(images)[:, None].astype(np.float32)
    return problem.analyse(
        dataclasses.replace(
            result, samples=samples, misfit=np.broadcast_to(misfit, result.misfit.shape)
        )
    )


@pytest.fixture(scope="module")
def truth(simulated):
    return simulated.truth.values / float(simulated.truth.max())


def test_the_truth_is_a_good_explanation(simulated, truth):
    data = explained(simulated, truth, truth)
    assert data.attrs["verdict"] == "good"
    said = "\n".join(data.attrs["verdict_reasons"])
    for what in (
        "chi2 of closure phases, sample 0",
        "chi2 of log closure amplitudes, mean image",
        "drift of the residuals of closure phases",
        "negative flux 0 ",
        "at the edge",
    ):
        assert what in said


def test_what_is_wrong_is_said(simulated, truth):
    def reasons(*images, **options):
        data = explained(simulated, *images, **options)
        return data.attrs["verdict"], "\n".join(data.attrs["verdict_reasons"])

    verdict, said = reasons(truth.T)
    assert verdict == "does not fit"
    assert "chi2 of closure phases, sample 0" in said
    # 80 % of the light is as much again, and negative: fluxes that cancel
    sign = np.where(np.indices(truth.shape).sum(0) % 2, 1, -1)
    verdict, said = reasons(truth + 3 * truth.sum() / truth.size * sign)
    assert verdict == "does not fit"
    assert "share of negative flux" in said
    edge = truth.copy()
    edge[0] = edge[-1] = 0.1 * truth.sum() / len(truth)
    assert "image.fov_uas" in "\n".join(
        str(c) for c in simulated.checks(explained(simulated, edge))
    )


def test_modes_that_samples_cannot_tell_apart_are_doubtful(simulated, truth):
    data = explained(simulated, truth, truth, truth.T, misfit=[100, 101, 75])
    assert data.attrs["verdict"] == "doubtful"
    modes, misfit = data.attrs["verdict_reasons"]
    # Beta(3, 2) below 1/2
    assert "2 of 3 samples, mode 1 1" in modes
    assert "0.312 (above 0.05)" in modes
    assert "of sample 0, the best of mode 0, above that of sample 2, mode 1, 25" in misfit
    few, other, *_ = data.attrs["notes"]
    assert "3 samples cannot settle the modes: one of up to 63 %" in few  # 0.63 ** 3 == 1 - 0.95
    assert "the best of all is sample 2, mode 1 (75)" in other
    table = metrics_table(data).splitlines()[0]
    assert "best of mode 0 (sample 0)  best of all (sample 2)" in table


def test_enough_samples_of_one_mode_need_no_remark(simulated, truth):
    data = explained(simulated, *[truth] * 8)
    others = [note for note in data.attrs["notes"] if not note.startswith("ring test: ")]
    assert not any("samples" in note for note in others)


def test_the_sharpness_of_a_ring_is_the_prior_s(measured):
    """One 8 uas wide, and a bar, seen with a beam of 25."""
    axis = (7.5 - np.arange(16)) * 10
    radius = np.hypot(axis[:, None], axis)
    ring = np.exp(-4 * np.log(2) * ((radius - 35) / 20) ** 2)
    bar = np.exp(-4 * np.log(2) * ((axis[:, None] / 20) ** 2 + (axis / 80) ** 2))
    data = explained(measured, ring, bar, misfit=[1, 2])
    assert np.isfinite(data["ring_diameter"].values).tolist() == [True, False]
    assert any(
        "uas wide, the beam 25 uas: its sharpness is the prior's" in note
        for note in data.attrs["notes"]
    )
    assert any(note.startswith("no ring in sample 1: it is not") for note in data.attrs["notes"])


def test_drift():
    rng = np.random.default_rng(0)
    noise, along = rng.standard_normal(100), rng.uniform(size=100)
    assert drift(noise, along) < 3.5
    assert drift(7 * noise, along) == pytest.approx(drift(noise, along))
    assert drift(noise + 2 * (along < 0.2), along) > 5
    assert drift(np.zeros(50), along[:50]) == 0


@pytest.mark.parametrize("flux", [0.05, 6.0])
def test_a_flux_that_the_amplitudes_exclude_is_refused(flux):
    overrides = {**SMALL, "observation.flux": flux}
    with pytest.raises(DataError, match=rf"a source of {flux:g} Jy.*observation.flux=1.1"):
        load_problem(M87, UVFITS, "gaussian", overrides)
    problem = load_problem(
        M87, UVFITS, "gaussian", {**overrides, "observation.zero_baselines": "keep"}
    )
    doubtful = [str(check) for check in flux_checks(problem.observation, flux) if check.level]
    assert doubtful  # the scale alone is wrong


def test_the_flux_of_the_compact_source_is_believed(measured):
    assert [check.level for check in flux_checks(measured.observation, 0.6)] == [0, 0, 0]
    total, brightest = Amplitudes.of(measured.observation)
    assert total == pytest.approx(1.13, abs=0.02)  # on ALMA-APEX, before it was rescaled
    assert 0.2 < brightest < 0.3
    # Without short baselines, long ones still tell.
    dropped = load_problem(
        M87, UVFITS, "gaussian", {**SMALL, "observation.zero_baselines": "drop"}
    ).observation
    assert Amplitudes.of(dropped) == (None, pytest.approx(brightest))


def test_the_classical_image_of_a_problem(simulated, result):
    image = simulated.baseline()
    assert image.attrs["units"] == "Jy/pixel"
    assert image.shape == (16, 16)
    assert float(image.sum()) == pytest.approx(0.6, rel=0.1)
    assert "baseline" not in simulated.analyse(result)  # it is not made unasked
    other = simulated.with_data(simulated.misfit.data)  # closures, without visibilities
    assert "rml" not in other.classical
    with pytest.raises(DataError, match="takes visibilities"):
        other.baseline()

"""Factors on the spread: learned, kept in files, applied to their configuration alone."""

import json

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from lmaps_science import cli, load_problem, read_netcdf, sample
from lmaps_science.cards.calibration import (
    SUFFIX,
    SpreadFactor,
    configuration,
    differs,
    put_intervals,
    read_factors,
    simulations,
    write_factors,
)
from lmaps_science.cards.files import list_problems
from lmaps_science.cards.inputs import made_from, settings
from lmaps_science.cards.load import load_card
from lmaps_science.cards.registry import find_kind, kinds
from lmaps_science.io import DataError
from lmaps_science.metrics import calibration, interval_factor, object_pixels
from lmaps_science.plots import plot_calibration
from lmaps_science.problems.black_hole.problem import BlackHoleProblem
from lmaps_science.runner.calibrate import calibrate, learn, read_pairs

CARD = "scattering/linear_180"  # without a factor of its own
TINY = {"image.npix": 20, "solver.levels": 4}
DRAWS = {
    "solver.kappa": 1.0,
    "solver.local": {"method": "perturb_and_map", "local": "conjugate_gradient"},
}
SETS = [f"--set={key}={value}" for key, value in TINY.items()]
OPTIONS = {"prior": "gaussian", "overrides": TINY, "progress": False, "device": "cpu"}


def lmaps(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A file with a factor, and the folder of its runs."""
    folder = tmp_path_factory.mktemp("calibration")
    outcome = lmaps(
        "calibrate", CARD, "--prior", "gaussian", *SETS, "--images", 5, "--samples", 4,
        "--out", folder / "f.json", "--runs", folder / "f-runs", "--device", "cpu", "-q",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    assert "factor" in outcome.stdout
    assert "left out, each observation had" in outcome.stdout
    return folder / "f.json", folder / "f-runs"


def problem(path=None, **changes):
    extra = {} if path is None else {"calibration": str(path)}
    return load_problem(CARD, prior="gaussian", overrides={**TINY, **extra, **changes})


def analysed(made, n=4, seed=0, solver=None):
    return made.analyse(sample(made, solver or made.solver, n, seed, progress=False))


# ---------------------------------------------------------------- learning


def test_the_factor_makes_intervals_hold_on_what_it_was_learned_from(learned):
    path, runs = learned
    (factor,) = read_factors(path)
    assert (factor.images, factor.samples, factor.level) == (5, 4, 0.9)
    assert factor.observations == "phantom:1000-1004"
    shares = []
    for k in range(5):
        data = read_netcdf(runs / f"phantom{1000 + k}" / "result.nc")
        drawn, truth = data["image"].values.astype(float), data["truth"].values
        half = factor.factor * interval_factor(4, 0.9) * drawn.std(0, ddof=1)
        inside = abs(truth - drawn.mean(0)) <= half * (1 + 1e-12)
        shares.append(inside[object_pixels(drawn)].mean())
    assert np.mean(shares) == pytest.approx(0.9, abs=0.01)
    assert factor.uncalibrated != factor.left_out
    assert 0 < factor.left_out_error < 0.2


def test_the_file_goes_out_and_comes_back(learned, tmp_path):
    factors = read_factors(learned[0])
    write_factors(tmp_path / "again.json", factors)
    assert read_factors(tmp_path / "again.json") == factors
    assert json.loads((tmp_path / "again.json").read_text())["format"] == "lmaps calibration 1"


def test_the_same_command_goes_on_and_asks_before_it_replaces(learned, tmp_path):
    path, runs = learned
    copy = tmp_path / "f.json"
    copy.write_bytes(path.read_bytes())
    before = {p: p.stat().st_mtime_ns for p in runs.rglob("result.nc")}
    with pytest.raises(DataError, match=r"holds a factor of this configuration.*--force"):
        calibrate(CARD, copy, 5, 4, runs=runs, **OPTIONS)
    again = calibrate(CARD, copy, 5, 4, runs=runs, force=True, **OPTIONS)
    assert [again] == read_factors(copy) == read_factors(path)
    assert before == {p: p.stat().st_mtime_ns for p in runs.rglob("result.nc")}  # nothing anew
    draws = {**OPTIONS, "overrides": {**TINY, **DRAWS}}
    other = calibrate(CARD, copy, 5, 4, **draws)  # another configuration: both stay
    assert read_factors(copy) == [again, other]
    (made,) = (tmp_path / "f-runs").iterdir()
    calibrate(CARD, copy, 5, 3, force=True, **draws)  # of other samples, so in another folder
    assert len(list((tmp_path / "f-runs").iterdir())) == 2
    assert len(list(made.glob("phantom*/result.nc"))) == 5
    assert other.factor != again.factor


def test_learning_says_how_the_factor_does_on_what_it_has_not_seen():
    """Four narrow observations and a wide one: the latter is not foreseen by the others."""
    rng = np.random.default_rng(0)
    pairs = []
    for k in range(5):
        drawn = 10 + rng.normal(size=(8, 400))
        size = 5.0 if k == 4 else 1.0
        pairs.append((10 + size * rng.normal(size=400), drawn))
    found = learn(pairs, list("abcde"), 0.9)
    truths, samples = map(list, zip(*pairs, strict=True))
    some = calibration(truths, samples, levels=(0.9,), factor=found["factor"])
    assert float(some["coverage"][0]) == pytest.approx(0.9, abs=1e-3)
    assert found["left_out"] < 0.88
    assert found["left_out_error"] > 0.05
    assert found["uncalibrated"] < 0.85


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"images": 4}, "at least 5 images"),
        ({"n_samples": 2}, "3 samples of each"),
        ({"level": 1.0}, "level between 0 and 1"),
    ],
)
def test_too_little_is_refused(arguments, told, tmp_path):
    with pytest.raises(DataError, match=told):
        calibrate(CARD, tmp_path / "f.json", **arguments, **OPTIONS)
    assert not list(tmp_path.iterdir())


def test_measured_data_are_refused():
    for name in ("black_hole/m87_2017", "mri/kspace", "scattering/fresnel"):
        with pytest.raises(DataError, match=r"cannot be calibrated: its data are measured.*sim"):
            simulations(load_card(name))
    assert simulations(load_card(CARD))[0] == "phantom"


SURVIVORS = {
    "solver": {
        "method": "population",
        "particles": 2,
        "keep": {0.66: 1},
        "solver": {"method": "lmaps", "levels": 4, "sigma_max": 5.0, "sigma_min": 0.1},
    }
}


def test_survivors_of_a_population_teach_no_error_bars(tmp_path):
    options = {**OPTIONS, "overrides": {"image.npix": 20, **SURVIVORS}}
    with pytest.raises(
        DataError, match=r"no error bars of this solver: each sample is the survivor"
    ):
        calibrate(CARD, tmp_path / "f.json", **options)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="--preset uncertainty"):
        calibrate("black_hole/simulated", tmp_path / "f.json", prior="gaussian", device="cpu")


def test_samples_that_do_not_belong_together_are_too_few():
    pair = (np.zeros(4), np.ones((5, 4)))
    with pytest.raises(DataError, match=r"4 observations have at least 3 samples that belong"):
        learn([pair] * 4, list("abcd"), 0.9)


def test_a_failed_observation_is_told(tmp_path):
    wrong = {**TINY, "solver.method": "ddrm"}  # it needs singular vectors
    with pytest.raises(DataError, match=r"5 of 5 observations failed, e\.g\. phantom1000: DDRM"):
        calibrate(CARD, tmp_path / "f.json", 5, 4, **{**OPTIONS, "overrides": wrong})
    assert not (tmp_path / "f.json").exists()


# ---------------------------------------------------------------- applying


def test_a_result_of_the_configuration_comes_with_intervals(learned):
    path = learned[0]
    (factor,) = read_factors(path)
    data = analysed(problem(path, **{"observation.image": "phantom:3", "observation.seed": 5}), 6)
    interval = data["interval_90"]
    assert interval.dims == ("bound", "y", "x")
    assert interval["bound"].values.tolist() == ["lower", "upper"]
    drawn = data["image"].values
    half = factor.factor * interval_factor(6, 0.9) * drawn.std(0, ddof=1)
    np.testing.assert_allclose(interval[1], drawn.mean(0) + half, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(interval[0], drawn.mean(0) - half, rtol=1e-5, atol=1e-6)
    assert interval.attrs["factor"] == factor.factor
    assert (interval.attrs["images"], interval.attrs["seed"], interval.attrs["n"]) == (5, 0, 6)
    told = data.attrs["calibration"]
    assert told["applied"]
    assert "phantom:1000-1004" in told["text"][0]
    assert "above 5 % of its peak" in told["text"][1]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"observation.noise": 2e-4}, r"observation\.noise: 0\.0001, now 0\.0002"),
        ({"solver.levels": 5}, r"solver\.levels: 4, now 5"),
        ({"solver.rho": 0.5}, r"solver\.rho: 1\.0, now 0\.5"),
        ({"prior.std": 0.3}, r"prior\.std: 0\.25, now 0\.3"),
        ({"sigma_factor": 2.0, "image.npix": 16}, r"image\.npix: 20, now 16; sigma_factor: 1\.0"),
    ],
)
def test_a_factor_of_another_configuration_is_not_applied(learned, changes, told):
    data = analysed(problem(learned[0], **changes))
    assert "interval_90" not in data
    assert not data.attrs["calibration"]["applied"]
    (text,) = data.attrs["calibration"]["text"]
    assert text.startswith("not calibrated: f.json has no factor of this configuration (")
    assert told.replace("\\", "") in text


def test_without_a_factor_the_result_says_so(learned, tmp_path):
    assert "no factor was learned" in analysed(problem()).attrs["calibration"]["text"][0]
    two = analysed(problem(learned[0]), n=2).attrs["calibration"]["text"][0]
    assert "2 samples, a spread takes 3" in two
    made = problem(learned[0])
    given = load_card(CARD).solver("paper")
    text = analysed(made, solver=type(given)(3)).attrs["calibration"]["text"][0]
    assert "made in Python" in text


def test_survivors_of_a_population_get_no_intervals(learned, tmp_path):
    factor = read_factors(learned[0])[0]
    made = load_problem(CARD, prior="gaussian", overrides={"image.npix": 20, **SURVIVORS})
    own = configuration(made.card, made.facts["inputs"], made.solver)
    write_factors(tmp_path / "f.json", [factor.model_copy(update={"configuration": own})])
    changes = {"image.npix": 20, "calibration": str(tmp_path / "f.json"), **SURVIVORS}
    data = analysed(load_problem(CARD, prior="gaussian", overrides=changes))
    assert "interval_90" not in data
    assert "their spread is no error bar" in data.attrs["calibration"]["text"][0]


def test_an_interval_says_which_samples_it_is_of(learned, monkeypatch):
    factor = read_factors(learned[0])[0]
    monkeypatch.setattr("lmaps_science.cards.calibration._factor", lambda *_: factor)
    made = black_hole()
    result = sample(made, made.solver, 4, progress=False)
    data = made.analyse(result)
    data["image"].values[:3] = data["image"].values[0]
    for labels, told in (
        ([0, 0, 0, 1], "of the 3 of 4 samples that belong together"),
        (4 * [0], ""),
    ):
        data["mode"].values[:] = labels
        put_intervals(data, made, result)
        found = " ".join(data.attrs["calibration"]["text"])
        assert ("belong together" in found) == bool(told)
        assert told in found


def test_summaries_tell_and_files_keep_it(learned, tmp_path):
    run = ["run", CARD, "--prior", "gaussian", *SETS, "--samples", 4, "--device", "cpu", "-q"]
    outcome = lmaps(*run, "--set", f"calibration={learned[0]}", "--out", tmp_path / "with")
    assert outcome.exit_code == 0, outcome.output
    assert "spread    interval_90: mean ±" in (tmp_path / "with" / "summary.txt").read_text("utf-8")
    data = read_netcdf(tmp_path / "with" / "result.nc")
    assert data["interval_90"].attrs["level"] == 0.9
    assert data.attrs["calibration"]["applied"]
    assert "calibration" in data.attrs["inputs"]["files"]  # a file like others, by its checksum
    outcome = lmaps(*run, "--out", tmp_path / "without")
    assert "spread    not calibrated: no factor" in outcome.stdout
    assert lmaps("rerun", tmp_path / "with" / "result.nc", "-q").exit_code == 0


def test_a_factor_beside_a_card_is_found(learned, tmp_path):
    card = tmp_path / "mine.yaml"
    card.write_text(f"extends: {CARD}\nimage: {{npix: 20}}\nprior: {{kind: gaussian}}\n", "utf-8")
    (tmp_path / f"mine{SUFFIX}").write_bytes(learned[0].read_bytes())
    made = load_problem(str(card), overrides={"solver.levels": 4})
    assert analysed(made).attrs["calibration"]["applied"]


def test_which_image_is_no_part_of_a_configuration_and_all_else_is():
    card = load_card(CARD)
    inputs = made_from(card, CARD, None)
    base = configuration(card, inputs, card.solver())
    for changes in ({"observation.image": "phantom:7"}, {"observation.phantom_seed": 9}):
        other = load_card(CARD, changes)
        assert not differs(base, other, made_from(other, CARD, None), other.solver())
    other = load_card(CARD, {"observation.aperture": 180.0})
    found = differs(base, other, made_from(other, CARD, None), other.solver())
    assert found == ["observation.aperture: 360.0, now 180.0"]


def test_new_keys_count_where_they_were_set():
    """A factor learned before a key existed: its default changes nothing, another value does."""
    card = load_card(CARD)
    base = configuration(card, made_from(card, CARD, None), card.solver())
    del base["observation"]["aperture"], base["sigma_factor"]
    assert not differs(base, card, made_from(card, CARD, None), card.solver())
    other = load_card(CARD, {"sigma_factor": 2.0})
    found = differs(base, other, made_from(other, CARD, None), other.solver())
    assert found == ["sigma_factor: None, now 2.0"]


def test_the_key_changes_no_settings_where_it_is_not_used():
    card = load_card(CARD)
    assert "calibration" not in settings(card, made_from(card, CARD, None), card.solver(), 2, 0)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 1}', '{"format": "lmaps calibration 1", "factors": [{}]}',
     '{"format": "lmaps calibration 1", "factors": 3}'],
)  # fmt: skip
def test_files_that_are_none_are_refused(text, tmp_path):
    path = tmp_path / "f.json"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError, match=r"f\.json"):
        read_factors(path)
    with pytest.raises(DataError, match="no such file"):
        analysed(problem(tmp_path / "none.json"))


@pytest.mark.parametrize("change", [{"factor": -1.0}, {"factor": float("inf")}, {"level": 2.0}])
def test_factors_out_of_range_are_refused(learned, change):
    content = read_factors(learned[0])[0].model_dump()
    with pytest.raises(ValueError, match=next(iter(change))):
        SpreadFactor.model_validate({**content, **change})


def test_shipped_factors_fit_their_cards():
    """Whoever changes a card or its preset learns the factor again."""
    shipped = [p for kind in kinds().values() for p in kind.cards.glob(f"*{SUFFIX}")]
    for path in shipped:
        name = f"{path.parent.name}/{path.name.removesuffix(SUFFIX)}"
        assert name in list_problems()
        card = load_card(name)
        inputs = made_from(card, name, None)
        for factor in read_factors(path):
            assert any(
                not differs(factor.configuration, card, inputs, card.solver(preset))
                for preset in card.presets
            ), f"{path.name}: {differs(factor.configuration, card, inputs, card.solver())}"


# ---------------------------------------------------------------- what fields compare


def black_hole():
    overrides = {"image.npix": 32, "preset": "single", "solver.levels": 3}
    return load_problem("black_hole/simulated", prior="gaussian", overrides=overrides)


def test_black_holes_compare_mode_0_where_it_lies():
    made = black_hole()
    result = sample(made, made.solver, 4, progress=False)
    data = made.analyse(result)
    # Copies of the truth, moved by whole pixels and of another flux, and one that is no mode of it
    truth = np.pad(made.truth.values, 0)
    moved = [np.roll(truth, shift, (0, 1)) for shift in ((0, 0), (2, -1), (-1, 3))]
    data["image"].values = np.stack([*moved, moved[0][::-1]]) * 3.0
    data["mode"].values[:] = [0, 0, 0, 1]
    data.attrs["best"] = 1
    samples, known = find_kind("black_hole", "test").comparable(data)
    assert samples.sizes["sample"] == 3
    inside = (slice(4, -4), slice(4, -4))
    peak = float(samples.max())
    for image in samples.values:
        np.testing.assert_allclose(image[inside], known.values[inside], atol=0.03 * peak)
    assert float(known.sum()) == pytest.approx(float(samples.mean("sample").sum()), rel=0.05)
    assert isinstance(made, BlackHoleProblem)


def test_mri_compares_magnitudes():
    part = {"part": ["real", "imaginary"]}
    image = xr.DataArray([[[[3.0]], [[-4.0]]]], dims=("sample", "part", "y", "x"), coords=part)
    data = xr.Dataset({"image": image, "truth": image[0] * 2})
    samples, truth = find_kind("mri", "test").comparable(data)
    assert samples.values.tolist() == [[[5.0]]]
    assert truth.values.tolist() == [[10.0]]
    assert samples.dims == ("sample", "y", "x")


def test_results_without_truth_teach_nothing(learned, tmp_path):
    from lmaps_science import write_netcdf

    data = read_netcdf(learned[1] / "phantom1000" / "result.nc").drop_vars("truth")
    (tmp_path / "a").mkdir()
    write_netcdf(tmp_path / "a" / "result.nc", data)
    with pytest.raises(DataError, match="the truth is not known"):
        read_pairs([tmp_path / "a"])


# ---------------------------------------------------------------- the figure


def test_the_figure_shows_coverage_ranks_and_spread(tmp_path):
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(3, 6, 200))
    found = calibration(drawn[:, 0], drawn[:, 1:])
    figure = plot_calibration(found, tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 10_000
    left, middle, right = figure.axes
    np.testing.assert_allclose(left.lines[1].get_ydata(), found["coverage"])
    np.testing.assert_allclose([bar.get_height() for bar in middle.patches], found["rank_density"])
    np.testing.assert_allclose(right.lines[1].get_xdata(), found["spread"])
    plot_calibration(calibration(drawn[:1, 0], drawn[:1, 1:]))  # no standard errors
    plot_calibration(calibration(np.zeros((1, 9)), np.zeros((1, 4, 9))))  # nothing to divide by
    with pytest.raises(DataError, match="it lacks coverage"):
        plot_calibration(xr.Dataset())


SHIPPED = [path for kind in kinds().values() for path in kind.cards.glob("*.calibration.json")]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_factors_that_come_with_the_package_are_of_its_cards_as_they_are(path):
    if path.parent.name == "black_hole":
        pytest.importorskip("ehtim", reason="simulates visibilities with ehtim (extra eht)")
    card = f"{path.parent.name}/{path.name.removesuffix('.calibration.json')}"
    problem = load_problem(card)
    for factor in read_factors(path):
        assert any(
            not differs(factor.configuration, problem.card, problem.facts["inputs"], solver)
            for solver in problem.solvers.values()
        )
        assert factor.images >= 20
        assert factor.left_out == pytest.approx(factor.level, abs=0.02)

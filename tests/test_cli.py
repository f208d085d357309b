"""The command line: what it writes, and that whatever goes wrong is one line and leaves nothing."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

from lmaps_science import __all__ as public
from lmaps_science import cli, load_prior, load_problem, runner, sample
from lmaps_science.cards.load import load_card
from lmaps_science.io import (
    folders,
    read_image,
    read_netcdf,
    read_uvfits,
    sha256,
    write_netcdf,
)
from lmaps_science.manifests import shipped_folder
from lmaps_science.problems.black_hole.problem import BlackHoleProblem
from lmaps_science.sampling import ScoredSolver
from lmaps_science.sampling.progress import Progress

UVFITS = str(Path(__file__).parent / "golden" / "black_hole_obs.uvfits")
M87 = ["run", "black_hole/m87_2017", "--data", UVFITS, "--prior", "gaussian", "--device", "cpu"]
QUICK = [
    f"--set={setting}"
    for setting in (
        "image.npix=16",
        "preset=single",
        "solver.levels=3",
        "solver.local.iterations=3",
    )
]
FILES = {
    "result.nc",
    "mean.fits",
    "figure.png",
    "samples.png",
    "summary.txt",
    "summary.json",
}


def lmaps(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def instead(*arguments):
    """M87 and QUICK, with these options and settings in place of theirs."""
    given, rest = {}, iter([*M87[2:], *QUICK, *map(str, arguments)])
    for option in rest:
        option = option if "=" in option else f"{option}={next(rest)}"
        name, _, value = option.partition("=")
        given[name, value.partition("=")[0] if name == "--set" else ""] = option
    return [*M87[:2], *given.values()]


def refuse(*arguments, code=1):
    """Run; expect one line on stderr that starts with error:, and give it."""
    outcome = lmaps(*arguments)
    assert outcome.exit_code == code, outcome.output
    assert "Traceback" not in outcome.stderr
    *_, last = outcome.stderr.strip().splitlines()
    assert last.lower().startswith("error: ")
    return last


# ---------------------------------------------------------------- what it does


def test_run_writes_everything(tmp_path):
    out = tmp_path / "new" / "m87"
    options = ["--samples", 2, "--seed", 3, "--batch-size", 1, "--each-sample"]
    outcome = lmaps(*M87, *QUICK, *options, "--out", out)
    assert outcome.exit_code == 0, outcome.output
    assert {p.name for p in out.iterdir()} == FILES | {"sample_000.fits", "sample_001.fits"}
    assert "chi2_cphase" in outcome.stdout
    data = read_netcdf(out / "result.nc")
    overrides = dict(setting.removeprefix("--set=").split("=") for setting in QUICK)
    problem = load_problem("black_hole/m87_2017", UVFITS, "gaussian", overrides)
    same = sample(problem, problem.solver, 2, seed=3, batch_size=1, progress=False)
    np.testing.assert_allclose(data["image"], problem.analyse(same)["image"], rtol=1e-5)
    np.testing.assert_allclose(data["image"].sum(("y", "x")), 0.6, rtol=1e-5)
    mean = read_image(out / "mean.fits")
    np.testing.assert_allclose(mean, data["image_mean"], rtol=1e-6)
    assert mean.attrs["source"] == "M87"
    told = (out / "summary.txt").read_text()
    assert "M87, 5 April 2017 (MJD 57848)" in told
    assert "notes     2 samples cannot settle the modes" in told
    assert f"\nverdict   {data.attrs['verdict']}\n" in told
    last = outcome.stdout.strip().splitlines()[-1]
    assert last == f"verdict: {data.attrs['verdict']}; written to {out}/"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["card"]["image"]["npix"] == 16
    assert summary["metrics"]["chi2_cphase"] == pytest.approx(data["chi2_cphase"].values)
    described = lmaps("info", out / "result.nc", "--figure", out / "again.png")
    assert described.stdout == (out / "summary.txt").read_text()
    assert (out / "again.png").exists()


def test_a_second_prior_runs_beside_the_first(tmp_path):
    """Here it is the same one, so that the images agree in full."""
    outcome = lmaps(*M87, *QUICK, "--samples", 2, "--prior-check", "gaussian", "--out", tmp_path)
    assert outcome.exit_code == 0, outcome.output
    assert {p.name for p in tmp_path.iterdir()} == FILES | {"prior_check.png"}
    data = read_netcdf(tmp_path / "result.nc")
    np.testing.assert_array_equal(data["image_mean_second"], data["image_mean"])
    agreement = data.attrs["prior_check"]["agreement"]
    assert agreement["correlation_at_beam"] == pytest.approx(1, abs=1e-5)
    assert "correlation at beam 1, difference at beam" in outcome.stdout
    assert "prior_check.png" in json.loads((tmp_path / "summary.json").read_text())["files"]


def test_results_are_replaced_as_a_whole_on_request_alone_and_other_files_kept(tmp_path):
    command = [*M87, *QUICK, "--out", tmp_path]
    (tmp_path / "notes.txt").write_text("mine")
    assert lmaps(*command, "--samples", 2, "--each-sample").exit_code == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert "sample_001.fits" in before
    (tmp_path / "sample_002.fits").write_text("mine, too")
    said = refuse(*command, "--samples", 1)
    assert "holds results already (figure.png, mean.fits, result.nc, ...)" in said
    assert "--force" in said
    assert before == {k: (tmp_path / k).read_bytes() for k in before}
    assert lmaps(*command, "--samples", 1, "--force").exit_code == 0
    kept = {"notes.txt": "mine", "sample_002.fits": "mine, too"}
    assert {p.name for p in tmp_path.iterdir()} == FILES - {"samples.png"} | set(kept)
    assert {name: (tmp_path / name).read_text() for name in kept} == kept
    listed = json.loads((tmp_path / "summary.json").read_text())["files"]
    assert set(listed) == FILES - {"samples.png"}


def test_foreign_files_of_the_names_of_results_are_refused(tmp_path, monkeypatch):
    """Those of fields' exports are known at the end alone: the checkpoint keeps the run."""
    (tmp_path / "figure.png").write_text("mine")
    command = [*M87, *QUICK, "--samples", 1, "--out", tmp_path]
    with monkeypatch.context() as patched:
        patched.setattr(ScoredSolver, "step", None)
        assert "holds results already (figure.png)" in refuse(*command)
    (tmp_path / "figure.png").rename(tmp_path / "mean.fits")
    assert "holds results already (mean.fits)" in refuse(*command)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".fits", ".pt"]
    assert (tmp_path / "mean.fits").read_text() == "mine"
    monkeypatch.setattr(ScoredSolver, "step", None)  # nothing is sampled again
    monkeypatch.setattr("lmaps_science.problems.black_hole.problem.search", lambda *of: None)
    assert lmaps(*command, "--force").exit_code == 0
    assert {p.name for p in tmp_path.iterdir()} == FILES - {"samples.png"}


@pytest.mark.parametrize("content", ["", "{}", '{"files": 3}', '{"files": ["../notes.txt", ".."]}'])
def test_a_foreign_summary_removes_nothing(tmp_path, content):
    out = tmp_path / "out"
    out.mkdir()
    (out / "summary.json").write_text(content)
    (tmp_path / "notes.txt").write_text("mine")
    assert lmaps(*M87, *QUICK, "--samples", 1, "--force", "--out", out).exit_code == 0
    assert {p.name for p in tmp_path.iterdir()} == {"notes.txt", "out"}


def test_a_folder_in_the_place_of_a_result_is_never_replaced(tmp_path):
    (tmp_path / "figure.png").mkdir()
    said = refuse(*M87, *QUICK, "--force", "--out", tmp_path)
    assert "figure.png is a folder" in said
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]


def test_out_needs_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no name" in refuse(*M87, *QUICK, "--out", "")
    assert list(tmp_path.iterdir()) == []


def test_summaries_are_strict_json(tmp_path, monkeypatch):
    """A ring that is not there has no diameter: NaN in the result, null in the summary."""
    evaluate = BlackHoleProblem.evaluate

    def without(self, images):
        return {**evaluate(self, images), "nothing": np.array([np.nan, np.inf][: len(images)])}

    monkeypatch.setattr(BlackHoleProblem, "evaluate", without)
    assert lmaps(*M87, *QUICK, "--samples", 2, "--out", tmp_path).exit_code == 0

    def refused(constant):
        raise AssertionError(constant)

    text = (tmp_path / "summary.json").read_text()
    summary = json.loads(text, parse_constant=refused)
    assert summary["metrics"]["nothing"] == [None, None]
    assert np.isnan(read_netcdf(tmp_path / "result.nc")["nothing"].values[0])


def test_leftovers_of_dead_processes_are_cleared(tmp_path):
    host = socket.gethostname()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = [f".writing-{host}-{dead.pid}-abc", f".writing-{host}-{os.getppid()}-abc"]
    left.append(".writing-elsewhere.example.org-1-abc")
    for name in left:
        (tmp_path / name).mkdir()
    assert lmaps(*M87, *QUICK, "--samples", 1, "--out", tmp_path).exit_code == 0
    hidden = {p.name for p in tmp_path.iterdir() if p.name.startswith(".")}
    assert hidden == set(left[1:])


def test_checkpoints_of_other_runs_are_named_and_removed_on_request(tmp_path):
    stale = tmp_path / "checkpoint-0123456789ab.pt"
    stale.touch()
    (tmp_path / "checkpoint-mine.pt").touch()
    command = [*M87, *QUICK, "--samples", 1, "--out", tmp_path]
    outcome = lmaps(*command)
    assert outcome.exit_code == 0, outcome.output
    assert f"note: {stale} is of another run" in outcome.stderr
    assert "checkpoint-mine" not in outcome.stderr
    assert stale.exists()
    assert lmaps(*command, "--force").exit_code == 0
    assert [p.name for p in tmp_path.glob("*.pt")] == ["checkpoint-mine.pt"]


def test_progress_in_logs_and_quietly(tmp_path, monkeypatch):
    monkeypatch.setattr(Progress, "FIRST", 0.0)
    command = [*M87, *QUICK, "--samples", 1, "--out"]
    loud = lmaps(*command, tmp_path / "a").stderr
    assert re.search(r"LMAPS: level 1 of 3, .* s each, about [\d.]+ s to go", loud)
    quiet = lmaps(*command, tmp_path / "b", "--quiet").stderr
    assert "level" not in quiet.split("presets")[1]


def test_options_given_twice_are_refused(tmp_path):
    said = refuse(*M87, "--out", tmp_path, "--data", "other.uvfits", code=2)
    assert "--data was given 2 times" in said
    twice = ["--set=image.npix=16", "--set=image.npix=32"]
    assert "--set image.npix was given twice" in refuse(*M87, *twice, "--out", tmp_path / "out")
    assert "--npix was given 2 times" in refuse(
        "simulate", "phantom:0", "--npix=16", "--npix=32", "--out", tmp_path / "s.uvfits", code=2
    )
    assert list(tmp_path.iterdir()) == []


def test_relative_images_without_flux(tmp_path):
    settings = ["--set=observation.flux=null", "--set=solver.method=dps", "--set=solver.levels=3"]
    outcome = lmaps(*M87, "--set=image.npix=16", *settings, "--samples=1", "--out", tmp_path)
    assert outcome.exit_code == 0, outcome.output
    assert {p.name for p in tmp_path.iterdir()} == FILES - {"mean.fits", "samples.png"}
    assert read_netcdf(tmp_path / "result.nc")["image"].attrs["units"] == "relative"


def test_three_stations_have_phases_alone(tmp_path):
    """No closure amplitude: nothing on the way, from the misfit to the figure, may need one."""
    whole, keep = read_uvfits(UVFITS, average_seconds=None), ("AA", "LM", "PV")
    outside = ~(whole["station1"].isin(keep) & whole["station2"].isin(keep)).values

    def other_stations(data):
        data[outside, ..., 2] = 0

    out = tmp_path / "out"
    arguments = spoilt(tmp_path, other_stations)
    outcome = lmaps(*arguments, *QUICK, "--samples", 2, "--each-sample", "--out", out)
    assert outcome.exit_code == 0, outcome.output
    assert {p.name for p in out.iterdir()} == FILES | {"sample_000.fits", "sample_001.fits"}
    data = read_netcdf(out / "result.nc")
    assert data.sizes["logcamp"] == 0
    assert data["logcamp_residual"].shape == (2, 0)
    assert "chi2_logcamp" not in data
    mean_square = (data["cphase_residual"] ** 2).mean("cphase")
    np.testing.assert_allclose(mean_square, data["chi2_cphase"], rtol=1e-4)
    described = lmaps("info", out / "result.nc", "--figure", out / "again.pdf")
    assert described.exit_code == 0, described.output
    assert "0 log amplitudes" in described.stdout


def test_simulate_then_reconstruct(tmp_path):
    sim, truth = tmp_path / "sim.uvfits", tmp_path / "truth.fits"
    settings = ["--npix", 32, "--scan-interval", 3600, "--gain-std", 0.1]
    outcome = lmaps("simulate", "phantom:2", "--out", sim, "--truth", truth, *settings)
    assert outcome.exit_code == 0, outcome.output
    assert float(read_image(truth).sum()) == pytest.approx(0.6)
    assert read_uvfits(sim).sizes["cphase"] > 10
    again = tmp_path / "again.uvfits"
    simulated = sim.read_bytes()
    for existing in (["--out", sim], ["--out", again, "--truth", truth]):
        assert "exists: give another name" in refuse("simulate", "phantom:2", *existing)
    assert "are both" in refuse("simulate", "phantom:2", "--out", again, "--truth", again)
    assert "is a folder" in refuse("simulate", "phantom:2", "--out", "")
    assert sim.read_bytes() == simulated
    assert not again.exists()
    again.write_text("old")
    overwrite = ["--coverage", sim, "--out", again, "--force"]
    assert lmaps("simulate", truth, *overwrite).exit_code == 0
    run = ["run", "black_hole/uvfits", "--data", again, "--prior", "gaussian", *QUICK]
    assert lmaps(*run, "--samples", 1, "--out", tmp_path / "out").exit_code == 0


def test_lists():
    assert "black_hole/m87_2017" in lmaps("problems").stdout
    shown = lmaps("problems", "black_hole/uvfits").stdout
    assert "zero_baselines: rescale" in shown
    assert "(rescale or keep or drop; default: rescale)" in re.sub(r"\n *# ", " ", shown)
    assert "m87_2017_095_lo" in lmaps("data").stdout
    assert lmaps("--version").stdout.startswith("lmaps-science ")


def test_train_describe_and_use_a_prior(tmp_path):
    train = ["prior", "train", "--out", tmp_path, "--npix", 16, "--channels", 16, "--steps", 2]
    outcome = lmaps(*train, "--batch-size", 2, "--validate-every", 2, "--description", "tiny")
    assert outcome.exit_code == 0, outcome.output
    prior = tmp_path / "prior.safetensors"
    assert load_prior(prior).image_shape == (1, 16, 16)
    assert "tiny" in lmaps("prior", "info", prior).stdout
    assert "architecture: song" in lmaps("prior", "info", "black_hole_64.safetensors").stdout
    told = lmaps("prior", "info", "linear_60_conditional.safetensors").stdout
    assert "base_file: scattering_nuclei.safetensors" in told
    assert "Did you mean" in refuse("prior", "info", "black_hole.safetensors")
    said = refuse(*train, "--batch-size", 3, "--validate-every", 2)
    assert "batch_size 2, now 3" in said
    drawn = lmaps("prior", "sample", prior, "--samples", 2, "--out", tmp_path / "drawn.png")
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "drawn.png").exists()
    out = tmp_path / "out"
    outcome = lmaps(*instead("--prior", prior, "--samples", 1, "--out", out))
    assert outcome.exit_code == 0, outcome.output
    assert len(json.loads((out / "summary.json").read_text())["prior"]["sha256"]) == 64
    wrong = instead("--prior", prior, "--set=image.npix=64", "--out", tmp_path / "x")
    assert "set image.npix=16" in refuse(*wrong)


def test_train_on_own_images(tmp_path):
    images = tmp_path / "images.npy"
    np.save(images, np.random.default_rng(0).uniform(size=(12, 16, 16)))
    train = ["prior", "train", "--out", tmp_path / "prior", "--images", images, "--channels", 16]
    assert lmaps(*train, "--steps", 1, "--batch-size", 2).exit_code == 0
    np.save(images, np.full((12, 16, 16), 7.0))
    assert "divide each by its peak" in refuse(*train)
    np.save(images, np.ones(3))
    assert "takes (n, H, W)" in refuse(*train)
    images.write_text("1,2")
    assert "is not a whole NumPy file of numbers" in refuse(*train)


def test_a_training_that_cannot_start_leaves_nothing(tmp_path):
    train = ["prior", "train", "--npix", 17, "--channels", 16, "--steps", 1]
    assert "sides divisible by 4" in refuse(*train, "--out", tmp_path / "prior")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    train[3] = 16
    assert "cannot write to" in refuse(*train, "--out", tmp_path / "file")


def test_a_picture_without_a_folder_is_refused_before_the_work(tmp_path, monkeypatch):
    def draw(*arguments):
        raise AssertionError("sampled")

    monkeypatch.setattr("lmaps_science.priors.draws.draw", draw)
    prior = load_card("black_hole/m87_2017").prior.file
    shipped = shipped_folder("problems") / "black_hole" / prior
    assert "mkdir -p" in refuse("prior", "sample", shipped, "--out", tmp_path / "no" / "s.png")


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "simulate",
        "info",
        "problems",
        "data",
        "prior train",
        "prior train-autoencoder",
        "prior train-conditional",
        "prior sample",
    ],
)
def test_every_help_has_an_example(command):
    outcome = lmaps(*command.split(), "--help")
    assert outcome.exit_code == 0
    assert f"\n  lmaps {command}" in outcome.stdout


def test_help_does_not_wait_for_what_is_large():
    code = (
        "import sys; from lmaps_science import cli\n"
        "slow = {'torch', 'numpy', 'scipy', 'xarray', 'pandas', 'h5py', 'matplotlib', 'astropy'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_names_exist_and_sample_stays_a_function():
    import lmaps_science
    import lmaps_science.sampling

    assert all(getattr(lmaps_science, name) is not None for name in public)
    assert callable(lmaps_science.sample)
    assert set(public) <= set(dir(lmaps_science))
    with pytest.raises(AttributeError, match="attribute nothing"):
        _ = lmaps_science.nothing


def test_tables_round_with_sense():
    """A spread below the digits of the mean has none of its own; one value has no spread."""

    def table(values, **attrs):
        n = len(values)
        data = xr.Dataset(
            {"misfit": (("level", "sample"), np.zeros((1, n))), "a": ("sample", values, attrs)},
            attrs={"best": 0},
        )
        return runner.metrics_table(data).splitlines()[-1]

    assert "  1.235 ± <0.001  " in table([1.2345, 1.2345 + 1e-6])
    assert "  20 ± 2.8  " in table([18.0, 22.0])
    assert "  20 ± 2.8 (2 of 3)  " in table([18.0, np.nan, 22.0])
    assert table([np.nan, np.nan]).split() == ["a", "none", "none"]
    assert "  359 ± 2  " in table([357.0, 1.0], units="degree")
    assert "  10 (1 of 2)  " in table([10.0, np.nan], units="degree")
    assert "-0" not in table([10.0, 10.0], units="degree")


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=none.uvfits"], "none.uvfits: no such file"),
        (["--set", "observation.systematc=0"], "Did you mean 'systematic'"),
        (["--set", "solver.method=lmap"], "Did you mean 'lmaps'"),
        (["--set", "solver.levels=many"], "valid integer"),
        (["--set", "solver.levels"], "KEY=VALUE"),
        (["--set", "solver.local.iterations=-1"], "needs iterations >= "),
        (["--set", "observation.flux=-1"], "greater than 0"),
        (["--set", "observation.flux=0.01"], "a source of 0.01 Jy does not give the amplitudes"),
        (["--set", "observation.systematic=-1"], "systematic is -1"),
        (["--set", "observation.snr_cut=1e9"], "lower snr_cut"),
        (
            ["--set", "solver.local.method=conjugate_gradient"],
            "gaussian and linear",
        ),
        (["--set=preset=fast"], "there is no 'fast'"),
        (["--prior=none.safetensors"], "none.safetensors: no such prior"),
        (
            ["--prior-check=none.safetensors"],
            "--prior-check none.safetensors: none.safetensors: no",
        ),
        (["--device=abacus"], "device abacus cannot be used here: PyTorch knows no such device"),
        (
            ["--set=observation.file=other.uvfits"],
            "observation.file would be ignored, or the argument data",
        ),
        (["--set=prior.file=x.safetensors"], "prior.file would be ignored, or the argument prior"),
        (["--preset=quick", "--set=preset=dps"], "preset would be ignored, or the argument preset"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    out = tmp_path / "out"
    assert message in refuse(*instead(*arguments, "--out", out))
    assert not out.exists()


def test_a_field_of_view_smaller_than_the_source(tmp_path):
    image = Path(UVFITS).with_name("black_hole_ref.fits")
    command = ["run", "black_hole/simulated", "--data", image, "--prior", "gaussian", *QUICK]
    said = refuse(*command, "--set=image.fov_uas=20", "--out", tmp_path / "out")
    assert "20 uas is smaller than the source" in said
    assert said.endswith("all of the image is inside with image.fov_uas=160.")
    assert not (tmp_path / "out").exists()


def test_a_reader_who_has_seen_enough_gets_no_error():
    command = [sys.executable, "-m", "lmaps_science.cli", "problems", "black_hole/m87_2017"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_unknown_problems_and_options(tmp_path):
    out = tmp_path / "out"
    wrong = refuse("run", "black_hole/m87", "--out", out)
    assert "Did you mean 'black_hole/m87_2017'" in wrong
    assert "--bath-size" in refuse(*M87, "--out", out, "--bath-size", 2, code=2)
    assert not out.exists()


def test_truncated_uvfits(tmp_path):
    whole = Path(UVFITS).read_bytes()
    (tmp_path / "half.uvfits").write_bytes(whole[: len(whole) // 2])
    arguments = [a if a != UVFITS else tmp_path / "half.uvfits" for a in M87]
    assert "half.uvfits" in refuse(*arguments, *QUICK, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def spoilt(tmp_path, spoil):
    """The arguments of a run on a file whose DATA (n, 1, 1, 1, 1, 4, 3) went through `spoil`."""
    from astropy.io import fits

    path = tmp_path / "spoilt.uvfits"
    with fits.open(UVFITS, memmap=False) as hdus:
        spoil(hdus[0].data["DATA"])
        hdus.writeto(path)
    return [a if a != UVFITS else path for a in M87]


def no_sigma(data):
    data[5, ..., 2] = np.inf  # the weight is 1 / sigma^2


def not_a_number(data):
    data[9, ..., 0, 0] = np.nan


def infinite(data):
    data[9, ..., 1, 1] = np.inf


def all_flagged(data):
    data[..., 2] = 0


def two_stations(data):
    data[1:, ..., 2] = 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_sigma, "sigma is not a positive number"),
        (not_a_number, "NaN or infinite visibilities that are not flagged: 1 of 271"),
        (infinite, "NaN or infinite visibilities that are not flagged: 1 of 271"),
        (all_flagged, "No unflagged visibility"),
        (two_stations, "no closure phase: at no time do three stations form a triangle"),
    ],
)
def test_unusable_data(tmp_path, spoil, message):
    said = refuse(*spoilt(tmp_path, spoil), *QUICK, "--out", tmp_path / "out")
    assert "spoilt.uvfits" in said
    assert message in said
    assert [p.name for p in tmp_path.iterdir()] == ["spoilt.uvfits"]


def test_a_run_that_diverges_leaves_nothing(tmp_path, monkeypatch):
    step = ScoredSolver.step

    def diverging(self, i, state, problem, noise):
        state = step(self, i, state, problem, noise)
        if i == 12:  # there is a checkpoint by then
            assert list(tmp_path.glob("out/checkpoint-*.pt"))
            state.x.fill_(np.nan)
        return state

    monkeypatch.setattr(ScoredSolver, "step", diverging)
    command = instead(
        "--set=preset=single", "--set=solver.levels=20", "--samples=1", "--out", tmp_path / "out"
    )
    message = refuse(*command)
    assert "NaN or infinite at level 12" in message
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_the_run(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: usage(1e9, 1e9, 1e3))
    assert "the disk is full" in refuse(*M87, *QUICK, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_leaves_the_checkpoint_alone(tmp_path, monkeypatch):
    """The hours of the run are not lost: the same command writes the results at once."""

    def full(path, data, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    command = [*M87, *QUICK, "--samples=1", "--force", "--out", tmp_path]
    (tmp_path / "summary.txt").write_text("old")
    with monkeypatch.context() as patched:
        patched.setattr("lmaps_science.problems.black_hole.export.write_fits", full)
        assert "the disk is full" in refuse(*command)
    (checkpoint,) = tmp_path.glob("checkpoint-*.pt")
    assert set(tmp_path.iterdir()) == {tmp_path / "summary.txt", checkpoint}
    assert (tmp_path / "summary.txt").read_text() == "old"

    def step(*arguments):
        raise AssertionError("sampled again")

    with monkeypatch.context() as patched:
        patched.setattr(ScoredSolver, "step", step)
        # The analysis looks for rings, or for images without, with a few steps of its own.
        patched.setattr("lmaps_science.problems.black_hole.problem.search", lambda *of: None)
        assert lmaps(*command).exit_code == 0
    assert {p.name for p in tmp_path.iterdir()} == FILES - {"samples.png"}
    assert read_netcdf(tmp_path / "result.nc").attrs["denoiser_calls"] == 3


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    assert "cannot write to" in refuse(*M87, *QUICK, "--out", tmp_path / "out")


def test_folders_that_were_made_are_removed_again(tmp_path, monkeypatch):
    def broken(*arguments):
        raise ValueError("broken")

    monkeypatch.setattr(ScoredSolver, "step", broken)
    (tmp_path / "mine").mkdir()
    assert "broken" in refuse(*M87, *QUICK, "--out", tmp_path / "mine" / "new" / "newer")
    assert [*tmp_path.rglob("*")] == [tmp_path / "mine"]


def test_other_files_are_no_results(tmp_path):
    assert "no such file" in refuse("info", tmp_path / "result.nc")
    (tmp_path / "text.nc").write_text("text")
    assert "cannot be read as NetCDF" in refuse("info", tmp_path / "text.nc")
    write_netcdf(tmp_path / "other.nc", xr.Dataset({"image": ("x", [1.0])}))
    assert "it lacks misfit, the attribute kind" in refuse("info", tmp_path / "other.nc")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["phantom:x"], "phantom:K"),
        (["none.fits"], "no such file"),
        (["phantom:0", "--array", "EHT2016"], "Did you mean 'EHT2017'"),
        (["phantom:0", "--gain-std", "-1"], "gain_std"),
        (["phantom:0", "--coverage", "none.uvfits"], "no such file"),
        (["phantom:0", "--npix", "16", "--truth", "none/truth.fits"], "the folder none does not"),
        (["phantom:0", "--flux", "nan"], "flux"),
        (["phantom:0", "--fov-uas", "-1"], "fov_uas"),
    ],
)
def test_bad_simulations(tmp_path, arguments, message):
    out = tmp_path / "sim.uvfits"
    assert message in refuse("simulate", *arguments, "--out", out)
    assert list(tmp_path.iterdir()) == []


def test_unexpected_errors_name_their_type_and_debug_shows_them(tmp_path, monkeypatch):
    def broken(path):
        raise KeyError("surprise")

    monkeypatch.setattr("lmaps_science.io.read_netcdf", broken)
    assert "KeyError: 'surprise' (--debug shows where)" in refuse("info", tmp_path)
    for order in (["--debug", "info", tmp_path], ["info", tmp_path, "--debug"]):
        assert isinstance(lmaps(*order).exception, KeyError)
    assert "KeyError" in refuse("info", tmp_path)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_arrays_that_do_not_fit_into_memory(tmp_path, monkeypatch, error):
    def broken(path):
        raise error("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("lmaps_science.io.read_netcdf", broken)
    assert "error: the arrays do not fit into memory (" in refuse("info", tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_not_recommended(tmp_path):
    said = refuse(*instead("--device=cuda", "--out", tmp_path / "out"))
    assert said.endswith("Torch not compiled with CUDA enabled. Choose cpu or auto.")
    with pytest.raises(ValueError, match="Choose cpu or auto"):
        load_problem("black_hole/simulated", prior="gaussian", device="cuda")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_an_interrupted_run_goes_on(tmp_path, number, code):
    """Before the first checkpoint, too: nothing but the level under way is lost."""
    start = (
        # What runs in the background of a shell inherits that SIGINT is ignored.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import time; from lmaps_science import cli;"
        "from lmaps_science.sampling import ScoredSolver;"
        "step = ScoredSolver.step;"
        "ScoredSolver.step = lambda *a: "
        "(print('level', a[1], flush=True), time.sleep(0.2), step(*a))[2];"
        "cli.app()"
    )
    settings = ["--set=image.npix=16", "--preset=single", "--set=solver.levels=9", "--samples=1"]
    command = [sys.executable, "-c", start, *M87, *settings, "--out", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        while process.stdout.readline() != "level 3\n":
            assert process.poll() is None
        assert list(tmp_path.glob("checkpoint-*.pt")) == []
        process.send_signal(number)
        _, message = process.communicate(timeout=60)
    assert process.returncode == code, message
    assert message.splitlines()[-1] == "interrupted: the same command goes on from here"
    assert [p.suffix for p in tmp_path.iterdir()] == [".pt"]
    again = lmaps(*M87, *settings, "--out", tmp_path)
    assert again.exit_code == 0, again.output
    done = 3 if number == signal.SIGINT else 4  # SIGTERM waits for the level's end
    assert f"LMAPS: resuming at level {done} of 9" in again.stderr
    whole = lmaps(*M87, *settings, "--out", tmp_path / "whole")
    assert whole.exit_code == 0
    a, b = (read_netcdf(folder / "result.nc") for folder in (tmp_path, tmp_path / "whole"))
    np.testing.assert_array_equal(a["image"], b["image"])
    assert a.attrs["operator_calls"] == b.attrs["operator_calls"]


def test_train_an_autoencoder_and_a_prior_of_its_latents(tmp_path):
    options = ["--npix", 32, "--batch-size", 2, "--steps", 2, "--validate-every", 2]
    coder = tmp_path / "coder" / "autoencoder.safetensors"
    train = ["prior", "train-autoencoder", "--like", "nuclei", "--channels", 8, *options]
    outcome = lmaps(*train, "--out", coder.parent)
    assert outcome.exit_code == 0, outcome.output
    train = ["prior", "train", "--like", "nuclei", "--channels", 16, *options]
    outcome = lmaps(*train, "--autoencoder", coder, "--out", tmp_path / "prior")
    assert outcome.exit_code == 0, outcome.output
    prior = tmp_path / "prior" / "prior.safetensors"
    assert load_prior(prior).image_shape == (4, 8, 8)
    assert sha256(coder) in lmaps("prior", "info", prior).stdout
    assert "kl_weight: 0.0001" in lmaps("prior", "info", coder).stdout
    draw = ["prior", "sample", prior, "--samples", 2, "--out", tmp_path / "drawn.png"]
    assert lmaps(*draw, "--autoencoder", coder).exit_code == 0
    assert "holds no autoencoder" in refuse(*draw, "--autoencoder", prior)
    section = f"prior={{kind: latent, file: {prior}, autoencoder: {coder}}}"
    small = ["image.npix=32", "observation.receivers=20", "observation.transmitters=3"]
    solver = ["solver.levels=3", "solver.local=lbfgs"]
    settings = [f"--set={setting}" for setting in (section, *small, *solver)]
    out = tmp_path / "out"
    outcome = lmaps("run", "scattering/linear_60", *settings, "--samples", 1, "--out", out)
    assert outcome.exit_code == 0, outcome.output
    said = json.loads((out / "summary.json").read_text())["prior"]
    assert said["autoencoder"]["sha256"] == sha256(coder)

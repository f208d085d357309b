"""Inverse scattering on the command line: what is written, and one line for what goes wrong."""

import numpy as np
import pytest
from typer.testing import CliRunner

from lmaps_science import cli
from lmaps_science.io import read_netcdf
from lmaps_science.physics.lippmann_schwinger import FullWaveScattering

SMALL = ["--prior=gaussian", "--quiet", "--device=cpu", "--set=image.npix=20"]
LINEAR = ["run", "scattering/linear_60", *SMALL, "--set=observation.receivers=30"]
LEVELS = ["--set=solver.levels=3"]
FULL = ["run", "scattering/full_wave", *SMALL, "--set=observation.frequencies_ghz=[1, 2]"]
FULL += ["--set=observation.transmitters=3", "--set=observation.receivers=12"]
FILES = {"result.nc", "figure.png", "samples.png", "summary.txt", "summary.json"}


def lmaps(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def refuse(*arguments):
    """What stderr says in one line, where the run must fail."""
    outcome = lmaps(*arguments)
    assert outcome.exit_code == 1, outcome.output
    (line,) = (x for x in outcome.stderr.splitlines() if x.startswith("error: "))
    assert "Traceback" not in outcome.stderr
    return line


def test_cards_are_listed():
    listed = lmaps("problems").stdout
    for name in ("linear_360", "linear_180", "linear_60", "full_wave", "fresnel"):
        assert f"scattering/{name} " in listed
    assert "relative_noise" in lmaps("problems", "scattering/fresnel").stdout


@pytest.mark.parametrize("command", [LINEAR, FULL])
def test_a_run_writes_everything(tmp_path, command):
    outcome = lmaps(*command, *LEVELS, "--samples=2", "--out", tmp_path)
    assert outcome.exit_code == 0, outcome.output
    assert {p.name for p in tmp_path.iterdir()} == FILES
    for part in ("relative_misfit", "psnr", "ssim", "operator calls"):
        assert part in outcome.stdout
    data = read_netcdf(tmp_path / "result.nc")
    assert data.attrs["kind"] == "scattering"
    assert data["image"].shape == (2, 20, 20)


def test_the_paper_s_gradient_steps_run(tmp_path):
    short = ["--preset=paper", *LEVELS, "--set=solver.local.steps=5", "--samples=1"]
    outcome = lmaps(*FULL, *short, "--out", tmp_path)
    assert outcome.exit_code == 0, outcome.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set=observation.radius=0.1"], "stand inside the imaged square"),
        (["--set=observation.recievers=3"], "Did you mean 'receivers'"),
        (["--set=observation.image=phantom:-1"], "phantom:K"),
        (["--set=solver.method=frequency_hopping", "--set=solver.local=lbfgs"], "multi-frequency"),
        (["--set=solver.method=ddrm"], "svd"),
        (["--data=none.npy"], "none.npy: no such file"),
        (["--set=observation.aperture=400"], "observation.aperture"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    assert message in refuse(*LINEAR, *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_with_nan_are_refused(tmp_path):
    np.save(tmp_path / "nan.npy", np.full((20, 20), np.nan))
    said = refuse(*LINEAR, "--data", tmp_path / "nan.npy", "--out", tmp_path / "out")
    assert "finite contrast" in said


@pytest.mark.filterwarnings("ignore:.*pixels per wavelength")
def test_fields_that_do_not_converge_are_reported_with_their_residual(tmp_path):
    np.save(tmp_path / "dense.npy", np.full((20, 20), 3000.0))
    settings = ["--set=image.max_contrast=3000", "--data", tmp_path / "dense.npy"]
    said = refuse(*FULL, *settings, *LEVELS, "--out", tmp_path / "out")
    assert "did not converge" in said
    assert "relative residual" in said


@pytest.mark.filterwarnings("ignore:.*pixels per wavelength")
def test_a_run_that_meets_such_fields_says_what_to_change_and_leaves_nothing(tmp_path, monkeypatch):
    """Plain LMAPS, whose first image is made of noise."""
    build = FullWaveScattering.__init__

    def impatient(self, *args, **options):
        build(self, *args, **{**options, "iterations": 6})  # the truth takes fewer

    monkeypatch.setattr(FullWaveScattering, "__init__", impatient)
    lmaps_alone = ["--set=solver.method=lmaps", "--set=solver.local=lbfgs", *LEVELS]
    lmaps_alone += ["--set=image.max_contrast=20", "--set=observation.contrast=0.1"]
    said = refuse(*FULL, *lmaps_alone, "--samples=1", "--out", tmp_path / "out")
    assert said.startswith("error: FullWaveScattering: ")  # no name of a class, no way to a bug
    for part in ("did not converge in 6", "frequency_hopping", "image.max_contrast, e.g. 2.0"):
        assert part in said
    assert not (tmp_path / "out" / "result.nc").exists()


def test_malformed_measured_files_name_the_line(tmp_path):
    file = tmp_path / "FoamDielIntTM.exp"
    file.write_text("# Institut Fresnel\n  1   61    2.0  -8.7e-2  oops  -1.1e-1  -2.4e-2\n")
    run = ["run", "scattering/fresnel", "--out", tmp_path / "out", "--data"]
    assert "FoamDielIntTM.exp, line 2" in refuse(*run, file)
    file.write_text("  1   61    2.0  -8.7e-2  nan  -1.1e-1  -2.4e-2\n")
    assert "line 1: a number that is not finite" in refuse(*run, file)
    assert "no such file" in refuse(*run, tmp_path / "none.exp")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:.*pixels per wavelength")
def test_measured_data_end_to_end(tmp_path, data_dir):
    file = data_dir / "fresnel" / "FoamDielExtTM.exp"
    settings = ["--set=image.npix=24", "--set=observation.frequencies_ghz=[2, 3]"]
    settings += ["--set=solver.levels=4", "--set=solver.local.iterations=4", "--samples=1"]
    run = ["run", "scattering/fresnel", "--data", file, "--quiet", *settings]
    outcome = lmaps(*run, "--out", tmp_path / "out")
    assert outcome.exit_code == 0, outcome.output
    for part in ("foam_permittivity", "plastic_diameter", "foam_plastic_distance"):
        assert part in outcome.stdout
    data = read_netcdf(tmp_path / "out" / "result.nc")
    born = data.attrs["metrics_of_born"]["relative_misfit"]
    assert float(data["relative_misfit"][0]) < 0.6 * born

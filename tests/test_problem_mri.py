"""MRI problems through the public interface: simulated, from files of every kind, and refusals."""

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lmaps_science import cli, load_problem, plot_reconstruction, plot_samples, sample
from lmaps_science.arrays import centred_fft2
from lmaps_science.io import DataError, read_netcdf, write_cfl
from lmaps_science.manifests import shipped_folder
from lmaps_science.metrics import magnitudes, psnr

pytest.importorskip("sigpy", reason="simulated coils take the extra mri")
SMALL = {"kspace.npix": 64, "kspace.coils": 4, "solver.levels": 4, "solver.sigma_min": 0.02}


def simulated(**overrides):
    return load_problem("mri/simulated", prior="gaussian", overrides={**SMALL, **overrides})


@pytest.fixture(scope="module")
def analysed():
    problem = simulated()
    return problem, problem.analyse(sample(problem, problem.solver, 3, progress=False))


@pytest.fixture(scope="module")
def kspace():
    """Fully sampled k-space (4, 64, 48) of a disc, with a little noise, and its coil maps."""
    import sigpy.mri

    maps = sigpy.mri.birdcage_maps((4, 64, 48), dtype=np.complex64)
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    y, x = np.mgrid[-32:32, -24:24]
    image = ((y / 24) ** 2 + (x / 18) ** 2 < 1) * (1 + 0.3 * np.cos(y / 6))
    rng = np.random.default_rng(0)
    noise = 0.01 * (rng.normal(size=maps.shape) + 1j * rng.normal(size=maps.shape))
    data = centred_fft2(torch.as_tensor(maps * image)).numpy() + noise
    return 7.0 * data.astype(np.complex64), maps


def from_file(path, **overrides):
    changes = {"solver.levels": 4, "solver.sigma_min": 0.02, **overrides}
    return load_problem("mri/kspace", str(path), prior="gaussian", overrides=changes)


def save(folder, array, name="scan.npy"):
    np.save(folder / name, array)
    return folder / name


# ---------------------------------------------------------------- what it does


def test_a_reconstruction_beats_the_zero_filled_image(analysed):
    _, data = analysed
    assert data.attrs["metrics_of_mean"]["psnr"] > data.attrs["metrics_of_zero_filled"]["psnr"] + 1
    assert (data["chi2"] < 1.5).all()
    assert data["image"].dims == ("sample", "part", "y", "x")


def test_metrics_are_those_of_the_definitions(analysed):
    problem, data = analysed
    images = data["image"].values
    scores = problem.evaluate(images)
    expected = psnr(*magnitudes(images, problem.truth.values[None]))
    np.testing.assert_allclose(scores["psnr"], expected, rtol=1e-5)
    operator, y = problem.misfit.operator, problem.misfit.y
    misfit = torch.linalg.vector_norm((operator(torch.tensor(images)) - y).flatten(1), dim=1)
    np.testing.assert_allclose(scores["data_misfit"], misfit, rtol=1e-4)
    sampled = int(problem.observation["mask"].sum()) * 4
    chi2 = misfit**2 / float(problem.misfit.sigma) ** 2 / sampled
    np.testing.assert_allclose(scores["chi2"], chi2, rtol=1e-4)


def test_held_out_samples_are_not_used_and_predicted():
    changes = {"sampling.acceleration": None, "sampling.hold_out": 0.3, "maps.source": "file"}
    problem = simulated(**changes)
    seen, held_out = (problem.observation[name].values for name in ("mask", "held_out"))
    assert not (seen & held_out).any()
    assert (seen | held_out).all()
    assert 0.2 < held_out.mean() < 0.35
    truth = problem.evaluate(problem.truth.values[None])["held_out_error"]
    blank = problem.evaluate(np.zeros((1, 2, 64, 64), np.float32))["held_out_error"]
    assert blank == pytest.approx(1)
    assert truth < 0.9


def test_images_are_0_where_no_coil_sees(analysed):
    problem, data = analysed
    unseen = ~(problem.misfit.operator.maps != 0).any(0).numpy()
    assert unseen.any()
    assert (data["image"].values[..., unseen] == 0).all()


def test_figures(analysed, tmp_path):
    _, data = analysed
    figure = plot_reconstruction(data, path=tmp_path / "a.png")
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0] == "reference"
    assert titles[2].startswith("mean of 3 samples, ")
    plot_samples(data, path=tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_size > 5_000


def test_the_command_line_writes_everything(kspace, tmp_path):
    path, out = save(tmp_path, kspace[0]), tmp_path / "out"
    arguments = ["run", "mri/kspace", "--data", path, "--prior", "gaussian", "--samples", 2]
    arguments += ["--out", out, "--each-sample", "--set", "solver.levels=3", "-q"]
    outcome = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert outcome.exit_code == 0, outcome.output
    names = {p.name for p in out.iterdir()}
    assert {"mean.nii.gz", "sample_000.nii.gz", "figure.png", "result.nc"} <= names
    assert read_netcdf(out / "result.nc").attrs["kind"] == "mri"
    described = CliRunner().invoke(cli.app, ["info", str(out / "result.nc")])
    assert "4 coils, 100 % of 64 x 48 k-space" in described.stdout


# ---------------------------------------------------------------- files and options


def test_every_format_gives_the_same_problem(kspace, tmp_path):
    data = kspace[0]
    with h5py.File(tmp_path / "fastmri.h5", "w") as file:
        file["kspace"] = data[None]
    write_cfl(tmp_path / "bart", data.transpose(1, 2, 0)[:, :, None])
    reference = from_file(save(tmp_path, data))
    for name in ("fastmri.h5", "bart.cfl"):
        y = from_file(tmp_path / name).misfit.y
        torch.testing.assert_close(y, reference.misfit.y)
    assert reference.facts["scaled_by"] == "the acquired samples"


def test_undersampling_scaling_and_maps(kspace, tmp_path):
    data, maps = kspace
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"], file["s_maps"] = data[None], maps[None]
    lines = {"sampling.acceleration": 3, "sampling.axis": -2}
    problem = from_file(tmp_path / "scan.h5", **lines, **{"maps.source": "file"})
    torch.testing.assert_close(problem.misfit.operator.maps, torch.as_tensor(maps))
    assert problem.observation["mask"].values.mean() == pytest.approx(21 / 64)
    scaled = from_file(tmp_path / "scan.h5", scaling="reference", **lines)
    reference = np.hypot(*scaled.truth.values)
    assert np.percentile(reference, 99) == pytest.approx(1, abs=1e-5)


def test_prewhitening_and_compression_keep_the_image(kspace, tmp_path):
    path = save(tmp_path, kspace[0])
    images = []
    for changes in ({}, {"noise.prewhiten": True}, {"noise.coils": 3}):
        problem = from_file(path, **changes)
        result = sample(problem, problem.solver, 1, progress=False)
        image = problem.analyse(result)["image"].values[0]
        images.append(np.hypot(*image))
    for other in images[1:]:
        assert np.corrcoef(images[0].ravel(), other.ravel())[0, 1] > 0.98


def test_the_noiseless_variant_has_the_data_of_its_own_image(kspace, tmp_path):
    path = save(tmp_path, kspace[0])
    problem = from_file(path, **{"kspace.noiseless": True, "maps.source": "full"})
    assert problem.evaluate(problem.truth.values[None])["data_misfit"] < 1e-3


def with_nan(data):
    data = data.copy()
    data[1, 3, 4] = np.nan
    return data


def without_centre(data):
    data = data.copy()
    data[:, 30:35] = 0
    return data


def few_lines(data):
    data = data.copy()
    data[:, :26:2] = data[:, 38::2] = 0
    return data


@pytest.mark.parametrize(
    ("change", "overrides", "message"),
    [
        (with_nan, {}, "not finite|non-finite"),
        (np.zeros_like, {}, "zero"),
        (np.abs, {}, "complex"),
        (without_centre, {}, "centre of k-space"),
        (few_lines, {"sampling.acceleration": 4}, "sampling.acceleration=null"),
        (np.copy, {"maps.source": "file"}, "holds no maps"),
        (np.copy, {"noise.coils": 9}, "9 of 4 coils"),
        (np.copy, {"kspace.slice": 3}, "there is no slice 3"),
        (few_lines, {"maps.source": "full"}, "fully sampled"),
        (few_lines, {"scaling": "reference"}, "scaling=acquired"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_reconstructed_is_refused(kspace, tmp_path, change, overrides, message):
    path = save(tmp_path, change(kspace[0]))
    with pytest.raises((ValueError, IndexError), match=message):
        from_file(path, **overrides)


def test_a_truncated_file_and_a_wrong_prior_are_refused(kspace, tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = kspace[0][None]
    whole = (tmp_path / "scan.h5").read_bytes()
    (tmp_path / "scan.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"scan\.h5"):
        from_file(tmp_path / "scan.h5")
    with pytest.raises(DataError, match="no such file"):
        load_problem("mri/simulated", "no.npy", prior="gaussian", overrides=SMALL)
    other = shipped_folder("problems") / "black_hole" / "black_hole_64.safetensors"
    with pytest.raises(DataError, match=r"images of shape \(1, 64, 64\)"):
        load_problem("mri/simulated", prior=other, overrides=SMALL)


def test_the_shipped_prior_reconstructs_any_size():
    problem = load_problem("mri/simulated", overrides={**SMALL, "kspace.npix": 70})
    assert problem.image_shape == (2, 70, 70)
    data = problem.analyse(sample(problem, problem.solver, 1, progress=False))
    assert data.attrs["metrics_of_mean"]["psnr"] > data.attrs["metrics_of_zero_filled"]["psnr"]


def test_measured_brain_slice_is_predicted_better_than_by_zero_filling(data_dir):
    path = data_dir / "mri" / "brain_8ch_kspace.npy"
    changes = {"sampling.hold_out": 0.1, "solver.levels": 6}
    problem = load_problem("mri/brain_raw", path, overrides=changes)
    assert problem.observation["mask"].values.mean() == pytest.approx(0.114, abs=0.005)
    data = problem.analyse(sample(problem, problem.solver, 1, progress=False))
    assert float(data["held_out_error"][0]) < 0.33
    assert data.attrs["metrics_of_zero_filled"]["held_out_error"] > 0.7

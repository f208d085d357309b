"""MRI problems through the public interface: simulated, from files of every kind, and refusals."""

import h5py
import numpy as np
import pytest
import torch

from lmaps_science import load_problem, sample
from lmaps_science.arrays import centred_fft2
from lmaps_science.cards.load import load_card
from lmaps_science.io import DataError, read_netcdf, write_cfl, write_netcdf
from lmaps_science.local_map import GradientSteps
from lmaps_science.manifests import shipped_folder
from lmaps_science.metrics import magnitudes, psnr
from lmaps_science.solvers import LMAPS

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


def test_results_survive_their_file(analysed, tmp_path):
    problem, data = analysed
    write_netcdf(tmp_path / "result.nc", data)
    again = read_netcdf(tmp_path / "result.nc")
    for name in ("image", "image_mean", "magnitude_std", "mask", "zero_filled", "truth", "psnr"):
        np.testing.assert_array_equal(again[name], data[name])
    assert again.attrs["metrics_of_mean"] == data.attrs["metrics_of_mean"]
    assert again.attrs["scaled_by"] == "the acquired samples"
    assert again.attrs["card"] == problem.card.model_dump(mode="json")
    magnitude = np.hypot(*data["image"].values.transpose(1, 0, 2, 3))
    np.testing.assert_allclose(data["magnitude_std"], magnitude.std(0, ddof=1), atol=1e-6)
    blind = problem.evaluate(problem.zero_filled.values[None])
    assert data.attrs["metrics_of_zero_filled"]["psnr"] == pytest.approx(float(blind["psnr"][0]))


def test_samples_do_not_depend_on_the_batch(analysed):
    problem, data = analysed
    one_by_one = sample(problem, problem.solver, 3, batch_size=1, progress=False)
    np.testing.assert_allclose(problem.analyse(one_by_one)["image"], data["image"], atol=1e-5)


def test_samples_approach_the_posterior_of_the_gaussian_prior():
    """With the prior's covariance and an exact local solve: their mean is the Wiener filter's."""
    exact = {"method": "lmaps", "levels": 30, "sigma_max": 100.0, "sigma_min": 0.005}
    exact |= {"local": {"method": "conjugate_gradient", "iterations": 60, "tolerance": 1e-5}}
    exact |= {"covariance": "prior"}
    problem = simulated(**{"kspace.npix": 32, "presets.default": exact, "maps.source": "file"})
    operator, y = problem.misfit.operator, problem.misfit.y
    units = torch.eye(2 * 32 * 32).reshape(-1, 2, 32, 32)
    inverse = problem.prior.covariance.apply(units, 1 / problem.prior.covariance.eigenvalues)
    precision = (operator.normal(units) / problem.misfit.variance + inverse).flatten(1).double()
    right = (operator.adjoint(y) / problem.misfit.variance).flatten().double()
    mean = torch.linalg.solve(precision, right).reshape(2, 32, 32).numpy()
    samples = sample(problem, problem.solver, 24, progress=False).samples
    away = np.linalg.norm(samples.mean(0) - mean)
    alone = np.linalg.norm((samples - mean).reshape(len(samples), -1), axis=1).mean()
    assert away < 0.25 * alone  # 1 / sqrt(24) is 0.2


def test_images_are_0_where_no_coil_sees(analysed):
    problem, data = analysed
    unseen = ~(problem.misfit.operator.maps != 0).any(0).numpy()
    assert unseen.any()
    assert (data["image"].values[..., unseen] == 0).all()


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


def test_the_noise_level_is_found_or_given(kspace, tmp_path):
    true = 7.0 * 0.01 * np.sqrt(2)
    path = save(tmp_path, kspace[0])
    found = from_file(path)
    assert found.facts["noise_sigma"] == pytest.approx(true, rel=0.3)  # 4 coils and sharp edges
    assert found.summary()["noise"].endswith("estimated")
    given = from_file(path, **{"noise.sigma": true})
    assert given.facts["noise_sigma"] == true
    assert float(given.misfit.sigma) == pytest.approx(true / given.facts["scale"])


@pytest.mark.parametrize("acceleration", [1, 2])
def test_samples_fit_the_data_to_their_noise(acceleration):
    """chi2 of the truth is 1; samples between the posterior's mean and a draw have a bit less."""
    exact = {
        "maps.source": "file",
        "solver.levels": 20,
        "solver.kappa": 1,
        "solver.sigma_min": 0.005,
    }
    problem = simulated(**exact, **{"sampling.acceleration": acceleration})
    assert problem.evaluate(problem.truth.values[None])["chi2"] == pytest.approx(1, abs=0.05)
    chi2 = problem.analyse(sample(problem, problem.solver, 1, progress=False))["chi2"]
    assert 0.7 < float(chi2[0]) < 1


def test_data_without_noise_have_a_floor(tmp_path):
    image = np.zeros((48, 48), complex)
    image[12:36, 14:34] = 1
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    maps = np.stack([np.exp(-((y - a) ** 2 + (x - b) ** 2)) for a in (-1, 1) for b in (-1, 1)])
    data = centred_fft2(torch.as_tensor(maps * image)).numpy().astype(np.complex64)
    problem = from_file(save(tmp_path, data))
    assert float(problem.misfit.sigma) >= 1e-3


def test_maps_of_any_norm_give_the_same_image(kspace, tmp_path):
    data, maps = kspace
    save(tmp_path, 5j * maps * np.linspace(0.5, 2, 48), "maps.npy")
    changes = {"kspace.maps_file": str(tmp_path / "maps.npy"), "maps.source": "file"}
    problem = from_file(save(tmp_path, data), **changes)
    norm = problem.misfit.operator.maps.abs().square().sum(0)
    torch.testing.assert_close(norm, torch.ones_like(norm))
    solution = problem.misfit.operator.adjoint(problem.misfit.y)[0].numpy()
    np.testing.assert_allclose(np.hypot(*solution), np.hypot(*problem.truth.values), atol=1e-5)


def test_slices_and_voxels(kspace, tmp_path):
    header = """<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding><encodedSpace>
      <fieldOfView_mm><x>128</x><y>48</y><z>5</z></fieldOfView_mm></encodedSpace></encoding>
      </ismrmrdHeader>"""
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"], file["ismrmrd_header"] = np.stack([kspace[0], 2 * kspace[0]]), header
    first, last = (from_file(tmp_path / "scan.h5", **{"kspace.slice": k}) for k in (0, -1))
    assert last.facts["scale"] == pytest.approx(2 * first.facts["scale"], rel=1e-5)
    assert first.facts["observation"]["slice"] == 0
    data = first.analyse(sample(first, first.solver, 1, progress=False))
    assert data["image"]["y"].attrs["units"] == "mm"
    assert float(data["y"][1] - data["y"][0]) == pytest.approx(2)
    assert float(data["x"][24]) == 0


def test_the_noiseless_variant_has_the_data_of_its_own_image(kspace, tmp_path):
    path = save(tmp_path, kspace[0])
    problem = from_file(path, **{"kspace.noiseless": True, "maps.source": "full"})
    assert problem.evaluate(problem.truth.values[None])["data_misfit"] < 1e-3


def test_paper_presets_are_those_of_table_4():
    card = load_card("mri/inversebench")
    steps = GradientSteps(100, 0.01)
    assert card.solver("paper_noiseless_4") == LMAPS(200, 0.0, 100.0, local=steps)
    assert card.solver("paper") == LMAPS(200, 0.4, 150.0, local=steps)  # the table's other three


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
        (few_lines, {"kspace.noiseless": True}, "noiseless needs a fully sampled scan"),
        (np.copy, {"sampling.acceleration": 4}, "calibration region.*maps.source=file"),
        (np.copy, {"maps.source": "file"}, "holds no maps.*kspace.maps_file"),
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
    with pytest.raises(DataError, match="of 1 channel, these have 2"):
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

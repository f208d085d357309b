"""MRI problems through the public interface: simulated, from files of every kind, and refusals."""

import copy
import dataclasses
import tempfile

import h5py
import numpy as np
import pytest
import torch

from lmaps_science import load_problem, sample, stack
from lmaps_science.arrays import centred_fft2
from lmaps_science.cards.load import load_card
from lmaps_science.io import DataError, read_netcdf, write_cfl, write_netcdf
from lmaps_science.local_map import GradientSteps
from lmaps_science.manifests import shipped_folder
from lmaps_science.metrics import magnitudes, psnr
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.problems.mri.baselines import sense_reconstruction
from lmaps_science.problems.mri.card import GaussianSection, gaussian_prior
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


def test_total_variation_is_beside_it(analysed):
    problem, data = analysed
    seen = (problem.misfit.operator.maps != 0).any(0).numpy()
    expected = sense_reconstruction(problem.misfit, "tv", 0.003, tolerance=3e-4)[0].numpy() * seen
    np.testing.assert_array_equal(data["total_variation"], expected)
    scores = problem.evaluate(expected[None])
    assert data.attrs["metrics_of_total_variation"] == {k: float(v[0]) for k, v in scores.items()}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("LARGEST", 1000, "more than 1,000 samples takes too long"),
        ("TOTAL_VARIATION", {"regulariser": "tv", "iterations": 10}, "not converged after 10"),
    ],
)
def test_a_baseline_that_is_left_out_says_why(analysed, monkeypatch, name, value, reason):
    monkeypatch.setattr(f"lmaps_science.problems.mri.problem.{name}", value)
    problem, _ = analysed
    data = problem.analyse(sample(problem, problem.solver, 1, progress=False))
    assert reason in data.attrs["total_variation"]
    assert "total_variation" not in data
    assert "metrics_of_total_variation" not in data.attrs


# ---------------------------------------------------------------- the verdict

FITTING = {"solver.kappa": 2.0, "solver.levels": 8, "maps.source": "file"}


def verdict(problem, image=None):
    """The verdict on a run, or on an image put in its place."""
    result = sample(problem, problem.solver, 1, progress=False)
    if image is not None:
        result = dataclasses.replace(result, samples=image[None])
    data = problem.analyse(result)
    return data.attrs["verdict"], "; ".join(data.attrs["verdict_reasons"])


@pytest.mark.parametrize(
    ("factor", "reason"), [(1, "within 1.5"), (0.2, "too small"), (5, "too large")]
)
def test_noise_that_is_misstated_is_told(factor, reason):
    word, reasons = verdict(simulated(**FITTING, **{"noise.sigma": 0.02 * factor}))
    assert word == ("good" if factor == 1 else "does not fit")
    assert reason in reasons


def test_an_image_that_does_not_fit_is_told():
    problem = simulated(**FITTING)
    word, reasons = verdict(problem, 0.5 * problem.truth.values)
    assert word == "does not fit"
    assert "under-fitted" in reasons
    assert verdict(problem, problem.truth.values)[0] == "good"


def test_maps_of_few_lines_and_blank_images_are_doubtful(analysed):
    problem, data = analysed  # maps from 6 of 64 lines
    reasons = "; ".join(data.attrs["verdict_reasons"])
    assert data.attrs["verdict"] == "doubtful"
    assert "those from 6 lines, fewer than 8, can be wrong" in reasons
    operator = copy.copy(problem.misfit.operator)
    operator.maps = operator.maps * (torch.arange(64) < 13)
    blank = problem.with_misfit(GaussianMisfit(operator, problem.misfit.y, problem.misfit.sigma))
    assert any("share of the image without" in str(c) and c.level for c in blank.checks(data))


def test_predictions_are_held_against_noise_and_total_variation():
    changes = {"sampling.acceleration": None, "sampling.hold_out": 0.3}
    problem = simulated(**FITTING, **changes)
    data = problem.analyse(sample(problem, problem.solver, 1, progress=False))
    checks = {c.what: c for c in problem.checks(data)}
    noise = checks["held-out error over that of the noise alone"]
    found = data.attrs["metrics_of_mean"]["held_out_error"]
    of_truth = float(problem.evaluate(problem.truth.values[None])["held_out_error"][0])
    assert noise.value == pytest.approx(found / of_truth, rel=0.05)
    classical = data.attrs["metrics_of_total_variation"]["held_out_error"]
    assert checks["held-out error over that of total variation"].value == found / classical
    data.attrs["metrics_of_mean"] = {**data.attrs["metrics_of_mean"], "held_out_error": 0.99}
    bad = [c for c in problem.checks(data) if "held-out" in c.what]
    assert [c.level for c in bad] == [int(0.99 / of_truth > 2) + int(0.99 / of_truth > 4), 1]


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


@pytest.mark.parametrize("maps", ["calibration", "file", "full"])
@pytest.mark.parametrize("scaling", ["acquired", "reference"])
def test_prewhitening_keeps_truth_image_and_scale_together(maps, scaling):
    """The least-squares image of all lines is the truth, and its 99th percentile 1."""
    changes = {"maps.source": maps, "scaling": scaling, "noise.prewhiten": True}
    problem = simulated(**changes, **{"sampling.acceleration": 1})
    data, operator = problem.misfit.y, problem.misfit.operator
    squares = operator.maps.abs().square().sum(0)
    assert squares[squares > 0].sqrt().numpy() == pytest.approx(1, abs=1e-3)
    image = operator.adjoint(data)[0].numpy()
    assert np.percentile(np.hypot(*image), 99) == pytest.approx(1, abs=0.1)
    truth = np.hypot(*problem.truth.values)
    assert np.percentile(truth, 99) == pytest.approx(1, abs=0.1)
    assert problem.evaluate(image[None])["psnr"] > 25
    with pytest.raises(DataError, match=r"noise\.prewhiten changes"):
        simulated(**changes, **{"noise.sigma": 1.0})


def test_other_data_bring_their_own_zero_filled_image_and_nothing_held_out():
    problem = simulated(**{"sampling.hold_out": 0.1})
    other = problem.with_data(2 * problem.misfit.y)
    np.testing.assert_allclose(
        other.zero_filled.values, 2 * problem.zero_filled.values, rtol=1e-3, atol=1e-4
    )
    result = sample(other, LMAPS(2, sigma_max=1.0), 1, progress=False)
    assert "held_out_error" not in other.analyse(result)


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


# ---------------------------------------------------------------- observations in a batch

STACKED = {"kspace.npix": 48, "kspace.coils": 3, "solver.levels": 4, "solver.sigma_min": 0.02}


def observation(k, own="maps and masks", **overrides):
    """Observation k: another image, other noise, and where it has them its own maps or mask."""
    npix = overrides.get("kspace.npix", 48)
    rows, columns = np.mgrid[-1 : 1 : npix * 1j, -1 : 1 : npix * 1j]
    image = (np.hypot(rows, columns + 0.1 * k) < 0.7) * (1 + 0.3 * np.cos((4 + k) * rows)) + 0j
    changes = {"kspace.seed": k, "maps.source": "calibration" if "maps" in own else "file"}
    if own != "noise":  # lines, or points around a whole centre
        lines = {"sampling.acceleration": 1.5, "sampling.seed": (0, 1, 3)[k // 2]}
        points = {"sampling.acceleration": None, "sampling.hold_out": 0.5, "sampling.seed": k}
        changes |= points if k % 2 else lines
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/image.npy", image)
        return load_problem(
            "mri/simulated",
            f"{folder}/image.npy",
            prior="gaussian",
            overrides={**STACKED, **changes, **overrides},
            dtype=torch.float64,
        )


@pytest.mark.parametrize("own", ["noise", "masks", "maps and masks"])
def test_observations_side_by_side_give_what_each_gives_alone(own):
    problems = [observation(k, own) for k in range(5)]
    joined, solver = stack(problems), problems[0].solver
    assert (joined.misfit.operator.batch == 5) == (own != "noise")
    alone = [sample(problem, solver, 3, progress=False) for problem in problems]
    assert np.abs(alone[0].samples - alone[1].samples).max() > 0.1
    for size in (1, 2, 4, 15):
        parts = sample(joined, solver, 3, batch_size=size, progress=False).split()
        assert len(parts) == 5
        for part, expected, problem in zip(parts, alone, problems, strict=True):
            np.testing.assert_allclose(part.samples, expected.samples, rtol=0, atol=1e-9)
            np.testing.assert_allclose(part.misfit, expected.misfit, rtol=1e-6, atol=1e-9)
            assert part.facts["noise_sigma"] == problem.facts["noise_sigma"]
    data = problems[4].analyse(parts[4])
    np.testing.assert_allclose(data["image"], problems[4].analyse(alone[4])["image"], atol=1e-9)


def other_prior(problem):
    prior = gaussian_prior(GaussianSection(kind="gaussian", std=0.3), problem.image_shape)
    return dataclasses.replace(problem, prior=prior.to(dtype=torch.float64))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            lambda: observation(1, **{"kspace.npix": 56}),
            "problem 1 differs from problem 0: prior.*48 and 56",
        ),
        (lambda: other_prior(observation(1)), "problem 1 differs from problem 0: prior"),
        (lambda: observation(1, **{"kspace.coils": 4}), "scans of different sizes"),
    ],
    ids=["size", "prior", "coils"],
)
def test_observations_that_cannot_share_a_batch_are_refused(other, message):
    with pytest.raises(ValueError, match=f"stack: {message}"):
        stack([observation(0), other()])

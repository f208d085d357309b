"""Cards of restoration from a picture to a result; pictures that should be refused."""

import sys
from dataclasses import replace
from types import ModuleType
from urllib.error import URLError

import numpy as np
import pytest
import torch
from instances_restoration import blur_network
from PIL import Image

from lmaps_science import load_problem, sample
from lmaps_science.io import DataError, read_netcdf
from lmaps_science.io.files import atomic_write, sha256
from lmaps_science.io.pytorch import write_tensors
from lmaps_science.metrics import psnr
from lmaps_science.physics.encoded_blur import EncodedBlur
from lmaps_science.plots import plot_reconstruction, plot_samples
from lmaps_science.priors import (
    Control,
    DiagonalCovariance,
    NetworkDenoiser,
    build_network,
    from_function,
    load_prior,
    save_control,
    save_prior,
)
from lmaps_science.problems.restoration import KIND, perceptual
from lmaps_science.problems.restoration.photographs import HELD_OUT, NUMBER, held_out_photograph
from lmaps_science.problems.restoration.pictures import read_picture, write_picture
from lmaps_science.problems.restoration.problem import alike
from lmaps_science.runner import reconstruct
from lmaps_science.solvers import ExactSVD

CARDS = sorted(path.stem for path in KIND.cards.glob("*.yaml"))
SMALL = {"picture.npix": 32}
KERNELS = {"gaussian_blur": 15, "motion_blur": 15, "nonlinear_blur": 15}


def small(card, data=None, **changes):
    overrides = dict(SMALL)
    if card in KERNELS:
        overrides["degradation.size"] = KERNELS[card]
    prior = changes.pop("prior", "gaussian")
    overrides |= {key.replace("__", "."): value for key, value in changes.items()}
    return load_problem(f"restoration/{card}", data, prior, overrides, preset="quick")


def crop_prior(npix=16):
    """An untrained network without attention, as priors of crops have it."""
    config = {
        "architecture": "song",
        "preconditioning": "edm",
        "sigma_data": 0.5,
        "image_shape": [3, npix, npix],
        "patch": 2,
        "model_channels": 8,
        "channel_mult": [1, 1],
        "num_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NetworkDenoiser(build_network(config), (3, npix, npix), (-1.0, 1.0))


def save(path, pixels, **options):
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, format=options.pop("format", "PNG"), **options)
    return path


# ---------------------------------------------------------------- cards


@pytest.mark.parametrize("card", CARDS)
def test_every_card_runs_and_is_drawn(card, tmp_path):
    problem = small(card)
    result = sample(problem, problem.solver, 2, progress=False)
    data = problem.analyse(result)
    assert data["image"].dims == ("sample", "channel", "y", "x")
    assert list(data["channel"].values) == list("RGB")
    assert np.isfinite(data["image"]).all()
    assert {"chi2", "psnr", "ssim"} <= set(data)
    plot_reconstruction(data, path=tmp_path / "figure.png")
    plot_samples(data, path=tmp_path / "samples.png")
    assert "known" in repr(problem)


@pytest.mark.parametrize("card", ["random", "motion_blur", "nonlinear_blur"])
def test_a_gaussian_prior_beats_what_was_measured(card):
    problem = small(card, picture__noise=0.01)
    data = problem.analyse(sample(problem, problem.solver, 4, progress=False))
    truth, seen = problem.truth.values, problem.observation["data"].values
    factor = truth.shape[1] // seen.shape[1]
    naive = np.kron(seen, np.ones((1, factor, factor)))
    assert data.attrs["metrics_of_mean"]["psnr"] > float(psnr(naive[None], truth[None])[0]) + 1


def test_the_noise_is_as_stated_and_the_truth_has_chi2_of_one():
    problem = small("gaussian_blur")
    assert problem.evaluate(problem.truth.values[None])["chi2"] == pytest.approx(1, abs=0.1)
    masked = small("random")
    assert masked.count == pytest.approx(0.3 * 3 * 32 * 32, abs=3)
    assert masked.evaluate(masked.truth.values[None])["chi2"] == pytest.approx(1, abs=0.15)


def test_jpeg_and_levels_have_no_noise_unless_asked():
    problem = small("jpeg")
    assert problem.evaluate(problem.truth.values[None])["chi2"] == 0
    levels = np.unique(small("quantize").observation["data"].values)
    np.testing.assert_allclose(levels, [0, 1 / 3, 2 / 3, 1], atol=1e-6)


def test_phase_retrieval_scores_the_better_of_two_and_turns_samples_alike():
    problem = small("phase")
    truth = problem.truth.values[None]
    turned = truth[..., ::-1, ::-1].copy()
    scores = problem.evaluate(np.concatenate([truth, turned]))
    assert np.isinf(scores["psnr"]).all()
    np.testing.assert_allclose(scores["ssim"], 1, atol=1e-6)
    np.testing.assert_allclose(scores["chi2"], scores["chi2"][0], rtol=1e-4)
    both = alike(np.concatenate([truth, turned]), truth[0])
    np.testing.assert_array_equal(both[1], both[0])


def test_solvers_that_need_singular_vectors_find_them():
    for card in ("sr4", "random", "gaussian_blur", "uniform_blur"):
        assert "svd" in small(card).provides
    assert "svd" not in small("motion_blur").provides
    assert "svd" in small("motion_blur", degradation__border="circular").provides


def test_other_data_change_the_scores():
    problem = small("gaussian_blur")
    changed = problem.with_data(problem.misfit.data + 0.1)
    assert changed.evaluate(problem.truth.values[None])["chi2"] > 5
    assert not changed.observation["data"].equals(problem.observation["data"])


# ---------------------------------------------------------------- what any photograph has


def test_a_prior_without_a_covariance_has_that_of_photographs_here():
    own = crop_prior(32)
    problem = small("random", prior=own)
    assert own.covariance is None  # the user's is left as it was
    assert "covariance" in problem.provides
    expected = small("random").prior.covariance.eigenvalues
    torch.testing.assert_close(problem.prior.covariance.eigenvalues, expected)
    assert problem.to(torch.float64).prior.covariance.eigenvalues.dtype == torch.float64


def test_pictures_of_several_sizes_have_covariances_of_theirs(tmp_path):
    first = small("random", prior=crop_prior()).prior
    for size in ((32, 32), (21, 30)):
        path = tmp_path / f"{size[0]}.png"
        write_picture(path, held_out_photograph(0, 32)[:, : size[0], : size[1]])
        problem = small("random", path, prior=first)  # as a batch shares it
        assert problem.prior.covariance.eigenvalues.shape == (3, *size)


def test_singular_vectors_say_which_option_is_in_their_way():
    problem = small("gaussian_blur")
    with pytest.raises(ValueError, match=r"solver\.covariance=isotropic"):
        sample(problem, replace(problem.solver, local=ExactSVD()), progress=False)


def test_an_image_shape_that_is_a_list_will_do():
    own = from_function(lambda x, sigma: x / (1 + sigma**2), [3, 32, 32])
    assert "covariance" in small("random", prior=own).provides


def test_a_covariance_that_a_prior_brings_is_kept():
    own = crop_prior(32)
    own.covariance = DiagonalCovariance(torch.ones(3, 32, 32))
    problem = small("random", prior=own)
    assert isinstance(problem.prior.covariance, DiagonalCovariance)


@pytest.mark.parametrize("side", [16, 32, 64])
def test_the_power_of_photographs_is_that_of_the_covariance(side):
    squares = [held_out_photograph(k, side) for k in range(0, NUMBER, len(HELD_OUT))]
    window = np.hanning(side + 1)[:side]
    window = window[:, None] * window
    window /= np.sqrt(np.mean(window**2))
    centred = 2 * np.stack(squares) - 1
    centred = (centred - centred.mean((-2, -1), keepdims=True)) * window
    power = np.mean(np.abs(np.fft.fft2(centred, norm="ortho")) ** 2, (0, 1))
    k = np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(side)]))
    model = small("random", picture__npix=side).prior.covariance.eigenvalues[0].numpy()
    for low, high in ((0.1, 0.2), (0.2, 0.3), (0.3, 0.5)):
        ring = (k >= low) & (k < high)
        assert 0.2 < power[ring].mean() / model[ring].mean() < 5, (low, high)


def test_the_power_of_a_frequency_is_the_same_in_pictures_of_all_sizes():
    few, many = (small("random", picture__npix=n).prior.covariance.eigenvalues[0] for n in (16, 64))
    torch.testing.assert_close(few[1, 2], many[4, 8])
    variance = small("random", picture__npix=512).prior.covariance.eigenvalues.mean()
    assert float(variance) == pytest.approx(0.25, rel=0.1)


def test_neighbours_that_go_together_help_where_single_pixels_are_known():
    problem = load_problem("restoration/sr_mask", overrides={"picture.npix": 64})
    psnrs = {
        covariance: problem.analyse(
            sample(problem, replace(problem.solver, covariance=covariance), progress=False)
        )["psnr"].item()
        for covariance in ("prior", "isotropic")
    }
    assert psnrs["prior"] > psnrs["isotropic"] + 1


# ---------------------------------------------------------------- pictures of any size


def test_a_picture_of_any_size_is_restored_by_a_prior_of_crops(tmp_path):
    path = tmp_path / "photo.png"
    write_picture(path, held_out_photograph(0, 32)[:, :21, :30])
    problem = small("random", path, prior=crop_prior())
    assert problem.prior.image_shape == problem.image.shape == (3, 21, 30)
    data = problem.analyse(sample(problem, problem.solver, 1, progress=False))
    assert data["image"].shape == (1, 3, 21, 30)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (4, 5)])
def test_pictures_that_are_too_narrow_to_be_mirrored_are_restored(size, tmp_path):
    path = tmp_path / "narrow.png"
    write_picture(path, held_out_photograph(0, 16)[:, : size[0], : size[1]])
    config = {**crop_prior().network.config, "channel_mult": [1, 1, 1], "patch": 2}
    prior = NetworkDenoiser(build_network(config), (3, 16, 16), (-1.0, 1.0))
    problem = small("quantize", path, prior=prior)
    data = problem.analyse(sample(problem, problem.solver, 1, progress=False))
    assert data["image"].shape == (1, 3, *size)


def test_a_small_picture_is_enlarged_and_written(tmp_path):
    path, out = tmp_path / "small.png", tmp_path / "out"
    write_picture(path, held_out_photograph(0, 12))
    problem = small("sr4", path, picture__degraded=True)
    assert problem.image.shape == (3, 48, 48)
    assert problem.truth is None
    reconstruct(problem, out, n_samples=2, seed=0, progress=False)
    assert read_picture(out / "mean.png").shape == (3, 48, 48)
    assert read_netcdf(out / "result.nc").attrs["verdict"]


def test_a_mask_is_a_picture(tmp_path):
    path = tmp_path / "mask.png"
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :10] = 255
    problem = small("random", degradation__file=str(save(path, mask)))
    assert problem.count == 3 * 32 * 10
    save(path, mask // 255)
    with pytest.raises(DataError, match=r"degradation.file.*hides every pixel.*0.39 % .*255"):
        small("random", degradation__file=str(path))
    with pytest.raises(DataError, match=r"degradation.file: .*is not a file"):
        small("random", degradation__file=str(tmp_path))


def test_the_published_network_blurs_where_its_weights_are_given(tmp_path):
    path = tmp_path / "blur.pth"
    write_tensors(path, blur_network().float().state_dict())
    changes = {**SMALL, "degradation.kind": "encoded_blur", "degradation.weights": str(path)}
    card = "restoration/nonlinear_blur"
    problem = load_problem(card, prior="gaussian", overrides=changes, preset="quick")
    assert isinstance(problem.physical.operator, EncodedBlur)
    assert problem.facts["inputs"]["files"]["degradation.weights"]["sha256"] == sha256(path)
    other = load_problem(card, prior="gaussian", overrides={**changes, "degradation.seed": 1})
    assert not other.observation["data"].equals(problem.observation["data"])
    data = problem.analyse(sample(problem, problem.solver, 1, progress=False))
    assert np.isfinite(data["image"]).all()
    with pytest.raises(DataError, match=r"degradation.encoded_blur.*40 x 40 pixels.*multiples of"):
        load_problem(card, prior="gaussian", overrides={**changes, "picture.npix": 40})
    write_tensors(path, {})
    with pytest.raises(DataError, match=r"degradation\.weights: .*blur\.pth.*another network"):
        load_problem(card, prior="gaussian", overrides=changes)


def test_test_photographs_are_not_trained_on_and_say_where_they_come_from():
    image = held_out_photograph(0, 16)
    assert image.shape == (3, 16, 16)
    assert 0 <= image.min() < image.max() <= 1
    part = held_out_photograph(len(HELD_OUT), 16)
    assert np.abs(part - image).max() > 0.1
    with pytest.raises(DataError, match="photograph:60"):
        small("sr4", picture__image="photograph:60")


# ---------------------------------------------------------------- what files hold


def test_pictures_of_all_kinds_are_read(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    expected = np.moveaxis(pixels, -1, 0) / np.float32(255)
    for name in ("PNG", "TIFF", "BMP"):
        found = read_picture(save(tmp_path / f"a.{name.lower()}", pixels, format=name))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    opaque = np.dstack([pixels, np.full((6, 8), 255, np.uint8)])
    np.testing.assert_allclose(read_picture(save(tmp_path / "b.png", opaque)), expected, atol=1e-6)
    deep = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1300
    found = read_picture(save(tmp_path / "c.png", deep))
    np.testing.assert_allclose(found[1], deep / 65535, atol=1e-6)
    grey = read_picture(save(tmp_path / "d.png", pixels[..., 0].copy()))
    np.testing.assert_array_equal(grey[0], grey[2])


def test_pictures_are_turned_as_their_camera_was(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = read_picture(save(tmp_path / "turned.png", pixels, exif=exif))
    assert found.shape == (3, 8, 6)


def test_what_is_written_is_read_again(tmp_path):
    image = held_out_photograph(0, 16)
    write_picture(tmp_path / "a.png", image)
    np.testing.assert_allclose(read_picture(tmp_path / "a.png"), image, atol=0.5 / 255 + 1e-6)


def transparent(path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[0, 0, 3] = 100
    return save(path, pixels)


def cmyk(path):
    path = path.with_suffix(".jpg")
    with atomic_write(path) as temporary:
        Image.new("CMYK", (8, 8)).save(temporary, format="JPEG")
    return path


def floating(path):
    path = path.with_suffix(".tiff")
    with atomic_write(path) as temporary:
        Image.fromarray(np.zeros((8, 8), np.float32)).save(temporary, format="TIFF")
    return path


def cut_short(path):
    whole = save(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(whole.read_bytes()[:2000])
    return path


def text(path):
    path.write_text("no picture")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (transparent, "transparent"),
        (cmyk, "CMYK"),
        (floating, "mode F"),
        (cut_short, "no picture that can be read"),
        (text, "no picture that can be read"),
        (lambda path: path, "no such file"),
    ],
)
def test_files_that_are_no_such_pictures_are_refused(make, message, tmp_path):
    with pytest.raises(DataError, match=message):
        small("sr4", make(tmp_path / "a.png"))


@pytest.mark.parametrize(
    ("card", "changes", "message"),
    [
        ("sr4", {"picture.npix": 30}, r"super_resolution.*divide the size"),
        ("sr4", {"degradation.factor": 1}, "greater than or equal to 2"),
        ("gaussian_blur", {"picture.npix": 40}, "larger than the image"),
        ("gaussian_blur", {"degradation.size": 8}, "even"),
        ("motion_blur", {"degradation.intensity": 3}, "less than or equal to 1"),
        ("jpeg", {"degradation.quality": 0}, "greater than or equal to 1"),
        ("jpeg", {"degradation.quality": 101}, "less than or equal to 100"),
        ("random", {"degradation.share": 1.5}, "less than 1"),
        ("random", {"degradation.mask": "disc"}, "box"),
        ("random", {"degradation.kind": "smudge"}, "there is no 'smudge'"),
        ("random", {"picture.degraded": True}, "is for a file"),
        ("quantize", {"degradation.bits": 0}, "greater than or equal to 1"),
        ("sr4", {"picture.npix": 30}, r"e\.g\. 28 by 4"),
        ("sr4", {"picture.npix": 7, "degradation.factor": 9}, r"side of 7 .*e\.g\. 9 by 9"),
        ("gaussian_blur", {"degradation.size": 32}, r"even.*e\.g\. \(31,\)"),
        ("gaussian_blur", {"degradation.size": 33}, "take one of 31 or less"),
        ("gaussian_blur", {"degradation.size": 10**9 + 1}, "less than or equal to 4095"),
        ("motion_blur", {"degradation.size": 10**9 + 1}, "less than or equal to 4095"),
        ("gaussian_blur", {"degradation.sigma": float("inf")}, "less than or equal to"),
        ("random", {"degradation.share": 0.9999}, r"hides every pixel of 32 x 32.*share, e\.g\."),
        ("phase", {"degradation.oversampling": float("inf")}, "less than or equal to 16"),
        ("hdr", {"degradation.scale": float("inf")}, "less than or equal to 1000"),
        ("sr4", {"picture.noise": float("inf")}, "less than or equal to 100"),
        ("sr4", {"picture.sigma": 1e-30}, "greater than or equal to 0.000001"),
        ("sr4", {"picture.seed": 10**25}, "less than 18446744073709551616"),
        ("sr4", {"prior.std": 1e30}, "less than or equal to 100"),
    ],
)
def test_cards_that_make_no_sense_are_refused(card, changes, message):
    with pytest.raises(DataError, match=message):
        load_problem(f"restoration/{card}", prior="gaussian", overrides={**SMALL, **changes})


def test_a_name_that_is_empty_is_not_the_cards_own_picture():
    with pytest.raises(DataError, match="name of the file is empty"):
        small("sr4", "")


def test_two_pictures_at_once_are_refused(tmp_path):
    """As `lmaps batch --data FILE --each photograph` would give them."""
    path = tmp_path / "a.png"
    write_picture(path, held_out_photograph(0, 16))
    with pytest.raises(DataError, match=r"picture\.image would be ignored, or the argument data"):
        small("sr4", path, picture__image="photograph:1")


def test_conditional_weights_of_another_operator_are_refused(tmp_path):
    save_prior(tmp_path / "prior.safetensors", crop_prior(), training={})
    base = load_prior(tmp_path / "prior.safetensors")
    path = str(tmp_path / "control.safetensors")
    training = {"card": "restoration/motion_blur", "overrides": {"degradation.size": "15"}}
    save_control(path, Control(base.network), base, training=training)
    given = {"prior": base, "conditional": path, "degradation__size": 15}
    assert "conditional" in small("motion_blur", **given).provides
    assert "conditional" in small("motion_blur", **given, degradation__seed=3).provides
    for card, reason in (("uniform_blur", "degradation.kind: 'motion_blur', now 'uniform_blur'"),
                         ("motion_blur", "degradation.size: 15, now 13")):  # fmt: skip
        other = {**given, "degradation__size": 13}
        with pytest.raises(DataError, match=f"another: {reason}.*train-conditional restoration/"):
            small(card, **other)
    with pytest.raises(DataError, match=r"conditional: .*no such file.*train-conditional"):
        small("motion_blur", **{**given, "conditional": str(tmp_path / "none.safetensors")})
    save_control(path, Control(base.network), base, training={})  # from Python
    assert "conditional" in small("uniform_blur", **given).provides


def test_magnitudes_cannot_be_given_as_a_picture(tmp_path):
    path = tmp_path / "a.png"
    write_picture(path, held_out_photograph(0, 16))
    with pytest.raises(DataError, match="no picture"):
        small("phase", path, picture__degraded=True)


def test_a_prior_of_another_field_is_refused():
    with pytest.raises(DataError, match="1 channel"):
        small("sr4", prior=NetworkDenoiser(torch.nn.Identity(), (1, 32, 32), (-1.0, 1.0)))


# ---------------------------------------------------------------- LPIPS


def lpips_package(monkeypatch, network):
    """A package of that name whose network is `network`."""
    module = ModuleType("lpips")
    module.LPIPS = network
    monkeypatch.setitem(sys.modules, "lpips", module)
    perceptual._network.cache_clear()
    monkeypatch.setattr(perceptual, "_network", perceptual._network.__wrapped__)


def test_lpips_is_among_the_metrics_where_the_card_says_so(monkeypatch):
    class Distance(torch.nn.Module):
        def __init__(self, **options):
            super().__init__()
            assert options == {"net": "alex", "verbose": False}
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, x, truth, normalize):
            assert normalize  # from [0, 1], as the images are
            return self.weight * (x - truth).abs().mean((1, 2, 3), keepdim=True)

    lpips_package(monkeypatch, Distance)
    small = {"picture.npix": 32, "lpips": True}
    problem = load_problem("restoration/random", prior="gaussian", overrides=small)
    truth = problem.truth.values
    found = problem.evaluate(np.stack([truth, (truth + 0.125).clip(None, 1.0), truth + 9]))["lpips"]
    expected = [0, np.abs((truth + 0.125).clip(None, 1.0) - truth).mean(), (1 - truth).mean()]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    plain = load_problem("restoration/random", prior="gaussian", overrides={"picture.npix": 32})
    assert "lpips" not in plain.evaluate(truth[None])


def test_lpips_without_its_package_or_weights_says_what_to_do(monkeypatch):
    image = np.zeros((3, 32, 32))

    def unreachable(**options):
        raise URLError("no network")

    lpips_package(monkeypatch, unreachable)
    with pytest.raises(DataError, match=r"AlexNet.*could not be downloaded .*no network.*Fetch"):
        perceptual.lpips_distance(image[None], image)
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match=r"pip install 'lmaps-science\[lpips\]'"):
        perceptual.lpips_distance(image[None], image)

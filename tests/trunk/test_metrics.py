import numpy as np
import pytest
import torch
from registries import load_golden

from lmaps_science import metrics
from lmaps_science.problems.black_hole.metrics import blur_psnr, rescale_to_flux
from lmaps_science.problems.black_hole.phantoms import BlackHoleImages
from lmaps_science.problems.black_hole.rings import measure_rings, ring_statistics

PIXEL = 2.5  # microarcseconds


def plane(n=64, pixel=PIXEL):
    """East and north coordinates: columns run from east to west, rows from north to south."""
    centres = ((n - 1) / 2 - np.arange(n)) * pixel
    return np.meshgrid(centres, centres)


def crescent(
    diameter=42.0, width=12.0, angle=170.0, asymmetry=0.4, x=0.0, y=0.0, n=64, pixel=PIXEL
):
    """Gaussian ring with a sinusoidal azimuthal profile; every statistic is known exactly."""
    east, north = plane(n, pixel)
    radius, theta = np.hypot(east - x, north - y), np.arctan2(east - x, north - y)
    profile = np.exp(-4 * np.log(2) * ((radius - diameter / 2) / width) ** 2)
    return (profile * (1 + 2 * asymmetry * np.cos(theta - np.radians(angle))))[None, None]


def smooth_images(batch=3, n=32, seed=0):
    noise = torch.randn(batch, 1, n, n, generator=torch.Generator().manual_seed(seed))
    images = metrics.blur(noise, 4.0)
    return (images - images.amin()) / (images.amax() - images.amin())


# ---------------------------------------------------------------- PSNR, SSIM


def test_golden_psnr_and_ssim():
    golden = load_golden("image_metrics")
    pair = [golden[f"scattering_{k}"].clip(0, 1) for k in ("pred", "target")]
    np.testing.assert_allclose(metrics.psnr(*pair), golden["scattering_psnr"], rtol=1e-5)
    np.testing.assert_allclose(metrics.ssim(*pair), golden["scattering_ssim"], rtol=1e-5)
    pair = metrics.magnitudes(golden["mri_pred"], golden["mri_target"])
    np.testing.assert_allclose(metrics.psnr(*pair), golden["mri_psnr"], rtol=1e-5)
    np.testing.assert_allclose(metrics.psnr(*pair, 1e-8), golden["mri_psnr"], rtol=1e-7)
    np.testing.assert_allclose(metrics.ssim(*pair), golden["mri_ssim"], rtol=1e-5)


@pytest.mark.parametrize("window", ["gaussian", "uniform"])
def test_ssim_follows_its_definition(window):
    """One window position, moments taken with NumPy."""
    size = 11 if window == "gaussian" else 7
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 1, size, size))
    t = np.arange(size) - size // 2
    w = np.exp(-0.5 * (t / 1.5) ** 2) if window == "gaussian" else np.ones(size)
    w = np.outer(w, w) / w.sum() ** 2
    sample = 1.0 if window == "gaussian" else size**2 / (size**2 - 1)
    mu = [(w * x).sum() for x in (a[0], b[0])]
    cov = sample * ((w * a[0] * b[0]).sum() - mu[0] * mu[1])
    var = [sample * ((w * x**2).sum() - m**2) for x, m in zip((a[0], b[0]), mu, strict=True)]
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    expected = (2 * mu[0] * mu[1] + c1) * (2 * cov + c2)
    expected /= (mu[0] ** 2 + mu[1] ** 2 + c1) * (var[0] + var[1] + c2)
    value = metrics.ssim(a[None], b[None], data_range=2.0, window=window)
    np.testing.assert_allclose(value, [expected], rtol=1e-10)


def test_values_are_per_sample_and_targets_broadcast():
    a, b = smooth_images(3), smooth_images(3, seed=1)
    for metric in (
        metrics.psnr,
        metrics.ssim,
        metrics.nxcorr,
        metrics.aligned_psnr,
        blur_psnr,
        metrics.relative_misfit,
    ):
        values = metric(a, b)
        assert values.shape == (3,)
        for i in range(3):
            torch.testing.assert_close(metric(a[i : i + 1], b[i : i + 1])[0], values[i])
        torch.testing.assert_close(metric(a, b[:1])[1], metric(a[1:2], b[:1])[0])
        torch.testing.assert_close(metric(a[:, 0].numpy(), b[:, 0].numpy()), values)


def test_known_values():
    a = torch.zeros(2, 1, 16, 16)
    torch.testing.assert_close(metrics.psnr(a + 0.1, a), torch.full((2,), 20.0))
    assert torch.isinf(metrics.psnr(a, a)).all()
    ranges = torch.tensor([1.0, 10.0])
    torch.testing.assert_close(metrics.psnr(a + 0.1, a, ranges), torch.tensor([20.0, 40.0]))
    torch.testing.assert_close(metrics.ssim(smooth_images(), smooth_images()), torch.ones(3))
    y = torch.randn(2, 5, dtype=torch.complex64)
    torch.testing.assert_close(metrics.relative_misfit(1.1 * y, y), torch.full((2,), 0.1))


def test_shape_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="add the batch axis"):
        metrics.psnr(torch.zeros(8, 8), torch.zeros(8, 8))
    with pytest.raises(ValueError, match="do not match"):
        metrics.psnr(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 9))
    with pytest.raises(ValueError, match="window needs 11"):
        metrics.ssim(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="expected 'gaussian' or 'uniform'"):
        metrics.ssim(smooth_images(), smooth_images(), window="hann")
    with pytest.raises(ValueError, match="expected 'exact' or 'inversebench'"):
        metrics.align(smooth_images(), smooth_images(), mode="fast")


# ---------------------------------------------------------------- position, scale, resolution


def test_nxcorr_ignores_position_scale_and_offset():
    a = smooth_images()
    moved = 3 * a.roll((5, -7), (-2, -1)) + 0.2
    torch.testing.assert_close(metrics.nxcorr(moved, a), torch.ones(3))
    assert (metrics.nxcorr(smooth_images(seed=9), a) < 0.9).all()
    assert (metrics.nxcorr(torch.ones_like(a), a) == 0).all()


def test_alignment_undoes_whole_and_sub_pixel_shifts():
    target = torch.as_tensor(crescent(n=48)).float()
    for offset in ((0.0, 0.0), (6.0, -9.0), (-3.4, 2.65)):
        moved = crescent(n=48, x=-PIXEL * offset[1], y=-PIXEL * offset[0])
        assert metrics.aligned_psnr(moved, target) > (45 if offset[0] % 1 else 70)
    assert metrics.psnr(torch.as_tensor(moved), target) < 25


def test_exact_alignment_is_never_worse_than_the_benchmarks():
    golden = load_golden("black_hole")
    pair = golden["psnr_pred"], golden["psnr_target"]
    coarse = metrics.aligned_psnr(*pair, mode="inversebench")
    assert (metrics.aligned_psnr(*pair) >= coarse).all()
    perfect = metrics.aligned_psnr(pair[1], pair[1], mode="inversebench")
    assert (perfect < 35).all()
    assert (metrics.aligned_psnr(pair[1], pair[1]) > 100).all()


def test_golden_benchmark_psnr():
    golden = load_golden("black_hole")
    table = golden["eval_psnr_plain_f0_f10_f15_f20"]
    for column, fwhm in ((1, 0.0), (2, 10.0), (3, 15.0), (4, 20.0)):
        pair = golden["psnr_pred"], golden["psnr_target"]
        values = blur_psnr(*pair, fwhm, PIXEL, mode="inversebench")
        np.testing.assert_allclose(values, table[:, column], rtol=1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (31, 45), (8, 8)])
def test_blur_is_a_gaussian_of_the_given_fwhm(shape):
    from scipy.ndimage import gaussian_filter

    image = torch.rand(2, 1, *shape, dtype=torch.float64)
    fwhm = 6.0
    sigma = fwhm / np.sqrt(8 * np.log(2))
    expected = np.stack([gaussian_filter(x[0], sigma, mode="constant") for x in image.numpy()])
    np.testing.assert_allclose(metrics.blur(image, fwhm)[:, 0], expected, atol=1e-12)


def test_blur_scales_with_the_pixel():
    """Half the pixel size, twice the image: the blurred PSNR is that of the same sky."""
    values = []
    for n in (48, 96):
        pixel = 120.0 / n
        pair = crescent(n=n, pixel=pixel), crescent(diameter=40.0, n=n, pixel=pixel)
        values.append(float(blur_psnr(*pair, 15.0, pixel)))
    assert values[0] == pytest.approx(values[1], abs=0.3)


# ---------------------------------------------------------------- chi2


def test_chi2_of_gaussian_noise_is_one():
    generator = torch.Generator().manual_seed(0)
    sigma = torch.linspace(0.01, 0.1, 4000)
    noise = sigma * torch.randn(2, 4000, generator=generator)
    observed = torch.linspace(-3, 3, 4000)
    ones = torch.ones(2)
    torch.testing.assert_close(
        metrics.chi2(observed + noise, observed, sigma), ones, rtol=0.1, atol=0
    )
    turned = observed + noise + 2 * torch.pi
    torch.testing.assert_close(metrics.phase_chi2(turned, observed, sigma), ones, rtol=0.1, atol=0)


def test_rescaling_to_the_measured_flux():
    images = smooth_images() + 0.1
    flux = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(rescale_to_flux(images, flux).sum((1, 2, 3)), flux)
    with pytest.raises(ValueError, match="total flux 0"):
        rescale_to_flux(torch.zeros(1, 1, 4, 4), 1.0)


# ---------------------------------------------------------------- rings

CRESCENTS = [
    {},
    {"diameter": 38.0, "width": 8.0, "angle": 90.0, "asymmetry": 0.49},
    {"diameter": 46.0, "width": 16.0, "angle": 270.0, "asymmetry": 0.05, "x": -11.0},
    {"angle": 300.0, "asymmetry": 0.25, "x": 7.3, "y": -4.1},
    {"n": 128, "pixel": 1.25, "width": 6.0, "diameter": 30.0},
    {"n": 32, "pixel": 5.0, "width": 14.0},
]


@pytest.mark.parametrize("options", CRESCENTS)
def test_ring_statistics_of_analytic_crescents(options):
    truth = {"diameter": 42.0, "width": 12.0, "angle": 170.0, "asymmetry": 0.4, "x": 0.0, "y": 0.0}
    truth |= options
    ring = ring_statistics(crescent(**options), truth.get("pixel", PIXEL))
    for name, tolerance in (("diameter", 0.1), ("width", 0.2), ("x", 0.1), ("y", 0.1)):
        assert float(ring[name]) == pytest.approx(truth[name], abs=tolerance)
    off = (float(ring["orientation"]) - truth["angle"] + 180) % 360 - 180
    assert abs(off) < 1
    assert float(ring["asymmetry"]) == pytest.approx(truth["asymmetry"], abs=0.01)
    assert float(ring["diameter_scatter"]) < 0.5
    assert float(ring["central_brightness"]) < 0.05


def test_orientation_has_north_up_and_east_to_the_left():
    """Brighter bottom rows are south, 180 degrees; brighter left columns are east, 90."""
    rows, columns = np.mgrid[0:64, 0:64] / 63 - 0.5
    round_ring = crescent(asymmetry=0.0)
    for brightness, angle in ((rows, 180), (-rows, 0), (-columns, 90), (columns, 270)):
        ring = ring_statistics(round_ring * (1 + brightness), PIXEL)
        assert abs((float(ring["orientation"]) - angle + 180) % 360 - 180) < 1


def test_central_brightness_of_a_filled_ring():
    east, north = plane()
    disc = 0.3 * (np.hypot(east, north) < 15)
    ring = ring_statistics(crescent(width=8.0, asymmetry=0.2) + disc, PIXEL)
    assert float(ring["central_brightness"]) == pytest.approx(0.3, abs=0.02)


def test_rings_are_measured_sample_by_sample_and_survive_noise():
    clean = np.concatenate([crescent(), crescent(diameter=36.0, angle=200.0)])
    noisy = clean + 0.02 * np.random.default_rng(0).standard_normal(clean.shape)
    both = ring_statistics(noisy, PIXEL)
    np.testing.assert_allclose(both["diameter"], [42.0, 36.0], atol=0.5)
    np.testing.assert_allclose(both["orientation"], [170.0, 200.0], atol=3)
    alone = ring_statistics(torch.as_tensor(noisy[1:]), PIXEL)
    assert all(float(both[name][1]) == float(alone[name][0]) for name in both)


def test_images_without_a_ring_give_nan():
    east, north = plane()
    blob = np.exp(-(east**2 + north**2) / 200)
    for image in (np.zeros((64, 64)), blob, np.full((64, 64), np.nan)):
        ring = ring_statistics(image[None], PIXEL)
        assert all(torch.isnan(value).all() for value in ring.values())
    with pytest.raises(ValueError, match="2 channels"):
        ring_statistics(np.zeros((1, 2, 8, 8)), PIXEL)


def arc(extent):
    """A circle of 42 microarcseconds that is lit over `extent` degrees, on a faint background."""
    east, north = plane()
    theta = np.degrees(np.arctan2(east, north))
    return crescent(asymmetry=0.0)[0, 0] * (abs(theta) < extent / 2) + 0.01


def double():
    east, north = plane()
    return sum(np.exp(-((east - x) ** 2 + north**2) / 100) for x in (-20, 20))


def bar():
    east, north = plane()
    return np.exp(-((east / 30) ** 2) - (north / 6) ** 2)


def filled():
    """A disc with a bright rim."""
    east, north = plane()
    return 0.1 * crescent(asymmetry=0.0)[0, 0] + (np.hypot(east, north) < 21)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (arc(120), "not closed"),
        (arc(180), "not closed"),
        (arc(250), "not closed"),
        (double(), "not closed"),
        (bar(), "no point around which"),
        (filled(), "its centre is too bright"),
        (np.zeros((64, 64)), "blank"),
    ],
)
def test_bars_arcs_and_discs_are_no_rings(image, reason):
    ring, (why,) = measure_rings(image[None], PIXEL)
    assert reason in why
    assert all(torch.isnan(value).all() for value in ring.values())


def test_rings_have_no_reason_to_be_none():
    images = np.concatenate([crescent(), crescent(asymmetry=0.49), arc(330)[None, None]])
    ring, reasons = measure_rings(images, PIXEL)
    assert reasons == ["", "", ""]
    np.testing.assert_allclose(ring["diameter"], 42.0, atol=0.6)


def test_phantoms_without_a_ring_have_none():
    """Of the first 16 random images all 6 without; of the others, all but an arc."""
    images = BlackHoleImages(seed=1)
    other = np.array([images.family(k) == "other" for k in range(16)])
    diameter = ring_statistics(images.batch(0, 16), PIXEL)["diameter"].numpy()
    assert np.isnan(diameter[other]).all()
    assert np.isfinite(diameter[~other]).sum() >= 9

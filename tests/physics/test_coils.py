import numpy as np
import pytest
from registries import load_golden

from lmaps_science.physics.coils import (
    compress_coils,
    estimate_maps,
    estimate_noise,
    mvue,
    noise_covariance,
    prewhiten,
)
from lmaps_science.physics.sampling import line_mask

GOLDEN = load_golden("multi_coil_mri")
SHAPE = (72, 64)


def rss(kspace):
    """Root of the coils' summed squares: what their images are, whatever the maps."""
    images = np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho")
    return np.fft.fftshift(np.sqrt((np.abs(images) ** 2).sum(-3)), axes=(-2, -1))


def true_maps(coils: int = 6) -> np.ndarray:
    """Smooth complex maps of unit norm: coils on a circle around the image."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    angle = 2 * np.pi * np.arange(coils)[:, None, None] / coils
    away = (x - 1.4 * np.cos(angle)) + 1j * (y - 1.4 * np.sin(angle))
    maps = np.exp(1j * angle) / away
    return maps / np.sqrt((np.abs(maps) ** 2).sum(0))


def head() -> np.ndarray:
    """An ellipse with structure and a smooth phase."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    inside = (x / 0.7) ** 2 + (y / 0.8) ** 2 < 1
    pattern = 0.7 + 0.2 * np.sin(9 * x) * np.cos(7 * y) + 0.3 * ((x - 0.2) ** 2 + y**2 < 0.05)
    return inside * pattern * np.exp(0.5j * (x + y**2))


def transform(x: np.ndarray) -> np.ndarray:
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x, axes=axes), norm="ortho"), axes=axes)


def noise(shape: tuple[int, ...], sigma: float = 1.0, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    draw = random.standard_normal((2, *shape))
    return sigma * (draw[0] + 1j * draw[1]) / np.sqrt(2)


def scan(sigma: float = 0.01) -> np.ndarray:
    kspace = transform(true_maps() * head())
    return kspace + noise(kspace.shape, sigma)


# ---------------------------------------------------------------- combination


def test_mvue_and_rss_match_the_benchmark():
    image = mvue(GOLDEN["kspace"], GOLDEN["maps"])
    np.testing.assert_allclose(image, GOLDEN["mvue"][0], rtol=0, atol=1e-5 * abs(image).max())
    expected = GOLDEN["rss"][0]
    np.testing.assert_allclose(rss(GOLDEN["kspace"]), expected, atol=1e-5 * expected.max())
    assert image.dtype == np.complex64


def test_mvue_recovers_the_image_and_is_zero_without_maps():
    maps = true_maps() * (np.abs(head()) > 0)
    kspace = transform(true_maps() * head())
    np.testing.assert_allclose(mvue(kspace, maps), head(), atol=1e-12)
    batch = mvue(np.stack([kspace, 2 * kspace]), maps)
    np.testing.assert_allclose(batch[1], 2 * head(), atol=1e-12)
    np.testing.assert_allclose(rss(kspace), abs(head()), atol=1e-12)
    with pytest.raises(ValueError, match="both need the same"):
        mvue(kspace[1:], maps)


# ---------------------------------------------------------------- coil maps


@pytest.mark.parametrize("lines", [4, 5, 7, 9, 24])
@pytest.mark.parametrize("axis", [0, 1])
def test_maps_from_few_lines_are_the_true_ones(lines, axis):
    mask = np.zeros(SHAPE, dtype=bool)
    low = SHAPE[axis] // 2 - lines // 2
    np.moveaxis(mask, axis, 0)[low : low + lines] = True
    maps = estimate_maps(scan() * mask, mask)
    assert maps.dtype == np.complex64
    inside = np.abs(head()) > 0
    norms = np.sqrt((np.abs(maps) ** 2).sum(0))
    np.testing.assert_allclose(norms[inside], 1, rtol=1e-5)
    assert set(np.unique(norms.round(3))) <= {0, 1}
    agreement = np.abs((maps.conj() * true_maps()).sum(0))[inside]
    assert agreement.mean() > 0.995
    assert np.quantile(agreement, 0.01) > 0.97


def test_maps_come_from_the_calibration_lines_alone():
    kspace, mask = scan(), line_mask(SHAPE, 4, axis=-2, seed=1)
    rows = np.arange(SHAPE[0])
    far = mask & (np.abs(rows - SHAPE[0] // 2) > 12)[:, None]
    assert far.any()
    changed = np.where(mask, kspace, 1e3) * np.where(far, -1, 1)
    np.testing.assert_array_equal(estimate_maps(kspace, mask), estimate_maps(changed, mask))


def test_full_calibration_agrees_with_sigpy():
    mri = pytest.importorskip("sigpy.mri")
    kspace = scan().astype(np.complex64)
    maps = estimate_maps(kspace, crop=0)
    theirs = mri.app.EspiritCalib(kspace, crop=0, show_pbar=False).run()
    inside = np.abs(head()) > 0
    agreement = np.abs((maps.conj() * theirs).sum(0))[inside]
    assert agreement.min() > 0.999


def test_strong_noise_does_not_turn_into_maps():
    """At a signal-to-noise ratio of 3 most singular vectors of the region are noise."""
    maps = estimate_maps(scan(0.3), crop=0)
    inside = np.abs(head()) > 0
    assert np.abs((maps.conj() * true_maps()).sum(0))[inside].mean() > 0.97


def test_crop_leaves_the_background_out():
    assert (np.abs(estimate_maps(scan(), crop=0)).sum(0) > 0).all()
    cropped = np.abs(estimate_maps(scan())).sum(0) > 0
    assert cropped[np.abs(head()) > 0].all()
    assert cropped.mean() < 0.9


def test_unusable_calibration_is_refused():
    kspace, mask = scan(), np.zeros(SHAPE, dtype=bool)
    with pytest.raises(ValueError, match="centre of k-space"):
        estimate_maps(kspace, mask)
    mask[35:38] = True
    with pytest.raises(ValueError, match="3 x 24 samples, expected at least 4 x 4"):
        estimate_maps(kspace, mask)
    with pytest.raises(ValueError, match="zero everywhere"):
        estimate_maps(kspace * 0)
    with pytest.raises(ValueError, match="non-finite"):
        estimate_maps(kspace * np.nan)
    with pytest.raises(ValueError, match="expected complex"):
        estimate_maps(kspace.real)
    with pytest.raises(ValueError, match="expected a mask of"):
        estimate_maps(kspace, mask[1:])
    with pytest.raises(ValueError, match="crop=1"):
        estimate_maps(kspace, crop=1)


def test_measured_slice_gives_maps_from_its_central_lines(data_dir):
    kspace = np.load(data_dir / "mri" / "brain_8ch_kspace.npy")
    acquired = np.abs(kspace).any(0)
    whole = estimate_maps(kspace, acquired)
    support = np.abs(whole).sum(0) > 0
    assert 0.5 < support.mean() < 0.95
    for axis in (0, 1):
        mask = acquired & line_mask(acquired.shape, 8, axis=axis)
        few = estimate_maps(kspace * mask, mask, crop=0)
        assert np.isfinite(few).all()
        agreement = np.abs((few.conj() * whole).sum(0))[support]
        assert agreement.mean() > 0.98


# ---------------------------------------------------------------- noise


def test_zeros_that_were_filled_in_are_no_noise():
    """As in files that hold a Poisson disc of samples: seven of eight corner samples are zero."""
    rng = np.random.default_rng(0)
    k = (rng.normal(size=(8, 64, 64)) + 1j * rng.normal(size=(8, 64, 64))) / np.sqrt(2)
    filled = k * (rng.random((64, 64)) < 0.125)
    assert estimate_noise(filled) == pytest.approx(1, abs=0.1)
    assert estimate_noise(filled, np.ones((64, 64), bool)) == pytest.approx(1, abs=0.1)
    assert estimate_noise(0 * k, np.ones((64, 64), bool)) == 0


def coloured(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Correlated noise of 4 coils, and its covariance."""
    factor = np.linalg.cholesky(np.diag([1.0, 2, 3, 4]) + 0.4)
    n = noise((4, *shape))
    return np.tensordot(factor, n, 1), factor @ factor.conj().T


def test_covariance_of_a_noise_scan_and_prewhitening():
    n, expected = coloured((20000,))
    covariance = noise_covariance(n)
    np.testing.assert_allclose(covariance, expected, atol=0.12)
    white = prewhiten(n[:, None], covariance)[:, 0]
    np.testing.assert_allclose(noise_covariance(white), np.eye(4), atol=0.03)


def test_noise_from_the_corners_in_spite_of_signal():
    n, expected = coloured((96, 96))
    k = n.copy()
    k[:, 38:58, 38:58] += 500  # the centre, which is no corner
    k[:, 2:4, 2:4] += 50  # and something that is
    np.testing.assert_allclose(noise_covariance(k), expected, atol=0.5)
    sigma = np.sqrt(np.trace(expected).real / 4)
    assert 0.85 * sigma < estimate_noise(k) < sigma  # correlations lower it
    white = prewhiten(k, noise_covariance(k))
    assert estimate_noise(white) == pytest.approx(1, rel=0.05)


def test_noise_of_coils_of_unequal_levels():
    k = np.array([1, 2, 3, 4])[:, None, None] * noise((4, 96, 96))
    k[:, 38:58, 38:58] += 500
    sigma = np.sqrt(30 / 4)
    assert estimate_noise(k) == pytest.approx(sigma, rel=0.05)
    mask = line_mask((96, 96), 4)
    assert estimate_noise(k * mask, mask) == pytest.approx(sigma, rel=0.1)
    assert estimate_noise(k * mask) == pytest.approx(sigma, rel=0.1)  # zeros were not acquired


def test_noise_where_the_outermost_samples_hold_signal():
    y, x = (np.abs(np.arange(n) - n // 2) / (n / 2) for n in SHAPE)
    mask, edge = np.hypot(y[:, None], x) < 1.1, np.hypot(y[:, None], x) >= 0.99
    clean, sigma = transform(true_maps(8) * head()), 0.02
    for seed in range(3):
        k = clean + noise(clean.shape, sigma, seed)
        assert estimate_noise(k * mask, mask) == pytest.approx(sigma, rel=0.07)
        assert estimate_noise(k) == pytest.approx(sigma, rel=0.05)
        assert estimate_noise(k[:1] * mask, mask) > 1.15 * sigma  # one coil cannot tell
    assert estimate_noise(k * mask * ~edge) == pytest.approx(sigma, rel=0.07)  # no corner at all
    pure = noise(clean.shape, sigma)
    assert estimate_noise(pure * mask, mask) == pytest.approx(sigma, rel=0.05)


def test_noise_of_the_measured_slice(data_dir):
    """What least squares, which need no prior, leave of its outer k-space is 0.0143."""
    k = np.load(data_dir / "mri" / "brain_8ch_kspace.npy")
    assert estimate_noise(k) == pytest.approx(0.0143, rel=0.03)


def test_noise_is_refused_where_there_is_none():
    mask = np.zeros((32, 32), dtype=bool)
    mask[16] = True
    with pytest.raises(ValueError, match="expected at least ten for each"):
        estimate_noise(noise((2, 32, 32)), mask)
    with pytest.raises(ValueError, match="complex"):
        noise_covariance(np.ones((2, 400)))
    with pytest.raises(ValueError, match=r"the mask \(3, 3\)"):
        estimate_noise(noise((2, 32, 32)), np.ones((3, 3)))
    with pytest.raises(ValueError, match=r"not positive definite.*drop it"):
        noise_covariance(noise((2, 400)) * np.array([[1], [0]]))
    with pytest.raises(ValueError, match="not positive definite"):
        prewhiten(noise((2, 8, 8)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"\(coils, coils\)"):
        prewhiten(noise((2, 8, 8)), np.eye(3))


# ---------------------------------------------------------------- compression


def test_compression_keeps_signal_and_white_noise():
    kspace, coils = scan(0.0), 4
    compressed, matrix = compress_coils(kspace, coils)
    assert compressed.shape == (coils, *SHAPE)
    np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(coils), atol=1e-12)
    np.testing.assert_allclose(compressed, np.tensordot(matrix, kspace, 1), atol=1e-12)
    # No combination of 4 coils holds more: the discarded energy is that of the smallest values.
    values = np.linalg.svd(kspace.reshape(len(kspace), -1), compute_uv=False)
    lost = np.linalg.norm(kspace) ** 2 - np.linalg.norm(compressed) ** 2
    assert lost == pytest.approx((values[coils:] ** 2).sum(), rel=1e-6)
    whole, _ = compress_coils(kspace, len(kspace))
    np.testing.assert_allclose(rss(whole), rss(kspace), atol=1e-10)
    with pytest.raises(ValueError, match="7 of 6 coils"):
        compress_coils(kspace, 7)

"""Receive coils: combined images, noise, compression, and coil maps from the calibration lines.

NumPy (or xarray) arrays in, NumPy arrays out. Of k-space and maps the coils are axis -3, before
(H, W). Fourier transforms are centred and orthonormal.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from lmaps_science.physics.sampling import calibration_region

__all__ = [
    "compress_coils",
    "estimate_maps",
    "estimate_noise",
    "mvue",
    "noise_covariance",
    "prewhiten",
]


def mvue(kspace: ArrayLike, maps: ArrayLike) -> np.ndarray:
    """The minimum-variance combination of coil images, complex (..., H, W).

        x = sum_c conj(S_c) F^-1 k_c / sqrt(sum_c |S_c|^2),    0 where all maps are 0

    of k-space and maps (..., coils, H, W), for white noise. Where the maps have unit norm and
    k-space is fully sampled it is the least-squares image. Raises ValueError for shapes that
    differ.

    Example:
        >>> maps = np.ones((4, 8, 8), dtype=np.complex64) / 2
        >>> mvue(np.ones((4, 8, 8), dtype=np.complex64), maps).shape
        (8, 8)
    """
    k, s = np.asarray(kspace), np.asarray(maps)
    if k.shape[-3:] != s.shape[-3:]:
        raise ValueError(
            f"mvue: k-space has shape {k.shape} and the maps {s.shape}; both need the same "
            "(coils, H, W)."
        )
    norm = np.sqrt((np.abs(s) ** 2).sum(-3))
    image = (s.conj() * _centred_ifft2(k)).sum(-3)
    return image / np.where(norm > 0, norm, 1)


# ---------------------------------------------------------------- coil maps


def estimate_maps(
    kspace: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    width: int = 24,
    threshold: float = 0.01,
    crop: float = 0.9,
) -> np.ndarray:
    """Coil maps from the calibration lines by ESPIRiT: complex64 (coils, H, W) of unit norm.

    Only the fully sampled centre of `mask` (H, W) is used (all of k-space without a mask), at most
    `width` samples of it along each axis; it may be a rectangle, such as 9 lines of 24 samples. In
    it, k-space patches of all coils span a small subspace: the singular vectors whose values are
    above `threshold` times the largest one and above those of the noise. The maps are, pixel by
    pixel, the coil vector that this subspace reproduces best. The patches have a third of the
    region's samples along each axis, 2 to 6, so that a few lines still hold enough of them.

    The maps are 0 where the subspace reproduces less than `crop` of the best vector: outside the
    object, which a reconstruction does well to know. `crop=0` gives maps everywhere. Their phase is
    relative to the strongest combination of coils.

    Raises ValueError for a region narrower than 4 samples, k-space that is zero or not finite
    there, and options out of range.

    Source: Uecker et al. 2014 (ESPIRiT).
    """
    k = _checked_kspace("estimate_maps", kspace)
    shape = k.shape[1:]
    full = np.ones(shape, dtype=bool) if mask is None else np.asarray(mask)
    if full.shape != shape or width < 4 or not (0 <= threshold < 1 and 0 <= crop < 1):
        raise ValueError(
            f"estimate_maps: k-space of {k.shape} with a mask of {full.shape}, {width=}, "
            f"{threshold=}, {crop=}; expected a mask of {shape}, a width of at least 4, and a "
            "threshold and a crop from 0 to below 1."
        )
    region = _centre_of(calibration_region(full), shape, width)
    calibration = k[(slice(None), *region)].astype(np.complex128)
    size = calibration.shape[1:]
    if min(size) < 4:
        raise ValueError(
            f"estimate_maps: the calibration region is {size[0]} x {size[1]} samples, expected at "
            "least 4 x 4: too little to tell how the coils see. Give the maps, e.g. from another "
            "scan, or sample more central lines."
        )
    if not np.isfinite(calibration).all() or not calibration.any():
        raise ValueError(
            "estimate_maps: the calibration region holds non-finite values or is zero everywhere. "
            "Check that k-space is centred, with its zero frequency at n // 2."
        )
    try:
        sigma = estimate_noise(k, full)
    except ValueError:  # no corner was sampled: the threshold has to do
        sigma = 0.0
    maps, strength = _espirit(calibration, shape, threshold, sigma)
    # One coil alone may see nothing in places, where its phase would be noise; this one sees most.
    u = np.linalg.svd(calibration.reshape(len(k), -1), full_matrices=False)[0][:, 0]
    maps = maps * np.exp(-1j * np.angle(np.tensordot(u.conj(), maps, 1)))
    return (maps * (strength > crop)).astype(np.complex64)


def _centre_of(
    region: tuple[slice, slice], shape: tuple[int, ...], width: int
) -> tuple[slice, ...]:
    """The part of a region within `width` samples around the zero frequency."""
    low = [max(r.start, n // 2 - width // 2) for r, n in zip(region, shape, strict=True)]
    high = [min(r.stop, n // 2 + (width + 1) // 2) for r, n in zip(region, shape, strict=True)]
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def _espirit(
    calibration: np.ndarray, shape: tuple[int, ...], threshold: float, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Maps (coils, H, W), unit norm, and their eigenvalues (H, W), near 1 inside the object.

    With patches v_n (coils, a, b) that span the subspace, the matrix of pixel p is

        G_ij(p) = 1/(ab) sum_n v_n,i(p) conj(v_n,j(p)) = sum_l g_ij(l) exp(2 pi i l p / n)

    where g are the correlations of the patches, at lags l below the patch's size: G is evaluated
    row by row from them.
    """
    coils, patch = len(calibration), tuple(min(6, max(2, n // 3)) for n in calibration.shape[1:])
    blocks = np.lib.stride_tricks.sliding_window_view(calibration, patch, axis=(1, 2))
    rows = blocks.transpose(1, 2, 0, 3, 4).reshape(-1, coils * patch[0] * patch[1])
    _, s, vh = np.linalg.svd(rows, full_matrices=False)
    noise = sigma * (math.sqrt(rows.shape[0]) + math.sqrt(rows.shape[1]))  # its largest, about
    v = vh[: max(1, np.count_nonzero(s > max(threshold * s[0], noise)))]
    v = v.reshape(-1, coils, *patch)

    lags = [2 * n - 1 for n in patch]
    spectra = np.fft.fft2(v, s=lags)  # zero-padded: circular correlations do not wrap
    g = np.fft.ifft2(np.einsum("nihw,njhw->ijhw", spectra, spectra.conj(), optimize=True))
    g = g / (patch[0] * patch[1])
    waves = [
        np.exp(2j * np.pi * np.outer(np.arange(n) - n // 2, np.fft.fftfreq(m, 1 / m)) / n)
        for n, m in zip(shape, lags, strict=True)
    ]
    columns = g @ waves[1].T  # (coils, coils, lags, W)
    maps = np.empty((coils, *shape), dtype=np.complex128)
    strength = np.empty(shape)
    for y, wave in enumerate(waves[0]):
        values, vectors = np.linalg.eigh(np.tensordot(columns, wave, (2, 0)).transpose(2, 0, 1))
        maps[:, y], strength[y] = vectors[..., -1].T, values[:, -1]
    return maps, strength


# ---------------------------------------------------------------- noise


def noise_covariance(samples: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
    """Covariance of the coils' noise, E n n^H: complex (coils, coils).

    `samples` is a noise scan (coils, n), or k-space (coils, H, W), of which the acquired samples
    in the corners (of `mask`, or all that are not zero) are taken for noise; those that stand out
    from it, as signal does, are left out. Raises ValueError when there are too few samples.
    """
    n = _noise_samples("noise_covariance", samples, mask)
    covariance = np.diag(_median_power(n)).astype(np.complex128)
    limit = _outlier_limit(len(n))
    for _ in range(5):
        away = np.linalg.solve(_factor("noise_covariance", covariance), n)
        kept = n[:, (np.abs(away) ** 2).sum(0) < limit]
        covariance = kept @ kept.conj().T / kept.shape[1]
    return covariance


def estimate_noise(kspace: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Noise level sigma of k-space (coils, H, W), E|n|^2 = sigma^2, the mean over the coils.

    From the corners, as `noise_covariance`, or the edge of an ellipse. They often hold signal, too,
    that of sharp edges. So the level is that of the half of the coils'
    principal components that sees least of the image. It takes the noise of the coils for
    independent: a correlation of 0.2 between neighbours makes it 0.87 of the true one, unless
    `prewhiten` comes first. A single coil has no such half: where signal is, its level is too high.

    |n|^2 is exponential with the median sigma^2 log 2, which a few outliers hardly move.
    """
    n = _noise_samples("estimate_noise", kspace, mask)
    level, k = _median_power(n), np.asarray(kspace)
    if not level.any():
        return 0.0
    if k.ndim == 2 or len(n) == 1:
        return float(np.sqrt(level.mean()))
    scale = 1 / np.sqrt(np.maximum(level, np.finfo(np.float64).tiny))[:, None]
    seen = scale * k[:, _acquired("estimate_noise", k, mask)]
    _, components = np.linalg.eigh(seen @ seen.conj().T)
    quiet = components[:, : len(n) // 2].conj().T @ (scale * n)
    return float(np.sqrt(level.mean() * _median_power(quiet).mean()))


def prewhiten(kspace: ArrayLike, covariance: ArrayLike) -> np.ndarray:
    """L^-1 k with L L^H the covariance: noise of unit variance, independent between the coils.

    k-space (..., coils, H, W), or maps of it, which change alike. Raises ValueError for a
    covariance of another number of coils or one that is not positive definite.
    """
    k, c = np.asarray(kspace), np.asarray(covariance)
    if k.ndim < 3 or c.shape != (k.shape[-3],) * 2:
        raise ValueError(
            f"prewhiten: k-space has shape {k.shape} and the covariance {c.shape}; expected "
            "(..., coils, H, W) and (coils, coils)."
        )
    return _mix(np.linalg.inv(_factor("prewhiten", c)), k)


def compress_coils(kspace: ArrayLike, coils: int) -> tuple[np.ndarray, np.ndarray]:
    """The `coils` strongest combinations of coils, by SVD: k-space and the matrix M that made it.

    (C, H, W) -> (coils, H, W) and (coils, C). Its rows are orthonormal, so that white noise stays
    white; maps change alike, `np.tensordot(M, maps, 1)`. Raises ValueError unless
    1 <= coils <= C.
    """
    k = _checked_kspace("compress_coils", kspace)
    if not 1 <= coils <= len(k):
        raise ValueError(f"compress_coils: {coils} of {len(k)} coils, expected 1 to {len(k)}.")
    flat = k.reshape(len(k), -1)
    _, vectors = np.linalg.eigh(flat @ flat.conj().T)
    matrix = vectors[:, ::-1][:, :coils].conj().T.astype(k.dtype)
    return _mix(matrix, k), matrix


def _noise_samples(owner: str, samples: ArrayLike, mask: ArrayLike | None) -> np.ndarray:
    """(coils, n) complex128: a noise scan as it is, of k-space the acquired corners or edge."""
    n = np.asarray(samples)
    if n.ndim == 3:
        k = _checked_kspace(owner, n)
        radius = np.where(_acquired(owner, k, mask), _radius(k.shape[1:]), 0)
        n = k[:, radius >= min(1, 0.95 * radius.max())]  # an ellipse may have no corner
        measured = (n != 0).any(0)  # zeros that were filled in tell nothing of the noise
        n = n[:, measured] if measured.any() else n
    if n.ndim != 2 or not np.iscomplexobj(n) or n.shape[1] < 10 * len(n):
        raise ValueError(
            f"{owner}: {n.shape[-1]} noise samples of dtype {n.dtype} for {len(n)} coils, expected "
            "at least ten for each, complex: a noise scan (coils, n), or k-space (coils, H, W) "
            "with samples in its corners or on its outer edge."
        )
    return n.astype(np.complex128)


def _factor(owner: str, covariance: np.ndarray) -> np.ndarray:
    """L with L L^H the covariance."""
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"{owner}: the covariance is not positive definite. A coil without noise is switched "
            "off: drop it, e.g. kspace[..., kept, :, :]."
        ) from error


def _acquired(owner: str, k: np.ndarray, mask: ArrayLike | None) -> np.ndarray:
    acquired = np.abs(k).any(axis=0) if mask is None else np.asarray(mask, dtype=bool)
    if acquired.shape != k.shape[1:]:
        raise ValueError(
            f"{owner}: k-space has shape {k.shape} and the mask {acquired.shape}, expected "
            f"{k.shape[1:]}."
        )
    return acquired


def _radius(shape: tuple[int, ...]) -> np.ndarray:
    """Distance of each sample from the centre: 1 in the middle of an edge, in corners more."""
    distances = (np.abs(np.arange(n) - n // 2) / (n / 2) for n in shape)
    return np.hypot(*np.meshgrid(*distances, indexing="ij"))


def _median_power(n: np.ndarray) -> np.ndarray:
    """sigma^2 of each row of complex noise, from its median."""
    return np.median(np.abs(n) ** 2, axis=1) / math.log(2)


def _outlier_limit(coils: int) -> float:
    """What sum_c |n_c|^2 of white noise exceeds once in 1000 times."""
    from scipy.stats import gamma

    return float(gamma.ppf(0.999, coils))


# ---------------------------------------------------------------- helpers


def _checked_kspace(owner: str, kspace: ArrayLike) -> np.ndarray:
    k = np.asarray(kspace)
    if k.ndim != 3 or not np.iscomplexobj(k):
        raise ValueError(
            f"{owner}: k-space has shape {k.shape} and dtype {k.dtype}, expected complex "
            "(coils, H, W). For pairs of real numbers: k[..., 0] + 1j * k[..., 1]."
        )
    return k


def _mix(matrix: np.ndarray, k: np.ndarray) -> np.ndarray:
    """sum_c M_vc k_c over axis -3, in the precision of k."""
    return np.einsum("vc,...chw->...vhw", matrix, k, optimize=True).astype(k.dtype)


def _centred_ifft2(k: np.ndarray) -> np.ndarray:
    from scipy import fft  # keeps complex64, unlike numpy.fft

    axes = (-2, -1)
    image = fft.ifft2(fft.ifftshift(k, axes=axes), norm="ortho")
    return fft.fftshift(image, axes=axes)

"""Image quality: PSNR, SSIM, cross-correlation and PSNR after the best shift."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmaps_science.arrays import norm, per_sample

__all__ = [
    "align",
    "aligned_psnr",
    "as_pair",
    "blur",
    "magnitudes",
    "nxcorr",
    "psnr",
    "relative_misfit",
    "ssim",
]


def as_tensor(x: Any) -> Tensor:
    """A tensor as it is, anything else through NumPy."""
    return x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))


def as_batch(images: Any, name: str = "images") -> Tensor:
    """Tensors or NumPy arrays (B, C, H, W) or (B, H, W) as a floating-point tensor (B, C, H, W)."""
    x = as_tensor(images)
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4:
        raise ValueError(
            f"metrics: {name} have shape {tuple(x.shape)}, expected (B, C, H, W) or (B, H, W). "
            "For one image add the batch axis, e.g. image[None]."
        )
    return x if x.is_floating_point() or x.is_complex() else x.double()


def as_pair(predicted: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Both as (B, C, H, W) in one dtype on one device; a single target serves every prediction.

    Raises:
        ValueError: the shapes do not fit together.
    """
    a, b = as_batch(predicted, "predictions"), as_batch(target, "targets")
    if a.shape[1:] != b.shape[1:] or len(b) not in (1, len(a)):
        raise ValueError(
            f"metrics: predictions {tuple(a.shape)} and targets {tuple(b.shape)} do not match; "
            "they need equal shapes, or one target for all predictions."
        )
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(a.device, dtype).expand_as(a)


def psnr(
    predicted: Any, target: Any, data_range: float | Tensor = 1.0, epsilon: float = 0.0
) -> Tensor:
    """Peak signal-to-noise ratio -10 log10(MSE / data_range^2 + epsilon) in dB, (B,).

    Infinite for equal images, unless `epsilon` > 0: the InverseBench benchmark adds 1e-8.

    Example:
        >>> psnr(torch.full((1, 1, 8, 8), 0.1), torch.zeros(1, 1, 8, 8)).round(decimals=3)
        tensor([20.])
    """
    a, b = as_pair(predicted, target)
    error = (a - b).abs().pow(2).flatten(1).mean(1)
    return -10 * torch.log10(error / torch.as_tensor(data_range).to(error) ** 2 + epsilon)


def ssim(
    predicted: Any, target: Any, data_range: float | Tensor = 1.0, window: str = "gaussian"
) -> Tensor:
    """Structural similarity, averaged over channels and over pixels with a whole window, (B,).

        (2 mu_a mu_b + C1)(2 cov + C2) / ((mu_a^2 + mu_b^2 + C1)(var_a + var_b + C2)),
        C1 = (0.01 data_range)^2, C2 = (0.03 data_range)^2

    `window="gaussian"`: 11 x 11 with sigma 1.5 (Wang et al. 2004); `"uniform"`: 7 x 7 and sample
    covariances, the default of scikit-image. Raises ValueError when the image is smaller.

    Example:
        >>> image = torch.rand(1, 1, 16, 16)
        >>> round(float(ssim(image, image)), 4)
        1.0
    """
    a, b = as_pair(predicted, target)
    t = torch.arange(-5, 6, dtype=a.dtype, device=a.device)
    weights = {"gaussian": torch.exp(-(t**2) / 4.5), "uniform": torch.ones_like(t[:7])}
    if window not in weights:
        raise ValueError(f"ssim: window {window!r}, expected 'gaussian' or 'uniform'.")
    kernel = weights[window] / weights[window].sum()
    if min(a.shape[-2:]) < len(kernel):
        raise ValueError(
            f"ssim: images are {tuple(a.shape[-2:])}, the {window} window needs {len(kernel)} "
            "pixels each way."
        )

    def mean(x: Tensor) -> Tensor:
        x = x.flatten(0, 1)[:, None]
        return F.conv2d(F.conv2d(x, kernel[None, None, :, None]), kernel[None, None, None])

    sample = 49 / 48 if window == "uniform" else 1.0
    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b = sample * (mean(a * a) - mu_a**2), sample * (mean(b * b) - mu_b**2)
    cov = sample * (mean(a * b) - mu_a * mu_b)
    span = torch.as_tensor(data_range).to(a).expand(len(a)).repeat_interleave(a.shape[1])
    c1, c2 = (per_sample((k * span) ** 2, mu_a) for k in (0.01, 0.03))
    similarity = (2 * mu_a * mu_b + c1) * (2 * cov + c2)
    similarity = similarity / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
    return similarity.reshape(len(a), -1).mean(1)


def magnitudes(predicted: Any, target: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Magnitudes of complex images given as two channels, (B, 1, H, W), and the data range (B,).

    The range is each target's largest magnitude; predictions are clipped to it, as MRI scores are:
    `psnr(*magnitudes(predicted, target))`.

    Example:
        >>> image = torch.ones(1, 2, 8, 8)  # 1 + i
        >>> psnr(*magnitudes(1.1 * image, image)).shape
        torch.Size([1])
    """
    a, b = (torch.linalg.vector_norm(x, dim=1, keepdim=True) for x in as_pair(predicted, target))
    span = b.flatten(1).amax(1)
    return torch.minimum(a, per_sample(span, a)), b, span


def relative_misfit(predicted: Any, observed: Any) -> Tensor:
    """||predicted - observed|| / ||observed|| of data (B, ...), real or complex; (B,).

    Example:
        >>> relative_misfit(torch.full((1, 4), 1.1), torch.ones(1, 4)).round(decimals=4)
        tensor([0.1000])
    """
    a, b = as_tensor(predicted), as_tensor(observed)
    b = b.to(a.device).expand_as(a)
    return norm(a - b) / norm(b)


def nxcorr(predicted: Any, target: Any) -> Tensor:
    """Normalised cross-correlation, the largest over all cyclic whole-pixel shifts, (B,).

        max_s mean_p (a(p - s) - mean a)(b(p) - mean b) / (std a std b)

    It is at most 1, ignores position, scale and offset, and is 0 for a constant image. One channel.
    Source: Event Horizon Telescope Collaboration 2019, Paper IV, eq. 15.

    Example:
        >>> image = torch.rand(1, 1, 8, 8)
        >>> round(float(nxcorr(2 * image.roll(3, -1) + 1, image)), 4)
        1.0
    """
    a, b = as_pair(predicted, target)
    a, b = (x - x.mean(dim=(-2, -1), keepdim=True) for x in (a, b))
    scale = (a.square().sum(dim=(-2, -1)) * b.square().sum(dim=(-2, -1))).sqrt()
    product = torch.fft.rfft2(b) * torch.fft.rfft2(a).conj()
    correlation = torch.fft.irfft2(product, s=a.shape[-2:]).amax(dim=(-2, -1))
    tiny = torch.finfo(scale.dtype).tiny
    return torch.where(scale > tiny, correlation / scale.clamp_min(tiny), 0).amax(dim=1)


def blur(images: Any, fwhm: float) -> Tensor:
    """Convolve with a circular Gaussian of `fwhm` pixels, truncated at 4 sigma; zero outside.

    Example:
        >>> image = torch.zeros(1, 1, 16, 16)
        >>> image[..., 8, 8] = 1.0
        >>> round(float(blur(image, fwhm=3.0).max()), 3)
        0.098
    """
    x = as_batch(images)
    if fwhm == 0:
        return x
    sigma = fwhm / np.sqrt(8 * np.log(2))
    reach = int(4 * sigma + 0.5)
    total = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).sum()

    def matrix(size: int) -> Tensor:  # as a product, it holds for kernels wider than the image
        lag = np.subtract.outer(np.arange(size), np.arange(size))
        kernel = np.where(abs(lag) <= reach, np.exp(-0.5 * (lag / sigma) ** 2), 0) / total
        return torch.as_tensor(kernel).to(x)

    return matrix(x.shape[-2]) @ x @ matrix(x.shape[-1]).T


def align(predicted: Any, target: Any, mode: str = "exact") -> Tensor:
    """Shift each prediction to where its squared difference from the target is smallest.

    `mode="exact"`: all whole-pixel shifts up to a quarter of the image, zero among them, then
    bicubic ones in steps of 0.05 pixel around the best. `mode="inversebench"`: the benchmark's
    30 x 30 bilinear shifts, which miss zero by half a pixel and so cap even a perfect image.

    Raises:
        ValueError: another mode.

    Example:
        >>> image = torch.zeros(1, 1, 16, 16)
        >>> image[..., 6:9, 6:9] = 1.0
        >>> float((align(image.roll(2, -1), image) - image).abs().max()) < 1e-5
        True
    """
    a, b = as_pair(predicted, target)
    origin = torch.zeros((len(a), 2), dtype=a.dtype, device=a.device)
    if mode == "inversebench":
        steps = torch.linspace(-0.25, 0.25, 30, dtype=a.dtype, device=a.device)
        down, right = (steps * (size - 1) for size in a.shape[-2:])
        return _shift(a, _best_offset(a, b, origin, down, right, "bilinear"), "bilinear")
    if mode != "exact":
        raise ValueError(f"align: mode {mode!r}, expected 'exact' or 'inversebench'.")
    best = _best_whole_shift(a, b)
    for step, count in ((0.25, 4), (0.05, 5)):
        steps = step * torch.arange(-count, count + 1).to(a)
        best = _best_offset(a, b, best, steps, steps, "bicubic")
    return _shift(a, best, "bicubic")


def aligned_psnr(
    predicted: Any, target: Any, data_range: float | Tensor = 1.0, mode: str = "exact"
) -> Tensor:
    """PSNR after `align`, (B,): for data, such as closure quantities, without positions.

    Example:
        >>> image = torch.zeros(1, 1, 16, 16)
        >>> image[..., 6:9, 6:9] = 1.0
        >>> float(aligned_psnr(image.roll(2, -1), image)) > 60
        True
    """
    a, b = as_pair(predicted, target)
    epsilon = 1e-8 if mode == "inversebench" else 0.0
    return psnr(align(a, b, mode), b, data_range, epsilon)


def _shift(x: Tensor, offset: Tensor, kind: str) -> Tensor:
    """Move each image by `offset` (B, 2), pixels down and right; zero outside."""
    height, width = x.shape[-2:]
    theta = torch.zeros((len(x), 2, 3), dtype=x.dtype, device=x.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    theta[:, 0, 2] = -2 * offset[:, 1] / (width - 1)
    theta[:, 1, 2] = -2 * offset[:, 0] / (height - 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, mode=kind, align_corners=True)


def _best_offset(
    a: Tensor, b: Tensor, centre: Tensor, down: Tensor, right: Tensor, kind: str
) -> Tensor:
    """The `centre` (B, 2) plus a step of `down` and of `right` with the smallest squared error.

    A shift is one of the rows and one of the columns: two matrix products for many at once.
    """
    rows = _shift_matrices(centre[:, :1] + down, a.shape[-2], kind)
    moved = rows[:, :, None] @ a[:, None]  # (B, steps, C, H, W)
    columns = _shift_matrices(centre[:, 1:] + right, a.shape[-1], kind).mT
    errors = [  # one at a time: all of them would be a thousand images
        (moved @ columns[:, None, None, k] - b[:, None]).square().flatten(2).mean(2)
        for k in range(len(right))
    ]
    index = torch.stack(errors, dim=2).flatten(1).argmin(1)
    step = torch.stack([down[index // len(right)], right[index % len(right)]], dim=1)
    return centre + step


def _shift_matrices(offset: Tensor, size: int, kind: str) -> Tensor:
    """`_shift` of lines of pixels by each `offset` (B, n), as matrices (B, n, size, size)."""
    pixel = torch.arange(size).to(offset)
    t = (pixel[:, None] - pixel - offset[..., None, None]).abs()
    if kind == "bilinear":
        return (1 - t).clamp(min=0)
    near = (1.25 * t - 2.25) * t**2 + 1  # Keys' kernel with a = -3/4, as in PyTorch
    far = -0.75 * (((t - 5) * t + 8) * t - 4)
    return torch.where(t <= 1, near, torch.where(t < 2, far, 0.0))


def _best_whole_shift(a: Tensor, b: Tensor) -> Tensor:
    """The whole-pixel shift (B, 2), at most a quarter of the image, with the smallest error.

    sum_p (a(p - s) - b(p))^2 = sum_p a(p - s)^2 - 2 sum_p a(p - s) b(p) + const, two correlations
    on a doubled grid for all s together; a is 0 outside the image.
    """
    height, width = a.shape[-2:]
    double = (2 * height, 2 * width)

    def spectrum(x: Tensor) -> Tensor:
        return torch.fft.rfft2(x, s=double)

    product = spectrum(torch.ones_like(a)) * spectrum(a * a).conj()
    product = (product - 2 * spectrum(b) * spectrum(a).conj()).sum(dim=1)
    error = torch.fft.irfft2(product, s=double).roll((height // 4, width // 4), (-2, -1))
    error = error[:, : 2 * (height // 4) + 1, : 2 * (width // 4) + 1]
    index = error.flatten(1).argmin(1)
    rows, columns = index // error.shape[-1] - height // 4, index % error.shape[-1] - width // 4
    return torch.stack([rows, columns], dim=1).to(a)

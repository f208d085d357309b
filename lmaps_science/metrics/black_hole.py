"""Metrics of black-hole images: chi2 of closure quantities, PSNR at the array's resolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lmaps_science.arrays import per_sample
from lmaps_science.metrics.image import align, as_pair, as_tensor, blur, psnr

__all__ = ["benchmark_chi2", "blur_psnr", "chi2", "phase_chi2", "rescale_to_flux"]


def chi2(predicted: Any, observed: Any, sigma: Any) -> Tensor:
    """Reduced chi2 = mean(|predicted - observed|^2 / sigma^2): (B, n), (n,), (n,) -> (B,)."""
    a, b, s = (as_tensor(x) for x in (predicted, observed, sigma))
    return ((a - b).abs() / s).square().flatten(1).mean(1)


def phase_chi2(predicted: Any, observed: Any, sigma: Any) -> Tensor:
    """chi2 of phases in radians, 2 mean((1 - cos(predicted - observed)) / sigma^2), (B,)."""
    a, b, s = (as_tensor(x) for x in (predicted, observed, sigma))
    return 4 * (((a - b) / 2).sin() / s).square().flatten(1).mean(1)


def benchmark_chi2(values: Any) -> Tensor:
    """chi2 as InverseBench reports it: a value below 1 as 1/chi2, so that 1 is the best score."""
    values = as_tensor(values)
    return torch.where(values < 1, 1 / values, values)


def rescale_to_flux(images: Any, flux: float | Tensor) -> Tensor:
    """Scale each image to total `flux`, a number or (B,), as is done before evaluation.

    Closure quantities do not depend on it. Raises ValueError for an image of zero total flux.
    """
    images = as_tensor(images)
    total = images.flatten(1).sum(1)
    if bool((total == 0).any()):
        raise ValueError("rescale_to_flux: an image has total flux 0; drop blank images first.")
    return images * per_sample(torch.as_tensor(flux).to(total) / total, images)


def blur_psnr(
    predicted: Any,
    target: Any,
    fwhm_uas: float = 15.0,
    pixel_size_uas: float = 2.5,
    mode: str = "exact",
) -> Tensor:
    """PSNR in dB after the best shift and a circular Gaussian blur of both images, (B,).

    Images are in [0, 1] and clipped to it; `fwhm_uas` in microarcseconds: 15 is the paper's, 0 does
    not blur. The shift is the best one of the unblurred images, see `align`. `mode="inversebench"`
    gives the benchmark's numbers; its tables call f = 0, 10, 15 what its code names 10, 15, 20.
    """
    a, b = (x.clamp(0, 1) for x in as_pair(predicted, target))
    a = align(a, b, mode)
    a, b = (blur(x, fwhm_uas / pixel_size_uas) for x in (a, b))
    return psnr(a, b, epsilon=1e-8 if mode == "inversebench" else 0.0)

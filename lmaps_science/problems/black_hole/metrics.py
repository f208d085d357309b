"""Metrics of black-hole images: PSNR at the array's resolution, images of one flux."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmaps_science.arrays import per_sample
from lmaps_science.metrics.image import (
    align,
    aligned_psnr,
    as_pair,
    as_tensor,
    blur,
    nxcorr,
    psnr,
)

__all__ = ["at_beam", "blur_psnr", "image_scores", "rescale_to_flux"]


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


def image_scores(
    truth: np.ndarray, images: Any, pixel_uas: float, mode: str = "exact"
) -> dict[str, Tensor]:
    """Scores of images (n, H, W) in units of the peak of the truth (H, W); (n,) each.

    psnr after the best shift, blur_psnr_F at F = 10, 15, 20 microarcseconds, nxcorr; `mode` as for
    `blur_psnr`. Images are clipped to [0, 1]: scale them to the flux of the truth before, where
    their unit may be another.
    """
    target = truth[None] / truth.max()
    scaled = as_tensor(images).clamp(0, 1)
    scores = {"psnr": aligned_psnr(scaled, target, mode=mode)}
    for fwhm in (10, 15, 20):
        scores[f"blur_psnr_{fwhm}"] = blur_psnr(scaled, target, fwhm, pixel_uas, mode)
    return {**scores, "nxcorr": nxcorr(scaled, target)}


def at_beam(images: np.ndarray, beam_pixels: float) -> np.ndarray:
    """Images (n, H, W) blurred to a beam of this width, all but the first shifted onto it."""
    blurred = blur(images, beam_pixels)
    peak = blurred.abs().amax()
    if peak == 0:
        return blurred[:, 0].numpy()
    aligned = align(blurred / peak, (blurred[:1] / peak).expand_as(blurred))
    return (peak * torch.cat([blurred[:1] / peak, aligned[1:]]))[:, 0].numpy()

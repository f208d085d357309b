"""Metrics of any field: one value per sample, (B,), from torch tensors or NumPy arrays."""

from lmaps_science.metrics.chi2 import chi2, phase_chi2
from lmaps_science.metrics.image import (
    align,
    aligned_psnr,
    blur,
    magnitudes,
    nxcorr,
    psnr,
    relative_misfit,
    ssim,
)

__all__ = [
    "align",
    "aligned_psnr",
    "blur",
    "chi2",
    "magnitudes",
    "nxcorr",
    "phase_chi2",
    "psnr",
    "relative_misfit",
    "ssim",
]

"""Metrics: one value per sample, (B,), from torch tensors or NumPy arrays."""

from lmaps_science.metrics.black_hole import (
    benchmark_chi2,
    blur_psnr,
    chi2,
    phase_chi2,
    rescale_to_flux,
)
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
from lmaps_science.metrics.rings import ring_statistics

__all__ = [
    "align",
    "aligned_psnr",
    "benchmark_chi2",
    "blur",
    "blur_psnr",
    "chi2",
    "magnitudes",
    "nxcorr",
    "phase_chi2",
    "psnr",
    "relative_misfit",
    "rescale_to_flux",
    "ring_statistics",
    "ssim",
]

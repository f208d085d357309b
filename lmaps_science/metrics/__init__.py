"""Metrics of any field: one value per sample, (B,), from torch tensors or NumPy arrays.

And `calibration`: whether the samples' spread is the size of their error.
"""

from lmaps_science.metrics.calibration import (
    calibration,
    interval_factor,
    object_pixels,
    spread_factor,
)
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
    "calibration",
    "chi2",
    "interval_factor",
    "magnitudes",
    "nxcorr",
    "object_pixels",
    "phase_chi2",
    "psnr",
    "relative_misfit",
    "spread_factor",
    "ssim",
]

"""Metrics: one value per sample, (B,), from torch tensors or NumPy arrays."""

from lmaps_science.metrics.black_hole import chi2, phase_chi2

__all__ = ["chi2", "phase_chi2"]

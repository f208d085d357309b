"""Metrics of black-hole images."""

from __future__ import annotations

from torch import Tensor


def chi2(predicted: Tensor, observed: Tensor, sigma: Tensor) -> Tensor:
    """Reduced chi2 = mean(|predicted - observed|^2 / sigma^2): (B, n), (n,), (n,) -> (B,)."""
    return ((predicted - observed).abs() / sigma).pow(2).flatten(1).mean(1)


def phase_chi2(predicted: Tensor, observed: Tensor, sigma: Tensor) -> Tensor:
    """chi2 of phases, 2 mean((1 - cos(predicted - observed)) / sigma^2), radians: -> (B,)."""
    return 4 * (((predicted - observed) / 2).sin() / sigma).pow(2).flatten(1).mean(1)

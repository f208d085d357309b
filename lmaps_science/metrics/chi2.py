"""Reduced chi2: how well predictions explain data, in units of their noise."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lmaps_science.metrics.image import as_tensor

__all__ = ["chi2", "phase_chi2"]


def chi2(predicted: Any, observed: Any, sigma: Any) -> Tensor:
    """Reduced chi2 = mean(|predicted - observed|^2 / sigma^2): (B, n), (n,), (n,) -> (B,).

    Example:
        >>> import torch
        >>> chi2(torch.full((1, 4), 3.0), torch.ones(4), torch.ones(4))
        tensor([4.])
    """
    a, b, s = (as_tensor(x) for x in (predicted, observed, sigma))
    return ((a - b).abs() / s).square().flatten(1).mean(1)


def phase_chi2(predicted: Any, observed: Any, sigma: Any) -> Tensor:
    """chi2 of phases in radians, 2 mean((1 - cos(predicted - observed)) / sigma^2), (B,).

    Example:
        >>> import torch
        >>> phase_chi2(torch.full((1, 4), 6.2832), torch.zeros(4), torch.ones(4)).round(decimals=3)
        tensor([0.])
    """
    a, b, s = (as_tensor(x) for x in (predicted, observed, sigma))
    return 4 * (((a - b) / 2).sin() / s).square().flatten(1).mean(1)

"""What methods of several particles a sample share: rows of particles, and which of them go on.

The particles of a sample are rows of the batch, one after the other: (B P, C, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["best", "rows"]


def rows(chosen: Tensor, each: int) -> Tensor:
    """Rows (B K,) of particles `chosen` (B, K) of a batch that has `each` particles a sample."""
    first = each * torch.arange(len(chosen), device=chosen.device)
    return (first[:, None] + chosen).flatten()


def best(objective: Tensor, count: int) -> Tensor:
    """The `count` particles of the lowest objective (B, P), the lowest first: (B, count)."""
    return torch.argsort(objective, dim=1, stable=True)[:, :count]

"""Where training images come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["ArrayImages", "Images", "in_model_space"]


class Images(Protocol):
    """Where training images come from: any object with this method.

    `batch(start, count)` returns float32 images (count, C, H, W) in physical units; it must
    depend on its arguments alone, so that a resumed run sees the images it would have seen.
    `value_range` is what becomes [-1, 1] in model space.
    """

    @property
    def value_range(self) -> tuple[float, float]:
        """What becomes [-1, 1]."""
        ...

    def batch(self, start: int, count: int) -> np.ndarray:
        """Images (count, C, H, W) from number `start` on."""
        ...


@dataclass(frozen=True)
class ArrayImages:
    """A finite set of images (n, C, H, W) in [0, 1], reshuffled for every pass."""

    images: np.ndarray
    seed: int = 0
    value_range = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or not np.isfinite(self.images).all():
            raise ValueError(
                f"training images must be finite and of shape (n, C, H, W), got shape "
                f"{self.images.shape}, {np.size(self.images) - np.isfinite(self.images).sum()} "
                f"values not finite. Example: ArrayImages(images[:, None])."
            )
        if self.images.min() < -1e-3 or self.images.max() > 1 + 1e-3:
            raise ValueError(
                f"training images must lie in [0, 1], these span "
                f"[{self.images.min():.3g}, {self.images.max():.3g}]: divide each by its peak."
            )

    def batch(self, start: int, count: int) -> np.ndarray:
        """Items from `start` on, float32 (count, C, H, W), in a new order for each pass."""
        n = len(self.images)
        passes = [
            np.random.default_rng([self.seed, p]).permutation(n)
            for p in range(start // n, (start + count - 1) // n + 1)
        ]
        order = np.concatenate(passes)[start % n : start % n + count]
        return self.images[order].astype(np.float32)


def in_model_space(images: Images, start: int, count: int) -> Tensor:
    """A batch (count, C, H, W) in model space."""
    low, high = images.value_range
    return (torch.from_numpy(images.batch(start, count)) - low) * (2 / (high - low)) - 1

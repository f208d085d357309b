"""Images of ellipses: the head of Shepp and Logan, and random ones to train and test on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmaps_science.cards.kind import Recipe
from lmaps_science.training import PRECISE, song_unet

__all__ = ["RECIPES", "EllipseImages", "shepp_logan"]

# Value added, half axes, centre, and angle in degrees; the image is the square from -1 to 1.
# The contrasts are those of Toft 1996, which can be seen.
HEAD = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0),
)


def shepp_logan(npix: int) -> NDArray[np.float32]:
    """The head of Shepp and Logan, (1, npix, npix), from 0 to 1; its first row is at the chin."""
    return _drawn(HEAD, npix)


@dataclass(frozen=True)
class EllipseImages:
    """An endless, reproducible set of heads: item k depends on `seed` and k alone.

    Each is a float32 array (1, npix, npix) with values in [0, 1]: a skull, and up to ten ellipses
    inside it. Images of another seed are independent: hold out a test set by its seed.
    """

    npix: int = 64
    seed: int = 0
    value_range = (0.0, 1.0)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        if index < 0:
            raise IndexError("the set has no end, so no negative index")
        rng = np.random.default_rng([0xC7, self.seed, index])
        a, b, thickness = *rng.uniform(0.6, 0.9, 2), rng.uniform(0.02, 0.06)
        brain = rng.uniform(0.15, 0.35)
        shapes = [(1.0, a, b, 0.0, 0.0, 0.0), (brain - 1, a - thickness, b - thickness, 0, 0, 0)]
        for _ in range(rng.integers(3, 11)):
            half = rng.uniform(0.03, 0.35, 2)
            x, y = rng.uniform(-0.5, 0.5, 2) * (a, b)
            shapes += [(rng.uniform(-0.15, 0.2), *half, x, y, rng.uniform(0, 180))]
        return _drawn(shapes, self.npix)

    def batch(self, start: int, count: int) -> NDArray[np.float32]:
        """Items `start` to `start + count`, (count, 1, npix, npix)."""
        return np.stack([self[k] for k in range(start, start + count)])


def _drawn(shapes: object, npix: int, finer: int = 4) -> NDArray[np.float32]:
    """The sum of ellipses on a finer grid, averaged over each pixel."""
    axis = (np.arange(npix * finer) + 0.5) * (2 / (npix * finer)) - 1
    x, y = np.meshgrid(axis, axis)
    image = np.zeros((npix * finer, npix * finer))
    for value, a, b, x0, y0, degrees in shapes:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        u, v = (x - x0) * c + (y - y0) * s, (y - y0) * c - (x - x0) * s
        image += value * ((u / a) ** 2 + (v / b) ** 2 <= 1)
    blocks = image.clip(0, 1).reshape(npix, finer, npix, finer)
    return blocks.mean((1, 3))[None].astype(np.float32)


# How a prior of such images is trained: `lmaps prior train --like ellipses`.
RECIPES = {
    "ellipses": Recipe(
        lambda npix, seed: EllipseImages(npix, seed),
        64,
        song_unet(patch=2, model_channels=64, channel_mult=[1, 2, 2], attn_resolutions=[8]),
        PRECISE,
    ),
}

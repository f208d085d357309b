"""Discs in an image: where they are, how large, and how high, by a fit of blurred edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

__all__ = ["Disc", "fit_discs", "render_discs"]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Disc:
    """A disc: centre, radius (in any one unit of length) and value."""

    x: float
    y: float
    radius: float
    value: float


def render_discs(discs: Sequence[Disc], x: Array, y: Array, blur: float) -> Array:
    """The discs at the points (x, y); a later one covers those before it.

    Their edges are (1 + tanh((radius - distance) / blur)) / 2.
    """
    image = np.zeros_like(x)
    for disc in discs:
        inside = 0.5 * (
            1 + np.tanh((disc.radius - np.hypot(x - disc.x, y - disc.y)) / max(blur, 1e-9))
        )
        image += inside * (disc.value - image)
    return image


def fit_discs(image: Array, x: Array, y: Array, start: Sequence[Disc]) -> tuple[Disc, ...] | None:
    """The discs, blurred alike, that come nearest to `image` (least squares).

    The values of the start are replaced by thresholds' answer first: the median of the image where
    only that disc is. Centres, radii, values and the blur are then free. None where the fit fails,
    or leaves a disc that is smaller than a pixel or outside the image.

    Args:
        image: (H, W).
        x, y: coordinates of the pixels, each (H, W).
        start: roughly where the discs are, the covered ones first.
    """
    pixel = float(np.abs(np.diff(x, axis=1)).max())
    first = []
    for k, disc in enumerate(start):
        inside = np.hypot(x - disc.x, y - disc.y) < disc.radius
        for other in start[k + 1 :]:
            inside &= np.hypot(x - other.x, y - other.y) > other.radius
        value = float(np.median(image[inside])) if inside.any() else disc.value
        first += [disc.x, disc.y, disc.radius, value]
    scale = np.array([pixel, pixel, pixel, max(float(np.ptp(image)), 1e-9)] * len(start) + [pixel])
    begin = np.array([*first, pixel]) / scale

    def discs(parameters: Array) -> tuple[tuple[Disc, ...], float]:
        *values, blur = parameters * scale
        rows = np.reshape(values, (-1, 4))
        return tuple(Disc(*map(float, row)) for row in rows), float(abs(blur))

    def residual(parameters: Array) -> Array:
        found, blur = discs(parameters)
        return (render_discs(found, x, y, blur) - image).ravel()

    if not np.isfinite(image).all():
        return None
    solution = optimize.least_squares(residual, begin, max_nfev=200)
    found, _ = discs(solution.x)
    within = all(
        disc.radius > pixel / 2
        and x.min() < disc.x < x.max()
        and y.min() < disc.y < y.max()
        and disc.radius < np.ptp(x)
        for disc in found
    )
    return found if solution.success and within else None

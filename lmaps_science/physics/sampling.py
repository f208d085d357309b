"""Which k-space samples a scan acquires: masks of lines, their calibration region, trajectories.

NumPy arrays throughout. k-space is centred: the zero frequency of an axis of n samples is sample
n // 2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["calibration_region", "line_mask"]


def line_mask(
    shape: tuple[int, int],
    acceleration: float,
    axis: int = -1,
    kind: str = "random",
    seed: int = 0,
) -> np.ndarray:
    """Mask of whole k-space lines for an image of `shape` (H, W): boolean (H, W).

    `axis` is the phase-encoding axis, along which lines are left out: -1 keeps columns, -2 rows. Of
    its n lines the central floor(0.08 n) (for 1 < acceleration <= 6, else floor(0.04 n)) are always
    kept. `kind="random"` draws others up to floor(n / acceleration) in all; "equispaced" adds every
    floor(acceleration)-th outer line, which makes more than n / acceleration in all.

    The masks are those of published work (Jalal et al. 2021, the InverseBench benchmark), bit for
    bit: NumPy's legacy generator, seeded with `seed`. Raises ValueError for an acceleration below 1
    or one that leaves fewer lines than the centre has, and for an unknown axis or kind.

    Example:
        >>> mask = line_mask((64, 64), 4, seed=0)
        >>> mask.shape, int(mask[0].sum())
        ((64, 64), 16)
    """
    if axis not in (0, 1, -1, -2):
        raise ValueError(f"line_mask: axis {axis}, expected -1 (keep columns) or -2 (keep rows).")
    n = shape[axis]
    if not 1 <= acceleration <= n:
        raise ValueError(
            f"line_mask: acceleration {acceleration:g}, expected 1 to {n}, the number of lines, "
            "e.g. 4."
        )
    centre = math.floor((0.08 if 1 < acceleration <= 6 else 0.04) * n)
    central = np.arange((n - centre) // 2, (n + centre) // 2)
    outer = np.setdiff1d(np.arange(n), central)
    budget = math.floor(n / acceleration)
    if kind == "random":
        if budget < len(central):
            raise ValueError(
                f"line_mask: acceleration {acceleration:g} of {n} lines keeps {budget}, fewer "
                f"than the {len(central)} central ones. Choose a lower acceleration."
            )
        rest = np.random.RandomState(seed).choice(outer, budget - centre, replace=False)
    elif kind == "equispaced":
        rest = outer[:: int(acceleration)]
    else:
        raise ValueError(f"line_mask: kind {kind!r}, expected 'random' or 'equispaced'.")
    lines = np.zeros(n, dtype=bool)
    lines[central] = lines[rest] = True
    return np.broadcast_to(lines if axis in (1, -1) else lines[:, None], shape).copy()


def calibration_region(mask: ArrayLike) -> tuple[slice, slice]:
    """The fully sampled rectangle around the zero frequency of a `mask` (H, W), as two slices.

    It grows from the centre a side at a time, in turn, as long as the next row or column of it is
    wholly sampled; for a mask of lines it is the contiguous central lines. Raises ValueError when
    the zero frequency was not sampled.

    Example:
        rows, columns = calibration_region(mask)
        calibration = kspace[:, rows, columns]
    """
    mask = np.asarray(mask, dtype=bool)
    if mask.ndim != 2:
        raise ValueError(f"calibration_region: mask has shape {mask.shape}, expected (H, W).")
    centre = tuple(n // 2 for n in mask.shape)
    if not mask[centre]:
        raise ValueError(
            f"calibration_region: the centre of k-space, sample {centre}, is not in the mask: "
            "there is nothing to estimate coil maps from. Give the maps, e.g. from a calibration "
            "scan, or shift k-space so that its zero frequency is at n // 2."
        )
    low, high = list(centre), [c + 1 for c in centre]
    growing = True
    while growing:
        growing = False
        for axis in (0, 1):
            other = slice(low[1 - axis], high[1 - axis])
            lines = mask[:, other] if axis == 0 else mask[other].T
            if low[axis] > 0 and lines[low[axis] - 1].all():
                low[axis], growing = low[axis] - 1, True
            if high[axis] < mask.shape[axis] and lines[high[axis]].all():
                high[axis], growing = high[axis] + 1, True
    return slice(low[0], high[0]), slice(low[1], high[1])

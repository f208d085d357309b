"""MRI operators for the property tests, in float64: see registries.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from lmaps_science.operators import Operator
from lmaps_science.physics.mri import MultiCoilMRI, NonCartesianMRI
from lmaps_science.physics.sampling import line_mask

Shape = tuple[int, ...]


def small_maps(shape: Shape) -> torch.Tensor:
    """Complex maps (..., coils, H, W) without any symmetry."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(shape, generator=generator, dtype=torch.complex128) / shape[-3] ** 0.5


def some_points(n: int) -> np.ndarray:
    """A trajectory (n, 2) without any order."""
    return np.random.default_rng(7).uniform(-0.5, 0.5, (n, 2))


def mri_columns() -> Operator:
    return MultiCoilMRI(small_maps((3, 7, 10)), line_mask((7, 10), 2, axis=-1))


def mri_rows() -> Operator:
    return MultiCoilMRI(small_maps((3, 9, 6)), line_mask((9, 6), 2, axis=-2))


def mri_points() -> Operator:
    generator = torch.Generator().manual_seed(5)
    return MultiCoilMRI(small_maps((2, 5, 7)), torch.rand((5, 7), generator=generator) < 0.5)


def mri_radial() -> Operator:
    return NonCartesianMRI(small_maps((2, 6, 7)), some_points(36))


MRI_OPERATORS: list[Callable[[], Operator]] = [
    mri_columns,
    mri_points,
    mri_radial,
    mri_rows,
]

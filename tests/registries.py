"""Instances for the property tests: each runs over a whole list.

Each entry is a function without arguments: nothing is built at import, its name is the test id.
Operators and misfits are built in float64; the tests move them where they want another precision.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lmaps_science.misfit import ClosureMisfit, GaussianMisfit, Misfit
from lmaps_science.operators import Affine, LinearOperator, Operator, Scaling, SVDOperator
from lmaps_science.physics.interferometry import ClosureQuantities, ClosureSet, Visibilities


class DenseSVD(SVDOperator):
    """A dense matrix with its thin SVD: the reference SVD operator."""

    def __init__(self, matrix: torch.Tensor, image_shape: tuple[int, ...]):
        u, self.singular_values, vh = torch.linalg.svd(matrix, full_matrices=False)
        self.left, self.right = u, vh
        self.image_shape, self.data_shape = image_shape, (matrix.shape[0],)

    def Vt(self, x):
        return x.flatten(1) @ self.right.T

    def V(self, c):
        return (c @ self.right).reshape(-1, *self.image_shape)

    def Ut(self, y):
        return y @ self.left

    def U(self, c):
        return c @ self.left.T


class FirstDifference(LinearOperator):
    """Horizontal differences; its adjoint is left to autograd."""

    image_shape, data_shape = (1, 6, 5), (1, 6, 4)

    def _forward(self, x):
        return x[..., 1:] - x[..., :-1]


class Squares(Operator):
    """y = x^2 + i x: nonlinear, complex data, everything left to autograd."""

    image_shape, data_shape = (1, 6, 5), (1, 6, 5)

    def _forward(self, x):
        return torch.complex(x**2, x)


def dense_svd() -> SVDOperator:
    generator = torch.Generator().manual_seed(1)
    return DenseSVD(torch.randn(9, 30, generator=generator, dtype=torch.float64), (1, 6, 5))


def affine() -> Operator:
    return Affine(0.5, 1.0, (1, 6, 5))


def squares_of_affine() -> Operator:
    return Squares() @ affine()


def scaled_svd() -> Operator:
    return dense_svd() @ Scaling(-0.5, (1, 6, 5))


def difference_of_scaling() -> Operator:
    return FirstDifference() @ Scaling(3.0, (1, 6, 5))


def load_golden(name: str) -> dict[str, np.ndarray]:
    """Arrays of tests/golden/<name>.npz: the output of an independent implementation."""
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as arrays:
        return dict(arrays)


STATIONS = torch.tensor(  # in wavelengths, east and north of the first
    [[0.0, 0.0], [3.1e9, 0.7e9], [-1.2e9, 2.9e9], [1.1e9, -2.2e9], [-2.6e9, -0.9e9]],
    dtype=torch.float64,
)
PAIRS = list(itertools.combinations(range(len(STATIONS)), 2))


def small_visibilities(method: str = "dft", npix: int = 9) -> Visibilities:
    u, v = torch.stack([STATIONS[j] - STATIONS[i] for i, j in PAIRS], dim=1)
    return Visibilities(u, v, npix, 2e-11, method=method, dtype=torch.float64)


def small_closures() -> ClosureSet:
    """All triangles of the five stations; one quadrangle V01 V23 / (V03 V12) for each four."""
    phases, amplitudes = [], []
    for i, j, k in itertools.combinations(range(len(STATIONS)), 3):
        phases.append([PAIRS.index(pair) for pair in ((i, j), (j, k), (i, k))])
    for i, j, k, m in itertools.combinations(range(len(STATIONS)), 4):
        amplitudes.append([PAIRS.index(pair) for pair in ((i, j), (k, m), (i, m), (j, k))])
    return ClosureSet(phases, [[False, False, True]] * len(phases), amplitudes)


def visibilities() -> Operator:
    return small_visibilities()


def visibilities_even_size() -> Operator:
    return small_visibilities(npix=8)


def visibilities_nufft() -> Operator:
    return small_visibilities("nufft")


def closure_quantities() -> Operator:
    return ClosureQuantities(small_visibilities(), small_closures())


OPERATORS: list[Callable[[], Operator]] = [
    affine,
    closure_quantities,
    dense_svd,
    difference_of_scaling,
    scaled_svd,
    squares_of_affine,
    visibilities,
    visibilities_even_size,
    visibilities_nufft,
]


def a_positive_image(image_shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand((1, *image_shape), generator=generator, dtype=torch.float64)


def gaussian_real() -> Misfit:
    operator = dense_svd()
    return GaussianMisfit(operator, operator(a_positive_image(operator.image_shape)) + 0.1, 0.3)


def gaussian_complex_nonlinear() -> Misfit:
    operator = squares_of_affine()
    y = operator(a_positive_image(operator.image_shape)) + 0.1j
    return GaussianMisfit(operator, y, torch.linspace(0.1, 0.4, 5, dtype=torch.float64))


def closure_misfit(flux: bool = True, **options) -> Misfit:
    operator = closure_quantities()
    quantities = operator(a_positive_image(operator.image_shape))[0] + 0.05
    theta, amplitude, total = quantities.split([operator.n_phases, operator.n_amplitudes, 1])
    sigmas = torch.linspace(0.1, 0.3, len(theta)), torch.linspace(0.2, 0.4, len(amplitude))
    known = float(total) if flux else None
    return ClosureMisfit(operator, theta, sigmas[0], amplitude, sigmas[1], known, **options)


def closures_with_flux() -> Misfit:
    return closure_misfit()


def closures_without_flux() -> Misfit:
    return closure_misfit(flux=False)


def closures_on_model_space() -> Misfit:
    return closure_misfit(weights=(0.5, 2.0, 1.0)) @ Affine(0.5, 1.0, (1, 9, 9))


MISFITS: list[Callable[[], Misfit]] = [
    closures_on_model_space,
    closures_with_flux,
    closures_without_flux,
    gaussian_complex_nonlinear,
    gaussian_real,
]

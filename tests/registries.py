"""Instances for the property tests: each runs over a whole list.

Each entry is a function without arguments: nothing is built at import, its name is the test id.
Operators and misfits are built in float64; the tests move them where they want another precision.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from lmaps_science.operators import Affine, LinearOperator, Operator, Scaling, SVDOperator


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


OPERATORS: list[Callable[[], Operator]] = [
    affine,
    dense_svd,
    difference_of_scaling,
    scaled_svd,
    squares_of_affine,
]

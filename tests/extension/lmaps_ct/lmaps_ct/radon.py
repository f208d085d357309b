"""The forward model: what a detector measures behind an object, one angle after the other."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from lmaps_science.operators import LinearOperator

__all__ = ["Radon"]

Array = NDArray[np.float64]


class Radon(LinearOperator):
    r"""Parallel-beam projections of an attenuation, (B, 1, N, N) in 1/cm -> (B, angles, bins).

    .. math:: y_{ab} = \frac1w \iint_{|t - t_b| < w/2} x \, dX dY, \quad
        t = X \cos\theta_a + Y \sin\theta_a

    the line integral, averaged over a detector bin of width w. Pixels are squares of constant
    attenuation, and their overlap with each strip is exact; the matrix is sparse and kept with its
    transpose.

    Args:
        npix: pixels along each side; rows go up (y), columns to the right (x).
        side: of the image, in cm.
        angles: in degrees.
        positions: t, the middle of each bin, in cm, equally spaced.

    Raises:
        ValueError: fewer than two bins, or bins that are not equally spaced.
    """

    def __init__(self, npix: int, side: float, angles: Array, positions: Array) -> None:
        steps = np.diff(positions)
        if len(steps) == 0 or not np.allclose(steps, steps[0]) or not steps[0] > 0:
            raise ValueError(
                "Radon needs two bins or more, equally spaced and increasing. Example: "
                "positions=np.linspace(-14, 14, 95)."
            )
        self.image_shape, self.data_shape = (1, npix, npix), (len(angles), len(positions))
        matrix = projection_matrix(npix, side, np.radians(angles), positions)
        self.starts, self.columns, self.weights = _tensors(matrix)
        self.starts_t, self.columns_t, self.weights_t = _tensors(matrix.T.tocsr())

    def _forward(self, x: Tensor) -> Tensor:
        y = _product(self.starts, self.columns, self.weights, x.flatten(1))
        return y.reshape(len(x), *self.data_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        x = _product(self.starts_t, self.columns_t, self.weights_t, y.flatten(1))
        return x.reshape(len(y), *self.image_shape)


def projection_matrix(npix: int, side: float, angles: Array, positions: Array) -> sparse.csr_array:
    """Overlap of every strip with every pixel over the width of a bin, (angles bins, pixels)."""
    pixel, width, bins = side / npix, positions[1] - positions[0], len(positions)
    axis = (np.arange(npix) + 0.5) * pixel - side / 2
    y, x = (c.ravel() for c in np.meshgrid(axis, axis, indexing="ij"))
    touched = math.ceil(math.sqrt(2) * pixel / width) + 1
    values, rows = [], []
    for a, angle in enumerate(angles):
        centre = x * np.cos(angle) + y * np.sin(angle)
        # A pixel's shadow is a trapezoid; a tilt below a ten-thousandth changes nothing.
        p, q = (max(abs(f(angle)), 1e-4) * pixel / 2 for f in (np.cos, np.sin))
        first = np.floor((centre - p - q - positions[0]) / width + 0.5).astype(int)
        k = first[:, None] + np.arange(touched + 1)  # edge k is the lower one of bin k
        edges = positions[0] + (k - 0.5) * width - centre[:, None]
        values += [np.diff(_share_below(edges, p, q)) * pixel**2 / width]
        rows += [np.where((k >= 0) & (k < bins), a * bins + k, -1)[:, :-1]]
    columns = np.broadcast_to(np.arange(npix**2)[:, None], np.shape(values))
    row, value = np.stack(rows), np.stack(values)
    seen = (row >= 0) & (value > 1e-12 * pixel)
    shape = (len(angles) * bins, npix**2)
    return sparse.csr_array((value[seen], (row[seen], columns[seen])), shape=shape)


def _share_below(t: Array, p: float, q: float) -> Array:
    """Share of a square's shadow, the sum of uniform variables on (-p, p) and (-q, q), below t."""
    corners = (p + q, 1.0), (p - q, -1.0), (q - p, -1.0), (-p - q, 1.0)
    return sum(sign * np.clip(t + c, 0, None) ** 2 for c, sign in corners) / (8 * p * q)


def _tensors(matrix: sparse.csr_array) -> tuple[Tensor, Tensor, Tensor]:
    """Where each row starts, its columns, and its entries."""
    starts, columns = torch.as_tensor(matrix.indptr[:-1]), torch.as_tensor(matrix.indices)
    return starts.long(), columns.long(), torch.as_tensor(matrix.data, dtype=torch.float32)


def _product(starts: Tensor, columns: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """A x for a sparse A, (B, n) -> (B, m): sums of weighted rows, which is an embedding bag."""
    return F.embedding_bag(columns, x.T, starts, mode="sum", per_sample_weights=weights).T

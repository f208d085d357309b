"""SciPy's and PyLops' linear operators: `to_scipy` and `from_scipy`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator as Matrix
from scipy.sparse.linalg import aslinearoperator

from lmaps_science.integrations.arrays import ArrayOperator, ArrayView
from lmaps_science.io import DataError
from lmaps_science.operators import LinearOperator, Operator

__all__ = ["from_scipy", "to_scipy"]


def to_scipy(operator: Operator, *, complex_image: bool = False) -> Matrix:
    """One of our linear operators as SciPy's: `lsqr`, `svds` and PyLops' solvers take it.

    Vectors are images and data in C order, in the operator's precision:

    ===========================  =======================  ==========================
    operator                     vector of an image       vector of data
    ===========================  =======================  ==========================
    real data                    `image.ravel()`          `data.ravel()`
    complex data                 `image.ravel()`          `data.ravel().view(float)`
    same, `complex_image=True`   complex, of (H, W)       `data.ravel()`
    ===========================  =======================  ==========================

    In the second row real and imaginary parts alternate: the matrix is real, its transpose is our
    adjoint for Re <v, A x>, and least squares have the same solution as ours. In the third, for
    operators on complex images such as MRI, matrix and Hermitian adjoint are complex.

    Args:
        operator: linear, for images (C, H, W).
        complex_image: make one complex image (H, W) of the channels (2, H, W).

    Returns:
        SciPy's operator, (m, n), with `dims` and `dimsd`, the shapes of images and data, as PyLops
        has them: `pylops.aslinearoperator(found)` is one of its operators.

    Raises:
        DataError: the operator is not linear, is for a batch of images, or has no complex images.

    Example:
        x = scipy.sparse.linalg.lsqr(to_scipy(operator), y.ravel())[0]
    """
    return _AsMatrix(ArrayView("to_scipy", operator, complex_image, split=True))


class _AsMatrix(Matrix):
    def __init__(self, view: ArrayView):
        self.view, self.dims, self.dimsd = view, view.image_shape, view.data_shape
        super().__init__(view.dtype, (math.prod(self.dimsd), math.prod(self.dims)))

    def _matmat(self, x: np.ndarray) -> np.ndarray:
        y = self.view.forward(x.T.reshape(-1, *self.dims))
        return y.reshape(len(y), -1).T

    def _rmatmat(self, y: np.ndarray) -> np.ndarray:
        x = self.view.adjoint(y.T.reshape(-1, *self.dimsd))
        return x.reshape(len(x), -1).T

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self._matmat(x.reshape(-1, 1))[:, 0]

    def _rmatvec(self, y: np.ndarray) -> np.ndarray:
        return self._rmatmat(y.reshape(-1, 1))[:, 0]


def from_scipy(
    matrix: Any,
    image_shape: Sequence[int] | None = None,
    *,
    data_shape: Sequence[int] | None = None,
    complex_image: bool = False,
) -> LinearOperator:
    """A SciPy operator, a sparse or dense matrix, or a PyLops operator as one of ours.

    A batch is one product with a matrix of its images. It works in main memory, whatever the device
    of the images. A complex matrix gives complex data; of a real image its adjoint takes the real
    part, so that Re <v, A x> = <A^H v, x>.

    Args:
        matrix: (m, n), with `rmatvec` where it is an operator.
        image_shape: (C, H, W) with C H W = n; of PyLops' operators, their `dims` when None. With
            `complex_image`, (2, H, W) with H W = n.
        data_shape: of one sample's data, product m; PyLops' `dimsd`, else (m,), when None.
        complex_image: the matrix acts on complex images (H, W).

    Raises:
        DataError: no shape of the images, one that does not fit, or no adjoint or a wrong one.

    Example:
        operator = from_scipy(scipy.sparse.load_npz("system.npz"), (1, 64, 64))
    """
    linear = matrix if isinstance(matrix, Matrix) else aslinearoperator(matrix)
    rows, columns = linear.shape
    if image_shape is None:
        image_shape = _image_of(tuple(getattr(matrix, "dims", ())), complex_image)
    shape = tuple(int(n) for n in image_shape)
    pixels = math.prod(shape[1:] if complex_image else shape)
    if len(shape) != 3 or pixels != columns or (complex_image and shape[0] != 2):
        wanted = f"(2, H, W) with H W = {columns}" if complex_image else f"product {columns}"
        raise DataError(
            f"from_scipy: image_shape {shape} does not fit a matrix of shape {linear.shape}: it "
            f"must be (C, H, W), here {wanted}."
        )
    data = tuple(getattr(matrix, "dimsd", (rows,)) if data_shape is None else data_shape)
    if math.prod(data) != rows:
        raise DataError(
            f"from_scipy: data_shape {data} has product {math.prod(data)}, and the matrix of shape "
            f"{linear.shape} gives {rows} numbers; leave it out for ({rows},)."
        )
    return _FromMatrix(linear, shape, data, complex_image)


def _image_of(dims: tuple[int, ...], complex_image: bool) -> tuple[int, ...]:
    """(C, H, W) of PyLops' `dims`: (H, W), or (C, H, W)."""
    if len(dims) == 2:
        return (2 if complex_image else 1, *dims)
    if len(dims) == 3 and not complex_image:
        return dims
    raise DataError(
        "from_scipy: the matrix does not say what images it takes"
        + (f" (dims {dims})" if dims else "")
        + ". Give their shape, e.g. image_shape=(1, 64, 64)."
    )


class _FromMatrix(ArrayOperator):
    """See `from_scipy`."""

    def __init__(
        self, matrix: Matrix, image: tuple[int, ...], data: tuple[int, ...], complex_image: bool
    ):
        self.matrix, self.rows_shape = matrix, data
        try:  # (by `rmatvec`, whose error says so; that of `rmatmat` does not)
            matrix.rmatvec(np.zeros(matrix.shape[0], matrix.dtype))
        except NotImplementedError as error:
            raise DataError(
                f"from_scipy: {matrix!r} has no transpose ({error}). Give it one, e.g. "
                "LinearOperator(shape, matvec=forward, rmatvec=adjoint)."
            ) from error
        super().__init__("from_scipy", image, complex_image)

    def _apply(self, x: np.ndarray) -> np.ndarray:
        return self.matrix.matmat(x.reshape(len(x), -1).T).T.reshape(len(x), *self.rows_shape)

    def _apply_adjoint(self, y: np.ndarray) -> np.ndarray:
        image = self.image_shape[1:] if self.complex_image else self.image_shape
        return self.matrix.rmatmat(y.reshape(len(y), -1).T).T.reshape(len(y), *image)

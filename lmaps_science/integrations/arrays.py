"""What linear operators of other packages share: plain arrays, complex numbers, dot tests.

Our images are real, complex ones two channels, and our adjoints are for Re <v, A x>. Elsewhere
images may be complex and adjoints Hermitian, <v, A x> = <A^H v, x>. `ArrayView` shows one of our
operators in their way, `ArrayOperator` one of theirs in ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmaps_science.arrays import as_channels, as_complex, inner, norm, real_dtype
from lmaps_science.io import DataError
from lmaps_science.operators import LinearOperator, Operator
from lmaps_science.physics.linear_map import LinearMap

__all__ = ["ArrayOperator", "ArrayView", "check_adjoint", "require_linear"]


def require_linear(owner: str, operator: Operator) -> LinearOperator:
    """`operator`, if it is linear.

    Raises:
        DataError: it is not.
    """
    if isinstance(operator, LinearOperator):
        return operator
    hint = "an affine one has a linear part, operator.linear"
    if operator.linear is None:
        hint = "for nonlinear ones there is deepinv.to_deepinv(operator)"
    raise DataError(f"{owner} takes linear operators, and {operator!r} is not one: {hint}.")


def check_adjoint(owner: str, operator: LinearOperator, like: Tensor) -> None:
    r"""One dot test with random x and v, in the precision and on the device of `like`.

    .. math:: |Re \langle v, A x \rangle - Re \langle A^H v, x \rangle| \le 10^{-3} \|A x\|

    Both products are of the order of the norm: entries of v have mean square 1.

    Raises:
        DataError: it fails, with both products.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (operator.batch or 1, *operator.image_shape)
    x = torch.randn(shape, generator=generator).to(like)
    y = operator(x)
    parts = torch.randn((2, *y.shape), generator=generator).to(like)
    v = torch.complex(*parts) / math.sqrt(2) if y.is_complex() else parts[0]
    forward = float(inner(v, y).real.sum())
    back = float(inner(operator.adjoint(v), x).sum())
    scale = max(float(norm(y.reshape(1, -1))), abs(forward), abs(back))
    if not abs(forward - back) <= 1e-3 * scale:
        raise DataError(
            f"{owner}: the adjoint is not that of the operator: Re <v, A x> = {forward:.6g} and "
            f"Re <A^H v, x> = {back:.6g} for random v and x, which differ by "
            f"{abs(forward - back) / (scale or 1.0):.2g} of |A x|. Correct it, e.g. a missing "
            "conjugate or scale, or an approximate backprojection."
        )


# ---------------------------------------------------------------- ours, shown as arrays


class ArrayView:
    """One of our linear operators on NumPy arrays (k, ...), with the Hermitian adjoint.

    Complex arrays go through a real operator part by part, A(a + i b) = A a + i A b. With
    `complex_image` the two channels (2, H, W) are one complex image (H, W), as in MRI; with `split`
    complex data are real numbers (..., 2). Arrays are converted to the operator's precision; an
    operator without tensors works in double.

    Raises:
        DataError: the operator is not linear, is for a batch of images, or has no complex images.
    """

    def __init__(self, owner: str, operator: Operator, complex_image: bool, split: bool = False):
        self.operator = require_linear(owner, operator)
        if operator.batch not in (None, 1):
            raise DataError(
                f"{owner} takes the operator of one image, and this one is for a batch of "
                f"{operator.batch}: take one, e.g. operator.select(torch.tensor([0]))."
            )
        self.complex_image = complex_image
        self.like = operator.like if operator._tensors() else operator.like.double()
        self.image_shape = tuple(operator.image_shape)
        y = self.operator(self.like.new_zeros(1, *self.image_shape))
        self.data_shape, self.complex_data = tuple(y.shape[1:]), y.is_complex()
        if complex_image:
            self._check_complex(owner)
            self.image_shape = self.image_shape[1:]
        self.split = split and self.complex_data and not complex_image
        if self.split:
            self.data_shape, self.complex_data = (*self.data_shape, 2), False

    def _check_complex(self, owner: str) -> None:
        """A(i x) = i A(x), which operators on complex images fulfil."""
        if self.image_shape[0] != 2 or not self.complex_data:
            raise DataError(
                f"{owner}: complex_image=True is for images (2, H, W) and complex data; "
                f"{self.operator!r} has other ones. Leave it out."
            )
        generator = torch.Generator().manual_seed(0)
        x = torch.randn((1, *self.image_shape), generator=generator).to(self.like)
        turned, y = self.operator(as_channels(1j * as_complex(x))), self.operator(x)
        apart = float((turned - 1j * y).norm() / y.norm())
        if not apart <= 1e-4:
            raise DataError(
                f"{owner}: complex_image=True needs A(i x) = i A(x), and {self.operator!r} differs "
                f"from it by {apart:.2g} of |A x|: its two channels are no complex image."
            )

    @property
    def dtype(self) -> np.dtype:
        """NumPy's dtype of the matrix."""
        is_complex = self.complex_image or self.complex_data
        dtype = self.like.dtype.to_complex() if is_complex else self.like.dtype
        return np.dtype(str(dtype).removeprefix("torch."))

    def forward(self, x: np.ndarray) -> np.ndarray:
        """A x: (k, *image_shape) -> (k, *data_shape)."""
        if self.complex_image:
            return _array(self._each(self.operator, as_channels(self._tensor(x, True))))
        if np.iscomplexobj(x):
            return self.forward(x.real) + 1j * self.forward(x.imag)
        y = self._each(self.operator, self._tensor(x))
        return _array(torch.view_as_real(y.resolve_conj()) if self.split else y)

    def adjoint(self, y: np.ndarray) -> np.ndarray:
        """A^H y: (k, *data_shape) -> (k, *image_shape)."""
        if self.complex_image:
            return _array(as_complex(self._real_adjoint(y)))
        if self.complex_data:
            # Re(A^H y) is what our adjoint gives, and Im(A^H y) = -Re(A^H i y).
            return _array(self._real_adjoint(y)) - 1j * _array(self._real_adjoint(1j * y))
        if np.iscomplexobj(y):
            return self.adjoint(y.real) + 1j * self.adjoint(y.imag)
        return _array(self._real_adjoint(y))

    def _real_adjoint(self, y: np.ndarray) -> Tensor:
        """Re(A^H y)."""
        data = self._tensor(y, self.complex_data)
        return self._each(
            self.operator.adjoint, torch.view_as_complex(data) if self.split else data
        )

    def _tensor(self, array: np.ndarray, is_complex: bool = False) -> Tensor:
        dtype = self.like.dtype.to_complex() if is_complex else self.like.dtype
        return _tensor(array).to(device=self.like.device, dtype=dtype)

    def _each(self, call: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        with torch.no_grad():
            if self.operator.batch is None:
                return call(values)
            return torch.cat([call(one) for one in values.split(1)])


# ---------------------------------------------------------------- theirs, as one of ours


class ArrayOperator(LinearOperator):
    """A linear operator on NumPy arrays. A subclass writes `_apply` and `_apply_adjoint`.

    Arrays are in main memory: tensors of another device come and go. Gradients pass through it, by
    the adjoint. `complex_image` makes one complex image (H, W) of our two channels. The first calls
    find the shape of the data and test the adjoint.
    """

    def __init__(self, owner: str, image_shape: tuple[int, ...], complex_image: bool):
        self.image_shape, self.complex_image = image_shape, complex_image
        like = torch.empty(0, dtype=torch.float64)
        self.data_shape = tuple(self._out(like.new_zeros(1, *image_shape)).shape[1:])
        check_adjoint(owner, self, like)

    def _apply(self, x: np.ndarray) -> np.ndarray:
        """A x of each image: (B, C, H, W), or complex (B, H, W) -> (B, *data_shape)."""
        raise NotImplementedError(f"{type(self).__name__} must define _apply(x).")

    def _apply_adjoint(self, y: np.ndarray) -> np.ndarray:
        """A^H y: (B, *data_shape) -> (B, C, H, W), or complex (B, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} must define _apply_adjoint(y).")

    def _forward(self, x: Tensor) -> Tensor:
        return LinearMap.apply(x, self._out, self._back)

    def _adjoint(self, y: Tensor) -> Tensor:
        return LinearMap.apply(y, self._back, self._out)

    def _out(self, x: Tensor) -> Tensor:
        return _like(self._apply(_array(as_complex(x) if self.complex_image else x)), x)

    def _back(self, y: Tensor) -> Tensor:
        image = _like(self._apply_adjoint(_array(y)), y)
        if self.complex_image:
            return as_channels(image if image.is_complex() else image + 0j)
        return image.real.contiguous() if image.is_complex() else image


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().resolve_conj().resolve_neg().numpy()


def _tensor(array: Any) -> Tensor:
    """Of the same memory where PyTorch can use it."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _like(array: np.ndarray, x: Tensor) -> Tensor:
    """On the device and in the precision of `x`, complex where the array is."""
    tensor, dtype = _tensor(array), real_dtype(x.dtype)
    return tensor.to(device=x.device, dtype=dtype.to_complex() if tensor.is_complex() else dtype)

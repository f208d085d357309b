"""SigPy's linear operators: `to_linop` and `from_linop`."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from lmaps_science.integrations.arrays import ArrayOperator, ArrayView
from lmaps_science.io import DataError
from lmaps_science.operators import LinearOperator, Operator

__all__ = ["from_linop", "to_linop"]


def to_linop(operator: Operator, *, complex_image: bool = False) -> Any:
    """One of our linear operators as a `sigpy.linop.Linop`: SigPy's algorithms and apps take it.

    SigPy's operators are over complex numbers, without batch axis: `ishape` is (C, H, W), or (H, W)
    with `complex_image`; `oshape` is `data_shape`. A complex array goes through an operator on real
    images part by part, and `.H` is the Hermitian adjoint. Least squares with complex data
    therefore find a complex image, also where ours are real.

    Args:
        operator: linear, for images (C, H, W).
        complex_image: make one complex image (H, W) of the channels (2, H, W), as MRI needs it.

    Raises:
        ImportError: SigPy is missing (extra `mri`).
        DataError: the operator is not linear, is for a batch of images, or has no complex images.

    Example:
        linop = to_linop(MultiCoilMRI(maps, mask), complex_image=True)
        image = sigpy.app.LinearLeastSquares(linop, kspace, lamda=1e-3).run()
    """
    _sigpy("to_linop")
    return _linop_class()(ArrayView("to_linop", operator, complex_image), False)


def from_linop(linop: Any, *, complex_image: bool = True) -> LinearOperator:
    """A `sigpy.linop.Linop` as one of our operators, with `linop.H` as its adjoint.

    Images of a batch go through it one after the other, in main memory, whatever their device.

    Args:
        linop: on images (H, W), or (C, H, W) where `complex_image` is false.
        complex_image: its images are complex: ours are (2, H, W). False: ours are real, (1, H, W)
            or (C, H, W), and of what `linop.H` gives the real part is taken.

    Raises:
        ImportError: SigPy is missing (extra `mri`).
        DataError: its images have other dimensions, or `linop.H` is not its adjoint.

    Example:
        operator = from_linop(sigpy.mri.linop.Sense(maps))
    """
    _sigpy("from_linop")
    shape = tuple(int(n) for n in linop.ishape)
    if len(shape) != 2 and (complex_image or len(shape) != 3):
        wanted = "(H, W)" if complex_image else "(H, W) or (C, H, W)"
        raise DataError(
            f"from_linop: {linop} takes arrays of shape {shape}, expected {wanted}. Reshape them, "
            "e.g. linop * sigpy.linop.Reshape(linop.ishape, (64, 64))."
        )
    channels = ((2 if complex_image else 1),) if len(shape) == 2 else ()
    return _FromLinop(linop, (*channels, *shape), complex_image)


class _FromLinop(ArrayOperator):
    """See `from_linop`."""

    def __init__(self, linop: Any, image_shape: tuple[int, ...], complex_image: bool):
        self.linop, self.adjoint_linop = linop, linop.H
        super().__init__("from_linop", image_shape, complex_image)

    def _apply(self, x: np.ndarray) -> np.ndarray:
        shape = tuple(self.linop.ishape)
        return np.stack([self.linop(one.reshape(shape)) for one in x])

    def _apply_adjoint(self, y: np.ndarray) -> np.ndarray:
        image = self.image_shape[1:] if self.complex_image else self.image_shape
        return np.stack([self.adjoint_linop(one).reshape(image) for one in y])


@cache
def _linop_class() -> type:
    """The class derives from SigPy's, which is imported when it is first needed."""
    from sigpy.linop import Linop

    class OperatorLinop(Linop):  # type: ignore[misc]
        def __init__(self, view: ArrayView, adjoint: bool):
            self.view, self.is_adjoint = view, adjoint
            shapes = view.data_shape, view.image_shape
            name = type(view.operator).__name__ + (".H" if adjoint else "")
            super().__init__(*(shapes[::-1] if adjoint else shapes), repr_str=name)

        def _apply(self, array: np.ndarray) -> np.ndarray:
            return (self.view.adjoint if self.is_adjoint else self.view.forward)(array[None])[0]

        def _adjoint_linop(self) -> Any:
            return OperatorLinop(self.view, not self.is_adjoint)

    return OperatorLinop


def _sigpy(owner: str) -> None:
    try:
        import sigpy  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{owner} needs SigPy: pip install 'lmaps-science[mri]'") from error

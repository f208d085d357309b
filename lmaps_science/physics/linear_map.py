"""Linear maps that PyTorch does not differentiate by itself, or not as fast as their transpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["LinearMap", "finufft"]


class LinearMap(torch.autograd.Function):
    """`LinearMap.apply(x, apply, transpose)` is `apply(x)`, with `transpose` as its derivative.

    Both take and give tensors; the derivative of the derivative is `apply` again.
    """

    @staticmethod
    def forward(x: Tensor, apply: Callable, transpose: Callable) -> Tensor:
        """`apply(x)`."""
        return apply(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps the two maps. Apart from `forward`, so that `torch.func` can use it."""
        _, apply, transpose = inputs
        ctx.maps = transpose, apply

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """`transpose(gradient)`."""
        return LinearMap.apply(gradient, *ctx.maps), None, None


def finufft(owner: str) -> Any:
    """The module of non-uniform Fourier transforms, which `owner` needs.

    Raises:
        ImportError: it is missing, with the extra to install.
    """
    try:
        import finufft
    except ImportError as error:
        raise ImportError(f"{owner} needs finufft: pip install 'lmaps-science[nufft]'") from error
    return finufft

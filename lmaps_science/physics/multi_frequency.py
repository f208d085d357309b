"""Scattering at several frequencies as one operator, and the limits of a contrast."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lmaps_science.operators import LinearOperator, Operator

__all__ = ["Clamp", "LinearMultiFrequency", "MultiFrequency"]


class MultiFrequency(Operator):
    """One operator for each frequency, lowest first: (B, C, H, W) -> (B, F, *data_shape).

    y_f = H_f(x), f = 0, ..., F - 1.

    Raises ValueError for no operator, or operators of unlike images or data.

    Example:
        >>> from lmaps_science.operators import Scaling
        >>> both = MultiFrequency([Scaling(1.0, (1, 4, 4)), Scaling(2.0, (1, 4, 4))])
        >>> both(torch.ones(1, 1, 4, 4)).shape
        torch.Size([1, 2, 1, 4, 4])
    """

    def __init__(self, operators: Sequence[Operator]):
        shapes = {(tuple(op.image_shape), tuple(op.data_shape or ())) for op in operators}
        if len(shapes) != 1:
            raise ValueError(
                "MultiFrequency needs operators of equal image and data shape, got "
                f"{sorted(shapes) or 'none'}: use one grid, and a mask for missing receivers."
            )
        self.operators = tuple(operators)
        self.image_shape = self.operators[0].image_shape
        self._take_stock()

    def _take_stock(self) -> None:
        """What follows from the operators."""
        self.data_shape = (len(self.operators), *(self.operators[0].data_shape or ()))
        self.provides = frozenset.intersection(*(o.provides for o in self.operators))
        self.provides |= {"multi-frequency"}
        self.batch = next((o.batch for o in self.operators if o.batch is not None), None)

    def lowest(self, count: int) -> MultiFrequency:
        """The same with the first `count` frequencies alone."""
        part = copy.copy(self)
        part.operators = self.operators[:count]
        part._take_stock()
        return part

    def _select(self, rows: Tensor) -> MultiFrequency:
        return self._of([operator.select(rows) for operator in self.operators])

    def _stacked(self, operators: Sequence[Operator], reason: str) -> Operator:
        sets = [o.operators for o in operators if isinstance(o, MultiFrequency)]
        if len({len(one) for one in sets}) > 1:
            raise ValueError(
                f"observations of different frequencies cannot share a batch: {reason}."
            )
        return self._of([Operator.stack(each) for each in zip(*sets, strict=True)])

    def _of(self, operators: Sequence[Operator]) -> MultiFrequency:
        joined = copy.copy(self)
        joined.operators = tuple(operators)
        joined._take_stock()
        return joined

    def _forward(self, x: Tensor) -> Tensor:
        return torch.stack([operator(x) for operator in self.operators], dim=1)

    def _pullback(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The data and the map v -> sum_f J_f(x)^H v_f."""
        data, pulls = zip(*(operator.pullback(x) for operator in self.operators), strict=True)

        def pull(v: Tensor) -> Tensor:
            parts = [p(part) for p, part in zip(pulls, v.unbind(1), strict=True)]
            return torch.stack(parts).sum(0)

        return torch.stack(data, dim=1), pull

    def _tensors(self) -> list[Tensor]:
        return [tensor for operator in self.operators for tensor in operator._tensors()]

    def __repr__(self) -> str:
        return f"MultiFrequency({len(self.operators)} x {self.operators[0]!r})"


class LinearMultiFrequency(MultiFrequency, LinearOperator):
    """`MultiFrequency` of linear operators: y_f = A_f x."""

    operators: tuple[LinearOperator, ...]
    _vjp = LinearOperator._vjp
    _pullback = LinearOperator._pullback
    linear = LinearOperator.linear

    def _adjoint(self, y: Tensor) -> Tensor:
        parts = zip(self.operators, y.unbind(1), strict=True)
        return torch.stack([operator.adjoint(part) for operator, part in parts]).sum(0)


class Clamp(Operator):
    """y = min(max(x, low), high): full-wave fields do not converge for absurd contrasts.

    Where x is outside, the derivative is 0: there the prior alone decides.

    Example:
        >>> Clamp(0.0, 1.0, (1, 1, 3))(torch.tensor([[[[-1.0, 0.5, 2.0]]]]))
        tensor([[[[0.0000, 0.5000, 1.0000]]]])
    """

    def __init__(self, low: float, high: float, image_shape: tuple[int, ...]):
        if not low < high:
            raise ValueError(f"Clamp needs low < high, got {low} and {high}.")
        self.low, self.high = float(low), float(high)
        self.image_shape = self.data_shape = tuple(image_shape)

    def _forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)

    def _vjp(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.where((x >= self.low) & (x <= self.high), v, 0.0)

"""Gradients of operators that have none: the residual of the one, the Jacobian of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lmaps_science.operators import Operator

__all__ = ["Surrogate"]


class Surrogate(Operator):
    r"""An operator whose vector-Jacobian products are those of a `stand_in`.

    .. math:: H(x), \qquad \nabla\ell(x) \approx J_{H'}(x)^T (H(x) - y)

    The data are those of `operator`, which need not be differentiable (quantisation, thresholds,
    compression, external programs); `stand_in` H' is a smooth operator close to it, in the simplest
    case the identity, `Scaling(1.0, shape)`. It is no operator's true gradient: line searches may
    stop early, and minimisers are where the stand-in's Jacobian sees no residual.

    Attributes:
        operator: H, which predicts the data.
        stand_in: H', of the same shapes.

    Raises:
        ValueError: the two differ in shape, or the stand-in is not differentiable either.

    Source: "Local MAP Sampling for Diffusion Models", eq. 16-18.

    Example:
        misfit = GaussianMisfit(Surrogate(quantise, Scaling(1.0, (1, 64, 64))), y, 0.05)
    """

    def __init__(self, operator: Operator, stand_in: Operator):
        shapes = [
            (tuple(o.image_shape), None if o.data_shape is None else tuple(o.data_shape))
            for o in (operator, stand_in)
        ]
        data = [shape for _, shape in shapes if shape is not None]
        if shapes[0][0] != shapes[1][0] or len(set(data)) > 1:
            raise ValueError(
                f"Surrogate: the stand-in must take and give the shapes of the operator, image -> "
                f"data; got {shapes[0][0]} -> {shapes[0][1]} and {shapes[1][0]} -> {shapes[1][1]}. "
                "Example: Surrogate(quantise, Scaling(1.0, quantise.image_shape))."
            )
        if "differentiable" not in stand_in.provides:
            raise ValueError(
                f"Surrogate: the stand-in {stand_in!r} says that it is not differentiable; it is "
                "there for its derivative. Take a smooth one, e.g. Scaling(1.0, shape)."
            )
        self.operator, self.stand_in = operator, stand_in
        self.image_shape, self.data_shape = operator.image_shape, operator.data_shape
        self.batch = operator.batch if stand_in.batch is None else stand_in.batch
        self.provides = operator.provides | {"differentiable"}

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator(x)

    def _pullback(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        with torch.no_grad():
            y = self.operator(x)
        return y, lambda v: self.stand_in.vjp(x, v)

    def _select(self, rows: Tensor) -> Surrogate:
        return self._of(self.operator.select(rows), self.stand_in.select(rows))

    def _stacked(self, operators: Sequence[Operator], reason: str) -> Operator:
        found = [o for o in operators if isinstance(o, Surrogate)]
        stacked = Operator.stack([o.operator for o in found])
        return self._of(stacked, Operator.stack([o.stand_in for o in found]))

    def _of(self, operator: Operator, stand_in: Operator) -> Surrogate:
        joined = Surrogate(operator, stand_in)
        joined._meter = self._meter
        return joined

    def __repr__(self) -> str:
        return f"Surrogate({self.operator!r}, {self.stand_in!r})"

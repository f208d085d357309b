"""The benchmark's operators as ours: what its interface lets one know, and nothing more.

Of an operator `op` of the benchmark: `op.forward(z)` are the data of normalised images (B, C, H,
W), `op.loss(z, y)` is (B,), and `op.gradient(z, y)` the gradient of its sum. Some see only the
first image of a batch. All of them compute in precisions of their own; here everything is float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lmaps_science.arrays import norm
from lmaps_science.io.files import DataError
from lmaps_science.misfit import Misfit
from lmaps_science.operators import LinearOperator, Operator, SVDOperator

__all__ = [
    "OwnLinear",
    "OwnLoss",
    "OwnMisfit",
    "OwnSVD",
    "check_gradient",
    "random_image",
    "takes_batches",
]

SMALLEST = 1e-3  # singular values below it, relative to the largest, are left out: float32


class OwnLinear(LinearOperator):
    """The linear part of an operator, on physical images: A x = H(x) for H(0) = 0.

    `batched` says whether it sees every image of a batch; else they go one by one.
    """

    def __init__(self, op: Any, image_shape: tuple[int, ...], data_shape: Any, batched: bool):
        self.op, self.batched = op, batched
        self.image_shape, self.data_shape = tuple(image_shape), tuple(data_shape)

    def _forward(self, x: Tensor) -> Tensor:
        z = self.op.normalize(x)
        parts = [z] if self.batched else z.split(1)
        return torch.cat([single(self.op.forward(part)) for part in parts])

    def __repr__(self) -> str:
        return f"{type(self.op).__name__} of the benchmark"


class OwnSVD(SVDOperator):
    """A linear `operator` with the singular vectors that the benchmark's `op` holds.

    Those of singular values below a thousandth of the largest are left out. Forward and adjoint
    remain those of `operator`; U c = A V (c / s) and U^T y = V^T A^T y / s.

    Raises:
        DataError: they are not those of `operator`.
    """

    def __init__(self, op: Any, operator: LinearOperator, like: Tensor):
        self.op, self.operator = op, operator
        self.image_shape, self.data_shape = operator.image_shape, operator.data_shape
        values = op.S.detach()
        self.kept = torch.nonzero(values > SMALLEST * values.max()).flatten()
        self.count = len(values)
        self.singular_values = values[self.kept].to(like)
        self._check(like)

    def _Vt(self, x: Tensor) -> Tensor:
        return self.op.Vt(x)[:, self.kept].to(x.dtype)

    def _V(self, c: Tensor) -> Tensor:
        every = c.new_zeros(len(c), self.count)
        every[:, self.kept] = c
        return self.op.V(every).reshape(-1, *self.image_shape).to(c.dtype)

    def _Ut(self, y: Tensor) -> Tensor:
        return self._Vt(self.operator.adjoint(y)) / self.singular_values

    def _U(self, c: Tensor) -> Tensor:
        return self.operator(self._V(c / self.singular_values))

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator.adjoint(y)

    def _check(self, like: Tensor) -> None:
        """A^T A x = V S^2 V^T x, of one random image."""
        x = random_image(self.image_shape, like)
        exact = self.operator.normal(x)
        try:
            found = self._V(self.singular_values**2 * self._Vt(x))
            wrong = float(norm(found - exact) / norm(exact))
        except RuntimeError:  # shapes
            wrong = float("inf")
        if not wrong < 0.01:
            raise DataError(
                f"{type(self.op).__name__}: its singular vectors are those of another operator "
                f"(A^T A x differs by {wrong:.2g}). The benchmark keeps them in the folder cache/ "
                "by the numbers of transmitters and receivers alone, whatever the grid: remove "
                "cache/inv-scatter_*, or choose a method without, e.g. algorithm=lmaps."
            )


class OwnLoss(Operator):
    """The benchmark's loss of normalised images as their one datum, (B, C, H, W) -> (B, 1)."""

    data_shape = (1,)

    def __init__(self, op: Any, observation: Any, image_shape: tuple[int, ...], batched: bool):
        self.op, self.observation, self.batched = op, observation, batched
        self.image_shape = tuple(image_shape)

    def _forward(self, x: Tensor) -> Tensor:
        parts = [x] if self.batched else x.split(1)
        losses = [self.op.loss(part, self.observation).reshape(-1).to(x) for part in parts]
        return torch.cat(losses)[:, None]

    def _pullback(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        x = x.detach()
        if self.batched and len(x) > 1:  # its own value is the sum over the batch
            values, slope = self._forward(x), gradient(self.op, x, self.observation)[0]
        else:
            pairs = [gradient(self.op, part, self.observation) for part in x.split(1)]
            slope = torch.cat([s for s, _ in pairs])
            values = torch.cat([v for _, v in pairs])[:, None]
        return values, lambda v: v[:, :, None, None] * slope

    def __repr__(self) -> str:
        return f"{type(self.op).__name__} of the benchmark"


class OwnMisfit(Misfit):
    """L = `weight` times the benchmark's loss; `objective_scale` times L is the published unit."""

    def __init__(self, operator: OwnLoss, weight: float, objective_scale: float, like: Tensor):
        self.operator, self.weight = operator, weight
        self.objective_scale, self._like = objective_scale, like

    @property
    def like(self) -> Tensor:
        """An empty real tensor of the device and dtype in which it works."""
        return self._like

    def _loss(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        return self.weight * predicted[:, 0], torch.full_like(predicted, self.weight)


def gradient(op: Any, z: Tensor, observation: Any) -> tuple[Tensor, Tensor]:
    """Its gradient at `z`, like `z`, and the sum of its losses, (1,)."""
    with torch.enable_grad():  # its own does not enable it
        slope, loss = op.gradient(z.detach(), observation, return_loss=True)
    return slope.detach().to(z), torch.as_tensor(loss).detach().reshape(1).to(z)


def single(data: Tensor) -> Tensor:
    """In single precision."""
    return data.to(torch.complex64 if data.is_complex() else torch.float32)


def random_image(shape: tuple[int, ...], like: Tensor, count: int = 1) -> Tensor:
    """Images (count, C, H, W) of numbers in [-1, 1], always the same."""
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.rand((count, *shape), generator=generator) - 1).to(like)


def check_gradient(op: Any, observation: Any, shape: tuple[int, ...], like: Tensor) -> None:
    """Refuse an operator without a gradient.

    Raises:
        DataError: it has none.
    """
    try:
        gradient(op, random_image(shape, like), observation)
        return
    except (AttributeError, NotImplementedError) as error:
        cause: Exception = error
    except RuntimeError as error:
        if "require grad" not in str(error):
            raise
        cause = error
    raise DataError(
        f"{type(op).__name__} has no gradient (its forward model cannot be differentiated: "
        f"{str(cause).splitlines()[0] if str(cause) else type(cause).__name__}), and every method "
        "of lmaps-science needs one. Take one of the benchmark's derivative-free methods, e.g. "
        "algorithm=enkg."
    ) from cause


def takes_batches(op: Any, observation: Any, shape: tuple[int, ...], like: Tensor) -> bool:
    """Whether two images side by side have the losses and gradients that they have alone.

    Warns (UserWarning) where they do not.
    """
    z = random_image(shape, like, count=2)
    alone = [gradient(op, part, observation) for part in z.split(1)]
    losses = torch.cat([loss for _, loss in alone])
    slopes = torch.cat([slope for slope, _ in alone])
    try:
        together = op.loss(z, observation)
        slope = gradient(op, z, observation)[0]
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
        fits = False
    else:
        fits = together.shape == losses.shape and slope.shape == slopes.shape
        fits = fits and torch.allclose(together.detach().to(losses), losses, rtol=1e-4)
        fits = fits and bool((norm(slope - slopes) <= 1e-4 * norm(slopes)).all())
    if not fits:
        warnings.warn(
            f"{type(op).__name__} sees the first image of a batch only: samples are computed one "
            "after the other.",
            stacklevel=2,
        )
    return fits

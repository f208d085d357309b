"""Data misfits: L(x) = -log p(y | x) up to a constant, and its gradient, per sample.

A misfit owns the data and the noise model; its operator says what an image would have measured. It
is stated on the operator's images: `misfit @ affine` is the same misfit on model space.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from lmaps_science.arrays import (
    Movable,
    check_finite,
    check_positive,
    check_shape,
    difference,
    per_sample,
    real_dtype,
)
from lmaps_science.operators import LinearOperator, Operator, SVDOperator

__all__ = ["GaussianMisfit", "Misfit"]

MisfitType = TypeVar("MisfitType", bound="Misfit")


class Misfit(Movable):
    """-log p(y | x) + const. A subclass sets `operator` and writes `_loss` on the predicted data.

    A misfit of N observations owns data of shape (N, ...); with N = 1 they serve any number of
    images, else there is one image for each, see `select`.

    Attributes:
        perturbable: whether `perturbed` is written.
        objective_scale: times L is the objective that published step sizes refer to; a number, or
            one for each observation, (N,).
    """

    operator: Operator
    perturbable: bool = False
    objective_scale: float | Tensor = 1.0

    @property
    def observations(self) -> int:
        """How many observations it holds, N."""
        return self.operator.batch or 1

    def __call__(self, x: Tensor) -> Tensor:
        """L of each image: (B, C, H, W) -> (B,)."""
        return self._loss(self.operator(x))[0]

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of L, like `x`, and values (B,), from one forward and one adjoint pass."""
        predicted, pull = self.operator.pullback(x)
        values, slope = self._loss(predicted)
        return pull(slope), values

    def _loss(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Values (B,) and the derivative by the predicted data, like `predicted`."""
        raise NotImplementedError(f"{type(self).__name__} must define _loss(predicted).")

    @property
    def like(self) -> Tensor:
        """An empty real tensor of the device and dtype in which it works."""
        return self.operator.like

    # ---------------------------------------------------------------- data, in and out

    @property
    def data(self) -> Tensor:
        """All that was measured, errors that belong to it included, as one tensor (N, ...)."""
        raise NotImplementedError(f"{type(self).__name__} must define data.")

    def with_data(self: MisfitType, data: Tensor) -> MisfitType:
        """The same misfit of other data (B, ...), like `data`."""
        raise NotImplementedError(f"{type(self).__name__} must define with_data(data).")

    def expected(self, x: Tensor) -> Tensor:
        """What the images would have measured without noise, like `data`: (B, ...)."""
        raise NotImplementedError(f"{type(self).__name__} must define expected(x).")

    def simulate(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The same with noise as this misfit has it; random numbers from `generator`, or global."""
        raise NotImplementedError(f"{type(self).__name__} must define simulate(x, generator).")

    def perturbed(
        self: MisfitType, batch: int, normal: Callable[[Tensor], Tensor], scale: float
    ) -> MisfitType:
        """The misfit of these data with noise added to them, drawn from L's own noise model.

        Args:
            batch: images, each of which gets noise of its own; that of the misfit, if it has one.
            normal: `normal(like)` gives standard normal numbers of the shape of `like`.
            scale: of the noise, in units of the data's.
        """
        raise NotImplementedError(f"{type(self).__name__} must define perturbed(...).")

    def of_expected(self, expected: Tensor) -> Tensor:
        """L of images that would have measured `expected`, (B,): `m(x) = m.of_expected(...)`."""
        raise NotImplementedError(f"{type(self).__name__} must define of_expected(expected).")

    def noise_floor(self) -> Tensor:
        """E L of the true image, (N,) or (1,): what the stated noise alone leaves of the misfit.

        Half the number of real data, where their noise is Gaussian.
        """
        raise NotImplementedError(f"{type(self).__name__} must define noise_floor().")

    # ---------------------------------------------------------------- observations in a batch

    def select(self: MisfitType, rows: Tensor) -> MisfitType:
        """The misfit of a batch whose images belong to these observations, integers (B,)."""
        if self.observations == 1:
            return self
        selected = copy.copy(self)
        selected.operator = self.operator.select(rows)
        if isinstance(self.objective_scale, Tensor):
            selected.objective_scale = self.objective_scale[rows]
        self._select_data(selected, rows)
        return selected

    def _select_data(self: MisfitType, selected: MisfitType, rows: Tensor) -> None:
        """Put the data of these observations into `selected`."""
        raise NotImplementedError(
            f"{type(self).__name__} must define _select_data(selected, rows)."
        )

    @staticmethod
    def stack(misfits: Sequence[Misfit]) -> Misfit:
        """One misfit of all their observations.

        Raises:
            ValueError: they cannot share a batch: the reason.
        """
        first = misfits[0]
        if len(misfits) == 1:
            return first
        kinds = {type(misfit).__name__ for misfit in misfits}
        if len(kinds) > 1:
            raise ValueError(f"misfits of different kinds cannot share a batch: {sorted(kinds)}.")
        stacked = copy.copy(first)
        stacked.operator = Operator.stack([misfit.operator for misfit in misfits])
        first._stack_data(stacked, misfits)
        return stacked

    def _stack_data(self: MisfitType, stacked: MisfitType, misfits: Sequence[Misfit]) -> None:
        """Put the data of all of them into `stacked`, or say why they do not fit together."""
        raise ValueError(f"{type(self).__name__} holds one observation: it cannot be stacked.")

    # ---------------------------------------------------------------- what solvers need

    def gaussian(self) -> GaussianMisfit:
        """Itself, where the noise is Gaussian.

        Raises:
            ValueError: it is not.
        """
        raise ValueError(
            f"this needs Gaussian noise, and the misfit is a {type(self).__name__}. Choose a "
            "solver for any misfit, e.g. LMAPS(local=LBFGS())."
        )

    def linear(self) -> LinearOperator:
        """The Jacobian of its operator, where that is the same for every image.

        Raises:
            ValueError: it is not.
        """
        found = self.operator.linear
        if found is None:
            raise ValueError(
                f"this needs a linear operator, and here it is {self.operator!r}. Choose a solver "
                "for nonlinear ones, e.g. LMAPS(local=LBFGS())."
            )
        return found

    def svd(self) -> SVDOperator:
        """The Jacobian of its operator with its singular value decomposition.

        Raises:
            ValueError: there is none.
        """
        found = self.linear()
        if not isinstance(found, SVDOperator):
            raise ValueError(
                f"this needs singular vectors, and {self.operator!r} has none. Choose a solver "
                "without, e.g. LMAPS(local=ConjugateGradient())."
            )
        return found

    def __matmul__(self, other: Operator) -> Misfit:
        """`(misfit @ map)(z) == misfit(map(z))`, e.g. on model space or a latent space."""
        if not isinstance(other, Operator):
            return NotImplemented
        composed = copy.copy(self)
        composed.operator = self.operator @ other
        return composed

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.operator!r})"


class GaussianMisfit(Misfit):
    """L(x) = sum |y - H(x)|^2 / (2 variance), `variance` that of a real number of the data.

    `y` is (1, ...) or (B, ...), real or complex, like the operator's data; `sigma` > 0 a number or
    a tensor that broadcasts against `y`, with sigma^2 = E |n|^2. A real datum has the variance
    sigma^2, the real and the imaginary part of a complex one sigma^2 / 2 each. `objective_scale` is
    the variance (its mean): the scaled misfit is half the squared residual. Raises ValueError for
    non-finite `y`, for `sigma` that is not finite and positive, and for a wrong shape.

    Example:
        >>> from lmaps_science.operators import Scaling
        >>> misfit = GaussianMisfit(Scaling(2.0, (1, 2, 2)), torch.zeros(1, 1, 2, 2), sigma=0.5)
        >>> misfit(torch.ones(1, 1, 2, 2))  # 4 residuals of 2, over 2 * 0.25
        tensor([32.])
    """

    perturbable = True

    def __init__(self, operator: Operator, y: Tensor, sigma: float | Tensor):
        owner = type(self).__name__
        if operator.data_shape is not None:
            check_shape(owner, "y", y, ("B", *operator.data_shape))
        check_finite(owner, "y", y)
        self.operator, self.y = operator, y
        self.sigma = torch.as_tensor(sigma, dtype=real_dtype(y.dtype), device=y.device)
        check_positive(owner, "sigma", self.sigma)
        try:
            torch.broadcast_shapes(y.shape, self.sigma.shape)
        except RuntimeError as error:
            raise ValueError(
                f"{owner}: sigma of shape {tuple(self.sigma.shape)} does not fit y of shape "
                f"{tuple(y.shape)}: give one number, or one for each datum, e.g. sigma[None]."
            ) from error
        variance = self.variance
        own = self._own_sigmas
        self.objective_scale = variance.flatten(1).mean(1) if own else float(variance.mean())

    @property
    def observations(self) -> int:
        """How many observations it holds, N."""
        sigmas = len(self.sigma) if self._own_sigmas else 1
        return max(len(self.y), sigmas, self.operator.batch or 1)

    @property
    def _own_sigmas(self) -> bool:
        """Whether each observation has a noise level of its own."""
        return self.sigma.ndim == self.y.ndim and len(self.sigma) > 1

    @property
    def variance(self) -> Tensor:
        """Of a real datum, and of the real and the imaginary part of a complex one; like sigma."""
        return self.sigma**2 / (2 if self.y.is_complex() else 1)

    @property
    def like(self) -> Tensor:
        """An empty real tensor of the data's device and precision."""
        return self.y.new_empty(0, dtype=real_dtype(self.y.dtype))

    def hessian(self, x: Tensor) -> Tensor:
        """A^H A x / sigma^2 of images (B, C, H, W), like x; ValueError where it is not linear."""
        operator, common = self.linear(), self.common_variance
        if common is not None:  # many operators have a shorter way to A^H A
            return operator.normal(x) / per_sample(common, x)
        return operator.adjoint(operator(x) / self.variance)

    @property
    def common_variance(self) -> Tensor | None:
        """The variance where all data of an observation have the same: (), or (N,); else None."""
        if self.sigma.numel() == 1:
            return self.variance.reshape(())
        alone = self.sigma.ndim == self.y.ndim and self.sigma[0].numel() == 1
        return self.variance.reshape(-1) if alone else None

    def with_sigma(self, sigma: Tensor) -> GaussianMisfit:
        """The same data with another noise level, not checked again."""
        changed = copy.copy(self)
        changed.sigma = sigma
        return changed

    def with_data(self, y: Tensor) -> GaussianMisfit:
        """Other data (B, ...) with the same noise level, not checked."""
        changed = copy.copy(self)
        changed.y = y
        return changed

    @property
    def data(self) -> Tensor:
        """y."""
        return self.y

    def expected(self, x: Tensor) -> Tensor:
        """H(x)."""
        return self.operator(x)

    def simulate(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """H(x) + sigma n, with E |n|^2 = 1; no noise in data that are not `sampled`."""
        y = self.operator(x)
        noise = torch.empty_like(y).normal_(generator=generator)
        return y + self.sigma * noise * self.sampled()

    def sampled(self) -> Tensor:
        """Which data some image changes: booleans (1 or N, ...).

        The others are 0 of a random image, and of a constant one what they are of another: clipped
        values are 0, too, but not of both.
        """
        shape = (self.operator.batch or 1, *self.operator.image_shape)
        probe = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.like)
        with torch.no_grad():
            found = self.operator(probe) != 0
            if self.operator.linear is None and not bool(found.all()):
                blank = torch.zeros_like(probe)
                found |= self.operator(blank + 1) != self.operator(blank)
        return found

    def perturbed(
        self, batch: int, normal: Callable[[Tensor], Tensor], scale: float
    ) -> GaussianMisfit:
        """Of y + scale sigma n, with E |n|^2 = 1."""
        data = self.y.expand(batch, *self.y.shape[1:])
        return self.with_data(data + scale * self.sigma * normal(data))

    def of_expected(self, expected: Tensor) -> Tensor:
        """L of images with H(x) = `expected`, (B,)."""
        return self._loss(expected)[0]

    def noise_floor(self) -> Tensor:
        """Half the number of real data, a complex one counted twice; unsampled ones not at all."""
        count = self.sampled().flatten(1).sum(1).to(self.like)
        return count if self.y.is_complex() else 0.5 * count

    def gaussian(self) -> GaussianMisfit:
        """Itself."""
        return self

    def _select_data(self, selected: GaussianMisfit, rows: Tensor) -> None:
        if len(self.y) > 1:
            selected.y = self.y[rows]
        if self._own_sigmas:
            selected.sigma = self.sigma[rows]

    def _stack_data(self, stacked: GaussianMisfit, misfits: Sequence[Misfit]) -> None:
        parts = [misfit.gaussian() for misfit in misfits]
        shapes = sorted({tuple(part.y.shape[1:]) for part in parts})
        if len(shapes) > 1:
            raise ValueError(f"observations of different shapes cannot share a batch: {shapes}.")
        stacked.y = torch.cat([part.y for part in parts])
        if all(difference(self.sigma, part.sigma, "sigma") is None for part in parts):
            return
        ones = [1] * self.y.ndim
        each = [part.sigma.reshape([*ones[part.sigma.ndim :], *part.sigma.shape]) for part in parts]
        shape = torch.broadcast_shapes(*(sigma.shape[1:] for sigma in each))
        each = [s.expand(len(p.y), *shape) for s, p in zip(each, parts, strict=True)]
        stacked.sigma = torch.cat(each)
        stacked.objective_scale = stacked.variance.flatten(1).mean(1)

    def _loss(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        residual, variance = predicted - self.y, self.variance
        if residual.is_complex():  # its parts side by side: half the time of complex products
            parts, variance = torch.view_as_real(residual), variance[..., None]
        else:
            parts = residual
        slope = parts / variance
        value = 0.5 * (parts * slope).flatten(1).sum(1)
        return value, torch.view_as_complex(slope) if residual.is_complex() else slope

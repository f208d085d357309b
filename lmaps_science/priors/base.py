"""The prior as one callable: a denoiser D(x, sigma)."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor

from lmaps_science.arrays import Movable, check_images
from lmaps_science.metering import Meter
from lmaps_science.priors.covariance import Covariance

DenoiserType = TypeVar("DenoiserType", bound="Denoiser")


class Denoiser(Movable, ABC):
    r"""A prior over images, known through its minimum mean square error denoiser.

    .. math:: D(x, \sigma) = E[x_0 \mid x = x_0 + \sigma n], \quad n \sim N(0, I)
              = x + \sigma^2 \nabla_x \log p(x; \sigma).

    Sub-classes set `image_shape` and `value_range` and implement `_denoise`; callers use
    `denoiser(x, sigma)`, which checks its arguments first. A denoiser holds no state between
    calls and treats the samples of a batch independently.

    Attributes:
        image_shape: `(C, H, W)` of one image in model space.
        value_range: `(low, high)`, the nominal range of model space (dimensionless); it is
            information for scaling and display and is not enforced.
        covariance: that of clean images, exact or approximate, where it is known; solvers may use
            it to say how uncertain a denoised image is.

    Source: Karras et al. 2022, arXiv:2206.00364, eq. 2-3.

    Example:
        >>> class Shrink(Denoiser):
        ...     image_shape, value_range = (1, 2, 2), (-3.0, 3.0)
        ...     def _denoise(self, x, sigma):  # the mean of independent pixels, N(0, 1)
        ...         return x / (1 + sigma**2)
        >>> Shrink()(torch.ones(1, 1, 2, 2), 1.0)[0, 0]
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """

    image_shape: tuple[int, int, int]
    value_range: tuple[float, float]
    covariance: Covariance | None = None
    _meter: Meter | None = None
    _autocast: torch.dtype | None = None

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise `x`.

        Args:
            x: noisy images `(B, C, H, W)`, real floating point, in model space.
            sigma: noise standard deviation in the units of `x`; finite and positive; one number
                for the batch, or a tensor `(B,)` with one per image.

        Returns:
            Tensor of the shape, dtype and device of `x`, differentiable with respect to `x`.

        Raises:
            TypeError: `x` is not a real floating-point tensor.
            ValueError: wrong shape, or a noise level that is not finite and positive.
        """
        self._check_image(x)
        levels = self._check_sigma(sigma, x)
        # Here and not around the loop: the operator's products must keep their precision.
        reduced = torch.autocast(x.device.type, self._autocast) if self._autocast else nullcontext()
        with reduced:
            denoised = self._denoise(x, levels).to(x.dtype)
        if self._meter is not None:
            self._meter.add("denoiser_calls")
            if denoised.requires_grad:
                denoised.register_hook(self._count_vjp)
        return denoised

    def pullback(
        self, x: Tensor, sigma: float | Tensor
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """`D(x, sigma)`, and the map v -> J^T v with its Jacobian J by x.

        The map serves any number of `v`, images like `x`, and holds the memory of one backward pass
        for as long as it is kept. For the exact denoiser J is symmetric and
        `Cov[x_0 | x] = sigma^2 J`.
        """
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            denoised = self(leaf, sigma)

        def pull(v: Tensor) -> Tensor:
            slope = v.to(denoised.dtype)
            return torch.autograd.grad(denoised, leaf, slope, retain_graph=True)[0].to(v.dtype)

        return denoised.detach(), pull

    def metered(
        self: DenoiserType, meter: Meter, autocast: torch.dtype | None = None
    ) -> DenoiserType:
        """A copy that counts its calls in `meter`, and runs in the dtype `autocast` if given."""
        copied = copy.copy(self)
        copied._meter, copied._autocast = meter, autocast
        return copied

    def _count_vjp(self, gradient: Tensor) -> None:
        assert self._meter is not None
        self._meter.add("denoiser_vjps")

    @abstractmethod
    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise checked `x` (B, C, H, W) at `sigma` (B,), same dtype and device."""

    def __repr__(self) -> str:
        low, high = self.value_range
        shape = "x".join(str(n) for n in self.image_shape)
        return f"{type(self).__name__}(image {shape}, values in [{low:g}, {high:g}])"

    def _check_image(self, x: Tensor) -> None:
        check_images(type(self).__name__, x, self.image_shape, real=True)

    def _check_sigma(self, sigma: float | Tensor, x: Tensor) -> Tensor:
        name, batch = type(self).__name__, x.shape[0]
        if not isinstance(sigma, Tensor):
            if not (math.isfinite(sigma) and sigma > 0):
                raise ValueError(
                    f"{name} expects a finite, positive sigma, got {sigma}; "
                    "an image without noise needs no denoiser."
                )
            return torch.full((batch,), float(sigma), dtype=x.dtype, device=x.device)
        if sigma.shape not in ((), (1,), (batch,)):
            raise ValueError(
                f"{name} expects sigma to be a number or of shape ({batch},), one per "
                f"image, got {tuple(sigma.shape)}."
            )
        levels = sigma.detach()
        if not bool((torch.isfinite(levels) & (levels > 0)).all()):
            raise ValueError(
                f"{name} expects finite, positive sigma, got {levels.tolist()}; "
                "an image without noise needs no denoiser."
            )
        return sigma.to(device=x.device, dtype=x.dtype).expand(batch)

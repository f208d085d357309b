"""Our solvers as DeepInverse's reconstructors, and its denoisers as our priors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lmaps_science.arrays import Movable, real_dtype
from lmaps_science.integrations.deepinv.physics import Placed, from_deepinv, require_deepinv
from lmaps_science.io import DataError
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine, Operator
from lmaps_science.priors import Denoiser
from lmaps_science.sampling import InverseProblem, Solver, sample

__all__ = ["as_reconstructor", "from_deepinv_denoiser"]


def from_deepinv_denoiser(denoiser: nn.Module, image_shape: Sequence[int]) -> Denoiser:
    """A DeepInverse denoiser f(x, sigma) of images in [0, 1] as our prior on [-1, 1].

    .. math:: D(x, sigma) = 2 f((x + 1) / 2, sigma / 2) - 1

    Our solvers begin at `sigma_max`, of images in [-1, 1]: choose it, and the network, so that half
    of it is a noise level that the network knows. Denoisers for plug-and-play are often trained up
    to 0.2 only; those of diffusion models know all.

    Args:
        denoiser: the network, used in place, not copied; put it into evaluation mode.
        image_shape: (C, H, W).
    """
    return _FromDenoiser(denoiser, tuple(int(n) for n in image_shape))


class _FromDenoiser(Denoiser):
    value_range = (-1.0, 1.0)

    def __init__(self, denoiser: nn.Module, image_shape: tuple[int, ...]):
        if len(image_shape) != 3:
            raise DataError(f"image_shape must be (C, H, W), got {image_shape}; e.g. (3, 64, 64).")
        self.denoiser = denoiser
        self.image_shape = image_shape[0], image_shape[1], image_shape[2]

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return 2 * self.denoiser((x + 1) / 2, sigma / 2) - 1


def as_reconstructor(
    solver: Solver,
    prior: Denoiser | nn.Module,
    *,
    sigma: float | Tensor | None = None,
    decode: Operator | None = None,
    n_samples: int = 1,
    seed: int = 0,
    batch_size: int | None = None,
) -> nn.Module:
    """A solver with its prior as a DeepInverse reconstructor, called as `model(y, physics)`.

    It returns images (B, C, H, W) on the device of `y`, without gradient: each item of `y` is an
    observation of its own, all share the network's batches, and an item's image does not depend on
    its company. It is what `deepinv.test`, `Trainer.test` and `deepinv_bench.run_benchmark` take.

    Args:
        solver: any that the physics provides for: linear, with singular vectors, or none of it.
        prior: a denoiser of ours, or one of DeepInverse's, f(x, sigma) of images in [0, 1].
        sigma: noise level of the data, sigma^2 = E |n|^2; that of the physics' `GaussianNoise` when
            None.
        decode: from the prior's images to those of the physics. None: the affine map of the prior's
            `value_range` to [0, 1].
        n_samples: the mean of so many samples is returned.
        seed: of the random numbers, the same at every call.
        batch_size: how many images run side by side; all when None.

    Raises:
        ImportError: DeepInverse is missing (extra `deepinv`).
        DataError: when called: no noise level, or a physics that `from_deepinv` refuses.

    Example:
        model = as_reconstructor(DPS(levels=100), prior, sigma=0.05)
        x = model(y, physics)
    """
    require_deepinv("as_reconstructor")
    if n_samples < 1:
        raise ValueError(f"as_reconstructor: n_samples must be at least 1, got {n_samples}.")
    model = _Reconstructor(solver, prior, sigma, decode)
    model.n_samples, model.seed, model.batch_size = n_samples, seed, batch_size
    return model.eval()


class _Reconstructor(Placed):
    n_samples: int
    seed: int
    batch_size: int | None

    def __init__(
        self,
        solver: Solver,
        prior: Denoiser | nn.Module,
        sigma: float | Tensor | None,
        decode: Operator | None,
    ):
        first = _first_tensor(prior)
        super().__init__(torch.empty(0) if first is None else first.real)
        self.solver, self.sigma, self.decode, self.prior = solver, sigma, decode, prior

    def _moved(self, place: Tensor) -> None:
        first = _first_tensor(self.prior)
        if isinstance(self.prior, nn.Module) or first is None:  # (a module PyTorch has moved)
            return
        if (first.device, real_dtype(first.dtype)) != (place.device, place.dtype):
            self.prior = self.prior.to(place.device, place.dtype)

    def forward(self, y: Tensor, physics: Any, **unused: Any) -> Tensor:
        """Images (B, C, H, W) from the data `y` (B, ...) of `physics`."""
        dtype = real_dtype(y.dtype)
        if (self._place.device, self._place.dtype) != (y.device, dtype):
            self.to(device=y.device, dtype=dtype)
        prior = self._prior(y, physics)
        operator = from_deepinv(physics, prior.image_shape, batch=len(y))
        decode = self.decode or _to_unit_range(prior)
        decode = decode.to(y.device, dtype)
        misfit = GaussianMisfit(operator, y.detach(), _noise_level(physics, self.sigma, y)) @ decode
        problem = InverseProblem(prior, misfit, decode)
        result = sample(
            problem,
            self.solver,
            self.n_samples,
            self.seed,
            batch_size=self.batch_size,
            progress=False,
        )
        with torch.no_grad():
            images = decode(result.estimates)
        return images.unflatten(0, (-1, self.n_samples)).mean(1)

    def _prior(self, y: Tensor, physics: Any) -> Denoiser:
        """The prior, for images such as the physics'."""
        found = None
        if hasattr(physics, "A_adjoint"):
            with torch.no_grad():
                found = tuple(physics.A_adjoint(y).shape[1:])
        if isinstance(self.prior, nn.Module):
            shape = found or getattr(physics, "img_size", None)
            if shape is None:
                raise DataError(
                    f"as_reconstructor: {type(physics).__name__} does not say what images it takes;"
                    " give the prior as from_deepinv_denoiser(denoiser, (C, H, W))."
                )
            return from_deepinv_denoiser(self.prior, shape)
        if found is not None and found != tuple(self.prior.image_shape):
            raise DataError(
                f"as_reconstructor: the physics is of images {found}, the prior of images "
                f"{tuple(self.prior.image_shape)}; take a prior of that size."
            )
        return self.prior

    def extra_repr(self) -> str:
        """Solver and settings, which the benchmark takes as the method's identity."""
        return f"{self.solver!r}, sigma={self.sigma}, n_samples={self.n_samples}, seed={self.seed}"


def _to_unit_range(prior: Denoiser) -> Affine:
    """`value_range` to [0, 1]."""
    low, high = prior.value_range
    return Affine(1 / (high - low), -low, tuple(prior.image_shape))


def _noise_level(physics: Any, sigma: float | Tensor | None, y: Tensor) -> float | Tensor:
    """A number, or one for each item, (B, 1, ..., 1)."""
    if sigma is None:
        model = getattr(physics, "noise_model", None)
        gaussian = require_deepinv("as_reconstructor").physics.GaussianNoise
        sigma = model.sigma if isinstance(model, gaussian) else None
        if sigma is None or not bool((torch.as_tensor(sigma) > 0).all()):
            raise DataError(
                f"as_reconstructor: the physics has {type(model).__name__}, which gives no Gaussian"
                " noise level > 0. Give one in units of y, e.g. as_reconstructor(..., sigma=0.01)."
            )
    if not isinstance(sigma, Tensor) or sigma.ndim == 0:
        return sigma
    sigma = sigma.to(y.device)
    return sigma if sigma.ndim == y.ndim else sigma.reshape(-1, *[1] * (y.ndim - 1))


def _first_tensor(value: Any) -> Tensor | None:
    """The first real or complex tensor inside, by which one sees where something is."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() or value.is_complex() else None
    if isinstance(value, nn.Module):
        parts = [*value.parameters(), *value.buffers()]
    elif isinstance(value, Movable):
        parts = list(vars(value).values())
    elif isinstance(value, (list, tuple, dict)):
        parts = list(value.values() if isinstance(value, dict) else value)
    else:
        return None
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)

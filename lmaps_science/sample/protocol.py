"""What the loop takes: an inverse problem, and a solver that steps from one state to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import xarray as xr
from torch import Tensor

from lmaps_science.arrays import Movable
from lmaps_science.misfit import GaussianMisfit, Misfit
from lmaps_science.noise import SampleNoise
from lmaps_science.operators import Affine, SVDOperator
from lmaps_science.priors.base import Denoiser

__all__ = ["InverseProblem", "Solver", "State", "start"]


@dataclass(frozen=True)
class InverseProblem(Movable):
    """What a solver needs to know of the world.

    Attributes:
        prior: the denoiser D(x, sigma) on model space.
        misfit: -log p(y | z) on model space; it owns the data and the operator.
        affine: model space to physical space.
        template: an image (zeros will do) whose dimensions, coordinates, name and attributes the
            reconstructions take; None gives (channel, y, x) in pixels.
        facts: what should be kept with every result: file names, checksums, settings.
    """

    prior: Denoiser
    misfit: Misfit
    affine: Affine
    template: xr.DataArray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes = {
            "prior": tuple(self.prior.image_shape),
            "misfit": tuple(self.misfit.operator.image_shape),
            "affine": tuple(self.affine.image_shape),
        }
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"prior, misfit and affine map must share one image shape, got {shapes}. "
                "Build the operator for the prior's image size, e.g. npix=64 for a 64 x 64 prior."
            )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.prior.image_shape)

    @property
    def provides(self) -> frozenset[str]:
        """The properties that solvers may require."""
        has = {"differentiable"}
        linear = self.misfit.operator.linear
        if isinstance(self.misfit, GaussianMisfit):
            has.add("gaussian")
        if linear is not None:
            has.add("linear")
        if isinstance(linear, SVDOperator):
            has.add("svd")
        if self.prior.covariance is not None:
            has.add("covariance")
        return frozenset(has)

    def like(self, batch: int) -> Tensor:
        """Zeros (B, C, H, W) of the device and dtype in which the operator works."""
        return self.misfit.operator.like.new_zeros(batch, *self.image_shape)


@dataclass(frozen=True)
class State(Movable):
    """Where a batch stands: the noisy images, the current estimates, and what else a solver keeps.

    Attributes:
        x: (B, C, H, W) at the noise level that comes next.
        estimate: (B, C, H, W), the reconstruction so far, in model space.
        extra: further tensors of a solver; they are saved in checkpoints.
    """

    x: Tensor
    estimate: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)


class Solver(Protocol):
    """A method: a frozen dataclass of its hyper-parameters.

    ``requires`` names what the problem must provide (``differentiable``, ``gaussian``, ``linear``,
    ``svd``, ``covariance``), ``sigmas`` is the schedule (T + 1 levels, the last 0); ``init`` makes
    the state before the first level and ``step`` takes it from level i to level i + 1. Both are
    pure: all randomness comes from ``noise``, with the level as part of the key.
    """

    @property
    def requires(self) -> frozenset[str]: ...

    @property
    def sigmas(self) -> Tensor: ...

    def init(self, problem: InverseProblem, noise: SampleNoise) -> State: ...

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State: ...


def start(problem: InverseProblem, noise: SampleNoise, sigma: float | Tensor) -> State:
    """``x = sigma n``, the start of every solver that begins at pure noise."""
    like = problem.like(len(noise.samples))
    return State(x=float(sigma) * noise.normal(like, 0), estimate=like)

"""Half-quadratic splitting with a denoiser (DPIR).

Source: Zhang et al. 2021, "Plug-and-Play Image Restoration with Deep Denoiser Prior", equations 5
and 6; the data step by Nesterov 2004, Introductory Lectures on Convex Optimization, scheme 2.2.11.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmaps_science.arrays import norm, per_sample
from lmaps_science.noise import VE, SampleNoise
from lmaps_science.sampling import InverseProblem, Solver, State

__all__ = ["HalfQuadraticSplitting"]


@dataclass(frozen=True)
class HalfQuadraticSplitting(Solver):
    r"""Fit the data near the last denoised image, denoise, lower the noise level.

    .. math:: x_i = argmin_x L(x) + \frac{\lambda}{2 \sigma_i^2} ||x - z_i||^2, \quad
        z_{i+1} = D(x_i, \sigma_i)

    It looks for one good image: samples differ in the noise that they begin with, and little in the
    end.

    Args:
        levels: noise levels T.
        weight: lambda, of the denoised image against the data.
        steps: accelerated gradient steps of each fit.
        sigma_max, sigma_min: ends of the geometric noise schedule.
    """

    levels: int = 40
    weight: float = 0.1
    steps: int = 20
    sigma_max: float = 1.0
    sigma_min: float = 0.01
    requires = frozenset({"linear", "gaussian"})

    def __post_init__(self) -> None:
        if not (self.weight > 0 and self.steps >= 1):
            raise ValueError(f"HalfQuadraticSplitting needs weight > 0, steps >= 1, got {self!r}.")
        super().__post_init__()

    @property
    def schedule(self) -> VE:
        return VE(self.levels, self.sigma_max, self.sigma_min)

    def prepare(self, problem: InverseProblem) -> Tensor:
        """The largest curvature of L, one number for each observation: it tells the step length."""
        x = torch.randn(problem.image_shape, generator=torch.Generator().manual_seed(0))
        x = x.to(problem.like(1)).expand(problem.observations, *problem.image_shape)
        offset = problem.misfit.gradient(torch.zeros_like(x))[0]
        for _ in range(30):  # power iteration: the gradient is linear but for its offset
            x = problem.misfit.gradient(x / per_sample(norm(x), x))[0] - offset
        return norm(x)

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma = float(self.sigmas[i])
        fitted = self._fit(state.x, self.weight / sigma**2, problem)  # eq. 6a
        denoised = problem.prior(fitted, sigma)  # eq. 6b
        return State(x=denoised, estimate=denoised)

    def _fit(self, z: Tensor, pull: float, problem: InverseProblem) -> Tensor:
        """The minimiser of L(x) + pull/2 |x - z|^2, nearly."""
        curvature = per_sample(1.05 * problem.prepared + pull, z)
        condition = (pull / curvature).sqrt()
        momentum = (1 - condition) / (1 + condition)
        x = y = z
        for _ in range(self.steps):
            gradient = problem.misfit.gradient(y)[0] + pull * (y - z)
            latest = y - gradient / curvature
            x, y = latest, latest + momentum * (latest - x)
        return x

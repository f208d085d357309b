r"""Decoupled annealing posterior sampling.

Source: Zhang et al. 2024, "Improving Diffusion Inverse Problem Solving with Decoupled Noise
Annealing", algorithm 1; equations cited line by line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from lmaps_science.arrays import inner, norm, per_sample
from lmaps_science.misfit import Misfit
from lmaps_science.noise import SampleNoise, edm_schedule
from lmaps_science.sample import InverseProblem, State, start

__all__ = ["DAPS", "Langevin", "LocalPosterior", "Metropolis"]

Normal = Callable[[Tensor, int], Tensor]  # normal(like, draw): numbers of this level


@dataclass(frozen=True)
class LocalPosterior:
    """``-log p(z) = |z - mean|^2 / (2 radius^2) + L(z) / temperature`` (eq. 5 and 7)."""

    mean: Tensor
    misfit: Misfit
    radius: float
    temperature: float

    def gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient, like ``z``, and the values (B,)."""
        slope, misfit = self.misfit.gradient(z)
        away = (z - self.mean) / self.radius**2
        value = 0.5 * inner(z - self.mean, away) + misfit / self.temperature
        return away + slope / self.temperature, value


class LocalSampler(Protocol):
    """Anything that takes a :class:`LocalPosterior` to one draw (about) from it.

    ``progress`` runs from 0 at the first noise level to 1 at the last.
    """

    def __call__(self, target: LocalPosterior, progress: float, normal: Normal) -> Tensor: ...


@dataclass(frozen=True)
class Langevin:
    """Unadjusted Langevin steps, from the mean (eq. 7).

    The learning rate belongs to one operator and noise; it falls linearly over the noise levels,
    to ``last`` of itself. :class:`Metropolis` needs none.
    """

    steps: int = 100
    learning_rate: float = 1e-4
    last: float = 0.01

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and self.learning_rate > 0 and self.last > 0):
            raise ValueError(f"Langevin needs steps >= 1 and positive rates, got {self!r}.")

    def __call__(self, target: LocalPosterior, progress: float, normal: Normal) -> Tensor:
        rate = self.learning_rate * (1 + progress * (self.last - 1))
        z = target.mean
        for k in range(self.steps):
            z = z - rate * target.gradient(z)[0] + (2 * rate) ** 0.5 * normal(z, k)
        return z


@dataclass(frozen=True)
class Metropolis:
    """Hamiltonian Monte Carlo from the mean, with steps that find their own length.

    A proposal is a path of ``leaps`` leapfrog steps from a random momentum; with one it is a
    Langevin step that may be refused (MALA). The length starts from the curvature along the
    gradient; it grows by a tenth when a proposal is accepted and shrinks by a fifth when it is
    refused: balance lies at 70 % acceptance, near the optimum of 65 %. ``steps`` are all leaps
    together; there are two more evaluations of the misfit. Source: Neal 2011, "MCMC using
    Hamiltonian dynamics".
    """

    steps: int = 100
    leaps: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.leaps <= self.steps:
            raise ValueError(f"Metropolis needs 1 <= leaps <= steps, got {self!r}.")

    def __call__(self, target: LocalPosterior, progress: float, normal: Normal) -> Tensor:
        z = target.mean
        slope, value = target.gradient(z)
        length = self._first_length(target, slope)
        for k in range(self.steps // self.leaps):
            momentum = normal(z, 2 * k)
            proposal, force, energy = z, slope, value + 0.5 * inner(momentum, momentum)
            for _ in range(self.leaps):
                momentum = momentum - 0.5 * length * force
                proposal = proposal + length * momentum
                force, there = target.gradient(proposal)
                momentum = momentum - 0.5 * length * force
            gain = energy - there - 0.5 * inner(momentum, momentum)
            uniform = torch.special.ndtr(normal(value, 2 * k + 1))
            accept = uniform.log() < gain.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
            z = torch.where(per_sample(accept, z), proposal, z)
            slope = torch.where(per_sample(accept, z), force, slope)
            value = torch.where(accept, there, value)
            length = length * per_sample(torch.where(accept, 1.1, 0.8), z)
        return z

    @staticmethod
    def _first_length(target: LocalPosterior, slope: Tensor) -> Tensor:
        """1 / sqrt(curvature), from the secant over a probe of 1e-3 of the radius, (B, 1, 1, 1)."""
        tiny = torch.finfo(slope.dtype).tiny
        size = norm(slope).clamp_min(tiny)
        probe = 1e-3 * target.radius * slope[0].numel() ** 0.5
        there = target.gradient(target.mean - per_sample(probe / size, slope) * slope)[0]
        curvature = (norm(slope - there) / probe).clamp_min(1 / target.radius**2)
        return per_sample(curvature.rsqrt(), slope)


@dataclass(frozen=True)
class DAPS:
    r"""Denoise along the prior's ODE, draw from the local posterior, renoise fully.

    Each level takes ``x`` to ``x0hat``, the end of a short probability-flow ODE, draws ``z`` about
    from ``N(z; x0hat, r^2) p(y | z)`` with ``r = radius sigma_i`` and moves to
    ``z + sigma_{i+1} n``.

    Args:
        levels: noise levels T.
        ode_steps: denoiser calls of a level; 1 is the denoised image itself.
        radius: standard deviation of the local prior in units of sigma.
        local: ``Langevin(steps, rate)`` is the paper's, ``Metropolis(steps)`` needs no tuning.
        temperature: divides the data misfit; 1 is the posterior, above it the data count less.
        sigma_max, sigma_min: ends of the noise schedule (EDM, power 7).
    """

    levels: int = 100
    ode_steps: int = 5
    radius: float = 1.0
    local: LocalSampler = field(default_factory=Metropolis)
    temperature: float = 1.0
    sigma_max: float = 100.0
    sigma_min: float = 0.1
    requires = frozenset({"differentiable"})

    def __post_init__(self) -> None:
        if not (self.ode_steps >= 1 and self.radius > 0 and self.temperature > 0):
            raise ValueError(
                f"DAPS needs ode_steps >= 1, radius > 0 and temperature > 0, got ode_steps="
                f"{self.ode_steps}, radius={self.radius}, temperature={self.temperature}."
            )
        edm_schedule(self.levels, self.sigma_max, self.sigma_min)  # refuses what it cannot make

    @property
    def sigmas(self) -> Tensor:
        return edm_schedule(self.levels, self.sigma_max, self.sigma_min)

    def init(self, problem: InverseProblem, noise: SampleNoise) -> State:
        return start(problem, noise, self.sigmas[0])

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, after = float(self.sigmas[i]), float(self.sigmas[i + 1])
        x0 = self._ode(state.x, sigma, problem)  # line 4
        target = LocalPosterior(x0, problem.misfit, self.radius * sigma, self.temperature)
        z = self.local(  # lines 5-8
            target, i / self.levels, lambda like, draw: noise.normal(like, 2, i, draw)
        )
        return State(x=z + after * noise.normal(z, 1, i), estimate=z)  # line 9

    def _ode(self, x: Tensor, sigma: float, problem: InverseProblem) -> Tensor:
        """dx/dsigma = (x - D(x, sigma)) / sigma from sigma to 0 by Euler's method (eq. 3)."""
        grid = edm_schedule(self.ode_steps, sigma, min(0.01, 0.1 * sigma)).tolist()
        for now, then in pairwise(grid):
            x = x + (then - now) * (x - problem.prior(x, now)) / now
        return x

r"""Decoupled annealing posterior sampling.

Source: Zhang et al. 2024, "Improving Diffusion Inverse Problem Solving with Decoupled Noise
Annealing", algorithm 1; equations cited line by line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from lmaps_science.noise import EDM, SampleNoise
from lmaps_science.sampling import InverseProblem, Solver, State
from lmaps_science.search import Range, Space
from lmaps_science.solvers.guidance import flow, flow_grid
from lmaps_science.solvers.local_posterior import LocalPosterior, LocalSampler, Metropolis

__all__ = ["DAPS"]


@dataclass(frozen=True)
class DAPS(Solver):
    r"""Denoise along the prior's ODE, draw from the local posterior, renoise fully.

    Each level takes `x` to `x0hat`, the end of a short probability-flow ODE, draws `z` about
    from `N(z; x0hat, r^2) p(y | z)` with `r = radius sigma_i` and moves to
    `z + sigma_{i+1} n`.

    Known bias: beside an exact posterior of two modes (`toys.inpainting`), with exact local draws,
    the heavier one gets 0.61 instead of 0.71, and 2 % of the samples lie between them instead of 1;
    with the default's Langevin steps 11 %, and samples spread by 1.4 of what they should.

    Args:
        levels: noise levels T.
        ode_steps: denoiser calls of a level; 1 is the denoised image itself.
        radius: standard deviation of the local prior in units of sigma.
        local: `Langevin(steps, rate)` is the paper's, `Metropolis(steps)` needs no tuning;
            `PerturbAndMAP()` is exact where the operator is linear and the noise Gaussian.
        temperature: divides the data misfit; 1 is the posterior, above it the data count less.
        sigma_max, sigma_min: ends of the noise schedule (EDM, power 7).

    Example:
        >>> from lmaps_science import sample, toys
        >>> problem = toys.mixture().problem
        >>> sample(problem, DAPS(levels=10), n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    levels: int = 100
    ode_steps: int = 5
    radius: float = 1.0
    local: LocalSampler = field(default_factory=Metropolis)
    temperature: float = 1.0
    sigma_max: float = 100.0
    sigma_min: float = 0.1
    search: ClassVar[Space] = {
        "radius": Range(0.1, 3.0, log=True),
        "sigma_max": Range(3.0, 100.0, log=True),
        "sigma_min": Range(0.01, 0.3, log=True),
    }

    def __post_init__(self) -> None:
        if not (self.ode_steps >= 1 and self.radius > 0 and self.temperature > 0):
            raise ValueError(
                f"DAPS needs ode_steps >= 1, radius > 0 and temperature > 0, got ode_steps="
                f"{self.ode_steps}, radius={self.radius}, temperature={self.temperature}."
            )
        super().__post_init__()

    @property
    def requires(self) -> frozenset[str]:
        return self.local.requires

    @property
    def schedule(self) -> EDM:
        return EDM(self.levels, self.sigma_max, self.sigma_min)

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, after = float(self.sigmas[i]), float(self.sigmas[i + 1])
        x0 = flow(problem.prior, state.x, flow_grid(sigma, self.ode_steps))  # line 4, eq. 3
        target = LocalPosterior(x0, problem.misfit, self.radius * sigma, self.temperature)  # eq. 5
        z = self.local(  # lines 5-8
            target, i / self.levels, lambda like, draw: noise.normal(like, 2, i, draw)
        )
        return State(x=z + after * noise.normal(z, 1, i), estimate=z)  # line 9

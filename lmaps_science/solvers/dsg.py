r"""Diffusion with spherical Gaussian constraint (DSG).

Source: Yang et al. 2024, "Guidance with Spherical Gaussian Constraint for Conditional Diffusion",
algorithm 1; equations cited line by line, in noise-level notation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lmaps_science.arrays import norm, per_sample
from lmaps_science.noise import VP, SampleNoise, ancestral
from lmaps_science.sampling import InverseProblem, Solver, State
from lmaps_science.search import Range, Space
from lmaps_science.solvers.guidance import guide, on_sphere

__all__ = ["DSG"]


@dataclass(frozen=True)
class DSG(Solver):
    r"""Ancestral sampling, with part of the noise turned towards the data.

    With `g` the gradient of the residual through the denoiser and d pixels,

    .. math:: u = \epsilon - \zeta \left(\sqrt{d} s_i \frac{g}{||g||} + \epsilon\right), \quad
        x \leftarrow \mu_i + \sqrt{d} s_i \frac{u}{||u||}, \quad \epsilon \sim N(0, s_i^2 I)

    The step has the length of the noise whatever the operator's unit, and however well the data
    are fitted already.

    Known bias: samples follow the data beyond their noise, and spread less than the posterior.
    With `zeta` near 1 and few levels they overshoot; on a sphere of few pixels they cannot come
    closer to the mean than that sphere.

    Args:
        levels: noise levels T.
        zeta: share of the data in the direction of a step: 0 is the prior, 1 leaves no noise.
        time_min: end of the variance-preserving schedule with linear beta.

    Example:
        >>> from lmaps_science import sample, toys
        >>> problem = toys.mixture().problem
        >>> sample(problem, DSG(levels=5), n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    levels: int = 1000
    zeta: float = 0.1
    time_min: float = 1e-3
    search: ClassVar[Space] = {"zeta": Range(0.01, 1.0, log=True)}

    def __post_init__(self) -> None:
        if not 0 < self.zeta <= 1:
            raise ValueError(f"DSG needs 0 < zeta <= 1, got {self.zeta}. Example: DSG(zeta=0.1).")
        super().__post_init__()

    @property
    def schedule(self) -> VP:
        return VP(self.levels, time_min=self.time_min)

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, after = self.sigmas[i], self.sigmas[i + 1]
        found = guide(problem, state.x, float(sigma))
        mean, spread = ancestral(state.x, found.denoised, sigma, after)
        if after == 0:
            return State(x=found.denoised, estimate=found.denoised)
        fresh = spread * noise.normal(mean, 1, i)
        steepest = on_sphere(0 * mean, -found.slope, spread, fresh)  # u*, eq. 11
        still = per_sample(norm(found.slope) == 0, mean)
        mixed = fresh + self.zeta * (steepest - fresh).masked_fill(still, 0.0)  # eq. 13
        return State(x=on_sphere(mean, mixed, spread, fresh), estimate=found.denoised)

r"""Pseudo-inverse guided diffusion (PiGDM).

Source: Song et al. 2023, "Pseudoinverse-Guided Diffusion Models for Inverse Problems", algorithm 1,
in noise-level notation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from lmaps_science.local_map import ConjugateGradient, LocalProblem, LocalSolver
from lmaps_science.noise import VP, SampleNoise, ancestral
from lmaps_science.sampling import InverseProblem, Solver, State
from lmaps_science.search import Range, Space

__all__ = ["PiGDM"]


@dataclass(frozen=True)
class PiGDM(Solver):
    r"""Ancestral sampling along the score of the posterior, for a round local prior.

    With `Cov[x0 | x] = r^2 I` the data add to the denoised image `m = D(x, sigma)`

    .. math:: \sigma^2 \nabla_x \log p(y | x) = \sigma^2 J^T A^T
        (r^2 A A^T + \sigma_y^2 I)^{-1} (y - H(m)) = \frac{\sigma^2}{r^2} J^T (z - m)

    where `J` is the denoiser's Jacobian and `z` the local MAP estimate around `m` with that
    covariance. It is exact, in the limit of many levels, for a white Gaussian prior of standard
    deviation `prior_std`. The paper adds `r^2 / sigma^2` of this in every step, whatever its
    length; here the sum over the steps does not depend on their number.

    Known bias: `r^2` is that of a white prior of one mode; beside an exact posterior of two
    (`toys.inpainting`) the heavier one gets 0.66 instead of 0.71. Within a mode samples spread as
    they should.

    Args:
        levels: noise levels T.
        prior_std: s in `r^2 = sigma^2 s^2 / (sigma^2 + s^2)`; the paper has 1.
        local: the solver of the local MAP problem.
        time_min: end of the variance-preserving schedule with linear beta.

    Example:
        >>> from lmaps_science import sample, toys
        >>> problem = toys.mixture().problem
        >>> sample(problem, PiGDM(levels=5), n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    levels: int = 100
    prior_std: float = 1.0
    local: LocalSolver = field(default_factory=ConjugateGradient)
    time_min: float = 1e-3
    search: ClassVar[Space] = {"prior_std": Range(0.05, 2.0, log=True)}

    def __post_init__(self) -> None:
        if not self.prior_std > 0:
            raise ValueError(f"PiGDM needs prior_std > 0, got {self.prior_std}.")
        super().__post_init__()

    @property
    def requires(self) -> frozenset[str]:
        return self.local.requires

    @property
    def schedule(self) -> VP:
        return VP(self.levels, time_min=self.time_min)

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, after = float(self.sigmas[i]), float(self.sigmas[i + 1])
        m, pull = problem.prior.pullback(state.x, sigma)
        r2 = sigma**2 * self.prior_std**2 / (sigma**2 + self.prior_std**2)
        unit = problem.misfit.objective_scale
        # With kappa1 = 1 the local problem is |z - m|^2 / (2 r^2) + L(z) up to a factor.
        z = self.local(LocalProblem(m, problem.misfit, r2**0.5, 1.0, 1 / unit))
        estimate = m + sigma**2 / r2 * pull(z - m)  # one VJP
        mean, spread = ancestral(state.x, estimate, sigma, after)  # eta = 1
        return State(x=mean + spread * noise.normal(m, 1, i), estimate=estimate)

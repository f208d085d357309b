"""Denoising diffusion models for plug-and-play image restoration (DiffPIR).

Source: Zhu et al. 2023, algorithm 1; equations cited line by line, in noise-level notation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from lmaps_science.local_map import LBFGS, LocalProblem, LocalSolver
from lmaps_science.noise import VP, SampleNoise, renoised
from lmaps_science.sampling import InverseProblem, Solver, State
from lmaps_science.search import Range, Space

__all__ = ["DiffPIR"]


@dataclass(frozen=True)
class DiffPIR(Solver):
    r"""Denoise, take the proximal point of the data term, renoise in part.

    .. math:: z = argmin_z L(z) + \frac{\lambda}{2 \sigma_i^2} ||z - D(x, \sigma_i)||^2, \quad
        x \leftarrow z + \sigma_{i+1} \left(\sqrt{1 - \zeta} \frac{x - z}{\sigma_i}
        + \sqrt{\zeta} n\right)

    It is local MAP sampling with the covariance `sigma^2 / regularisation`, `rho^2 = zeta` and
    a variance-preserving schedule.

    Known bias: it maximises at every level, as `LMAPS`. Beside an exact posterior of two modes
    (`toys.inpainting`) the heavier one gets 0.53 instead of 0.71; the noise that is kept makes up
    for the spread within a mode, which with `zeta = 1` is 0.7 of what it should be.

    Args:
        levels: noise levels T.
        regularisation: lambda, the weight of the denoised image against the data.
        zeta: share of fresh noise in a transition: 0 is deterministic, 1 renoises fully.
        local: the solver of the proximal point: any of `lmaps_science.local_map`.
        time_min: end of the variance-preserving schedule with linear beta.

    Example:
        >>> from lmaps_science import sample, toys
        >>> problem = toys.mixture().problem
        >>> sample(problem, DiffPIR(levels=10), n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    levels: int = 100
    regularisation: float = 7.0
    zeta: float = 0.3
    local: LocalSolver = field(default_factory=LBFGS)
    time_min: float = 1e-3
    search: ClassVar[Space] = {
        "regularisation": Range(0.1, 100.0, log=True),
        "zeta": Range(0.0, 1.0),
    }

    def __post_init__(self) -> None:
        if not (self.regularisation > 0 and 0 <= self.zeta <= 1):
            raise ValueError(
                f"DiffPIR needs regularisation > 0 and 0 <= zeta <= 1, got regularisation="
                f"{self.regularisation}, zeta={self.zeta}."
            )
        super().__post_init__()

    @property
    def requires(self) -> frozenset[str]:
        return self.local.requires

    @property
    def schedule(self) -> VP:
        return VP(self.levels, time_min=self.time_min)

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, after = float(self.sigmas[i]), float(self.sigmas[i + 1])
        denoised = problem.prior(state.x, sigma)  # line 3
        # Line 4 (eq. 12a), rho_t = lambda sigma_n^2 / sigma^2, divided by 2 sigma_n^2: with
        # kappa1 = 1 the local problem is this one up to a factor.
        kappa2 = 1 / (self.regularisation * problem.misfit.objective_scale)
        z = self.local(LocalProblem(denoised, problem.misfit, sigma, 1.0, kappa2))
        normal = noise.normal(z, 1, i)  # lines 5 to 7
        return State(x=renoised(state.x, z, sigma, after, self.zeta**0.5, normal), estimate=z)

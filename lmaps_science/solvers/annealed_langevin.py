r"""Annealed Langevin dynamics for compressed sensing (CSGM-MRI).

Source: Jalal et al. 2021, "Robust Compressed Sensing MRI with Deep Generative Priors", section 3;
in noise-level notation: the prior's score is `(D(x, sigma) - x) / sigma^2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lmaps_science.arrays import per_sample
from lmaps_science.noise import VE, SampleNoise
from lmaps_science.sampling import InverseProblem, Solver, State
from lmaps_science.search import Range, Space

__all__ = ["AnnealedLangevin"]


@dataclass(frozen=True)
class AnnealedLangevin(Solver):
    r"""Langevin steps on the posterior of the noisy image, one noise level after the other.

    .. math:: x \leftarrow x + \eta_i \left(\frac{D(x, \sigma_i) - x}{\sigma_i^2} +
        A^T \frac{y - H(x)}{v + \gamma_i^2}\right) + \sqrt{2 \eta_i} n

    with v the variance of a real number of the data (`sigma_y^2`, of complex data half of it), the
    steps `eta_i = rate sigma_i^2` and the paper's annealed `gamma_i` set to
    `||A|| sigma_i`, the noise of the image as the data see it at most: no step is too long then,
    whatever the operator and its noise. The limit of many levels and small rates samples the
    posterior. The result is the denoised image of the last step. Tables of MRI methods with
    diffusion priors call this method CSGM.

    Known bias: beside an exact posterior of two modes (`toys.inpainting`) the heavier one gets 0.60
    instead of 0.71 with 150 levels, 0.63 with 600. Within a mode samples spread as they should.

    Args:
        levels: noise levels T; the paper has 2311, with 3 steps each. The ratio of neighbours
            should be close to 1, the more so the more pixels there are.
        steps: Langevin steps of a level, one denoiser call each.
        rate: step length in units of sigma^2; stable below 1.
        sigma_max, sigma_min: ends of the geometric noise schedule.

    Example:
        >>> from lmaps_science import sample, toys
        >>> problem = toys.mixture().problem
        >>> sample(problem, AnnealedLangevin(levels=5), n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    levels: int = 300
    steps: int = 3
    rate: float = 0.2
    sigma_max: float = 100.0
    sigma_min: float = 0.01
    requires = frozenset({"gaussian", "linear"})
    search: ClassVar[Space] = {
        "rate": Range(0.02, 0.9, log=True),
        "sigma_max": Range(5.0, 100.0, log=True),
        "sigma_min": Range(0.003, 0.1, log=True),
    }

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and 0 < self.rate < 1):
            raise ValueError(
                f"AnnealedLangevin needs steps >= 1 and 0 < rate < 1, got steps={self.steps}, "
                f"rate={self.rate}."
            )
        super().__post_init__()

    @property
    def schedule(self) -> VE:
        return VE(self.levels, self.sigma_max, self.sigma_min)

    def prepare(self, problem: InverseProblem) -> Tensor:
        return problem.linear().norms(like=problem.gaussian().sigma)

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, misfit, x = float(self.sigmas[i]), problem.gaussian(), state.x
        gamma = per_sample(problem.prepared * sigma, misfit.y)
        parts = 2 if misfit.y.is_complex() else 1  # gamma is that of a real number
        widened = misfit.with_sigma((misfit.sigma**2 + parts * gamma**2).sqrt())
        eta = self.rate * sigma**2
        for k in range(self.steps):
            denoised = problem.prior(x, sigma)
            score = (denoised - x) / sigma**2 - widened.gradient(x)[0]
            x = x + eta * score + (2 * eta) ** 0.5 * noise.normal(x, 1, i, k)
        return State(x=x, estimate=denoised)

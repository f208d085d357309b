r"""Diffusion models as plug-and-play priors (PnP-DM): a split Gibbs sampler.

Source: Wu et al. 2024, "Principled Probabilistic Imaging using Diffusion Models as Plug-and-Play
Priors", algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from lmaps_science.noise import EDM, VE, SampleNoise
from lmaps_science.sampling import InverseProblem, Solver, State
from lmaps_science.search import Range, Space
from lmaps_science.solvers.local_posterior import LocalPosterior, LocalSampler, Metropolis

__all__ = ["PnPDM"]


@dataclass(frozen=True)
class PnPDM(Solver):
    r"""Draw in turn from the likelihood near x and from the prior near z, ever closer together.

    .. math:: z \sim p(y | z) N(z; x, \rho_i^2 I), \qquad x \sim p(x) N(x; z, \rho_i^2 I)

    The second is a denoising problem at noise level rho, solved by the reverse diffusion from
    there to 0. At a fixed rho, x follows the posterior for data with the noise
    `sigma_y^2 I + rho^2 A A^T`: samples are those of the posterior as `rho_min` falls below
    `sigma_y / ||A||`, when the levels are many and both draws exact.

    Known bias: a `rho_min` that is not small against the data's noise widens the samples. Beside an
    exact posterior of two modes (`toys.inpainting`) they spread as they should, and the heavier
    one gets 0.65 instead of 0.71.

    Args:
        levels: couplings rho_i, one draw of z and one of x each.
        prior_steps: denoiser calls of a draw of x.
        local: how z is drawn: `PerturbAndMAP()`, exact where the operator is linear and the noise
            Gaussian, or any other of `lmaps_science.solvers.local_posterior`.
        rho_max, rho_min: ends of the geometric schedule of couplings; the paper's ratio is 0.9.

    Example:
        >>> from lmaps_science import sample, toys
        >>> problem = toys.mixture().problem
        >>> sample(problem, PnPDM(levels=5), n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    levels: int = 60
    prior_steps: int = 10
    local: LocalSampler = field(default_factory=Metropolis)
    rho_max: float = 10.0
    rho_min: float = 0.02
    search: ClassVar[Space] = {
        "rho_max": Range(0.5, 30.0, log=True),
        "rho_min": Range(0.003, 0.3, log=True),
    }

    def __post_init__(self) -> None:
        if self.prior_steps < 1:
            raise ValueError(f"PnPDM needs prior_steps >= 1, got {self.prior_steps}.")
        super().__post_init__()

    @property
    def requires(self) -> frozenset[str]:
        return self.local.requires

    @property
    def schedule(self) -> VE:
        """The couplings, and 0."""
        return VE(self.levels, self.rho_max, self.rho_min)

    def init(self, problem: InverseProblem, noise: SampleNoise) -> State:
        # Not noise: x plays the part of a clean image.
        zero = problem.like(len(noise.samples))
        return State(x=zero, estimate=zero)

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        rho = float(self.sigmas[i])
        target = LocalPosterior(state.x, problem.misfit, rho, temperature=1.0)
        z = self.local(  # the likelihood step (section 3.1)
            target, i / self.levels, lambda like, draw: noise.normal(like, 2, i, draw)
        )
        x = self._prior_draw(z, i, problem, noise)  # the prior step (section 3.2)
        return State(x=x, estimate=x)

    def _prior_draw(self, x: Tensor, i: int, problem: InverseProblem, noise: SampleNoise) -> Tensor:
        """The reverse SDE from rho_i to 0, by the reverse-diffusion steps of Song et al. 2021.

        x' = x + (s^2 - s'^2) score + sqrt(s^2 - s'^2) n; the last step, to 0, adds no noise.
        """
        rho = float(self.sigmas[i])
        grid = EDM(self.prior_steps, rho, min(0.01, 0.1 * rho)).sigmas.tolist()
        for k, (sigma, after) in enumerate(pairwise(grid)):
            drop = sigma**2 - after**2
            x = x + drop / sigma**2 * (problem.prior(x, sigma) - x)
            if after > 0:
                x = x + drop**0.5 * noise.normal(x, 1, i, k)
        return x

r"""Score-based diffusion for accelerated MRI (Score-MRI): predictor, corrector, projection.

Source: Chung and Ye 2022, "Score-based diffusion models for accelerated MRI", algorithm 1;
predictor and corrector are those of Song et al. 2021. In noise-level notation: the score is
`(D(x, sigma) - x) / sigma^2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lmaps_science.arrays import norm, per_sample, scaled
from lmaps_science.noise import VE, SampleNoise
from lmaps_science.sampling import InverseProblem, Solver, State
from lmaps_science.search import Range, Space

__all__ = ["ScoreMRI"]


@dataclass(frozen=True)
class ScoreMRI(Solver):
    r"""A step of the reverse diffusion, one of Langevin, and after each a step to the data.

    The step to the data is `x <- x + lambda A^T (y - H(x)) / ||A||^2`, for `lambda = 1` and
    `A A^T` a multiple of the identity a projection: the method takes the data as exact, and does
    not ask for their noise.

    Known bias: whatever noise the data have is repeated, and the prior has no say in it. Beside
    an exact posterior of two modes and a noisy datum (`toys.inpainting`) all samples have that
    datum, and half of them lie between the modes. It is for data of little noise.

    Args:
        levels: noise levels T, two denoiser calls each; the paper has 2000.
        consistency: lambda, the length of the step to the data; stable below 2.
        snr: signal-to-noise ratio r of the Langevin step, `eps = 2 (r ||n|| / ||score||)^2`.
        sigma_max, sigma_min: ends of the geometric noise schedule.

    Example:
        >>> from lmaps_science import sample, toys
        >>> problem = toys.mixture().problem
        >>> sample(problem, ScoreMRI(levels=5), n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    levels: int = 500
    consistency: float = 1.0
    snr: float = 0.16
    sigma_max: float = 100.0
    sigma_min: float = 0.01
    requires = frozenset({"gaussian", "linear"})
    search: ClassVar[Space] = {
        "consistency": Range(0.05, 1.95),
        "snr": Range(0.02, 0.5, log=True),
        "sigma_max": Range(3.0, 100.0, log=True),
    }

    def __post_init__(self) -> None:
        if not (0 < self.consistency < 2 and self.snr > 0):
            raise ValueError(
                f"ScoreMRI needs 0 < consistency < 2 and snr > 0, got consistency="
                f"{self.consistency}, snr={self.snr}."
            )
        super().__post_init__()

    @property
    def schedule(self) -> VE:
        return VE(self.levels, self.sigma_max, self.sigma_min)

    def prepare(self, problem: InverseProblem) -> Tensor:
        """Length of the step to the data."""
        return self.consistency / problem.linear().norms(like=problem.gaussian().sigma) ** 2

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, after = float(self.sigmas[i]), float(self.sigmas[i + 1])
        denoised = problem.prior(state.x, sigma)
        drop = sigma**2 - after**2
        x = state.x + drop / sigma**2 * (denoised - state.x)  # predictor
        if after > 0:
            x = x + drop**0.5 * noise.normal(x, 1, i)
        x = self._to_data(x, problem)  # data consistency
        if after > 0:
            score = (problem.prior(x, after) - x) / after**2
            fresh = noise.normal(x, 2, i)
            tiny = torch.finfo(x.dtype).tiny
            epsilon = per_sample(2 * (self.snr * norm(fresh) / norm(score).clamp_min(tiny)) ** 2, x)
            x = x + epsilon * score + (2 * epsilon).sqrt() * fresh  # corrector
            x = self._to_data(x, problem)  # data consistency
        return State(x=x, estimate=denoised if after > 0 else x)

    @staticmethod
    def _to_data(x: Tensor, problem: InverseProblem) -> Tensor:
        """x + length A^T (y - H(x))."""
        misfit = problem.gaussian()
        predicted, pull = misfit.operator.pullback(x)
        return x + scaled(problem.prepared, pull(misfit.y - predicted))

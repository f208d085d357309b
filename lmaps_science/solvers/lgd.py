r"""Loss-guided diffusion with Monte Carlo (LGD-MC).

Source: Song et al. 2023, "Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation",
eq. 8-9; equations cited line by line, in noise-level notation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lmaps_science.arrays import per_sample
from lmaps_science.noise import VP, SampleNoise, ancestral
from lmaps_science.sampling import InverseProblem, Solver, State
from lmaps_science.search import Range, Space
from lmaps_science.solvers.guidance import Guidance, polyak_length, residual_of

__all__ = ["LGD"]


@dataclass(frozen=True)
class LGD(Solver):
    r"""Ancestral sampling along a score of the posterior that draws estimate.

    The clean image given `x` is taken as `N(D(x), r^2 I)`, and the data's density as the mean over
    n draws of it,

    .. math:: \log p(y | x) \approx \log \frac1n \sum_k e^{-L(z_k)}, \quad
        z_k = D(x, \sigma) + r n_k, \quad r^2 = \frac{\sigma^2 s^2}{\sigma^2 + s^2}

    The gradient goes through the denoiser, one VJP for all draws. Its step is `weight` times the
    score's, no longer than `longest` times the length of the step's own noise, and not beyond
    where the draws fit the data: precise data would make the score's step diverge.

    Exact for a white Gaussian prior of standard deviation `prior_std` in the limit of many
    levels and draws. Known bias: the number of draws that this takes grows exponentially with the
    number of data. With few, the best one counts alone, the draws' own noise sits in the
    residual, and the samples are noisier than the posterior's at the same fit.

    Args:
        levels: noise levels T.
        draws: n, one call of the operator each.
        weight: 1 is the posterior.
        longest: in units of the noise of the step.
        prior_std: s in `r`; the paper has 1. 0 leaves no noise in the draws: then LGD is DPS with
            the score's step.
        time_min: end of the variance-preserving schedule with linear beta.

    Example:
        >>> from lmaps_science import sample, toys
        >>> problem = toys.mixture().problem
        >>> sample(problem, LGD(levels=5), n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    levels: int = 1000
    draws: int = 10
    weight: float = 1.0
    longest: float = 0.5
    prior_std: float = 1.0
    time_min: float = 1e-3
    search: ClassVar[Space] = {
        "weight": Range(0.1, 10.0, log=True),
        "longest": Range(0.05, 2.0, log=True),
        "prior_std": Range(0.05, 2.0, log=True),
    }

    def __post_init__(self) -> None:
        if not (self.draws >= 1 and min(self.weight, self.longest) > 0 and self.prior_std >= 0):
            raise ValueError(
                f"LGD needs draws >= 1, weight > 0, longest > 0 and prior_std >= 0, got {self!r}."
            )
        super().__post_init__()

    @property
    def schedule(self) -> VP:
        return VP(self.levels, time_min=self.time_min)

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, after = self.sigmas[i], self.sigmas[i + 1]
        with torch.enable_grad():
            x = state.x.detach().requires_grad_()
            denoised = problem.prior(x, float(sigma))
        loss, slope = self._smoothed(i, denoised.detach(), problem, noise)
        slope = torch.autograd.grad(denoised, x, slope.to(denoised.dtype))[0].to(slope.dtype)
        mean, spread = ancestral(state.x, denoised.detach(), sigma, after)
        # As a residual R = sqrt(2 loss), whose gradient is that of the loss over R.
        residual = residual_of(loss)
        found = Guidance(denoised.detach(), residual, per_sample(1 / residual, slope) * slope)
        bounded = polyak_length(found, self.longest * slope[0].numel() ** 0.5 * spread)
        score = self.weight * float(sigma**2 - after**2) * residual  # mu_i + (..) grad log p(y | x)
        length = torch.minimum(bounded, score)
        x_next = mean + spread * noise.normal(mean, 1, i)
        x_next = x_next - per_sample(length, slope) * found.slope
        return State(x=x_next, estimate=found.denoised if after > 0 else x_next)

    def _smoothed(
        self, i: int, denoised: Tensor, problem: InverseProblem, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        """-log of the mean of exp(-L) over the draws, (B,), and its gradient by the denoised."""
        variance = float(self.sigmas[i]) ** 2 * self.prior_std**2
        radius = (variance / (float(self.sigmas[i]) ** 2 + self.prior_std**2)) ** 0.5
        like = denoised[:, None].expand(-1, self.draws, *denoised.shape[1:])
        numbers = noise.normal(like, 2, i)  # all in one: the generators cost more than the numbers
        losses, slopes = [], []
        for k in range(self.draws):
            slope, loss = problem.misfit.gradient(denoised + radius * numbers[:, k])
            losses.append(loss)
            slopes.append(slope)
        each = torch.stack(losses)
        weights = (-each).softmax(0)  # eq. 9
        total = sum(per_sample(w, s) * s for w, s in zip(weights, slopes, strict=True))
        assert isinstance(total, Tensor)
        return math.log(self.draws) - torch.logsumexp(-each, 0), total

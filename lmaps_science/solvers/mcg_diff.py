r"""Monte Carlo guided diffusion (MCG-diff).

Source: Cardoso et al. 2023, "Monte Carlo guided Diffusion for Bayesian linear inverse problems",
algorithm 1 and section 3, in noise-level notation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lmaps_science.sampling import State
from lmaps_science.search import Space
from lmaps_science.solvers.particles import Move, ParticleFilter, fuse
from lmaps_science.solvers.spectral import Spectrum

__all__ = ["MCGDiff"]


@dataclass(frozen=True)
class MCGDiff(ParticleFilter):
    r"""A particle filter that takes noisy data for the noisy image itself.

    A coefficient that was measured with noise of deviation `n = sigma_y / s` is the coefficient of
    the noisy image at the noise level `sigma = n`. So the prior's chain from noise to image has to
    pass through the datum `d` there; until then, particles are guided by

    .. math:: g_\sigma(x) = N(d; x, \sigma^2 - n^2), \quad \sigma > n

    and have the weights `\int g_{\sigma'}(x') p(x' | x) dx' / g_\sigma(x)`; below that level the
    coefficient is the prior's. With many particles and levels this samples the posterior. Levels do
    not have to meet the data's: a step that passes n is the prior's, given the datum on its way.

    Known bias: with few particles, and many data, nearly all descend from one of them, whose
    weight was the largest by chance, and coefficients without data are those of a single run of the
    prior: modes lose their weights.

    (Arguments: those of `ParticleFilter`.)

    Example:
        >>> from lmaps_science import load_problem, sample
        >>> changes = {"picture.npix": 16}
        >>> problem = load_problem("restoration/random", prior="gaussian", overrides=changes)
        >>> sample(problem, MCGDiff(levels=5), n_samples=2, progress=False).samples.shape
        (2, 3, 16, 16)
    """

    search: ClassVar[Space] = {}

    def begin(self, data: Spectrum, noise: Tensor) -> tuple[Move, Mapping[str, Tensor]]:
        top = float(self.sigmas[0])
        guided = torch.where(data.noise < top, top**2 - data.noise**2, torch.inf)
        return fuse(torch.zeros_like(noise), top, data.data, guided), {}

    def move(
        self, i: int, x: Tensor, denoised: Tensor, data: Spectrum, state: State, noise: Tensor
    ) -> tuple[Move, Mapping[str, Tensor]]:
        sigma, after = (float(s) for s in self.sigmas[i : i + 2])
        n, met = data.noise, (data.noise < sigma) & (data.noise >= after)
        # Where n lies between the levels, first down to it: there the coefficient is the datum.
        to = torch.where(met, n, after)
        shrink = (to / sigma) ** 2
        mean, spread = denoised + shrink * (x - denoised), to * (1 - shrink).sqrt()
        ahead = torch.where(n < sigma, to**2 - n.clamp_max(to) ** 2, torch.inf)
        move = fuse(mean, spread, data.data, ahead)
        behind = torch.where(n < sigma, (data.data - x).abs() ** 2 / (sigma**2 - n**2), 0)
        rest = (after / to) ** 2
        return Move(
            move.log_weight + 0.5 * behind,
            torch.where(met, denoised + rest * (data.data - denoised), move.mean),
            torch.where(met, after * (1 - rest).sqrt(), move.deviation),
        ), {}

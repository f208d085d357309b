r"""Filtering posterior sampling by sequential Monte Carlo (FPS-SMC).

Source: Dou and Song 2024, "Diffusion Posterior Sampling for Linear Inverse Problem Solving: A
Filtering Perspective", algorithm 2, in noise-level notation and in the operator's singular vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lmaps_science.noise import ancestral
from lmaps_science.sampling import State
from lmaps_science.search import Space
from lmaps_science.solvers.particles import Move, ParticleFilter, fuse
from lmaps_science.solvers.spectral import Spectrum

__all__ = ["FPSSMC"]


@dataclass(frozen=True)
class FPSSMC(ParticleFilter):
    r"""A particle filter on data that diffuse as the image does.

    To the data belong noisy ones at every level, `y_i = y + A sigma_i n_i`, on one path of a
    diffusion, which is drawn from above as the levels fall. Particles follow it as in a state-space
    model, with `s_i` and `mu_i` of the ancestral step:

    .. math:: p(x_{i+1} | x_i, y_{i+1}) \propto N(x_{i+1}; \mu_i, s_i^2 I)
        N(y_{i+1}; A x_{i+1}, \sigma_y^2 I), \quad
        w = N(y_{i+1}; A \mu_i, s_i^2 A A^T + \sigma_y^2 I)

    Known bias: the filter takes the errors of all `y_i` for independent, and they are one and the
    same, that of y. So data count once for each level whose steps are small against their noise:
    samples spread less than the posterior and follow the noise, the more so the more levels there
    are below `sigma_y / s`. Without noise it samples the posterior, with many particles and levels;
    with few, most descend from a single one and modes lose their weights. `MCGDiff` has no such
    bias.

    (Arguments: those of `ParticleFilter`.)

    Example:
        >>> from lmaps_science import load_problem, sample
        >>> changes = {"picture.npix": 16}
        >>> problem = load_problem("restoration/random", prior="gaussian", overrides=changes)
        >>> sample(problem, FPSSMC(levels=5), n_samples=2, progress=False).samples.shape
        (2, 3, 16, 16)
    """

    search: ClassVar[Space] = {}

    def begin(self, data: Spectrum, noise: Tensor) -> tuple[Move, Mapping[str, Tensor]]:
        top = float(self.sigmas[0])
        path = torch.where(data.seen, data.data + top * noise, 0)
        move = fuse(torch.zeros_like(noise), top, path, data.noise**2)
        return move, {"path": path}

    def move(
        self, i: int, x: Tensor, denoised: Tensor, data: Spectrum, state: State, noise: Tensor
    ) -> tuple[Move, Mapping[str, Tensor]]:
        sigma, after = self.sigmas[i], self.sigmas[i + 1]
        towards, spread = ancestral(state.extra["path"], data.data, sigma, after)
        path = torch.where(data.seen, towards + spread * noise, 0)
        mean, spread = ancestral(x, denoised, sigma, after)
        return fuse(mean, spread, path, data.noise**2), {"path": path}

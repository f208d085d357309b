r"""How far a method is from sampling the posterior, where the posterior is known.

A method that steps from one noise level to the next has, in effect, a score of its own: its mean
step is the ancestral one of a conditional denoiser,

.. math:: E[x_{i+1} | x_i] = D_y + \frac{\sigma_{i+1}^2}{\sigma_i^2} (x_i - D_y), \quad
    s_y = (D_y - x_i) / \sigma_i^2

A sampler of the posterior has the exact one. It is also zero on average, over the exact
distribution of `x_i`, as every score is.

Source: Xu et al. 2025, "Rethinking Diffusion Posterior Sampling", section 3, proposition 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lmaps_science.arrays import norm
from lmaps_science.noise import SampleNoise
from lmaps_science.priors.base import Denoiser
from lmaps_science.sampling import InverseProblem, Solver, State, sample

__all__ = ["ExactPosterior", "method_score", "sample_std", "score_errors", "score_mean"]

Read = Literal["step", "estimate"]


class ExactPosterior(Protocol):
    """What the diagnostics ask of p(x0 | y): `MixtureDenoiser` and the like have it."""

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """E[x0 | x, y] at x = x0 + sigma n, like x."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` independent images (n, C, H, W)."""


@dataclass(frozen=True)
class _Mirrored(SampleNoise):
    """The same numbers with the other sign: noise that is only added cancels in the mean."""

    def normal(self, like: Tensor, *key: int) -> Tensor:
        return -super().normal(like, *key)


def method_score(
    problem: InverseProblem,
    solver: Solver,
    x: Tensor,
    level: int,
    *,
    seed: int = 0,
    read: Read = "step",
) -> Tensor:
    r"""The conditional score that one step of `solver` amounts to, like `x` (B, C, H, W).

    Args:
        problem: of one observation.
        solver: a method whose state is an image at the level's noise, such as DPS.
        x: images at the noise level `solver.sigmas[level]`.
        level: which step; the last has no level after it that could tell, but for its estimate.
        seed: of the noise of the step, which is drawn once and once with the other sign, and
            averaged: exact where noise is added, a sample of two elsewhere.
        read: "step" takes the score from where the step leads, for methods with ancestral steps
            (DPS, DMAP, DSG, LGD, PiGDM); "estimate" takes the estimate as `D_y`, for methods that
            renoise it in another way (LMAPS, DAPS, DiffPIR).
    """
    sigma, after = float(solver.sigmas[level]), float(solver.sigmas[level + 1])
    rows, shrink = tuple(range(len(x))), (after / sigma) ** 2
    state = State(x=x, estimate=x)
    with torch.no_grad():
        prepared = problem.prepare(solver)
        ends = [
            solver.step(level, state, prepared, kind(seed, rows))
            for kind in (SampleNoise, _Mirrored)
        ]
    if read == "estimate":
        denoised = (ends[0].estimate + ends[1].estimate) / 2
    else:
        denoised = ((ends[0].x + ends[1].x) / 2 - shrink * x) / (1 - shrink)
    return (denoised - x) / sigma**2


def score_errors(
    problem: InverseProblem,
    solver: Solver,
    exact: ExactPosterior,
    n: int = 200,
    *,
    levels: Sequence[int] | None = None,
    seed: int = 0,
    read: Read = "step",
) -> xr.Dataset:
    """Distances to the exact conditional score, of the method's and of the prior's own.

    Over `n` images at each noise level as the exact posterior has them, `x = x0 + sigma n`.

    Args:
        problem: of one observation.
        solver: the method.
        exact: the posterior.
        n: images a level.
        levels: which; ten of them when None.
        seed: of the images.
        read: see `method_score`.

    Returns:
        `method`, `unconditional`: mean over the images of `||s - s_y|| sigma / sqrt(d)`, so that
        pure noise has a score of length 1; and `length`, that of the exact score. Over `sigma`.
    """
    last = len(solver.sigmas) - 2
    chosen = np.unique(np.linspace(0, last, 10).astype(int)) if levels is None else levels
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {"method": [], "unconditional": [], "length": []}
    for level in chosen:
        sigma = float(solver.sigmas[level])
        clean = exact.sample(n, generator)
        x = clean + sigma * torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
        true = _score(exact, x, sigma)
        scores = {
            "method": method_score(problem, solver, x, int(level), seed=seed, read=read) - true,
            "unconditional": _score(problem.prior, x, sigma) - true,
            "length": true,
        }
        for name, difference in scores.items():
            unit = sigma / x[0].numel() ** 0.5
            found[name].append(float(norm(difference).mean()) * unit)
    sigmas = [float(solver.sigmas[level]) for level in chosen]
    return xr.Dataset(
        {name: ("sigma", values) for name, values in found.items()},
        coords={"sigma": ("sigma", sigmas, {"long_name": "noise level", "units": "1"})},
        attrs={"solver": repr(solver), "images": n},
    )


def _score(denoiser: Denoiser | ExactPosterior, x: Tensor, sigma: float) -> Tensor:
    return (denoiser(x, sigma) - x) / sigma**2


def score_mean(
    problem: InverseProblem,
    solver: Solver,
    n: int = 1000,
    *,
    seed: int = 0,
    read: Read = "step",
) -> float:
    r"""The length of the mean score at the first noise level, over `n` images of pure noise.

    .. math:: \sigma_1 || \frac1n \sum_k s(x_k) || / \sqrt{d}, \quad x_k = \sigma_1 n_k

    In units in which one score has the length 1: a score gives about `1 / sqrt(n)`, and the
    prior's mean over sigma_1 where that is not 0.
    """
    sigma = float(solver.sigmas[0])
    noise = SampleNoise(seed, tuple(range(n)))
    x = sigma * noise.normal(problem.like(n), 0)
    scores = method_score(problem, solver, x, 0, seed=seed + 1, read=read)
    return sigma * float(norm(scores.mean(0, keepdim=True))[0]) / x[0].numel() ** 0.5


def sample_std(problem: InverseProblem, solver: Solver, k: int = 50, *, seed: int = 0) -> Tensor:
    """Standard deviation of each pixel over `k` samples, in model space, (C, H, W).

    A mode-seeking method has less than the posterior.
    """
    return sample(problem, solver, k, seed, progress=False).estimates.std(0)

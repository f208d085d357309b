r"""Denoising diffusion null-space model (DDNM+).

Source: Wang et al. 2023, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model",
section 3.3 (eq. 17 and 18) and its appendix on general noise; in noise-level notation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lmaps_science.noise import VP, SampleNoise, ancestral, ancestral_spread
from lmaps_science.sampling import InverseProblem, Solver, State
from lmaps_science.search import Space
from lmaps_science.solvers.spectral import Spectrum, spectrum

__all__ = ["DDNM"]


@dataclass(frozen=True)
class DDNM(Solver):
    r"""Ancestral sampling whose denoised images take from the data what the data can tell.

    .. math:: \hat x = D(x, \sigma_i) + V \Lambda V^T A^\dagger (y - H(D(x, \sigma_i)))

    Without noise `Lambda` is the identity (DDNM): only the null space is the prior's. With noise
    (DDNM+) it falls below 1 where the data would bring more noise than the step has room for, and
    the fresh noise is less by what the data bring. Each step counts on new noise of the data, which
    is the same in all of them: with noisy data take few levels, or `DDRM`, whose steps are
    those of DDNM+ as its authors released it. The result is the denoised image of the last level.

    Known bias: for that reason samples repeat the noise of the data; beside an exact posterior of
    two modes (`toys.inpainting`, 100 levels) a measured pixel spreads by a fifth of what it should
    and 16 % of the samples lie between the modes instead of 1.

    Args:
        levels: noise levels T.
        time_min: end of the variance-preserving schedule with linear beta.

    Example:
        >>> from lmaps_science import load_problem, sample
        >>> changes = {"picture.npix": 16}
        >>> problem = load_problem("restoration/random", prior="gaussian", overrides=changes)
        >>> sample(problem, DDNM(levels=5), n_samples=2, progress=False).samples.shape
        (2, 3, 16, 16)
    """

    levels: int = 100
    time_min: float = 1e-3
    requires = frozenset({"gaussian", "svd"})
    search: ClassVar[Space] = {}

    @property
    def schedule(self) -> VP:
        return VP(self.levels, time_min=self.time_min)

    def prepare(self, problem: InverseProblem) -> Spectrum:
        return spectrum(problem)

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, after = float(self.sigmas[i]), float(self.sigmas[i + 1])
        data, denoised = problem.prepared, problem.prior(state.x, sigma)
        spread = ancestral_spread(sigma, after)  # sigma_t of eq. 18: room for noise
        # a_t sigma_y / s: what the data bring at Lambda = 1
        brought = (1 - (after / sigma) ** 2) * data.noise
        weight = (spread / brought).clamp_max(1.0)  # Lambda
        estimate = denoised + data.operator.V(
            weight * (data.data - data.operator.Vt(denoised))
        )  # eq. 17
        x = ancestral(state.x, estimate, sigma, after)[0]
        if after > 0:
            fresh = noise.normal(x, 1, i)
            used = (weight * brought).nan_to_num(0.0)  # 0 times infinity: there are no data
            left = (spread**2 - used**2).clamp_min(0).sqrt()  # Phi
            x = x + spread * fresh + data.operator.V((left - spread) * data.operator.Vt(fresh))
        return State(x=x, estimate=estimate)

r"""Minimisation of the variational mode-seeking loss (VML-MAP).

Source: "Mode-seeking for inverse problems with diffusion models", algorithm 1; equations cited line
by line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lmaps_science.arrays import factor_to, norm, per_sample
from lmaps_science.misfit import Misfit
from lmaps_science.noise import EDM, SampleNoise
from lmaps_science.sampling import InverseProblem, Solver, State
from lmaps_science.search import Range, Space
from lmaps_science.solvers.spectral import Spectrum, spectrum
from lmaps_science.solvers.vml_loss import bracket

__all__ = ["VMLMAP"]

DECAY = 0.9
PROBES = 4  # steps of power iteration for the curvature of a nonlinear problem


@dataclass(frozen=True)
class VMLMAP(Solver):
    r"""At each noise level, descend to an image whose denoised version is a mode of the posterior.

    .. math:: x \leftarrow x + \gamma_i J^T \left[\frac{D - x}{\sigma_i^2} - \nabla L(D)\right]
        \quad (K\text{ times}), \qquad x \leftarrow D(x, \sigma_i) + \sigma_{i+1} n, \qquad
        \gamma_i = c \left(\frac{1}{\sigma_i^2} + \lambda\right)^{-1}

    where `lambda` is the largest curvature of the misfit: `||H||^2 / v` where H is linear and
    the noise Gaussian (v is sigma_y^2, of complex data half of it); elsewhere it is
    measured at the start of each level. One `rate` c serves all noise levels, and data with and
    without noise. The bound holds where J is at most 1; between modes it is larger, and steps whose
    secant shows more curvature are followed by shorter ones.

    Known bias: it seeks modes, and the spread of its samples says nothing of the errors. Plain
    steps do not reach what the data see weakly: with singular values s of H and noise v_k of the
    data, the rate of convergence falls as `(s / ||H||)^2` and as `min(v) / v_k`. The first is what
    `preconditioned` cures. Where the data's noise is large against sigma the prior's term decides,
    and images tend to be smooth (the paper's section 7).

    How far it comes depends on the noise. For a Gaussian prior of correlated pixels, two in three
    of which are seen, the paper's 20 times 50 steps (from sigma 10) end 0.006, 0.1, 0.6 and 0.7 of
    the posterior's spread from the mode at sigma_y = 0.2, 0.05, 0.01 and 1e-9; 400 steps end at 0,
    0, 0.3 and 0.7. The paper has the last alone: what is not seen moves as slowly as precise data
    forbid.

    It needs more network calls than `LMAPS` for the same quality, the more so without the
    preconditioner; closure quantities are not explained by fewer than the paper's 50 steps.

    Args:
        levels: noise levels T; the paper has 20.
        steps: gradient steps K of a level, one denoiser call and one vector-Jacobian product each;
            the paper has 50. One more call takes the result to the next level.
        rate: c, stable below 2.
        preconditioned: multiply the bracket by `V Q V^T`, `Q = max(s, f)^-2` in units of the
            largest singular value and 1 in the null space (eq. 7). Without noise `f` is 0, the
            paper's form; else `f = min(1, sigma_y / (||H|| sigma_i))`, where the prior is as
            sharp as the data. For masks, whose singular values are equal, it changes nothing.
            None: where singular vectors are known and all data have one noise level.
        sigma_max, sigma_min: ends of the noise schedule (EDM, power 7).

    Example:
        >>> from lmaps_science import sample, toys
        >>> problem = toys.mixture().problem
        >>> sample(problem, VMLMAP(levels=3), n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    levels: int = 20
    steps: int = 50
    rate: float = 1.0
    preconditioned: bool | None = None
    sigma_max: float = 100.0
    sigma_min: float = 0.1
    search: ClassVar[Space] = {
        "rate": Range(0.2, 1.9),
        "sigma_max": Range(3.0, 100.0, log=True),
        "sigma_min": Range(0.01, 0.3, log=True),
    }

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and 0 < self.rate < 2):
            raise ValueError(
                f"VMLMAP needs steps >= 1 and 0 < rate < 2, got steps={self.steps}, "
                f"rate={self.rate}."
            )
        super().__post_init__()

    @property
    def requires(self) -> frozenset[str]:
        return frozenset(
            {"differentiable"} | ({"gaussian", "svd"} if self.preconditioned else set())
        )

    @property
    def schedule(self) -> EDM:
        return EDM(self.levels, self.sigma_max, self.sigma_min)

    def prepare(self, problem: InverseProblem) -> Spectrum | Tensor | None:
        """Spectrum where preconditioned, the curvature (1 or B,) where constant, else None."""
        wanted = self.preconditioned
        if wanted is None and {"gaussian", "svd"} <= problem.provides:
            wanted = problem.gaussian().common_variance is not None
        if wanted:
            return spectrum(problem)
        if {"gaussian", "linear"} <= problem.provides:
            variance = problem.gaussian().variance
            own = variance.ndim == problem.gaussian().y.ndim
            finest = variance.flatten(1).amin(1) if own else variance.min()
            return problem.linear().norms(like=variance).square() / finest
        return None

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, after, x = float(self.sigmas[i]), float(self.sigmas[i + 1]), state.x
        known, curvature, last = problem.prepared, None, None
        for _ in range(self.steps):  # lines 4-7
            inside, slope, denoised, pull = bracket(problem.prior, problem.misfit, x, sigma)
            if isinstance(known, Spectrum):
                inside, bound = _preconditioned(inside, known, sigma)
            else:
                if known is None:
                    known = _curvature(problem.misfit, denoised, slope)
                bound = 1 / sigma**2 + known
            uphill = -pull(inside)  # eq. 6
            curvature = bound if curvature is None else torch.maximum(bound, DECAY * curvature)
            if last is not None:
                curvature = torch.maximum(curvature, _secant(*last, x, uphill))
            last = (x, uphill)
            x = x - per_sample(self.rate / curvature, x) * uphill
        denoised = problem.prior(x, sigma)  # line 8
        x = denoised + after * noise.normal(denoised, 1, i)
        return State(x=x, estimate=denoised)


def _preconditioned(inside: Tensor, data: Spectrum, sigma: float) -> tuple[Tensor, Tensor]:
    """`V Q V^T` times the bracket (eq. 9), and the largest curvature of both, (1 or B,)."""
    best = data.noise.amin(1, keepdim=True)  # sigma_y / ||H||
    floor = (best / sigma).clamp_max(1.0)
    q = torch.where(data.seen, torch.maximum(best / data.noise, floor) ** -2, 1.0)
    curvature = (q * (1 / sigma**2 + data.noise**-2)).amax(1).clamp_min(1 / sigma**2)
    changed = data.operator.V((q - 1) * data.operator.Vt(inside))
    return inside + changed, curvature


def _secant(x: Tensor, slope: Tensor, y: Tensor, other: Tensor) -> Tensor:
    """The curvature |slope' - slope| / |y - x| between two images, (B,); 0 where they are equal."""
    return norm(other - slope) / norm(y - x).clamp_min(torch.finfo(x.dtype).tiny)


def _curvature(misfit: Misfit, image: Tensor, slope: Tensor) -> Tensor:
    """The largest curvature of L at `image`, (B,): power iteration on differences of its slope.

    It starts along the slope, with steps of a hundredth (root mean square) in model space.
    """
    size = 0.01 * image[0].numel() ** 0.5
    direction, found = slope, torch.zeros_like(norm(slope))
    for _ in range(PROBES):
        probe = image + per_sample(factor_to(size, direction), image) * direction
        direction = misfit.gradient(probe)[0] - slope
        found = torch.maximum(found, norm(direction) / size)
    return found

"""What methods that follow the data through the denoiser share, each of it once.

The residual of the denoised image and its gradient, and the length of a step along it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lmaps_science.arrays import norm, per_sample
from lmaps_science.misfit import Misfit
from lmaps_science.noise import EDM, vp_alpha
from lmaps_science.priors import Denoiser
from lmaps_science.sampling import InverseProblem

__all__ = [
    "Guidance",
    "flow",
    "flow_grid",
    "guide",
    "on_sphere",
    "paper_length",
    "polyak_length",
    "residual_of",
    "through",
]


@dataclass(frozen=True)
class Guidance:
    """What the data say at `x`, at one noise level.

    Attributes:
        denoised: D(x, sigma), (B, C, H, W).
        residual: `R = sqrt(2 s L(D(x)))`, (B,), with `s` the misfit's `objective_scale`: the norm
            `||y - H(D(x))||` where the noise is Gaussian.
        slope: the gradient of R by x, like `x`; 0 where the denoised image does not change with x.
    """

    denoised: Tensor
    residual: Tensor
    slope: Tensor


def guide(problem: InverseProblem, x: Tensor, sigma: float) -> Guidance:
    """One call of the denoiser at x (B, C, H, W) and one of its vector-Jacobian products."""
    denoised, slope, misfit = through(problem.misfit, lambda x: problem.prior(x, sigma), x)
    scale = problem.misfit.objective_scale
    residual = residual_of(misfit, scale)
    return Guidance(denoised, residual, per_sample(scale / residual, slope) * slope)


def residual_of(loss: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """`sqrt(2 s L)` of each image, (B,), above 0.

    NaN, which ends the run, where L is negative by more than rounding: what is followed down to 0
    has no 0 then.
    """
    square = torch.where(loss < -1, torch.nan, 2 * scale * loss)
    return square.clamp_min(torch.finfo(loss.dtype).tiny).sqrt()


def through(
    misfit: Misfit, image: Callable[[Tensor], Tensor], x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The images that `image` makes of `x`, the gradient of their misfit by `x`, and L (B,)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        z = image(x)
    slope, loss = misfit.gradient(z.detach())
    return z.detach(), torch.autograd.grad(z, x, slope.to(z.dtype))[0].to(slope.dtype), loss


def flow(prior: Denoiser, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """dx/dsigma = (x - D(x, sigma)) / sigma, Euler's steps along `sigmas`, which end at 0.

    A deterministic DDIM chain: one call of the denoiser for each but the last.
    """
    for now, then in pairwise(sigmas):
        x = x + (then - now) * (x - prior(x, now)) / now
    return x


def flow_grid(sigma: float, steps: int) -> list[float]:
    """Noise levels from `sigma` to 0 in that many steps; one step denoises."""
    return EDM(steps, sigma, min(0.01, 0.1 * sigma)).sigmas.tolist()


def polyak_length(found: Guidance, longest: float) -> Tensor:
    """Factors (B,) of the slope: as far as R = 0, along a straight line, but at most `longest`.

    The longest step is a length in model space.
    """
    number = torch.finfo(found.slope.dtype)
    polyak = found.residual / norm(found.slope).square().clamp_min(number.tiny)
    limit = longest / norm(found.slope).clamp_min(number.tiny)
    # Finite where the slope vanishes: no step then, whatever its factor.
    return torch.minimum(polyak, limit).clamp_max(number.max)


def paper_length(found: Guidance, zeta: float, sigma: Tensor, after: Tensor) -> Tensor:
    """Factors (B,) that make DPS's published step, `zeta` on the variance-preserving state."""
    return torch.full_like(found.residual, zeta / float(vp_alpha(sigma) * vp_alpha(after)))


def on_sphere(centre: Tensor, offset: Tensor, spread: float, fallback: Tensor) -> Tensor:
    """`centre + sqrt(d) spread offset / ||offset||`: where N(centre, spread^2 I) concentrates.

    `fallback` gives the direction of the images whose offset is 0; d is the number of pixels.
    """
    there = per_sample(norm(offset) != 0, offset)  # NaN stays NaN
    direction = torch.where(there, offset, fallback)
    length = spread * offset[0].numel() ** 0.5 / norm(direction)
    return centre + per_sample(length, offset) * direction

r"""Diffusion posterior sampling.

Source: Chung et al. 2023, "Diffusion Posterior Sampling for General Noisy Inverse Problems",
algorithm 1; equations cited line by line, in noise-level notation. With `x_t = alpha_t x`, the
paper's gradient by `x_t` is ours by `x`, divided by `alpha_t`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lmaps_science.arrays import norm, per_sample
from lmaps_science.noise import VP, SampleNoise, vp_alpha
from lmaps_science.sampling import InverseProblem, Solver, State

__all__ = ["DPS"]


@dataclass(frozen=True)
class DPS(Solver):
    r"""Ancestral sampling, with a gradient step on the residual through the denoiser.

    With `R(x) = sqrt(2 s L(D(x)))`, `s` the misfit's unit (its `objective_scale`), which for
    Gaussian noise is the norm `||y - H(D(x))||`, each level adds to the unconditional step

    * `scale_free=True`: Polyak's step, from x towards R = 0 along the gradient of R, no longer
      than `zeta sqrt(d) s_i`: zeta times the length of the step's own noise (d pixels). It
      needs no tuning to operator, noise, or unit.
    * `scale_free=False`: `-zeta grad R` on the scaled state, the paper's step.

    Both need a misfit whose smallest value is about 0, as Gaussian and closure misfits have.

    Args:
        levels: noise levels T.
        zeta: step size; 0.25 serves most problems when scale-free, the paper has 0.4 to 1.
        scale_free: see above.
        time_min: end of the variance-preserving schedule with linear beta.
    """

    levels: int = 1000
    zeta: float = 0.25
    scale_free: bool = True
    time_min: float = 1e-3

    def __post_init__(self) -> None:
        if not self.zeta > 0:
            raise ValueError(f"DPS needs zeta > 0, got {self.zeta}. Example: DPS(zeta=0.25).")
        super().__post_init__()

    @property
    def schedule(self) -> VP:
        return VP(self.levels, time_min=self.time_min)

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, after = self.sigmas[i], self.sigmas[i + 1]
        with torch.enable_grad():
            x = state.x.detach().requires_grad_()
            denoised = problem.prior(x, float(sigma))  # line 4, Tweedie
        slope, misfit = problem.misfit.gradient(denoised.detach())
        slope = torch.autograd.grad(denoised, x, slope.to(denoised.dtype))[0].to(slope.dtype)
        denoised = denoised.detach()
        shrink = float(after / sigma) ** 2
        spread = float(after) * (1 - shrink) ** 0.5
        mean = denoised + shrink * (state.x - denoised)  # line 6: the ancestral step
        unguided = mean + spread * noise.normal(mean, 1, i)

        scale = problem.misfit.objective_scale
        tiny = torch.finfo(slope.dtype).tiny
        residual = (2 * scale * misfit).clamp_min(tiny).sqrt()
        slope = per_sample(scale / residual, slope) * slope  # grad R
        if self.scale_free:
            polyak = residual / norm(slope).square().clamp_min(tiny)
            longest = self.zeta * slope[0].numel() ** 0.5 * spread / norm(slope).clamp_min(tiny)
            length = torch.minimum(polyak, longest)
        else:
            length = torch.full_like(residual, self.zeta / float(vp_alpha(sigma) * vp_alpha(after)))
        x_next = unguided - per_sample(length, slope) * slope  # line 7
        return State(x=x_next, estimate=denoised if after > 0 else x_next)

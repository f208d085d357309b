r"""Diffusion posterior sampling.

Source: Chung et al. 2023, "Diffusion Posterior Sampling for General Noisy Inverse Problems",
algorithm 1; equations cited line by line, in noise-level notation. With `x_t = alpha_t x`, the
paper's gradient by `x_t` is ours by `x`, divided by `alpha_t`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lmaps_science.arrays import per_sample
from lmaps_science.noise import VP, SampleNoise, ancestral, ancestral_spread
from lmaps_science.sampling import InverseProblem, Solver, State
from lmaps_science.search import Range, Space
from lmaps_science.solvers.guidance import Guidance, guide, paper_length, polyak_length

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

    Both need a misfit whose smallest value is about 0, as Gaussian and closure misfits have; one
    that becomes negative is refused. Where the denoised image does not change with x there is
    nothing to follow, and no step.

    Known bias: it does not follow the score of the posterior. The residual's norm is followed
    however small the noise, so that samples fit the noise and spread less than the posterior, and
    the weights of its modes are off.

    Args:
        levels: noise levels T.
        zeta: step size; 0.25 serves most problems when scale-free, the paper has 0.4 to 1.
        scale_free: see above.
        time_min: end of the variance-preserving schedule with linear beta.
        conditional: the problem's conditional denoiser proposes the step, one more call a level.

    Example:
        >>> from lmaps_science import sample, toys
        >>> problem = toys.mixture().problem
        >>> sample(problem, DPS(levels=20, zeta=0.5), n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    levels: int = 1000
    zeta: float = 0.25
    scale_free: bool = True
    time_min: float = 1e-3
    conditional: bool = False
    search: ClassVar[Space] = {"zeta": Range(0.02, 2.0, log=True)}

    def __post_init__(self) -> None:
        if not self.zeta > 0:
            name = type(self).__name__
            raise ValueError(f"{name} needs zeta > 0, got {self.zeta}. Example: {name}(zeta=0.25).")
        super().__post_init__()

    @property
    def requires(self) -> frozenset[str]:
        """A differentiable problem; the conditional denoiser where it is to be used."""
        return super().requires | ({"conditional"} if self.conditional else set())

    @property
    def schedule(self) -> VP:
        return VP(self.levels, time_min=self.time_min)

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, after = self.sigmas[i], self.sigmas[i + 1]
        found = self.guide(problem, state.x, float(sigma))  # line 4, Tweedie
        proposed = problem.denoised(state.x, float(sigma), found.denoised, self.conditional)
        mean, spread = ancestral(state.x, proposed, sigma, after)
        unguided = mean + spread * noise.normal(mean, 1, i)  # line 6: the ancestral step
        x_next = unguided - self.pull(found, sigma, after)  # line 7
        return State(x=x_next, estimate=found.denoised if after > 0 else x_next)

    def guide(self, problem: InverseProblem, x: Tensor, sigma: float) -> Guidance:
        """What is followed down to 0: the residual of the denoised image, and its gradient."""
        return guide(problem, x, sigma)

    def pull(
        self, found: Guidance, sigma: Tensor, after: Tensor, at: Tensor | None = None
    ) -> Tensor:
        """What the step from `sigma` to `after` subtracts, like the image.

        `at` is the noise level of the gradient, `sigma` when None.
        """
        if self.scale_free:
            spread = ancestral_spread(sigma, after)
            length = polyak_length(found, self.zeta * found.slope[0].numel() ** 0.5 * spread)
        else:
            length = paper_length(found, self.zeta, sigma if at is None else at, after)
        return per_sample(length, found.slope) * found.slope

"""Regularisation by denoising diffusion (RED-diff).

Source: Mardani et al. 2023, "A Variational Perspective on Solving Inverse Problems with Diffusion
Models", algorithm 1; equations cited line by line, in noise-level notation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from lmaps_science.arrays import scaled
from lmaps_science.linalg import adam
from lmaps_science.noise import VP, SampleNoise
from lmaps_science.sampling import InverseProblem, Solver, State
from lmaps_science.search import Range, Space

__all__ = ["REDDiff"]


@dataclass(frozen=True)
class REDDiff(Solver):
    r"""Stochastic optimisation of one image mu, one noise level after the other.

    .. math:: g = s \nabla L(\mu) + \lambda \sigma_i (\hat\epsilon - \epsilon), \quad
        \hat\epsilon = \frac{x - D(x, \sigma_i)}{\sigma_i}, \quad x = \mu + \sigma_i \epsilon

    with `s` the misfit's unit (`objective_scale`); Adam turns `g` into a step. No gradient
    goes through the denoiser.

    Known bias: it seeks a mode, and samples differ by the noise of the optimisation alone. One
    image has to suit all noise levels: between two modes of the like weight (`toys.mixture`) it
    ends in the middle.

    Args:
        levels: noise levels, one step of Adam each.
        regularisation: lambda; its weight against the data grows as sigma, 1 over the signal to
            noise ratio (section 4.2 of the paper).
        learning_rate: of Adam, in model space: the most that a pixel moves in a step.
        betas: decay of Adam's moments.
        time_min: end of the variance-preserving schedule with linear beta.

    Example:
        >>> from lmaps_science import sample, toys
        >>> problem = toys.mixture().problem
        >>> sample(problem, REDDiff(levels=20), n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    levels: int = 1000
    regularisation: float = 0.25
    learning_rate: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    time_min: float = 1e-3
    search: ClassVar[Space] = {
        "regularisation": Range(0.01, 10.0, log=True),
        "learning_rate": Range(0.003, 0.3, log=True),
    }

    def __post_init__(self) -> None:
        positive = self.regularisation >= 0 and self.learning_rate > 0
        if not (positive and all(0 <= beta < 1 for beta in self.betas)):
            raise ValueError(
                f"REDDiff needs regularisation >= 0, learning_rate > 0 and betas in [0, 1), got "
                f"{self!r}."
            )
        super().__post_init__()

    @property
    def schedule(self) -> VP:
        return VP(self.levels, time_min=self.time_min)

    def init(self, problem: InverseProblem, noise: SampleNoise) -> State:
        # The paper starts from the data's pseudo-inverse, which few operators have; this is the
        # prior's mean.
        pure = super().init(problem, noise)
        with torch.no_grad():
            mu = problem.prior(pure.x, float(self.sigmas[0]))
        return State(x=mu, estimate=mu, extra={"first": pure.estimate, "second": pure.estimate})

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, mu = float(self.sigmas[i]), state.x
        x = mu + sigma * noise.normal(mu, 1, i)  # line 4
        # lambda_t (eps_hat - eps), lambda_t = lambda sigma: eps_hat - eps = (mu - D) / sigma
        pull = self.regularisation * (mu - problem.prior(x, sigma))  # lines 5-6
        slope = scaled(problem.misfit.objective_scale, problem.misfit.gradient(mu)[0]) + pull
        moments = state.extra["first"], state.extra["second"]
        direction, first, second = adam(slope, *moments, i + 1, self.betas)  # line 7
        mu = mu - self.learning_rate * direction
        return State(x=mu, estimate=mu, extra={"first": first, "second": second})

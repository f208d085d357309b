r"""Training-free energy-guided diffusion (FreeDoM).

Source: Yu et al. 2023, "FreeDoM: Training-Free Energy-Guided Conditional Diffusion Model",
algorithm 2; equations cited line by line, in noise-level notation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lmaps_science.noise import SampleNoise, ancestral
from lmaps_science.sampling import InverseProblem, State
from lmaps_science.search import Range, Space
from lmaps_science.solvers.dps import DPS
from lmaps_science.solvers.guidance import guide

__all__ = ["FreeDoM"]


@dataclass(frozen=True)
class FreeDoM(DPS):
    r"""DPS that goes back and forth between two noise levels inside a window of them.

    Inside the window each level is repeated: after the guided step the image gets the level's
    noise back,

    .. math:: x_i \leftarrow x_{i+1} + \sqrt{\sigma_i^2 - \sigma_{i+1}^2} n

    and takes the step again: several gradients where the image's structure is decided, for a call
    of the denoiser and its VJP each.

    Known bias: that of DPS. The repetitions let the prior correct what guidance made of the
    image, and let guidance act more often: samples spread less.

    Args:
        levels: noise levels T.
        zeta: length of a step, as in DPS.
        scale_free: as in DPS.
        time_min, conditional: as in DPS.
        repeats: K, how often a level inside the window is taken; 1 is DPS.
        window: smallest and largest noise level of the window.

    Example:
        >>> from lmaps_science import sample, toys
        >>> problem = toys.mixture().problem
        >>> sample(problem, FreeDoM(levels=5), n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    levels: int = 500
    repeats: int = 3
    window: tuple[float, float] = (0.5, 5.0)
    search: ClassVar[Space] = {"zeta": Range(0.02, 2.0, log=True)}

    def __post_init__(self) -> None:
        if not (self.repeats >= 1 and 0 <= self.window[0] < self.window[1]):
            raise ValueError(
                f"FreeDoM needs repeats >= 1 and a window 0 <= low < high, got repeats="
                f"{self.repeats}, window={self.window}. Example: FreeDoM(window=(0.5, 5.0))."
            )
        super().__post_init__()

    @property
    def network_calls(self) -> int:
        """Three for each gradient, of which there are more inside the window; one to be told."""
        inside = (self.window[0] <= self.sigmas[:-1]) & (self.sigmas[:-1] <= self.window[1])
        return (4 if self.conditional else 3) * (
            self.levels + (self.repeats - 1) * int(inside.sum())
        )

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, after = self.sigmas[i], self.sigmas[i + 1]
        inside = self.window[0] <= float(sigma) <= self.window[1]
        back = float(sigma**2 - after**2) ** 0.5
        x = state.x
        for k in range(self.repeats if inside else 1):
            if k > 0:
                x = x + back * noise.normal(x, 2, i, k)  # line 9: travel back
            found = guide(problem, x, float(sigma))  # line 5
            proposed = problem.denoised(x, float(sigma), found.denoised, self.conditional)
            mean, spread = ancestral(x, proposed, sigma, after)
            x = mean + spread * noise.normal(mean, 1, i, k)  # line 4
            x = x - self.pull(found, sigma, after)  # lines 6-7
        return State(x=x, estimate=found.denoised if after > 0 else x)

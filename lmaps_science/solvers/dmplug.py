r"""Optimisation of a seed through a short chain (DMPlug).

Source: Wang et al. 2024, "DMPlug: A Plug-in Method for Solving Inverse Problems with Diffusion
Models", eq. 9 and section 3.3, in noise-level notation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lmaps_science.arrays import per_sample
from lmaps_science.local_map import LBFGS, GradientSolver
from lmaps_science.noise import VP, Constant, SampleNoise, vp_alpha
from lmaps_science.sampling import InverseProblem, Solver, State
from lmaps_science.search import Range, Space
from lmaps_science.solvers.consistency import check, explained, fit, goal, needs
from lmaps_science.solvers.guidance import flow

__all__ = ["DMPlug"]


@dataclass(frozen=True)
class DMPlug(Solver):
    r"""Find the seed from which a chain of a few DDIM steps ends at an image that fits the data.

    .. math:: z^* = argmin_z L(R(z)), \quad z_0 \sim N(0, I)

    with the chain `R` of `steps` denoised steps from the highest noise level to 0. Nothing but
    the end of the descent keeps the noise out of the image. It ends, each sample for itself,

    * `stop="discrepancy"`: where the stated noise explains what is left of L;
    * `stop="variance"`: where the moving variance of the image over the last `window` rounds has
      not fallen for `patience` rounds; the image at its smallest value is the result (ES-WMV,
      Wang et al. 2021, "Early Stopping for Deep Image Prior"). This needs no noise level.

    States tell which samples have ended, `extra["stopped"]`.

    Known bias: seeds that the data do not see stay as drawn, so that samples differ there as the
    short chain's images do, which are smoother than the prior's and lie between its modes, too;
    what the data see is fitted to the noise.

    Measured, one sample beside the cards' LMAPS: on `black_hole/simulated` (four images) 2.7 dB
    above it, at 34 times its network calls (1,370, a VJP counted as two). Precise linear data are
    not explained by the default's 220 evaluations (L is four to nine times what noise leaves):
    10 dB below it on `scattering/linear_60` (four), 6 dB on two heads of `mri/simulated`.

    Args:
        levels: rounds, each one run of `local` and an image.
        steps: of the chain, denoiser calls and VJPs of one evaluation; the paper has 3.
        local: the optimiser of a round. The paper has thousands of steps of Adam at 0.01.
        stop: see above.
        discrepancy: multiple of the misfit that noise leaves, at which samples stop; 0: never.
        window, patience: in rounds.

    Example:
        >>> from lmaps_science import sample, toys
        >>> problem = toys.mixture().problem
        >>> sample(problem, DMPlug(levels=3), n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    levels: int = 20
    steps: int = 3
    local: GradientSolver = field(default_factory=lambda: LBFGS(10))
    stop: Literal["discrepancy", "variance"] = "discrepancy"
    discrepancy: float = 1.0
    window: int = 4
    patience: int = 3
    search: ClassVar[Space] = {"discrepancy": Range(0.5, 2.0, log=True)}

    def __post_init__(self) -> None:
        check(self, self.local, self.discrepancy)
        if self.stop not in ("discrepancy", "variance"):
            raise ValueError(f"DMPlug needs stop 'discrepancy' or 'variance', got {self.stop!r}.")
        if self.stop == "variance" and self.discrepancy != 1:
            raise ValueError(
                f"DMPlug with stop='variance' has no use for discrepancy={self.discrepancy}."
            )
        if not (min(self.steps, self.patience) >= 1 and self.window >= 2):
            raise ValueError(
                f"DMPlug needs steps >= 1, window >= 2 and patience >= 1, got {self!r}."
            )
        super().__post_init__()

    @property
    def requires(self) -> frozenset[str]:
        return needs(self.local, self.discrepancy if self.stop == "discrepancy" else 0.0)

    @property
    def chain(self) -> list[float]:
        """The noise levels of the chain, and 0: equal steps of time, variance preserving."""
        return [*VP(self.steps + 1).sigmas[:-2].tolist(), 0.0]

    @property
    def schedule(self) -> Constant:
        """The seed stays at the chain's highest noise level."""
        return Constant(self.levels, self.chain[0])

    def prepare(self, problem: InverseProblem) -> Tensor:
        """The misfit at which seeds stop."""
        return goal(problem, self.discrepancy if self.stop == "discrepancy" else 0.0)

    def init(self, problem: InverseProblem, noise: SampleNoise) -> State:
        state = super().init(problem, noise)
        going = torch.zeros(len(state.x), dtype=torch.bool, device=state.x.device)
        extra = {"stopped": going}
        if self.stop == "variance":
            largest = state.x.new_full((len(state.x),), float("inf"))
            recent = state.estimate[:, None].expand(-1, self.window, -1, -1, -1)
            extra |= {"recent": recent, "smallest": largest, "idle": torch.zeros_like(largest)}
        return State(x=state.x, estimate=state.estimate, extra=extra)

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        stopped = state.extra["stopped"]
        if bool(stopped.all()):
            return state
        alpha = float(vp_alpha(self.sigmas[i]))

        def image(u: Tensor) -> Tensor:
            return flow(problem.prior, u / alpha, self.chain)

        # No misfit is above infinity: seeds that have stopped stay.
        until = torch.where(stopped, float("inf"), problem.prepared)
        u = fit(problem.misfit, self.local, alpha * state.x, until, image)
        x, found = u / alpha, image(u)
        if self.stop == "discrepancy":
            stopped = stopped | explained(problem, found)
            return State(x=x, estimate=found, extra={"stopped": stopped})
        return self._watched(i, state, x, found)

    def _watched(self, i: int, state: State, x: Tensor, found: Tensor) -> State:
        """The state after round i, whose images are `found`, by the moving variance."""
        stopped, idle = state.extra["stopped"], state.extra["idle"]
        recent = torch.cat([state.extra["recent"][:, 1:], found[:, None]], 1)
        full = i + 1 >= self.window
        variance = recent.var(1, unbiased=False).flatten(1).mean(1)
        better = ~stopped & (variance < state.extra["smallest"]) & full
        idle = torch.where(better | (not full), 0.0, idle + 1)
        kept = torch.where(per_sample(better | ~stopped & (not full), x), found, state.estimate)
        extra = {
            "stopped": stopped | (idle >= self.patience),
            "recent": recent,
            "smallest": torch.where(better, variance, state.extra["smallest"]),
            "idle": idle,
        }
        return State(x=x, estimate=kept, extra=extra)

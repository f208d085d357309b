"""Local MAP sampling of nonlinear scattering data, the lowest frequencies first.

Low frequencies see the object blurred, and their misfit has few false minima; each higher one
refines what is there. Local MAP sampling goes from blurred images to sharp ones anyway, so the
frequencies join as the noise level falls: no stage is run to its end and started again.

The prior's first guesses, made of noise, may fill the image with a strong scatterer, from which no
descent finds back. What explains the data worse than no object at all is therefore left behind.

Sources: Chew and Lin 1995, IEEE Microw. Guid. Wave Lett. 5, 439 (frequency hopping); "Local MAP
Sampling for Diffusion Models", algorithm 4.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from lmaps_science.arrays import per_sample
from lmaps_science.local_map import LocalProblem, LocalSolver
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.noise import SampleNoise, renoised
from lmaps_science.physics.lippmann_schwinger import NotConverged
from lmaps_science.physics.multi_frequency import MultiFrequency
from lmaps_science.sampling import InverseProblem, State
from lmaps_science.search import Range, Space
from lmaps_science.solvers.lmaps import LMAPS

__all__ = ["FrequencyHopping"]


@dataclass(frozen=True)
class FrequencyHopping(LMAPS):
    """`LMAPS` whose data grow from the lowest frequency to all of them.

    A level whose denoised image explains its data worse than no object starts from the empty image
    instead (the lowest value of the prior's range, -1 where that has no end), and so does one on
    whose way fields do not converge; a local solution worse than no object is not taken. The first
    level alone, whose start knows nothing of the data, goes on from where it got: the second judges
    that.

    Args:
        hop_until: after this share of the levels all frequencies are in use; 0: from the start.
        (the others: those of `LMAPS`)

    Example:
        >>> from lmaps_science import load_problem, sample
        >>> changes = {"image.npix": 16, "observation.frequencies_ghz": [1.0, 2.0]}
        >>> problem = load_problem("scattering/full_wave", prior="gaussian", overrides=changes)
        >>> sample(problem, FrequencyHopping(levels=3), n_samples=1, progress=False).samples.shape
        (1, 1, 16, 16)
    """

    hop_until: float = 0.8
    search: ClassVar[Space] = {**LMAPS.search, "hop_until": Range(0.0, 1.0)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.hop_until <= 1:
            raise ValueError(
                f"FrequencyHopping needs hop_until in [0, 1], got {self.hop_until}: the share of "
                "the levels after which all frequencies are in use, e.g. 0.8."
            )
        if self._draws:
            raise ValueError(
                f"FrequencyHopping needs a local solver, e.g. LBFGS(), got {self.local!r}: it goes "
                "back where a maximum explains the data worse than no object, which of draws some "
                "do by chance."
            )
        if self.covariance == "jacobian":  # its local problems do not start where J belongs
            raise ValueError(
                "FrequencyHopping needs covariance='isotropic' or 'prior', got 'jacobian'."
            )

    @property
    def requires(self) -> frozenset[str]:
        """What `LMAPS` needs, and several frequencies."""
        return super().requires | {"multi-frequency"}

    def scored_step(
        self, i: int, state: State, problem: InverseProblem, noise: SampleNoise
    ) -> tuple[State, Callable[[], Tensor]]:
        """One noise level, with the frequencies that belong to it, and J of where it led."""
        sigma, after = float(self.sigmas[i]), float(self.sigmas[i + 1])
        misfit = self._in_use(i, problem.gaussian())
        start = problem.denoised(state.x, sigma, None, self.conditional)
        lowest = problem.prior.value_range[0]
        empty = torch.full_like(start, lowest if math.isfinite(lowest) else -1.0)
        if i > 0:
            start = _choose(_explains(misfit, start, empty), start, empty)
        local, w = self._solved(problem.with_misfit(misfit), start, empty, sigma)
        z = local.image(w)
        better = _explains(misfit, z, empty)
        if i > 0:
            w, z = _choose(better, w, start), _choose(better, z, start)
        x = renoised(state.x, z, sigma, after, self.rho, noise.normal(z, 1, i))  # eq. 8b
        reached = State(x=x, estimate=_choose(better, z, empty))
        return reached, partial(local, w)

    def _in_use(self, i: int, misfit: GaussianMisfit) -> GaussianMisfit:
        """The misfit of the frequencies of level i."""
        operator = misfit.operator
        if not isinstance(operator, MultiFrequency):
            raise ValueError(f"FrequencyHopping needs several frequencies, got {operator!r}.")
        total, hops = len(operator.operators), self.hop_until * self.levels
        count = total if i >= hops else 1 + int(total * i / hops)
        part = copy.copy(misfit)
        part.operator = operator.lowest(count)
        part.y, part.sigma = misfit.y[:, :count], misfit.sigma
        axis = 1 - misfit.y.ndim  # of the frequencies, where the noise is not the same for all
        if part.sigma.ndim >= -axis and part.sigma.shape[axis] > 1:
            part.sigma = part.sigma.narrow(axis, 0, count)
        return part

    def _solved(
        self, problem: InverseProblem, start: Tensor, empty: Tensor, sigma: float
    ) -> tuple[LocalProblem, Tensor]:
        """The local problem and the coordinates of its solution (eq. 8a).

        From the empty image where fields fail to converge.
        """
        failed = torch.zeros(len(start), dtype=torch.bool, device=start.device)
        solver: LocalSolver = self.local  # type: ignore[assignment]  # draws are refused above
        while True:
            local = self._local_problem(problem, _choose(~failed, start, empty), sigma)
            try:
                return local, solver(local)
            except NotConverged as error:
                if not bool((error.images & ~failed).any()):
                    raise
                failed = failed | error.images


def _explains(misfit: GaussianMisfit, x: Tensor, empty: Tensor) -> Tensor:
    """Which images fit the data no worse than no object, which predicts 0: booleans (B,)."""
    failed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    nothing = 0.5 * (misfit.y.abs().square() / misfit.variance).flatten(1).sum(1)
    while True:
        try:
            return (misfit(_choose(~failed, x, empty)) <= nothing) & ~failed
        except NotConverged as error:
            if not bool((error.images & ~failed).any()):
                raise
            failed = failed | error.images


def _choose(which: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(per_sample(which, a), a, b)

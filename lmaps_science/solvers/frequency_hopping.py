"""Local MAP sampling of nonlinear scattering data, the lowest frequencies first.

Low frequencies see the object blurred, and their misfit has few false minima; each higher one
refines what is there. Local MAP sampling goes from blurred images to sharp ones anyway, so the
frequencies join as the noise level falls: no stage is run to its end and started again.

Sources: Chew and Lin 1995, IEEE Microw. Guid. Wave Lett. 5, 439 (frequency hopping); "Local MAP
Sampling for Diffusion Models", algorithm 4.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from lmaps_science.noise import SampleNoise
from lmaps_science.physics.multi_frequency import MultiFrequency
from lmaps_science.sampling import InverseProblem, State
from lmaps_science.solvers.lmaps import LMAPS

__all__ = ["FrequencyHopping"]


@dataclass(frozen=True)
class FrequencyHopping(LMAPS):
    """:class:`LMAPS` whose data grow from the lowest frequency to all of them.

    Args:
        hop_until: after this share of the levels all frequencies are in use; 0: from the start.
        (the others: those of :class:`LMAPS`)
    """

    hop_until: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.hop_until <= 1:
            raise ValueError(
                f"FrequencyHopping needs hop_until in [0, 1], got {self.hop_until}: the share of "
                "the levels after which all frequencies are in use, e.g. 0.8."
            )

    @property
    def requires(self) -> frozenset[str]:
        """What :class:`LMAPS` needs, and several frequencies."""
        return super().requires | {"multi-frequency"}

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        """One noise level, with the frequencies that belong to it."""
        misfit = problem.gaussian()
        operator = misfit.operator
        if not isinstance(operator, MultiFrequency):
            raise ValueError(f"FrequencyHopping needs several frequencies, got {operator!r}.")
        total, hops = len(operator.operators), self.hop_until * self.levels
        count = total if i >= hops else 1 + int(total * i / hops)
        part = copy.copy(misfit)
        part.operator = operator.lowest(count)
        part.y, part.sigma = misfit.y[:, :count], misfit.sigma[:, :count]
        return super().step(i, state, problem.with_misfit(part), noise)

r"""A population of particles for one sample, thinned by the local objective on the way.

At high noise the particles of a local MAP method fall into different modes, and later levels hardly
leave them. Which mode is the better one shows on the way: the rest need not be run to the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from lmaps_science.noise import SampleNoise, Schedule
from lmaps_science.sampling import InverseProblem, ScoredSolver, Solver, State
from lmaps_science.search import Space
from lmaps_science.solvers.particles import best, rows

__all__ = ["Population"]

ROUNDED = 1 + 1e-6  # so that the schedule's own ends are noise levels


@dataclass(frozen=True)
class Population(Solver):
    r"""Several particles of a local MAP method a sample, of which the best go on.

    A sample starts as `particles` runs of `solver`, each with random numbers of its own. At the
    first noise level up to a key of `keep` those of the lowest local objective are kept,

    .. math:: J = \frac{||z - D(x)||^2}{2 \kappa \sigma^2} + L(z)

    (in the norm of the local covariance), as many as its value says. The estimate of a sample is
    that of its best particle, of the first one before there was a choice.

    It seeks a mode: samples are what a search of several starts finds, their spread says how well
    it finds the same again, and the shares of modes among them are no probabilities. Never derive
    error bars from them.

    A batch of B samples holds `B particles` images until they are thinned; what a call of the
    network or of the operator costs a sample is counted for all of its particles.

    Args:
        solver: the method: `LMAPS`, or another whose steps have a local objective.
        particles: P, of each sample at the start.
        keep: noise level -> how many particles go on from there. Fewer at every lower level, 1 at
            the last: a sample is one image. 0.66 is where it was measured on black holes.

    Example:
        >>> from lmaps_science import LMAPS, sample, toys
        >>> solver = Population(LMAPS(5, sigma_max=20.0), 8, keep={2: 6, 1: 4, 0.66: 1})
        >>> sample(toys.mixture().problem, solver, n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    solver: ScoredSolver
    particles: int = 8
    keep: Mapping[float, int] = field(default_factory=lambda: {0.66: 1}, hash=False)

    search: ClassVar[Space] = {}  # what its solver declares
    caution: ClassVar[str | None] = (
        "each sample is the survivor of a population: their spread is no error bar, and shares of "
        "modes among them are no probabilities"
    )

    def __post_init__(self) -> None:
        inner, kind = self.solver, type(self.solver)
        if not isinstance(inner, ScoredSolver) or kind.step is not ScoredSolver.step:
            raise ValueError(
                f"Population needs a solver whose steps have a local objective, e.g. LMAPS(50), "
                f"got {inner!r}."
            )
        levels, counts = zip(*self._thinning, strict=True) if self.keep else ((), ())
        falling = [self.particles, *counts]
        if not all(a > b >= 1 for a, b in pairwise(falling)):
            raise ValueError(
                f"Population needs fewer particles at every lower noise level, from "
                f"particles={self.particles} on, got keep={dict(self._thinning)}. Example: "
                "Population(LMAPS(50), particles=8, keep={2: 6, 1: 4, 0.66: 1})."
            )
        if falling[-1] != 1:
            raise ValueError(
                f"Population: a sample is one image, but {falling[-1]} particles are left at the "
                f"end. Let keep end with 1, e.g. keep={{0.66: 1}}; it is {dict(self._thinning)}."
            )
        high, low = float(inner.sigmas[0]), float(inner.sigmas[-2])
        outside = [level for level in levels if not low <= ROUNDED * level < high]
        if outside:
            raise ValueError(
                f"Population: keep names the noise level {outside[0]:g}, and the solver's run from "
                f"below {high:g} to {low:g}."
            )
        super().__post_init__()

    @property
    def _thinning(self) -> list[tuple[float, int]]:
        return sorted(self.keep.items(), reverse=True)

    @property
    def requires(self) -> frozenset[str]:
        """What the solver needs."""
        return self.solver.requires

    @property
    def schedule(self) -> Schedule:
        """The solver's."""
        return self.solver.schedule

    def width(self, i: int) -> int:
        """The particles that enter level i."""
        return self._left(i - 1) if i > 0 else self.particles

    def prepare(self, problem: InverseProblem) -> Mapping[int, Any]:
        """The problem of as many particles as there are at a time, prepared for the solver."""
        counts = {self.particles, *self.keep.values(), 1}
        return {n: problem.of_particles(n).prepare(self.solver) for n in counts}

    def init(self, problem: InverseProblem, noise: SampleNoise) -> State:
        """The solver's start, of all particles."""
        many = noise.of_particles(self.particles)
        state = self.solver.init(problem.prepared[self.particles], many)
        return State(state.x, state.estimate[:: self.particles])

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        """The solver's step for all particles, and what is left of them."""
        images = len(noise.samples)
        each = len(state.x) // images
        reached, objective = self.solver.scored_step(
            i, State(state.x, state.x), problem.prepared[each], noise.of_particles(each)
        )
        x, z, kept = reached.x, reached.estimate, self._left(i)
        if kept < each:
            found = objective().reshape(images, each)
            going = rows(best(found, kept), each)
            x, z, each = x[going], z[going], kept
        return State(x, z[::each])

    def _left(self, i: int) -> int:
        """How many particles go on from level i."""
        sigma = float(self.sigmas[i])
        reached = [n for level, n in self.keep.items() if sigma <= ROUNDED * level]
        return min(reached, default=self.particles)

"""The one loop: a solver and a problem in, samples with their history and their cost out."""

from lmaps_science.sampling.hint import hint
from lmaps_science.sampling.loop import NonFiniteError, sample
from lmaps_science.sampling.protocol import (
    InverseProblem,
    ScoredSolver,
    Solver,
    State,
    stack,
    start,
)
from lmaps_science.sampling.result import Result

__all__ = [
    "InverseProblem",
    "NonFiniteError",
    "Result",
    "ScoredSolver",
    "Solver",
    "State",
    "hint",
    "sample",
    "stack",
    "start",
]

"""The one loop: a solver and a problem in, samples with their history and their cost out."""

from lmaps_science.sample.loop import NonFiniteError, sample
from lmaps_science.sample.protocol import InverseProblem, Solver, State, start
from lmaps_science.sample.result import Result

__all__ = [
    "InverseProblem",
    "NonFiniteError",
    "Result",
    "Solver",
    "State",
    "sample",
    "start",
]

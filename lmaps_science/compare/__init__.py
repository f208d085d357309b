"""Methods compared at equal cost on images whose truth is known, and their options tuned."""

from lmaps_science.compare.bench import Comparison, bench
from lmaps_science.compare.tune import Tuned, tune

__all__ = ["Comparison", "Tuned", "bench", "tune"]

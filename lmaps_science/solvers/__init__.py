"""Methods: each a frozen dataclass with ``init`` and ``step``, run by ``lmaps_science.sample``.

``regularised_maximum_likelihood`` is the one that needs no prior, and stands on its own.
"""

from lmaps_science.solvers.daps import DAPS, Langevin, Metropolis
from lmaps_science.solvers.diffpir import DiffPIR
from lmaps_science.solvers.dps import DPS
from lmaps_science.solvers.lmaps import LMAPS
from lmaps_science.solvers.red_diff import REDDiff
from lmaps_science.solvers.rml import regularised_maximum_likelihood

__all__ = [
    "DAPS",
    "DPS",
    "LMAPS",
    "DiffPIR",
    "Langevin",
    "Metropolis",
    "REDDiff",
    "regularised_maximum_likelihood",
]

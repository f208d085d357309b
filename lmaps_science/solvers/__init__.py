"""Methods: each a frozen dataclass with ``init`` and ``step``, run by :func:`lmaps_science.sample`."""

from lmaps_science.solvers.lmaps import LMAPS

__all__ = ["LMAPS"]

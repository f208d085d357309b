"""Random images of known statistics, to train priors and to simulate observations."""

from lmaps_science.phantoms.black_hole import BlackHoleImages

__all__ = ["BlackHoleImages"]

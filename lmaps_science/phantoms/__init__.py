"""Random images of known statistics, to train priors and to simulate observations."""

from lmaps_science.phantoms.black_hole import BlackHoleImages
from lmaps_science.phantoms.brain import BrainSlices
from lmaps_science.phantoms.nuclei import NucleiImages

__all__ = ["BlackHoleImages", "BrainSlices", "NucleiImages"]

"""Inverse scattering, linear and full-wave."""

from lmaps_science.cards.kind import Kind
from lmaps_science.manifests import shipped_folder

__all__ = ["KIND"]

KIND = Kind(
    "scattering",
    __name__,
    shipped_folder("problems") / "scattering",
    card="card:ScatteringCard",
    recipes="recipes:RECIPES",
    benchmark="inversebench:ScatteringScores",
)

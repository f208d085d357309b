"""Black-hole imaging with the Event Horizon Telescope, from closure quantities."""

from lmaps_science.cards.kind import Kind
from lmaps_science.manifests import shipped_folder

__all__ = ["KIND"]

KIND = Kind(
    "black_hole",
    __name__,
    shipped_folder("problems") / "black_hole",
    card="card:BlackHoleCard",
    export="export:write_images",
    recipes="recipes:RECIPES",
    commands="commands:app",
    benchmark="inversebench:BlackHoleScores",
)

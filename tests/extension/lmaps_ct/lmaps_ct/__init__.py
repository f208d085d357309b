"""Parallel-beam computed tomography: a field of science for lmaps-science."""

from pathlib import Path

from lmaps_science.cards.kind import Kind

__all__ = ["KIND"]

KIND = Kind(
    "ct",
    __name__,
    Path(__file__).parent / "cards",
    card="card:CTCard",
    export="export:write_images",
    recipes="phantoms:RECIPES",
)

"""Black-hole imaging with the Event Horizon Telescope, from closure quantities."""

from lmaps_science.cards.kind import Kind, SelfTest
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
    comparable_by="modes:comparable",
    self_test=SelfTest(
        "simulated",
        "psnr",
        expected=27.9,
        tolerance=1.0,
        overrides={"solver.levels": 12, "solver.local.iterations": 10},
        preset="single",
        seed=2,
    ),
)

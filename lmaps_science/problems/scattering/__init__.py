"""Inverse scattering, linear and full-wave."""

from lmaps_science.cards.kind import Kind, SelfTest
from lmaps_science.manifests import shipped_folder

__all__ = ["KIND"]

KIND = Kind(
    "scattering",
    __name__,
    shipped_folder("problems") / "scattering",
    card="card:ScatteringCard",
    recipes="recipes:RECIPES",
    benchmark="inversebench:ScatteringScores",
    self_test=SelfTest(
        "linear_60",
        "psnr",
        expected=22.53,
        tolerance=0.3,
        overrides={
            "observation.transmitters": 6,
            "observation.receivers": 30,
            "solver.levels": 6,
            "solver.local.iterations": 8,
        },
        preset="quick",
    ),
)

"""Multi-coil MRI from undersampled k-space."""

from lmaps_science.cards.kind import Kind, SelfTest
from lmaps_science.manifests import shipped_folder

__all__ = ["KIND"]

KIND = Kind(
    "mri",
    __name__,
    shipped_folder("problems") / "mri",
    card="card:MRICard",
    export="export:write_images",
    volume="export:write_volume",
    recipes="recipes:RECIPES",
    benchmark="inversebench:MRIScores",
    comparable_by="problem:comparable",
    self_test=SelfTest(
        "simulated",
        "psnr",
        expected=24.92,
        tolerance=0.3,
        overrides={"kspace.npix": 96},
        preset="quick",
    ),
)

"""Restoration of photographs: super-resolution, inpainting, blur, phase, clipping, compression."""

from lmaps_science.cards.kind import Kind, SelfTest
from lmaps_science.manifests import shipped_folder

__all__ = ["KIND"]

KIND = Kind(
    "restoration",
    __name__,
    shipped_folder("problems") / "restoration",
    card="card:RestorationCard",
    export="export:write_pictures",
    recipes="recipes:RECIPES",
    self_test=SelfTest(
        "sr4", "psnr", expected=18.89, tolerance=0.3, overrides={"picture.npix": 64}, preset="quick"
    ),
)

"""How the prior of nuclei was trained."""

from dataclasses import replace

from lmaps_science.cards.kind import Recipe
from lmaps_science.problems.scattering.phantoms import NucleiImages
from lmaps_science.training import PRECISE, song_unet

__all__ = ["RECIPES"]

RECIPES = {
    "nuclei": Recipe(
        lambda npix, seed: NucleiImages(npix, seed),
        128,
        song_unet(patch=4, model_channels=64, channel_mult=[1, 2, 2], attn_resolutions=[8]),
        replace(PRECISE, log_sigma_mean=-1.0),
    ),
}

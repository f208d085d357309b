"""How the prior of photographs is trained: on crops, so that it serves pictures of any size."""

from dataclasses import replace

from lmaps_science.cards.kind import Recipe
from lmaps_science.problems.restoration.photographs import Photographs
from lmaps_science.training import PRECISE, song_unet

__all__ = ["RECIPES"]

RECIPES = {
    "photographs": Recipe(
        lambda npix, seed: Photographs(npix, seed),
        64,
        song_unet(patch=2, model_channels=64, channel_mult=[1, 2, 2], attn_resolutions=[]),
        replace(PRECISE, log_sigma_mean=-1.0, batch_size=16),
        validation=lambda npix, seed: Photographs(npix, seed, held_out=True),
    ),
}

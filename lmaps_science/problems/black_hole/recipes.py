"""How priors of compact radio sources are trained."""

from lmaps_science.cards.kind import Recipe
from lmaps_science.problems.black_hole.compact_sources import CompactSources
from lmaps_science.problems.black_hole.phantoms import BlackHoleImages
from lmaps_science.training import TrainingSettings, song_unet

__all__ = ["RECIPES"]

_NETWORK = song_unet(patch=2, model_channels=64, channel_mult=[1, 2, 2], attn_resolutions=[8])

RECIPES = {
    "black_hole": Recipe(
        lambda npix, seed: BlackHoleImages(npix, seed=seed), 64, _NETWORK, TrainingSettings()
    ),
    # Of more kinds, at least half of them without a ring or cavity.
    "compact_sources": Recipe(
        lambda npix, seed: CompactSources(npix, seed=seed), 64, _NETWORK, TrainingSettings()
    ),
}

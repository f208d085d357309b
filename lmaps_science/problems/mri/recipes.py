"""How priors of heads are trained: on crops, without attention but in the middle of the network.

So they serve images of any size.
"""

from dataclasses import replace

from lmaps_science.cards.kind import Recipe
from lmaps_science.problems.mri.heads import Heads
from lmaps_science.problems.mri.phantoms import BrainSlices
from lmaps_science.training import PRECISE, song_unet

__all__ = ["RECIPES"]

_CROPS = Recipe(
    lambda npix, seed: BrainSlices(npix, seed),
    128,
    song_unet(
        patch=2, sigma_data=0.4, model_channels=32, channel_mult=[1, 2, 4], attn_resolutions=[]
    ),
    replace(PRECISE, log_sigma_mean=-1.2),
)

RECIPES = {
    "brain": _CROPS,
    # More anatomies and sequences.
    "heads": replace(_CROPS, images=lambda npix, seed: Heads(npix, seed)),
}

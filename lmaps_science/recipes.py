"""How the shipped priors were trained: images, architecture and settings, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lmaps_science.phantoms import BlackHoleImages, BrainSlices, NucleiImages
from lmaps_science.training import Images, TrainingSettings

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """What a prior is trained on, and how.

    Attributes:
        images: the training images, from the number of pixels and a seed.
        npix: pixels along each side.
        config: architecture, for :func:`~lmaps_science.priors.networks.build_network`.
        settings: those of the training.
    """

    images: Callable[[int, int], Images]
    npix: int
    config: Mapping[str, Any]
    settings: TrainingSettings = field(default_factory=TrainingSettings)


def _unet(**options: Any) -> dict[str, Any]:
    return {
        "architecture": "song",
        "preconditioning": "edm",
        "sigma_data": 0.5,
        "num_blocks": 1,
        "dropout": 0.0,
        **options,
    }


# Data that determine an image well need low noise levels, and no covariance beside the network.
_PRECISE = TrainingSettings(batch_size=8, learning_rate=1e-3, log_sigma_std=1.7, covariance_rank=0)

RECIPES = {
    "black_hole": Recipe(
        lambda npix, seed: BlackHoleImages(npix, seed=seed),
        64,
        _unet(patch=2, model_channels=64, channel_mult=[1, 2, 2], attn_resolutions=[8]),
    ),
    # Crops, and no attention but in the middle: it serves images of any size.
    "brain": Recipe(
        lambda npix, seed: BrainSlices(npix, seed),
        128,
        _unet(
            patch=2, sigma_data=0.4, model_channels=32, channel_mult=[1, 2, 4], attn_resolutions=[]
        ),
        replace(_PRECISE, log_sigma_mean=-1.2),
    ),
    "nuclei": Recipe(
        lambda npix, seed: NucleiImages(npix, seed),
        128,
        _unet(patch=4, model_channels=64, channel_mult=[1, 2, 2], attn_resolutions=[8]),
        replace(_PRECISE, log_sigma_mean=-1.0),
    ),
}

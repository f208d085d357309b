"""Train a diffusion prior: the EDM loss, an EMA of the weights, resumable from its checkpoint."""

from lmaps_science.training.images import ArrayImages, Images
from lmaps_science.training.loop import train
from lmaps_science.training.settings import PRECISE, TrainingSettings, song_unet

__all__ = ["PRECISE", "ArrayImages", "Images", "TrainingSettings", "song_unet", "train"]

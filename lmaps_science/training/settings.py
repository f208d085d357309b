"""What a training run does, and with which network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["PRECISE", "TrainingSettings", "song_unet"]


@dataclass(frozen=True)
class TrainingSettings:
    """What a training run does; every field is recorded with the weights.

    `log_sigma_mean` and `log_sigma_std` are those of the log-normal noise levels seen in
    training; `precision` is `"no"` (float32) or `"bf16"` (autocast); `ema_decay` is reached
    after a warm-up; the learning rate rises for `warmup` steps and falls to 0 along a cosine.
    The weights are stored with `covariance_rank` principal components of `covariance_images`
    training images (0 for none); `LMAPS(covariance="prior")` uses them.

    Example:
        >>> settings = TrainingSettings(steps=2000, precision="bf16", covariance_rank=0)
        >>> settings.steps, settings.batch_size
        (2000, 16)
    """

    steps: int = 20_000
    batch_size: int = 16
    learning_rate: float = 8e-4
    warmup: int = 200
    log_sigma_mean: float = -0.4
    log_sigma_std: float = 1.6
    ema_decay: float = 0.999
    gradient_clip: float = 1.0
    precision: str = "no"
    seed: int = 0
    validate_every: int = 500
    validation_images: int = 128
    covariance_rank: int = 200
    covariance_images: int = 4000

    def __post_init__(self) -> None:
        if self.precision not in ("no", "bf16"):
            raise ValueError(f"precision must be 'no' or 'bf16', got {self.precision!r}.")
        if min(self.steps, self.batch_size, self.validate_every, self.validation_images) < 1:
            raise ValueError("steps, batch_size, validate_every, validation_images must be >= 1.")
        if not self.learning_rate > 0 or not self.log_sigma_std > 0:
            raise ValueError("learning_rate and log_sigma_std must be positive.")


# Data that determine an image well need low noise levels, and no covariance beside the network.
PRECISE = TrainingSettings(batch_size=8, learning_rate=1e-3, log_sigma_std=1.7, covariance_rank=0)


def song_unet(**options: Any) -> dict[str, Any]:
    """The architecture of the shipped priors, with these `options` of `build_network`."""
    return {
        "architecture": "song",
        "preconditioning": "edm",
        "sigma_data": 0.5,
        "num_blocks": 1,
        "dropout": 0.0,
        **options,
    }

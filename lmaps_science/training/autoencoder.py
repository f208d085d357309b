"""Train an autoencoder, and hand its latents to the training of a prior."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmaps_science.noise import SampleNoise
from lmaps_science.priors.autoencoder import Autoencoder, save_autoencoder
from lmaps_science.priors.latent import Decoder
from lmaps_science.training.images import Images, in_model_space
from lmaps_science.training.loop import accelerator, fit
from lmaps_science.training.run import Run
from lmaps_science.training.settings import TrainingSettings

__all__ = ["LatentImages", "train_autoencoder"]

LATENT_STD = 0.5  # what the EDM preconditioning expects of clean images, and of latents
CHUNK = 16  # images encoded side by side


@dataclass(frozen=True)
class LatentImages:
    """Latents of the first `count` images, over and over: images for the training of a prior.

    They are encoded when they are first wanted, and kept.
    """

    images: Images
    decoder: Decoder
    count: int
    value_range = (-1.0, 1.0)  # latents are in model space as they are
    _kept: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def batch(self, start: int, count: int) -> np.ndarray:
        """Latents (count, c, h, w) of items `start` to `start + count - 1`, modulo their number."""
        wanted = [k % self.count for k in range(start, start + count)]
        for first in sorted({k // CHUNK * CHUNK for k in wanted} - self._kept.keys()):
            self._kept[first] = self._encoded(first, min(CHUNK, self.count - first))
        return np.stack([self._kept[k // CHUNK * CHUNK][k % CHUNK] for k in wanted])

    @torch.no_grad()
    def _encoded(self, start: int, count: int) -> np.ndarray:
        x0 = in_model_space(self.images, start, count).to(self.decoder.like)
        found: np.ndarray = self.decoder.encode(x0).cpu().numpy()
        return found


def train_autoencoder(
    network: Autoencoder,
    images: Images,
    validation: Images,
    folder: str | Path,
    settings: TrainingSettings = TrainingSettings(),
    *,
    kl_weight: float = 1e-4,
    description: str = "",
    progress: bool = True,
) -> Path:
    r"""Train an autoencoder and write `folder/autoencoder.safetensors` (fp16).

    .. math:: ||D(\mu + s n) - x||^2 / pixels + w\, KL(N(\mu, s^2)\, ||\, N(0, I)) / latents

    on images in model space, `[-1, 1]`. Scale and shift, measured on validation images, give the
    latents mean 0 and standard deviation 0.5. A run that stopped goes on from `folder/state.pt`.

    Args:
        network: with fresh weights.
        images, validation: as in `train`.
        folder: for the weights and the checkpoint.
        settings: those of the training; the noise levels do not matter.
        kl_weight: w; more gives smoother latents and coarser images.
        description: one paragraph, kept in the file.

    Raises:
        ImportError: accelerate is missing (extra `train`).
        ValueError: `kl_weight` is negative, or `state.pt` is of another run.
        FloatingPointError: the loss is no longer finite.

    Example:
        >>> train_autoencoder(network, images, held_out, "latents")  # doctest: +SKIP
    """
    if not kl_weight >= 0:
        raise ValueError(f"kl_weight must be at least 0, got {kl_weight}. Example: 1e-4.")
    run = _AutoencoderRun(network, settings, kl_weight)
    fit(accelerator(settings), run, images, validation, folder, description, progress=progress)
    return Path(folder) / "autoencoder.safetensors"


class _AutoencoderRun(Run):
    def __init__(self, network: Autoencoder, settings: TrainingSettings, kl_weight: float) -> None:
        self.fresh, self.kl_weight = network, kl_weight
        facts: Mapping[str, Any] = {"kl_weight": kl_weight}
        super().__init__({**network.config, **facts}, settings, facts)

    def networks(self) -> tuple[nn.Module, nn.Module]:
        return self.fresh, copy.deepcopy(self.fresh)

    def batch(
        self, images: Images, start: int, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images in model space, nothing, and the noise of their latents."""
        x0 = in_model_space(images, start, self.settings.batch_size).to(device)
        like = x0.new_zeros(len(x0), *self.fresh.latent_shape)
        keys = SampleNoise(self.settings.seed, tuple(range(start, start + len(x0))))
        return x0, x0.new_zeros(0), keys.normal(like, 1)

    def loss(
        self, network: nn.Module, start: int, x0: Tensor, sigma: Tensor, noise: Tensor
    ) -> Tensor:
        decoded, divergence = network(x0, noise)
        return (decoded.float() - x0).square().mean() + self.kl_weight * divergence.float().mean()

    @torch.no_grad()
    def validate(self, images: Images, device: torch.device) -> dict[str, float]:
        """Of the averaged weights, latents without noise: error, PSNR; latents' mean and std."""
        x0 = in_model_space(images, 0, self.settings.validation_images)
        errors, latents = [], []
        for part in x0.split(CHUNK):
            latent = self.ema.encode(part.to(device))  # type: ignore[operator]
            decoded = self.ema.decode(latent)  # type: ignore[operator]
            errors.append((decoded.cpu() - part).square().flatten(1).mean(1))
            latents.append(latent.cpu())
        mse, z = torch.cat(errors), torch.cat(latents)
        return {
            "mse": float(mse.mean()),
            "psnr": float((10 * torch.log10(4 / mse)).mean()),  # of values from -1 to 1
            "latent_mean": float(z.mean()),
            "latent_std": float(z.std()),
        }

    def measure_covariance(self, images: Images) -> None:
        """An autoencoder has none."""

    def write_weights(self, folder: Path, description: str) -> None:
        found, own = self.history[-1]["bands"], self.fresh
        if not (found["latent_std"] > 0 and math.isfinite(found["latent_std"])):
            raise ValueError(
                f"the latents of all images are the same: kl_weight {self.kl_weight} is too large."
            )
        decoder = Decoder(
            copy.deepcopy(self.ema),
            own.latent_shape,
            own.image_shape,
            LATENT_STD / found["latent_std"],
            found["latent_mean"],
        )
        settings = asdict(self.settings)
        for name in ("log_sigma_mean", "log_sigma_std", "covariance_rank", "covariance_images"):
            del settings[name]  # of denoisers
        training = {**settings, **self.progress(), **self.facts}
        path = folder / "autoencoder.safetensors"
        save_autoencoder(path, decoder, training=training, description=description)

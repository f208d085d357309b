r"""A small convolutional autoencoder: images to latents and back, and its files.

.. math:: z = (E(x) - b)\, a, \quad x \approx D(z / a + b)

with the mean E of an encoder that was trained as a variational one, its decoder D, and the factors
`a` (scale) and `b` (shift) that give latents the standard deviation that priors expect.

Source: Kingma and Welling 2014, arXiv:1312.6114; for latents of diffusion models Rombach et al.
2022, arXiv:2112.10752, section 3.1.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmaps_science.io.files import DataError, sha256, suggestion
from lmaps_science.priors.latent import Decoder
from lmaps_science.priors.network_config import check_types, checked_image_shape
from lmaps_science.priors.weights import WeightsFile, buffers, stored

__all__ = ["Autoencoder", "autoencoder_info", "load_autoencoder", "save_autoencoder"]

_FILE = WeightsFile("lmaps-autoencoder", 1, "autoencoder", "`lmaps prior train-autoencoder`")
_LOG_VARIANCES = (-12.0, 4.0)  # wide of what training finds; exp stays finite


class _Block(nn.Module):
    """x + conv(silu(conv(silu(x)))), the last convolution zero at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv1.weight)
        nn.init.zeros_(self.conv1.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.conv1(F.silu(self.conv0(F.silu(x))))
        return found


def _stack(inside: int, channels: int, outside: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, channels, 3, padding=1),
        *(_Block(channels) for _ in range(blocks)),
        nn.SiLU(),
        nn.Conv2d(channels, outside, 3, padding=1),
    )


class Autoencoder(nn.Module):
    """Encoder and decoder, all on the grid of the latents: space-to-depth on both ends.

    Args:
        image_shape: (C, H, W), sides divisible by `patch`.
        patch: how many times coarser the grid of the latents is.
        latent_channels: numbers for each of its points.
        channels: width of both networks.
        encoder_blocks, decoder_blocks: residual blocks of each.

    Raises:
        ValueError: numbers out of range, or sides that `patch` does not divide.

    Example:
        >>> network = Autoencoder((1, 16, 16), patch=4, latent_channels=2)
        >>> network.encode(torch.rand(3, 1, 16, 16)).shape
        torch.Size([3, 2, 4, 4])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        patch: int = 4,
        latent_channels: int = 4,
        channels: int = 64,
        encoder_blocks: int = 2,
        decoder_blocks: int = 3,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {
            "patch": patch,
            "latent_channels": latent_channels,
            "channels": channels,
            "encoder_blocks": encoder_blocks,
            "decoder_blocks": decoder_blocks,
        }
        self.config = {"image_shape": list(image_shape), **options}
        colours, height, width = checked_image_shape(self.config)
        for name, value in options.items():
            if type(value) is not int or not 1 <= value <= 1024:
                raise ValueError(
                    f"autoencoder: {name} must be a whole number from 1 to 1024, got {value!r}."
                )
        if height % patch or width % patch:
            raise ValueError(
                f"autoencoder: patch {patch} does not divide {height} x {width} pixels; take one "
                "that does, e.g. patch=2, or images of sides divisible by it."
            )
        self.patch = patch
        self.image_shape = (colours, height, width)
        self.latent_shape = (latent_channels, height // patch, width // patch)
        folded = colours * patch**2
        self.encoder = _stack(folded, channels, 2 * latent_channels, encoder_blocks)
        self.decoder = _stack(latent_channels, channels, folded, decoder_blocks)

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, c, h, w) of the latents of images (B, C, H, W)."""
        mean, log_variance = self.encoder(F.pixel_unshuffle(x, self.patch)).chunk(2, 1)
        return mean, log_variance.clamp(*_LOG_VARIANCES)

    def encode(self, x: Tensor) -> Tensor:
        """The mean of the latents, without scale and shift."""
        return self.distribution(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W) of latents without scale and shift."""
        return F.pixel_shuffle(self.decoder(z), self.patch)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        r"""The images decoded from `mean + std noise`, and the KL divergence (B,).

        .. math:: KL = \tfrac12 \langle \mu^2 + s^2 - 1 - \log s^2 \rangle

        the mean over the numbers of a latent, of N(mu, s^2) from N(0, 1).
        """
        mean, log_variance = self.distribution(x)
        decoded = self.decode(mean + (0.5 * log_variance).exp() * noise)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        return decoded, divergence.flatten(1).mean(1)


# ---------------------------------------------------------------- files


def save_autoencoder(
    path: str | Path,
    decoder: Decoder,
    *,
    training: Mapping[str, Any],
    description: str = "",
) -> Path:
    """Write an autoencoder with its scale and shift: safetensors, 16-bit weights.

    Raises:
        TypeError: it is not built around an `Autoencoder`.
        ValueError: weights that are not finite in 16 bits.
    """
    network = decoder.network
    if not isinstance(network, Autoencoder):
        raise TypeError(
            f"save_autoencoder stores an Autoencoder of this package, got {decoder!r}; keep others "
            "with the library that made them."
        )
    facts = {
        "config": network.config,
        "scale": decoder.scale,
        "shift": decoder.shift,
        "description": description,
        "training": dict(training),
    }
    return _FILE.write(path, stored(network.state_dict(), torch.float16, buffers(network)), facts)


def load_autoencoder(path: str | Path) -> Decoder:
    """The decoder in a file of `save_autoencoder`, with its encoder; `metadata` tells of it.

    Raises:
        DataError: no such file, a damaged one, or one of another kind.
    """
    facts, state = _FILE.description(path), _FILE.tensors(path)
    try:
        network = _built(facts["config"])
        network.load_state_dict(state)
        scale, shift = float(facts["scale"]), float(facts["shift"])
        if not (math.isfinite(scale) and math.isfinite(shift)):
            raise ValueError("its scale or shift is not finite")
    except (KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise DataError(
            f"{path}: its weights or its configuration contradict themselves ({error}). Fetch it "
            "again and compare its sha256."
        ) from error
    metadata = {**facts, "sha256": sha256(path), "file": Path(path).name}
    return Decoder(network, network.latent_shape, network.image_shape, scale, shift, metadata)


def autoencoder_info(path: str | Path) -> dict[str, Any]:
    """What the file of an autoencoder says of itself, without its weights.

    Raises:
        DataError: no such file, a damaged one, or one of another kind.
    """
    return _FILE.description(path)


def _built(config: Mapping[str, Any]) -> Autoencoder:
    """An autoencoder of fresh weights; ValueError where its options are wrong."""
    known = set(inspect.signature(Autoencoder.__init__).parameters) - {"self"}
    for key in config:
        if key not in known:
            raise ValueError(f"unknown option {key!r}.{suggestion(str(key), known)}")
    options = {key: value for key, value in config.items() if key != "image_shape"}
    check_types(options, Autoencoder.__init__)
    return Autoencoder(checked_image_shape(config), **options)

r"""Priors of latents: a denoiser of what an autoencoder makes of images, and its decoder.

.. math:: x = D(z / a + b), \quad z = (E(x) - b)\, a

A solver works on latents z as it does on images: the decoder is the map from the prior's space,
behind which the misfit of images becomes one of latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lmaps_science.arrays import check_shape
from lmaps_science.operators import Composed, Operator
from lmaps_science.priors.base import Denoiser

__all__ = ["Decoder", "LatentPrior", "split"]


class Decoder(Operator):
    """Latents (B, c, h, w) to images (B, C, H, W), by the decoder of an autoencoder.

    Takes the network over, as `NetworkDenoiser` does: evaluation mode, frozen weights.

    Args:
        network: a module with `encode(x)` and `decode(z)`, both tensor to tensor and with one
            result for each image of the batch.
        latent_shape: (c, h, w), the prior's space.
        image_shape: (C, H, W) of the decoded images.
        scale, shift: a and b: the network's own latents are `z / scale + shift`.
        metadata: facts such as the file's checksum, kept for provenance.

    Raises:
        ValueError: `scale` is 0.

    Example:
        >>> import torch
        >>> from lmaps_science.priors import Autoencoder
        >>> decoder = Decoder(Autoencoder((1, 16, 16)), (4, 4, 4), (1, 16, 16))
        >>> decoder(torch.randn(2, 4, 4, 4)).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(
        self,
        network: nn.Module,
        latent_shape: tuple[int, ...],
        image_shape: tuple[int, ...],
        scale: float = 1.0,
        shift: float = 0.0,
        metadata: Mapping[str, Any] | None = None,
    ):
        if scale == 0:
            raise ValueError("Decoder: scale 0 has no inverse; give e.g. 1 / latents.std().")
        self.network = network.eval().requires_grad_(False)
        self.image_shape, self.data_shape = tuple(latent_shape), tuple(image_shape)
        self.scale, self.shift = float(scale), float(shift)
        self.metadata = dict(metadata or {})

    def _forward(self, z: Tensor) -> Tensor:
        found: Tensor = self.network.decode(z / self.scale + self.shift)  # type: ignore[operator]
        return found

    def encode(self, x: Tensor) -> Tensor:
        """Latents (B, c, h, w) of images (B, C, H, W); differentiable."""
        assert self.data_shape is not None
        check_shape(type(self).__name__, "image", x, ("B", *self.data_shape))
        found: Tensor = self.network.encode(x)  # type: ignore[operator]
        check_shape(type(self).__name__, "latent", found, ("B", *self.image_shape))
        return (found - self.shift) * self.scale

    def _tensors(self) -> list[Tensor]:
        return [p for p in self.network.parameters() if p.is_floating_point()]

    def __repr__(self) -> str:
        shapes = f"latents {self.image_shape} -> images {self.data_shape}"
        return f"Decoder({shapes}, scale {self.scale:.6g}, shift {self.shift:.6g})"


class LatentPrior(Denoiser):
    """A prior of the latents of an autoencoder.

    Args:
        base: denoises latents.
        decoder: of the autoencoder whose latents they are.

    Raises:
        ValueError: their shapes differ, or `base` says that it is for another autoencoder.

    Example:
        >>> from lmaps_science.priors import Autoencoder, from_function
        >>> decoder = Decoder(Autoencoder((1, 16, 16)), (4, 4, 4), (1, 16, 16))
        >>> prior = LatentPrior(from_function(lambda z, s: z / (1 + s**2), (4, 4, 4)), decoder)
        >>> prior.image_shape, prior.decoder.data_shape
        ((4, 4, 4), (1, 16, 16))
    """

    def __init__(self, base: Denoiser, decoder: Decoder) -> None:
        if tuple(base.image_shape) != tuple(decoder.image_shape):
            raise ValueError(
                f"the prior is for latents of shape {tuple(base.image_shape)}, the autoencoder "
                f"makes {tuple(decoder.image_shape)} of images {decoder.data_shape}: they were not "
                "trained together. Train one: lmaps prior train --autoencoder FILE."
            )
        facts: Mapping[str, Any] = getattr(base, "metadata", {})
        of, own = (facts.get("training") or {}).get("autoencoder"), decoder.metadata.get("sha256")
        if of is not None and of.get("sha256") != own:
            raise ValueError(
                f"the prior is of the latents of another autoencoder, {of.get('file')} (sha256 "
                f"{str(of.get('sha256'))[:12]}…), and this one is {decoder.metadata.get('file')} "
                f"(sha256 {str(own)[:12]}…). Give that one, or train a prior for this one: lmaps "
                "prior train --autoencoder FILE."
            )
        self.base, self.decoder = base, decoder
        self.image_shape, self.value_range = base.image_shape, base.value_range
        self.covariance = base.covariance
        known = {key: decoder.metadata[key] for key in ("file", "sha256") if own is not None}
        self.metadata = {**facts, "autoencoder": known}

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.base._denoise(x, sigma)


def split(operator: Operator) -> tuple[Operator, Decoder] | None:
    """The operator of images and the decoder of which `operator` is composed; None elsewhere."""
    if not isinstance(operator, Composed):
        return None
    if isinstance(operator.inner, Decoder):
        return operator.outer, operator.inner
    found = split(operator.inner)
    return None if found is None else (operator.outer @ found[0], found[1])

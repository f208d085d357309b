"""The U-Nets of the EDM family: DDPM++ / NCSN++ (`SongUNet`) and ADM as rewritten there
(`DhariwalUNet`).

Parameter names follow the published EDM and InverseBench state dicts, so those weights load. Both
networks map `(x: (B, C_in, H, W), noise_labels: (B,))` to `(B, C_out, H, W)`; the
preconditioning around them lives in `lmaps_science.priors.networks`.

Sources: Song et al. 2021, arXiv:2011.13456 (DDPM++, NCSN++); Dhariwal and Nichol 2021,
arXiv:2105.05233 (ADM); Karras et al. 2022, arXiv:2206.00364, appendix F.1 (this formulation).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmaps_science.priors.layers import (
    Block,
    Conv,
    FourierEmbedding,
    Linear,
    group_norm,
    positional_embedding,
)


def _levels(resolution: int, channel_mult: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    for level, mult in enumerate(channel_mult):
        yield level, resolution >> level, mult


def _aux_encoder(
    kind: str, name: str, aux: int, width: int, resample: dict[str, Any], init: dict[str, Any]
) -> dict[str, nn.Module]:
    """Layers that feed the resampled input image into one level of the encoder."""
    if kind == "skip":
        return {
            f"{name}_down": Conv(aux, aux, 0, down=True, **resample),
            f"{name}_skip": Conv(aux, width, 1, **init),
        }
    if kind == "residual":
        options: dict[str, Any] = {"down": True, "resample_last": True, **resample, **init}
        return {f"{name}_residual": Conv(aux, width, 3, **options)}
    return {}


class SongUNet(nn.Module):
    """DDPM++ (defaults) or NCSN++ (`embedding="fourier"`, `encoder="residual"`,
    `resample_filter=(1, 3, 3, 1)`, `channel_mult_noise=2`).

    Args:
        in_channels, out_channels: channels of the input and output images.
        resolution: pixels along one side at the finest level; names the blocks.
        model_channels: channels at the finest level; `channel_mult` multiplies them per level.
        num_blocks: residual blocks per level.
        attn_resolutions: resolutions with self-attention (one head).
        dropout: dropout probability in training.
        channel_mult_emb, channel_mult_noise: widths of the embeddings, times `model_channels`.
        embedding: `"positional"` or `"fourier"`.
        encoder: `"standard"`, `"skip"` or `"residual"`.
        decoder: `"standard"` or `"skip"`.
        resample_filter: taps of the resampling filter, `(1, 1)` or `(1, 3, 3, 1)`.
        skip_scale: factor on the sum of each residual connection.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        resolution: int,
        *,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.0,
        channel_mult_emb: int = 4,
        channel_mult_noise: int = 1,
        embedding: str = "positional",
        encoder: str = "standard",
        decoder: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
        skip_scale: float = math.sqrt(0.5),
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("embedding", embedding, ("positional", "fourier")),
            ("encoder", encoder, ("standard", "skip", "residual")),
            ("decoder", decoder, ("standard", "skip")),
        ):
            if value not in known:
                raise ValueError(f"SongUNet knows {name} = {', '.join(known)}; got {value!r}.")
        emb_channels = model_channels * channel_mult_emb
        self.noise_channels = model_channels * channel_mult_noise
        init: dict[str, Any] = {"mode": "xavier"}
        init_zero: dict[str, Any] = {"mode": "xavier", "gain": 1e-5}
        block = partial(
            Block,
            embedding_channels=emb_channels,
            dropout=dropout,
            skip_scale=skip_scale,
            eps=1e-6,
            resample_filter=resample_filter,
            resample_projection=True,
            scale_shift=False,
            init=init,
            init_zero=init_zero,
            init_attention={"mode": "xavier", "gain": math.sqrt(0.2)},
        )
        if embedding == "fourier":
            self.map_noise = FourierEmbedding(self.noise_channels)
        self.embedding = embedding
        self.map_layer0 = Linear(self.noise_channels, emb_channels, **init)
        self.map_layer1 = Linear(emb_channels, emb_channels, **init)

        resample: dict[str, Any] = {"resample_filter": resample_filter}
        levels = list(_levels(resolution, channel_mult))
        enc: dict[str, nn.Module] = {}
        skips: list[int] = []
        width, aux_width = model_channels, in_channels
        for level, res, mult in levels:
            if level == 0:
                enc[f"{res}x{res}_conv"] = Conv(in_channels, width, 3, **init)
            else:
                enc[f"{res}x{res}_down"] = block(width, width, down=True)
                aux = _aux_encoder(encoder, f"{res}x{res}_aux", aux_width, width, resample, init)
                enc.update(aux)
                aux_width = width if encoder == "residual" else aux_width
            skips.append(width)
            for index in range(num_blocks):
                heads = int(res in attn_resolutions)
                enc[f"{res}x{res}_block{index}"] = block(width, model_channels * mult, heads=heads)
                width = model_channels * mult
                skips.append(width)
        self.enc = nn.ModuleDict(enc)

        dec: dict[str, nn.Module] = {}
        for level, res, mult in reversed(levels):
            coarsest = level == len(levels) - 1
            if coarsest:
                dec[f"{res}x{res}_in0"] = block(width, width, heads=1)
                dec[f"{res}x{res}_in1"] = block(width, width)
            else:
                dec[f"{res}x{res}_up"] = block(width, width, up=True)
            for index in range(num_blocks + 1):
                heads = int(index == num_blocks and res in attn_resolutions)
                name, joined = f"{res}x{res}_block{index}", width + skips.pop()
                dec[name] = block(joined, model_channels * mult, heads=heads)
                width = model_channels * mult
            if decoder == "skip" or level == 0:
                if decoder == "skip" and not coarsest:
                    up = Conv(out_channels, out_channels, 0, up=True, **resample)
                    dec[f"{res}x{res}_aux_up"] = up
                dec[f"{res}x{res}_aux_norm"] = group_norm(width, 1e-6)
                dec[f"{res}x{res}_aux_conv"] = Conv(width, out_channels, 3, **init_zero)
        self.dec = nn.ModuleDict(dec)

    def _embed(self, noise_labels: Tensor) -> Tensor:
        if self.embedding == "fourier":
            features = self.map_noise(noise_labels)
        else:
            features = positional_embedding(noise_labels, self.noise_channels, endpoint=True)
        cosines, sines = features.chunk(2, dim=1)
        features = torch.cat([sines, cosines], dim=1).to(self.map_layer0.weight.dtype)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(features))))

    def forward(self, x: Tensor, noise_labels: Tensor) -> Tensor:
        """`x` (B, C_in, H, W), `noise_labels` (B,) -> (B, C_out, H, W)."""
        return self.decode(*self.encode(x, noise_labels))

    def encode(self, x: Tensor, noise_labels: Tensor) -> tuple[list[Tensor], Tensor]:
        """The feature maps of the encoder, the last of which is its end, and the embedding."""
        embedding = self._embed(noise_labels)
        skips: list[Tensor] = []
        aux = x
        for name, layer in self.enc.items():
            if name.endswith("aux_down"):
                aux = layer(aux)
            elif name.endswith("aux_skip"):
                x = skips[-1] = x + layer(aux)
            elif name.endswith("aux_residual"):
                x = skips[-1] = aux = (x + layer(aux)) / math.sqrt(2)
            else:
                x = layer(x, embedding) if isinstance(layer, Block) else layer(x)
                skips.append(x)
        return skips, embedding

    def decode(self, skips: list[Tensor], embedding: Tensor) -> Tensor:
        """The output for what `encode` gave."""
        x, skips = skips[-1], list(skips)
        output: Tensor | None = None
        for name, layer in self.dec.items():
            if name.endswith("aux_up"):
                output = layer(output)
            elif name.endswith("aux_norm"):
                normalised = layer(x)
            elif name.endswith("aux_conv"):
                image = layer(F.silu(normalised))
                output = image if output is None else output + image
            else:
                x = layer(_join(x, layer, skips), embedding)
        assert output is not None  # level 0 always ends in an aux_conv
        return output


class DhariwalUNet(nn.Module):
    """The ADM U-Net as EDM rewrote it: scale-shift conditioning, 64 channels per head.

    Args:
        in_channels, out_channels: channels of the input and output images.
        resolution: pixels along one side at the finest level; names the blocks.
        model_channels: channels at the finest level; `channel_mult` multiplies them per level.
        num_blocks: residual blocks per level.
        attn_resolutions: resolutions with self-attention. As in EDM, a level with fewer than 64
            channels has no complete head and therefore no attention; a warning says so.
        dropout: dropout probability in training.
        channel_mult_emb: width of the embedding, times `model_channels`.
    """

    channels_per_head = 64

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        resolution: int,
        *,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.0,
        channel_mult_emb: int = 4,
    ) -> None:
        super().__init__()
        emb_channels = model_channels * channel_mult_emb
        self.model_channels = model_channels
        third = math.sqrt(1 / 3)
        init: dict[str, Any] = {"mode": "kaiming", "gain": third, "bias_gain": third}
        init_zero: dict[str, Any] = {"mode": "kaiming", "gain": 0.0}
        block = partial(
            Block,
            embedding_channels=emb_channels,
            dropout=dropout,
            init=init,
            init_zero=init_zero,
            init_attention=init,
        )
        self.map_layer0 = Linear(model_channels, emb_channels, **init)
        self.map_layer1 = Linear(emb_channels, emb_channels, **init)

        def heads(res: int, channels: int) -> int:
            count = channels // self.channels_per_head if res in attn_resolutions else 0
            if res in attn_resolutions and count == 0:
                warnings.warn(
                    f"DhariwalUNet: no attention at resolution {res}, because {channels} channels "
                    f"are less than one head of {self.channels_per_head}.",
                    stacklevel=3,
                )
            return count

        enc: dict[str, nn.Module] = {}
        skips: list[int] = []
        width = in_channels
        for level, res, mult in _levels(resolution, channel_mult):
            channels = model_channels * mult
            if level == 0:
                enc[f"{res}x{res}_conv"] = Conv(width, channels, 3, **init)
                width = channels
            else:
                enc[f"{res}x{res}_down"] = block(width, width, down=True)
            skips.append(width)
            for index in range(num_blocks):
                enc[f"{res}x{res}_block{index}"] = block(
                    width, channels, heads=heads(res, channels)
                )
                width = channels
                skips.append(width)

        dec: dict[str, nn.Module] = {}
        for level, res, mult in reversed(list(_levels(resolution, channel_mult))):
            channels = model_channels * mult
            if level == len(channel_mult) - 1:
                middle = width // self.channels_per_head
                dec[f"{res}x{res}_in0"] = block(width, width, heads=middle)
                dec[f"{res}x{res}_in1"] = block(width, width)
            else:
                dec[f"{res}x{res}_up"] = block(width, width, up=True)
            for index in range(num_blocks + 1):
                dec[f"{res}x{res}_block{index}"] = block(
                    width + skips.pop(), channels, heads=heads(res, channels)
                )
                width = channels
        self.enc, self.dec = nn.ModuleDict(enc), nn.ModuleDict(dec)
        self.out_norm = group_norm(width, 1e-5)
        self.out_conv = Conv(width, out_channels, 3, **init_zero)

    def forward(self, x: Tensor, noise_labels: Tensor) -> Tensor:
        """`x` (B, C_in, H, W), `noise_labels` (B,) -> (B, C_out, H, W)."""
        return self.decode(*self.encode(x, noise_labels))

    def encode(self, x: Tensor, noise_labels: Tensor) -> tuple[list[Tensor], Tensor]:
        """The feature maps of the encoder, the last of which is its end, and the embedding."""
        features = positional_embedding(noise_labels, self.model_channels)
        features = features.to(self.map_layer0.weight.dtype)
        embedding = F.silu(self.map_layer1(F.silu(self.map_layer0(features))))
        skips: list[Tensor] = []
        for layer in self.enc.values():
            x = layer(x, embedding) if isinstance(layer, Block) else layer(x)
            skips.append(x)
        return skips, embedding

    def decode(self, skips: list[Tensor], embedding: Tensor) -> Tensor:
        """The output for what `encode` gave."""
        x, skips = skips[-1], list(skips)
        for layer in self.dec.values():
            x = layer(_join(x, layer, skips), embedding)
        return self.out_conv(F.silu(self.out_norm(x)))


def _join(x: Tensor, layer: nn.Module, skips: list[Tensor]) -> Tensor:
    """Append the encoder's feature map where the layer expects one."""
    return torch.cat([x, skips.pop()], dim=1) if x.shape[1] != layer.in_channels else x

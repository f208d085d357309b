"""The U-Nets of the EDM family: DDPM++ / NCSN++ (`SongUNet`) and ADM as rewritten there
(`DhariwalUNet`).

Parameter names follow the published EDM and InverseBench state dicts, so those weights load. Both
networks map ``(x: (B, C_in, H, W), noise_labels: (B,))`` to ``(B, C_out, H, W)``; the
preconditioning around them lives in :mod:`lmaps_science.priors.networks`.

Attention uses PyTorch's fused kernel, which has first derivatives only; wrap calls in
``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`` where second derivatives or forward-mode
derivatives are needed.

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


def _uniform(shape: Sequence[int], limit: float) -> nn.Parameter:
    return nn.Parameter((2 * torch.rand(*shape) - 1) * limit)


def _limit(mode: str, fan_in: int, fan_out: int) -> float:
    """Half-width of the uniform initialisation."""
    return math.sqrt(6 / (fan_in + fan_out) if mode == "xavier" else 3 / fan_in)


class Linear(nn.Linear):
    """Linear layer with the initialisation of EDM."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        mode: str,
        gain: float = 1.0,
        bias_gain: float = 0.0,
    ) -> None:
        super().__init__(in_features, out_features)
        limit = _limit(mode, in_features, out_features)
        self.weight = _uniform(self.weight.shape, gain * limit)
        self.bias = _uniform(self.bias.shape, bias_gain * limit)


class Conv(nn.Module):
    """Convolution with optional up- or down-sampling by two; ``kernel=0`` resamples only.

    The resampling filter is applied before the convolution, except with ``resample_last``, where
    the convolution and the filter act as one operator (EDM's fused down-sampling).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        up: bool = False,
        down: bool = False,
        resample_filter: Sequence[float] = (1, 1),
        resample_last: bool = False,
        mode: str = "xavier",
        gain: float = 1.0,
        bias_gain: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.up, self.down, self.resample_last = up, down, resample_last
        self.pad = kernel // 2
        self.box_filter = tuple(resample_filter) == (1, 1)
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if kernel:
            limit = _limit(mode, in_channels * kernel**2, out_channels * kernel**2)
            self.weight = _uniform((out_channels, in_channels, kernel, kernel), gain * limit)
            self.bias = _uniform((out_channels,), bias_gain * limit)
        if up or down:
            taps = torch.as_tensor(resample_filter, dtype=torch.float32)
            self.register_buffer(
                "resample_filter", torch.outer(taps, taps)[None, None] / taps.sum() ** 2
            )

    def _resample(self, x: Tensor, pad: int | None = None) -> Tensor:
        """Halve or double the size of ``x`` by the separable filter."""
        if self.box_filter:  # the same numbers as below, without a depthwise convolution
            return (
                F.avg_pool2d(x, 2)
                if self.down
                else F.interpolate(x, scale_factor=2, mode="nearest")
            )
        taps = self.get_buffer("resample_filter").to(x.dtype)
        pad = (taps.shape[-1] - 1) // 2 if pad is None else pad
        channels = x.shape[1]
        taps = taps.expand(channels, -1, -1, -1)
        if self.down:
            return F.conv2d(x, taps, stride=2, padding=pad, groups=channels)
        return F.conv_transpose2d(x, 4 * taps, stride=2, padding=pad, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.resample_last:
            margin = (self.get_buffer("resample_filter").shape[-1] - 1) // 2
            return self._resample(
                F.conv2d(x, self.weight, self.bias, padding=self.pad + margin), pad=0
            )
        if self.up or self.down:
            x = self._resample(x)
        return x if self.weight is None else F.conv2d(x, self.weight, self.bias, padding=self.pad)


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """Group normalisation with at most 32 groups of at least 4 channels."""
    return nn.GroupNorm(max(1, min(32, channels // 4)), channels, eps=eps)


class Block(nn.Module):
    """Residual block conditioned on the noise level, with optional resampling and attention."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        *,
        up: bool = False,
        down: bool = False,
        heads: int = 0,
        dropout: float = 0.0,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        resample_filter: Sequence[float] = (1, 1),
        resample_projection: bool = False,
        scale_shift: bool = True,
        init: dict[str, Any],
        init_zero: dict[str, Any],
        init_attention: dict[str, Any],
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.heads, self.dropout, self.skip_scale = heads, dropout, skip_scale
        self.scale_shift = scale_shift
        resample = {"up": up, "down": down, "resample_filter": resample_filter}
        self.norm0 = group_norm(in_channels, eps)
        self.conv0 = Conv(in_channels, out_channels, 3, **resample, **init)
        self.affine = Linear(embedding_channels, out_channels * (2 if scale_shift else 1), **init)
        self.norm1 = group_norm(out_channels, eps)
        self.conv1 = Conv(out_channels, out_channels, 3, **init_zero)
        self.skip: Conv | None = None
        if out_channels != in_channels or up or down:
            kernel = 1 if resample_projection or out_channels != in_channels else 0
            self.skip = Conv(in_channels, out_channels, kernel, **resample, **init)
        if heads:
            self.norm2 = group_norm(out_channels, eps)
            self.qkv = Conv(out_channels, 3 * out_channels, 1, **init_attention)
            self.proj = Conv(out_channels, out_channels, 1, **init_zero)

    def _attention(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        # The published layout interleaves q, k and v within each channel of each head.
        qkv = self.qkv(self.norm2(x)).reshape(
            batch, self.heads, channels // self.heads, 3, height * width
        )
        q, k, v = (part.transpose(-1, -2) for part in qkv.unbind(3))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return self.proj(attended.reshape(batch, channels, height, width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        condition = self.affine(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm1(h), scale + 1)
        else:
            h = self.norm1(h + condition)
        h = self.conv1(F.dropout(F.silu(h), p=self.dropout, training=self.training))
        h = ((x if self.skip is None else self.skip(x)) + h) * self.skip_scale
        if self.heads:
            h = (h + self._attention(h)) * self.skip_scale
        return h


def positional_embedding(labels: Tensor, channels: int, endpoint: bool = False) -> Tensor:
    """Cosines, then sines, of ``labels`` (B,) at geometric frequencies 1 ... 1e-4."""
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=labels.device)
    frequencies = (1 / 10000) ** (steps / (half - endpoint))
    phase = torch.outer(labels, frequencies.to(labels.dtype))
    return torch.cat([phase.cos(), phase.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """Random Fourier features of the noise label (NCSN++)."""

    def __init__(self, channels: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(channels // 2) * scale)

    def forward(self, labels: Tensor) -> Tensor:
        phase = torch.outer(labels, 2 * math.pi * self.get_buffer("freqs").to(labels.dtype))
        return torch.cat([phase.cos(), phase.sin()], dim=1)


def _levels(resolution: int, channel_mult: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    for level, mult in enumerate(channel_mult):
        yield level, resolution >> level, mult


class SongUNet(nn.Module):
    """DDPM++ (defaults) or NCSN++ (``embedding="fourier"``, ``encoder="residual"``,
    ``resample_filter=(1, 3, 3, 1)``, ``channel_mult_noise=2``).

    Args:
        in_channels, out_channels: channels of the input and output images.
        resolution: pixels along one side at the finest level; names the blocks.
        model_channels: channels at the finest level; ``channel_mult`` multiplies them per level.
        num_blocks: residual blocks per level.
        attn_resolutions: resolutions with self-attention (one head).
        dropout: dropout probability in training.
        channel_mult_emb, channel_mult_noise: widths of the embeddings, times ``model_channels``.
        embedding: ``"positional"`` or ``"fourier"``.
        encoder: ``"standard"``, ``"skip"`` or ``"residual"``; decoder: ``"standard"`` or ``"skip"``.
        resample_filter: taps of the resampling filter, ``(1, 1)`` or ``(1, 3, 3, 1)``.
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
        dropout: float = 0.10,
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
        init_zero = {"mode": "xavier", "gain": 1e-5}
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

        resample = {"resample_filter": resample_filter}
        enc: dict[str, nn.Module] = {}
        skips: list[int] = []
        width, aux_width = model_channels, in_channels
        for level, res, mult in _levels(resolution, channel_mult):
            if level == 0:
                enc[f"{res}x{res}_conv"] = Conv(in_channels, width, 3, **init)
            else:
                enc[f"{res}x{res}_down"] = block(width, width, down=True)
                if encoder == "skip":
                    enc[f"{res}x{res}_aux_down"] = Conv(
                        aux_width, aux_width, 0, down=True, **resample
                    )
                    enc[f"{res}x{res}_aux_skip"] = Conv(aux_width, width, 1, **init)
                if encoder == "residual":
                    enc[f"{res}x{res}_aux_residual"] = Conv(
                        aux_width, width, 3, down=True, resample_last=True, **resample, **init
                    )
                    aux_width = width
            skips.append(width)
            for index in range(num_blocks):
                heads = int(res in attn_resolutions)
                enc[f"{res}x{res}_block{index}"] = block(width, model_channels * mult, heads=heads)
                width = model_channels * mult
                skips.append(width)

        dec: dict[str, nn.Module] = {}
        for level, res, mult in reversed(list(_levels(resolution, channel_mult))):
            if level == len(channel_mult) - 1:
                dec[f"{res}x{res}_in0"] = block(width, width, heads=1)
                dec[f"{res}x{res}_in1"] = block(width, width)
            else:
                dec[f"{res}x{res}_up"] = block(width, width, up=True)
            for index in range(num_blocks + 1):
                heads = int(index == num_blocks and res in attn_resolutions)
                dec[f"{res}x{res}_block{index}"] = block(
                    width + skips.pop(), model_channels * mult, heads=heads
                )
                width = model_channels * mult
            if decoder == "skip" or level == 0:
                if decoder == "skip" and level < len(channel_mult) - 1:
                    dec[f"{res}x{res}_aux_up"] = Conv(
                        out_channels, out_channels, 0, up=True, **resample
                    )
                dec[f"{res}x{res}_aux_norm"] = group_norm(width, 1e-6)
                dec[f"{res}x{res}_aux_conv"] = Conv(width, out_channels, 3, **init_zero)
        self.enc, self.dec = nn.ModuleDict(enc), nn.ModuleDict(dec)

    def _embed(self, noise_labels: Tensor) -> Tensor:
        if self.embedding == "fourier":
            features = self.map_noise(noise_labels)
        else:
            features = positional_embedding(noise_labels, self.noise_channels, endpoint=True)
        cosines, sines = features.chunk(2, dim=1)
        features = torch.cat([sines, cosines], dim=1).to(self.map_layer0.weight.dtype)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(features))))

    def forward(self, x: Tensor, noise_labels: Tensor) -> Tensor:
        """``x`` (B, C_in, H, W), ``noise_labels`` (B,) -> (B, C_out, H, W)."""
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
        model_channels: channels at the finest level; ``channel_mult`` multiplies them per level.
        num_blocks: residual blocks per level.
        attn_resolutions: resolutions with self-attention. As in EDM, a level with fewer than 64
            channels has no complete head and therefore no attention; a warning says so.
        dropout: dropout probability in training.
        channel_mult_emb: width of the embedding, times ``model_channels``.
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
        dropout: float = 0.10,
        channel_mult_emb: int = 4,
    ) -> None:
        super().__init__()
        emb_channels = model_channels * channel_mult_emb
        self.model_channels = model_channels
        third = math.sqrt(1 / 3)
        init: dict[str, Any] = {"mode": "kaiming", "gain": third, "bias_gain": third}
        init_zero = {"mode": "kaiming", "gain": 0.0}
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
        """``x`` (B, C_in, H, W), ``noise_labels`` (B,) -> (B, C_out, H, W)."""
        features = positional_embedding(noise_labels, self.model_channels)
        features = features.to(self.map_layer0.weight.dtype)
        embedding = F.silu(self.map_layer1(F.silu(self.map_layer0(features))))
        skips: list[Tensor] = []
        for layer in self.enc.values():
            x = layer(x, embedding) if isinstance(layer, Block) else layer(x)
            skips.append(x)
        for layer in self.dec.values():
            x = layer(_join(x, layer, skips), embedding)
        return self.out_conv(F.silu(self.out_norm(x)))


def _join(x: Tensor, layer: nn.Module, skips: list[Tensor]) -> Tensor:
    """Append the encoder's feature map where the layer expects one."""
    return torch.cat([x, skips.pop()], dim=1) if x.shape[1] != layer.in_channels else x

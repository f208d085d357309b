"""Building blocks of the U-Nets of the EDM family; names follow the published state dicts.

Source: Karras et al. 2022, arXiv:2206.00364, appendix F.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    """Convolution with optional up- or down-sampling by two; `kernel=0` resamples only.

    The resampling filter is applied before the convolution, except with `resample_last`, where
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
        """Halve or double the size of `x` by the separable filter."""
        if self.box_filter:  # the same numbers as below, without a depthwise convolution
            if self.down:
                return F.avg_pool2d(x, 2)
            return F.interpolate(x, scale_factor=2, mode="nearest")
        taps = self.get_buffer("resample_filter").to(x.dtype)
        pad = (taps.shape[-1] - 1) // 2 if pad is None else pad
        channels = x.shape[1]
        taps = taps.expand(channels, -1, -1, -1)
        if self.down:
            return F.conv2d(x, taps, stride=2, padding=pad, groups=channels)
        return F.conv_transpose2d(x, 4 * taps, stride=2, padding=pad, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return self._resample(x)
        if self.resample_last:
            margin = (self.get_buffer("resample_filter").shape[-1] - 1) // 2
            x = F.conv2d(x, self.weight, self.bias, padding=self.pad + margin)
            return self._resample(x, pad=0)
        x = self._resample(x) if self.up or self.down else x
        return F.conv2d(x, self.weight, self.bias, padding=self.pad)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(channels)) v for `(B, heads, pixels, channels)`.

    The fused kernel has neither forward-mode nor second derivatives, which some solvers need
    (products with the denoiser's Jacobian), and gains nothing on small maps; it takes over where
    the explicit attention matrix would become large.
    """
    if q.shape[-2] > 1024:
        return F.scaled_dot_product_attention(q, k, v)
    return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1) @ v


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
        resample: dict[str, Any] = {"up": up, "down": down, "resample_filter": resample_filter}
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
        attended = attend(q, k, v).transpose(-1, -2)
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
    """Cosines, then sines, of `labels` (B,) at geometric frequencies 1 ... 1e-4."""
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

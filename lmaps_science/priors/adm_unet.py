"""The ADM U-Net of guided diffusion, with its published parameter names.

Maps `(x: (B, C_in, H, W), time steps: (B,))` to `(B, C_out, H, W)`; the preconditioning around
it lives in `lmaps_science.priors.networks`.

Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 3 and appendix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmaps_science.priors.layers import attend, positional_embedding


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


def _zeroed(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ADMBlock(nn.Module):
    """Residual block conditioned on the time step; `resample` is "up", "down" or None."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        dropout: float,
        scale_shift: bool,
        resample: str | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.in_layers = nn.Sequential(
            _norm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(embedding_channels, out_channels * (2 if scale_shift else 1))
        )
        self.out_layers = nn.Sequential(
            _norm(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            _zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, activation, conv = self.in_layers
        h = conv(self._resampled(activation(norm(x))))
        condition = self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + condition)
        return self.skip_connection(self._resampled(x)) + h


class ADMAttention(nn.Module):
    """Self-attention over the pixels of a feature map."""

    def __init__(self, channels: int, heads: int, new_order: bool) -> None:
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x).flatten(2))
        # Published weights stack (head, qkv, channel), or (qkv, head, channel) in the new order.
        layout = (3, self.heads) if self.new_order else (self.heads, 3)
        qkv = qkv.reshape(batch, *layout, channels // self.heads, height * width)
        q, k, v = (part.transpose(-1, -2) for part in qkv.unbind(1 if self.new_order else 2))
        attended = attend(q, k, v).transpose(-1, -2).reshape(batch, channels, height * width)
        return x + self.proj_out(attended).reshape(x.shape)


class _Down(nn.Module):
    """Strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.op(x)


class _Up(nn.Module):
    """Nearest-neighbour up-sampling, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class _Stage(nn.Sequential):
    """Layers applied in turn, each with the embedding where it takes one."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, embedding)
        return x


class ADMUNet(nn.Module):
    """The U-Net of guided diffusion, without class conditioning.

    Args:
        in_channels, out_channels: channels of input and output; published networks often have
            twice the image channels at the output (a learned variance).
        resolution: pixels along one side at the finest level; `attn_resolutions` refer to it.
        model_channels: base number of channels, divisible by 32; `channel_mult` multiplies it
            per level.
        num_blocks: residual blocks per level.
        attn_resolutions: resolutions with self-attention (besides the middle, which always has it).
        dropout: dropout probability in training.
        num_heads, channels_per_head: exactly one of them; the weights do not tell.
        scale_shift: condition by scale and shift instead of addition.
        resblock_updown: resample inside residual blocks instead of by convolutions.
        new_attention_order: layout of the attention weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        resolution: int,
        *,
        model_channels: int = 128,
        channel_mult: Sequence[float] = (1, 1, 2, 3, 4),
        num_blocks: int = 1,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.0,
        num_heads: int | None = None,
        channels_per_head: int | None = None,
        scale_shift: bool = True,
        resblock_updown: bool = True,
        new_attention_order: bool = False,
    ) -> None:
        super().__init__()
        if (num_heads is None) == (channels_per_head is None):
            raise ValueError(
                "ADMUNet needs exactly one of num_heads and channels_per_head, as in the training "
                "configuration; weights of any number of heads have the same shapes, so it cannot "
                "be inferred. For example {'channels_per_head': 64}."
            )
        self.model_channels = model_channels
        emb = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb), nn.SiLU(), nn.Linear(emb, emb)
        )

        def block(cin: int, cout: int, resample: str | None = None) -> ADMBlock:
            return ADMBlock(cin, cout, emb, dropout, scale_shift, resample)

        def attention(channels: int) -> ADMAttention:
            heads = num_heads or channels // (channels_per_head or channels)
            if heads == 0 or channels % heads:
                raise ValueError(
                    f"ADMUNet: {channels} channels do not divide into heads "
                    f"(num_heads={num_heads}, channels_per_head={channels_per_head})."
                )
            return ADMAttention(channels, heads, new_attention_order)

        widths = [int(mult * model_channels) for mult in channel_mult]
        width = widths[0]
        inputs = [_Stage(nn.Conv2d(in_channels, width, 3, padding=1))]
        skips = [width]
        for level, channels in enumerate(widths):
            attends = resolution >> level in attn_resolutions
            for _ in range(num_blocks):
                stage = [block(width, channels), *([attention(channels)] if attends else [])]
                inputs.append(_Stage(*stage))
                width = channels
                skips.append(width)
            if level < len(widths) - 1:
                inputs.append(
                    _Stage(block(width, width, "down") if resblock_updown else _Down(width))
                )
                skips.append(width)
        self.input_blocks = nn.ModuleList(inputs)
        self.middle_block = _Stage(block(width, width), attention(width), block(width, width))

        outputs = []
        for level, channels in reversed(list(enumerate(widths))):
            attends = resolution >> level in attn_resolutions
            for index in range(num_blocks + 1):
                layers: list[nn.Module] = [block(width + skips.pop(), channels)]
                width = channels
                if attends:
                    layers.append(attention(width))
                if level > 0 and index == num_blocks:
                    layers.append(block(width, width, "up") if resblock_updown else _Up(width))
                outputs.append(_Stage(*layers))
        self.output_blocks = nn.ModuleList(outputs)
        final = _zeroed(nn.Conv2d(width, out_channels, 3, padding=1))
        self.out = nn.Sequential(_norm(width), nn.SiLU(), final)

    def forward(self, x: Tensor, noise_labels: Tensor) -> Tensor:
        """`x` (B, C_in, H, W), time steps (B,) -> (B, C_out, H, W)."""
        return self.decode(*self.encode(x, noise_labels))

    def encode(self, x: Tensor, noise_labels: Tensor) -> tuple[list[Tensor], Tensor]:
        """The feature maps of the encoder, the last of which is its end, and the embedding."""
        features = positional_embedding(noise_labels, self.model_channels)
        embedding = self.time_embed(features.to(x.dtype))
        skips = []
        for stage in self.input_blocks:
            x = stage(x, embedding)
            skips.append(x)
        return skips, embedding

    def decode(self, skips: list[Tensor], embedding: Tensor) -> Tensor:
        """The output for what `encode` gave."""
        skips = list(skips)
        x = self.middle_block(skips[-1], embedding)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), embedding)
        return self.out(x)

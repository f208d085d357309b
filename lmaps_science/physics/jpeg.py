"""JPEG compression as a map of pictures in [0, 1], and a differentiable stand-in for it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import fft
from torch import Tensor

from lmaps_science.operators import Operator

__all__ = ["JPEG", "SmoothJPEG", "quantization_tables"]

Subsampling = Literal["4:2:0", "4:4:4"]

# ITU-T T.81, annex K.1, tables K.1 and K.2, which codecs take unless told otherwise.
_LUMINANCE = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101
72 92 95 98 112 100 103 99
"""
_CHROMINANCE = """
17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99
"""
# JFIF 1.02: Y, Cb - 128 and Cr - 128 from R, G, B.
_TO_YCC = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ]
)


def quantization_tables(quality: int) -> NDArray[np.float64]:
    """The divisors of luminance and chrominance, (2, 8, 8), of a quality from 1 to 100.

    The standard tables times 50 / quality below 50, and times 2 - quality / 50 from there on, as
    the Independent JPEG Group has it; whole numbers from 1 to 255.

    Raises:
        ValueError: quality out of range.
    """
    if not (1 <= quality <= 100 and quality == int(quality)):
        raise ValueError(f"JPEG: quality {quality}, expected a whole number from 1 to 100, e.g. 5.")
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = np.array([_LUMINANCE.split(), _CHROMINANCE.split()], dtype=int).reshape(2, 8, 8)
    return np.clip((tables * scale + 50) // 100, 1, 255).astype(float)


class _Codec(Operator):
    """Compress and decompress, with a way of rounding that the two classes differ in."""

    def __init__(
        self,
        image_shape: tuple[int, ...],
        quality: int = 5,
        subsampling: Subsampling = "4:2:0",
        *,
        dtype: torch.dtype = torch.float32,
    ):
        if image_shape[0] not in (1, 3):
            raise ValueError(
                f"JPEG: images of {image_shape[0]} channels, expected 3 (RGB) or 1 (grey)."
            )
        if subsampling not in ("4:2:0", "4:4:4"):
            raise ValueError(f"JPEG: subsampling {subsampling!r}, expected '4:2:0' or '4:4:4'.")
        self.quality, self.subsampling = quality, subsampling
        self.image_shape = self.data_shape = tuple(image_shape)
        self.tables = torch.as_tensor(quantization_tables(quality), dtype=dtype)
        self.transform = torch.as_tensor(
            8**0.5 * fft.dct(np.eye(8), axis=0, norm="ortho"), dtype=dtype
        )
        self.to_ycc = torch.as_tensor(_TO_YCC, dtype=dtype)
        self.to_rgb = torch.as_tensor(np.linalg.inv(_TO_YCC), dtype=dtype)

    straight_through = False

    def _round(self, x: Tensor) -> Tensor:
        """The nearest whole number, halves upwards."""
        return self._through(x, (x + 0.5 + 1e-4).floor())

    def _whole(self, x: Tensor) -> Tensor:
        """The same, halves away from 0."""
        return self._through(x, x.sign() * (x.abs() + (0.5 + 1e-4)).floor())

    def _through(self, x: Tensor, rounded: Tensor) -> Tensor:
        return x + (rounded - x).detach() if self.straight_through else rounded

    def _byte(self, x: Tensor) -> Tensor:
        """Rounded to a whole number from 0 to 255."""
        return self._round(x).clamp(0, 255)

    def _forward(self, x: Tensor) -> Tensor:
        pixels = self._byte(255 * x)
        if len(x[0]) == 1:
            return self._plane(pixels, 0) / 255
        middle = pixels.new_tensor([0.0, 128.0, 128.0])[:, None, None]
        planes = self._byte(torch.einsum("ij,bjhw->bihw", self.to_ycc, pixels) + middle)
        light, colour = planes[:, :1], planes[:, 1:]
        light = self._plane(light, 0)
        colour = self._colour(colour) if self.subsampling == "4:2:0" else self._plane(colour, 1)
        planes = torch.cat([light, colour], 1) - middle
        return self._byte(torch.einsum("ij,bjhw->bihw", self.to_rgb, planes)) / 255

    def _colour(self, planes: Tensor) -> Tensor:
        """Chrominance at half the resolution: means of 2 x 2, back by a triangle filter."""
        height, width = planes.shape[-2:]
        even = F.pad(planes, (0, width % 2, 0, height % 2), mode="replicate")
        small = self._plane(self._byte(self._mean_of_four(even)), 1)
        for axis in (-1, -2):
            small = _doubled(small, axis)
        return self._byte(small)[..., :height, :width]

    def _mean_of_four(self, planes: Tensor) -> Tensor:
        """Means of 2 x 2; halves go down in one column and up in the next, as in libjpeg."""
        mean = F.avg_pool2d(planes, 2)
        bias = torch.where(torch.arange(mean.shape[-1], device=mean.device) % 2 == 0, -0.125, 0.125)
        return mean + bias.to(mean)

    def _plane(self, planes: Tensor, table: int) -> Tensor:
        """Blocks of 8 x 8 through the cosine transform, divided, rounded, and back."""
        height, width = planes.shape[-2:]
        padded = F.pad(planes, (0, -width % 8, 0, -height % 8), mode="replicate") - 128
        rows, columns = (n // 8 for n in padded.shape[-2:])
        blocks = padded.unflatten(-1, (columns, 8)).unflatten(-3, (rows, 8)).transpose(-3, -2)
        # Codecs work with whole numbers: rows to quarters, columns to wholes, of 8 times the cosine
        # transform; and back, columns first.
        eight, divisors = self.transform, 8 * self.tables[table]
        found = self._round(eight @ self._round(4 * blocks @ eight.T) / 4)
        found = self._whole(found / divisors) * divisors / 8
        found = self._round(self._round(4 * eight.T @ found) @ eight / 32)
        whole = found.transpose(-3, -2).flatten(-2).flatten(-3, -2)
        return self._byte(whole + 128)[..., :height, :width]


class JPEG(_Codec):
    r"""A picture in [0, 1], compressed by baseline JPEG and decompressed: not differentiable.

    Rounded to bytes; luminance and chrominance; chrominance at half the resolution ("4:2:0");
    blocks of 8 x 8 through the cosine transform, divided by `quantization_tables` and rounded; and
    back. What Pillow gives differs by more than a grey level in few pixels, since its cosine
    transform works with whole numbers.

    Args:
        image_shape: (3, H, W), or (1, H, W) for grey pictures.
        quality: 1 to 100.
        subsampling: of chrominance.
        dtype: of the operator.

    Source: ITU-T T.81; JFIF 1.02.

    Example:
        operator = Surrogate(JPEG((3, 64, 64), 5), SmoothJPEG((3, 64, 64), 5))
    """

    provides: frozenset[str] = frozenset()


class SmoothJPEG(_Codec):
    """The same with a derivative: rounding counts as the identity (straight-through).

    With the rounding q of coefficients c, dq/dc = 1. Its data are those of `JPEG`. What is clipped
    has no derivative, and coefficients that are rounded to zero have that of the identity: along
    them the gradient points where it leads nowhere, which the data misfit of `JPEG` then does not
    follow.

    Example:
        >>> SmoothJPEG((3, 16, 16), quality=20)(torch.rand(1, 3, 16, 16)).shape
        torch.Size([1, 3, 16, 16])
    """

    straight_through = True


def _doubled(x: Tensor, axis: int) -> Tensor:
    """Twice as many samples along an axis: 3/4 of the nearest and 1/4 of the next one."""
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
    before = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    after = torch.cat([x.narrow(axis, 1, x.shape[axis] - 1), last], axis)
    pair = torch.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], dim=axis % x.ndim + 1)
    return pair.flatten(axis % x.ndim, axis % x.ndim + 1)

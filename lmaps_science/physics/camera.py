"""Nonlinear degradations of pictures whose values lie in [0, 1]: clipping, blur of light, phase."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lmaps_science.operators import Operator
from lmaps_science.physics.blur import Blur

__all__ = ["CameraBlur", "Clipping", "PhaseRetrieval", "Quantization"]

Shape = tuple[int, ...]


class Clipping(Operator):
    r"""High dynamic range: contrast raised about the middle, and shadows and highlights cut off.

    .. math:: y = clip(1/2 + s (x - 1/2), 0, 1)

    which is the papers' `clip(2 x, -1, 1)` on [-1, 1] for s = 2. What is cut off has no gradient.

    Args:
        image_shape: (C, H, W).
        scale: s, 1 or more, finite.

    Example:
        >>> Clipping((1, 1, 3))(torch.tensor([[[[0.1, 0.5, 0.9]]]]))
        tensor([[[[0.0000, 0.5000, 1.0000]]]])
    """

    def __init__(self, image_shape: Shape, scale: float = 2.0):
        if not 1 <= scale < math.inf:
            raise ValueError(f"Clipping: scale {scale:g}, expected a number of 1 or more, e.g. 2.")
        self.image_shape = self.data_shape = tuple(image_shape)
        self.scale = float(scale)

    def _forward(self, x: Tensor) -> Tensor:
        return (0.5 + self.scale * (x - 0.5)).clamp(0, 1)


class CameraBlur(Operator):
    r"""Shake of a camera: light is blurred, and pictures are not proportional to light.

    .. math:: y = g(k * g^{-1}(x))

    with the sRGB transfer function g: 12.92 l up to l = 0.0031308, else 1.055 l^(1/2.4) - 0.055,
    both continued as they are outside of [0, 1], and mirrored borders. Bright spots smear further
    than in a linear blur. It takes the place of the network that published comparisons use for
    nonlinear deblurring, `encoded_blur`, where its weights are not at hand.

    Source: IEC 61966-2-1 (sRGB).

    Args:
        kernel: (h, w), odd.
        image_shape: (C, H, W).
        dtype: of the operator.

    Example:
        >>> kernel = np.full((3, 3), 1 / 9)
        >>> CameraBlur(kernel, (3, 16, 16))(torch.rand(1, 3, 16, 16)).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(
        self,
        kernel: NDArray[np.floating],
        image_shape: Shape,
        *,
        dtype: torch.dtype = torch.float32,
    ):
        self.blur = Blur(kernel, image_shape, dtype=dtype)
        self.image_shape = self.data_shape = tuple(image_shape)

    def _forward(self, x: Tensor) -> Tensor:
        bright = ((x.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
        light = self.blur._forward(torch.where(x <= 0.04045, x / 12.92, bright))
        encoded = 1.055 * light.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
        return torch.where(light <= 0.0031308, 12.92 * light, encoded)


class PhaseRetrieval(Operator):
    r"""Fourier magnitudes of the picture in an empty frame, each channel by itself.

    .. math:: y = |F(\mathrm{padded}(x))|

    with an orthonormal transform. The picture turned by 180 degrees has the same magnitudes, each
    channel by itself, and shifts within the frame are nearly as good: data leave that open.

    Args:
        image_shape: (C, H, W).
        oversampling: share of the image's side that the empty frame adds on all sides together;
            the papers have 2.0 / 8 of the side on each, which is 0.5 in all.

    Example:
        >>> PhaseRetrieval((1, 16, 16))(torch.rand(2, 1, 16, 16)).shape
        torch.Size([2, 1, 24, 24])
    """

    def __init__(self, image_shape: Shape, oversampling: float = 0.5):
        if not 0 <= oversampling < math.inf:
            raise ValueError(
                f"PhaseRetrieval: oversampling {oversampling:g}, expected a number of 0 or more, "
                "e.g. 0.5."
            )
        channels, height, width = image_shape
        self.frame = tuple(round(oversampling * n / 2) for n in (height, width))
        self.image_shape = (channels, height, width)
        self.data_shape = (channels, height + 2 * self.frame[0], width + 2 * self.frame[1])

    def _forward(self, x: Tensor) -> Tensor:
        down, right = self.frame
        wide = F.pad(x, (right, right, down, down))
        return torch.fft.fft2(wide, norm="ortho").abs()


class Quantization(Operator):
    r"""Values rounded to the nearest of 2^bits levels in [0, 1]: not differentiable.

    .. math:: y = round((L - 1) clip(x, 0, 1)) / (L - 1), \qquad L = 2^{bits}

    Source: "Local MAP Sampling for Diffusion Models", eq. 32.

    Args:
        image_shape: (C, H, W).
        bits: 1 to 16.

    Example:
        >>> Quantization((1, 1, 3), bits=1)(torch.tensor([[[[0.1, 0.4, 0.9]]]]))
        tensor([[[[0., 0., 1.]]]])
    """

    provides: frozenset[str] = frozenset()

    def __init__(self, image_shape: Shape, bits: int = 2):
        if not 1 <= bits <= 16:
            raise ValueError(f"Quantization: {bits} bits, expected 1 to 16, e.g. 2.")
        self.image_shape = self.data_shape = tuple(image_shape)
        self.bits = bits

    def _forward(self, x: Tensor) -> Tensor:
        most = 2**self.bits - 1
        return (most * x.clamp(0, 1)).round() / most


def turned(images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Images (..., H, W) turned by 180 degrees."""
    return np.flip(np.asarray(images), (-2, -1))

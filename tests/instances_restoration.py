"""Operators of restoration for the property tests, in float64: see registries.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from lmaps_science.operators import Operator
from lmaps_science.physics.blur import (
    Blur,
    CircularBlur,
    gaussian_kernel,
    motion_kernel,
    separable_blur,
    uniform_kernel,
)
from lmaps_science.physics.camera import CameraBlur, Clipping, PhaseRetrieval, Quantization
from lmaps_science.physics.encoded_blur import BlurNetwork, EncodedBlur
from lmaps_science.physics.jpeg import JPEG, SmoothJPEG
from lmaps_science.physics.restoration import Inpainting, Separable, pixel_mask, reducing

F64 = torch.float64


def lopsided() -> np.ndarray:
    """A kernel without any symmetry."""
    return np.random.default_rng(3).random((3, 5)) / 7


def inpainting() -> Operator:
    return Inpainting(pixel_mask("random", (6, 5), 0.4), (3, 6, 5)).to(dtype=F64)


def reduced_bicubic() -> Operator:
    return Separable(reducing(8, 4, "bicubic"), reducing(12, 4, "bicubic"), 3, dtype=F64)


def reduced_average() -> Operator:
    return Separable(reducing(6, 2, "average"), reducing(4, 2, "average"), 1, dtype=F64)


def gaussian_blur() -> Operator:
    return separable_blur(gaussian_kernel(5, 1.2), (3, 8, 7), dtype=F64)


def truncated_blur() -> Operator:
    return separable_blur(uniform_kernel(3), (1, 7, 8), smallest=0.2, dtype=F64)


def circular_blur() -> Operator:
    return CircularBlur(lopsided(), (3, 6, 7), dtype=F64)


def truncated_circular_blur() -> Operator:
    return CircularBlur(np.outer(uniform_kernel(3), uniform_kernel(3)), (1, 6, 8), smallest=0.2,
                        dtype=F64)  # fmt: skip


def mirrored_blur() -> Operator:
    return Blur(lopsided(), (3, 6, 7), dtype=F64)


def clipping() -> Operator:
    return Clipping((3, 4, 5))


def camera_blur() -> Operator:
    return CameraBlur(motion_kernel(3), (3, 5, 6), dtype=F64)


def blur_network() -> BlurNetwork:
    """A small one with fresh weights, large enough that the code counts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = BlurNetwork(width=4, front=1, back=1, levels=2).double()
        for weights in network.parameters():
            torch.nn.init.normal_(weights, std=0.2)
    return network


def encoded_blur() -> Operator:
    return EncodedBlur(blur_network(), (3, 16, 32), seed=1)


def phase_retrieval() -> Operator:
    return PhaseRetrieval((3, 6, 4))


RESTORATION: list[Callable[[], Operator]] = [
    camera_blur,
    circular_blur,
    clipping,
    encoded_blur,
    gaussian_blur,
    inpainting,
    mirrored_blur,
    phase_retrieval,
    reduced_average,
    reduced_bicubic,
    truncated_blur,
    truncated_circular_blur,
]


def quantization() -> Operator:
    return Quantization((2, 5, 4))


def jpeg() -> Operator:
    return JPEG((3, 11, 18), 20, dtype=F64)


def smooth_jpeg() -> Operator:
    return SmoothJPEG((3, 11, 18), 20, dtype=F64)


WITHOUT_DERIVATIVE: list[Callable[[], Operator]] = [jpeg, quantization]
STAND_INS: list[Callable[[], Operator]] = [smooth_jpeg]  # whose derivative is not their own

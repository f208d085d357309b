"""Sections of cards: what was done to a photograph, and the operator that does it."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from lmaps_science.cards.sections import Section
from lmaps_science.io import DataError
from lmaps_science.operators import Operator, Scaling
from lmaps_science.physics.blur import (
    Blur,
    CircularBlur,
    gaussian_kernel,
    motion_kernel,
    separable_blur,
    uniform_kernel,
)
from lmaps_science.physics.camera import CameraBlur, Clipping, PhaseRetrieval, Quantization
from lmaps_science.physics.encoded_blur import EncodedBlur, load_blur_network
from lmaps_science.physics.jpeg import JPEG, SmoothJPEG, Subsampling
from lmaps_science.physics.restoration import Inpainting, Mask, Separable, pixel_mask, reducing
from lmaps_science.problems.restoration.pictures import read_picture
from lmaps_science.surrogate import Surrogate

__all__ = ["Degradation"]

Shape = tuple[int, ...]
Border = Literal["mirror", "circular"]
Side = Annotated[int, Field(ge=1, le=4095)]  # pictures have 4096 at most


class _Degradation(Section):
    """What all have in common."""

    enlarges: ClassVar[bool] = False
    needs_truth: ClassVar[str] = ""  # why its data are no picture that could be given

    @abstractmethod
    def operator(self, shape: Shape, dtype: torch.dtype) -> Operator:
        """Pictures of this shape (C, H, W) with values in [0, 1] to data."""

    def whole(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size of the picture of which a degraded one of this size was made."""
        return size


class SuperResolution(_Degradation):
    """A picture reduced by a whole factor, which must divide its sides."""

    kind: Literal["super_resolution"] = Field(description="What was done to the picture.")
    factor: int = Field(default=4, ge=2, le=64, description="By which each side is reduced.")
    method: Literal["bicubic", "average"] = Field(
        default="bicubic", description="How: Keys' kernel against aliasing, or means of blocks."
    )

    def operator(self, shape: Shape, dtype: torch.dtype) -> Operator:
        rows, columns = (reducing(n, self.factor, self.method) for n in shape[1:])
        return Separable(rows, columns, shape[0], dtype=dtype)

    def whole(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[0] * self.factor, size[1] * self.factor


class Lost(_Degradation):
    """Pixels are missing."""

    kind: Literal["inpainting"] = Field(description="What was done to the picture.")
    mask: Mask = Field(
        default="random",
        description="Which pixels are lost: a centred box, 70 % at random, the right half, all but "
        "the centre (expand), or all but one of 4 x 4 (grid).",
    )
    share: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Of the side that the box has (0.5), or of the pixels lost at random (0.7).",
    )
    file: str | None = Field(
        default=None, description="A picture as the mask instead: bright where a pixel is known."
    )
    seed: int = Field(default=0, ge=0, description="Of the random choice.")

    def operator(self, shape: Shape, dtype: torch.dtype) -> Operator:
        key = "mask" if self.file is None else "file"
        try:
            mask = self._known(shape[1], shape[2])
            return Inpainting(mask, shape).to(dtype=dtype)
        except ValueError as error:
            raise DataError(f"degradation.{key}: {error}") from error

    def _known(self, height: int, width: int) -> np.ndarray:
        """Which pixels are, (H, W).

        Raises:
            ValueError: none.
        """
        if self.file is None:
            mask = pixel_mask(self.mask, (height, width), self.share, self.seed)
            if not mask.any():
                raise ValueError(
                    f"it hides every pixel of {height} x {width}: there are no data. Set a "
                    "smaller degradation.share, e.g. 0.5, or restore a larger picture."
                )
            return mask
        picture = read_picture(Path(self.file)).mean(0)
        if not (picture > 0.5).any():
            raise ValueError(
                f"{self.file} hides every pixel: there are no data. A pixel is known where the "
                f"picture is brighter than half of white, and its largest value is "
                f"{100 * picture.max():.2g} % of white: write e.g. 255 for a known pixel, not 1."
            )
        return picture > 0.5


class _Blurred(_Degradation):
    size: Side = Field(description="Pixels along the kernel's side, odd.")
    border: Border = Field(
        default="mirror", description="What lies beyond the picture: itself mirrored, or repeated."
    )
    smallest: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Singular values up to this share of the largest are set to 0.",
    )

    def _along(self, kernel: np.ndarray, shape: Shape, dtype: torch.dtype) -> Operator:
        """Blur by a kernel (n,) along both axes."""
        if self.border == "mirror":
            return separable_blur(kernel, shape, smallest=self.smallest, dtype=dtype)
        return CircularBlur(np.outer(kernel, kernel), shape, smallest=self.smallest, dtype=dtype)


class GaussianBlur(_Blurred):
    """Out of focus: a Gaussian."""

    kind: Literal["gaussian_blur"] = Field(description="What was done to the picture.")
    sigma: float = Field(
        default=3.0, gt=1e-3, le=1e6, description="Its standard deviation [pixel]."
    )

    def operator(self, shape: Shape, dtype: torch.dtype) -> Operator:
        return self._along(gaussian_kernel(self.size, self.sigma), shape, dtype)


class UniformBlur(_Blurred):
    """The mean of a square of pixels."""

    kind: Literal["uniform_blur"] = Field(description="What was done to the picture.")

    def operator(self, shape: Shape, dtype: torch.dtype) -> Operator:
        return self._along(uniform_kernel(self.size), shape, dtype)


class MotionBlur(_Degradation):
    """Shake: a random path. Mirrored borders have no SVD, circular ones do."""

    kind: Literal["motion_blur"] = Field(description="What was done to the picture.")
    size: Side = Field(description="Pixels along the kernel's side, odd.")
    intensity: float = Field(default=0.5, ge=0, le=1, description="How much the path turns.")
    seed: int = Field(default=0, ge=0, description="Of the path.")
    border: Border = Field(
        default="mirror", description="What lies beyond the picture: itself mirrored, or repeated."
    )

    def operator(self, shape: Shape, dtype: torch.dtype) -> Operator:
        kernel = motion_kernel(self.size, self.intensity, self.seed)
        make = Blur if self.border == "mirror" else CircularBlur
        return make(kernel, shape, dtype=dtype)


class Phase(_Degradation):
    """The Fourier transform's magnitudes; phases are lost."""

    needs_truth: ClassVar[str] = "Fourier magnitudes are no picture"
    kind: Literal["phase_retrieval"] = Field(description="What was done to the picture.")
    oversampling: float = Field(
        default=0.5, ge=0, le=16, description="The empty frame, as a share of the picture's side."
    )

    def operator(self, shape: Shape, dtype: torch.dtype) -> Operator:
        return PhaseRetrieval(shape, self.oversampling)


class Dynamics(_Degradation):
    """High dynamic range: contrast raised, shadows and highlights clipped."""

    kind: Literal["clipping"] = Field(description="What was done to the picture.")
    scale: float = Field(default=2.0, ge=1, le=1000, description="By which the contrast is raised.")

    def operator(self, shape: Shape, dtype: torch.dtype) -> Operator:
        return Clipping(shape, self.scale)


class Camera(_Degradation):
    """Shake of a camera, whose values are not proportional to light: see `physics.camera`."""

    kind: Literal["camera_blur"] = Field(description="What was done to the picture.")
    size: Side = Field(description="Pixels along the kernel's side, odd.")
    intensity: float = Field(default=0.5, ge=0, le=1, description="How much the path turns.")
    seed: int = Field(default=0, ge=0, description="Of the path.")

    def operator(self, shape: Shape, dtype: torch.dtype) -> Operator:
        return CameraBlur(motion_kernel(self.size, self.intensity, self.seed), shape, dtype=dtype)


class EncodedCamera(_Degradation):
    """The trained network of published comparisons: see `physics.encoded_blur`."""

    kind: Literal["encoded_blur"] = Field(description="What was done to the picture.")
    weights: str = Field(
        description="Path of the network's weights, GOPRO_wVAE.pth: see `lmaps data gopro_blur`."
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Of the blur's code.")

    def operator(self, shape: Shape, dtype: torch.dtype) -> Operator:
        try:
            network = load_blur_network(self.weights, dtype)
        except DataError as error:
            raise DataError(f"degradation.weights: {error}") from error
        return EncodedBlur(network, shape, self.seed)


class Compression(_Degradation):
    """JPEG; `surrogate` is what stands in for its derivative."""

    kind: Literal["jpeg"] = Field(description="What was done to the picture.")
    quality: int = Field(default=5, ge=1, le=100, description="From 1 to 100.")
    subsampling: Subsampling = Field(default="4:2:0", description="Of chrominance.")
    surrogate: Literal["identity", "straight_through"] = Field(
        default="straight_through",
        description="Whose derivative is taken: the identity's, or that of JPEG in which rounding "
        "counts as the identity.",
    )

    def operator(self, shape: Shape, dtype: torch.dtype) -> Operator:
        codec = JPEG(shape, self.quality, self.subsampling, dtype=dtype)
        if self.surrogate == "identity":
            return Surrogate(codec, Scaling(1.0, shape))
        return Surrogate(codec, SmoothJPEG(shape, self.quality, self.subsampling, dtype=dtype))


class Levels(_Degradation):
    """Rounded to a few levels; the identity stands in for the derivative."""

    kind: Literal["quantization"] = Field(description="What was done to the picture.")
    bits: int = Field(default=2, ge=1, le=16, description="There are 2^bits levels.")

    def operator(self, shape: Shape, dtype: torch.dtype) -> Operator:
        return Surrogate(Quantization(shape, self.bits), Scaling(1.0, shape))


Degradation = Annotated[
    SuperResolution
    | Lost
    | GaussianBlur
    | UniformBlur
    | MotionBlur
    | Phase
    | Dynamics
    | Camera
    | EncodedCamera
    | Compression
    | Levels,
    Field(discriminator="kind"),
]

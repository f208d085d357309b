"""Sinograms: measured ones from files, or those of a known object."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import xarray as xr
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from lmaps_science.cards.sections import FileSection, Section, numbered, read_array_file
from lmaps_science.io import DataError

from .phantoms import EllipseImages, shepp_logan

__all__ = [
    "ImageSection",
    "MeasuredSinogram",
    "SimulatedSinogram",
    "known",
    "measured",
    "simulated",
]


class MeasuredSinogram(FileSection):
    """A sinogram in a `.npy` file, (angles, bins): line integrals, -log of the transmission.

    The angles divide half a turn, the bins the `detector` (cm), whose middle is the axis of
    rotation. `photons` is the count of a bin without an object: it tells the noise.
    """

    kind: Literal["sinogram"]
    photons: PositiveFloat = 1e5
    detector: PositiveFloat = 29.0


class SimulatedSinogram(Section):
    """A known object: `shepp_logan`, `phantom:K`, item K of `EllipseImages(seed=phantom_seed)`, or
    an `.npy` file (npix, npix) of attenuations in 1/cm. Photons are counted (Poisson).
    """

    kind: Literal["simulation"]
    image: str = "shepp_logan"
    phantom_seed: int = Field(default=1, ge=0)
    angles: PositiveInt = 60
    bins: int = Field(default=95, ge=2)
    photons: PositiveFloat = 1e5
    detector: PositiveFloat = 29.0
    seed: int = Field(default=0, ge=0)


class ImageSection(Section):
    """The grid of the reconstruction, `side` in cm: attenuations in [0, max_attenuation], 1/cm."""

    npix: PositiveInt = 64
    side: PositiveFloat = 20.0
    max_attenuation: PositiveFloat = 0.6


def measured(section: MeasuredSinogram, data: str | Path | None) -> xr.Dataset:
    """The sinogram in `data`, else in the section's file, else in that of its manifest.

    Raises:
        DataError: no file, or no sinogram in it.
    """
    path = section.path(data, "a sinogram", "sinogram.npy")
    sinogram = read_array_file(str(path))
    if sinogram.ndim != 2 or min(sinogram.shape) < 2 or not np.isrealobj(sinogram):
        raise DataError(
            f"{path} has shape {sinogram.shape}, {sinogram.dtype}; expected real line integrals "
            "(angles, bins), e.g. -np.log(counts / counts_without_object)."
        )
    if not np.isfinite(sinogram).all():
        raise DataError(
            f"{path}: {(~np.isfinite(sinogram)).sum()} values are not finite, as the logarithm of "
            "no photon is: fill them in before, e.g. from the neighbouring bins."
        )
    return _observation(sinogram, section, path.name)


def simulated(
    section: SimulatedSinogram, image: np.ndarray, project: Callable[[xr.Dataset, Tensor], Tensor]
) -> xr.Dataset:
    """The sinogram of an attenuation (H, W), with the noise of counted photons.

    `project` maps an observation and images in double precision to line integrals.
    """
    observation = _observation(np.zeros((section.angles, section.bins)), section, section.image)
    x = torch.as_tensor(image, dtype=torch.float64)[None, None]
    expected = section.photons * np.exp(-project(observation, x)[0].numpy())
    counts = np.random.default_rng([0xC7, section.seed]).poisson(expected).clip(1)
    return _observation(np.log(section.photons / counts), section, f"simulated: {section.image}")


def known(section: SimulatedSinogram, grid: ImageSection, data: str | Path | None) -> np.ndarray:
    """The attenuation (H, W) of the object in `data`, else of the section's.

    Raises:
        DataError: no such image, or one that does not fit the grid.
    """
    name = str(data or section.image)
    if name == "shepp_logan":
        return grid.max_attenuation * shepp_logan(grid.npix)[0]
    if name.startswith("phantom:"):
        images = EllipseImages(grid.npix, section.phantom_seed)
        return grid.max_attenuation * numbered(name, "phantom", lambda k: images[k][0])
    image = read_array_file(name)
    if image.shape != (grid.npix, grid.npix) or not np.isrealobj(image):
        raise DataError(
            f"{name} has shape {image.shape}, {image.dtype}; expected real attenuations of shape "
            f"({grid.npix}, {grid.npix}). Set image.npix to its size, or resample it."
        )
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= grid.max_attenuation):
        raise DataError(
            f"{name}: attenuations go from {image.min():.3g} to {image.max():.3g}, expected 0 to "
            f"image.max_attenuation = {grid.max_attenuation:g} (1/cm)."
        )
    return image.astype(np.float32)


def _observation(
    sinogram: np.ndarray, section: MeasuredSinogram | SimulatedSinogram, name: str
) -> xr.Dataset:
    """A sinogram with its coordinates, and the standard deviation of its noise."""
    angles, bins = sinogram.shape
    width = section.detector / bins
    positions = (np.arange(bins) - (bins - 1) / 2) * width
    # n photons of N give log(N / n), whose standard deviation is 1 / sqrt(n).
    sigma = np.exp(sinogram / 2) / np.sqrt(section.photons)
    return xr.Dataset(
        {"sinogram": (("angle", "bin"), sinogram), "sigma": (("angle", "bin"), sigma)},
        coords={
            "angle": ("angle", np.arange(angles) * (180 / angles), {"units": "degrees"}),
            "bin": ("bin", positions, {"units": "cm"}),
        },
        attrs={"file": name, "photons": section.photons},
    )

"""Observations of compact radio sources: measured ones from files, or those of a known image."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import xarray as xr
from pydantic import Field, PositiveFloat

from lmaps_science.cards.sections import FileSection, Section, numbered
from lmaps_science.io import DataError, make_image, read_image, read_uvfits, simulate_observation
from lmaps_science.io.images import MICROARCSECOND
from lmaps_science.problems.black_hole.checks import check_flux
from lmaps_science.problems.black_hole.phantoms import BlackHoleImages

__all__ = [
    "SKY",
    "ImageSection",
    "MeasuredSection",
    "SimulatedSection",
    "measured",
    "observe",
    "phantom",
    "true_image",
]

# The sky of an image that comes without one: M87* on 5 April 2017.
SKY = {
    "source": "M87",
    "ra_hours": 12.513729,
    "dec_degrees": 12.391123,
    "frequency_hz": 227.0707e9,
    "mjd": 57848,
}


# ---------------------------------------------------------------- sections of cards


class MeasuredSection(FileSection):
    """Visibilities from a uvfits file; the options are those of `io.read_uvfits`."""

    kind: Literal["uvfits"]
    average_seconds: PositiveFloat | Literal["scan"] | None = "scan"
    systematic: float = 0.02
    snr_cut: float = 3.0
    fraction: float = 1.0
    flux: PositiveFloat | None = None
    flux_baseline: str | None = None
    zero_baselines: Literal["rescale", "keep", "drop"] = "rescale"


class SimulatedSection(Section):
    """An image seen by an array, or on the baselines of measured data; the truth is known.

    `image` is a file (FITS, or ehtim's text format) or `phantom:K`, item K of
    `BlackHoleImages(seed=phantom_seed)`: a seed on which the prior was not trained. `flux` scales
    the image; null leaves it as it is. The rest are options of `io.simulate_observation`, with the
    sky of M87* where the image has none.
    """

    kind: Literal["simulation"]
    image: str = "phantom:0"
    phantom_seed: int = 1
    flux: PositiveFloat | None = 0.6
    array: str = "EHT2017"
    coverage: MeasuredSection | None = None
    source: str | None = None
    ra_hours: float | None = None
    dec_degrees: float | None = None
    frequency_hz: PositiveFloat | None = None
    mjd: int | None = None
    scan_interval_seconds: PositiveFloat = 600.0
    integration_seconds: PositiveFloat = 300.0
    thermal_noise: bool = True
    gain_std: float = 0.0
    random_phases: bool = True
    systematic: float = Field(default=0.0, ge=0, lt=1)
    snr_cut: float = 0.0
    seed: int = 0


class ImageSection(Section):
    """The grid of the reconstruction: pixels along each side, and the width they span."""

    npix: int = Field(default=64, ge=8, le=1024)
    fov_uas: float = Field(default=160.0, ge=1.0, le=1e6)


# ---------------------------------------------------------------- data


def measured(section: MeasuredSection, data: str | Path | None = None) -> xr.Dataset:
    """The observation in `data`, else in the section's file, else in the one of its manifest.

    Raises:
        DataError: it cannot be read, or its flux contradicts its amplitudes, see `check_flux`.
    """
    options = section.model_dump(exclude={"kind", "file", "manifest"})
    observation = read_uvfits(section.path(data, "a uvfits file", "my.uvfits"), **options)
    if section.flux is not None:
        check_flux(observation, section.flux)
    return observation


def true_image(
    section: SimulatedSection, grid: ImageSection, data: str | Path | None = None
) -> xr.DataArray:
    """The image to observe, on the grid of the reconstruction, scaled to the card's flux."""
    name = str(data or section.image)
    if name.startswith("phantom:"):
        image = phantom(name, section.phantom_seed, grid.npix, grid.fov_uas)
    else:
        image = read_image(name, grid.npix, grid.fov_uas, max_lost_flux=0.05)
    total = float(image.sum())
    if not total > 0:
        raise DataError(f"{name} has a total flux of {total:g}: there is nothing to observe.")
    image.attrs = {**SKY, **image.attrs}
    return image if section.flux is None else image.copy(data=image.values * section.flux / total)


def phantom(name: str, seed: int, npix: int, fov_uas: float) -> xr.DataArray:
    """`phantom:K`, item K of `BlackHoleImages(npix, fov_uas, seed)`, as an image of 1 Jy."""
    values = numbered(name, "phantom", lambda k: BlackHoleImages(npix, fov_uas, seed)[k][0])
    image = values.astype(float) / values.sum(dtype=float)
    return make_image(image, fov_uas / npix * MICROARCSECOND, **SKY)


def observe(section: SimulatedSection, image: xr.DataArray) -> xr.Dataset:
    """The simulated observation of an image."""
    coverage = None
    if section.coverage is not None:
        # Only its baselines and noise count: nothing may depend on what was measured there.
        plain = {"systematic": 0.0, "snr_cut": 0.0, "flux": None, "zero_baselines": "keep"}
        coverage = measured(section.coverage.model_copy(update=plain))
    own = {"kind", "image", "phantom_seed", "flux", "coverage"}
    return simulate_observation(image, coverage=coverage, **section.model_dump(exclude=own))

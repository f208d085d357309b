"""Observations of compact radio sources: measured ones from files, or those of a known image."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from pydantic import Field, PositiveFloat

from lmaps_science.cards.sections import FileSection, Section, numbered
from lmaps_science.io import (
    DataError,
    make_image,
    read_image,
    read_uvfits,
    regrid_image,
    simulate_observation,
)
from lmaps_science.io.images import MICROARCSECOND
from lmaps_science.io.lmdb_images import LMDBImages, is_lmdb
from lmaps_science.problems.black_hole.checks import check_flux
from lmaps_science.problems.black_hole.compact_sources import CompactSources
from lmaps_science.problems.black_hole.phantoms import BlackHoleImages

__all__ = [
    "PHANTOMS",
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

PHANTOMS: dict[str, type[BlackHoleImages | CompactSources]] = {
    "phantom": BlackHoleImages,
    "compact": CompactSources,
}


# ---------------------------------------------------------------- sections of cards


class MeasuredSection(FileSection):
    """Visibilities from a uvfits file; the options are those of `io.read_uvfits`."""

    kind: Literal["uvfits"] = Field(
        description="Where the data are from: a uvfits file, or a simulation."
    )
    average_seconds: PositiveFloat | Literal["scan"] | None = Field(
        default="scan",
        description="Coherent average of each baseline: over scans, over bins of so long [s], or "
        "none.",
    )
    systematic: float = Field(
        default=0.02,
        description="This fraction of each visibility's amplitude is added to its error in "
        "quadrature; in [0, 1).",
    )
    snr_cut: float = Field(
        default=3.0,
        description="Lowest signal-to-noise ratio of a closure quantity that is used; 0 keeps all.",
    )
    fraction: float = Field(
        default=1.0, description="Part of the times that is used, from the first on; in (0, 1]."
    )
    flux: PositiveFloat | None = Field(
        default=None,
        description="Total flux density of the compact source [Jy], known from elsewhere; null: "
        "unknown, or that of flux_baseline.",
    )
    flux_baseline: str | None = Field(
        default=None,
        description="The baseline that measures the total flux, such as AA-AP, or shortest; where "
        "flux is null.",
    )
    zero_baselines: Literal["rescale", "keep", "drop"] = Field(
        default="rescale",
        description="Baselines below 0.1 Glambda, which also see emission outside the image: scale "
        "to the flux, keep, or drop.",
    )


class SimulatedSection(Section):
    """An image seen by an array, or on the baselines of measured data; the truth is known.

    `image` is a file (FITS, or ehtim's text format); `phantom:K`, item K of
    `BlackHoleImages(seed=phantom_seed)`: a seed on which the prior was not trained; `compact:K`,
    item K of `CompactSources(seed=phantom_seed)`, more than half of which have no ring; or a folder
    with an LMDB database of square images in float64, as the InverseBench benchmark's, of which
    `item` is taken, and which fill the field of view. `flux` scales
    the image; null leaves it as it is. The rest are options of `io.simulate_observation`, with the
    sky of M87* where the image has none.
    """

    kind: Literal["simulation"] = Field(
        description="Where the data are from: a uvfits file, or a simulation."
    )
    image: str = Field(
        default="phantom:0",
        description="What is observed: a file (FITS, or ehtim's text format); phantom:K, the "
        "random image number K; compact:K, one of sources of wider kinds; or a folder with "
        "InverseBench's LMDB; --data goes before it.",
    )
    item: int = Field(
        default=0, ge=0, description="Which image of an LMDB database: the number that is its key."
    )
    phantom_seed: int = Field(
        default=1,
        description="Which set of phantoms; 1 and above are images on which the prior was not "
        "trained.",
    )
    flux: PositiveFloat | None = Field(
        default=0.6,
        description="The image is scaled to this total flux [Jy]; null leaves it as it is.",
    )
    array: str = Field(
        default="EHT2017",
        description="Telescopes: an array by name, or a file of stations; without coverage.",
    )
    coverage: MeasuredSection | None = Field(
        default=None,
        description="Measured data whose baselines, times and noise to take instead of the "
        "array's: a section of kind uvfits.",
    )
    source: str | None = Field(default=None, description="Name of the source; null: the image's.")
    ra_hours: float | None = Field(
        default=None, description="Right ascension [h]; null: the image's."
    )
    dec_degrees: float | None = Field(
        default=None, description="Declination [degree]; null: the image's."
    )
    frequency_hz: PositiveFloat | None = Field(
        default=None, description="Observing frequency [Hz]; null: the image's."
    )
    mjd: int | None = Field(
        default=None, description="Modified Julian day of the observation; null: the image's."
    )
    scan_interval_seconds: PositiveFloat = Field(
        default=600.0, description="Time from the start of one scan to that of the next [s]."
    )
    integration_seconds: PositiveFloat = Field(
        default=300.0,
        description="Length of a scan [s], which is averaged; it sets the thermal noise.",
    )
    thermal_noise: bool = Field(
        default=True,
        description="Whether the visibilities have thermal noise; their errors state it in any "
        "case.",
    )
    gain_std: float = Field(
        default=0.0,
        description="Standard deviation of the logarithm of the stations' gain amplitudes, e.g. "
        "0.1.",
    )
    random_phases: bool = Field(
        default=True, description="Whether the atmosphere scrambles the stations' phases."
    )
    systematic: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="This fraction of each visibility's amplitude is added to its stated error in "
        "quadrature.",
    )
    snr_cut: float = Field(
        default=0.0,
        description="Lowest signal-to-noise ratio of a closure quantity that is used; 0 keeps all.",
    )
    seed: int = Field(default=0, description="Of the random numbers of noise, gains and phases.")


class ImageSection(Section):
    """The grid of the reconstruction: pixels along each side, and the width they span."""

    npix: int = Field(
        default=64,
        ge=8,
        le=1024,
        description="Pixels along each side; a network prior has its own number.",
    )
    fov_uas: float = Field(
        default=160.0,
        ge=1.0,
        le=1e6,
        description="Field of view along each side [microarcsecond].",
    )


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
    """The image to observe, on the grid of the reconstruction, scaled to the card's flux.

    Raises:
        DataError: no such image, or one without flux.
    """
    name = str(data or section.image)
    if name.partition(":")[0] in PHANTOMS:
        image = phantom(name, section.phantom_seed, grid.npix, grid.fov_uas)
    elif is_lmdb(name):
        values = LMDBImages(name, np.float64)[section.item]
        image = make_image(values, grid.fov_uas / len(values) * MICROARCSECOND, **SKY)
        image = regrid_image(image, grid.npix, grid.fov_uas)
    else:
        image = read_image(name, grid.npix, grid.fov_uas, max_lost_flux=0.05)
    total = float(image.sum())
    if not total > 0:
        raise DataError(f"{name} has a total flux of {total:g}: there is nothing to observe.")
    image.attrs = {**SKY, **image.attrs}
    return image if section.flux is None else image.copy(data=image.values * section.flux / total)


def phantom(name: str, seed: int, npix: int, fov_uas: float) -> xr.DataArray:
    """Item K of the set that a name such as `phantom:K` names, as an image of 1 Jy."""
    kind = name.partition(":")[0]
    images = PHANTOMS[kind](npix, fov_uas, seed)
    values = numbered(name, kind, lambda k: images[k][0])
    image = values.astype(float) / values.sum(dtype=float)
    return make_image(image, fov_uas / npix * MICROARCSECOND, **SKY)


def observe(section: SimulatedSection, image: xr.DataArray) -> xr.Dataset:
    """The simulated observation of an image."""
    coverage = None
    if section.coverage is not None:
        # Only its baselines and noise count: nothing may depend on what was measured there.
        plain = {"systematic": 0.0, "snr_cut": 0.0, "flux": None, "zero_baselines": "keep"}
        coverage = measured(section.coverage.model_copy(update=plain))
    own = {"kind", "image", "item", "phantom_seed", "flux", "coverage"}
    return simulate_observation(image, coverage=coverage, **section.model_dump(exclude=own))

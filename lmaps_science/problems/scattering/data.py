"""Scattered fields: measured ones from files, or those of a known object."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import xarray as xr
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from lmaps_science.cards.sections import (
    FileSection,
    Pixels,
    Section,
    numbered,
    read_array_file,
)
from lmaps_science.io import DataError
from lmaps_science.io.fresnel import calibrate_fresnel, read_fresnel
from lmaps_science.io.lmdb_images import LMDBImages, is_lmdb
from lmaps_science.physics.scattering import ScatteringGeometry
from lmaps_science.problems.scattering.phantoms import NucleiImages

__all__ = [
    "DiscSection",
    "ImageSection",
    "MeasuredFields",
    "Physics",
    "SimulatedFields",
    "covered",
    "geometries",
    "measured",
    "simulated",
]

SPEED_OF_LIGHT = 299_792_458.0  # m/s
Physics = Literal["benchmark", "born", "full_wave"]
Targets = Mapping[str, Sequence["DiscSection"]]


# ---------------------------------------------------------------- sections of cards


class MeasuredFields(FileSection):
    """A file of the Institut Fresnel (see `io.read_fresnel`).

    `frequencies_ghz` are those used, null: all. `within` is the angle of `io.calibrate_fresnel`.
    `relative_noise` is the standard deviation of a datum in units of the root mean square of the
    scattered field at its frequency: what calibration and model leave unexplained, far above the
    receivers' noise. Neighbouring receivers are wrong together, so it should be larger than what
    one alone is off by.
    """

    kind: Literal["fresnel"] = Field(
        description="Where the data are from: a file of the Institut Fresnel, or a simulation."
    )
    frequencies_ghz: tuple[PositiveFloat, ...] | None = Field(
        default=None, description="The frequencies used [GHz]; null: all."
    )
    within: PositiveFloat = Field(
        default=1.0,
        description="Receivers within this angle of the point opposite the transmitter calibrate "
        "its field [degree].",
    )
    relative_noise: PositiveFloat = Field(
        default=0.3,
        description="Standard deviation of a datum, in units of the scattered field's root mean "
        "square at its frequency.",
    )


class SimulatedFields(Section):
    """A known object between transmitters and receivers.

    `image` is `phantom:K`, item K of `NucleiImages(seed=phantom_seed)`, scaled so that 1 becomes
    `contrast`; `target:NAME`, the discs of that name among the card's `targets`; an `.npy` file
    (npix, npix) of the contrast; or a folder with an LMDB database of such images in float32, as
    the InverseBench benchmark's, of which `item` is taken. Transmitters and receivers stand on a
    circle of `radius` metres at `linspace(0, 359, n)` degrees. Lost are the shares
    `missing_transmitters` and `missing_receivers`, at random, and all that stand farther than half
    of `aperture` degrees from 0. `frequencies_ghz` null means six pixels per wavelength, as in the
    InverseBench benchmark.

    `physics` makes the data; null: that of the reconstruction. The complex noise of a datum has the
    standard deviation sqrt(noise^2 + (relative_noise rms)^2), with the root mean square of the
    scattered field at its frequency.
    """

    kind: Literal["simulation"] = Field(
        description="Where the data are from: a file of the Institut Fresnel, or a simulation."
    )
    image: str = Field(
        default="phantom:0",
        description="What scatters: phantom:K, random nuclei number K; target:NAME, discs of the "
        "card's targets; an .npy file (npix, npix) of the contrast; or a folder with "
        "InverseBench's LMDB; --data goes before it.",
    )
    item: int = Field(
        default=0, ge=0, description="Which image of an LMDB database: the number that is its key."
    )
    phantom_seed: int = Field(
        default=1,
        ge=0,
        description="Which set of phantoms; 1 and above are images on which the prior was not "
        "trained.",
    )
    contrast: PositiveFloat = Field(
        default=1.0, description="Contrast (relative permittivity - 1) of a phantom where it is 1."
    )
    transmitters: PositiveInt = Field(
        default=20, description="How many, at equal angles from 0 to 359 degrees."
    )
    receivers: PositiveInt = Field(
        default=360, description="How many, at equal angles from 0 to 359 degrees."
    )
    radius: PositiveFloat = Field(
        default=1.6, description="Of the circle of transmitters and receivers [m]."
    )
    missing_transmitters: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the transmitters that is lost, at random."
    )
    missing_receivers: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the receivers that is lost, at random."
    )
    aperture: float = Field(
        default=360.0,
        gt=0,
        le=360,
        description="Transmitters and receivers farther than half of this angle from 0 are lost "
        "[degree].",
    )
    frequencies_ghz: tuple[PositiveFloat, ...] | None = Field(
        default=None,
        description="Frequencies [GHz]; null: one, of six pixels per wavelength, as in the "
        "InverseBench benchmark.",
    )
    physics: Physics | None = Field(
        default=None, description="What makes the data; null: the physics of the reconstruction."
    )
    noise: float = Field(
        default=1e-4,
        ge=0,
        description="Standard deviation of a datum's complex noise, in units of the field.",
    )
    relative_noise: float = Field(
        default=0.0,
        ge=0,
        description="The same in units of the scattered field's root mean square at its frequency; "
        "both add in quadrature.",
    )
    seed: int = Field(default=0, ge=0, description="Of the random numbers of noise and losses.")


class ImageSection(Section):
    """The grid of the reconstruction: `side` in metres; pixels hold contrasts in [0, max_contrast].

    Model space [-1, 1] is that range; a network prior was trained on images so scaled.
    """

    npix: Pixels = Field(default=128, description="Pixels along each side.")
    side: PositiveFloat = Field(default=0.18, description="Length of each side [m].")
    max_contrast: PositiveFloat = Field(
        default=1.0,
        description="Largest contrast (relative permittivity - 1) of an image; a network prior was "
        "trained on images so scaled.",
    )


class DiscSection(Section):
    """A cylinder of the object, as published."""

    name: str = Field(description="Of the cylinder.")
    centre_mm: tuple[float, float] = Field(description="Its centre, x and y [mm].")
    diameter_mm: PositiveFloat = Field(description="Its diameter [mm].")
    permittivity: PositiveFloat = Field(description="Its relative permittivity.")


# ---------------------------------------------------------------- data


def measured(section: MeasuredFields, data: str | Path | None) -> xr.Dataset:
    """The calibrated fields in `data`, else in the section's file, else in that of its manifest.

    The attribute `target` is the file's name without its suffix.

    Raises:
        DataError: no such file, none of the frequencies in it, or nothing scattered.
    """
    path = section.path(data, "a file of measured fields", "FoamDielExtTM.exp")
    fields = read_fresnel(path)
    if fields.attrs["polarization"] == "TE":
        raise DataError(
            f"{path.name}: its header says polarisation TE (H along the cylinders), and the wave "
            "equation here is that of TM (E along the cylinders): the image would be wrong. Give "
            "the target's TM file, e.g. FoamDielExtTM.exp for FoamDielExtTE.exp."
        )
    if fields.attrs["polarization"] == "unknown":
        warnings.warn(
            f"{path.name}: its header names no polarisation, and TM (E along the cylinders) is "
            "taken for granted: of a TE file the image would be wrong. To say which it is, put a "
            "line '# Polarization : TM' at its top.",
            stacklevel=4,
        )
    observation = calibrate_fresnel(fields, within=section.within)
    known = observation["frequency"].values / 1e9
    wanted = np.sort(known if section.frequencies_ghz is None else section.frequencies_ghz)
    missing = [f for f in wanted if not np.isclose(known, f).any()]
    if missing or len(wanted) == 0:
        raise DataError(
            f"{path.name} has no data at {', '.join(f'{f:g}' for f in missing) or 'no frequency'} "
            f"GHz: set observation.frequencies_ghz to some of {', '.join(f'{f:g}' for f in known)}."
        )
    observation = observation.isel(frequency=[int(np.argmin(abs(known - f))) for f in wanted])
    power = (np.abs(observation["scattered_field"].values) ** 2).sum((1, 2))
    rms = np.sqrt(power / observation["measured"].values.sum())
    if not (rms > 0).all():
        raise DataError(f"{path.name}: nothing is scattered: total and incident field are equal.")
    observation["sigma"] = ("frequency", section.relative_noise * rms)
    observation.attrs["target"] = path.stem
    return observation


def geometries(observation: xr.Dataset, grid: ImageSection) -> list[ScatteringGeometry]:
    """One for each of its frequencies, lowest first."""
    return [
        ScatteringGeometry.from_observation(observation, float(f), grid.npix, grid.side)
        for f in observation["frequency"].values
    ]


def simulated(
    section: SimulatedFields,
    grid: ImageSection,
    targets: Targets,
    data: str | Path | None,
    scatter: Callable[[list[ScatteringGeometry], Tensor], Tensor],
) -> tuple[xr.Dataset, np.ndarray]:
    """The fields of a known object, with noise, and its contrast (H, W).

    `scatter` maps geometries, one for each frequency, and the contrast (1, 1, H, W) in double
    precision to the fields, complex.

    Raises:
        DataError: no such object, or one of more contrast than images can have.
    """
    name = str(data or section.image)
    target = name.removeprefix("target:") if name.startswith("target:") else ""
    observation = empty_observation(section, grid)
    found = geometries(observation, grid)
    image = drawn(found[0], targets, target) if target else known_image(section, grid, name)
    if not 0 <= image.min() <= image.max() <= 1.001 * grid.max_contrast:
        raise DataError(
            f"{name}: its contrast is from {image.min():.3g} to {image.max():.3g}, expected 0 "
            f"to image.max_contrast = {grid.max_contrast:g}: raise that, or lower the contrast."
        )
    fields = scatter(found, torch.as_tensor(image, dtype=torch.float64)[None, None]).numpy()
    observation = with_noise(observation, section, fields)
    observation.attrs |= {"file": f"simulated from {name}", "target": target}
    return observation, image.astype(np.float32)


def with_noise(observation: xr.Dataset, section: SimulatedFields, fields: np.ndarray) -> xr.Dataset:
    """The observation of fields, and the noise's standard deviation at every frequency."""
    seen = observation["measured"].values
    y = fields.reshape(-1, *seen.shape)
    rms = np.sqrt((np.abs(y) ** 2).sum((1, 2)) / seen.sum())
    sigma = np.hypot(section.noise, section.relative_noise * rms)
    rng = np.random.default_rng([0x5CA7, section.seed])
    parts = rng.normal(size=(2, *y.shape)) * (sigma / math.sqrt(2))[:, None, None]
    dims = ("frequency", "transmitter", "receiver")
    return observation.assign(
        scattered_field=(dims, (y + parts[0] + 1j * parts[1]) * seen),
        # Noise-free data still need a scale on which the misfit counts.
        sigma=("frequency", np.maximum(sigma, 1e-6 * rms + 1e-30)),
    )


def empty_observation(section: SimulatedFields, grid: ImageSection) -> xr.Dataset:
    """Where a simulation measures: coordinates and mask, without fields."""
    if section.frequencies_ghz is None:
        frequencies = np.array([SPEED_OF_LIGHT / (6 * grid.side / grid.npix)])
    else:
        frequencies = 1e9 * np.sort(section.frequencies_ghz)
    if len(frequencies) == 0:
        raise DataError("observation.frequencies_ghz is empty: give one at least, e.g. [3.0].")
    counts = {"transmitter": section.transmitters, "receiver": section.receivers}
    lost = (section.missing_transmitters, section.missing_receivers)
    angles, kept = {}, []
    for stream, (side, count) in enumerate(counts.items()):
        angles[side] = np.linspace(0, 359, count)
        rng = np.random.default_rng([0x105E, section.seed, stream])
        apart = np.abs((angles[side] + 180) % 360 - 180)
        kept += [(rng.random(count) >= lost[stream]) & (apart <= section.aperture / 2)]
    mask = kept[0][:, None] & kept[1][None]
    if not mask.any():
        raise DataError(
            "no transmitter or no receiver is left: widen observation.aperture, or lower "
            "observation.missing_transmitters and observation.missing_receivers."
        )
    return xr.Dataset(
        {
            "measured": (("transmitter", "receiver"), mask),
            "sigma": ("frequency", np.ones(len(frequencies))),
        },
        coords={
            "frequency": ("frequency", frequencies, {"units": "Hz"}),
            **{side: (side, values, {"units": "degrees"}) for side, values in angles.items()},
        },
        attrs={"radius": section.radius, "radius_units": "m"},
    )


def known_image(section: SimulatedFields, grid: ImageSection, name: str) -> np.ndarray:
    """Contrast (H, W) of a phantom or a file, see `SimulatedFields`."""
    if name.startswith("phantom:"):
        images = NucleiImages(grid.npix, section.phantom_seed)
        phantom = numbered(name, "phantom", lambda k: images[k][0])
        return section.contrast * phantom.astype(float)
    if is_lmdb(name):
        image = LMDBImages(name)[section.item]
        name = f"{name}, image {section.item}"
    else:
        image = read_array_file(name)
    expected = (grid.npix, grid.npix)
    if image.shape != expected or np.iscomplexobj(image) or not np.isfinite(image).all():
        raise DataError(
            f"{name} has shape {image.shape}, {image.dtype}; expected a real, finite contrast of "
            f"shape {expected}. Set image.npix to its size, or resample it."
        )
    if not np.any(image):
        raise DataError(f"{name} is 0 everywhere: there is nothing that scatters.")
    return image.astype(float)


def drawn(geometry: ScatteringGeometry, targets: Targets, name: str) -> np.ndarray:
    """Contrast (H, W) of the discs called `name`; a later one covers those before it."""
    if name not in targets:
        raise DataError(f"target:{name} is not among this card's targets: {', '.join(targets)}.")
    image = np.zeros((geometry.npix, geometry.npix))
    for disc in targets[name]:
        share = covered(geometry, disc)
        image = image * (1 - share) + share * (disc.permittivity - 1)
    return image


def covered(geometry: ScatteringGeometry, disc: DiscSection) -> np.ndarray:
    """Share of each pixel (H, W) that a disc covers.

    Raises:
        DataError: the disc is not inside of the image.
    """
    x, y = (c / 1e3 for c in disc.centre_mm)
    try:
        return geometry.disc((x, y), disc.diameter_mm / 2e3, 1.0)[0, 0].numpy()
    except ValueError as error:
        raise DataError(f"target {disc.name!r}: {error} (image.side)") from error

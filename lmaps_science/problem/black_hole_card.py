"""Cards of black-hole imaging: their schema, and how one becomes a problem."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import xarray as xr
from pydantic import Field, PositiveFloat, PositiveInt

from lmaps_science.io import (
    DataError,
    make_image,
    read_image,
    read_uvfits,
    simulate_observation,
)
from lmaps_science.io.images import MICROARCSECOND
from lmaps_science.manifests import fetch
from lmaps_science.misfit import ClosureMisfit
from lmaps_science.operators import Affine
from lmaps_science.phantoms import BlackHoleImages
from lmaps_science.physics.interferometry import ClosureQuantities
from lmaps_science.priors import Denoiser, GaussianPrior, StationaryCovariance
from lmaps_science.problem.black_hole import BlackHoleProblem
from lmaps_science.problem.cards import Card, Section
from lmaps_science.problem.networks import NetworkSection, network_prior, prior_facts

__all__ = ["BlackHoleCard", "observe", "phantom", "true_image"]

# The sky of an image that comes without one: M87* on 5 April 2017.
SKY = {
    "source": "M87",
    "ra_hours": 12.513729,
    "dec_degrees": 12.391123,
    "frequency_hz": 227.0707e9,
    "mjd": 57848,
}


# ---------------------------------------------------------------- the schema


class MeasuredSection(Section):
    """Visibilities from a uvfits file, `file` or the one that `manifest` names in data_manifests/.

    The options are those of `io.read_uvfits`.
    """

    kind: Literal["uvfits"]
    file: str | None = None
    manifest: str | None = None
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
    """The grid of the reconstruction."""

    npix: PositiveInt = 64
    fov_uas: PositiveFloat = 160.0


class GaussianSection(Section):
    """A Gaussian prior that needs no training: smooth images, brightest in the middle.

    In physical units (peak about 1): the mean is a Gaussian of height `peak` and full width at half
    maximum `width_uas`; every pixel deviates by `std`, with correlations over `correlation_uas`.
    """

    kind: Literal["gaussian"]
    peak: PositiveFloat = 0.4
    width_uas: PositiveFloat = 60.0
    std: PositiveFloat = 0.15
    correlation_uas: PositiveFloat = 15.0


class MisfitSection(Section):
    """Weights of closure phases, log closure amplitudes and flux, see `misfit.ClosureMisfit`.

    The flux is part of the misfit only with `fit_flux`, which takes a known truth: the prior's
    images have peak 1, so the flux in their unit is known only when the true peak is.
    """

    weights: tuple[float, float, float] = (1.0, 1.0, 0.5)
    fit_flux: bool = False
    flux_sigma: PositiveFloat = 2.0


class BlackHoleCard(Card):
    """Imaging of a compact radio source from its closure quantities."""

    kind: Literal["black_hole"]
    observation: Annotated[MeasuredSection | SimulatedSection, Field(discriminator="kind")]
    image: ImageSection = ImageSection()
    prior: Annotated[NetworkSection | GaussianSection, Field(discriminator="kind")]
    misfit: MisfitSection = MisfitSection()
    metrics: Literal["exact", "inversebench"] = "exact"

    def problem(
        self,
        name: str,
        data: str | Path | None = None,
        prior: Denoiser | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> BlackHoleProblem:
        """Read or simulate the data and put everything together.

        Args:
            name: of the card, for display and provenance.
            data: a uvfits file; for a simulation, the image to observe.
            prior: instead of the card's.
            device, dtype: where and in which precision to compute.
        """
        npix, fov = self.image.npix, self.image.fov_uas * MICROARCSECOND
        prior = self._prior(prior).to(device=device, dtype=dtype)
        truth = None
        if isinstance(self.observation, SimulatedSection):
            truth = true_image(self.observation, self.image, data)
            observation = observe(self.observation, truth)
        else:
            observation = measured(self.observation, data)
        sky = {key: observation.attrs[key] for key in SKY if key in observation.attrs}
        template = make_image(np.zeros((npix, npix)), fov / npix, **sky).rename("image")
        operator = ClosureQuantities.from_observation(
            observation, npix, fov, dtype=dtype, device=device
        )
        misfit = self._misfit(operator, observation, truth)
        affine = Affine(0.5, 1.0, (1, npix, npix))
        return BlackHoleProblem(
            prior=prior,
            misfit=misfit @ affine,
            affine=affine,
            template=template,
            facts={
                "problem": name,
                "card": self.model_dump(mode="json"),
                "observation": dict(observation.attrs),
                "prior": prior_facts(prior),
            },
            name=name,
            card=self,
            observation=observation,
            truth=truth,
            closures=misfit,
            metrics_mode=self.metrics,
        )

    def _prior(self, prior: Denoiser | None) -> Denoiser:
        if prior is None:
            prior = make_prior(self.prior, self.image)
        want, have = (1, self.image.npix, self.image.npix), tuple(prior.image_shape)
        if have != want:
            raise DataError(
                f"the prior is for images of shape {have} (channels, height, width), the card asks "
                f"for {want}: set image.npix={have[-1]}, or give a prior for that size."
            )
        return prior

    def _misfit(
        self, operator: ClosureQuantities, observation: xr.Dataset, truth: xr.DataArray | None
    ) -> ClosureMisfit:
        peak = 1.0
        if not self.misfit.fit_flux:
            observation = observation.drop_vars("flux", errors="ignore")
        elif truth is None:
            raise DataError(
                "misfit.fit_flux needs a simulation: the flux of a measured source is known, but "
                "not its peak, to which the prior's images are normalised. Set it to false."
            )
        else:
            peak = float(truth.max())
        options = self.misfit.model_dump(exclude={"fit_flux"})
        return ClosureMisfit.from_observation(operator, observation, peak, **options)


# ---------------------------------------------------------------- data


def measured(section: MeasuredSection, data: str | Path | None = None) -> xr.Dataset:
    """The observation in `data`, else in the section's file, else in the one of its manifest."""
    path = data or section.file
    if path is None and section.manifest is None:
        raise DataError(
            "this problem has no data of its own: give a uvfits file, e.g. lmaps run ... --data "
            'my.uvfits, or load_problem(..., data="my.uvfits").'
        )
    options = section.model_dump(exclude={"kind", "file", "manifest"})
    return read_uvfits(path or fetch(str(section.manifest)), **options)


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
    try:
        values = BlackHoleImages(npix, fov_uas, seed)[int(name.removeprefix("phantom:"))][0]
    except (ValueError, IndexError) as error:
        raise DataError(f"{name}: {error}. Write phantom:K with K = 0, 1, 2, …") from error
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


# ---------------------------------------------------------------- the prior


def make_prior(section: NetworkSection | GaussianSection, grid: ImageSection) -> Denoiser:
    """The prior of a card.

    Raises:
        DataError: a file that is missing, or is no prior.
    """
    if isinstance(section, GaussianSection):
        return gaussian_prior(section, grid)
    return network_prior(section, "black_hole")


def gaussian_prior(section: GaussianSection, grid: ImageSection) -> GaussianPrior:
    """See :class:`GaussianSection`; in model space, where images are doubled, minus 1."""
    pixel = grid.fov_uas / grid.npix
    axis = ((grid.npix - 1) / 2 - torch.arange(grid.npix, dtype=torch.float64)) * pixel
    distance2 = axis[:, None] ** 2 + axis**2
    mean = section.peak * torch.exp(-4 * math.log(2) * distance2 / section.width_uas**2)
    k = torch.fft.fftfreq(grid.npix, d=pixel, dtype=torch.float64)
    sigma = section.correlation_uas / math.sqrt(8 * math.log(2))
    power = torch.exp(-2 * (math.pi * sigma) ** 2 * (k[:, None] ** 2 + k**2))
    power = (2 * section.std) ** 2 * power / power.mean()
    return GaussianPrior(2 * mean[None] - 1, StationaryCovariance(power[None]))

"""Cards of black-hole imaging: their schema, and how one becomes a problem."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from pydantic import Field, FiniteFloat, PositiveFloat, field_validator

from lmaps_science.cards.schema import Card
from lmaps_science.cards.sections import NetworkSection, Section, fitting, network_prior
from lmaps_science.cards.series import Series
from lmaps_science.io import DataError, make_image
from lmaps_science.io.images import MICROARCSECOND
from lmaps_science.operators import Affine
from lmaps_science.physics.closure_misfit import ClosureMisfit
from lmaps_science.physics.interferometry import ClosureQuantities
from lmaps_science.priors import Denoiser, GaussianPrior, StationaryCovariance
from lmaps_science.problems.black_hole.data import (
    SKY,
    ImageSection,
    MeasuredSection,
    SimulatedSection,
    measured,
    observe,
    true_image,
)
from lmaps_science.problems.black_hole.problem import BlackHoleProblem

__all__ = ["BlackHoleCard"]

# ---------------------------------------------------------------- the schema


class GaussianSection(Section):
    """A Gaussian prior that needs no training: smooth images, brightest in the middle.

    In physical units (peak about 1): the mean is a Gaussian of height `peak` and full width at half
    maximum `width_uas`; every pixel deviates by `std`, with correlations over `correlation_uas`.
    """

    kind: Literal["gaussian"] = Field(
        description="What the prior is: a trained network, or a Gaussian that needs no file."
    )
    peak: PositiveFloat = Field(
        default=0.4, description="Height of the mean image, where images have a peak of about 1."
    )
    width_uas: PositiveFloat = Field(
        default=60.0, description="Full width at half maximum of the mean image [microarcsecond]."
    )
    std: PositiveFloat = Field(
        default=0.15, description="Standard deviation of every pixel, in units of the images' peak."
    )
    correlation_uas: PositiveFloat = Field(
        default=15.0,
        description="Length over which pixels deviate together, full width at half maximum "
        "[microarcsecond].",
    )


class MisfitSection(Section):
    """Weights of closure phases, log closure amplitudes and flux, see `misfit.ClosureMisfit`.

    The flux is part of the misfit only with `fit_flux`, which takes a known truth: the prior's
    images have peak 1, so the flux in their unit is known only when the true peak is.
    """

    weights: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = Field(
        default=(1.0, 1.0, 0.5), description="Of closure phases, log closure amplitudes and flux."
    )
    fit_flux: bool = Field(
        default=False,
        description="Whether the flux is part of the misfit; in simulations alone, since the unit "
        "of the prior's images is the true peak.",
    )
    flux_sigma: PositiveFloat = Field(
        default=2.0, description="Standard deviation of the flux, in units of the image's peak."
    )

    @field_validator("weights")
    @classmethod
    def _weigh_something(cls, weights: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(weights) < 0 or max(weights[:2]) == 0:
            raise ValueError(
                f"the weights of closure phases, log closure amplitudes and flux are {weights}; "
                "none may be negative, and not both of the first two 0, or no data would be "
                "fitted. The default is [1, 1, 0.5]."
            )
        return weights


class BlackHoleCard(Card):
    """Imaging of a compact radio source from its closure quantities."""

    series: ClassVar[Mapping[str, Series]] = {
        "phantom": Series(
            {"observation.image": "phantom:{}", "observation.seed": "{}"},
            simulated=True,
            others=("observation.phantom_seed", "observation.item"),
        ),
        "compact": Series({"observation.image": "compact:{}", "observation.seed": "{}"}),
    }

    kind: Literal["black_hole"]
    observation: Annotated[MeasuredSection | SimulatedSection, Field(discriminator="kind")]
    image: ImageSection = ImageSection()
    prior: Annotated[NetworkSection | GaussianSection, Field(discriminator="kind")]
    misfit: MisfitSection = MisfitSection()
    metrics: Literal["exact", "inversebench"] = Field(
        default="exact",
        description="Definitions of the metrics: free of units, or the InverseBench benchmark's "
        "own.",
    )

    def problem(
        self,
        name: str,
        data: str | Path | None = None,
        prior: Denoiser | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> BlackHoleProblem:
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
        _check_grid(self.image, observation)
        operator = ClosureQuantities.from_observation(
            observation, npix, fov, dtype=dtype, device=device
        )
        misfit = self._misfit(operator, observation, truth)
        affine = Affine(0.5, 1.0, (1, npix, npix))
        return BlackHoleProblem(
            prior=prior,
            misfit=misfit @ affine,
            decode=affine,
            template=template,
            facts=self.facts(name, observation.attrs, prior),
            name=name,
            card=self,
            observation=observation,
            truth=truth,
            closures=misfit,
            metrics_mode=self.metrics,
        )

    def _prior(self, prior: Denoiser | None) -> Denoiser:
        section, grid = self.prior, self.image
        if prior is None:
            if isinstance(section, NetworkSection):
                prior = network_prior(section, self.kind)
            else:
                prior = gaussian_prior(section, grid)
        shape = (1, grid.npix, grid.npix)
        return fitting(prior, shape, "set image.npix={npix}, or give a prior for that size")

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
        weight, n = self.misfit.weights, observation.sizes
        if weight[0] * n["cphase"] + weight[1] * n["logcamp"] == 0:
            raise DataError(
                f"misfit.weights is {list(weight)}, and there are {n['cphase']} closure phases and "
                f"{n['logcamp']} log closure amplitudes: nothing would be fitted. Give those that "
                "are there a positive weight, e.g. misfit.weights=[1,1,0.5]."
            )
        options = self.misfit.model_dump(exclude={"fit_flux"})
        return ClosureMisfit.from_observation(operator, observation, peak, **options)


def _check_grid(grid: ImageSection, observation: xr.Dataset) -> None:
    """Refuse a grid that cannot show what these baselines resolve."""
    longest = float(np.hypot(observation["u"].values, observation["v"].values).max())
    beam = 1 / longest / MICROARCSECOND
    pixel = grid.fov_uas / grid.npix
    if pixel <= beam <= grid.fov_uas:
        return
    raise DataError(
        f"image.fov_uas={grid.fov_uas:g} with image.npix={grid.npix} has pixels of {pixel:.3g} "
        f"uas; the longest baseline resolves {beam:.3g} uas: the pixels must not be wider than "
        f"that, nor the image narrower, e.g. image.fov_uas={6.4 * beam:.3g}, image.npix=64."
    )


# ---------------------------------------------------------------- the prior


def gaussian_prior(section: GaussianSection, grid: ImageSection) -> GaussianPrior:
    """See `GaussianSection`; in model space, where images are doubled, minus 1."""
    pixel = grid.fov_uas / grid.npix
    axis = ((grid.npix - 1) / 2 - torch.arange(grid.npix, dtype=torch.float64)) * pixel
    distance2 = axis[:, None] ** 2 + axis**2
    mean = section.peak * torch.exp(-4 * math.log(2) * distance2 / section.width_uas**2)
    k = torch.fft.fftfreq(grid.npix, d=pixel, dtype=torch.float64)
    sigma = section.correlation_uas / math.sqrt(8 * math.log(2))
    power = torch.exp(-2 * (math.pi * sigma) ** 2 * (k[:, None] ** 2 + k**2))
    power = (2 * section.std) ** 2 * power / power.mean()
    return GaussianPrior(2 * mean[None] - 1, StationaryCovariance(power[None]))

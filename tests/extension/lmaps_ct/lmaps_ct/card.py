"""Cards of computed tomography: their schema, and how one becomes a problem."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import xarray as xr
from pydantic import Field, PositiveFloat, PositiveInt

from lmaps_science.cards.schema import Card
from lmaps_science.cards.sections import NetworkSection, Section, fitting, network_prior
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine
from lmaps_science.priors import (
    Denoiser,
    GaussianPrior,
    StationaryCovariance,
    TotalVariationPrior,
)

from .data import ImageSection, MeasuredSinogram, SimulatedSinogram, known, measured, simulated
from .problem import CTProblem
from .radon import Radon

__all__ = ["CTCard"]


class GaussianSection(Section):
    """A Gaussian prior that needs no training, relative to max_attenuation.

    Every pixel has mean `mean` and standard deviation `std`; `correlation` is the length in cm over
    which pixels go together (full width at half maximum).
    """

    kind: Literal["gaussian"]
    mean: float = 0.15
    std: PositiveFloat = 0.3
    correlation: PositiveFloat = 0.9


class TotalVariationSection(Section):
    """Images of constant regions, see `priors.TotalVariationPrior`; `weight` is in model space."""

    kind: Literal["total_variation"]
    weight: PositiveFloat = 5.0
    iterations: PositiveInt = 50


class CTCard(Card):
    """Reconstruction of an attenuation from its projections."""

    kind: Literal["ct"]
    observation: Annotated[MeasuredSinogram | SimulatedSinogram, Field(discriminator="kind")]
    image: ImageSection = ImageSection()
    prior: Annotated[
        GaussianSection | TotalVariationSection | NetworkSection, Field(discriminator="kind")
    ]

    def problem(
        self,
        name: str,
        data: str | Path | None = None,
        prior: Denoiser | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> CTProblem:
        template, truth = self._template(), None
        if isinstance(self.observation, MeasuredSinogram):
            observation = measured(self.observation, data)
        else:
            image = known(self.observation, self.image, data)
            truth = template.copy(data=image)
            observation = simulated(
                self.observation, image, lambda o, x: self._operator(o).to(dtype=x.dtype)(x)
            )
        operator = self._operator(observation).to(device=device, dtype=dtype)
        y, sigma = (
            torch.as_tensor(observation[part].values)[None].to(operator.like)
            for part in ("sinogram", "sigma")
        )
        physical = GaussianMisfit(operator, y, sigma)
        affine = Affine(self.image.max_attenuation / 2, 1.0, operator.image_shape)
        found = self._prior(prior).to(device=device, dtype=dtype)
        return CTProblem(
            prior=found,
            misfit=physical @ affine,
            decode=affine,
            template=template,
            facts=self.facts(name, observation.attrs, found),
            name=name,
            card=self,
            observation=observation,
            truth=truth,
            physical=physical,
        )

    def _operator(self, observation: xr.Dataset) -> Radon:
        angles, positions = (observation[axis].values for axis in ("angle", "bin"))
        return Radon(self.image.npix, self.image.side, angles, positions)

    def _template(self) -> xr.DataArray:
        npix, side = self.image.npix, self.image.side
        axis = (np.arange(npix) + 0.5) * (side / npix) - side / 2
        return xr.DataArray(
            np.zeros((npix, npix), np.float32),
            dims=("y", "x"),
            coords={name: (name, axis, {"units": "cm"}) for name in "yx"},
            name="image",
            attrs={"units": "1/cm", "long_name": "attenuation"},
        )

    def _prior(self, prior: Denoiser | None) -> Denoiser:
        section, shape = self.prior, (1, self.image.npix, self.image.npix)
        if prior is None:
            if isinstance(section, GaussianSection):
                prior = gaussian_prior(section, self.image)
            elif isinstance(section, TotalVariationSection):
                prior = TotalVariationPrior(shape, section.weight, iterations=section.iterations)
            else:
                prior = network_prior(section, self.kind)
        advice = "set image.npix={npix}, or take prior 'gaussian', which fits any size"
        return fitting(prior, shape, advice)


def gaussian_prior(section: GaussianSection, grid: ImageSection) -> GaussianPrior:
    """See :class:`GaussianSection`; in model space, where images are doubled, minus 1."""
    k = torch.fft.fftfreq(grid.npix, grid.side / grid.npix, dtype=torch.float64)  # 1/cm
    width = section.correlation / math.sqrt(8 * math.log(2))
    power = torch.exp(-2 * (math.pi * width) ** 2 * (k[:, None] ** 2 + k**2))
    power = (2 * section.std) ** 2 * power / power.mean()
    mean = torch.full((1, grid.npix, grid.npix), 2 * section.mean - 1, dtype=torch.float64)
    return GaussianPrior(mean, StationaryCovariance(power[None]))

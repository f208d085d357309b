"""Cards of restoration: their schema, and how one becomes a problem."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from lmaps_science.cards.schema import Card
from lmaps_science.cards.sections import (
    NetworkSection,
    Pixels,
    Section,
    fitting,
    network_prior,
    numbered,
)
from lmaps_science.cards.series import Series
from lmaps_science.io import DataError
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine, Operator
from lmaps_science.priors import Denoiser, GaussianPrior, MirroredCovariance
from lmaps_science.problems.restoration.degradations import Degradation
from lmaps_science.problems.restoration.photographs import NUMBER, held_out_photograph
from lmaps_science.problems.restoration.pictures import read_picture
from lmaps_science.problems.restoration.problem import RestorationProblem, template
from lmaps_science.surrogate import Surrogate

__all__ = ["RestorationCard"]


class PictureSection(Section):
    """The picture: one to degrade, whose truth is known then, or with `degraded` one that is.

    `noise` is the standard deviation of what is added to the data, in units in which black is 0 and
    white is 1: half of the papers' figure, who count from -1 to 1. `sigma` is the noise that the
    reconstruction assumes; null: the same, and 0.002 at least.
    """

    image: str = Field(
        default="photograph:0",
        description="photograph:K, a photograph that the prior was not trained on (from 0), or a "
        "file (PNG, JPEG, TIFF); --data goes before it.",
    )
    degraded: bool = Field(
        default=False,
        description="The file is the degraded picture: nothing is done to it, and the truth is not "
        "known.",
    )
    npix: Pixels = Field(default=128, description="Sides of photograph:K; files keep theirs.")
    noise: float = Field(
        default=0.025,
        ge=0,
        le=100,
        description="Standard deviation of the noise that is added to the data; white is 1.",
    )
    sigma: float | None = Field(
        default=None, ge=1e-6, le=100, description="The noise that is assumed; null: the same."
    )
    seed: int = Field(default=0, ge=0, lt=2**64, description="Of the noise.")


class GaussianSection(Section):
    """A Gaussian prior that needs no training: grey on average, with photographs' power spectrum.

    The power of a frequency k falls as (k^2 + cutoff^2)^(-3/2). Of squares of 64 and 128 pixels of
    photographs it does so from 0.05 to 0.5 cycles per pixel.
    """

    kind: Literal["gaussian"] = Field(
        description="What the prior is: a trained network, or a Gaussian that needs no file."
    )
    std: float = Field(
        default=0.5,
        gt=0,
        le=100,
        description="Standard deviation of a pixel of a large picture; black is -1, white 1.",
    )
    cutoff: float = Field(
        default=0.01,
        gt=0,
        le=100,
        description="Frequency [cycles per pixel] below which the power spectrum is flat.",
    )


class RestorationCard(Card):
    """A photograph from a degraded one."""

    series: ClassVar[Mapping[str, Series]] = {
        "photograph": Series(
            {"picture.image": "photograph:{}", "picture.seed": "{}"},
            count=lambda card, data: NUMBER,
            simulated=True,
        )
    }
    operator: ClassVar[tuple[str, ...]] = ("degradation",)

    kind: Literal["restoration"]
    picture: PictureSection = PictureSection()
    degradation: Degradation
    prior: Annotated[NetworkSection | GaussianSection, Field(discriminator="kind")]
    lpips: bool = Field(
        default=False,
        description="Whether LPIPS (AlexNet) is among the metrics: extra lpips; it downloads its "
        "weights once.",
    )

    def problem(
        self,
        name: str,
        data: str | Path | None = None,
        prior: Denoiser | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> RestorationProblem:
        section = self.picture
        source = str(data or section.image)
        picture = self._picture(source)
        channels, *size = picture.shape
        if section.degraded:
            size = list(self.degradation.whole((size[0], size[1])))
        shape = (channels, *size)
        operator = self._operator(shape, dtype)
        sigma = section.sigma or max(section.noise, 0.002)
        y, truth = torch.as_tensor(picture, dtype=dtype)[None], None
        if not section.degraded:
            truth = template(shape).copy(data=picture)
            y = _observed(operator, y, section)
        found = self._prior(prior, shape).to(device=device, dtype=dtype)
        decode = Affine(0.5, 1.0, shape)
        physical = GaussianMisfit(operator, y, sigma).to(device=device, dtype=dtype)
        facts = self.facts(name, {"file": source}, found)
        return RestorationProblem(
            prior=found,
            misfit=physical @ decode,
            decode=decode.to(device=device, dtype=dtype),
            template=template(shape),
            facts={**facts, "noise_sigma": sigma},
            name=name,
            card=self,
            observation=xr.Dataset(
                {"data": (("channel", "row", "column"), y[0].numpy())},
                coords={"channel": list("RGB")},
                attrs={"file": source, "degradation": self.degradation.kind},
            ),
            truth=truth,
            physical=physical,
            lpips=self.lpips,
        )

    def _picture(self, source: str) -> NDArray[np.float32]:
        section = self.picture
        if source.startswith("photograph:"):
            if section.degraded:
                raise DataError("picture.degraded=true is for a file: give it with --data.")
            return numbered(source, "photograph", lambda k: held_out_photograph(k, section.npix))
        if section.degraded and self.degradation.needs_truth:
            raise DataError(
                f"picture.degraded=true: {self.degradation.needs_truth}. Give the picture itself, "
                "with picture.degraded=false."
            )
        return read_picture(source)

    def _operator(self, shape: tuple[int, ...], dtype: torch.dtype) -> Operator:
        try:
            return self.degradation.operator(shape, dtype)
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"degradation.{self.degradation.kind}, for a picture of {shape[1]} x {shape[2]} "
                f"pixels: {error}"
            ) from error

    def _prior(self, prior: Denoiser | None, shape: tuple[int, ...]) -> Denoiser:
        if prior is None:
            if isinstance(self.prior, NetworkSection):
                prior = network_prior(self.prior, self.kind)
            else:
                prior = gaussian_prior(self.prior, shape)
        prior = fitting(prior, shape, "crop the picture to {npix} x {npix}, or set picture.npix")
        if prior.covariance is None and tuple(prior.image_shape) == shape:
            # What any photograph has: neighbours go together. Solvers may use it.
            prior = copy.copy(prior)
            prior.covariance = gaussian_prior(GaussianSection(kind="gaussian"), shape).covariance
        return prior


def _observed(operator: Operator, image: Tensor, section: PictureSection) -> Tensor:
    """The data of a known picture, noise included where an image changes them."""
    plain = operator.operator if isinstance(operator, Surrogate) else operator
    with torch.no_grad():
        if section.noise == 0:
            return plain(image)
        misfit = GaussianMisfit(plain, plain(image), section.noise)
        return misfit.simulate(image, torch.Generator().manual_seed(section.seed))


def gaussian_prior(section: GaussianSection, shape: tuple[int, ...]) -> GaussianPrior:
    """See `GaussianSection`; in model space, where black is -1 and white 1."""
    ky, kx = (torch.arange(n, dtype=torch.float64) / (2 * n) for n in shape[1:])
    # A density, the same for pictures of all sizes: over the whole plane it makes std^2.
    density = (
        section.cutoff / (2 * torch.pi) * (ky[:, None] ** 2 + kx**2 + section.cutoff**2) ** -1.5
    )
    power = (section.std**2 * density).expand(shape[0], -1, -1)
    return GaussianPrior(torch.zeros(shape, dtype=torch.float64), MirroredCovariance(power))

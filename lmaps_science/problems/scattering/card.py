"""Cards of inverse scattering: their schema, and how one becomes a problem."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from lmaps_science.cards.schema import Card
from lmaps_science.cards.sections import (
    LatentSection,
    NetworkSection,
    Section,
    fitting,
    in_space_of,
    latent_prior,
    network_prior,
)
from lmaps_science.cards.series import Series
from lmaps_science.io import DataError
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine, LinearOperator, Operator
from lmaps_science.physics.born_svd import BornSVD
from lmaps_science.physics.lippmann_schwinger import FullWaveScattering
from lmaps_science.physics.multi_frequency import Clamp, LinearMultiFrequency, MultiFrequency
from lmaps_science.physics.scattering import BornScattering, ScatteringGeometry
from lmaps_science.priors import (
    Denoiser,
    GaussianPrior,
    StationaryCovariance,
    TotalVariationPrior,
)
from lmaps_science.problems.scattering.data import (
    DiscSection,
    ImageSection,
    MeasuredFields,
    Physics,
    SimulatedFields,
    covered,
    geometries,
    measured,
    simulated,
)
from lmaps_science.problems.scattering.discs import Disc
from lmaps_science.problems.scattering.problem import ScatteringProblem, image_template

__all__ = ["ScatteringCard"]


# ---------------------------------------------------------------- the schema


class PhysicsSection(Section):
    """How the object scatters: "benchmark" and "born" are linear, "full_wave" is not.

    "benchmark" is the InverseBench benchmark's formula, with conjugated incident fields; measured
    data want "born" or "full_wave". `svd` computes singular vectors (once; they are kept on disk),
    which DDRM, DDNM and ExactSVD need. `tolerance` is that of full-wave fields.
    """

    kind: Physics = Field(
        default="benchmark",
        description="How the object scatters: the InverseBench benchmark's linear formula, the "
        "Born approximation (linear), or all of it.",
    )
    svd: bool = Field(
        default=False,
        description="Compute singular vectors (once; they are kept on disk), which DDRM, DDNM and "
        "ExactSVD need; linear, of one frequency.",
    )
    tolerance: PositiveFloat = Field(
        default=1e-4, description="Relative error at which the full-wave fields are accepted."
    )


class GaussianSection(Section):
    """A Gaussian prior that needs no training, relative to max_contrast.

    Every pixel has mean `mean` and standard deviation `std`; `correlation` is the length over which
    pixels go together (full width at half maximum), as a share of the image's side.
    """

    kind: Literal["gaussian"] = Field(
        description="What the prior is: a trained network, a Gaussian, or total variation; the "
        "last two need no file."
    )
    mean: float = Field(default=0.1, description="Mean of every pixel, in units of max_contrast.")
    std: PositiveFloat = Field(
        default=0.25, description="Standard deviation of every pixel, in units of max_contrast."
    )
    correlation: PositiveFloat = Field(
        default=0.06,
        description="Length over which pixels deviate together, full width at half maximum, as a "
        "share of the image's side.",
    )


class TotalVariationSection(Section):
    """Images of constant regions, see `priors.TotalVariationPrior`; `weight` is in model space."""

    kind: Literal["total_variation"] = Field(
        description="What the prior is: a trained network, a Gaussian, or total variation; the "
        "last two need no file."
    )
    weight: PositiveFloat = Field(
        default=5.0,
        description="Of the total variation, in model space, where images lie in [-1, 1].",
    )
    iterations: PositiveInt = Field(default=50, description="Of the denoiser's inner minimisation.")


PriorSection = NetworkSection | LatentSection | GaussianSection | TotalVariationSection


class ScatteringCard(Card):
    """Imaging of a permittivity from the fields that it scatters.

    `sigma_factor` is the noise that the reconstruction assumes relative to the one that there is.
    `targets` are objects known to consist of discs, by name: that of the file of measured fields,
    without its suffix. They are drawn and measured, and never used to reconstruct.
    """

    series: ClassVar[Mapping[str, Series]] = {
        "phantom": Series(
            {"observation.image": "phantom:{}", "observation.seed": "{}"},
            simulated=True,
            others=("observation.phantom_seed", "observation.item"),
        )
    }

    kind: Literal["scattering"]
    observation: Annotated[MeasuredFields | SimulatedFields, Field(discriminator="kind")]
    image: ImageSection = ImageSection()
    physics: PhysicsSection = PhysicsSection()
    sigma_factor: PositiveFloat = Field(
        default=1.0,
        description="The noise that the reconstruction assumes, relative to the one that there is.",
    )
    targets: dict[str, tuple[DiscSection, ...]] = Field(
        default={},
        description="Objects known to consist of discs, by name (of the data's file, without "
        "suffix): drawn and measured, never used to reconstruct.",
    )
    prior: Annotated[PriorSection, Field(discriminator="kind")]

    def problem(
        self,
        name: str,
        data: str | Path | None = None,
        prior: Denoiser | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> ScatteringProblem:
        grid, truth = self.image, None
        if isinstance(self.observation, MeasuredFields):
            observation = measured(self.observation, data)
        else:
            observation, truth = simulated(
                self.observation, grid, self.targets, data, self._scatter
            )
        at = geometries(observation, grid)
        targets = self._targets(observation.attrs["target"], at[0])
        shape = (1, grid.npix, grid.npix)
        found = self._prior(prior, shape).to(device=device, dtype=dtype)
        affine = Affine(grid.max_contrast / 2, 1.0, shape)
        fields = observation["scattered_field"].values * observation["measured"].values
        sigma = self.sigma_factor * observation["sigma"].values

        def misfit(operator: Operator) -> GaussianMisfit:
            moved = operator.to(device=device, dtype=dtype)
            stacked = isinstance(operator, MultiFrequency)
            y = torch.as_tensor(fields if stacked else fields[0])[None]
            level = torch.as_tensor(sigma[None, :, None, None] if stacked else sigma[0])
            return GaussianMisfit(moved, y.to(moved.like.to(dtype.to_complex())), level.to(dtype))

        physical = misfit(self._operator(at))
        linear = physical
        if self.physics.kind == "full_wave":
            linear = misfit(stack([BornScattering(g) for g in at]))
            # The stack is outermost, so that solvers find the frequencies.
            model = misfit(self._operator(at, affine))
        else:
            model = physical @ affine  # type: ignore[assignment]
        model, decode = in_space_of(found, model, affine.to(device=device, dtype=dtype))
        template = image_template(grid.npix, grid.side)
        return ScatteringProblem(
            prior=found,
            misfit=model,
            decode=decode,
            template=template,
            facts={
                **self.facts(name, observation.attrs, found),
                "physics": self.physics.kind,
                "noise_sigma": sigma.tolist(),
            },
            name=name,
            card=self,
            observation=observation,
            truth=None if truth is None else template.copy(data=truth),
            physical=physical,
            born_misfit=linear,
            max_contrast=grid.max_contrast,
            targets=targets,
        )

    def _operator(self, at: list[ScatteringGeometry], affine: Affine | None = None) -> Operator:
        """Of the contrast, or with `affine` of model space; full wave is always a stack."""
        if self.physics.kind == "full_wave":
            shape, largest = (1, self.image.npix, self.image.npix), self.image.max_contrast
            limits = Clamp(-0.05 * largest, 1.2 * largest, shape)  # some room for the optimiser
            inner = limits if affine is None else limits @ affine
            tolerance = self.physics.tolerance
            return MultiFrequency([FullWaveScattering(g, tolerance=tolerance) @ inner for g in at])
        conjugate = self.physics.kind == "benchmark"
        operators = [BornScattering(g, conjugate_incident=conjugate) for g in at]
        if not self.physics.svd:
            return stack(operators)
        if len(operators) > 1:
            raise DataError(
                "physics.svd is for one frequency, and there are "
                f"{len(operators)}: set observation.frequencies_ghz to one, or physics.svd=false."
            )
        return BornSVD(operators[0])

    def _scatter(self, at: list[ScatteringGeometry], x: Tensor) -> Tensor:
        """Fields of a known contrast, with the physics that makes this card's data."""
        assert isinstance(self.observation, SimulatedFields)
        kind = self.observation.physics or self.physics.kind
        physics = self.physics.model_copy(update={"kind": kind, "svd": False})
        operator = self.model_copy(update={"physics": physics})._operator(at)
        return operator.to(dtype=x.dtype)(x)

    def _targets(self, name: str, geometry: ScatteringGeometry) -> dict[str, Disc] | None:
        """The published discs (mm), each inside the image.

        Warns (UserWarning) for a file of measured fields whose discs the card does not list.
        """
        if name not in self.targets:
            if isinstance(self.observation, MeasuredFields):
                warnings.warn(
                    f"this card lists no discs for {name!r} (only for "
                    f"{', '.join(self.targets) or 'none'}), so no permittivities and diameters are "
                    "measured, the data misfit alone. If the object consists of discs, list them: "
                    f"--set 'targets.{name}=[{{name: rod, centre_mm: [0, 0], diameter_mm: 30, "
                    "permittivity: 3}]'",
                    stacklevel=4,
                )
            return None
        discs = {}
        for disc in self.targets[name]:
            covered(geometry, disc)
            x, y = disc.centre_mm
            discs[disc.name] = Disc(x, y, disc.diameter_mm / 2, disc.permittivity - 1)
        return discs

    def _prior(self, prior: Denoiser | None, shape: tuple[int, int, int]) -> Denoiser:
        section = self.prior
        if prior is None:
            if isinstance(section, GaussianSection):
                prior = gaussian_prior(section, shape)
            elif isinstance(section, TotalVariationSection):
                limits = (-1.0, 1.0)
                prior = TotalVariationPrior(shape, section.weight, limits, section.iterations)
            elif isinstance(section, LatentSection):
                prior = latent_prior(section, self.kind)
            else:
                prior = network_prior(section, self.kind)
        advice = "set image.npix={npix}, or take prior 'gaussian', which fits any size"
        return fitting(prior, shape, advice)


def stack(operators: list[BornScattering]) -> LinearOperator:
    """One operator as it is, several as one."""
    return operators[0] if len(operators) == 1 else LinearMultiFrequency(operators)


# ---------------------------------------------------------------- the prior


def gaussian_prior(section: GaussianSection, shape: tuple[int, int, int]) -> GaussianPrior:
    """See `GaussianSection`; in model space, where images are doubled, minus 1."""
    k = torch.fft.fftfreq(shape[-1], 1 / shape[-1], dtype=torch.float64)  # cycles per side
    width = section.correlation / math.sqrt(8 * math.log(2))
    power = torch.exp(-2 * (math.pi * width) ** 2 * (k[:, None] ** 2 + k**2))
    power = (2 * section.std) ** 2 * power / power.mean()
    mean = torch.full(shape, 2 * section.mean - 1, dtype=torch.float64)
    return GaussianPrior(mean, StationaryCovariance(power[None]))

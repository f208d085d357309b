"""Cards of inverse scattering: their schema, and how one becomes a problem."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import xarray as xr
from pydantic import Field, PositiveFloat, PositiveInt

from lmaps_science.io import DataError
from lmaps_science.io.files import require_file
from lmaps_science.io.fresnel import calibrate_fresnel, read_fresnel
from lmaps_science.manifests import fetch
from lmaps_science.metrics.discs import Disc
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine, LinearOperator, Operator
from lmaps_science.phantoms import NucleiImages
from lmaps_science.physics.born_svd import BornSVD
from lmaps_science.physics.lippmann_schwinger import FullWaveScattering
from lmaps_science.physics.multi_frequency import Clamp, LinearMultiFrequency, MultiFrequency
from lmaps_science.physics.scattering import BornScattering, ScatteringGeometry
from lmaps_science.priors import Denoiser, GaussianPrior, StationaryCovariance
from lmaps_science.priors.total_variation import TotalVariationPrior
from lmaps_science.problem.cards import Card, Section
from lmaps_science.problem.networks import NetworkSection, network_prior, prior_facts
from lmaps_science.problem.scattering import ScatteringProblem, image_template

__all__ = ["ScatteringCard"]

SPEED_OF_LIGHT = 299_792_458.0  # m/s
Physics = Literal["benchmark", "born", "full_wave"]


# ---------------------------------------------------------------- the schema


class MeasuredFields(Section):
    """A file of the Institut Fresnel, `file` or the one of `manifest` (see `io.read_fresnel`).

    `frequencies_ghz` are those used, null: all. `within` is the angle of `io.calibrate_fresnel`.
    `relative_noise` is the standard deviation of a datum in units of the root mean square of the
    scattered field at its frequency: what calibration and model leave unexplained, far above the
    receivers' noise. Neighbouring receivers are wrong together, so it should be larger than what
    one alone is off by.
    """

    kind: Literal["fresnel"]
    file: str | None = None
    manifest: str | None = None
    frequencies_ghz: tuple[PositiveFloat, ...] | None = None
    within: PositiveFloat = 1.0
    relative_noise: PositiveFloat = 0.3


class SimulatedFields(Section):
    """A known object between transmitters and receivers.

    `image` is `phantom:K`, item K of `NucleiImages(seed=phantom_seed)`, scaled so that 1 becomes
    `contrast`; `target:NAME`, the discs of that name among the card's `targets`; or an `.npy` file
    (npix, npix) of the contrast. Transmitters and receivers stand on a circle of `radius` metres at
    `linspace(0, 359, n)` degrees. Lost are the shares `missing_transmitters` and
    `missing_receivers`, at random, and all that stand farther than half of `aperture` degrees from
    0. `frequencies_ghz` null means six pixels per wavelength, as in the InverseBench benchmark.

    `physics` makes the data; null: that of the reconstruction. The complex noise of a datum has the
    standard deviation sqrt(noise^2 + (relative_noise rms)^2), with the root mean square of the
    scattered field at its frequency.
    """

    kind: Literal["simulation"]
    image: str = "phantom:0"
    phantom_seed: int = Field(default=1, ge=0)
    contrast: PositiveFloat = 1.0
    transmitters: PositiveInt = 20
    receivers: PositiveInt = 360
    radius: PositiveFloat = 1.6
    missing_transmitters: float = Field(default=0.0, ge=0, lt=1)
    missing_receivers: float = Field(default=0.0, ge=0, lt=1)
    aperture: float = Field(default=360.0, gt=0, le=360)
    frequencies_ghz: tuple[PositiveFloat, ...] | None = None
    physics: Physics | None = None
    noise: float = Field(default=1e-4, ge=0)
    relative_noise: float = Field(default=0.0, ge=0)
    seed: int = Field(default=0, ge=0)


class ImageSection(Section):
    """The grid of the reconstruction: `side` in metres; pixels hold contrasts in [0, max_contrast].

    Model space [-1, 1] is that range; a network prior was trained on images so scaled.
    """

    npix: PositiveInt = 128
    side: PositiveFloat = 0.18
    max_contrast: PositiveFloat = 1.0


class PhysicsSection(Section):
    """How the object scatters: "benchmark" and "born" are linear, "full_wave" is not.

    "benchmark" is the InverseBench benchmark's formula, with conjugated incident fields; measured
    data want "born" or "full_wave". `svd` computes singular vectors (once; they are kept on disk),
    which DDRM, DDNM and ExactSVD need. `tolerance` is that of full-wave fields.
    """

    kind: Physics = "benchmark"
    svd: bool = False
    tolerance: PositiveFloat = 1e-4


class DiscSection(Section):
    """A cylinder of the object, as published."""

    name: str
    centre_mm: tuple[float, float]
    diameter_mm: PositiveFloat
    permittivity: PositiveFloat


class GaussianSection(Section):
    """A Gaussian prior that needs no training, relative to max_contrast.

    Every pixel has mean `mean` and standard deviation `std`; `correlation` is the length over which
    pixels go together (full width at half maximum), as a share of the image's side.
    """

    kind: Literal["gaussian"]
    mean: float = 0.1
    std: PositiveFloat = 0.25
    correlation: PositiveFloat = 0.06


class TotalVariationSection(Section):
    """Images of constant regions, see `priors.TotalVariationPrior`; `weight` is in model space."""

    kind: Literal["total_variation"]
    weight: PositiveFloat = 5.0
    iterations: PositiveInt = 50


PriorSection = NetworkSection | GaussianSection | TotalVariationSection


class ScatteringCard(Card):
    """Imaging of a permittivity from the fields that it scatters.

    `sigma_factor` is the noise that the reconstruction assumes relative to the one that there is.
    `targets` are objects known to consist of discs, by name: that of the file of measured fields,
    without its suffix. They are drawn and measured, and never used to reconstruct.
    """

    kind: Literal["scattering"]
    observation: Annotated[MeasuredFields | SimulatedFields, Field(discriminator="kind")]
    image: ImageSection = ImageSection()
    physics: PhysicsSection = PhysicsSection()
    sigma_factor: PositiveFloat = 1.0
    targets: dict[str, tuple[DiscSection, ...]] = Field(default={})
    prior: Annotated[PriorSection, Field(discriminator="kind")]

    def problem(
        self,
        name: str,
        data: str | Path | None = None,
        prior: Denoiser | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> ScatteringProblem:
        """Read or simulate the fields and put everything together.

        Args:
            name: of the card, for display and provenance.
            data: a file of measured fields; for a simulation, the image.
            prior: instead of the card's.
            device, dtype: where and in which precision to compute.
        """
        grid, truth = self.image, None
        if isinstance(self.observation, MeasuredFields):
            observation = measured(self.observation, data)
        else:
            observation, truth = self._simulated(self.observation, data)
        frequencies = observation["frequency"].values
        geometries = [
            ScatteringGeometry.from_observation(observation, float(f), grid.npix, grid.side)
            for f in frequencies
        ]
        targets = self._targets(observation.attrs["target"], geometries[0])
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

        physical = misfit(self._operator(geometries))
        linear = physical
        if self.physics.kind == "full_wave":
            linear = misfit(stack([BornScattering(g) for g in geometries]))
            # The stack is outermost, so that solvers find the frequencies.
            model = misfit(self._operator(geometries, affine))
        else:
            model = physical @ affine  # type: ignore[assignment]
        template = image_template(grid.npix, grid.side)
        return ScatteringProblem(
            prior=found,
            misfit=model,
            affine=affine.to(device=device, dtype=dtype),
            template=template,
            facts={
                "problem": name,
                "card": self.model_dump(mode="json"),
                "observation": dict(observation.attrs),
                "physics": self.physics.kind,
                "noise_sigma": sigma.tolist(),
                "prior": prior_facts(found),
            },
            name=name,
            card=self,
            observation=observation,
            truth=None if truth is None else template.copy(data=truth),
            physical=physical,
            linear=linear,
            max_contrast=grid.max_contrast,
            targets=targets,
        )

    def _operator(
        self, geometries: list[ScatteringGeometry], affine: Affine | None = None
    ) -> Operator:
        """Of the contrast, or with `affine` of model space; full wave is always a stack."""
        if self.physics.kind == "full_wave":
            shape, largest = (1, self.image.npix, self.image.npix), self.image.max_contrast
            limits = Clamp(-0.05 * largest, 1.2 * largest, shape)  # some room for the optimiser
            inner = limits if affine is None else limits @ affine
            tolerance = self.physics.tolerance
            return MultiFrequency(
                [FullWaveScattering(g, tolerance=tolerance) @ inner for g in geometries]
            )
        conjugate = self.physics.kind == "benchmark"
        operators = [BornScattering(g, conjugate_incident=conjugate) for g in geometries]
        if not self.physics.svd:
            return stack(operators)
        if len(operators) > 1:
            raise DataError(
                "physics.svd is for one frequency, and there are "
                f"{len(operators)}: set observation.frequencies_ghz to one, or physics.svd=false."
            )
        return BornSVD(operators[0])

    def _simulated(
        self, section: SimulatedFields, data: str | Path | None
    ) -> tuple[xr.Dataset, np.ndarray]:
        """The fields of a known object, with noise, and its contrast (H, W)."""
        grid, name = self.image, str(data or section.image)
        observation = empty_observation(section, grid)
        geometries = [
            ScatteringGeometry.from_observation(observation, float(f), grid.npix, grid.side)
            for f in observation["frequency"].values
        ]
        target = name.removeprefix("target:") if name.startswith("target:") else ""
        if target:
            discs = self._known_discs(target)
            image = np.zeros((grid.npix, grid.npix))
            for disc in discs:
                share = covered(geometries[0], disc)
                image = image * (1 - share) + share * (disc.permittivity - 1)
        else:
            image = known_image(section, grid, name)
        if not 0 <= image.min() <= image.max() <= 1.001 * grid.max_contrast:
            raise DataError(
                f"{name}: its contrast is from {image.min():.3g} to {image.max():.3g}, expected 0 "
                f"to image.max_contrast = {grid.max_contrast:g}: raise that, or lower the contrast."
            )
        physics = self.physics.model_copy(
            update={"kind": section.physics or self.physics.kind, "svd": False}
        )
        operator = self.model_copy(update={"physics": physics})._operator(geometries)
        x = torch.as_tensor(image, dtype=torch.float64)[None, None]
        seen = observation["measured"].values
        y = operator.to(dtype=torch.float64)(x).numpy().reshape(-1, *seen.shape)
        rms = np.sqrt((np.abs(y) ** 2).sum((1, 2)) / seen.sum())
        sigma = np.hypot(section.noise, section.relative_noise * rms)
        rng = np.random.default_rng([0x5CA7, section.seed])
        parts = rng.normal(size=(2, *y.shape)) * (sigma / math.sqrt(2))[:, None, None]
        dims = ("frequency", "transmitter", "receiver")
        observation["scattered_field"] = (dims, (y + parts[0] + 1j * parts[1]) * seen)
        # Noise-free data still need a scale on which the misfit counts.
        observation["sigma"] = ("frequency", np.maximum(sigma, 1e-6 * rms + 1e-30))
        observation.attrs |= {"file": f"simulated from {name}", "target": target}
        return observation, image.astype(np.float32)

    def _known_discs(self, name: str) -> tuple[DiscSection, ...]:
        if name not in self.targets:
            raise DataError(
                f"target:{name} is not among this card's targets: {', '.join(self.targets)}."
            )
        return self.targets[name]

    def _targets(self, name: str, geometry: ScatteringGeometry) -> dict[str, Disc] | None:
        """The published discs (mm), each inside the image."""
        if name not in self.targets:
            return None
        discs = {}
        for disc in self.targets[name]:
            covered(geometry, disc)
            x, y = disc.centre_mm
            discs[disc.name] = Disc(x, y, disc.diameter_mm / 2, disc.permittivity - 1)
        return discs

    def _prior(self, prior: Denoiser | None, shape: tuple[int, int, int]) -> Denoiser:
        section = self.prior
        if prior is None and isinstance(section, GaussianSection):
            return gaussian_prior(section, shape)
        if prior is None and isinstance(section, TotalVariationSection):
            return TotalVariationPrior(shape, section.weight, (-1.0, 1.0), section.iterations)
        found = prior or network_prior(section, "scattering")  # type: ignore[arg-type]
        have = tuple(found.image_shape)
        if have != shape:
            raise DataError(
                f"the prior is for images of shape {have}, the card's are {shape}: set "
                f"image.npix={have[-1]}, or take prior 'gaussian', which fits any size."
            )
        return found


# ---------------------------------------------------------------- data


def measured(section: MeasuredFields, data: str | Path | None) -> xr.Dataset:
    """The calibrated fields in `data`, else in the section's file, else in that of its manifest.

    The attribute `target` is the file's name without its suffix.
    """
    path = data or section.file
    if path is None and section.manifest is None:
        raise DataError(
            "this problem has no data of its own: give a file of measured fields, e.g. lmaps run "
            '... --data FoamDielExtTM.exp, or load_problem(..., data="FoamDielExtTM.exp").'
        )
    path = Path(path or fetch(str(section.manifest)))
    observation = calibrate_fresnel(read_fresnel(path), within=section.within)
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
    """Contrast (H, W) of a phantom or a file, see :class:`SimulatedFields`."""
    if name.startswith("phantom:"):
        try:
            images = NucleiImages(grid.npix, section.phantom_seed)
            return section.contrast * images[int(name.removeprefix("phantom:"))][0].astype(float)
        except (ValueError, IndexError) as error:
            raise DataError(f"{name}: {error}. Write phantom:K with K = 0, 1, 2, …") from error
    path = require_file(name)
    try:
        image = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{name} is not a NumPy file of numbers: write it with np.save.") from error
    expected = (grid.npix, grid.npix)
    if image.shape != expected or np.iscomplexobj(image) or not np.isfinite(image).all():
        raise DataError(
            f"{name} has shape {image.shape}, {image.dtype}; expected a real, finite contrast of "
            f"shape {expected}. Set image.npix to its size, or resample it."
        )
    if not np.any(image):
        raise DataError(f"{name} is 0 everywhere: there is nothing that scatters.")
    return image.astype(float)


def covered(geometry: ScatteringGeometry, disc: DiscSection) -> np.ndarray:
    """Share of each pixel (H, W) that a disc covers."""
    x, y = (c / 1e3 for c in disc.centre_mm)
    try:
        return geometry.disc((x, y), disc.diameter_mm / 2e3, 1.0)[0, 0].numpy()
    except ValueError as error:
        raise DataError(f"target {disc.name!r}: {error} (image.side)") from error


def stack(operators: list[BornScattering]) -> LinearOperator:
    """One operator as it is, several as one."""
    return operators[0] if len(operators) == 1 else LinearMultiFrequency(operators)


# ---------------------------------------------------------------- the prior


def gaussian_prior(section: GaussianSection, shape: tuple[int, int, int]) -> GaussianPrior:
    """See :class:`GaussianSection`; in model space, where images are doubled, minus 1."""
    k = torch.fft.fftfreq(shape[-1], 1 / shape[-1], dtype=torch.float64)  # cycles per side
    width = section.correlation / math.sqrt(8 * math.log(2))
    power = torch.exp(-2 * (math.pi * width) ** 2 * (k[:, None] ** 2 + k**2))
    power = (2 * section.std) ** 2 * power / power.mean()
    mean = torch.full(shape, 2 * section.mean - 1, dtype=torch.float64)
    return GaussianPrior(mean, StationaryCovariance(power[None]))

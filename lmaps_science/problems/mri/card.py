"""Cards of multi-coil MRI: their schema, and how one becomes a problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from pydantic import Field, PositiveFloat, PositiveInt

from lmaps_science.cards.schema import Card
from lmaps_science.cards.sections import NetworkSection, Section, fitting, network_prior
from lmaps_science.cards.series import Series
from lmaps_science.io import DataError
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine
from lmaps_science.physics import coils
from lmaps_science.physics.mri import MultiCoilMRI
from lmaps_science.physics.sampling import calibration_region, line_mask
from lmaps_science.priors import Denoiser, GaussianPrior, StationaryCovariance
from lmaps_science.problems.mri.data import (
    NOISELESS,
    MeasuredKSpace,
    Scan,
    SimulatedKSpace,
    count_slices,
    measured,
    simulated,
)
from lmaps_science.problems.mri.problem import MRIProblem, as_channels, image_template

__all__ = ["MRICard"]

# ---------------------------------------------------------------- the schema


class SamplingSection(Section):
    """Which of the acquired samples are used.

    `acceleration` keeps so many lines of a fully sampled scan, see `physics.sampling.line_mask`;
    null keeps what was acquired. `hold_out` keeps back this share of the samples outside the
    centre of 24 x 24, at random: how well a reconstruction predicts them (`held_out_error`) tells
    its quality where there is no image to compare with.
    """

    acceleration: PositiveFloat | None = Field(
        default=4.0,
        description="Keep one of so many lines of a fully sampled scan; null keeps what was "
        "acquired.",
    )
    axis: int = Field(
        default=-1,
        description="The axis along which lines are left out: -1 keeps columns, -2 rows.",
    )
    pattern: Literal["random", "equispaced"] = Field(
        default="random", description="How the lines outside the centre are chosen."
    )
    hold_out: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the samples outside the centre of 24 x 24 that is kept back at "
        "random, to be predicted (held_out_error).",
    )
    seed: int = Field(
        default=0, description="Of the random choice of lines and of samples kept back."
    )


class MapsSection(Section):
    """Where the coil maps come from.

    "calibration": estimated from the fully sampled centre of what was acquired, and from nothing
    else; "file": the file's own; "full": from all of k-space, lines that were left out included:
    possible in retrospective studies alone, and to be said with their results.
    """

    source: Literal["calibration", "file", "full"] = Field(
        default="calibration",
        description="Where the coil maps come from: estimated from the acquired centre, the file's "
        "own, or from all of k-space (in retrospective studies alone).",
    )


class NoiseSection(Section):
    """The noise of the k-space samples.

    `sigma` is its standard deviation (E|n|^2 = sigma^2) in units of k-space; null estimates it from
    the outer k-space that was acquired, as `prewhiten` needs. That makes the noise of the coils
    independent and of unit variance first, by the file's noise scan or else by the corners of
    k-space, which should then hold no signal; `coils` compresses them to as many virtual ones.
    """

    sigma: PositiveFloat | None = Field(
        default=None,
        description="Standard deviation of the complex noise of a sample (E|n|^2 = sigma^2), in "
        "units of k-space; null: estimated from outer k-space.",
    )
    prewhiten: bool = Field(
        default=False,
        description="Make the coils' noise independent and of unit variance first, by the file's "
        "noise scan, else by the corners of k-space.",
    )
    coils: PositiveInt | None = Field(
        default=None, description="Compress the coils to so many virtual ones; null keeps them."
    )


class GaussianSection(Section):
    """A Gaussian prior that needs no training: zero mean, an amplitude spectrum that falls as 1/k.

    `std` is the standard deviation of real and imaginary part, `cutoff` the frequency (cycles a
    pixel) below which the spectrum is flat.
    """

    kind: Literal["gaussian"] = Field(
        description="What the prior is: a trained network, or a Gaussian that needs no file."
    )
    std: PositiveFloat = Field(
        default=0.4,
        description="Standard deviation of real and imaginary part, in units of the image's 99th "
        "percentile.",
    )
    cutoff: PositiveFloat = Field(
        default=0.01,
        description="Frequency [cycles per pixel] below which the amplitude spectrum, else 1/k, is "
        "flat.",
    )


class MRICard(Card):
    """Reconstruction of a complex image from undersampled multi-coil k-space."""

    series: ClassVar[Mapping[str, Series]] = {
        "slice": Series({"kspace.slice": "{}"}, count=count_slices, joins=True),
        "brain": Series(
            {"kspace.image": "brain:{}", "kspace.seed": "{}"},
            simulated=True,
            others=("kspace.phantom_seed",),
        ),
    }

    kind: Literal["mri"]
    kspace: Annotated[MeasuredKSpace | SimulatedKSpace, Field(discriminator="kind")]
    sampling: SamplingSection = SamplingSection()
    maps: MapsSection = MapsSection()
    noise: NoiseSection = NoiseSection()
    scaling: Literal["acquired", "reference"] = Field(
        default="acquired",
        description="Whose 99th percentile becomes 1: that of the image of the acquired samples, "
        "or of the fully sampled one.",
    )
    prior: Annotated[NetworkSection | GaussianSection, Field(discriminator="kind")]

    def problem(
        self,
        name: str,
        data: str | Path | None = None,
        prior: Denoiser | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> MRIProblem:
        if isinstance(self.kspace, SimulatedKSpace):
            scan = simulated(self.kspace, data)
        else:
            scan = measured(self.kspace, data)
        mask = self._mask(scan)
        scan = self._mixed(scan, mask)
        maps = self._maps(scan, mask)
        acquired = scan.kspace * mask
        zero_filled = coils.mvue(acquired, maps)
        reference = scan.reference
        scaled_by = reference if self.scaling == "reference" else zero_filled
        if scaled_by is None:
            raise DataError(
                "scaling: 'reference' needs a fully sampled scan, and this one is not: set "
                "scaling=acquired."
            )
        scale = float(np.percentile(np.abs(scaled_by), 99))
        if scale == 0:
            raise DataError(
                f"the coil maps cover {100 * (maps != 0).any(0).mean():.1f} % of the image: their "
                "estimation found hardly any signal. Give maps, or check that k-space is centred."
            )
        known = self.noise.sigma or scan.sigma
        sigma = known or self._estimated(acquired, mask, scale)
        shape = (2, *mask.shape)
        prior = self._prior(prior, shape).to(device=device, dtype=dtype)
        operator = MultiCoilMRI(maps, mask).to(device=device, dtype=dtype)
        y = torch.as_tensor(acquired / scale)[None].to(operator.maps)
        template = image_template(mask.shape, scan.coords)
        return MRIProblem(
            prior=prior,
            misfit=GaussianMisfit(operator, y, sigma / scale),
            decode=Affine(1.0, 0.0, shape),
            template=template,
            facts={
                **self.facts(name, scan.facts, prior),
                "scale": scale,
                "scaled_by": "the fully sampled image" if self.scaling == "reference"
                else "the acquired samples",
                "maps_from": self._maps_from(mask),
                "noise_sigma": sigma,
                "noise_from": "known" if known else "estimated",
            },
            name=name,
            card=self,
            observation=xr.Dataset(
                {
                    "mask": (("y", "x"), mask),
                    "held_out": (("y", "x"), scan.sampled & ~mask),
                    "kspace": (("coil", "y", "x"), (scan.kspace / scale).astype(np.complex64)),
                },
                attrs=scan.facts,
            ),
            truth=None if reference is None
            else template.copy(data=as_channels(reference / scale)),
            zero_filled=template.copy(data=as_channels(zero_filled / scale)),
        )  # fmt: skip

    def _mask(self, scan: Scan) -> np.ndarray:
        chosen, mask = self.sampling, scan.sampled
        if chosen.acceleration is not None:
            if not scan.full:
                raise DataError(
                    "sampling.acceleration leaves lines out of a fully sampled scan, and this one "
                    f"has {100 * mask.mean():.0f} % of its samples: set sampling.acceleration=null "
                    "to take them as they are, or kspace.acquired=all where its zeros are data."
                )
            options = (chosen.acceleration, chosen.axis, chosen.pattern, chosen.seed)
            mask = line_mask(mask.shape, *options)
        if chosen.hold_out:
            rng = np.random.default_rng([0x401D, chosen.seed])
            kept_back = rng.random(mask.shape) < chosen.hold_out
            kept_back[_centre(mask)] = False
            mask = mask & ~kept_back
        return mask

    def _mixed(self, scan: Scan, mask: np.ndarray) -> Scan:
        """The scan after prewhitening and coil compression, both found from acquired samples."""
        if self.noise.prewhiten:
            if self.noise.sigma is not None:
                raise DataError(
                    "noise.sigma is in units of k-space, which noise.prewhiten changes: give one "
                    "of them, e.g. noise.sigma=null."
                )
            covariance = coils.noise_covariance(
                scan.kspace * mask if scan.noise is None else scan.noise
            )
            # Of coils whose noise has unit variance the maps have another norm; so has the image.
            scan = scan.mapped(lambda x: coils.prewhiten(x, covariance)).normalised()
            scan = replace(scan, sigma=None)
        if self.noise.coils is not None:
            matrix = coils.compress_coils(scan.kspace * mask, self.noise.coils)[1]
            scan = scan.mapped(lambda x: np.tensordot(matrix, x, 1))
        return scan

    def _estimated(self, acquired: np.ndarray, mask: np.ndarray, scale: float) -> float:
        """The noise level of the acquired samples, and at least that of data without noise."""
        try:
            return max(coils.estimate_noise(acquired, mask), NOISELESS * scale)
        except ValueError as error:
            raise DataError(
                f"{error} Or give its standard deviation in units of k-space, noise.sigma=..."
            ) from error

    def _maps(self, scan: Scan, mask: np.ndarray) -> np.ndarray:
        if self.maps.source == "calibration":
            try:
                return coils.estimate_maps(scan.kspace * mask, mask)
            except ValueError as error:
                raise DataError(
                    f"{error} To take maps from a file: maps.source=file, and kspace.maps_file "
                    "where it is another one than that of k-space."
                ) from error
        if self.maps.source == "full":
            if scan.reference_maps is None:
                raise DataError(
                    "maps.source=full needs a fully sampled scan, and this one is not: set "
                    "maps.source=calibration."
                )
            return scan.reference_maps
        if scan.maps is None:
            raise DataError(
                "maps.source=file: the file holds no maps. Give a file of them, kspace.maps_file, "
                "or set maps.source=calibration."
            )
        return scan.maps

    def _maps_from(self, mask: np.ndarray) -> str:
        if self.maps.source != "calibration":
            return {"file": "the file's", "full": "those of the full scan"}[self.maps.source]
        rows, columns = (c.stop - c.start for c in _centre(mask))
        return f"estimated from {rows} x {columns} central samples"

    def _prior(self, prior: Denoiser | None, shape: tuple[int, ...]) -> Denoiser:
        section = self.prior
        if prior is None:
            if isinstance(section, NetworkSection):
                prior = network_prior(section, self.kind)
            else:
                prior = gaussian_prior(section, shape)
        return fitting(prior, shape, "give a prior for that size, or one trained on crops")


# ---------------------------------------------------------------- helpers


def _centre(mask: np.ndarray) -> tuple[slice, slice]:
    """The fully sampled centre, of at most 24 x 24 samples: what coil maps are estimated from."""
    low_high = [
        slice(max(found.start, n // 2 - 12), min(found.stop, n // 2 + 12))
        for found, n in zip(calibration_region(mask), mask.shape, strict=True)
    ]
    return low_high[0], low_high[1]


def gaussian_prior(section: GaussianSection, shape: tuple[int, ...]) -> GaussianPrior:
    """See `GaussianSection`."""
    ky, kx = (torch.fft.fftfreq(n, dtype=torch.float64) for n in shape[1:])
    power = 1 / (ky[:, None] ** 2 + kx**2 + section.cutoff**2)
    power = section.std**2 * power / power.mean()
    spectrum = power.expand(shape[0], -1, -1)
    return GaussianPrior(torch.zeros(shape, dtype=torch.float64), StationaryCovariance(spectrum))

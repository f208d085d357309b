"""Cards of multi-coil MRI: their schema, and how one becomes a problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import xarray as xr
from pydantic import Field, PositiveFloat, PositiveInt

from lmaps_science.arrays import centred_fft2
from lmaps_science.io import DataError, open_kspace
from lmaps_science.io.files import require_file
from lmaps_science.manifests import fetch
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine
from lmaps_science.physics import coils
from lmaps_science.physics.mri import MultiCoilMRI
from lmaps_science.physics.sampling import calibration_region, line_mask
from lmaps_science.priors import Denoiser, GaussianPrior, StationaryCovariance
from lmaps_science.problem.cards import Card, Section
from lmaps_science.problem.mri import MRIProblem, as_channels, image_template
from lmaps_science.problem.networks import NetworkSection, network_prior, prior_facts

__all__ = ["MRICard"]

# What stands for the noise of data without any, in units of the image: still far below what shows.
NOISELESS = 1e-3


# ---------------------------------------------------------------- the schema


class MeasuredKSpace(Section):
    """One slice of a file of k-space (see `io.open_kspace`): `file`, or the one of `manifest`.

    `maps_file` holds coil maps for it, where they are in a file of their own. Where the file has no
    mask, `acquired` says which of its samples were measured: those that are not zero, or all of
    them. `noiseless` replaces the measured k-space by that of the slice's own fully sampled image,
    with its coil maps: the benchmark's simulated variant.
    """

    kind: Literal["file"]
    file: str | None = None
    manifest: str | None = None
    slice: int = 0
    maps_file: str | None = None
    benchmark_crop: bool = False
    acquired: Literal["nonzero", "all"] = "nonzero"
    noiseless: bool = False


class SimulatedKSpace(Section):
    """A known image seen by coils on a circle around it.

    `image` is "shepp_logan", "brain:K" (item K of `phantoms.BrainSlices(seed=phantom_seed)`, which
    takes the extra `brain`), or an `.npy` file (H, W), real or complex. Every k-space sample of
    every coil gets complex noise of standard deviation `noise`, in units of the image's 99th
    percentile.
    """

    kind: Literal["simulation"]
    image: str = "shepp_logan"
    phantom_seed: int = 1
    npix: PositiveInt = 192
    coils: PositiveInt = 8
    noise: float = Field(default=0.02, ge=0)
    seed: int = 0


class SamplingSection(Section):
    """Which of the acquired samples are used.

    `acceleration` keeps so many lines of a fully sampled scan, see `physics.sampling.line_mask`;
    null keeps what was acquired. `hold_out` keeps back this share of the samples outside the
    centre of 24 x 24, at random: how well a reconstruction predicts them (`held_out_error`) tells
    its quality where there is no image to compare with.
    """

    acceleration: PositiveFloat | None = 4.0
    axis: int = -1
    pattern: Literal["random", "equispaced"] = "random"
    hold_out: float = Field(default=0.0, ge=0, lt=1)
    seed: int = 0


class MapsSection(Section):
    """Where the coil maps come from.

    "calibration": estimated from the fully sampled centre of what was acquired, and from nothing
    else; "file": the file's own; "full": from all of k-space, lines that were left out included:
    possible in retrospective studies alone, and to be said with their results.
    """

    source: Literal["calibration", "file", "full"] = "calibration"


class NoiseSection(Section):
    """The noise of the k-space samples.

    `sigma` is its standard deviation (E|n|^2 = sigma^2) in units of k-space; null estimates it from
    the outer k-space that was acquired. `prewhiten` makes the noise of the coils independent and of
    unit variance first, `coils` compresses them to as many virtual ones.
    """

    sigma: PositiveFloat | None = None
    prewhiten: bool = False
    coils: PositiveInt | None = None


class GaussianSection(Section):
    """A Gaussian prior that needs no training: zero mean, an amplitude spectrum that falls as 1/k.

    `std` is the standard deviation of real and imaginary part, `cutoff` the frequency (cycles a
    pixel) below which the spectrum is flat.
    """

    kind: Literal["gaussian"]
    std: PositiveFloat = 0.4
    cutoff: PositiveFloat = 0.01


class MRICard(Card):
    """Reconstruction of a complex image from undersampled multi-coil k-space."""

    kind: Literal["mri"]
    kspace: Annotated[MeasuredKSpace | SimulatedKSpace, Field(discriminator="kind")]
    sampling: SamplingSection = SamplingSection()
    maps: MapsSection = MapsSection()
    noise: NoiseSection = NoiseSection()
    scaling: Literal["acquired", "reference"] = "acquired"
    prior: Annotated[NetworkSection | GaussianSection, Field(discriminator="kind")]

    def problem(
        self,
        name: str,
        data: str | Path | None = None,
        prior: Denoiser | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> MRIProblem:
        """Read or simulate the k-space and put everything together.

        Args:
            name: of the card, for display and provenance.
            data: a file of k-space; for a simulation, the image.
            prior: instead of the card's.
            device, dtype: where and in which precision to compute.
        """
        if isinstance(self.kspace, SimulatedKSpace):
            scan = simulated(self.kspace, data)
        else:
            scan = measured(self.kspace, data)
        mask = self._mask(scan)
        scan = self._mixed(scan, mask)
        maps = self._maps(scan, mask)
        acquired = scan.kspace * mask
        sigma = scan.sigma or self.noise.sigma or coils.estimate_noise(acquired, mask)
        zero_filled = coils.mvue(acquired, maps)
        reference = scan.reference
        scaled_by = reference if self.scaling == "reference" else zero_filled
        if scaled_by is None:
            raise DataError(
                "scaling: 'reference' needs a fully sampled scan, and this one is not: set "
                "scaling=acquired."
            )
        scale = float(np.percentile(np.abs(scaled_by), 99))
        shape = (2, *mask.shape)
        prior = self._prior(prior, shape).to(device=device, dtype=dtype)
        operator = MultiCoilMRI(maps, mask).to(device=device, dtype=dtype)
        y = torch.as_tensor(acquired / scale)[None].to(operator.maps)
        template = image_template(mask.shape, scan.coords)
        return MRIProblem(
            prior=prior,
            misfit=GaussianMisfit(operator, y, sigma / scale),
            affine=Affine(1.0, 0.0, shape),
            template=template,
            facts={
                "problem": name,
                "card": self.model_dump(mode="json"),
                "observation": scan.facts,
                "scale": scale,
                "scaled_by": "the fully sampled image" if self.scaling == "reference"
                else "the acquired samples",
                "noise_sigma": sigma,
                "prior": prior_facts(prior),
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
                    "to take them as they are."
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
            covariance = coils.noise_covariance(
                scan.kspace * mask if scan.noise is None else scan.noise
            )
            scan = scan.mapped(lambda x: coils.prewhiten(x, covariance))
            scan = replace(scan, sigma=None)
        if self.noise.coils is not None:
            matrix = coils.compress_coils(scan.kspace * mask, self.noise.coils)[1]
            scan = scan.mapped(lambda x: np.tensordot(matrix, x, 1))
        return scan

    def _maps(self, scan: Scan, mask: np.ndarray) -> np.ndarray:
        if self.maps.source == "calibration":
            return coils.estimate_maps(scan.kspace * mask, mask)
        if self.maps.source == "full":
            if scan.reference_maps is None:
                raise DataError("maps.source=full needs a fully sampled scan; take calibration.")
            return scan.reference_maps
        if scan.maps is None:
            raise DataError("maps.source=file: the file holds no maps; take calibration.")
        return scan.maps

    def _prior(self, prior: Denoiser | None, shape: tuple[int, ...]) -> Denoiser:
        if prior is None and isinstance(self.prior, GaussianSection):
            return gaussian_prior(self.prior, shape)
        found: Any = prior or network_prior(self.prior, "mri")  # type: ignore[arg-type]
        have = tuple(found.image_shape)
        if have != shape and hasattr(found, "for_size") and have[0] == shape[0]:
            return found.for_size(*shape[1:])
        if have != shape:
            raise DataError(
                f"the prior is for images of shape {have} (channels, height, width), the data are "
                f"of {shape}: give a prior for that size, or one trained on crops."
            )
        return found


# ---------------------------------------------------------------- data


@dataclass(frozen=True)
class Scan:
    """k-space (coils, H, W), zero where not `sampled` (H, W), and what is known besides.

    Attributes:
        maps: coil maps (coils, H, W) that came with it.
        reference: the image (H, W) to compare with, and the maps it was made with: of fully sampled
            scans alone.
        sigma: standard deviation of the noise, where it is known.
        noise: a noise scan (coils, samples), where there is one.
        facts: for provenance; coords: of the image.
    """

    kspace: np.ndarray
    sampled: np.ndarray
    facts: dict[str, Any]
    coords: Mapping[str, Any] = field(default_factory=dict)
    maps: np.ndarray | None = None
    reference: np.ndarray | None = None
    reference_maps: np.ndarray | None = None
    sigma: float | None = None
    noise: np.ndarray | None = None

    @property
    def full(self) -> bool:
        """Whether all of k-space was sampled."""
        return bool(self.sampled.all())

    def mapped(self, change: Callable[[np.ndarray], np.ndarray]) -> Scan:
        """The scan with its coils combined by `change`, k-space and maps alike."""
        maps, reference_maps = (
            None if x is None else change(x) for x in (self.maps, self.reference_maps)
        )
        kspace = change(self.kspace)
        return replace(self, kspace=kspace, maps=maps, reference_maps=reference_maps)


def measured(section: MeasuredKSpace, data: str | Path | None) -> Scan:
    """The slice of k-space in `data`, else in the section's file, else in that of its manifest."""
    path = data or section.file
    if path is None and section.manifest is None:
        raise DataError(
            "this problem has no data of its own: give a file of k-space, e.g. lmaps run ... "
            '--data scan.h5, or load_problem(..., data="scan.h5").'
        )
    path = path or fetch(str(section.manifest))

    with open_kspace(path, maps=section.maps_file, crop=section.benchmark_crop) as file:
        item, noise = file[section.slice], file.noise
    facts = {"file": Path(path).name, "slice": section.slice, **_plain(item.attrs)}
    kspace = item["kspace"].values
    maps = item["maps"].values if "maps" in item else None
    sampled = item["mask"].values if "mask" in item else (kspace != 0).any(0)
    if "mask" not in item and section.acquired == "all":
        sampled = np.ones_like(sampled)
    sampled = np.broadcast_to(sampled.astype(bool), kspace.shape[-2:]).copy()
    coords = {axis: item[axis] for axis in "yx" if axis in item.coords}
    scan = Scan(kspace, sampled, facts, coords, maps, noise=noise)
    if not scan.full:
        return scan
    reference_maps = maps if maps is not None else coils.estimate_maps(kspace, sampled)
    reference = coils.mvue(kspace, reference_maps)
    if section.noiseless:
        kspace = _fft(reference_maps * reference)
        sigma = NOISELESS * float(np.percentile(np.abs(reference), 99))
        scan = replace(scan, sigma=sigma)
    return replace(scan, kspace=kspace, reference=reference, reference_maps=reference_maps)


def simulated(section: SimulatedKSpace, data: str | Path | None) -> Scan:
    """The k-space of a known image, seen by coils on a circle, with complex white noise."""
    image = known_image(section, str(data or section.image))
    image = image / np.percentile(np.abs(image), 99)
    maps = _sigpy().mri.birdcage_maps((section.coils, *image.shape), dtype=np.complex64)
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    rng = np.random.default_rng([0x3A1, section.seed])
    parts = rng.normal(0, section.noise / np.sqrt(2), (2, *maps.shape))
    kspace = (_fft(maps * image) + parts[0] + 1j * parts[1]).astype(np.complex64)
    sampled = np.ones(image.shape, dtype=bool)
    facts = {"file": f"simulated from {data or section.image}", **section.model_dump(mode="json")}
    sigma = max(section.noise, NOISELESS)
    return Scan(kspace, sampled, facts, {}, maps, image, maps, sigma)


def known_image(section: SimulatedKSpace, name: str) -> np.ndarray:
    """Complex image (H, W) by name or file, see :class:`SimulatedKSpace`."""
    if name == "shepp_logan":
        return _with_phase(_sigpy().shepp_logan((section.npix, section.npix)))
    if name.startswith("brain:"):
        from lmaps_science.phantoms import BrainSlices

        try:
            item = BrainSlices(section.npix, section.phantom_seed)[int(name.removeprefix("brain:"))]
        except (ValueError, IndexError) as error:
            raise DataError(f"{name}: {error}. Write brain:K with K = 0, 1, 2, …") from error
        return item[0] + 1j * item[1]
    path = require_file(name)
    try:
        image = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{name} is not a NumPy file of numbers: write it with np.save.") from error
    if image.ndim != 2 or not np.isfinite(image).all() or not np.any(image):
        raise DataError(
            f"{name} has shape {image.shape}; expected an image (H, W), finite and not all zero."
        )
    return image.astype(np.complex64)


def _with_phase(image: np.ndarray) -> np.ndarray:
    """A smooth phase of about 2 rad across the image, as measured ones have."""
    y, x = (np.linspace(-1, 1, n) for n in image.shape)
    return image * np.exp(1j * (0.8 * y[:, None] - 0.5 * x + 0.6 * y[:, None] * x))


def _sigpy() -> Any:
    try:
        import sigpy.mri
    except ImportError as error:
        raise ImportError("simulated MRI needs SigPy: pip install 'lmaps-science[mri]'") from error
    return sigpy


def _fft(x: np.ndarray) -> np.ndarray:
    return centred_fft2(torch.as_tensor(x)).numpy()


def _centre(mask: np.ndarray) -> tuple[slice, slice]:
    """The fully sampled centre, of at most 24 x 24 samples: what coil maps are estimated from."""
    low_high = [
        slice(max(found.start, n // 2 - 12), min(found.stop, n // 2 + 12))
        for found, n in zip(calibration_region(mask), mask.shape, strict=True)
    ]
    return low_high[0], low_high[1]


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(k): v.item() if isinstance(v, np.generic) else v for k, v in attrs.items()}


# ---------------------------------------------------------------- the prior


def gaussian_prior(section: GaussianSection, shape: tuple[int, ...]) -> GaussianPrior:
    """See :class:`GaussianSection`."""
    ky, kx = (torch.fft.fftfreq(n, dtype=torch.float64) for n in shape[1:])
    power = 1 / (ky[:, None] ** 2 + kx**2 + section.cutoff**2)
    power = section.std**2 * power / power.mean()
    spectrum = power.expand(shape[0], -1, -1)
    return GaussianPrior(torch.zeros(shape, dtype=torch.float64), StationaryCovariance(spectrum))

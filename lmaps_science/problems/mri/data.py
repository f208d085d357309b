"""Scans of multi-coil MRI: k-space from files, or of a known image, and what is known besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt

from lmaps_science.arrays import centred_fft2
from lmaps_science.cards.sections import (
    FileSection,
    Pixels,
    Section,
    numbered,
    read_array_file,
)
from lmaps_science.io import DataError, open_kspace
from lmaps_science.physics import coils

__all__ = [
    "NOISELESS",
    "MeasuredKSpace",
    "Scan",
    "SimulatedKSpace",
    "count_slices",
    "measured",
    "simulated",
]

# What stands for the noise of data without any, in units of the image: still far below what shows.
NOISELESS = 1e-3


# ---------------------------------------------------------------- sections of cards


class MeasuredKSpace(FileSection):
    """One slice of a file of k-space (see `io.open_kspace`).

    `maps_file` holds coil maps for it, where they are in a file of their own. Where the file has no
    mask, `acquired` says which of its samples were measured: those that are not zero, or all of
    them. `noiseless` replaces the measured k-space by that of the slice's own fully sampled image,
    with its coil maps: the benchmark's simulated variant.
    """

    kind: Literal["file"] = Field(
        description="Where the data are from: a file of k-space, or a simulation."
    )
    slice: int = Field(
        default=0, description="Which slice of the file, from 0; negative: from the end."
    )
    maps_file: str | None = Field(
        default=None, description="Path of coil maps for it, where they are in a file of their own."
    )
    benchmark_crop: bool = Field(
        default=False,
        description="Reduce each slice to 320 x 320 pixels, as the InverseBench benchmark does.",
    )
    acquired: Literal["nonzero", "all"] = Field(
        default="nonzero",
        description="Which samples were measured where the file has no mask: those that are not "
        "zero, or all.",
    )
    noiseless: bool = Field(
        default=False,
        description="Replace k-space by that of the slice's own fully sampled image: the "
        "benchmark's simulated variant.",
    )


class SimulatedKSpace(Section):
    """A known image seen by coils on a circle around it.

    `image` is "shepp_logan", "brain:K" (item K of `phantoms.BrainSlices(seed=phantom_seed,
    whole=True)`, which takes the extra `brain`), or an `.npy` file (H, W), real or complex. Every
    k-space sample of every coil gets complex noise of standard deviation `noise`, in units of the
    image's 99th percentile.
    """

    kind: Literal["simulation"] = Field(
        description="Where the data are from: a file of k-space, or a simulation."
    )
    image: str = Field(
        default="shepp_logan",
        description="What is observed: shepp_logan, brain:K (random head number K; extra `brain` "
        "and Debian's mricron-data), or an .npy file (H, W), real or complex; --data goes before "
        "it.",
    )
    phantom_seed: int = Field(
        default=1,
        description="Which set of heads; 1 and above are heads on which the prior was not trained.",
    )
    npix: Pixels = Field(default=192, description="Pixels along each side of a phantom.")
    coils: PositiveInt = Field(default=8, description="How many coils stand around the image.")
    noise: float = Field(
        default=0.02,
        ge=0,
        description="Standard deviation of the complex noise of a k-space sample, in units of the "
        "image's 99th percentile.",
    )
    seed: int = Field(default=0, description="Of the random numbers of the noise.")


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

    def normalised(self) -> Scan:
        """The scan with maps of norm 1, and its image times the norm that they had."""
        maps = None if self.maps is None else _unit_norm(self.maps)
        if self.reference is None or self.reference_maps is None:
            return replace(self, maps=maps)
        reference = self.reference * np.linalg.norm(self.reference_maps, axis=0)
        reference_maps = _unit_norm(self.reference_maps)
        return replace(self, maps=maps, reference=reference, reference_maps=reference_maps)


def measured(section: MeasuredKSpace, data: str | Path | None) -> Scan:
    """The slice of k-space in `data`, else in the section's file, else in that of its manifest.

    Raises:
        DataError: no such slice, or one of which nothing was acquired.
    """
    path = section.path(data, "a file of k-space", "scan.h5")
    try:
        with open_kspace(path, maps=section.maps_file, crop=section.benchmark_crop) as file:
            item, noise = file[section.slice], file.noise
    except IndexError as error:
        raise DataError(f"kspace.slice: {error}") from error
    facts = {"file": Path(path).name, "slice": section.slice, **_plain(item.attrs)}
    kspace = item["kspace"].values
    maps = _unit_norm(item["maps"].values) if "maps" in item else None
    if "mask" in item:
        sampled = item["mask"].values
    else:
        sampled = (kspace != 0).any(0) | (section.acquired == "all")
    if not sampled.any():
        raise DataError(f"{path}: the mask is empty: it says that no sample was acquired.")
    coords = {axis: item[axis] for axis in "yx" if axis in item.coords}
    scan = Scan(kspace, sampled, facts, coords, maps, noise=noise)
    if not scan.full:
        if section.noiseless:
            raise DataError(
                f"kspace.noiseless needs a fully sampled scan, and {path} has "
                f"{100 * sampled.mean():.0f} % of its samples: leave it out."
            )
        return scan
    reference_maps = maps if maps is not None else coils.estimate_maps(kspace, sampled)
    reference = coils.mvue(kspace, reference_maps)
    if section.noiseless:
        kspace = _fft(reference_maps * reference)
        sigma = NOISELESS * float(np.percentile(np.abs(reference), 99))
        scan = replace(scan, sigma=sigma, noise=None)
    return replace(scan, kspace=kspace, reference=reference, reference_maps=reference_maps)


def count_slices(card: Any, data: str | Path | None) -> int:
    """How many slices the file holds that a card of MRI, or `data`, names.

    Raises:
        DataError: no file of k-space.
    """
    section = card.kspace
    if not isinstance(section, MeasuredKSpace):
        raise DataError("--each slice needs a file of k-space: give --data, and a card for files.")
    with open_kspace(section.path(data, "a file of k-space", "scan.h5")) as file:
        return len(file)


def simulated(section: SimulatedKSpace, data: str | Path | None) -> Scan:
    """The k-space of a known image, seen by coils on a circle, with complex white noise."""
    image = known_image(section, str(data or section.image))
    image = image / np.percentile(np.abs(image), 99)
    maps = _sigpy().mri.birdcage_maps((section.coils, *image.shape), dtype=np.complex64)
    maps = _unit_norm(maps)
    rng = np.random.default_rng([0x3A1, section.seed])
    parts = rng.normal(0, section.noise / np.sqrt(2), (2, *maps.shape))
    kspace = (_fft(maps * image) + parts[0] + 1j * parts[1]).astype(np.complex64)
    sampled = np.ones(image.shape, dtype=bool)
    facts = {"file": f"simulated from {data or section.image}", **section.model_dump(mode="json")}
    sigma = max(section.noise, NOISELESS)
    return Scan(kspace, sampled, facts, {}, maps, image, maps, sigma)


def known_image(section: SimulatedKSpace, name: str) -> np.ndarray:
    """Complex image (H, W) by name or file, see `SimulatedKSpace`."""
    if name == "shepp_logan":
        return _with_phase(_sigpy().shepp_logan((section.npix, section.npix)))
    if name.startswith("brain:"):
        from lmaps_science.problems.mri.phantoms import BrainSlices

        slices = BrainSlices(section.npix, section.phantom_seed, whole=True)
        item = numbered(name, "brain", lambda k: slices[k])
        return item[0] + 1j * item[1]
    image = read_array_file(name)
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


def _unit_norm(maps: np.ndarray) -> np.ndarray:
    """Maps of norm 1, of which the image is the minimum-variance combination of the coils'."""
    norm = np.sqrt((np.abs(maps) ** 2).sum(0))
    return (maps / np.where(norm > 0, norm, 1)).astype(maps.dtype)


def _fft(x: np.ndarray) -> np.ndarray:
    return centred_fft2(torch.as_tensor(x)).numpy()


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(k): v.item() if isinstance(v, np.generic) else v for k, v in attrs.items()}

"""A wider set of heads than `BrainSlices`: more anatomies, sequences, and stronger deformation.

Anatomy beside that of `brain`: a second head at 1 mm with nose and neck (subject S1 of pycortex,
BSD licence) and, enlarged to the size of a human one, the brain of a macaque (INIA19, of Debian's
mricron-data, CC-BY), whose folds are different. Half of the contrasts follow the signal equations
of T1, T2, proton-density and FLAIR images. A quarter of the items show the whole head in a field of
view of 220 to 280 mm. More photographs, and other ones.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lmaps_science.problems.mri.contrasts import head_contrast, random_sequence, tissue_contrast
from lmaps_science.problems.mri.drawing import (
    Contrast,
    Plane,
    complex_image,
    flat_places,
    normal_of,
    photographed,
    random_rotation,
    random_tissue_contrast,
    random_tone,
    smooth_fields,
    textured,
)
from lmaps_science.problems.mri.phantoms import MRICRON, Anatomy
from lmaps_science.problems.mri.volumes import (
    brain_share,
    denoised,
    filled,
    package_folder,
    read_photograph,
    read_volume,
    scalp_fat,
    twice_as_fine,
)

__all__ = ["Heads", "Specimen", "Specimens"]

_PHOTOGRAPHS = {
    "skimage": "data/hubble_deep_field.jpg data/cell.png",
    "sklearn": "datasets/images/china.jpg datasets/images/flower.jpg",
    "matplotlib": "mpl-data/sample_data/grace_hopper.jpg",
}
_STREAM = 0x4EAD


@dataclass(frozen=True, eq=False)
class Specimen:
    """A head, or a brain without one.

    Args:
        intensity: (D, H, W) T1-weighted, in [0, 1].
        maps: (2, d, h, w) shares of the brain, its fluid included, and of fat.
        levels: intensity of fluid, grey and white matter.
        size_mm: edges of the volumes.
        share: of it among the items of a set.
    """

    intensity: Tensor
    maps: Tensor
    levels: tuple[float, float, float]
    size_mm: Tensor
    share: float

    @cached_property
    def middle(self) -> Tensor:
        """The middle of the brain, in mm."""
        at = torch.nonzero(self.maps[0] > 0.5).float().mean(0) + 0.5
        return at / torch.tensor(self.maps.shape[1:]) * self.size_mm

    @classmethod
    def head(cls, intensity: Tensor, levels: tuple[float, float, float], share: float) -> Specimen:
        """From a head of 1 mm voxels."""
        maps = [brain_share(intensity, *levels[1:]), scalp_fat(intensity, filled(intensity))]
        size = torch.tensor(intensity.shape).float()
        return cls(twice_as_fine(intensity), torch.stack(maps), levels, size, share)

    @classmethod
    def stripped(
        cls,
        intensity: Tensor,
        levels: tuple[float, float, float],
        voxel_mm: float,
        share: float,
    ) -> Specimen:
        """From a brain with nothing around it."""
        brain = F.max_pool3d((intensity[None, None] > 0.02).float(), 3, 2, padding=1)[0]
        size = torch.tensor(intensity.shape) * voxel_mm
        return cls(intensity, torch.cat([brain, 0 * brain]), levels, size, share)


@dataclass(frozen=True, eq=False)
class Specimens:
    """What the set draws from.

    Args:
        specimens: heads and brains.
        tissues: (3, D, H, W) fractions of grey matter, white matter and fluid, of 1 mm voxels.
        photographs: grey images in [0, 1], each (H, W) with sides of at least 128.
    """

    specimens: tuple[Specimen, ...]
    tissues: Tensor
    photographs: tuple[Tensor, ...]

    @classmethod
    @lru_cache(maxsize=1)
    def installed(cls) -> Specimens:
        """Those of the packages of the extra `heads` and of mricron-data (1.5 GB as tensors).

        Raises:
            ImportError: nilearn, nibabel, scikit-image or pycortex is missing.
            FileNotFoundError: mricron-data is missing.
        """
        known = Anatomy.installed()
        colin = F.avg_pool3d(known.head[None, None], 2)[0, 0]
        macaque = read_volume(MRICRON / "inia19-t1-brain.nii.gz") / 130
        files = [package_folder(p) / n for p, names in _PHOTOGRAPHS.items() for n in names.split()]
        return cls(
            specimens=(
                Specimen.head(colin, (0.14, 0.46, 0.62), 0.23),
                Specimen.head(_second_head(), (0.15, 0.43, 0.64), 0.28),
                Specimen.stripped(known.brain, (0.46, 0.65, 0.84), 0.5, 0.11),
                Specimen.stripped(macaque.clamp(0, 1), (0.3, 0.64, 0.83), 0.8, 0.06),
            ),
            tissues=known.tissues,
            photographs=(*known.photographs, *map(read_photograph, files)),
        )


def _second_head() -> Tensor:
    """Subject S1 of pycortex, found where pip has put it, its noise smoothed away."""
    try:
        files = importlib.metadata.files("pycortex") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(
            "the wider set of heads needs pycortex: pip install 'lmaps-science[heads]'"
        ) from error
    found = [f for f in files if f.as_posix().endswith("db/S1/anatomicals/raw.nii.gz")]
    if not found:
        raise FileNotFoundError(
            "this pycortex lacks the anatomy of S1: pip install --force-reinstall pycortex."
        )
    volume = read_volume(Path(str(found[0].locate()))) / 170
    at = torch.nonzero(volume > 0.12)
    cut = tuple(slice(int(a), int(b) + 1) for a, b in zip(at.amin(0), at.amax(0), strict=True))
    return denoised(volume[cut].clamp(0, 1), 0.06)


@dataclass(frozen=True)
class Heads:
    """An endless, reproducible set of complex slices: item `k` depends on `seed` and `k`.

    Items are as those of `BrainSlices`.

    Args:
        npix: pixels along each side.
        seed: images of different seeds are independent: hold out a test set by its seed.
        sources: what to slice; default: the installed ones, see `Specimens.installed`.
        tissues, photographs: shares of the items among those of the specimens.
    """

    npix: int = 128
    seed: int = 0
    sources: Specimens = field(default_factory=Specimens.installed, repr=False)
    tissues: float = 0.20
    photographs: float = 0.12
    value_range = (-1.0, 1.0)

    def __post_init__(self) -> None:
        if self.npix < 16:
            raise ValueError(f"Heads needs npix >= 16, got {self.npix}, e.g. 128.")

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        if index < 0:
            raise IndexError("the set has no end, so no negative index")
        rng = np.random.default_rng([_STREAM, self.seed, index])
        shares = [s.share for s in self.sources.specimens] + [self.tissues, self.photographs]
        kind = int(rng.choice(len(shares), p=np.array(shares) / sum(shares)))
        if kind < len(self.sources.specimens):
            magnitude, fat = _specimen_slice(rng, self.sources.specimens[kind], self.npix)
        elif kind == len(self.sources.specimens):
            magnitude = _tissue_slice(rng, self.sources.tissues, self.npix)
            fat = torch.zeros_like(magnitude)
        else:
            magnitude = photographed(rng, self.sources.photographs, self.npix)
            fat = torch.zeros_like(magnitude)
        return complex_image(rng, magnitude, fat)

    def batch(self, start: int, count: int) -> NDArray[np.float32]:
        """Items `start` to `start + count`, shape (count, 2, npix, npix)."""
        return np.stack([self[k] for k in range(start, start + count)])


# ---------------------------------------------------------------- drawing


def _specimen_slice(
    rng: np.random.Generator, specimen: Specimen, npix: int
) -> tuple[Tensor, Tensor]:
    """A slice of a head, or in one of six of its brain alone, and its share of fat."""
    alone = rng.random() < 1 / 6
    chance = rng.random()
    if chance < 0.45:
        contrast = random_tone(rng)
    elif chance < 0.92:
        contrast = head_contrast(random_sequence(rng), specimen.levels)
    else:
        signals = torch.tensor(rng.uniform(0.03, 1.0, 5), dtype=torch.float32)
        contrast = head_contrast(signals, specimen.levels)

    def look(plane: Plane, places: Tensor, depths: int) -> Tensor:
        layers = [plane.look(v, places, depths) for v in (specimen.intensity[None], specimen.maps)]
        stack = torch.cat(layers)
        return torch.stack([stack[0] * stack[1], stack[1], 0 * stack[2]]) if alone else stack

    layers, image = _drawn(rng, npix, specimen.size_mm, specimen.middle, look, contrast)
    return image, layers[2]


def _tissue_slice(rng: np.random.Generator, tissues: Tensor, npix: int) -> Tensor:
    """A slice of the fractions of tissues, in a random sequence or with random signals."""
    decided = rng.random() < 0.6
    contrast = tissue_contrast(random_sequence(rng)) if decided else random_tissue_contrast(rng)
    size = torch.tensor(tissues.shape[1:]).float()

    def look(plane: Plane, places: Tensor, depths: int) -> Tensor:
        return plane.look(tissues, places, depths)

    return _drawn(rng, npix, size, size / 2, look, contrast)[1]


def _drawn(
    rng: np.random.Generator,
    npix: int,
    size: Tensor,
    middle: Tensor,
    look: Callable[[Plane, Tensor, int], Tensor],
    contrast: Contrast,
) -> tuple[Tensor, Tensor]:
    """Layers of a random slice and its signal, of unit scale."""
    turn = random_rotation(rng)
    centre = middle + size * torch.tensor(rng.uniform(-0.3, 0.3, 3) * normal_of(turn))
    plane = Plane(turn, centre, rng.uniform(0.0, 3.0), size)
    whole = rng.random() < 0.25
    pixel = rng.uniform(220, 280) / npix if whole else np.exp(rng.uniform(*np.log([0.6, 1.4])))
    layers = look(plane, _places(rng, npix, float(pixel)), 3)
    coarse = torch.linspace(-95, 95, 40)
    overview = contrast(look(plane, flat_places(coarse, coarse), 1))
    brightest = torch.quantile(overview, 0.99).clamp_min(0.05)
    image = contrast(layers) / brightest * rng.uniform(0.9, 1.1)
    return layers, textured(rng, image)


def _places(rng: np.random.Generator, npix: int, pixel: float) -> Tensor:
    """Where the pixels lie in mm (3, npix, npix): rows, columns and depth of a bent plane.

    Stretched and sheared, then bent at 20 to 60 mm and at 8 to 20 mm, by so small a share of that
    length that the tissue hardly folds over; out of the plane, too, so that no two slices of the
    same head show the same folds.
    """
    steps = (torch.arange(npix) - (npix - 1) / 2).float() * pixel
    rows, columns, flat = flat_places(steps, steps)
    stretch, shear = rng.uniform(0.86, 1.16, 2), rng.uniform(-0.08, 0.08, 2)
    reach = max(0.0, 85.0 - 0.4 * pixel * npix)
    away = rng.uniform(-reach, reach, 2)
    places = torch.stack(
        [
            stretch[0] * (rows + away[0]) + shear[0] * columns,
            stretch[1] * (columns + away[1]) + shear[1] * rows,
            flat,
        ]
    )
    for shortest, longest, share in ((20, 60, 0.12), (8, 20, 0.05)):
        length = rng.uniform(shortest, longest)
        bend = smooth_fields(rng, npix, 3, length / pixel)
        places += bend * rng.uniform(0, share * length)
    return places

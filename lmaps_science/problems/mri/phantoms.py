"""Complex MR images of heads, drawn at random from published anatomy, to train priors.

Anatomy: the MNI152 template (T1, grey and white matter; package nilearn) and one head at high
contrast (Colin27, `ch2` and `ch2better` of Debian's mricron-data). What varies, so that the prior
learns anatomy in general and not these heads: orientation, position, slice thickness, size, shape
(affine and elastic), the contrast of every tissue, texture, lesions, vessels, receive bias and
phase, that of the scalp's fat among it, which precesses at another frequency than water does. Some
items are photographs, for edges and texture of any kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmaps_science.problems.mri.drawing import (
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
from lmaps_science.problems.mri.volumes import (
    package_folder,
    read_photograph,
    read_volume,
    scalp_fat,
    twice_as_fine,
)

__all__ = ["Anatomy", "BrainSlices"]

FAMILIES = {"head": 0.47, "brain": 0.25, "tissues": 0.20, "photograph": 0.08}
MRICRON = Path("/usr/share/mricron/templates")  # where Debian's mricron-data puts them
_PHOTOGRAPHS = (
    "astronaut brick camera chelsea coffee coins grass gravel ihc moon motorcycle_left retina "
    "rocket"
)
_STREAM = 0xB8A1


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Volumes to slice, and photographs.

    Args:
        head, brain: (D, H, W) intensities in [0, 1], with skull and without.
        fat: (D, H, W) fraction of the scalp's fat in the head.
        tissues: (3, D, H, W) fractions of grey matter, white matter and fluid.
        photographs: grey images in [0, 1], each (H, W) with sides of at least 128.
        voxel_mm: edge of a voxel for each of "head", "brain", "fat", "tissues".
    """

    head: Tensor
    brain: Tensor
    fat: Tensor
    tissues: Tensor
    photographs: tuple[Tensor, ...]
    voxel_mm: Mapping[str, float]

    @classmethod
    @lru_cache(maxsize=1)
    def installed(cls) -> Anatomy:
        """The anatomy of nilearn, mricron-data and scikit-image (extra `brain`; 400 MB as tensors).

        Raises:
            ImportError: nilearn, nibabel or scikit-image is missing.
            FileNotFoundError: mricron-data is missing.
        """
        mni = package_folder("nilearn") / "datasets" / "data"
        for name in ("ch2.nii.gz", "ch2better.nii.gz"):
            if not (MRICRON / name).exists():
                raise FileNotFoundError(
                    f"{MRICRON / name} is missing: install Debian's mricron-data, e.g. apt-get "
                    "install mricron-data."
                )
        grey, white, t1 = (
            read_volume(mni / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz") / 255
            for name in ("gm", "wm", "t1")
        )
        fluid = ((t1 > 0.05) * (1 - grey - white)).clamp_min(0)
        head = ((read_volume(MRICRON / "ch2.nii.gz") - 8) / 170).clamp(0, 1)
        fat = scalp_fat(head)
        folder = package_folder("skimage") / "data"
        files = [next(folder.glob(f"{name}.*")) for name in _PHOTOGRAPHS.split()]
        return cls(
            head=twice_as_fine(head),
            brain=read_volume(MRICRON / "ch2better.nii.gz") / 130,
            fat=fat,
            tissues=torch.stack([grey, white, fluid]),
            photographs=tuple(map(read_photograph, files)),
            voxel_mm={"head": 0.5, "brain": 0.5, "fat": 1.0, "tissues": 1.0},
        )


@dataclass(frozen=True)
class BrainSlices:
    """An endless, reproducible set of complex slices: item `k` depends on `seed` and `k`.

    Each item is a float32 array (2, npix, npix), real and imaginary part: a crop of a slice whose
    99th percentile of the magnitude is about 1, free of noise.

    Args:
        npix: pixels along each side, of 0.6 to 2 mm.
        seed: images of different seeds are independent: hold out a test set by its seed.
        anatomy: what to slice; default: the installed one, see `Anatomy.installed`.
        whole: the whole head within the field of view, as a scan has it, instead of a crop.
    """

    npix: int = 128
    seed: int = 0
    anatomy: Anatomy = field(default_factory=Anatomy.installed, repr=False)
    whole: bool = False
    value_range = (-1.0, 1.0)

    def __post_init__(self) -> None:
        if self.npix < 16:
            raise ValueError(f"BrainSlices needs npix >= 16, got {self.npix}, e.g. 128.")

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        if index < 0:
            raise IndexError("the set has no end, so no negative index")
        rng = np.random.default_rng([_STREAM, self.seed, index])
        chances = {k: p for k, p in FAMILIES.items() if not (self.whole and k == "photograph")}
        shares = np.array(list(chances.values()))
        family = str(rng.choice(list(chances), p=shares / shares.sum()))
        if family == "photograph":
            magnitude = photographed(rng, self.anatomy.photographs, self.npix)
            fat = torch.zeros_like(magnitude)
        else:
            magnitude, fat = _sliced(rng, self.anatomy, family, self.npix, self.whole)
        return complex_image(rng, magnitude, fat)

    def batch(self, start: int, count: int) -> NDArray[np.float32]:
        """Items `start` to `start + count`, shape (count, 2, npix, npix)."""
        return np.stack([self[k] for k in range(start, start + count)])


def _sliced(
    rng: np.random.Generator, anatomy: Anatomy, family: str, npix: int, whole: bool
) -> tuple[Tensor, Tensor]:
    """A slice in any orientation, deformed, with a contrast of its own, and its fraction of fat."""
    volume = getattr(anatomy, family)
    volume = volume[None] if volume.ndim == 3 else volume
    size = torch.tensor(volume.shape[1:]) * anatomy.voxel_mm[family]
    turn = random_rotation(rng)
    centre = size * torch.tensor(0.5 + rng.uniform(-0.3, 0.3, 3) * normal_of(turn))
    # A tenth shows the head whole, so that the network has seen how much air a whole image holds.
    pixel = np.exp(rng.uniform(np.log(0.6), np.log(1.3))) if rng.random() < 0.8 else 1.7
    stretch = rng.uniform(0.88, 1.14, 2)
    if whole:
        pixel = rng.uniform(250, 290) / npix
    reach = max(0.0, 100.0 - 0.4 * pixel * npix)
    away = torch.tensor(rng.uniform(-reach, reach, 2) * stretch)
    thickness = rng.uniform(0.0, 3.0)

    plane = Plane(turn, centre, thickness, size)
    steps = (torch.arange(npix) - (npix - 1) / 2).float() * float(pixel)
    places = flat_places(steps * stretch[0], steps * stretch[1])
    bend = smooth_fields(rng, npix, 2, rng.uniform(12, 40)) * rng.uniform(0, 4)
    places[:2] += bend
    places[:2] += away[:, None, None].float()
    layers = plane.look(volume, places, 3)
    fat = plane.look(anatomy.fat[None], places, 3)[0] if family == "head" else 0 * layers[0]
    coarse = torch.linspace(-95, 95, 40)
    overview = plane.look(volume, flat_places(coarse, coarse), 1)
    contrast = random_tissue_contrast(rng) if family == "tissues" else random_tone(rng)
    brightest = torch.quantile(contrast(overview), 0.99).clamp_min(0.05)
    image = contrast(layers) / brightest * rng.uniform(0.9, 1.1)
    return textured(rng, image), fat

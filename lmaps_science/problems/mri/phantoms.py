"""Complex MR images of heads, drawn at random from published anatomy, to train priors.

Anatomy: the MNI152 template (T1, grey and white matter; package nilearn) and one head at high
contrast (Colin27, `ch2` and `ch2better` of Debian's mricron-data). What varies, so that the prior
learns anatomy in general and not these heads: orientation, position, slice thickness, size, shape
(affine and elastic), the contrast of every tissue, texture, lesions, vessels, receive bias and
phase, that of the scalp's fat among it, which precesses at another frequency than water does. Some
items are photographs, for edges and texture of any kind.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from lmaps_science.cards.kind import Recipe
from lmaps_science.training import PRECISE, song_unet

__all__ = ["Anatomy", "BrainSlices"]

FAMILIES = {"head": 0.47, "brain": 0.25, "tissues": 0.20, "photograph": 0.08}
_MRICRON = Path("/usr/share/mricron/templates")  # where Debian's mricron-data puts them
_PHOTOGRAPHS = (
    "astronaut brick camera chelsea coffee coins grass gravel ihc moon motorcycle_left retina "
    "rocket"
)
_STREAM = 0xB8A1
Contrast = Callable[[Tensor], Tensor]  # layers of a volume (C, H, W) to signal (H, W)


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
        mni = _package("nilearn") / "datasets" / "data"
        for name in ("ch2.nii.gz", "ch2better.nii.gz"):
            if not (_MRICRON / name).exists():
                raise FileNotFoundError(
                    f"{_MRICRON / name} is missing: install Debian's mricron-data, e.g. apt-get "
                    "install mricron-data."
                )
        grey, white, t1 = (
            _volume(mni / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz") / 255
            for name in ("gm", "wm", "t1")
        )
        fluid = ((t1 > 0.05) * (1 - grey - white)).clamp_min(0)
        head = ((_volume(_MRICRON / "ch2.nii.gz") - 8) / 170).clamp(0, 1)
        fat = _scalp(head)
        # Linear interpolation blurs; on a grid twice as fine it hardly does.
        head = F.interpolate(head[None, None], scale_factor=2, mode="trilinear")[0, 0]
        folder = _package("skimage") / "data"
        files = [next(folder.glob(f"{name}.*")) for name in _PHOTOGRAPHS.split()]
        return cls(
            head=_sharpened(head),
            brain=_volume(_MRICRON / "ch2better.nii.gz") / 130,
            fat=fat,
            tissues=torch.stack([grey, white, fluid]),
            photographs=tuple(map(_photograph, files)),
            voxel_mm={"head": 0.5, "brain": 0.5, "fat": 1.0, "tissues": 1.0},
        )


@dataclass(frozen=True)
class BrainSlices:
    """An endless, reproducible set of complex slices: item ``k`` depends on ``seed`` and ``k``.

    Each item is a float32 array (2, npix, npix), real and imaginary part: a crop of a slice whose
    99th percentile of the magnitude is about 1, free of noise.

    Args:
        npix: pixels along each side, of 0.6 to 2 mm.
        seed: images of different seeds are independent: hold out a test set by its seed.
        anatomy: what to slice; default: the installed one, see :meth:`Anatomy.installed`.
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
            magnitude = _photographed(rng, self.anatomy, self.npix)
            fat = torch.zeros_like(magnitude)
        else:
            magnitude, fat = _sliced(rng, self.anatomy, family, self.npix, self.whole)
        magnitude = _extras(rng, magnitude) * _bias(rng, self.npix)
        phase = _phase(rng, self.npix)
        signal = torch.polar(magnitude, phase) * _shifted(rng, fat)
        image = torch.view_as_real(signal).permute(2, 0, 1)
        turned = torch.rot90(image, int(rng.integers(4)), (1, 2))
        return np.ascontiguousarray(turned.flip(1) if rng.random() < 0.5 else turned)

    def batch(self, start: int, count: int) -> NDArray[np.float32]:
        """Items ``start`` to ``start + count``, shape (count, 2, npix, npix)."""
        return np.stack([self[k] for k in range(start, start + count)])


# How the shipped prior was trained: on crops, and without attention but in the middle, so that it
# serves images of any size.
RECIPES = {
    "brain": Recipe(
        lambda npix, seed: BrainSlices(npix, seed),
        128,
        song_unet(
            patch=2, sigma_data=0.4, model_channels=32, channel_mult=[1, 2, 4], attn_resolutions=[]
        ),
        replace(PRECISE, log_sigma_mean=-1.2),
    ),
}


# ---------------------------------------------------------------- loading


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"brain images need {name}: pip install 'lmaps-science[brain]'")
    return Path(found.submodule_search_locations[0])


def _volume(path: Path) -> Tensor:
    try:
        import nibabel
    except ImportError as error:
        raise ImportError(
            "brain images need nibabel: pip install 'lmaps-science[brain]'"
        ) from error
    data = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)  # type: ignore[attr-defined]
    return torch.from_numpy(np.ascontiguousarray(np.squeeze(data)))


def _photograph(path: Path) -> Tensor:
    from matplotlib.image import imread

    pixels = np.asarray(imread(path), dtype=np.float32)
    grey = pixels[..., :3].mean(-1) if pixels.ndim == 3 else pixels
    return torch.from_numpy(grey / grey.max())


def _sharpened(volume: Tensor) -> Tensor:
    """What linear interpolation by two took away, roughly put back."""
    blurred = F.avg_pool3d(volume[None, None], 3, stride=1, padding=1)[0, 0]
    return (volume + 0.8 * (volume - blurred)).clamp(0, 1)


def _scalp(head: Tensor) -> Tensor:
    """The fraction of fat in a head of 1 mm voxels: what is bright within a centimetre of the air.

    The muscle and the skin in it are taken for fat, too.
    """
    outside = ~ndimage.binary_fill_holes(head.numpy() > 0.15)
    depth = torch.from_numpy(ndimage.distance_transform_edt(~outside)).float()
    return ((11 - depth) / 2).clamp(0, 1) * ((head - 0.25) / 0.2).clamp(0, 1)


# ---------------------------------------------------------------- drawing


def _sliced(
    rng: np.random.Generator, anatomy: Anatomy, family: str, npix: int, whole: bool
) -> tuple[Tensor, Tensor]:
    """A slice in any orientation, deformed, with a contrast of its own, and its fraction of fat."""
    volume = getattr(anatomy, family)
    volume = volume[None] if volume.ndim == 3 else volume
    size = torch.tensor(volume.shape[1:]) * anatomy.voxel_mm[family]
    turn = _rotation(rng)
    centre = size * torch.tensor(0.5 + rng.uniform(-0.3, 0.3, 3) * _normal_of(turn))
    # A tenth shows the head whole, so that the network has seen how much air a whole image holds.
    pixel = np.exp(rng.uniform(np.log(0.6), np.log(1.3))) if rng.random() < 0.8 else 1.7
    stretch = rng.uniform(0.88, 1.14, 2)
    if whole:
        pixel = rng.uniform(250, 290) / npix
    reach = max(0.0, 100.0 - 0.4 * pixel * npix)
    away = torch.tensor(rng.uniform(-reach, reach, 2) * stretch)
    thickness = rng.uniform(0.0, 3.0)

    def look(volume: Tensor, rows: Tensor, columns: Tensor, depths: int) -> Tensor:
        layers = torch.zeros(len(volume), *rows.shape)
        for depth in np.linspace(-0.5, 0.5, depths) * thickness * (depths > 1):
            flat = torch.stack([rows, columns, torch.full_like(rows, depth)], -1)
            layers += _trilinear(volume, flat @ turn.T.float() + centre.float(), size)
        return layers / depths

    steps = (torch.arange(npix) - (npix - 1) / 2).float() * float(pixel)
    rows, columns = torch.meshgrid(steps * stretch[0], steps * stretch[1], indexing="ij")
    bend = _smooth(rng, npix, 2, rng.uniform(12, 40)) * rng.uniform(0, 4)
    rows, columns = rows + bend[0] + away[0], columns + bend[1] + away[1]
    layers = look(volume, rows, columns, 3)
    fat = look(anatomy.fat[None], rows, columns, 3)[0] if family == "head" else 0 * layers[0]
    coarse = torch.linspace(-95, 95, 40)
    overview = look(volume, coarse[:, None].expand(40, 40), coarse.expand(40, 40), 1)
    contrast = _tissue_contrast(rng) if family == "tissues" else _tone(rng)
    brightest = torch.quantile(contrast(overview), 0.99).clamp_min(0.05)
    image = contrast(layers) / brightest * rng.uniform(0.9, 1.1)
    return _textured(rng, image), fat


def _photographed(rng: np.random.Generator, anatomy: Anatomy, npix: int) -> Tensor:
    picture = anatomy.photographs[rng.integers(len(anatomy.photographs))]
    side = int(min(*picture.shape, npix * rng.uniform(0.8, 3.0)))
    top, left = (int(rng.integers(n - side + 1)) for n in picture.shape)
    crop = picture[None, None, top : top + side, left : left + side]
    crop = F.interpolate(crop, (npix, npix), mode="bilinear", antialias=True)[0, 0]
    return crop / torch.quantile(crop, 0.99).clamp_min(0.05)


def _rotation(rng: np.random.Generator) -> Tensor:
    """An axis-aligned orientation, tilted by up to about 15 degrees, or by any angle."""
    axes = np.eye(3)[rng.permutation(3)]
    q = np.concatenate([[1.0], rng.normal(0, 0.09 if rng.random() < 0.8 else 1.0, 3)])
    w, x, y, z = q / np.linalg.norm(q)
    tilt = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return torch.tensor(tilt @ axes)


def _normal_of(turn: Tensor) -> np.ndarray:
    """How far each axis of the volume points out of the slice: where slices differ."""
    return np.abs(turn[:, 2].numpy())


def _trilinear(volume: Tensor, points: Tensor, size: Tensor) -> Tensor:
    """Values (C, H, W) of a volume (C, D, H, W) at points (H, W, 3) in mm; 0 outside."""
    grid = (2 * points / size.float() - 1).flip(-1)[None, None]
    return F.grid_sample(volume[None], grid, align_corners=False)[0, :, 0]


def _tone(rng: np.random.Generator) -> Contrast:
    """A random curve from intensity to signal: T1-like three times of four, else of any shape."""
    knots = np.linspace(0, 1, 6)
    if rng.random() < 0.75:
        levels = knots ** np.exp(rng.normal(0, 0.35)) + 0.07 * rng.normal(size=6)
    else:
        levels = rng.uniform(0.05, 1, 6)
    levels[0] = 0.0  # air
    levels = np.clip(levels, 0, None)

    def contrast(layers: Tensor) -> Tensor:
        values = np.interp(layers[0].numpy(), knots, levels)
        return torch.from_numpy(values.astype(np.float32))

    return contrast


def _tissue_contrast(rng: np.random.Generator) -> Contrast:
    """A random signal for grey matter, white matter and fluid; fractions made more decided."""
    signal = torch.tensor(rng.uniform(0.03, 1.0, 3), dtype=torch.float32)[:, None, None]
    power = float(np.exp(rng.uniform(0, 1.2)))

    def contrast(layers: Tensor) -> Tensor:
        total = layers.sum(0)
        sharp = layers.clamp_min(0) ** power
        return (signal * sharp).sum(0) / sharp.sum(0).clamp_min(1e-3) * total.clamp(0, 1)

    return contrast


def _smooth(rng: np.random.Generator, npix: int, channels: int, length: float) -> Tensor:
    """Random fields (channels, npix, npix) of unit variance (about) and this correlation length."""
    nodes = max(3, round(npix / length) + 3)
    values = torch.tensor(rng.normal(size=(1, channels, nodes, nodes)), dtype=torch.float32)
    fine = round(npix * nodes / max(nodes - 2, 1))
    field = F.interpolate(values, (fine, fine), mode="bicubic", align_corners=False)[0]
    start = (fine - npix) // 2
    return 1.3 * field[:, start : start + npix, start : start + npix]


def _textured(rng: np.random.Generator, image: Tensor) -> Tensor:
    """Fine variation in proportion to the signal, and sharper edges, at times."""
    if rng.random() < 0.5:
        blurred = F.avg_pool2d(image[None, None], 3, stride=1, padding=1)[0, 0]
        image = (image + rng.uniform(0, 1.2) * (image - blurred)).clamp_min(0)
    if rng.random() < 0.4:
        texture = _smooth(rng, len(image), 1, rng.uniform(1.5, 6))[0]
        image = image * (1 + rng.uniform(0, 0.08) * texture).clamp_min(0)
    return image


def _extras(rng: np.random.Generator, image: Tensor) -> Tensor:
    """Lesions and vessels, where there is signal."""
    npix = len(image)
    rows, columns = torch.meshgrid(*[torch.arange(npix).float()] * 2, indexing="ij")
    inside = image > 0.1
    if rng.random() < 0.25:
        for _ in range(rng.integers(1, 4)):
            at, widths = rng.uniform(0, npix, 2), rng.uniform(1.5, 10, 2)
            angle = rng.uniform(0, np.pi)
            a = (rows - at[0]) * np.cos(angle) + (columns - at[1]) * np.sin(angle)
            b = (columns - at[1]) * np.cos(angle) - (rows - at[0]) * np.sin(angle)
            radius = ((a / widths[0]) ** 2 + (b / widths[1]) ** 2).sqrt()
            shape = torch.sigmoid((1 - radius) * rng.uniform(2, 8))
            image = image + inside * shape * (rng.uniform(0, 1.2) - image)
    if rng.random() < 0.4:
        for _ in range(rng.integers(1, 5)):
            path = rng.uniform(0, npix, 2) + np.cumsum(
                0.5 * rng.normal(0, 1, 2) + 0.2 * np.cumsum(rng.normal(0, 0.3, (80, 2)), 0), 0
            )
            line, width = torch.zeros(npix, npix), rng.uniform(0.5, 2.0)
            for r, c in path[((path > 2) & (path < npix - 3)).all(1)]:
                i, j = int(r), int(c)
                patch = (rows[i - 2 : i + 4, j - 2 : j + 4] - r) ** 2
                patch = patch + (columns[i - 2 : i + 4, j - 2 : j + 4] - c) ** 2
                window = line[i - 2 : i + 4, j - 2 : j + 4]
                torch.maximum(window, torch.exp(-patch / width), out=window)
            image = image + inside * line * (rng.uniform(0, 1.4) - image)
    return image.clamp(0, 2.5)


def _bias(rng: np.random.Generator, npix: int) -> Tensor:
    return torch.exp(rng.uniform(0, 0.25) * _smooth(rng, npix, 1, rng.uniform(50, 150))[0])


def _shifted(rng: np.random.Generator, fat: Tensor) -> Tensor:
    """What the chemical shift of fat does to the signal: another phase, by the echo time."""
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.6 else 0.0
    return 1 + fat * (np.exp(1j * angle) - 1)


def _phase(rng: np.random.Generator, npix: int) -> Tensor:
    """A smooth phase: constant, slope, curvature, and slow waves."""
    grid = torch.linspace(-1, 1, npix)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    strength = rng.choice([0.1, 0.5, 1.0, 2.0])
    a = strength * rng.normal(0, [1.2, 1.2, 0.5, 0.5, 0.5])
    phase = a[0] * x + a[1] * y + a[2] * x * x + a[3] * x * y + a[4] * y * y
    waves = _smooth(rng, npix, 1, rng.uniform(20, 80))[0]
    return phase + 0.3 * strength * waves + rng.uniform(0, 2 * np.pi)

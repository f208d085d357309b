"""What random images of heads are made of: planes, contrasts, textures, lesions, phases.

Every function draws from the generator it is given, in a fixed order, so that an item of a set
depends on its key alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "Contrast",
    "Plane",
    "complex_image",
    "fat_shift",
    "flat_places",
    "normal_of",
    "photographed",
    "random_bias",
    "random_phase",
    "random_rotation",
    "random_tissue_contrast",
    "random_tone",
    "smooth_fields",
    "textured",
    "with_extras",
]

Contrast = Callable[[Tensor], Tensor]  # layers of a volume (C, H, W) to signal (H, W)


@dataclass(frozen=True, eq=False)
class Plane:
    """A slice through a volume.

    Args:
        turn: (3, 3) rotation; the last column is the normal.
        centre: of the slice, in mm from the corner of the volume.
        thickness: of the slice, mm.
        size: edges of the volume, mm.
    """

    turn: Tensor
    centre: Tensor
    thickness: float
    size: Tensor

    def look(self, volume: Tensor, places: Tensor, depths: int) -> Tensor:
        """Values (C, H, W) of a volume (C, D, H, W) at `places`, see `flat_places`.

        The mean over so many `depths` across the thickness; 0 outside of the volume.
        """
        rows, columns, above = places
        layers = torch.zeros(len(volume), *rows.shape)
        for depth in np.linspace(-0.5, 0.5, depths) * self.thickness * (depths > 1):
            local = torch.stack([rows, columns, above + depth], -1)
            points = local @ self.turn.T.float() + self.centre.float()
            layers += _trilinear(volume, points, self.size)
        return layers / depths


def flat_places(rows: Tensor, columns: Tensor) -> Tensor:
    """Places (3, H, W) on a plane, in mm from its centre: along rows, columns and the normal."""
    return torch.stack(
        [*torch.meshgrid(rows, columns, indexing="ij"), torch.zeros(len(rows), len(columns))]
    )


def complex_image(rng: np.random.Generator, magnitude: Tensor, fat: Tensor) -> NDArray[np.float32]:
    """Lesions, vessels, bias and phase on a slice: (2, npix, npix), turned at random."""
    npix = len(magnitude)
    magnitude = with_extras(rng, magnitude) * random_bias(rng, npix)
    phase = random_phase(rng, npix)
    signal = torch.polar(magnitude, phase) * fat_shift(rng, fat)
    image = torch.view_as_real(signal).permute(2, 0, 1)
    turned = torch.rot90(image, int(rng.integers(4)), (1, 2))
    return np.ascontiguousarray(turned.flip(1) if rng.random() < 0.5 else turned)


def normal_of(turn: Tensor) -> NDArray[np.float64]:
    """How far each axis of the volume points out of the slice: where slices differ."""
    return np.abs(turn[:, 2].numpy())


def _trilinear(volume: Tensor, points: Tensor, size: Tensor) -> Tensor:
    """Values (C, H, W) of a volume (C, D, H, W) at points (H, W, 3) in mm; 0 outside."""
    grid = (2 * points / size.float() - 1).flip(-1)[None, None]
    return F.grid_sample(volume[None], grid, align_corners=False)[0, :, 0]


def photographed(rng: np.random.Generator, photographs: Sequence[Tensor], npix: int) -> Tensor:
    """A crop (npix, npix) of one of the photographs, of the scale of the slices."""
    picture = photographs[int(rng.integers(len(photographs)))]
    side = int(min(*picture.shape, npix * rng.uniform(0.8, 3.0)))
    top, left = (int(rng.integers(n - side + 1)) for n in picture.shape)
    crop = picture[None, None, top : top + side, left : left + side]
    crop = F.interpolate(crop, (npix, npix), mode="bilinear", antialias=True)[0, 0]
    return crop / torch.quantile(crop, 0.99).clamp_min(0.05)


def random_rotation(rng: np.random.Generator) -> Tensor:
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


def random_tone(rng: np.random.Generator) -> Contrast:
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


def random_tissue_contrast(rng: np.random.Generator) -> Contrast:
    """A random signal for grey matter, white matter and fluid; fractions made more decided."""
    signal = torch.tensor(rng.uniform(0.03, 1.0, 3), dtype=torch.float32)[:, None, None]
    power = float(np.exp(rng.uniform(0, 1.2)))

    def contrast(layers: Tensor) -> Tensor:
        total = layers.sum(0)
        sharp = layers.clamp_min(0) ** power
        return (signal * sharp).sum(0) / sharp.sum(0).clamp_min(1e-3) * total.clamp(0, 1)

    return contrast


def smooth_fields(rng: np.random.Generator, npix: int, channels: int, length: float) -> Tensor:
    """Random fields (channels, npix, npix) of unit variance (about) and this correlation length."""
    nodes = max(3, round(npix / length) + 3)
    values = torch.tensor(rng.normal(size=(1, channels, nodes, nodes)), dtype=torch.float32)
    fine = round(npix * nodes / max(nodes - 2, 1))
    field = F.interpolate(values, (fine, fine), mode="bicubic", align_corners=False)[0]
    start = (fine - npix) // 2
    return 1.3 * field[:, start : start + npix, start : start + npix]


def textured(rng: np.random.Generator, image: Tensor) -> Tensor:
    """Fine variation in proportion to the signal, and sharper edges, at times."""
    if rng.random() < 0.5:
        blurred = F.avg_pool2d(image[None, None], 3, stride=1, padding=1)[0, 0]
        image = (image + rng.uniform(0, 1.2) * (image - blurred)).clamp_min(0)
    if rng.random() < 0.4:
        texture = smooth_fields(rng, len(image), 1, rng.uniform(1.5, 6))[0]
        image = image * (1 + rng.uniform(0, 0.08) * texture).clamp_min(0)
    return image


def with_extras(rng: np.random.Generator, image: Tensor) -> Tensor:
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


def random_bias(rng: np.random.Generator, npix: int) -> Tensor:
    """The receive bias left in an image: a smooth factor about 1."""
    return torch.exp(rng.uniform(0, 0.25) * smooth_fields(rng, npix, 1, rng.uniform(50, 150))[0])


def fat_shift(rng: np.random.Generator, fat: Tensor) -> Tensor:
    """What the chemical shift of fat does to the signal: another phase, by the echo time."""
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.6 else 0.0
    return 1 + fat * (np.exp(1j * angle) - 1)


def random_phase(rng: np.random.Generator, npix: int) -> Tensor:
    """A smooth phase: constant, slope, curvature, and slow waves."""
    grid = torch.linspace(-1, 1, npix)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    strength = rng.choice([0.1, 0.5, 1.0, 2.0])
    a = strength * rng.normal(0, [1.2, 1.2, 0.5, 0.5, 0.5])
    phase = a[0] * x + a[1] * y + a[2] * x * x + a[3] * x * y + a[4] * y * y
    waves = smooth_fields(rng, npix, 1, rng.uniform(20, 80))[0]
    return phase + 0.3 * strength * waves + rng.uniform(0, 2 * np.pi)

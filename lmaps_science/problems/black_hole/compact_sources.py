"""Images of compact radio sources, wider than `phantoms`.

At most half of them have a ring or a cavity, so that a prior trained on them has to find a ring in
the data. With one (`HOLLOW`):

* `disc`: the relativistic accretion disc of `BlackHoleImages`, from small to large;
* `photon_ring`: a thin ring over a diffuse disc with a shadow;
* `eruption`: a magnetically arrested flow with flux tubes (arcs) and low-density bubbles;
* `spiral`: spiral shocks in an inclined flow;
* `hot_spots`: orbiting spots, sheared into arcs, over a flow;
* `ring`: geometric rings and crescents.

Without any:

* `jet`: one-sided or two-sided, with or without a gap at the core, limb-brightened or filled;
* `thick_flow`: filled discs and thick flows, up to edge-on, boosted on one side;
* `simple`: Gaussians, doubles, discs, core-jets and clouds of `BlackHoleImages`;
* `binary`: two compact sources, possibly with a bridge;
* `bent`: components along a curved line;
* `cloud`: turbulent clouds and filaments.

Any of them may be optically thick, truncated, off centre or blurred and have spots, a companion
or a halo, each between as bright as the source and a hundred times fainter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lmaps_science.problems.black_hole import phantoms as black_hole
from lmaps_science.problems.black_hole.compact_painters import (
    PAINTERS,
    contrast,
    log_uniform,
    rotated,
)

Array = NDArray[np.floating]

FAMILIES = {
    "disc": 0.13,
    "photon_ring": 0.06,
    "eruption": 0.09,
    "spiral": 0.06,
    "hot_spots": 0.05,
    "ring": 0.09,
    "jet": 0.14,
    "thick_flow": 0.14,
    "simple": 0.08,
    "binary": 0.06,
    "bent": 0.06,
    "cloud": 0.04,
}
HOLLOW = ("disc", "photon_ring", "eruption", "spiral", "hot_spots", "ring")
_NAMES, _SHARES = tuple(FAMILIES), np.cumsum(list(FAMILIES.values()))
_SUPERSAMPLING = 2  # a photon ring is thinner than a pixel: render finer, then average
_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
_LARGEST_BLUR = 20.0  # FWHM in microarcseconds: the beam of the Event Horizon Telescope
_STREAM = 0xC0DE5  # other random numbers than those of BlackHoleImages at the same seed


@dataclass(frozen=True)
class CompactSources:
    """An endless, reproducible set of images: item `k` depends on `seed` and `k` alone.

    Args:
        npix: pixels along each side.
        fov_uas: field of view in microarcseconds.
        seed: images of different seeds are independent: hold out a test set by its seed.

    Each item is a float32 array of shape (1, npix, npix) with values in [0, 1] and peak 1; rows
    run north to south, columns east to west.

    Raises:
        ValueError: `npix` is below 8 or `fov_uas` is not positive.
        IndexError: a negative index.
    """

    npix: int = 64
    fov_uas: float = 160.0
    seed: int = 0
    value_range = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.npix < 8 or not self.fov_uas > 0:
            raise ValueError(
                f"CompactSources needs npix >= 8 and fov_uas > 0, got npix={self.npix}, "
                f"fov_uas={self.fov_uas}. Example: CompactSources(npix=64, fov_uas=160.0)."
            )

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        if index < 0:
            raise IndexError("the set has no end, so no negative index")
        rng = np.random.default_rng([_STREAM, self.seed, index])
        return _image(rng, self.npix, self.fov_uas)

    def family(self, index: int) -> str:
        """Which family item `index` is of: a name in `FAMILIES`."""
        return _family(np.random.default_rng([_STREAM, self.seed, index]))

    def batch(self, start: int, count: int) -> NDArray[np.float32]:
        """Items `start` to `start + count`, shape (count, 1, npix, npix)."""
        return np.stack([self[k] for k in range(start, start + count)])


def _family(rng: np.random.Generator) -> str:
    return _NAMES[min(int(np.searchsorted(_SHARES, rng.random())), len(_NAMES) - 1)]


def _image(rng: np.random.Generator, npix: int, fov: float) -> NDArray[np.float32]:
    painter = PAINTERS[_family(rng)]
    east, north = black_hole._grid(npix, fov)
    offset = rng.normal(0.0, 4.0 if rng.random() < 0.7 else 14.0, 2)
    offset = np.clip(offset, -fov / 5, fov / 5)
    x, y = east - offset[0], north - offset[1]
    image = painter(rng, x, y)
    image = image / image.max()
    if rng.random() < 0.2:  # optically thick: the bright parts saturate
        depth = log_uniform(rng, 0.3, 8.0)
        image = (1.0 - np.exp(-depth * image)) / (1.0 - np.exp(-depth))
    if rng.random() < 0.08:
        image = _truncated(rng, x, y, image)
    image = (image + _extras(rng, x, y, image)) * _window(npix, fov)
    s = _SUPERSAMPLING
    image = image.reshape(npix, s, npix, s).mean(axis=(1, 3))
    if rng.random() < 0.85:
        sigma = _LARGEST_BLUR * rng.beta(1.0, 2.0) / _FWHM
        image = ndimage.gaussian_filter(image, sigma / (fov / npix))
    image = np.clip(image, 0.0, None)
    return (image / image.max()).astype(np.float32)[None]


@lru_cache(maxsize=8)
def _window(npix: int, fov: float) -> Array:
    """1 at the centre, 0 at the edge of the field, which contains the source."""
    distance = np.hypot(*black_hole._grid(npix, fov)) / (fov / 2)
    margin = np.clip((1.05 - distance) / 0.35, 0.0, 1.0)
    return margin**2 * (3.0 - 2.0 * margin)


def _truncated(rng: np.random.Generator, x: Array, y: Array, image: Array) -> Array:
    """Cut by a straight or round edge, behind which a hundredth or more of it remains."""
    along, across = rotated(x, y, rng.uniform(0, 2 * np.pi))
    curvature = rng.uniform(0.0, 0.02)
    edge = along + curvature * across**2 - rng.uniform(-20.0, 15.0)
    remains = contrast(rng)
    cut = image * (remains + (1 - remains) * black_hole._step(edge / log_uniform(rng, 1.5, 8.0)))
    return cut / cut.max()


def _extras(rng: np.random.Generator, x: Array, y: Array, image: Array) -> Array:
    """Spots, a companion and a halo, relative to an image of peak 1."""
    extra = np.zeros_like(image)
    if rng.random() < 0.2:
        for _ in range(rng.integers(1, 4)):
            x0, y0 = _where_bright(rng, x, y, image)
            spot = black_hole._gaussian(rng, x - x0, y - y0, smallest=3.0, largest=14.0)
            extra = extra + contrast(rng) * spot
    if rng.random() < 0.1:
        dx, dy = rotated(rng.uniform(15.0, 45.0), 0.0, rng.uniform(0, 2 * np.pi))
        extra = extra + contrast(rng) * black_hole._gaussian(rng, x - dx, y - dy, 4.0, 30.0)
    if rng.random() < 0.4:
        dx, dy = rng.normal(0.0, 6.0, 2)
        halo = black_hole._gaussian(rng, x - dx, y - dy, smallest=30.0, largest=85.0)
        extra = extra + contrast(rng) * halo
    return extra


def _where_bright(rng: np.random.Generator, x: Array, y: Array, image: Array) -> tuple:
    """A place drawn from the image's flux: first its row, then its column."""
    rows = np.cumsum(image.sum(axis=1))
    row = min(int(np.searchsorted(rows, rng.random() * rows[-1])), len(rows) - 1)
    columns = np.cumsum(image[row])
    column = min(int(np.searchsorted(columns, rng.random() * columns[-1])), len(columns) - 1)
    return x[row, column], y[row, column]

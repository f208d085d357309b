"""Images of compact radio sources as the Event Horizon Telescope could see them.

Three families, so that a prior trained on them prefers, but does not assume, a ring:

* `disc`: an emitting disc around a Schwarzschild black hole, with light bending, gravitational
  redshift, Doppler beaming, sheared turbulence and a photon ring;
* `ring`: geometric rings and crescents of any width, ellipticity and azimuthal profile;
* `other`: no ring at all: Gaussians, doubles, discs, core-jets, filled clouds.

Any of them may carry hot spots, a jet, diffuse emission, a blur and an offset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Array = NDArray[np.floating]

FAMILIES = {"disc": 0.42, "ring": 0.28, "other": 0.30}
_SUPERSAMPLING = 2  # a photon ring is thinner than a pixel: render finer, then average
_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
# Images and observations are separate random streams even where they share a seed.
_STREAM = 0xB1AC


@dataclass(frozen=True)
class BlackHoleImages:
    """An endless, reproducible set of images: item `k` depends on `seed` and `k` alone.

    Args:
        npix: pixels along each side.
        fov_uas: field of view in microarcseconds.
        seed: images of different seeds are independent: hold out a test set by its seed.

    Each item is a float32 array of shape (1, npix, npix) with values in [0, 1] and peak 1; rows
    run north to south, columns east to west.

    Example:
        >>> images = BlackHoleImages(npix=32, seed=2).batch(0, 3)
        >>> images.shape, float(images.max())
        ((3, 1, 32, 32), 1.0)
    """

    npix: int = 64
    fov_uas: float = 160.0
    seed: int = 0
    value_range = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.npix < 8 or not self.fov_uas > 0:
            raise ValueError(
                f"BlackHoleImages needs npix >= 8 and fov_uas > 0, got npix={self.npix}, "
                f"fov_uas={self.fov_uas}. Example: BlackHoleImages(npix=64, fov_uas=160.0)."
            )

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        if index < 0:
            raise IndexError("the set has no end, so no negative index")
        rng = np.random.default_rng([_STREAM, self.seed, index])
        return _image(rng, self.npix, self.fov_uas)

    def family(self, index: int) -> str:
        """Which family item `index` is of: `disc`, `ring` or `other`."""
        return _family(np.random.default_rng([_STREAM, self.seed, index]))

    def batch(self, start: int, count: int) -> NDArray[np.float32]:
        """Items `start` to `start + count`, shape (count, 1, npix, npix)."""
        return np.stack([self[k] for k in range(start, start + count)])


def _family(rng: np.random.Generator) -> str:
    return str(rng.choice(list(FAMILIES), p=list(FAMILIES.values())))


@lru_cache(maxsize=8)
def _grid(npix: int, fov: float) -> tuple[Array, Array]:
    fine = npix * _SUPERSAMPLING
    axis = (np.arange(fine) - (fine - 1) / 2) * (fov / fine)
    north, west = np.meshgrid(-axis, axis, indexing="ij")
    return -west, north  # (east, north) in microarcseconds


def _image(rng: np.random.Generator, npix: int, fov: float) -> NDArray[np.float32]:
    family = _family(rng)
    east, north = _grid(npix, fov)
    offset = rng.normal(0.0, 4.0 if rng.random() < 0.8 else 12.0, 2)
    x, y = east - offset[0], north - offset[1]
    painter: Callable[[np.random.Generator, Array, Array], Array] = {
        "disc": _disc,
        "ring": _ring,
        "other": _other,
    }[family]
    image = painter(rng, x, y)
    image = image / image.max()
    image = image + _extras(rng, x, y, image)
    if rng.random() < 0.75:
        fwhm = rng.gamma(2.0, 3.0)
        image = ndimage.gaussian_filter(image, fwhm / _FWHM / (fov / image.shape[0]))
    s = _SUPERSAMPLING
    image = image.reshape(npix, s, npix, s).mean(axis=(1, 3))
    image = np.clip(image, 0.0, None)
    return (image / image.max()).astype(np.float32)[None]


# ------------------------------------------------------------------------------ the disc


def _disc(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Emission of an equatorial flow in Schwarzschild spacetime, in units of GM/c^2.

    Beloborodov's bending formula, 1 - cos(alpha) = (1 - cos(psi)) (1 - 2/r), turns the impact
    parameter b into the radius r at which the ray meets the disc by one quadratic equation.
    """
    gravitational_radius = np.exp(rng.uniform(np.log(20.0), np.log(72.0))) / (2 * np.sqrt(27.0))
    inclination = np.arccos(rng.uniform(np.cos(np.radians(75.0)), 1.0))
    rotation = rng.uniform(0.0, 2 * np.pi)
    spin = rng.choice([-1.0, 1.0])
    a = (x * np.cos(rotation) + y * np.sin(rotation)) / gravitational_radius
    b = (-x * np.sin(rotation) + y * np.cos(rotation)) / gravitational_radius
    impact = np.hypot(a, b) + 1e-6

    # Angle at the hole between the observer and the point of the disc behind this pixel.
    sin_i, cos_i = np.sin(inclination), np.cos(inclination)
    sine = b / impact
    cos_psi = -sin_i * sine / np.sqrt(cos_i**2 + (sin_i * sine) ** 2 + 1e-12)
    u = 1.0 - cos_psi
    radius = (np.sqrt(u**4 + (1 - cos_psi**2) * impact**2) - u**2) / (1 - cos_psi**2 + 1e-9)
    radius = np.maximum(radius, 2.0 + 1e-3)
    azimuth = np.arctan2(b / max(cos_i, 0.2), a)

    # Redshift of (sub-)Keplerian flow; its line-of-sight part follows from the impact parameter.
    lapse = np.sqrt(1.0 - 2.0 / radius)
    speed = rng.uniform(0.3, 1.0) * np.minimum(1.0 / np.sqrt(np.maximum(radius - 2.0, 1.0)), 0.75)
    towards = np.clip(spin * sin_i * a * lapse / radius, -1.0, 1.0)
    redshift = lapse * np.sqrt(1 - speed**2) / (1 - speed * towards)

    peak, width = rng.uniform(2.0, 6.5), rng.uniform(0.4, 3.0)
    skew = rng.uniform(-1.5, 1.5)
    profile = np.exp(-0.5 * (skew + np.arcsinh((radius - peak) / width)) ** 2)
    profile = profile / np.hypot(radius - peak, width)
    emission = profile * redshift ** rng.uniform(2.0, 4.5)
    emission = emission * _turbulence(rng, np.log(radius), azimuth, strength=rng.gamma(2.0, 0.3))
    emission = emission / emission.max()

    if rng.random() < 0.8:  # photon ring: the first lensed image, on the critical curve b = sqrt 27
        thickness = rng.uniform(0.15, 0.6)
        ring = np.exp(-0.5 * ((impact - np.sqrt(27.0)) / thickness) ** 2)
        beaming = 1.0 + rng.uniform(0.0, 0.9) * sin_i * spin * a / impact
        emission = emission + rng.uniform(0.1, 1.2) * ring * np.clip(beaming, 0.0, None) ** 2
    return emission


def _turbulence(rng: np.random.Generator, log_radius: Array, azimuth: Array, strength: float):
    """Log-normal texture in (log r, azimuth), sheared into trailing spirals."""
    n = 64
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(n) * n, np.fft.fftfreq(n) * n, indexing="ij"))
    k[0, 0] = np.inf
    spectrum = k ** -rng.uniform(1.3, 2.6)
    texture = fft.ifft2(fft.fft2(rng.normal(size=(n, n))) * spectrum).real
    texture = texture / texture.std()
    pitch = rng.normal(0.0, 2.0)
    rows = log_radius * n / 4.0
    columns = (azimuth + pitch * log_radius) * n / (2 * np.pi)
    sampled = ndimage.map_coordinates(texture, [rows, columns], order=1, mode="grid-wrap")
    return np.exp(strength * sampled)


# ------------------------------------------------------------------------------ rings


def _ring(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """A geometric ring: radial profile times azimuthal harmonics, possibly with a second ring."""
    image = _one_ring(rng, x, y, np.exp(rng.uniform(np.log(9.0), np.log(38.0))))
    if rng.random() < 0.2:
        second = _one_ring(rng, x, y, np.exp(rng.uniform(np.log(9.0), np.log(38.0))))
        image = image / image.max() + rng.uniform(0.1, 0.8) * second / second.max()
    return image


def _one_ring(rng: np.random.Generator, x: Array, y: Array, radius: float) -> Array:
    x, y = _stretched(rng, x, y, 0.75)
    centre = radius * rng.normal(0.0, 0.08, 2)  # an off-centre hole makes a crescent
    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    hole = np.hypot(x - centre[0], y - centre[1])
    width = radius * np.exp(rng.uniform(np.log(0.06), np.log(0.55)))
    kind = rng.integers(3)
    if kind == 0:
        profile = np.exp(-0.5 * ((hole - radius) / width) ** 2)
    elif kind == 1:  # sharp inner edge, long outer tail
        outside = np.clip(hole - radius, 0, None)
        profile = np.exp(-outside / (1.5 * width)) / (1 + np.exp(-(hole - radius) / (0.2 * width)))
    else:  # disc minus disc
        edge = 0.15 * width + 0.5
        profile = _step((radius + width - distance) / edge) * _step((hole - radius) / edge)
        profile = profile + rng.uniform(0, 0.15) * _step((radius + width - distance) / edge)

    phase = rng.uniform(0, 2 * np.pi, 4)
    beaming = rng.uniform(0.0, 0.85)
    azimuthal = (1 + beaming * np.cos(angle - phase[0])) ** rng.uniform(1.0, 3.0)
    for m in (2, 3):
        azimuthal = azimuthal * (1 + rng.uniform(0, 0.35) * np.cos(m * (angle - phase[m - 1])))
    if rng.random() < 0.4:  # spiral arms
        arms, pitch = rng.integers(1, 4), rng.normal(0, 3.0)
        wave = np.cos(arms * (angle - phase[3] + pitch * np.log(distance / radius + 0.1)))
        azimuthal = azimuthal * np.exp(rng.uniform(0.2, 1.2) * wave)
    image = profile * np.clip(azimuthal, 0.0, None)
    if rng.random() < 0.4:
        strength = rng.gamma(2.0, 0.25)
        image = image * _turbulence(rng, np.log(distance / radius + 0.2), angle, strength)
    return image + 1e-9


def _step(t: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-np.clip(4.0 * t, -60, 60)))


def _stretched(rng: np.random.Generator, x: Array, y: Array, least: float) -> tuple[Array, Array]:
    """Coordinates in which a circle is an ellipse of axis ratio >= `least`, any orientation."""
    ratio, angle = np.sqrt(rng.uniform(least, 1.0)), rng.uniform(0, np.pi)
    a = (x * np.cos(angle) + y * np.sin(angle)) * ratio
    b = (-x * np.sin(angle) + y * np.cos(angle)) / ratio
    return a, b


# ------------------------------------------------------------------------------ without a ring


def _other(rng: np.random.Generator, x: Array, y: Array) -> Array:
    kind = rng.choice(
        ["gaussians", "double", "disc", "core-jet", "cloud"], p=[0.3, 0.2, 0.15, 0.15, 0.2]
    )
    if kind == "gaussians":
        image = sum(_blob(rng, x, y, 18.0) for _ in range(rng.integers(1, 5)))
    elif kind == "double":
        separation, angle = rng.uniform(12.0, 75.0), rng.uniform(0, 2 * np.pi)
        dx, dy = 0.5 * separation * np.cos(angle), 0.5 * separation * np.sin(angle)
        image = _gaussian(rng, x - dx, y - dy) + rng.uniform(0.1, 1.0) * _gaussian(
            rng, x + dx, y + dy
        )
    elif kind == "disc":
        a, b = _stretched(rng, x, y, 0.4)
        radius, edge = rng.uniform(8.0, 38.0), rng.uniform(0.8, 6.0)
        tilt = (
            1
            + rng.uniform(0, 0.9) * (a * np.cos(t := rng.uniform(0, 6.3)) + b * np.sin(t)) / radius
        )
        image = _step((radius - np.hypot(a, b)) / edge) * np.clip(tilt, 0.05, None)
    elif kind == "core-jet":
        image = _gaussian(rng, x, y) + rng.uniform(0.2, 1.0) * _jet(rng, x, y)
    else:
        strength = rng.uniform(0.4, 1.5)
        cloud = _turbulence(rng, x / 40.0, y / 12.7, strength)
        image = cloud * _gaussian(rng, x, y, smallest=25.0, largest=80.0)
    return np.asarray(image) + 1e-9


def _gaussian(rng, x: Array, y: Array, smallest: float = 6.0, largest: float = 45.0) -> Array:
    """An elliptical Gaussian of peak 1, FWHM between the limits (microarcseconds)."""
    a, b = _stretched(rng, x, y, 0.2)
    sigma = np.exp(rng.uniform(np.log(smallest), np.log(largest))) / _FWHM
    return np.exp(-0.5 * (a**2 + b**2) / sigma**2)


def _blob(rng: np.random.Generator, x: Array, y: Array, spread: float) -> Array:
    dx, dy = rng.normal(0.0, spread, 2)
    return rng.uniform(0.15, 1.0) * _gaussian(rng, x - dx, y - dy, largest=35.0)


def _jet(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """A limb-brightened cone that widens and fades away from the origin."""
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = -x * np.sin(angle) + y * np.cos(angle)
    across = across - rng.normal(0, 0.004) * along**2
    start = rng.uniform(2.0, 10.0)
    width = start + np.clip(along, 0, None) * np.tan(rng.uniform(0.05, 0.5))
    limbs = np.exp(-0.5 * ((np.abs(across) - 0.7 * width) / (0.45 * width)) ** 2)
    spine = rng.uniform(0.0, 1.0) * np.exp(-0.5 * (across / (0.5 * width)) ** 2)
    fade = np.exp(-np.clip(along, 0, None) / rng.uniform(10.0, 45.0)) * _step(along / start)
    return (limbs + spine) * fade * start / width


def _extras(rng: np.random.Generator, x: Array, y: Array, image: Array) -> Array:
    """Hot spots, a jet and diffuse emission, relative to an image of peak 1."""
    extra = np.zeros_like(image)
    if rng.random() < 0.25:
        rows, columns = np.nonzero(image > 0.2)
        for _ in range(rng.integers(1, 4)):  # hot spots sit where there is emission
            at = rng.integers(len(rows))
            x0, y0 = x[rows[at], columns[at]], y[rows[at], columns[at]]
            spot = _gaussian(rng, x - x0, y - y0, smallest=4.0, largest=14.0)
            extra = extra + rng.uniform(0.1, 0.8) * spot
    if rng.random() < 0.15:
        jet = _jet(rng, x, y)
        extra = extra + rng.uniform(0.05, 0.4) * jet / jet.max()
    if rng.random() < 0.35:
        halo = _gaussian(rng, x, y, smallest=40.0, largest=110.0)
        extra = extra + np.exp(rng.uniform(np.log(0.01), np.log(0.25))) * halo
    return extra

"""Fluorescence-microscopy-like images of cell nuclei, as maps of permittivity contrast.

Stained HL60 nuclei under a wide-field or confocal microscope: one to six smooth, slightly lobed
bodies in a dark field, alone or in clusters, with chromatin texture, darker nucleoli, a brightness
of their own, and the blur of the optics. There is no camera noise: the images are objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Array = NDArray[np.floating]

# Images and whatever else is drawn with the same seed are separate random streams.
_STREAM = 0x4E0C
# Lengths below are in units of a 128th of the field's side, whatever the number of pixels; the
# texture is drawn on that grid, so that a finer image shows the same scene.
_FIELD = 128


@dataclass(frozen=True)
class NucleiImages:
    """An endless, reproducible set of images: item `k` depends on `seed` and `k` alone.

    Args:
        npix: pixels along each side.
        seed: images of different seeds are independent: hold out a test set by its seed.

    Each item is a float32 array of shape (1, npix, npix) with values in [0, 1]: background 0,
    the brightest nucleus between 0.45 and 1. Every nucleus lies inside the field.
    """

    npix: int = 128
    seed: int = 0
    value_range = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.npix < 16:
            raise ValueError(
                f"NucleiImages needs npix >= 16, got {self.npix}: a nucleus of fewer pixels has no "
                "shape. Example: NucleiImages(npix=128)."
            )

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        if index < 0:
            raise IndexError("the set has no end, so no negative index")
        return _image(np.random.default_rng([_STREAM, self.seed, index]), self.npix)

    def batch(self, start: int, count: int) -> NDArray[np.float32]:
        """Items `start` to `start + count`, shape (count, 1, npix, npix)."""
        return np.stack([self[k] for k in range(start, start + count)])


def _image(rng: np.random.Generator, npix: int) -> NDArray[np.float32]:
    texture = _texture(rng, npix)
    image = np.zeros((npix, npix), dtype=np.float32)
    for x, y, radius in _places(rng):
        _paint(rng, image, texture, x, y, radius)
    image = _blurred(rng, image)
    peak = rng.uniform(0.45, 1.0) if rng.random() < 0.6 else 1.0
    image = np.clip(image - 1e-3, 0.0, None)  # the Fourier blur rings below a thousandth
    return (image * (peak / image.max())).astype(np.float32)[None]


def _places(rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Centre and mean radius of each nucleus; a third of them lie against an earlier one."""
    wanted = int(rng.integers(1, 7))
    scale = rng.uniform(0.8, 1.2) * (1.0 if wanted < 4 else 0.85)
    places: list[tuple[float, float, float]] = []
    for _ in range(60):
        if len(places) == wanted:
            break
        radius = scale * rng.uniform(13.0, 21.0)
        room = _FIELD / 2 - 1.4 * radius  # an elongated nucleus reaches 1.35 radii
        x, y = rng.uniform(-room, room, 2)
        if places and rng.random() < 0.35:
            x0, y0, other = places[rng.integers(len(places))]
            angle, gap = rng.uniform(0, 2 * np.pi), rng.uniform(0.88, 1.08) * (radius + other)
            x, y = x0 + gap * np.cos(angle), y0 + gap * np.sin(angle)
        apart = all(np.hypot(x - a, y - b) > 0.87 * (radius + r) for a, b, r in places)
        if apart and max(abs(x), abs(y)) <= room:
            places.append((x, y, radius))
    return places


def _paint(
    rng: np.random.Generator, image: Array, texture: Array, x: float, y: float, radius: float
) -> None:
    """Draw one nucleus into `image`; where two meet, the brighter counts."""
    npix = len(image)
    pixel = _FIELD / npix
    reach = 1.4 * radius
    rows, columns = (
        slice(
            max(0, int((c - reach) / pixel + npix / 2)),
            min(npix, int((c + reach) / pixel + npix / 2) + 2),
        )
        for c in (y, x)
    )
    axis = ((np.arange(npix) + 0.5) * pixel - _FIELD / 2).astype(np.float32)
    dx, dy = axis[None, columns] - np.float32(x), axis[rows, None] - np.float32(y)
    distance = np.hypot(dx, dy) + np.float32(1e-6)
    edge = radius * _outline(rng, dx / distance, dy / distance)
    relative = distance / edge
    inside = np.clip(0.5 + (edge - distance) / 1.5, 0.0, 1.0)  # a border of a pixel and a half

    # Light from the whole thickness (wide field, a dome) or from one plane (confocal, flat)
    dome, strength = rng.uniform(0.15, 0.8), rng.uniform(0.10, 0.32)
    body = 1 - dome * (1 - np.sqrt(np.clip(1 - relative**2, 0, None)))
    rim = rng.uniform(0.0, 0.25) * np.exp(-(((1 - relative) / 0.12) ** 2))
    body = body * np.exp(strength * texture[rows, columns]) + rim
    for _ in range(rng.integers(0, 5)):
        body = body * (1 - _nucleolus(rng, dx, dy, radius))
    brightness = rng.uniform(0.4, 1.0)
    image[rows, columns] = np.maximum(image[rows, columns], brightness * inside * body)


def _outline(rng: np.random.Generator, cosine: Array, sine: Array) -> Array:
    """Distance of the border by direction, 1 on average: an ellipse with a few smooth lobes."""
    elongation, tilt = rng.uniform(1.0, 1.45), rng.uniform(0, 2 * np.pi)
    along = cosine * np.cos(tilt) + sine * np.sin(tilt)
    a, b = np.sqrt(elongation), 1 / np.sqrt(elongation)
    ellipse = 1 / np.sqrt((along / a) ** 2 + (1 - along**2) / b**2)
    direction = cosine + 1j * sine
    power, lobes = direction.astype(np.complex64), np.zeros_like(cosine)
    for order in range(2, 6):
        power = power * direction
        swing = rng.normal(0, 0.25 / order**2, 2)
        lobes = lobes + swing[0] * power.real + swing[1] * power.imag
    return np.minimum(ellipse * np.exp(np.clip(lobes, -0.2, 0.2)), 1.35)


def _nucleolus(rng: np.random.Generator, dx: Array, dy: Array, radius: float) -> Array:
    """How much of the light is missing in a roundish spot that holds little DNA."""
    angle, away = rng.uniform(0, 2 * np.pi), 0.6 * radius * np.sqrt(rng.random())
    size, depth = radius * rng.uniform(0.09, 0.22), rng.uniform(0.25, 0.7)
    squared = (dx - away * np.cos(angle)) ** 2 + (dy - away * np.sin(angle)) ** 2
    return depth * np.exp(-((squared / size**2) ** 2))


@lru_cache(maxsize=8)
def _frequencies(npix: int) -> Array:
    """Squared distance from the origin of the half spectrum, in cycles per field, (n, n//2+1)."""
    rows = np.fft.fftfreq(npix, 1 / npix)[:, None]
    columns = np.arange(npix // 2 + 1)[None]
    return ((rows**2 + columns**2) / _FIELD**2).astype(np.float32)


def _gauss(npix: int, width: float) -> Array:
    """Transfer function of a Gaussian blur whose standard deviation is `width`."""
    return np.exp(-2 * np.pi**2 * width**2 * _frequencies(npix))


def _texture(rng: np.random.Generator, npix: int) -> Array:
    """Chromatin: a random field of unit variance with clumps of two sizes."""
    clumps, grains = rng.uniform(2.2, 4.0), rng.uniform(0.9, 1.5)
    spectrum = fft.rfft2(rng.standard_normal((_FIELD, _FIELD), dtype=np.float32))
    # A Gaussian of width w leaves a variance of 1 / (4 pi w^2): scale each field back to 1.
    coarse, fine = (w * _gauss(_FIELD, w) for w in (clumps, grains))
    mix = rng.uniform(0.5, 0.85)
    spectrum = spectrum * (2 * np.sqrt(np.pi) * (mix * coarse + np.sqrt(1 - mix**2) * fine))
    if npix != _FIELD:
        half = min(npix, _FIELD) // 2  # the frequencies below, of either sign, that both grids hold
        resized = np.zeros((npix, npix // 2 + 1), dtype=spectrum.dtype)
        resized[:half, :half] = spectrum[:half, :half]
        resized[1 - half :, :half] = spectrum[1 - half :, :half]
        spectrum = resized * (npix / _FIELD) ** 2
    field = fft.irfft2(spectrum, s=(npix, npix))
    return field / np.std(field)


def _blurred(rng: np.random.Generator, image: Array) -> Array:
    """The optics: a sharp core and, out of focus, a faint wide halo."""
    haze = rng.uniform(0.0, 0.08)
    core = (1 - haze) * _gauss(len(image), rng.uniform(0.7, 1.6))
    halo = haze * _gauss(len(image), rng.uniform(4.0, 9.0))
    return fft.irfft2(fft.rfft2(image) * (core + halo), s=image.shape)

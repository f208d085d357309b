"""What the images of `CompactSources` are painted of.

A painter takes a random generator and the coordinates east and north of the source's centre, in
microarcseconds, and returns a non-negative image on them, of any scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from lmaps_science.problems.black_hole import phantoms as black_hole

Array = NDArray[np.floating]
Painter = Callable[[np.random.Generator, Array, Array], Array]

_DIAMETERS = (10.0, 90.0)  # of rings and cavities, in microarcseconds
_TEXTURE = 64  # points along each side of a random texture, which repeats itself


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def contrast(rng: np.random.Generator) -> float:
    """What is secondary relative to what is primary: from 1:100 to 1:1."""
    return log_uniform(rng, 0.01, 1.0)


def _of_peak_one(image: Array) -> Array:
    """0 stays 0: a part may lie outside of a small field."""
    return image / max(image.max(), 1e-30)


def together(rng: np.random.Generator, a: Array, b: Array, first: float = 0.5) -> Array:
    """Two parts, each brought to peak 1; `a` is the primary with probability `first`."""
    a, b = _of_peak_one(a), _of_peak_one(b)
    return a + contrast(rng) * b if rng.random() < first else b + contrast(rng) * a


def rotated(x: Any, y: Any, angle: float) -> tuple[Any, Any]:
    """Coordinates of the points (x, y) along axes turned by `angle` (radians)."""
    c, s = np.cos(angle), np.sin(angle)
    return x * c + y * s, y * c - x * s


def normal(t: Array) -> Array:
    return np.exp(-0.5 * t**2)


def around(azimuth: Array, centre: float) -> Array:
    """Azimuth from `centre`, in [-pi, pi)."""
    return (azimuth - centre + np.pi) % (2 * np.pi) - np.pi


def _diameter(rng: np.random.Generator) -> float:
    """Of a ring or a cavity, microarcseconds: any within the limits, most often near 40."""
    low, high = _DIAMETERS
    return float(low * (high / low) ** rng.beta(2.0, 1.5))


def _texture(rng: np.random.Generator, a: Array, b: Array, period: float) -> Array:
    """An isotropic Gaussian field of unit variance and power-law spectrum, sampled at (a, b)."""
    n = _TEXTURE
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(n) * n, np.fft.fftfreq(n) * n, indexing="ij"))
    k[0, 0] = np.inf
    field = fft.ifft2(fft.fft2(rng.normal(size=(n, n))) * k ** -rng.uniform(1.3, 2.6)).real
    at = [a * (n / period), b * (n / period)]
    return ndimage.map_coordinates(field / field.std(), at, order=1, mode="grid-wrap")


# ------------------------------------------------------------------------------ with a cavity


def _disc(rng: np.random.Generator, x: Array, y: Array) -> Array:
    scale = log_uniform(rng, 72.0 / _DIAMETERS[1], 20.0 / _DIAMETERS[0])
    return black_hole._disc(rng, x * scale, y * scale)


def _ring(rng: np.random.Generator, x: Array, y: Array) -> Array:
    scale = log_uniform(rng, 76.0 / _DIAMETERS[1], 18.0 / _DIAMETERS[0])
    return black_hole._ring(rng, x * scale, y * scale)


def _photon_ring(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """A lensed ring on the edge of a shadow in a diffuse disc."""
    radius = 0.5 * _diameter(rng)
    a, b = black_hole._stretched(rng, x, y, 0.85)
    distance, angle = np.hypot(a, b), np.arctan2(b, a)
    ring = normal((distance - radius) / (radius * log_uniform(rng, 0.03, 0.2) + 0.3))
    beaming = rng.uniform(0.0, 0.9, 2)
    phase = rng.uniform(0, 2 * np.pi)
    ring = ring * (1 + beaming[0] * np.cos(angle - phase)) ** 2

    dx, dy = rng.normal(0.0, 0.25 * radius, 2)
    outer = np.hypot(*black_hole._stretched(rng, x - dx, y - dy, 0.4))
    size = min(radius * log_uniform(rng, 0.8, 3.0), 45.0)
    diffuse = np.exp(-((outer / size) ** rng.uniform(0.8, 3.0)))
    diffuse = diffuse * (1 + beaming[1] * np.cos(angle - phase) * np.tanh(distance / radius)) ** 2
    dx, dy = rng.normal(0.0, 0.12 * radius, 2)
    hole = radius * rng.uniform(0.4, 1.0) - np.hypot(x - dx, y - dy)
    shadow = black_hole._step(hole / (radius * rng.uniform(0.1, 0.4)))
    diffuse = diffuse * (1 - rng.uniform(0.3, 1.0) * shadow)
    strength = rng.gamma(2.0, 0.2)
    diffuse = diffuse * black_hole._turbulence(
        rng, np.log(distance / radius + 0.2), angle, strength
    )
    return together(rng, ring, diffuse, first=0.6)


def _flow(rng: np.random.Generator, x: Array, y: Array) -> tuple[Array, Array, Array, Array]:
    """An inclined, turbulent flow outside of a cavity.

    Returns:
        Its emission, of peak 1; the logarithm of the radius in units of the cavity's; the azimuth
        in the plane of the flow; and the Doppler boost of what moves with it.
    """
    radius = 0.5 * _diameter(rng)
    cos_i = rng.uniform(0.35, 1.0)
    a, b = rotated(x / radius, y / radius, rng.uniform(0, 2 * np.pi))
    b = b / cos_i
    distance, azimuth = np.hypot(a, b), np.arctan2(b, a)
    beaming = rng.uniform(0.2, 0.75) * np.sqrt(1 - cos_i**2) * rng.choice([-1.0, 1.0])
    boost = (1 + beaming * np.cos(azimuth) * np.tanh(2 * distance)) ** rng.uniform(2.0, 4.0)

    hole = black_hole._step((1.0 - distance) / rng.uniform(0.1, 0.5))
    floor = contrast(rng)
    # Large cavities are followed by a steep decline, or the flow would not fit into the field.
    decline = rng.uniform(1.0, 2.5) + radius / 20.0
    profile = np.maximum(distance, 1.0) ** -decline * (1 - (1 - floor) * hole)
    log_radius = np.log(distance + 0.15)
    strength = rng.gamma(2.0, 0.25)
    emission = profile * boost * black_hole._turbulence(rng, log_radius, azimuth, strength)
    return _of_peak_one(emission), log_radius, azimuth, boost


def _arc(rng: np.random.Generator, log_radius: Array, azimuth: Array, extent: float) -> Array:
    """A sheared arc of peak 1, of angular `extent` (radians), near the cavity's edge."""
    from_centre = around(azimuth, rng.uniform(0, 2 * np.pi))
    ridge = np.log(rng.uniform(0.9, 2.2)) + rng.normal(0.0, 0.35) * from_centre
    return normal((log_radius - ridge) / log_uniform(rng, 0.06, 0.25)) * normal(
        from_centre / extent
    )


def _eruption(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Magnetic flux leaves the hole: bubbles of little density with bright rims, and flux tubes."""
    image, log_radius, azimuth, boost = _flow(rng, x, y)
    for _ in range(rng.integers(1, 3)):
        from_centre = around(azimuth, rng.uniform(0, 2 * np.pi))
        centre = np.log(rng.uniform(0.8, 2.2)) + rng.normal(0.0, 0.4) * from_centre
        height, width = rng.uniform(0.2, 0.6), rng.uniform(0.3, 0.9)
        distance = np.hypot((log_radius - centre) / height, from_centre / width)
        rim = normal((distance - 1.15) / rng.uniform(0.1, 0.35))
        rim = rim * (1 + np.cos(from_centre - rng.uniform(-3, 3)))  # one side is compressed more
        rim = _of_peak_one(rim * boost)
        bubble = black_hole._step((1.0 - distance) / rng.uniform(0.15, 0.5))
        image = image * (1 - rng.uniform(0.5, 0.99) * bubble) + contrast(rng) * rim
    for _ in range(rng.integers(0, 4)):
        arc = _arc(rng, log_radius, azimuth, rng.uniform(0.3, 1.0)) * boost
        image = image + contrast(rng) * _of_peak_one(arc)
    return image


def _spiral(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Shocks along logarithmic spirals: sharp in front, fading behind."""
    image, log_radius, azimuth, _ = _flow(rng, x, y)
    arms = rng.choice([1, 2, 2, 3])
    pitch = rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 6.0)
    behind = (arms * (azimuth - rng.uniform(0, 2 * np.pi)) - pitch * log_radius) % (2 * np.pi)
    front = normal((2 * np.pi - behind) / 0.25)
    shock = np.maximum(np.exp(-behind / rng.uniform(0.3, 1.8)), front)
    between = contrast(rng)
    return image * (between + (1 - between) * shock)


def _hot_spots(rng: np.random.Generator, x: Array, y: Array) -> Array:
    image, log_radius, azimuth, boost = _flow(rng, x, y)
    spots = np.zeros_like(image)
    for _ in range(rng.integers(1, 4)):
        arc = _arc(rng, log_radius, azimuth, log_uniform(rng, 0.12, 1.2)) * boost
        spots = spots + contrast(rng) * _of_peak_one(arc)
    return together(rng, spots, image, first=0.6)


# ------------------------------------------------------------------------------ without a cavity


def _jet(rng: np.random.Generator, x: Array, y: Array) -> Array:
    along, across = rotated(x, y, rng.uniform(0, 2 * np.pi))
    length = log_uniform(rng, 12.0, 60.0)
    along = along + rng.uniform(0.0, 1.0) * min(length, 45.0)  # the jet is centred, not its base
    ahead = np.clip(along, 0.0, None)
    across = across - rng.normal(0.0, 0.004) * ahead**2
    if rng.random() < 0.3:
        wave = np.sin(2 * np.pi * along / rng.uniform(25.0, 90.0) + rng.uniform(0, 2 * np.pi))
        across = across - rng.uniform(0.0, 0.12) * ahead * wave
    image = _outflow(rng, along, across, length)
    if rng.random() < 0.3:
        counter = _outflow(rng, -along, across, length)
        image = _of_peak_one(image) + contrast(rng) * _of_peak_one(counter)
    if rng.random() < 0.6:
        image = together(rng, black_hole._gaussian(rng, along, across, 4.0, 25.0), image)
    return image


def _outflow(rng: np.random.Generator, along: Array, across: Array, length: float) -> Array:
    """One side of a jet: a parabola or cone that widens and fades, bright at its limbs or not."""
    gap = rng.uniform(3.0, 25.0) if rng.random() < 0.5 else 0.0
    z = np.clip(along - gap, 0.0, None)
    base = log_uniform(rng, 1.5, 9.0)
    width = base * (1 + z / rng.uniform(4.0, 25.0)) ** rng.uniform(0.2, 1.0)
    s = across / width
    limb, sharp = rng.uniform(0.0, 1.0), rng.uniform(0.2, 0.5)
    one, other = 1.0, rng.uniform(0.1, 1.0)
    if rng.random() < 0.5:
        one, other = other, one
    edges = one * normal((s - 1) / sharp) + other * normal((s + 1) / sharp)
    profile = (1 - limb) * normal(s) + limb * edges
    fade = np.exp(-z / length) * (base / width) ** rng.uniform(0.0, 1.5)
    for _ in range(rng.integers(0, 4)):  # knots
        knot = normal((z - rng.uniform(0.0, 1.5 * length)) / rng.uniform(2.0, 8.0))
        fade = fade * (1 + rng.gamma(2.0, 0.7) * knot)
    begins = gap + across**2 / (2 * base)  # a round base
    image = profile * fade * black_hole._step((along - begins) / rng.uniform(1.0, 6.0))
    return image + 1e-9


def _thick_flow(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """A filled disc or torus: what lies in front of the hole outshines its shadow."""
    a, b = rotated(x, y, rng.uniform(0, 2 * np.pi))
    size = 0.5 * log_uniform(rng, 16.0, 110.0)
    thickness = rng.uniform(0.12, 1.0)
    flare = 1 + rng.uniform(0.0, 0.6) * np.minimum((a / size) ** 2, 2.0)  # thicker outwards
    b = (b - rng.normal(0.0, 0.15) * a**2 / size) / (thickness * flare)
    distance = np.hypot(a, b) / size
    kind = rng.integers(3)
    if kind == 0:  # from exponential to nearly uniform with an edge
        image = np.exp(-(distance ** log_uniform(rng, 0.8, 8.0)))
    elif kind == 1:  # a cusp at the centre
        core = rng.uniform(0.05, 0.4)
        image = (1 + (distance / core) ** 2) ** -rng.uniform(0.5, 1.5) * normal(distance)
    else:  # edge-on: a bright midplane in a thicker corona
        corona = np.exp(-np.hypot(a, b * rng.uniform(0.3, 0.8)) / size * 1.5)
        image = normal(distance) + contrast(rng) * corona
    beaming = rng.uniform(0.0, 0.85)
    image = image * (1 + beaming * np.tanh(2 * a / size)) ** rng.uniform(1.0, 4.0)
    if rng.random() < 0.6:
        strength, period = rng.gamma(2.0, 0.25), rng.uniform(2.0, 6.0) * size
        image = image * np.exp(strength * _texture(rng, a, b, period))
    return image + 1e-9


def _simple(rng: np.random.Generator, x: Array, y: Array) -> Array:
    scale = log_uniform(rng, 0.8, 1.8)
    return black_hole._other(rng, x * scale, y * scale)


def _binary(rng: np.random.Generator, x: Array, y: Array) -> Array:
    a, b = rotated(x, y, rng.uniform(0, 2 * np.pi))
    separation = log_uniform(rng, 10.0, 90.0)
    parts = []
    for side in (-0.5, 0.5):
        size = min(log_uniform(rng, 6.0, 45.0), 0.9 * separation)
        u, v = a - side * separation, b
        if rng.random() < 0.4:  # a small disc, boosted on one side
            p, q = black_hole._stretched(rng, u, v, 0.3)
            disc = np.exp(-((np.hypot(p, q) / (0.6 * size)) ** rng.uniform(1.5, 6.0)))
            parts.append(disc * (1 + rng.uniform(0.0, 0.8) * np.tanh(2 * p / size)) ** 2)
        else:
            parts.append(black_hole._gaussian(rng, u, v, size, size + 1.0))
    image = together(rng, *parts)
    if rng.random() < 0.3:
        sag = b - rng.normal(0.0, 0.15) * (a**2 / separation - separation / 4)
        bridge = normal(sag / rng.uniform(1.5, 6.0)) * normal(a / (0.4 * separation))
        image = image + contrast(rng) * bridge
    return image + 1e-9


def _bent(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Components along a curved line, larger and fainter towards one end."""
    a, b = rotated(x, y, rng.uniform(0, 2 * np.pi))
    count, length = rng.integers(3, 9), log_uniform(rng, 25.0, 100.0)
    t = np.sort(rng.uniform(0.0, 1.0, count))
    path = length * (t - 0.5)
    bend = rng.normal(0.0, 0.6) * length * (t**2 - 1 / 3)
    bend = bend + rng.uniform(0.0, 0.12) * length * np.sin(2 * np.pi * t + rng.uniform(0, 6.3))
    faintest = contrast(rng)
    image = np.full_like(x, 1e-9)
    for along, across, s in zip(path, np.clip(bend, -40, 40), t, strict=True):
        size = log_uniform(rng, 5.0, 18.0) * (1 + rng.uniform(0.0, 2.0) * s)
        blob = black_hole._gaussian(rng, a - along, b - across, size, size + 1.0)
        image = image + faintest**s * rng.uniform(0.3, 1.0) * blob
    return image


def _cloud(rng: np.random.Generator, x: Array, y: Array) -> Array:
    a, b = black_hole._stretched(rng, x, y, 0.3)
    field = _texture(rng, a, b, log_uniform(rng, 90.0, 240.0))
    if rng.random() < 0.35:  # filaments: where the field is near one of its values
        ridge = normal((field - rng.normal(0.0, 0.5)) / rng.uniform(0.15, 0.5))
        cloud = contrast(rng) + ridge
    else:
        cloud = np.exp(rng.uniform(0.4, 1.6) * field)
    return cloud * black_hole._gaussian(rng, x, y, smallest=25.0, largest=75.0) + 1e-9


PAINTERS: dict[str, Painter] = {
    "disc": _disc,
    "photon_ring": _photon_ring,
    "eruption": _eruption,
    "spiral": _spiral,
    "hot_spots": _hot_spots,
    "ring": _ring,
    "jet": _jet,
    "thick_flow": _thick_flow,
    "simple": _simple,
    "binary": _binary,
    "bent": _bent,
    "cloud": _cloud,
}

"""Ring statistics: diameter, width, orientation, asymmetry and central brightness of a crescent.

The definitions are those of Event Horizon Telescope Collaboration 2019, Paper IV, section 9.1, on
radial profiles I(r, theta) about the ring's centre. Angles are position angles, from north (up)
through east (left); lengths are in microarcseconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, spline_filter
from scipy.optimize import minimize
from torch import Tensor

from lmaps_science.metrics.image import as_batch

__all__ = ["measure_rings", "ring_statistics"]

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Azimuths whose peak is fainter than this fraction of the brightest hold no ring to measure.
FAINTEST = 0.05
# What a ring is: seen in this part of all directions; in that part by this factor brighter than its
# centre; its radius' standard deviation over the mean. From a centre beside it, a bar, a blob or
# half an arc has a peak in half of the directions, and an arc's faint surroundings add some.
SEEN, CONTRASTED, CONTRAST, IRREGULAR = 0.8, 0.7, 1.25, 0.25


def ring_statistics(
    images: Any,
    pixel_size_uas: float,
    radius_range: tuple[float, float] = (5.0, 50.0),
    centre_radius: float = 5.0,
) -> dict[str, Tensor]:
    """Statistics of the ring in each image, (B, 1, N, N) or (B, N, N): a dict of float64 (B,).

    `diameter`: d = 2 <r_peak>, r_peak(theta) the radius of the brightest point in `radius_range`.
    `width`: full width at half maximum of the profiles above their mean level at the last radius.
    `orientation`: position angle in degrees, [0, 360), of the first azimuthal harmonic,
    Arg int I e^(i theta) dtheta, averaged over the radii of the ring, (d -+ width)/2.
    `asymmetry`: |int I e^(i theta) dtheta| / int I dtheta, averaged over the same radii.
    `central_brightness`: mean of I within `centre_radius` over its mean at r = d/2.
    `x`, `y`: the ring's centre, east and north of the image's, where std(r_peak)/<r_peak> is least.

    `<name>_scatter` is the standard deviation over azimuth (diameter, width, central brightness) or
    radius (orientation, asymmetry). Values are NaN for an image without a ring; `measure_rings`
    tells why.
    """
    return measure_rings(images, pixel_size_uas, radius_range, centre_radius)[0]


def measure_rings(
    images: Any,
    pixel_size_uas: float,
    radius_range: tuple[float, float] = (5.0, 50.0),
    centre_radius: float = 5.0,
    faintest: float = FAINTEST,
) -> tuple[dict[str, Tensor], list[str]]:
    """`ring_statistics`, and for each image why it has no ring: "" where it has one.

    It has one where the profiles peak inside of `radius_range`, at more than `faintest` of the
    brightest, in `SEEN` of all directions and more, in `CONTRASTED` of them at more than `CONTRAST`
    times the mean brightness within `centre_radius`, and at radii that differ by `IRREGULAR` at
    most. Neither a bar, an arc, a blob nor a filled disc has.

    Raises:
        ValueError: images of several channels.
    """
    stack = as_batch(images).detach().cpu().double().numpy()
    if stack.shape[1] != 1:
        raise ValueError(
            f"ring_statistics: images have {stack.shape[1]} channels, expected 1: (B, 1, N, N)."
        )
    found = [
        _measure(image[0], pixel_size_uas, radius_range, centre_radius, faintest) for image in stack
    ]
    names = ("diameter", "width", "orientation", "asymmetry", "central_brightness")
    keys = ("x", "y", *names, *(f"{name}_scatter" for name in names))
    values = {
        name: torch.tensor([row.get(name, np.nan) for row, _ in found], dtype=torch.float64)
        for name in keys
    }
    return values, [reason for _, reason in found]


class _Polar:
    """Cubic-spline samples of one image at (r, position angle) about any centre; 0 outside."""

    def __init__(self, image: Array, pixel_size: float):
        self.coefficients = spline_filter(np.pad(image, 2), order=3, mode="mirror")
        self.middle = (np.array(self.coefficients.shape) - 1) / 2
        self.pixel_size = pixel_size

    def __call__(self, centre: Array, radii: Array, angles: Array) -> Array:
        """I(theta, r) for `centre` = (x, y), east and north: (n_angles, n_radii)."""
        x = centre[0] + np.outer(np.sin(angles), radii)
        y = centre[1] + np.outer(np.cos(angles), radii)
        # rows run from north to south, columns from east to west
        pixels = [m - w / self.pixel_size for m, w in zip(self.middle, (y, x), strict=True)]
        return map_coordinates(self.coefficients, pixels, order=3, prefilter=False)


def _peaks(profiles: Array, radii: Array, faintest: float = FAINTEST) -> tuple[Array, Mask, Mask]:
    """Radius of each profile's maximum, refined by a parabola; which are bright; which lie inside.

    A profile that peaks at the first or last radius shows no ring: it does not lie inside.
    """
    index = profiles.argmax(axis=1)
    height = profiles.max(axis=1)
    inside = (index > 0) & (index < len(radii) - 1)
    middle = index.clip(1, len(radii) - 2)
    left, top, right = (profiles[np.arange(len(index)), middle + k] for k in (-1, 0, 1))
    curvature = left - 2 * top + right
    shift = np.where(curvature < 0, 0.5 * (left - right) / np.minimum(curvature, -1e-300), 0.0)
    peak = radii[middle] + np.clip(shift, -1, 1) * (radii[1] - radii[0])
    return peak, height > faintest * max(height.max(), 0.0), inside


def _find_centre(polar: _Polar, start: Array, radii: Array, faintest: float) -> Array | None:
    """The centre (x, y) with the smallest std(r_peak)/<r_peak>, or None without a ring."""

    def spread(centre: Array, angles: Array) -> float:
        peak, bright, inside = _peaks(polar(centre, radii, angles), radii, faintest)
        use = bright & inside
        if use.sum() < 0.5 * len(angles):
            return 10.0  # seen from afar a compact source, too, has peaks at one distance
        return float(peak[use].std() / peak[use].mean() + 1 - inside[bright].mean())

    few, many = (np.linspace(0, 2 * np.pi, n, endpoint=False) for n in (24, 90))
    steps = np.linspace(-16, 16, 9)
    grid = [start + np.array([x, y]) for x in steps for y in steps]
    best = min(grid, key=lambda centre: spread(centre, few))
    simplex = best + 2.0 * np.array([[0, 0], [1, 0], [0, 1]])
    options = {"initial_simplex": simplex, "xatol": 0.01, "fatol": 1e-6, "maxiter": 200}
    found = minimize(spread, best, args=(many,), method="Nelder-Mead", options=options)
    return found.x if found.fun < 0.5 else None


def _widths(profiles: Array, radii: Array, peaks: Array) -> Array:
    """Full width at half maximum of each profile about its peak; NaN where one side stays above."""
    widths = np.full(len(profiles), np.nan)
    for k, (profile, peak) in enumerate(zip(profiles, peaks, strict=True)):
        top = int(np.abs(radii - peak).argmin())
        above = profile - 0.5 * profile[top]
        (inner,), (outer,) = np.nonzero(above[:top] < 0), np.nonzero(above[top:] < 0)
        if above[top] <= 0 or not len(inner) or not len(outer):
            continue
        edges = []
        for a in (inner[-1], top + outer[0] - 1):  # the sign changes between a and a + 1
            fraction = above[a] / (above[a] - above[a + 1])
            edges.append(radii[a] + fraction * (radii[a + 1] - radii[a]))
        widths[k] = edges[1] - edges[0]
    return widths


def _measure(
    image: Array,
    pixel_size: float,
    radius_range: tuple[float, float],
    centre_radius: float,
    faintest: float,
) -> tuple[dict[str, float], str]:
    """Those statistics that the image has, and why it has none."""
    if not np.isfinite(image).all() or image.max() <= 0:
        return {}, "the image is blank, or not finite"
    polar = _Polar(image, pixel_size)
    low, high = radius_range
    coarse = np.arange(low, high + 1e-9, min(1.0, pixel_size / 2))
    centre = _find_centre(polar, _centroid(image, pixel_size), coarse, faintest)
    if centre is None:
        return {}, "there is no point around which the brightness peaks at one distance"
    angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    radii = np.arange(0, high + 1e-9, 0.25)
    profiles = polar(centre, radii, angles)
    peak, bright, inside = _peaks(profiles[:, radii >= low], radii[radii >= low], faintest)
    use = bright & inside
    centre_light = profiles[:, radii <= centre_radius].mean(axis=1)
    contrasted = use & (profiles[:, radii >= low].max(axis=1) > CONTRAST * centre_light.mean())
    reason = _no_ring(use.mean(), contrasted.mean(), peak[use])
    if reason:
        return {}, reason
    result = {"x": float(centre[0]), "y": float(centre[1])}
    result.update(diameter=2 * float(peak[use].mean()), diameter_scatter=2 * float(peak[use].std()))
    widths = _widths((profiles - profiles[:, -1].mean())[use], radii, peak[use])
    if np.isfinite(widths).sum() < 0.5 * len(widths):
        return result, ""
    result.update(width=float(np.nanmean(widths)), width_scatter=float(np.nanstd(widths)))
    ring = 0.5 * (result["diameter"] + np.linspace(-1, 1, 21) * result["width"])
    on_ring = polar(centre, ring.clip(0), angles)
    harmonic = (on_ring * np.exp(1j * angles)[:, None]).mean(axis=0) / on_ring.mean(axis=0)
    direction = np.exp(1j * np.angle(harmonic)).mean()
    scatter = np.sqrt(max(-2 * np.log(min(abs(direction), 1.0)), 0.0))
    result.update(orientation=np.degrees(np.angle(direction)) % 360)
    result.update(orientation_scatter=np.degrees(scatter))
    result.update(asymmetry=abs(harmonic).mean(), asymmetry_scatter=abs(harmonic).std())
    centre_light = centre_light / polar(centre, ring[10:11], angles).mean()
    result.update(
        central_brightness=centre_light.mean(), central_brightness_scatter=centre_light.std()
    )
    return result, ""


def _no_ring(seen: float, contrasted: float, radii: Array) -> str:
    """Why this is no ring, "" if it is: see `measure_rings`."""
    if seen < SEEN:
        return f"it is not closed, seen in {seen:.0%} of the directions (a ring: {SEEN:.0%})"
    if contrasted < CONTRASTED:
        return (
            f"its centre is too bright, {CONTRAST:g} times fainter in {contrasted:.0%} of the "
            f"directions (a ring: {CONTRASTED:.0%})"
        )
    irregular = float(radii.std() / radii.mean())
    if irregular > IRREGULAR:
        return f"it is not round, its radius varies by {irregular:.0%} (a ring: {IRREGULAR:.0%})"
    return ""


def _centroid(image: Array, pixel_size: float) -> Array:
    """Centre of light (x, y) in microarcseconds, east and north of the image's centre."""
    light = image.clip(0)
    rows, columns = (pixel_size * ((n - 1) / 2 - np.arange(n)) for n in image.shape)
    return np.array([light.sum(0) @ columns, light.sum(1) @ rows]) / light.sum()

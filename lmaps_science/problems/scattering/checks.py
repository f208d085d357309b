"""Whether a reconstructed permittivity can be believed: its fit, and what the grid can hold."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lmaps_science.cards.verdict import Check

__all__ = ["edge_share", "fit_checks", "image_checks", "saturated_share"]

Image = NDArray[np.floating]


def fit_checks(data: xr.Dataset, nothing: float) -> list[Check]:
    """The best sample and the mean against the noise, no object, and the Born image.

    Args:
        data: with `chi2` of the samples, and in `metrics_of_mean` and `metrics_of_born`.
        nothing: chi2 of an image without an object.
    """
    best = float(data["chi2"][int(data.attrs["best"])])
    born = float(data.attrs["metrics_of_born"]["chi2"])
    checks = [
        Check(
            "chi2 per datum of the best sample",
            best,
            2.0,
            9.0,
            "the image does not explain the data to their stated noise; more levels may help, or "
            "the noise is larger than stated (sigma_factor, observation.relative_noise), or the "
            "physics is not that of the data",
        )
    ]
    if np.isfinite(born):  # else its fields do not converge, which says nothing of the samples
        checks.append(
            Check(
                "chi2 of the best sample over that of the Born image",
                best / max(born, 1.0),
                1.2,
                reason="the linear picture fits these data better: the run got stuck; take another "
                "seed, more levels, or a lower first frequency",
            )
        )
    if nothing > 1:  # else there is nothing in the data but noise
        unexplained = max(best - 1, 0.0) / (nothing - 1) if np.isfinite(best) else math.nan
        checks.append(
            Check(
                "share of the signal left unexplained",
                unexplained,
                0.1,
                0.5,
                "with 1, no object at all would fit as well: the run has failed; see that "
                "image.side holds the object, take another seed or more levels",
            )
        )
    if data.sizes["sample"] > 1:
        checks.append(
            Check(
                "chi2 per datum of the mean",
                float(data.attrs["metrics_of_mean"]["chi2"]),
                4.0,
                reason="the samples differ by more than their mean can stand for: look at each",
            )
        )
    return checks


def image_checks(data: xr.Dataset, pixels_per_wavelength: float) -> list[Check]:
    """The object against the limits of the grid: its edge, its contrast, its pixels.

    Args:
        data: with `image` (sample, y, x), and `max_contrast` and `physics` among its attributes.
        pixels_per_wavelength: in free space, at the highest frequency.
    """
    image = data["image"].values[int(data.attrs["best"])]
    largest = float(data.attrs["max_contrast"])
    full_wave = data.attrs["physics"] == "full_wave"
    # The fields vary with the wavelength in the medium; in the Born approximation with that of
    # free space. See `FullWaveScattering` and `ScatteringGeometry` for the limits.
    densest = max(float(image.max()), 0.0) if full_wave else 0.0
    return [
        Check(
            "contrast on the edge of the image, relative to its maximum,",
            edge_share(image),
            0.25,
            reason="the object touches the edge: what lies beyond is missing; raise image.side, "
            "and image.npix with it",
        ),
        Check(
            "share of the object at the largest contrast",
            saturated_share(image, largest),
            0.1,
            0.5,
            "its contrast is at the limit: raise image.max_contrast",
        ),
        Check(
            "pixel, in wavelengths of the densest medium,",
            math.sqrt(1 + densest) / pixels_per_wavelength,
            0.13 if full_wave else 0.25,
            reason="too coarse for these fields: raise image.npix, or leave out the highest "
            "frequency",
        ),
    ]


def edge_share(image: Image) -> float:
    """Largest contrast on an edge over the largest of all; on an edge the mean of 5 neighbours.

    An object there is as wide as that, a single pixel is not one.
    """
    edges = (image[0], image[-1], image[:, 0], image[:, -1])
    width = min(5, len(image))
    smooth = [np.convolve(edge, np.full(width, 1 / width), "valid").max() for edge in edges]
    return float(np.max(smooth) / max(float(image.max()), 1e-12))


def saturated_share(image: Image, largest: float) -> float:
    """Share of the object, what is above a tenth of `largest`, that is at `largest` or within 1 %.

    0 where there is no object.
    """
    inside = image > 0.1 * largest
    return float((image >= 0.99 * largest).sum() / max(int(inside.sum()), 1))

"""Which explanations of the data did the samples find, and how often?

Closure quantities do not determine an image: quite different images can fit them equally well.
Samples are grouped by likeness, and the groups ranked by how many samples fell into each: samples
estimate the probability of a mode by its frequency. (The prior's density at a sample would not
serve: it favours images with little structure, however small the region in which they fit. On
simulated data it chose worse than the frequency, and worse than the data misfit.)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from lmaps_science.metrics import align, blur, nxcorr

__all__ = ["Modes", "aligned", "comparable", "find_modes"]


class Modes(NamedTuple):
    """Groups of samples.

    Attributes:
        labels: (n,), the mode of each sample; 0 is the most frequent, the next best fit decides
            among equals.
        best: the sample of mode 0 that fits the data best.
    """

    labels: np.ndarray
    best: int


def find_modes(
    images: np.ndarray, misfit: np.ndarray, *, blur_pixels: float, likeness: float = 0.9
) -> Modes:
    """Group images (n, H, W) by average linkage of their blurred cross-correlation.

    Args:
        images: samples; position, scale and offset do not count (see
            `lmaps_science.metrics.nxcorr`).
        misfit: (n,), the data misfit of each.
        blur_pixels: FWHM of the blur: details below it do not tell modes apart.
        likeness: the mean correlation down to which groups are joined.

    Raises:
        ValueError: not one finite misfit for each image.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    n = len(images)
    if misfit.shape != (n,) or not np.isfinite(misfit).all():
        raise ValueError(
            f"find_modes: expected one finite misfit for each of {n} images, got {misfit!r}."
        )
    groups = np.zeros(n, dtype=np.int64)
    if n > 1:
        smooth = blur(images, blur_pixels)
        rows, columns = np.triu_indices(n, 1)
        distance = 1 - nxcorr(smooth[rows], smooth[columns]).cpu().double().numpy()
        groups = fcluster(linkage(distance.clip(0), "average"), 1 - likeness, "distance")
    rank = sorted(set(groups), key=lambda g: (-(groups == g).sum(), misfit[groups == g].min()))
    labels = np.array([rank.index(g) for g in groups])
    return Modes(labels, int(np.where(labels == 0, misfit, np.inf).argmin()))


def aligned(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Images (n, H, W) shifted onto one (H, W): closure quantities do not tell the position."""
    peak = reference.max()
    found: np.ndarray = peak * align(images / peak, reference[None] / peak)[:, 0].numpy()
    return found


def comparable(data: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray | None]:
    """The samples of mode 0 of a result, shifted onto its best, and the truth, onto their mean.

    The truth has their flux, too: neither position nor flux are errors of the samples. Intervals
    are those of mode 0 alone, given that the truth belongs to it.
    """
    images = data["image"].isel(sample=np.flatnonzero(data["mode"].values == 0))
    best = data["image"].values[int(data.attrs["best"])]
    samples = images if len(images) == 1 else images.copy(data=aligned(images.values, best))
    if "truth" not in data:
        return samples, None
    mean = samples.values.mean(0)
    truth = data["truth"].values * (mean.sum() / data["truth"].values.sum())
    return samples, data["image_mean"].copy(data=aligned(truth[None], mean)[0])

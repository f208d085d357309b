"""Figures of computed tomography."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lmaps_science.plots import Picture, history, verdict

__all__ = ["reconstruction", "samples"]

UNIT = "attenuation (1/cm)"


def reconstruction(data: xr.Dataset, *, error_scale: float = 5.0) -> Picture:
    """The reconstruction beside the truth and the classical image; the data below.

    Above: truth (where it is known), filtered back-projection and the mean of the samples on one
    scale, then error and standard deviation times `error_scale`. Below: the sinogram and the data
    misfit on the way from noise to image.
    """
    n, mean = data.sizes["sample"], data["image_mean"].values
    title = f"mean of {n} samples" if n > 1 else "one sample"
    maps = [("truth", data["truth"].values)] if "truth" in data else []
    maps += [(_scored("filtered back-projection", "fbp", data), data["fbp"].values)]
    maps += [(_scored(title, "mean", data), mean)]
    spreads = []
    if "truth" in data:
        spreads += [(f"error × {error_scale:g}", abs(mean - data["truth"].values))]
    if n > 1:
        spreads += [(f"standard deviation × {error_scale:g}", data["image_std"].values)]
    top = float(maps[0][1].max())
    columns = len(maps) + len(spreads)
    figure = Picture(figsize=(2.9 * columns, 6.2), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[3.3, 2.9]))
    axes = above.subplots(1, columns, squeeze=False)[0]
    for k, axis in enumerate(axes):
        name, values = (*maps, *((t, error_scale * v) for t, v in spreads))[k]
        image = _show(axis, values, data, top, "gray" if k < len(maps) else "inferno")
        axis.set_title(name, fontsize=10)
        if k in (len(maps) - 1, columns - 1):
            above.colorbar(image, ax=axis, shrink=0.7, pad=0.02, label=UNIT)
    left, right = below.subplots(1, 2)
    _sinogram(left, data)
    history(right, data, int(data.attrs["best"]))
    verdict(below, data)
    return figure


def samples(data: xr.Dataset, *, most: int = 16) -> Picture:
    """Up to `most` samples side by side on one scale, with their scores."""
    shown = data["image"].values[:most]
    columns = min(len(shown), 4)
    rows = math.ceil(len(shown) / columns)
    figure = Picture(figsize=(2.6 * columns + 0.6, 2.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    for k, (axis, values) in enumerate(zip(axes.flat, shown, strict=False)):
        image = _show(axis, values, data, float(shown.max()), "gray")
        score = f"{float(data['psnr'][k]):.1f} dB, " if "psnr" in data else ""
        axis.set_title(f"sample {k}: {score}χ² {float(data['chi2'][k]):.2f}", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, label=UNIT)
    return figure


def _scored(title: str, name: str, data: xr.Dataset) -> str:
    scores = data.attrs[f"metrics_of_{name}"]
    quality = f"{scores['psnr']:.1f} dB, " if "psnr" in scores else ""
    return f"{title}\n{quality}χ² {scores['chi2']:.2f}"


def _show(axis: Axes, values: np.ndarray, data: xr.Dataset, top: float, cmap: str) -> Any:
    """An image with y upwards, its axes in cm."""
    x = data["x"].values
    half = x[-1] + (x[1] - x[0]) / 2
    axis.tick_params(labelsize=7)
    axis.set_xlabel("x (cm)", fontsize=8)
    extent = (-half, half, -half, half)
    return axis.imshow(values, cmap=cmap, vmin=0, vmax=top, extent=extent, origin="lower")


def _sinogram(axis: Axes, data: xr.Dataset) -> None:
    angle, position = data["angle"].values, data["bin"].values
    extent = (position[0], position[-1], angle[-1], angle[0])
    image = axis.imshow(data["sinogram"].values, cmap="gray", aspect="auto", extent=extent)
    axis.figure.colorbar(image, ax=axis, pad=0.02, label="line integral")
    axis.set(xlabel="detector (cm)", ylabel="angle (degrees)")
    axis.set_title("sinogram", fontsize=10)

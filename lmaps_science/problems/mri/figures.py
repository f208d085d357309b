"""Figures of magnetic resonance imaging: magnitudes, what was sampled, what is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from lmaps_science.plots import Picture, Shades, history, spread_title, verdict

__all__ = ["reconstruction", "samples", "shades"]


UNIT = "|x|, in units of its 99th percentile"


def reconstruction(data: xr.Dataset, *, error_scale: float | None = None) -> Figure:
    """The reconstruction beside classical ones and, where it is known, the reference.

    Above: magnitudes of the reference, the zero-filled image, total variation and the
    reconstruction (the complex mean of the samples) on one scale, its error and the standard
    deviation of the samples on a finer one. Below: the sampling mask, the phase, the data misfit on
    the way from noise to image, and the verdict. Axes are in mm where the file tells.

    Args:
        data: what `problem.analyse` gave.
        error_scale: by how much the scale of error and standard deviation is finer than that of the
            images; default: the largest of 1, 2, 5, 10, ... 100 that holds them.
    """
    images = _images(data)
    spreads = _spreads(data)
    estimate = magnitude(data["image_mean"])
    top = float(np.percentile(magnitude(data["truth" if "truth" in data else "image_mean"]), 99.9))
    if error_scale is None:
        largest = max((float(np.percentile(s, 99.9)) for s in spreads.values()), default=0.0)
        error_scale = max((f for f in (2, 5, 10, 20, 50, 100) if f * largest <= top), default=1)
    height, width = estimate.shape
    columns = len(images) + len(spreads)
    tall = 2.5 * height / width + 0.8
    figure = Picture(figsize=(2.5 * columns + 1.2, tall + 3.1), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[tall, 3.1]))
    axes = list(above.subplots(1, columns, squeeze=False)[0])
    for axis, (title, values) in zip(axes, images.items(), strict=False):
        shown = _show(axis, values, top, "gray", data, labelled=axis is axes[0])
        axis.set_title(title, fontsize=9)
    bar = {"location": "bottom", "shrink": 0.6, "aspect": 40}
    above.colorbar(shown, ax=axes[: len(images)], label=UNIT, **bar)
    for axis, (title, values) in zip(axes[len(images) :], spreads.items(), strict=True):
        shown = _show(axis, values, top / error_scale, "inferno", data)
        axis.set_title(title, fontsize=9)
    if spreads:
        label = f"{' and '.join(spreads)}, same unit".replace("\n", " ")
        above.colorbar(shown, ax=axes[len(images) :], label=label, **bar)
    _diagnostics(below, data, top)
    return figure


def _images(data: xr.Dataset) -> dict[str, np.ndarray]:
    """Magnitudes by title."""
    several = data.sizes["sample"] > 1
    name = f"mean of {data.sizes['sample']} samples" if several else "one sample"
    found = {"reference": ("truth", ""), "zero-filled": ("zero_filled", "zero_filled")}
    found |= {
        "total variation": ("total_variation", "total_variation"),
        name: ("image_mean", "mean"),
    }
    return {
        _scored(title, of, data): magnitude(data[variable])
        for title, (variable, of) in found.items()
        if variable in data
    }


def _spreads(data: xr.Dataset) -> dict[str, np.ndarray]:
    """What is wrong with the magnitude, where it is known, and how much the samples differ."""
    found = {}
    if "truth" in data:
        found["|error|"] = np.abs(magnitude(data["image_mean"]) - magnitude(data["truth"]))
    if data.sizes["sample"] > 1:
        found[spread_title(data)] = data["magnitude_std"].values
    return found


def _diagnostics(figure: SubFigure, data: xr.Dataset, top: float) -> None:
    """The mask, the phase where there is signal, the history and the verdict."""
    estimate = magnitude(data["image_mean"])
    left, middle, right = figure.subplots(1, 3)
    mask = np.broadcast_to(data["mask"].values, estimate.shape)
    left.imshow(mask, cmap="gray", interpolation="nearest")
    left.set_title(f"sampled k-space, {100 * mask.mean():.0f} %", fontsize=10)
    left.set_axis_off()
    phase = np.angle(data["image_mean"].values[0] + 1j * data["image_mean"].values[1])
    phase = np.where(estimate > 0.05 * top, phase, np.nan)
    shown = middle.imshow(phase, cmap="twilight", vmin=-np.pi, vmax=np.pi, extent=_extent(data))
    figure.colorbar(shown, ax=middle, shrink=0.8)
    middle.set_title("phase (rad)", fontsize=10)
    middle.set_axis_off()
    history(right, data, int(data.attrs["best"]))
    verdict(figure, data)


def samples(data: xr.Dataset, *, most: int = 16) -> Figure:
    """Magnitudes of up to `most` samples side by side on one scale, with their scores."""
    shown = magnitude(data["image"][:most])
    columns = min(len(shown), 4)
    rows = math.ceil(len(shown) / columns)
    height = 2.5 * shown.shape[1] / shown.shape[2] + 0.3
    figure = Picture(figsize=(2.5 * columns + 0.5, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    top = float(np.percentile(shown, 99.9))
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    for k, (axis, values) in enumerate(zip(axes.flat, shown, strict=False)):
        image = _show(axis, values, top, "gray", data)
        score = f", PSNR {float(data['psnr'][k]):.1f} dB" if "psnr" in data else ""
        axis.set_title(f"sample {k}{score}", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, label=UNIT)
    return figure


def shades(images: Sequence[xr.DataArray]) -> Shades:
    """Small pictures of magnitudes, on the scale of the first."""
    values = [magnitude(image) for image in images]
    return Shades(values, "gray", 0.0, float(np.nanpercentile(values[0], 99.9)))


def magnitude(image: xr.DataArray) -> np.ndarray:
    """|image| of (..., part, y, x)."""
    values = image.values
    return np.hypot(values[..., 0, :, :], values[..., 1, :, :])


def _scored(title: str, of: str, data: xr.Dataset) -> str:
    scores = data.attrs.get(f"metrics_of_{of}", {})
    if "psnr" in scores:
        return f"{title}\n{scores['psnr']:.1f} dB"
    if "held_out_error" in scores:
        return f"{title}\nheld-out error {scores['held_out_error']:.2f}"
    return title


def _extent(data: xr.Dataset) -> tuple[float, float, float, float]:
    """Left, right, bottom and top edge of an image whose first row is above."""
    edges = {}
    for axis in "xy":
        at = data[axis].values.astype(float)
        half = (at[-1] - at[0]) / max(len(at) - 1, 1) / 2
        edges[axis] = at[0] - half, at[-1] + half
    return (*edges["x"], *edges["y"][::-1])


def _show(
    axis: Axes, values: np.ndarray, top: float, cmap: str, data: xr.Dataset, labelled: bool = False
) -> Any:
    if labelled:
        unit = data["x"].attrs.get("units", "pixel")
        axis.set(xlabel=f"x ({unit})", ylabel=f"y ({unit})")
        axis.tick_params(labelsize=7)
    else:
        axis.set_axis_off()
    return axis.imshow(values, cmap=cmap, vmin=0, vmax=top, extent=_extent(data))

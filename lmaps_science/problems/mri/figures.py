"""Figures of magnetic resonance imaging: magnitudes, what was sampled, what is wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmaps_science.plots import Picture, history

__all__ = ["reconstruction", "samples"]


UNIT = "|x|, in units of its 99th percentile"


def reconstruction(data: xr.Dataset, *, error_scale: float | None = None) -> Figure:
    """The reconstruction beside the zero-filled image and, where it is known, the reference.

    Above: magnitudes of the reference, the zero-filled image and the reconstruction (the complex
    mean of the samples), its error times `error_scale` and the standard deviation, on one scale.
    Below: the sampling mask, the phase and the data misfit on the way from noise to image.

    Args:
        data: what `problem.analyse` gave.
        error_scale: factor on the error and on the standard deviation; default: the largest of 1,
            2, 5, 10, ... 100 with which they keep to the scale of the images.
    """
    several = data.sizes["sample"] > 1
    estimate = magnitude(data["image_mean"])
    panels: list[tuple[str, np.ndarray, str]] = []
    if "truth" in data:
        panels += [("reference", magnitude(data["truth"]), "gray")]
    panels += [(_scored("zero-filled", data), magnitude(data["zero_filled"]), "gray")]
    name = f"mean of {data.sizes['sample']} samples" if several else "one sample"
    panels += [(_scored(name, data), estimate, "gray")]
    top = float(np.percentile(magnitude(data["truth" if "truth" in data else "image_mean"]), 99.9))
    spreads = {}
    if "truth" in data:
        spreads["error"] = np.abs(estimate - magnitude(data["truth"]))
    if several:
        spreads["standard deviation"] = data["magnitude_std"].values
    if error_scale is None:
        largest = max((float(np.percentile(s, 99.9)) for s in spreads.values()), default=0.0)
        error_scale = max((f for f in (2, 5, 10, 20, 50, 100) if f * largest <= top), default=1)
    panels += [(f"{n} × {error_scale:g}", error_scale * s, "inferno") for n, s in spreads.items()]
    height, width = estimate.shape
    figure = Picture(figsize=(2.7 * len(panels), 2.7 * height / width + 3.3), layout="constrained")
    above, below = np.asarray(
        figure.subfigures(2, 1, height_ratios=[2.7 * height / width + 0.5, 2.8])
    )
    for axis, (title, values, cmap) in zip(above.subplots(1, len(panels)), panels, strict=True):
        image = _show(axis, values, top, cmap)
        axis.set_title(title, fontsize=10)
    above.colorbar(image, ax=above.axes, shrink=0.8, aspect=30, pad=0.01, label=UNIT)
    left, middle, right = below.subplots(1, 3)
    mask = np.broadcast_to(data["mask"].values, estimate.shape)
    left.imshow(mask, cmap="gray", interpolation="nearest")
    left.set_title(f"sampled k-space, {100 * mask.mean():.0f} %", fontsize=10)
    left.set_axis_off()
    phase = np.angle(data["image_mean"].values[0] + 1j * data["image_mean"].values[1])
    shown = middle.imshow(np.where(estimate > 0.05 * top, phase, np.nan), cmap="twilight",
                          vmin=-np.pi, vmax=np.pi)  # fmt: skip
    below.colorbar(shown, ax=middle, shrink=0.8)
    middle.set_title("phase (rad)", fontsize=10)
    middle.set_axis_off()
    history(right, data, int(data.attrs["best"]))
    return figure


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
        image = _show(axis, values, top, "gray")
        score = f", PSNR {float(data['psnr'][k]):.1f} dB" if "psnr" in data else ""
        axis.set_title(f"sample {k}{score}", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, label=UNIT)
    return figure


def magnitude(image: xr.DataArray) -> np.ndarray:
    """|image| of (..., part, y, x)."""
    values = image.values
    return np.hypot(values[..., 0, :, :], values[..., 1, :, :])


def _scored(name: str, data: xr.Dataset) -> str:
    which = "zero_filled" if name == "zero-filled" else "mean"
    scores = data.attrs.get(f"metrics_of_{which}", {})
    if "psnr" in scores:
        return f"{name}\n{scores['psnr']:.1f} dB"
    if "held_out_error" in scores:
        return f"{name}\nheld-out error {scores['held_out_error']:.2f}"
    return name


def _show(axis: Axes, values: np.ndarray, top: float, cmap: str) -> Any:
    axis.set_axis_off()
    return axis.imshow(values, cmap=cmap, vmin=0, vmax=top)

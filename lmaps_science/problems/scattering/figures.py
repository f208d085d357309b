"""Figures of inverse scattering: maps of the permittivity with the object's outlines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from lmaps_science.plots import POINTS, Picture, Shades, history, spread_title, verdict

__all__ = ["reconstruction", "samples", "shades"]


def reconstruction(data: xr.Dataset) -> Picture:
    """The reconstruction beside the truth, where it is known, and the Born approximation's.

    Above: permittivity of the truth, of the image that the Born approximation and total variation
    make of the same data, of the mean of the samples; its error and the standard deviation, on one
    scale, that of the error where the truth is known. Dashed circles are the published outlines.
    Below: profiles through the object, the data misfit on the way from noise to image, and the
    verdict.

    Args:
        data: what `problem.analyse` gave.
    """
    n, estimate = data.sizes["sample"], data["image_mean"].values
    name = f"mean of {n} samples" if n > 1 else "one sample"
    maps = [] if "truth" not in data else [("truth", data["truth"].values)]
    maps += [(_scored("Born and total variation", "born", data), data["born"].values)]
    maps += [(_scored(name, "mean", data), estimate)]
    spreads = []
    if "truth" in data:
        spreads += [("error", np.abs(estimate - data["truth"].values))]
    if n > 1:
        spreads += [(spread_title(data), data["image_std"].values)]
    shown = maps[0][1] if "truth" in data else estimate
    top = min(max(float(shown.max()), 1e-6), float(data.attrs["max_contrast"]))
    widest = max(float(spreads[0][1].max()), 1e-6) if spreads else 0.0
    panels = [(title, 1 + v, "viridis", 1.0, 1.0 + top) for title, v in maps]
    panels += [(title, v, "inferno", 0.0, widest) for title, v in spreads]
    figure = Picture(figsize=(2.9 * max(len(panels), 4), 6.0), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[3.2, 2.8]))
    axes = above.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, values, cmap, low, high) in zip(axes, panels, strict=True):
        image = _show(axis, values, data, cmap, low, high)
        axis.set_title(title, fontsize=10)
        _label(axis, left=axis is axes[0])
        if axis in (axes[len(maps) - 1], axes[-1]):  # one scale for the maps, one for the rest
            label = "relative permittivity" if low else "in relative permittivity"
            above.colorbar(image, ax=axis, shrink=0.7, pad=0.02, label=label)
    left, right = below.subplots(1, 2)
    _profiles(left, data, maps)
    history(right, data, int(data.attrs["best"]))
    verdict(below, data)
    return figure


def samples(data: xr.Dataset, *, most: int = 16) -> Picture:
    """Permittivity of up to `most` samples side by side on one scale, with their scores."""
    shown = data["image"].values[:most]
    columns = min(len(shown), 4)
    rows = math.ceil(len(shown) / columns)
    figure = Picture(figsize=(2.6 * columns + 0.6, 2.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    top = max(float(np.clip(shown, 0, data.attrs["max_contrast"]).max()), 1e-6)
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    for k, (axis, values) in enumerate(zip(axes.flat, shown, strict=False)):
        image = _show(axis, 1 + values, data, "viridis", 1.0, 1.0 + top)
        if "psnr" in data:
            score = f"{float(data['psnr'][k]):.1f} dB"
        else:
            score = f"misfit {100 * float(data['relative_misfit'][k]):.1f} %"
        axis.set_title(f"sample {k}, {score}", fontsize=9)
        _label(axis, left=k % columns == 0, below=k + columns >= len(shown))
    figure.colorbar(image, ax=axes, shrink=0.8, aspect=30, label="relative permittivity")
    return figure


def shades(images: Sequence[xr.DataArray]) -> Shades:
    """Small pictures of the relative permittivity, on the scale of the first."""
    values = [1 + image.values for image in images]
    return Shades(values, "viridis", 1.0, max(float(np.nanmax(values[0])), 1.0 + 1e-6))


def _scored(title: str, name: str, data: xr.Dataset) -> str:
    scores = data.attrs.get(f"metrics_of_{name}", {})
    parts = [f"{scores['psnr']:.1f} dB"] if "psnr" in scores else []
    parts += [f"data misfit {100 * scores['relative_misfit']:.0f} %"] if scores else []
    return "\n".join([title, ", ".join(parts)])


def _show(axis: Axes, values: Any, data: xr.Dataset, cmap: str, low: float, high: float) -> Any:
    """An image with y upwards, its axes in mm, and the published outlines."""
    x, y = data["x"].values, data["y"].values
    half = (x[1] - x[0]) / 2
    extent = (x[0] - half, x[-1] + half, y[0] - half, y[-1] + half)
    image = axis.imshow(values, cmap=cmap, vmin=low, vmax=high, extent=extent, origin="lower")
    axis.tick_params(labelsize=7)
    for disc in data.attrs.get("targets", {}).values():
        centre = disc["x"], disc["y"]
        axis.add_patch(Circle(centre, disc["radius"], fill=False, ls="--", lw=0.8, color="w"))
    return image


def _label(axis: Axes, *, left: bool, below: bool = True) -> None:
    """Names of the axes, on the outer panels of a row or a grid."""
    if below:
        axis.set_xlabel("x (mm)", fontsize=8)
    if left:
        axis.set_ylabel("y (mm)", fontsize=8)


def _profiles(axis: Axes, data: xr.Dataset, maps: list[tuple[str, np.ndarray]]) -> None:
    """Permittivity along the row through most of the object, published discs included."""
    x, y = data["x"].values, data["y"].values
    row = int(maps[0 if "truth" in data else -1][1].sum(1).argmax())
    colours = {"truth": "k", "Born": "#c25b00"}
    for title, values in maps:
        colour = colours.get(title.split()[0], POINTS)
        axis.plot(x, 1 + values[row], label=title.splitlines()[0], color=colour, lw=1.4)
    if data.attrs.get("targets") and "truth" not in data:
        fine = np.linspace(x[0], x[-1], 2000)
        published = np.ones_like(fine)
        for disc in data.attrs["targets"].values():
            inside = np.hypot(fine - disc["x"], y[row] - disc["y"]) <= disc["radius"]
            published[inside] = 1 + disc["value"]
        axis.plot(fine, published, label="published", color="0.6", lw=1.0, zorder=0)
    axis.legend(fontsize=8, frameon=False)
    axis.grid(alpha=0.25)
    axis.set(xlabel=f"x (mm), at y = {y[row]:.3g} mm")
    axis.set_title("relative permittivity", fontsize=10)

"""Figures of black-hole imaging. North is up and east is left; lengths are in microarcseconds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Circle

from lmaps_science.metrics import blur
from lmaps_science.plots import PATH, POINTS, Picture, finish, history

__all__ = ["plot_uv", "reconstruction", "samples"]

INTENSITY, SPREAD = "afmhot", "viridis"


def reconstruction(data: xr.Dataset, *, blur_uas: float = 15.0) -> Figure:
    """The images of a reconstruction, and how they fit the data.

    Above: the truth where it is known, the best sample, the mean of the samples
    (aligned), the same blurred to `blur_uas`, and their standard deviation. Below: the residuals of
    the closure quantities of the best sample, in standard deviations, and the data misfit of every
    sample on its way from noise to image.

    Args:
        data: what `problem.analyse` gave.
        blur_uas: full width at half maximum of the blur.
    """
    best = int(data.attrs["best"])
    pixel = abs(float(data["x"][1] - data["x"][0]))
    scale, unit = _scale(data["image"])
    panels = [("truth", data["truth"].values)] if "truth" in data else []
    panels += [(f"sample {best}, the best fit", data["image"].values[best])]
    if data.sizes["sample"] > 1:
        mean = data["image_mean"].values
        blurred = blur(mean[None], blur_uas / pixel)[0, 0].numpy()
        panels += [(_mean_title(data), mean)]
        panels += [(f"mean, blurred to {blur_uas:g} µas", blurred)]
        panels += [("standard deviation", data["image_std"].values)]
    else:
        blurred = blur(data["image"].values[:1], blur_uas / pixel)[0, 0].numpy()
        panels += [(f"blurred to {blur_uas:g} µas", blurred)]

    layout = ConstrainedLayoutEngine(w_pad=0.1)
    figure = Picture(figsize=(2.7 * max(len(panels), 3.5), 6.4), layout=layout)
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[1.4, 1]))
    axes = np.atleast_1d(above.subplots(1, len(panels), sharey=True))
    # The truth and one sample of it are to be compared, so they share their scale.
    peak = max(float(values.max()) for name, values in panels if "truth" in name or "fit" in name)
    for axis, (name, values) in zip(axes, panels, strict=True):
        top = peak if "truth" in name or "fit" in name else float(values.max())
        cmap = SPREAD if "deviation" in name else INTENSITY
        image = _show(axis, data, scale * values, scale * top, cmap)
        axis.set_title(name, fontsize=10)
        bar = above.colorbar(image, ax=axis, location="bottom", shrink=0.9, pad=0.02, aspect=25)
        bar.set_label(unit, fontsize=9)
        bar.ax.tick_params(labelsize=8)
    axes[0].set_ylabel("relative declination (µas)")
    _beam(axes[0], data)
    left, middle, right = below.subplots(1, 3)
    _residuals(left, data, "cphase", best, "closure phases")
    _residuals(middle, data, "logcamp", best, "log closure amplitudes")
    left.set_ylabel("(observed − model) / σ")
    history(right, data, best)
    return figure


def samples(data: xr.Dataset, *, most: int = 16) -> Figure:
    """Up to `most` samples side by side on one colour scale.

    Each has the chi2 of its closure phases (phi) and log closure amplitudes (A).

    A dataset with a variable `mode` (sample) is drawn mode by mode, the most frequent first.
    """
    order = np.arange(data.sizes["sample"])
    if "mode" in data:
        order = np.lexsort((data["misfit"].values[-1], data["mode"].values))
    order = order[:most]
    columns = min(len(order), 4 if len(order) <= 8 else math.ceil(math.sqrt(len(order))))
    rows = math.ceil(len(order) / columns)
    figure = Picture(figsize=(2.5 * columns + 0.8, 2.65 * rows + 0.4), layout="constrained")
    axes = np.atleast_2d(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False))
    scale, unit = _scale(data["image"])
    # One bright pixel of one sample should not darken all the others.
    top = scale * float(np.percentile(data["image"].values[order], 99.9))
    for axis in axes.flat[len(order) :]:
        axis.set_axis_off()
    for axis, k in zip(axes.flat, order, strict=False):
        image = _show(axis, data, scale * data["image"].values[k], top, INTENSITY)
        axis.set_xlabel("")
        axis.set_title(_caption(data, int(k)), fontsize=8)
    _beam(axes[0, 0], data)
    figure.colorbar(image, ax=axes, shrink=0.8, aspect=30).set_label(unit)
    figure.supxlabel("relative right ascension (µas)", fontsize=10)
    figure.supylabel("relative declination (µas)", fontsize=10)
    return figure


def plot_uv(observation: xr.Dataset, path: PATH | None = None) -> Figure:
    """The (u, v) coverage, u growing to the left as east does, and the visibility amplitudes.

    Args:
        observation: an Observation, e.g. `problem.observation`.
        path: a file to write, atomically.
    """
    u, v = (observation[name].values / 1e9 for name in "uv")
    length, amplitude = np.hypot(u, v), np.abs(observation["visibility"].values)
    figure = Picture(figsize=(8.2, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.2])
    colours = {"c": np.log10(amplitude), "cmap": "viridis", "zorder": 3}
    for sign in (1, -1):
        left.scatter(sign * u, sign * v, s=7, **colours)
    reach = 1.08 * length.max()
    left.set(xlim=(reach, -reach), ylim=(-reach, reach), aspect="equal")
    left.set(xlabel="u (Gλ)", ylabel="v (Gλ)")
    sigma = observation["sigma"].values
    right.errorbar(length, amplitude, sigma, fmt="none", lw=0.6, ecolor="0.6")
    right.scatter(length, amplitude, s=9, **colours)
    right.set(yscale="log", xlabel="baseline (Gλ)", ylabel="|V| (Jy)", xlim=(-0.02 * reach, reach))
    right.set_ylim(0.6 * amplitude.min(), 1.6 * amplitude.max())
    for axis in (left, right):
        axis.grid(alpha=0.25)
    return finish(figure, path)


# ---------------------------------------------------------------- parts


def _mean_title(data: xr.Dataset) -> str:
    inside, n = int((data["mode"].values == 0).sum()), data.sizes["sample"]
    return f"mean of {n} samples" if inside == n else f"mean of mode 0 ({inside} of {n} samples)"


def _scale(image: xr.DataArray) -> tuple[float, str]:
    if image.attrs.get("units") == "Jy/pixel":
        return 1e3, "mJy/pixel"
    return 1.0, "relative intensity"


def _show(axis: Axes, data: xr.Dataset, values: np.ndarray, top: float, cmap: str) -> Any:
    x, y = data["x"].values, data["y"].values
    half = abs(x[1] - x[0]) / 2
    extent = (x[0] + half, x[-1] - half, y[-1] - half, y[0] + half)
    image = axis.imshow(values, cmap=cmap, vmin=0, vmax=top or 1, extent=extent, origin="upper")
    axis.set_xlabel("relative R.A. (µas)")
    axis.tick_params(labelsize=8)
    axis.locator_params(nbins=5)
    return image


def _beam(axis: Axes, data: xr.Dataset) -> None:
    """The nominal resolution, as a circle in the lower left corner."""
    width = float(data.attrs["resolution_uas"])
    (left, right), (bottom, _) = axis.get_xlim(), axis.get_ylim()
    edge = 0.04 * abs(right - left)
    centre = (left - edge - width / 2, bottom + edge + width / 2)
    axis.add_patch(Circle(centre, width / 2, fill=False, ec="white", lw=1))
    axis.text(
        centre[0] - width / 2 - edge, centre[1], f"{width:.0f} µas", color="white", fontsize=8,
        va="center",
    )  # fmt: skip


def _residuals(axis: Axes, data: xr.Dataset, name: str, sample: int, title: str) -> None:
    residual = data[f"{name}_residual"].values[sample]
    axis.axhspan(-1, 1, color="0.9", lw=0)
    axis.axhline(0, color="0.6", lw=0.8)
    axis.set(xlabel="longest baseline (Gλ)")
    if len(residual) == 0:
        axis.set_title(f"{title}: none", fontsize=10)
        return
    axis.plot(data[f"{name}_baseline"].values, residual, ".", ms=4, color=POINTS)
    reach = max(3.5, 1.1 * float(np.abs(residual).max()))
    axis.set_ylim(-reach, reach)
    chi2 = float(np.mean(residual**2))
    axis.set_title(f"{len(residual)} {title}, χ² = {chi2:.2f}", fontsize=10)


def _caption(data: xr.Dataset, k: int) -> str:
    parts: Iterable[str] = (
        f"{label} {float(data[name].values[k]):.{digits}f}"
        for name, label, digits in (
            ("chi2_cphase", r"$\chi^2_{\phi}$", 2),
            ("chi2_logcamp", r"$\chi^2_{A}$", 2),
            ("psnr", "PSNR", 1),
        )
        if name in data
    )
    mode = f"mode {data['mode'].values[k]}: " if "mode" in data else ""
    return f"{mode}sample {k}\n" + ", ".join(parts)

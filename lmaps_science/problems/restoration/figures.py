"""Figures of restoration: pictures side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lmaps_science.plots import Picture, Shades, history, verdict

__all__ = ["reconstruction", "samples", "shades"]


def reconstruction(data: xr.Dataset) -> Picture:
    """The data, the truth where it is known, the best sample and the mean; error and spread.

    Fourier magnitudes are shown on a logarithmic scale. Error and standard deviation are root mean
    squares over the colours, on one scale. Below: the data misfit on the way from noise to image,
    the values of the mean against those of the truth or the data, and the verdict.

    Args:
        data: what `problem.analyse` gave.
    """
    best, n = int(data.attrs["best"]), data.sizes["sample"]
    panels = [(_degraded_title(data), _degraded(data))]
    if "truth" in data:
        panels.append(("truth", _rgb(data["truth"].values)))
    panels.append((_scored(f"sample {best}", data, best), _rgb(data["image"].values[best])))
    if n > 1:
        panels.append((_scored(f"mean of {n}", data, None), _rgb(data["image_mean"].values)))
    spreads = []
    if "truth" in data:
        error = data["image_mean"].values - data["truth"].values
        spreads.append(("error of the mean", np.sqrt((error**2).mean(0))))
    if n > 1:
        spread = data["image_std"].values
        spreads.append(("standard deviation", np.sqrt((spread**2).mean(0))))
    columns = len(panels) + len(spreads)
    figure = Picture(figsize=(2.7 * columns, 5.6), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[3.1, 2.5]))
    axes = above.subplots(1, columns, squeeze=False)[0]
    for axis, (title, image) in zip(axes, panels, strict=False):
        axis.imshow(image, interpolation="nearest")
        _plain(axis, title)
    top = max((float(np.percentile(values, 99.5)) for _, values in spreads), default=1.0) or 1.0
    for axis, (title, values) in zip(axes[len(panels) :], spreads, strict=True):
        shown = axis.imshow(values, cmap="inferno", vmin=0, vmax=top)
        _plain(axis, title)
    if spreads:
        above.colorbar(shown, ax=axes[-1], shrink=0.7, pad=0.02, label="white is 1")
    left, right = below.subplots(1, 2)
    history(left, data, best)
    _profile(right, data)
    verdict(below, data)
    return figure


def samples(data: xr.Dataset, *, most: int = 16) -> Picture:
    """Up to `most` samples side by side, with their scores."""
    shown = data["image"].values[:most]
    columns = min(len(shown), 4)
    rows = math.ceil(len(shown) / columns)
    figure = Picture(figsize=(2.6 * columns, 2.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    for k, (axis, image) in enumerate(zip(axes.flat, shown, strict=False)):
        axis.imshow(_rgb(image), interpolation="nearest")
        _plain(axis, _scored(f"sample {k}", data, k))
    return figure


def shades(images: Sequence[xr.DataArray]) -> Shades:
    """Small pictures of the luminance."""
    weights = np.array([0.299, 0.587, 0.114])
    values = [np.tensordot(weights, image.values, 1).clip(0, 1) for image in images]
    return Shades(values, "gray", 0.0, 1.0)


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.moveaxis(image, 0, -1).clip(0, 1)


def _degraded(data: xr.Dataset) -> np.ndarray:
    values = data["data"].values
    if data.attrs["degradation"] != "phase_retrieval":
        return _rgb(values)
    centred = np.log10(np.fft.fftshift(values, (-2, -1)).clip(1e-3, None))
    return _rgb((centred - centred.min()) / max(float(np.ptp(centred)), 1e-12))


def _degraded_title(data: xr.Dataset) -> str:
    height, width = data["data"].shape[1:]
    return f"{data.attrs['degradation'].replace('_', ' ')}\n{height} x {width}"


def _scored(title: str, data: xr.Dataset, k: int | None) -> str:
    scores = data.attrs["metrics_of_mean"]
    if k is not None:
        scores = {name: float(data[name][k]) for name in scores}
    parts = [f"{scores['psnr']:.2f} dB"] if "psnr" in scores else []
    parts += [f"SSIM {scores['ssim']:.3f}"] if "ssim" in scores else []
    return "\n".join([title, ", ".join(parts) or f"χ² {scores['chi2']:.2f}"])


def _plain(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=9)
    axis.set_xticks([])
    axis.set_yticks([])


def _profile(axis: Axes, data: xr.Dataset) -> None:
    """Green along the middle row, of the mean, the samples' spread and the truth."""
    row = data.sizes["y"] // 2
    mean = data["image_mean"].values[1, row]
    spread = data["image_std"].values[1, row]
    x = data["x"].values
    if "truth" in data:
        axis.plot(x, data["truth"].values[1, row], color="k", lw=1.0, label="truth")
    axis.fill_between(x, mean - 2 * spread, mean + 2 * spread, alpha=0.25, lw=0)
    axis.plot(x, mean, lw=1.4, label="mean, ± 2 standard deviations of the samples")
    axis.legend(fontsize=7, frameon=False)
    axis.grid(alpha=0.25)
    axis.set(xlabel=f"column, row {row}")
    axis.set_title("green along the middle row", fontsize=10)

"""Figures of black-hole imaging. North is up and east is left; lengths are in microarcseconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Circle

from lmaps_science.metrics import align, blur
from lmaps_science.plots import (
    PATH,
    POINTS,
    Picture,
    Shades,
    finish,
    history,
    spread_title,
    verdict,
)
from lmaps_science.problems.black_hole.metrics import at_beam
from lmaps_science.problems.black_hole.ring_test import has_ring

__all__ = ["plot_uv", "prior_check", "reconstruction", "samples", "shades"]

SHARP = "(sharpness: the prior's)"
INTENSITY, SPREAD, SIGNED = "afmhot", "viridis", "RdBu_r"


class Panel(NamedTuple):
    """One image of a figure; those of one `scale` share their colours.

    Attributes:
        title: above it.
        values: (H, W).
        scale: "images", "mean", "blurred", or "spread" for deviations and errors.
        beam: what its details are blurred to, in microarcseconds; 0: not drawn.
    """

    title: str
    values: np.ndarray
    scale: str = "images"
    beam: float = 0.0


def reconstruction(data: xr.Dataset, *, blur_uas: float | None = None) -> Figure:
    """The images of a reconstruction, and how they fit the data.

    Above: the truth where it is known, a classical image where there is one (the variable
    `baseline`); what the data resolve, the mean of the samples of mode 0 (aligned) blurred to the
    beam; the same mean and the best sample of mode 0 as they are, whose details below the beam are
    the prior's; the best of all if that is another one; the best image of the other kind, with or
    without a ring, blurred to the beam; the standard deviation and, on its scale, the error of the
    mean. Below: the residuals of the closure quantities of the best sample of mode 0, in standard
    deviations, the data misfit of every sample on its way from noise to image, and the verdict.

    Args:
        data: what `problem.analyse` gave.
        blur_uas: full width at half maximum of the blur; None: the nominal resolution.
    """
    best = int(data.attrs["best"])
    panels = _panels(data, best, blur_uas or float(data.attrs["resolution_uas"]))
    columns = len(panels) if len(panels) < 6 else math.ceil(len(panels) / 2)
    rows = math.ceil(len(panels) / columns)
    height = 4.0 * rows
    layout = ConstrainedLayoutEngine(w_pad=0.1)
    figure = Picture(figsize=(2.7 * max(columns, 3.5), height + 3.1), layout=layout)
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[height, 3.1]))
    axes = above.subplots(rows, columns, sharey=True, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    scale, unit = _scale(data["image"])
    for axis, panel in zip(axes.flat, panels, strict=False):
        among = [scale * other.values for other in panels if other.scale == panel.scale]
        cmap = SPREAD if panel.scale == "spread" else INTENSITY
        image = _show(axis, data, scale * panel.values, _limits(among), cmap)
        axis.set_title(panel.title, fontsize=9)
        bar = above.colorbar(image, ax=axis, location="bottom", shrink=0.9, pad=0.02, aspect=25)
        bar.set_label(unit, fontsize=9)
        bar.ax.tick_params(labelsize=8)
        if panel.beam:
            _beam(axis, panel.beam)
    for axis in axes[:, 0]:
        axis.set_ylabel("relative declination (µas)")
    left, middle, right = below.subplots(1, 3)
    _residuals(left, data, "cphase", best, "closure phases")
    _residuals(middle, data, "logcamp", best, "log closure amplitudes")
    left.set_ylabel("(observed − model) / σ")
    history(right, data, best)
    verdict(below, data)
    return figure


def _panels(data: xr.Dataset, best: int, blur_uas: float) -> list[Panel]:
    images, pixel = data["image"].values, abs(float(data["x"][1] - data["x"][0]))
    resolution = float(data.attrs["resolution_uas"])
    n, inside = len(images), int((data["mode"].values == 0).sum())
    of_all = int(data["misfit"].values[-1].argmin())
    panels = [Panel("truth", data["truth"].values)] if "truth" in data else []
    panels += [Panel("classical (RML)", data["baseline"].values)] if "baseline" in data else []
    middle, name, of = images[best], f"sample {best}", f"sample {best}"
    if inside > 1:
        middle, name, of = data["image_mean"].values, _mean_title(data), "the mean"
    panels += [_blurred(f"{name}\n(blurred to the beam)", middle, blur_uas, pixel)]
    if inside > 1:
        panels += [Panel(f"{name}\n{SHARP}", middle, "mean", resolution)]
    label = f"sample {best}, best of mode 0" if n > 1 else f"sample {best}"
    panels += [Panel(f"{label}\n{SHARP}", images[best], beam=resolution)]
    if of_all != best:
        label = f"sample {of_all}, best of all (mode {int(data['mode'].values[of_all])})"
        panels += [Panel(f"{label}\n{SHARP}", images[of_all], beam=resolution)]
    panels += _other_kind(data, best, blur_uas, pixel)
    if inside > 1:
        panels += [Panel(spread_title(data), data["image_std"].values, "spread")]
    if "truth" in data:
        truth = data["truth"].values
        moved = align(middle[None] / truth.max(), truth[None] / truth.max())[0, 0].numpy()
        error = np.abs(moved * truth.max() - truth)
        panels += [Panel(f"|error| of {of}", error, "spread")]
    return panels


def _blurred(title: str, values: np.ndarray, blur_uas: float, pixel: float) -> Panel:
    return Panel(title, blur(values[None], blur_uas / pixel)[0, 0].numpy(), "blurred", blur_uas)


def _other_kind(data: xr.Dataset, best: int, blur_uas: float, pixel: float) -> list[Panel]:
    """The best image without a ring where sample `best` has one, and the other way round."""
    test = data.attrs.get("ring_test")
    if test is None or "ring_test_image" not in data:
        return []
    pair = (("best_ring", "with"), ("best_without", "without"))
    kinds = [(test[key], word, k) for k, (key, word) in enumerate(pair)]
    kinds = [kind for kind in kinds if kind[0] is not None]
    if len(kinds) < 2:
        return []
    here = data["image"].values[best]
    values = data["ring_test_image"].values
    has = has_ring(here[None], pixel, float(data.attrs["resolution_uas"]))[0]
    one, word, k = kinds[int(has)]
    title = f"best {word} a ring: {one['image']}\n(blurred to the beam)"
    return [_blurred(title, values[k], blur_uas, pixel)]


def prior_check(data: xr.Dataset) -> Figure:
    """The means of two priors, blurred to the beam, their difference, and both as they are.

    The second is shifted onto the first: closure quantities do not tell the position.

    Args:
        data: what `problem.analyse` gave and `problem.compare` added to.
    """
    check, beam = data.attrs["prior_check"], float(data.attrs["resolution_uas"])
    pixel = abs(float(data["x"][1] - data["x"][0]))
    sharp = np.stack([data["image_mean"].values, data["image_mean_second"].values])
    peak = sharp.max() or 1.0
    seen = at_beam(sharp, beam / pixel)
    sharp[1] = align(sharp[1:] / peak, sharp[:1] / peak)[0, 0].numpy() * peak
    names = ("first prior", check["name"])
    panels = [
        Panel(f"{name}\n(blurred to the beam)", image, "blurred", beam)
        for name, image in zip(names, seen, strict=True)
    ]
    panels += [Panel("second - first\n(blurred to the beam)", seen[1] - seen[0], "change", beam)]
    panels += [
        Panel(f"{name}\n{SHARP}", image, f"sharp {k}", beam)
        for k, (name, image) in enumerate(zip(names, sharp, strict=True))
    ]
    figure = Picture(figsize=(13.5, 5.2), layout="constrained")
    scale, unit = _scale(data["image"])
    for axis, panel in zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True):
        low, high = _limits(
            [scale * other.values for other in panels if other.scale == panel.scale]
        )
        if panel.scale == "change":  # on the scale of what it is a difference of
            high = scale * float(seen.max())
            low = -high
        image = _show(axis, data, scale * panel.values, (low, high), INTENSITY)
        axis.set_title(panel.title, fontsize=9)
        bar = figure.colorbar(image, ax=axis, location="bottom", shrink=0.9, pad=0.02, aspect=25)
        bar.set_label(unit, fontsize=9)
        bar.ax.tick_params(labelsize=8)
        _beam(axis, panel.beam)
    figure.axes[0].set_ylabel("relative declination (µas)")
    told = [*check["text"], *data.attrs.get("ring_test", {}).get("text", [])]
    figure.supxlabel("\n".join(told), fontsize=8, color="0.35", x=0.01, ha="left")
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
    shown = scale * data["image"].values[order]
    limits = _limits([np.clip(shown, *np.percentile(shown, [0.1, 99.9]))])
    for axis in axes.flat[len(order) :]:
        axis.set_axis_off()
    for axis, k in zip(axes.flat, order, strict=False):
        image = _show(axis, data, scale * data["image"].values[k], limits, INTENSITY)
        axis.set_xlabel("")
        axis.set_title(_caption(data, int(k)), fontsize=8)
    _beam(axes[0, 0], float(data.attrs["resolution_uas"]))
    figure.colorbar(image, ax=axes, shrink=0.8, aspect=30).set_label(unit)
    figure.suptitle("what is sharper than the beam, the circle, is the prior's", fontsize=9)
    figure.supxlabel("relative right ascension (µas)", fontsize=10)
    figure.supylabel("relative declination (µas)", fontsize=10)
    return figure


def shades(images: Sequence[xr.DataArray]) -> Shades:
    """Small pictures of images on one scale, in the colours of the figures."""
    values = [image.values for image in images]
    low, high = _limits([np.nan_to_num(v) for v in values])
    return Shades(values, SIGNED if low < 0 else INTENSITY, low, high)


def plot_uv(observation: xr.Dataset, path: PATH | None = None) -> Figure:
    """The (u, v) coverage, u growing to the left as east does, and the visibility amplitudes.

    Args:
        observation: an Observation, e.g. `problem.observation`.
        path: a file to write, atomically.

    Example:
        >>> from lmaps_science import load_problem
        >>> problem = load_problem("black_hole/simulated", prior="gaussian")
        >>> figure = plot_uv(problem.observation, path="coverage.png")
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


def _limits(images: Sequence[np.ndarray]) -> tuple[float, float]:
    """The ends of a colour scale for all of them: from 0, or symmetric where negatives matter.

    They do where they are a tenth of the light, however faint, or a twentieth of the peak.
    """
    low = min(float(image.min()) for image in images)
    top = max(float(image.max()) for image in images)
    share = max(float(-image.clip(None, 0).sum() / (np.abs(image).sum() or 1)) for image in images)
    if low < -0.05 * top or share > 0.1:
        return -max(top, -low), max(top, -low)
    return 0.0, top or 1.0


def _show(
    axis: Axes, data: xr.Dataset, values: np.ndarray, limits: tuple[float, float], cmap: str
) -> Any:
    x, y = data["x"].values, data["y"].values
    half = abs(x[1] - x[0]) / 2
    extent = (x[0] + half, x[-1] - half, y[-1] - half, y[0] + half)
    cmap = SIGNED if limits[0] < 0 else cmap
    image = axis.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1], extent=extent)
    axis.set_xlabel("relative R.A. (µas)")
    axis.tick_params(labelsize=8)
    axis.locator_params(nbins=5)
    return image


def _beam(axis: Axes, width: float) -> None:
    """A resolution in microarcseconds, as a circle in the lower left corner."""
    colour = "0.2" if axis.images[0].get_clim()[0] < 0 else "white"
    (left, right), (bottom, _) = axis.get_xlim(), axis.get_ylim()
    edge = 0.04 * abs(right - left)
    centre = (left - edge - width / 2, bottom + edge + width / 2)
    axis.add_patch(Circle(centre, width / 2, fill=False, ec=colour, lw=1))
    axis.text(
        centre[0] - width / 2 - edge, centre[1], f"{width:.0f} µas", color=colour, fontsize=8,
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

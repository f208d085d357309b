"""Figures of reconstructions, without any global state: each function returns a Figure.

They draw the datasets that `Problem.analyse` makes and `read_netcdf` reads back, so a result can be
drawn long after the run. How the images of a field look, its package knows; a `Result` without a
`Problem` gets plain pictures.
"""

from __future__ import annotations

import io
import math
import os
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from lmaps_science.cards.problem import Problem
from lmaps_science.cards.registry import find_kind, kinds
from lmaps_science.io.files import DataError, atomic_write
from lmaps_science.io.results import require_result
from lmaps_science.sampling import Result

__all__ = [
    "Picture",
    "Shades",
    "finish",
    "history",
    "plot_calibration",
    "plot_prior_check",
    "plot_reconstruction",
    "plot_samples",
    "shades",
    "spread_title",
    "verdict",
]

POINTS = "#1f5f8b"
PATH = str | os.PathLike[str]


class Picture(Figure):
    """A figure that notebooks show by itself."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=90)
        return buffer.getvalue()


class Shades(NamedTuple):
    """Images as small pictures show them, on one scale.

    Attributes:
        values: (H, W) each, the first row above.
        colours: the name of a colormap of Matplotlib.
        low, high: the values at its ends.
    """

    values: list[np.ndarray]
    colours: str
    low: float
    high: float


def shades(images: Sequence[xr.DataArray], kind: str | None = None) -> Shades:
    """How small pictures show images of a kind side by side: as its figures do, or plainly.

    Args:
        images: without samples, each of dimensions of its own.
        kind: the attribute `kind` of their results.
    """
    known = None if kind is None else kinds().get(kind)
    own = None if known is None else known.shades(images)
    if own is not None:
        return Shades(*own)
    values = [_flat(image) for image in images]
    ends = [float(end(v[np.isfinite(v)], initial=0)) for v in values for end in (np.min, np.max)]
    return Shades(values, "gray", min(ends), max(ends))


def plot_reconstruction(
    result: xr.Dataset | Result,
    problem: Problem | None = None,
    path: PATH | None = None,
    **options: Any,
) -> Figure:
    """The images of a reconstruction, their spread, and how they fit the data.

    Args:
        result: what `problem.analyse` gave (or `read_netcdf`), or a Result.
        problem: for a Result alone: draws it in physical units, with its metrics.
        path: a file to write, atomically; its suffix tells the format.
        options: those of the kind of problem, see `reconstruction` in its module of figures.

    Example:
        >>> from lmaps_science import load_problem, sample
        >>> changes = {"prior.kind": "gaussian", "image.npix": 16, "solver.levels": 3}
        >>> problem = load_problem("scattering/linear_60", overrides=changes)
        >>> result = sample(problem, problem.solver, n_samples=1, progress=False)
        >>> figure = plot_reconstruction(problem.analyse(result), path="figure.png")
    """
    data = _dataset(result, problem)
    with _complaints(data):
        if "kind" not in data.attrs:
            figure = _plain_reconstruction(data)
        else:
            figure = find_kind(data.attrs["kind"], "result").draw(data, **options)
    return finish(figure, path)


def plot_samples(
    result: xr.Dataset | Result,
    problem: Problem | None = None,
    path: PATH | None = None,
    *,
    most: int = 16,
) -> Figure:
    """Up to `most` samples side by side on one colour scale; arguments as above.

    Example:
        >>> from lmaps_science import LMAPS, sample, toys
        >>> result = sample(toys.mixture().problem, LMAPS(levels=5), n_samples=3, progress=False)
        >>> figure = plot_samples(result, path="samples.png")
    """
    data = _dataset(result, problem)
    with _complaints(data):
        if "kind" not in data.attrs:
            figure = _plain_samples(data, most)
        else:
            figure = find_kind(data.attrs["kind"], "result").draw_samples(data, most)
    return finish(figure, path)


def plot_prior_check(data: xr.Dataset, path: PATH | None = None) -> Figure:
    """The images of two priors and their difference.

    Args:
        data: what `problem.analyse` gave and `problem.compare` added to.
        path: a file to write, atomically.

    Raises:
        DataError: no second prior was run.
    """
    if "prior_check" not in data.attrs:
        raise DataError(
            "the result holds no second prior: run it again with one, e.g. lmaps run ... "
            "--prior-check gaussian."
        )
    with _complaints(data):
        figure = find_kind(data.attrs["kind"], "result").draw_prior_check(data)
        return finish(_plain_prior_check(data) if figure is None else figure, path)


def plot_calibration(data: xr.Dataset, path: PATH | None = None) -> Figure:
    """How well the spread of samples tells their error: coverage, ranks, spread against error.

    Left, the share of pixels inside of intervals against the nominal one, with standard errors over
    observations; middle, the density of the truth's rank among the samples; right, the error of the
    mean against the spread. The dashed lines are where samples are drawn as they should be.

    Args:
        data: of `metrics.calibration`.
        path: a file to write, atomically.

    Raises:
        DataError: the dataset is another one.
    """
    needed = ("coverage", "coverage_error", "rank_density", "spread", "error", "pixels")
    lacking = [name for name in needed if name not in data]
    if lacking:
        raise DataError(
            f"the dataset is not that of metrics.calibration: it lacks {', '.join(lacking)}."
        )
    figure = Picture(figsize=(10.2, 3.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    level, ideal = data["level"].values, {"color": "0.5", "ls": "--", "lw": 1}
    left.plot([0, 1], [0, 1], **ideal)
    error = np.nan_to_num(data["coverage_error"].values)  # of one observation it is not known
    left.errorbar(level, data["coverage"].values, error, color=POINTS, marker="o", ms=4, capsize=3)
    left.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="nominal share", ylabel="share inside")
    left.set_title("central intervals", fontsize=10)
    rank = data["rank"].values
    middle.bar(rank, data["rank_density"].values, 0.92 / len(rank), color=POINTS, alpha=0.75)
    middle.axhline(1, **ideal)
    middle.set(xlim=(0, 1), xlabel="rank of the truth among the samples", ylabel="density")
    middle.set_title("ranks: ∪ too little spread, ∩ too much", fontsize=10)
    spread, wrong = data["spread"].values, data["error"].values
    some = (spread > 0) & (wrong > 0)  # the axes are logarithmic
    ends = [f(*spread[some], *wrong[some]) for f in (min, max)] if some.any() else [0.1, 1.0]
    right.loglog(ends, ends, **ideal)
    right.loglog(spread[some], wrong[some], color=POINTS, marker="o", ms=4)
    for line in (right.xaxis, right.yaxis):
        line.set_major_locator(LogLocator(subs=(1, 2, 5)))
        line.set_major_formatter("{x:g}")
        line.set_minor_locator(NullLocator())
    right.set(xlabel="spread (rms)", ylabel="error of the mean (rms)")
    right.set_title("by level of spread", fontsize=10)
    for axis in (left, right):
        axis.grid(alpha=0.25)
    n, factor = data.sizes["observation"], float(data.attrs.get("factor", 1))
    note = f"{n} observation{'s' * (n > 1)}, {int(data['pixels'].sum())} pixels"
    note += "" if factor == 1 else f"; spread times {factor:.3g}"
    figure.supxlabel(note, fontsize=8, color="0.35", x=0.01, ha="left")
    return finish(figure, path)


def _dataset(result: xr.Dataset | Result, problem: Problem | None) -> xr.Dataset:
    if isinstance(result, xr.Dataset):
        return result
    return result.to_xarray() if problem is None else problem.analyse(result)


@contextmanager
def _complaints(data: xr.Dataset) -> Iterator[None]:
    """Datasets that are no results, refused as such."""
    require_result(data)
    try:
        yield
    except (KeyError, IndexError, AttributeError, StopIteration) as error:
        raise DataError(
            f"the dataset is no complete result of this package: a figure needs {error or 'more'}. "
            "Give the result.nc of a run, or what problem.analyse returned."
        ) from error


# ---------------------------------------------------------------- what all fields share


def history(axis: Axes, data: xr.Dataset, best: int) -> None:
    """The data misfit of every sample on its way from noise to image; sample `best` in colour."""
    sigma, misfit = data["sigma"].values, data["misfit"].values
    rounds = len(sigma) > 1 and sigma[0] == sigma[-1]  # methods that stay at one noise level
    x = np.arange(1, len(sigma) + 1) if rounds else sigma
    axis.loglog(x, misfit, color="0.75", lw=0.8)
    axis.loglog(x, misfit[:, best], color=POINTS, lw=1.6)
    if not rounds:
        axis.invert_xaxis()
    axis.grid(alpha=0.25)
    axis.tick_params(axis="y", which="both", labelsize=8)
    axis.set(xlabel="round" if rounds else "noise level σ")
    axis.set_title("data misfit −log p(y|x)", fontsize=10)


def verdict(figure: Any, data: xr.Dataset) -> None:
    """The verdict on the data, below a figure or a part of one, in red where it does not fit.

    It takes the place of the x label of all axes: the attributes `verdict`, the first two of
    `verdict_reasons`, and `notes`, where there are any; without a verdict, nothing.
    """
    word = data.attrs.get("verdict")
    if word is None:
        return
    colour = {"doubtful": "#b36b00", "does not fit": "#b00020"}.get(word, "0.35")
    reasons = list(data.attrs.get("verdict_reasons", ()))
    rest = f"; {len(reasons) - 2} more in summary.txt" if len(reasons) > 2 else ""
    first = f"{word}: {'; '.join(reasons[:2])}{rest}" if reasons else word
    width = int(17 * figure.bbox.width / figure.dpi)  # letters of 8 points in a line
    lines = [
        line
        for text in (first, *data.attrs.get("notes", ()))
        for line in textwrap.wrap(text, width, subsequent_indent="    ")
    ]
    figure.supxlabel("\n".join(lines), fontsize=8, color=colour, x=0.01, ha="left")


def spread_title(data: xr.Dataset) -> str:
    """What a panel of the samples' standard deviation is called; no error bar after a selection."""
    return "standard deviation" + ("\n(no error bar)" if "caution" in data.attrs else "")


def finish(figure: Figure, path: PATH | None) -> Figure:
    """The figure, written to `path` where there is one, atomically; its suffix tells the format."""
    if path is not None:
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=150)
    return figure


# ---------------------------------------------------------------- results without a field


def _image_name(data: xr.Dataset) -> str:
    found = [str(name)[: -len("_mean")] for name in data if str(name).endswith("_mean")]
    if not found:
        raise KeyError("the mean of the samples, a variable named ..._mean")
    return found[0]


def _flat(image: xr.DataArray, lead: int = 0) -> np.ndarray:
    """(..., H, W) of an image with at most one more axis: two channels by their magnitude."""
    values = image.values
    if values.ndim - lead == 2:
        return values
    return np.linalg.norm(values, axis=-3) if values.shape[-3] == 2 else values.mean(-3)


def _plain_reconstruction(data: xr.Dataset) -> Figure:
    name, n = _image_name(data), data.sizes["sample"]
    samples = _flat(data[name], 1)
    panels = [(f"sample {k}", samples[k], "gray") for k in range(min(n, 2))]
    if n > 1:
        panels += [(f"mean of {n} samples", _flat(data[f"{name}_mean"]), "gray")]
        panels += [(spread_title(data), _flat(data[f"{name}_std"]), "inferno")]
    figure = Picture(figsize=(2.9 * (len(panels) + 1.3), 3.0), layout="constrained")
    axes = figure.subplots(1, len(panels) + 1, width_ratios=[1] * len(panels) + [1.3])
    for axis, (title, values, cmap) in zip(axes, panels, strict=False):
        image = axis.imshow(values, cmap=cmap)
        figure.colorbar(image, ax=axis, location="bottom", shrink=0.9, aspect=25)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    history(axes[-1], data, int(data["misfit"].values[-1].argmin()))
    return figure


def _plain_prior_check(data: xr.Dataset) -> Figure:
    name, check = _image_name(data), data.attrs["prior_check"]
    first, second = (_flat(data[f"{name}_mean{end}"]) for end in ("", "_second"))
    top = max(float(np.abs(first).max()), float(np.abs(second).max())) or 1.0
    low = min(float(first.min()), float(second.min()))
    panels = [("mean", first, "gray", low), (f"mean, {check['name']}", second, "gray", low)]
    panels += [("second - first", second - first, "RdBu_r", -top)]
    figure = Picture(figsize=(9.4, 3.9), layout="constrained")
    for axis, (title, values, cmap, least) in zip(figure.subplots(1, 3), panels, strict=True):
        image = axis.imshow(values, cmap=cmap, vmin=least, vmax=top)
        figure.colorbar(image, ax=axis, location="bottom", shrink=0.9, aspect=25)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    figure.supxlabel("\n".join(check["text"]), fontsize=8, color="0.35", x=0.01, ha="left")
    return figure


def _plain_samples(data: xr.Dataset, most: int) -> Figure:
    shown = _flat(data[_image_name(data)], 1)[:most]
    columns = min(len(shown), 4)
    rows = math.ceil(len(shown) / columns)
    figure = Picture(figsize=(2.5 * columns + 0.6, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    low, high = float(shown.min()), float(shown.max())
    for axis in axes.flat:
        axis.set_axis_off()
    for k, (axis, values) in enumerate(zip(axes.flat, shown, strict=False)):
        image = axis.imshow(values, cmap="gray", vmin=low, vmax=high)
        axis.set_title(f"sample {k}, misfit {float(data['misfit'][-1, k]):.4g}", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.8, aspect=30)
    return figure

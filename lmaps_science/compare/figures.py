"""Figures of comparisons and of the search for options."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lmaps_science.compare.table import Comparison
from lmaps_science.report.statistics import Estimate

__all__ = ["draw", "draw_history"]

COLOURS = ("#1f5f8b", "#c8553d", "#588157", "#7b5ea7", "#b8860b", "#4a4a4a")
MARKERS = "os^Dv<>Ph*"


def draw(found: Sequence[Comparison]) -> Figure:
    """The main metric against the network calls of a sample, for each solver.

    Of comparisons of the same solvers on the same images, at several budgets, a solver's points are
    joined.
    """
    first = found[0]
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    shown: list[float] = []
    for k, entry in enumerate(first.entries):
        points = _points(found, entry.method.name)
        if not points:
            continue
        calls, scores = zip(*points, strict=True)
        shown.extend(calls)
        fewest = min(score.n for score in scores)
        whole = fewest == len(first.facts["images"])
        axes.errorbar(
            calls,
            [score.mean for score in scores],
            yerr=[score.error for score in scores],
            fmt=MARKERS[k % len(MARKERS)] + "-",
            color=COLOURS[k % len(COLOURS)],
            capsize=3,
            markersize=7 if len(found) == 1 else 5,
            linewidth=1,
            label=entry.method.name if whole else f"{entry.method.name} (n = {fewest})",
        )
    unit = next((c.metrics[c.main] for c in found if c.main in c.metrics), "1")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda calls, _: f"{calls:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if shown:
        axes.set_xlim(min(shown) / 2.1, max(shown) * 2.1)
    axes.set_xlabel("network calls of a sample, a vector-Jacobian product counted as two")
    axes.set_ylabel(first.main.replace("_", " ") + ("" if unit == "1" else f" [{unit}]"))
    axes.set_title(
        f"{first.card}, {len(first.facts['images'])} images: mean and its standard error",
        fontsize=10,
    )
    axes.grid(which="major", color="0.9")
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    else:
        axes.text(0.5, 0.5, "no results yet", transform=axes.transAxes, ha="center")
    return figure


def _points(found: Sequence[Comparison], name: str) -> list[tuple[float, Estimate]]:
    """Network calls and score of a solver wherever it has them, by calls."""
    points = []
    for comparison in found:
        score = comparison.means.get((comparison.main, name))
        calls = comparison.means.get(("network_calls", name))
        if score is not None and calls is not None and score.n and calls.mean > 0:
            points.append((calls.mean, score))
    return sorted(points, key=lambda point: point[0])


def draw_history(values: Sequence[float], metric: str, unit: str, title: str) -> Figure:
    """The objective of every trial in turn, and the best so far; NaN where a trial has none."""
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    axes = figure.add_subplot()
    best, so_far = -math.inf, []
    for value in values:
        best = max(best, value) if math.isfinite(value) else best
        so_far.append(best if math.isfinite(best) else math.nan)
    axes.plot(values, "o", color=COLOURS[0], markersize=5, label="a trial")
    axes.step(range(len(values)), so_far, where="post", color=COLOURS[1], label="the best so far")
    axes.set_xlabel("trial; 0: as it was given")
    axes.set_ylabel(metric.replace("_", " ") + ("" if unit == "1" else f" [{unit}]"))
    axes.set_title(title, fontsize=10)
    axes.grid(color="0.9")
    axes.legend(frameon=False, fontsize=9)
    return figure

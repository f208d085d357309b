"""The table of a comparison: a row for each solver, those that were refused included."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lmaps_science.compare.cost import network_calls, operator_calls
from lmaps_science.compare.methods import Method
from lmaps_science.report.runs import FAILED
from lmaps_science.report.scores import Outcome, Score
from lmaps_science.report.statistics import (
    FEW,
    Estimate,
    differences,
    metric_names,
    summarise,
)
from lmaps_science.report.tables import csv_lines, number, typeset

__all__ = ["COSTS", "Comparison", "Entry", "csv_text", "markdown_text"]

COSTS = {"network_calls": "1", "operator_calls": "1", "seconds": "s"}  # with their units
NOTHING = Estimate(0, math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Entry:
    """One solver of a comparison on one card.

    Attributes:
        method: the solver, with as many levels as it ran with.
        refused: why it cannot serve the card; empty where it can.
        megabytes: the most memory that its first level took.
    """

    method: Method
    refused: str = ""
    megabytes: float = math.nan


@dataclass(frozen=True, repr=False)
class Comparison:
    """Several solvers on the same observations of one card.

    Attributes:
        card: its name.
        folder: where the results, the tables and the figure are.
        facts: `seed`, `samples`, `budget`, `images` (their names), `overrides`, `prior`.
        entries: the solvers, in the order in which they were given.
        outcomes: of each solver and image, as `report.read_outcomes` gives them.
        main: the metric by which solvers are compared; larger is better.
    """

    card: str
    folder: Path
    facts: Mapping[str, Any]
    entries: Sequence[Entry]
    outcomes: Sequence[Outcome] = field(default=())
    main: str = "psnr"

    @cached_property
    def scored(self) -> list[Outcome]:
        """The outcomes, with what each cost among its scores."""
        return [_with_costs(outcome) for outcome in self.outcomes]

    @cached_property
    def metrics(self) -> dict[str, str]:
        """All metrics and their units, the main one first, costs left out."""
        found = {k: unit for k, unit in metric_names(self.scored).items() if k not in COSTS}
        first = {self.main: found[self.main]} if self.main in found else {}
        return {**first, **found}

    @cached_property
    def means(self) -> dict[tuple[str, str], Estimate]:
        """Of the samples' metrics and of the costs, by (metric, method)."""
        return {(row.metric, row.method): row.of["samples"] for row in summarise(self.scored)}

    @cached_property
    def reference(self) -> str | None:
        """The first solver with a result, with which the others are compared."""
        having = {outcome.run.method for outcome in self.outcomes if outcome.scores}
        names = (entry.method.name for entry in self.entries)
        return next((name for name in names if name in having), None)

    @cached_property
    def pairs(self) -> dict[tuple[str, str], Estimate]:
        """Differences to the reference on the images of both, by (metric, method)."""
        if self.reference is None:
            return {}
        rows = differences(self.scored, self.reference)
        tail = f" - {self.reference}"
        return {(r.metric, r.method.removesuffix(tail)): r.of["samples"] for r in rows}

    def failures(self, name: str) -> list[Outcome]:
        """Of a solver, the images that failed."""
        return [o for o in self.outcomes if o.run.method == name and o.run.state == FAILED]

    @property
    def failed(self) -> bool:
        """Whether any image of any solver failed."""
        return any(outcome.run.state == FAILED for outcome in self.outcomes)

    def __str__(self) -> str:
        return markdown_text(self)

    __repr__ = __str__


def _with_costs(outcome: Outcome) -> Outcome:
    if not outcome.scores:
        return outcome
    attrs = outcome.attrs
    costs = {
        "network_calls": network_calls(attrs),
        "operator_calls": operator_calls(attrs),
        "seconds": attrs.get("wall_seconds", math.nan),
    }
    scores = {name: Score(float(v), math.nan, float(v), float(v)) for name, v in costs.items()}
    return replace(outcome, scores={**outcome.scores, **scores}, units={**outcome.units, **COSTS})


# ---------------------------------------------------------------- CSV


def csv_text(found: Comparison) -> str:
    """One row for each solver, all numbers in full, empty where there is none.

    Of every metric its mean, `_sd` and `_se`, the standard deviation over images and the standard
    error of the mean, the number `_n` of images that have it, and of the difference to the
    reference on the same images `_difference`, its `_difference_se` and `_difference_n`.
    """
    measured = {**found.metrics, **COSTS}
    header = ["card", "method", "solver", "source", "refused", "reference", "n", "failed"]
    for name, unit in measured.items():
        tail = "" if unit == "1" else f" [{unit}]"
        header += [f"{name}{part}{tail}" for part in ("", "_sd", "_se")] + [f"{name}_n"]
        header += [f"{name}_difference{part}{tail}" for part in ("", "_se")]
        header += [f"{name}_difference_n"]
    header += ["peak_memory [MB]"]
    rows = []
    for entry in found.entries:
        method = entry.method
        solver = "" if not method.spec else repr(method.solver)
        row = [found.card, method.name, solver, method.source, entry.refused]
        row += [found.reference or "", str(_finished(found, method.name))]
        row += [str(len(found.failures(method.name)))]
        for name in measured:
            mean = found.means.get((name, method.name), NOTHING)
            pair = found.pairs.get((name, method.name), NOTHING)
            row += [*map(_full, (mean.mean, mean.deviation, mean.error)), str(mean.n)]
            row += [*map(_full, (pair.mean, pair.error)), str(pair.n)]
        rows.append([*row, _full(entry.megabytes)])
    return csv_lines([header, *rows])


def _full(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


def _finished(found: Comparison, name: str) -> int:
    return sum(bool(o.scores) for o in found.outcomes if o.run.method == name)


# ---------------------------------------------------------------- Markdown


def markdown_text(found: Comparison) -> str:
    """The table for a README; below it what was refused, what failed, what the numbers are."""
    metrics = found.metrics
    titles = [name if unit == "1" else f"{name} ({unit})" for name, unit in metrics.items()]
    against = f"difference to {found.reference}" if found.reference else "difference"
    if metrics and next(iter(metrics.values())) != "1":
        against += f" ({next(iter(metrics.values()))})"
    header = ["method", "n", *titles[:1], against, *titles[1:]]
    header += ["network calls", "operator calls", "seconds", "memory (MB)"]
    rows = []
    for entry in found.entries:
        name = entry.method.name
        if entry.refused:
            rows.append([name, "refused", *[""] * (len(header) - 2)])
            continue
        cells = [_spread(found.means.get((m, name), NOTHING)) for m in metrics]
        pair = found.pairs.get((next(iter(metrics), ""), name), NOTHING)
        costs = [_amount(found.means.get((cost, name), NOTHING).mean) for cost in COSTS]
        row = [name, str(_finished(found, name)), *cells[:1], _spread(pair, pair.error), *cells[1:]]
        rows.append([*row, *costs, _amount(entry.megabytes)])
    parts = [typeset("markdown", header, rows, 1), *_remarks(found)]
    return "\n".join(parts)


def _spread(e: Estimate, spread: float | None = None) -> str:
    spread = e.deviation if spread is None else spread
    if not e.n:
        return ""
    return f"{number(e.mean)}{f' ± {number(spread, 2)}' if math.isfinite(spread) else ''}"


def _amount(value: float) -> str:
    return number(value, 3) if math.isfinite(value) else ""


def _remarks(found: Comparison) -> list[str]:
    facts, n = found.facts, len(found.facts["images"])
    samples, budget = facts["samples"], facts["budget"]
    first, last = facts["images"][0], facts["images"][-1]
    lines = [
        f"{found.card}, {n} image{'s' * (n != 1)} ({first}{f' to {last}' if n > 1 else ''}), seed "
        f"{facts['seed']}, {samples} sample{'s' * (samples != 1)} an image. Metrics: mean ± "
        "standard deviation over images. Differences: mean ± standard error over the same images. "
        "Network calls, a vector-Jacobian product counted as two more, and operator calls, those "
        "of its adjoint or Jacobian included, of one sample; seconds of an image; memory of the "
        "first level."
    ]
    if n < FEW:
        lines[0] += f" Of fewer than {FEW} images, spreads and errors are uncertain themselves."
    if budget is not None:
        lines.append(f"Budget: at most {budget} network calls, by the number of levels.")
    if facts["prior"] is not None:
        lines.append(f"Prior: {facts['prior']}.")
    if facts["overrides"]:
        changed = ", ".join(f"{key}={value}" for key, value in facts["overrides"].items())
        lines.append(f"Card changed by {changed}.")
    sources: dict[str, list[str]] = {}
    for entry in found.entries:
        if not entry.refused:
            sources.setdefault(entry.method.source, []).append(entry.method.name)
    lines += [f"{', '.join(these)}: {source}." for source, these in sources.items()]
    lines += [f"{e.method.name} refused: {e.refused}" for e in found.entries if e.refused]
    for entry in found.entries:
        lines += [
            f"{entry.method.name} failed on {o.run.name}: {o.run.failure.get('error', '')}"
            for o in found.failures(entry.method.name)
        ]
        missing = n - _finished(found, entry.method.name) - len(found.failures(entry.method.name))
        if missing and not entry.refused:
            lines.append(f"{entry.method.name}: {missing} of {n} images are not finished.")
    return ["\n".join(textwrap.wrap(line, 96)) + "\n" for line in lines]

"""Tables of metrics as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap
from collections.abc import Callable, Sequence

from lmaps_science.report.scores import OF, Outcome, Score
from lmaps_science.report.statistics import FEW, Estimate, Row, differences, metric_names, summarise

__all__ = [
    "FORMATS",
    "caption",
    "csv_lines",
    "estimate_parts",
    "estimate_text",
    "number",
    "observations_table",
    "summary_table",
    "summary_text",
    "typeset",
]

FORMATS = {".csv": "csv", ".md": "markdown", ".tex": "latex"}
NONE = "none"  # a ring that is not there has no size
Escape = Callable[[str], str]


def number(value: float, digits: int = 4) -> str:
    """A number for people, with so many significant digits, without exponent where it can be."""
    if not math.isfinite(value):
        return NONE
    if 10**digits <= abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def observations_table(
    outcomes: Sequence[Outcome], style: str = "markdown", of: str = "mean"
) -> str:
    """One row for each observation and method, failed and unfinished ones included.

    Args:
        outcomes: of `read_outcomes`.
        style: "csv": all numbers in full, each metric of the samples (their mean, and standard
            deviation `_sd`), of the best fit (`_best`) and of the mean image (`_mean_image`), empty
            where there is none; "markdown" or "latex": each metric of `of` alone.
        of: "samples", "best" or "mean".
    """
    units = metric_names(outcomes)
    several = len({o.run.method for o in outcomes}) > 1
    header = ["observation", *(["method"] if several else []), "verdict"]
    if style == "csv":
        header[:] = ["observation", "method", "state", "verdict", "samples", "wall_seconds"]
        for name, unit in units.items():
            tail = "" if unit == "1" else f" [{unit}]"
            header += [f"{name}_{part}{tail}" for part in ("samples", "sd", "best", "mean_image")]
        return csv_lines([header, *(_full_row(outcome, units) for outcome in outcomes)])
    header += [name if unit == "1" else f"{name} ({unit})" for name, unit in units.items()]
    rows = []
    for outcome in outcomes:
        run, scores = outcome.run, outcome.scores
        row = [run.name, *([run.method] if several else []), outcome.verdict]
        row += [number(getattr(scores[name], of)) if name in scores else "" for name in units]
        rows.append(row)
    return typeset(style, header, rows, len(header) - len(units))


def _full_row(outcome: Outcome, units: dict[str, str]) -> list[str]:
    run = outcome.run
    row = [run.name, run.method, run.state, str(outcome.attrs.get("verdict", ""))]
    row += [str(outcome.samples or ""), str(outcome.attrs.get("wall_seconds", ""))]
    lacking = Score(*[float("nan")] * 4)
    for name in units:
        score = outcome.scores.get(name, lacking)
        row += [_full(v) for v in (score.samples, score.spread, score.best, score.mean)]
    return row


def _full(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


def summary_table(rows: Sequence[Row], style: str = "markdown", *, errors: bool = False) -> str:
    """One row for each metric and method: mean ± sd [95 % interval].

    Args:
        rows: of `summarise` or `differences`.
        style: "csv", with all numbers in full, "markdown" or "latex".
        errors: behind ± is the standard error of the mean instead of the standard deviation, as
            for differences.
    """
    if style == "csv":
        header = ["metric", "unit", "method", "of", "n", "mean", "sd", "se", "low_95", "high_95"]
        lines = [
            [row.metric, row.unit, row.method, OF[of], str(e.n)]
            + [_full(v) for v in (e.mean, e.deviation, e.error, e.low, e.high)]
            for row in rows
            for of, e in row.of.items()
        ]
        return csv_lines([header, *lines])
    several = len({row.method for row in rows}) > 1 or any(" - " in row.method for row in rows)
    header = ["metric", *(["method"] if several else []), "n", *OF.values()]
    body = []
    for row in rows:
        name = row.metric if row.unit == "1" else f"{row.metric} ({row.unit})"
        most = max(e.n for e in row.of.values())
        cells = [estimate_text(e, most, errors) for e in row.of.values()]
        body.append([name, *([row.method] if several else []), str(most), *cells])
    return typeset(style, header, body, 2 if several else 1)


def summary_text(
    outcomes: Sequence[Outcome], style: str = "markdown", reference: str | None = None
) -> str:
    """Means, and where there are several methods differences, each with a line that explains it.

    Args:
        outcomes: of `read_outcomes`.
        style: "csv" (one table of all, without explanations), "markdown" or "latex".
        reference: the method that the others are compared with; default: the first.

    Raises:
        DataError: no such method.
    """
    rows = summarise(outcomes)
    compared = (
        differences(outcomes, reference) if reference or len({r.method for r in rows}) > 1 else []
    )
    if style == "csv":
        return summary_table([*rows, *compared], style)
    parts = [summary_table(rows, style), _note(caption(rows), style)] if rows else []
    if compared:
        parts += [summary_table(compared, style, errors=True)]
        parts += [_note(caption(compared, errors=True), style)]
    return "\n".join(parts)


def _note(text: str, style: str) -> str:
    lines = textwrap.wrap(text, 96)
    return "".join(f"{'% ' if style == 'latex' else ''}{line}\n" for line in lines)


def caption(rows: Sequence[Row], *, errors: bool = False) -> str:
    """What the numbers of a summary are, in words."""
    spread = "standard error" if errors else "standard deviation over observations"
    what = "Differences on the same observations: mean" if errors else "Mean"
    text = (
        f"{what} ± {spread} [95 % bootstrap interval of the mean]; samples: the average of an "
        "observation's samples, best fit: its sample of smallest data misfit, mean image: the "
        "average of its samples, scored as an image."
    )
    fewest = min((e.n for row in rows for e in row.of.values() if e.n), default=0)
    few = f" Intervals from few observations, {fewest} here, are too narrow."
    return text + (few if 0 < fewest < FEW else "")


def estimate_text(e: Estimate, most: int, errors: bool) -> str:
    """Mean ± spread [interval], and of how many where those are fewer than `most`."""
    if not e.n:
        return NONE
    return " ".join(part for part in estimate_parts(e, most, errors) if part)


def estimate_parts(e: Estimate, most: int, errors: bool) -> tuple[str, str, str]:
    """The same in three: the mean, ± its spread, its interval and n."""
    spread = e.error if errors else e.deviation
    interval = f"[{number(e.low)}, {number(e.high)}]" if math.isfinite(e.low) else ""
    few = f"(n = {e.n})" if 0 < e.n < most else ""
    return (
        number(e.mean),
        f"± {number(spread, 2)}" if math.isfinite(spread) else "",
        f"{interval} {few}".strip(),
    )


# ---------------------------------------------------------------- formats


def csv_lines(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def typeset(style: str, header: list[str], rows: list[list[str]], words: int) -> str:
    """A table as "markdown" or "latex".

    The first `words` columns hold names, to the left, the others numbers, to the right.
    """
    name, figure = (_latex_name, _latex_number) if style == "latex" else (_markdown, str)
    body = [[*map(name, row[:words]), *map(figure, row[words:])] for row in rows]
    lines = [[*map(name, header)], *body]
    if style == "latex":
        return _latex(lines, words)
    widths = [max(3, *(len(line[k]) for line in lines)) for k in range(len(header))]
    rule = ["-" * w if k < words else "-" * (w - 1) + ":" for k, w in enumerate(widths)]
    lines.insert(1, rule)
    return "".join(
        "| "
        + " | ".join(
            cell.ljust(width) if k < words else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |\n"
        for line in lines
    )


def _markdown(text: str) -> str:
    """Names may hold what Markdown, or HTML inside of it, would take for its own."""
    text = " ".join(text.split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    for sign in "|*`[":
        text = text.replace(sign, "\\" + sign)
    return text


LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}  # fmt: skip


def _latex(lines: list[list[str]], words: int) -> str:
    """A tabular with the rules of package booktabs."""
    columns = "l" * words + "r" * (len(lines[0]) - words)
    header, *body = [rf"{' & '.join(line)} \\" for line in lines]
    begin = rf"\begin{{tabular}}{{{columns}}}"
    rules = [begin, r"\toprule", header, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(rules)


def _latex_name(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in " ".join(text.split()))


def _latex_number(text: str) -> str:
    if text in ("", NONE):
        return text and "---"
    text = re.sub(r"e([+-])0*(\d+)", lambda m: rf"\times 10^{{{m[1].strip('+')}{m[2]}}}", text)
    return "$" + text.replace("±", r"\pm").replace(", ", r",\ ") + "$"

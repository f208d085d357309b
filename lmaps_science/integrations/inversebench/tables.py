"""The benchmark's table, twice: with its metrics, and with the corrected ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from lmaps_science.io.files import DataError, names

__all__ = ["benchmark_tables"]

_TITLES = {
    "benchmark": "InverseBench's own metrics (mean ± standard deviation over items, of n)",
    "corrected": "Corrected metrics (mean over samples; mean ± standard deviation over items, of "
    "n - 1)",
}


def benchmark_tables(datasets: Mapping[str, xr.Dataset]) -> str:
    """Two Markdown tables of scores: the benchmark's metrics, then the corrected ones.

    Rows are methods, columns metrics (the arrow says what is better), cells mean ± standard
    deviation over items: that of the population in the first table, as the program prints it, that
    of a sample in the second. Below stand the items that are missing, and the notes.

    Args:
        datasets: by the methods' names, of `read_results`. Results of several kinds of problems
            make two tables each.

    Raises:
        DataError: no dataset, or one that `read_results` did not make.

    Example:
        print(benchmark_tables({"DPS": read_results(theirs), "LMAPS": read_results(ours)}))
    """
    if not datasets:
        raise DataError("there is no table without results: give at least one dataset.")
    for name, data in datasets.items():
        if "kind" not in data.attrs or "item" not in data.dims:
            raise DataError(f"{name}: expected a dataset of read_results, with the dimension item.")
    of = dict.fromkeys(data.attrs["kind"] for data in datasets.values())
    parts = []
    for kind in of:
        chosen = {n: data for n, data in datasets.items() if data.attrs["kind"] == kind}
        problems = names(dict.fromkeys(data.attrs["problem"] for data in chosen.values()))
        for source, title in _TITLES.items():
            parts.append(f"**{_safe(problems)}: {title}**\n\n{_table(chosen, source)}")
        remarks = _remarks(chosen)
        if remarks:
            parts.append("\n".join(f"- {_safe(line)}" for line in remarks))
    return "\n\n".join(parts) + "\n"


def _table(datasets: Mapping[str, xr.Dataset], source: str) -> str:
    """One Markdown table, its columns aligned."""
    found: dict[str, Mapping[str, Any]] = {}
    for data in datasets.values():
        for name, variable in data.data_vars.items():
            if variable.attrs.get("source") == source:
                found.setdefault(str(name), variable.attrs)
    header = ["method", *(_heading(attrs) for attrs in found.values()), "n"]
    rows = [header, ["---"] * len(header)]
    for method, data in datasets.items():
        ddof = 0 if source == "benchmark" else 1
        cells = [_cell(data[name].values, ddof) if name in data else "–" for name in found]
        rows.append([_safe(method), *cells, str(data.sizes["item"])])
    widths = [max(len(row[k]) for row in rows) for k in range(len(header))]
    rows[1] = ["-" * width for width in widths]
    lines = ("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)
    return "\n".join(lines)


def _heading(attrs: Mapping[str, Any]) -> str:
    unit = attrs.get("units", "1")
    arrow = "↑" if attrs.get("higher_is_better") else "↓"
    return _safe(f"{attrs['metric']}{'' if unit == '1' else f' [{unit}]'} {arrow}")


def _cell(values: np.ndarray, ddof: int) -> str:
    """Mean and spread of the finite values, and how many they are where some are not."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return "–"
    few = f" ({len(finite)} of {len(values)})" if len(finite) < len(values) else ""
    if len(finite) <= ddof:
        return f"{_number(finite.mean(), 4)}{few}"
    return f"{_number(finite.mean(), 4)} ± {_number(finite.std(ddof=ddof), 2)}{few}"


def _number(value: float, digits: int) -> str:
    """So many digits, without an exponent for what is neither huge nor tiny."""
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0 or not 1e-4 <= abs(rounded) < 1e6:
        return f"{value:.{digits}g}"
    return np.format_float_positional(rounded, trim="-")


def _remarks(datasets: Mapping[str, xr.Dataset]) -> Sequence[str]:
    """What is missing, and the notes, each with the methods that it concerns."""
    said: dict[str, list[str]] = {}
    for method, data in datasets.items():
        missing, notes = data.attrs.get("missing", ()), data.attrs.get("notes", ())
        unfinished = [f"unfinished: {names(missing)}"] if len(missing) else []
        for text in [*unfinished, *notes]:
            said.setdefault(text, []).append(method)
    return [f"{', '.join(methods)}: {text}" for text, methods in said.items()]


def _safe(text: str) -> str:
    """Text that ends no cell and no line."""
    return " ".join(text.replace("|", "\\|").split())

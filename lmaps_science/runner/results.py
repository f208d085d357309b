"""Results as files: pictures, tables, provenance."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lmaps_science.cards.registry import find_kind
from lmaps_science.io import atomic_write, sha256, write_netcdf
from lmaps_science.io.folders import RESULT, SUMMARY
from lmaps_science.io.results import plain_json
from lmaps_science.plots import plot_prior_check, plot_reconstruction, plot_samples

__all__ = ["RESULTS", "commit", "describe", "metric_names", "metrics_table", "write_results"]

RESULTS = (RESULT, "figure.png", "summary.txt", SUMMARY)


def metrics_table(data: xr.Dataset) -> str:
    """The metrics of an analysed result: mean and spread of its samples, for each mode if any.

    The last columns are the best fit, with modes that of mode 0 and of all where they differ, and
    the mean image (of mode 0).
    """
    of_mean = data.attrs.get("metrics_of_mean", {})
    of_mean = of_mean if isinstance(of_mean, dict) else {}  # of a foreign file it may be anything
    best, n = int(data.attrs["best"]), data.sizes["sample"]
    several, of_all = n > 1, int(data["misfit"].values[-1].argmin())
    modes = data["mode"].values if "mode" in data else np.zeros(n, int)
    found = [modes == k for k in range(modes.max() + 1)]
    titles = [f"mode {k} ({inside.sum()} of {n})" for k, inside in enumerate(found)]
    titles = titles if "mode" in data else [f"{n} samples"]
    chosen = {best: "best fit" if "mode" not in data else f"best of mode 0 (sample {best})"}
    if several and "mode" in data and of_all != best:
        chosen[of_all] = f"best of all (sample {of_all})"
    header = ["metric", *titles, *chosen.values(), "mean image", ""]
    rows = [header if several else ["metric", "", ""]]
    for name in metric_names(data):
        values, unit = data[name].values, data[name].attrs.get("units", "1")
        row = [name, *(_number(values[k]) for k in chosen), "" if unit == "1" else unit]
        if several:
            row[1:1] = [_mean_and_spread(values[inside], unit) for inside in found]
            row[-1:-1] = [_number(of_mean[name]) if name in of_mean else ""]
        rows.append(row)
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(w.ljust(n) for w, n in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _number(value: Any) -> str:
    try:
        number = float("nan" if value is None else value)
    except (TypeError, ValueError, OverflowError):  # of a foreign file it may be anything
        return "?"
    return "none" if math.isnan(number) else f"{number:.4g}"  # what is not there has no size


def _mean_and_spread(values: np.ndarray, unit: str) -> str:
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return "none"
    some = f" ({len(finite)} of {len(values)})" if len(finite) < len(values) else ""
    mean, spread = finite.mean(), finite.std(ddof=1) if len(finite) > 1 else np.nan
    if unit == "degree":  # angles go round
        direction = np.exp(1j * np.radians(finite)).mean()
        mean = np.degrees(np.angle(direction)) % 360
        if len(finite) > 1:
            spread = np.degrees(np.sqrt(max(-2 * np.log(abs(direction)), 0.0)))
    if not np.isfinite(spread):
        return f"{mean:.4g}{some}"
    # A spread below the last digit of the mean is told as such, not in digits of its own.
    last = 10.0 ** (np.floor(np.log10(abs(mean))) - 3) if mean else 0.0
    return f"{mean:.4g} ± {f'<{last:.1g}' if spread < last else f'{spread:.2g}'}{some}"


def describe(data: xr.Dataset) -> str:
    """What a result is and how good: the text of summary.txt."""
    a = data.attrs
    prior = a.get("prior", {})
    facts = {
        "problem": f"{a.get('problem', '?')}: {a.get('card', {}).get('title', '')}",
        "data": a.get("data", "?"),
        "prior": prior.get("file") or prior.get("repr", "?"),
        "solver": a.get("solver", "?"),
        "samples": f"{data.sizes['sample']}, seed {a.get('seed', '?')}",
        "cost": f"{a.get('denoiser_calls', 0)} denoiser and {a.get('operator_calls', 0)} operator "
        f"calls a sample; {a.get('wall_seconds', float('nan'))} s in all",
        "made with": f"lmaps-science {a.get('lmaps_science_version', '?')}"
        + (f", commit {a['commit'][:12]}" if "commit" in a else ""),
    }
    lines = [f"{key:<10}{value}" for key, value in facts.items()]
    remarks = a.get("notes", [])  # of a foreign file it may be anything
    notes = _paragraph("notes", remarks if isinstance(remarks, list) else [remarks])
    notes += _paragraph("2nd prior", a.get("prior_check", {}).get("text", []))
    notes += _paragraph("spread", a.get("calibration", {}).get("text", []))
    verdict = _paragraph("verdict", [a.get("verdict", "?"), *a.get("verdict_reasons", [])])
    return "\n".join([*lines, "", metrics_table(data), "", *notes, *verdict])


def _paragraph(title: str, lines: Iterable[str]) -> list[str]:
    return [f"{'' if k else title:<10}{line}" for k, line in enumerate(lines)]


# ---------------------------------------------------------------- files


def write_results(
    folder: Path, data: xr.Dataset, each_sample: bool = False, figures: bool = True
) -> None:
    """Write an analysed result: everything as NetCDF, images in the field's format, a summary.

    `result.nc` (for `read_netcdf`), with `figures` also `figure.png`, of several samples
    `samples.png`, and of two priors `prior_check.png`; `summary.txt`, `summary.json`, and what the
    field's `export` writes of the mean and, with `each_sample`, of the samples. The summary lists
    all files that are in the folder then, and the checksum of `result.nc`; a number that is not
    finite is null in it.
    """
    data.attrs.update(commit())
    if figures:
        plot_reconstruction(data, path=folder / "figure.png")
    if figures and data.sizes["sample"] > 1:
        plot_samples(data, path=folder / "samples.png")
    if figures and "prior_check" in data.attrs:
        plot_prior_check(data, path=folder / "prior_check.png")
    write_netcdf(folder / RESULT, data)
    find_kind(data.attrs["kind"], "result").write(folder, data, each_sample)
    metrics = {name: data[name].values.tolist() for name in metric_names(data)}
    files = sorted({"summary.txt", SUMMARY, *(file.name for file in folder.iterdir())})
    checked = {"files": files, "sha256": sha256(folder / RESULT)}
    content = _strict({**data.attrs, "metrics": metrics, **checked})
    summary = json.dumps(content, indent=1, allow_nan=False)
    for name, text in ((SUMMARY, summary), ("summary.txt", describe(data))):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def _strict(value: Any) -> Any:
    """The same for JSON, which has no NaN and no infinity."""
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    plain = isinstance(value, (str, int, type(None)))
    return value if plain else _strict(plain_json(value))


def metric_names(data: xr.Dataset) -> list[str]:
    """Names of the variables with one number for each sample."""
    return [
        str(name)
        for name, variable in data.data_vars.items()
        if variable.dims == ("sample",) and np.issubdtype(variable.dtype, np.floating)
    ]


@cache
def commit() -> dict[str, str]:
    """The commit of the source tree that runs, where it runs from one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {}
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": found.stdout.strip()}

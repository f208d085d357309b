"""What a result is worth: its metrics, of the samples, of the best fit and of the mean image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats
from tqdm.auto import tqdm

from lmaps_science.io.files import DataError, names
from lmaps_science.io.results import read_netcdf, require_result
from lmaps_science.report.runs import FAILED, FINISHED, RESULT, Run, Runs

__all__ = [
    "OF",
    "Outcome",
    "Outcomes",
    "Score",
    "average",
    "check_alike",
    "deviation",
    "metrics",
    "read_outcomes",
]

OF = {"samples": "samples", "best": "best fit", "mean": "mean image"}
ANGLE = "degree"  # the unit of metrics that go round


@dataclass(frozen=True)
class Score:
    """One metric of one result.

    Attributes:
        samples: its mean over the samples for which there is a value; NaN where there is none.
        spread: their standard deviation; NaN for one.
        best: that of the sample of best fit, the attribute `best` of the result.
        mean: that of the mean image; NaN where it was not computed.
    """

    samples: float
    spread: float
    best: float
    mean: float


@dataclass(frozen=True)
class Outcome:
    """What tables and pages tell of one run; without a result, the run alone.

    Attributes:
        run: where it is.
        scores: by metric.
        units: of the metrics.
        attrs: of the result.
        samples: how many.
    """

    run: Run
    scores: Mapping[str, Score]
    units: Mapping[str, str]
    attrs: Mapping[str, Any]
    samples: int = 0

    @property
    def verdict(self) -> str:
        """The result's, or the state of the run."""
        done = self.run.state == FINISHED
        return str(self.attrs.get("verdict", "not judged")) if done else self.run.state

    def lines(self, key: str) -> list[str]:
        """An attribute that is a list of sentences."""
        found = self.attrs.get(key, [])
        return [str(line) for line in found] if isinstance(found, list) else [str(found)]


class Outcomes(list[Outcome]):
    """Those of all runs; `runs` has their states, after all were read."""

    def __init__(self, found: Iterable[Outcome], runs: Runs):
        super().__init__(found)
        self.runs = runs


def read_outcomes(runs: Runs, seen: Callable[[Run, xr.Dataset], object] | None = None) -> Outcomes:
    """The metrics of all runs, read one by one.

    Args:
        runs: of `find_runs`.
        seen: is called with each result, which is not kept.

    Returns:
        One for each run. A result that cannot be read is that of a failed run.

    Raises:
        DataError: they are of several kinds; results of one name, by several methods, are of
            different data.
    """
    found: list[Outcome] = []
    many = None if len(runs.all) > 50 else True  # None: where somebody watches
    for run in tqdm(runs.all, "reading", unit="result", leave=False, disable=many):
        if run.state != FINISHED:
            found.append(Outcome(run, {}, {}, {}))
            continue
        path = run.folder / RESULT
        try:
            data = read_netcdf(path)
            require_result(data, path)
        except DataError as error:  # one damaged file should not hide the others
            found.append(Outcome(failed(run, error), {}, {}, {}))
            continue
        units = {name: str(data[name].attrs.get("units", "1")) for name in metrics(data)}
        scores = {name: _score(data, name, unit) for name, unit in units.items()}
        found.append(Outcome(run, scores, units, data.attrs, data.sizes["sample"]))
        if seen is not None:
            seen(run, data)
    check_alike([(outcome.run, outcome.attrs) for outcome in found if outcome.attrs])
    return Outcomes(found, runs.updated(outcome.run for outcome in found))


def failed(run: Run, error: Exception) -> Run:
    """The run, with an error in place of the result that is there."""
    return replace(run, state=FAILED, failure={"error": str(error), "type": type(error).__name__})


def check_alike(found: Sequence[tuple[Run, Mapping[str, Any]]]) -> None:
    """Refuse results of several kinds, and those of one name that are of different data."""
    kinds: dict[str, str] = {}
    data: dict[str, tuple[Run, str]] = {}
    for run, attrs in found:
        kinds.setdefault(str(attrs.get("kind", "unknown")), run.name)
        made_of = _data_of(attrs)
        other, before = data.setdefault(run.name, (run, made_of))
        if made_of and before and made_of != before:
            raise DataError(
                f"{other.folder} and {run.folder} have one name and are of different data "
                f"({before[:60]} and {made_of[:60]}): methods are compared on the same "
                "observations. Rename one of the folders."
            )
    if len(kinds) > 1:
        told = names(f"{kind} ({name})" for kind, name in kinds.items())
        raise DataError(f"the results are of several kinds: {told}. Give those of one at a time.")


def _data_of(attrs: Mapping[str, Any]) -> str:
    """Which data a result was made of: the checksum of their file, or what was given."""
    inputs = attrs.get("inputs")
    if not isinstance(inputs, Mapping):
        return ""
    files = inputs.get("files")
    file = files.get("data") if isinstance(files, Mapping) else None
    return str(file.get("sha256") if isinstance(file, Mapping) else inputs.get("data") or "")


def metrics(data: xr.Dataset) -> list[str]:
    """Names of the variables with one number for each sample."""
    return [
        str(name)
        for name, variable in data.data_vars.items()
        if variable.dims == ("sample",) and np.issubdtype(variable.dtype, np.floating)
    ]


def _score(data: xr.Dataset, name: str, unit: str) -> Score:
    values = data[name].values
    of_mean = data.attrs.get("metrics_of_mean", {})
    mean = of_mean.get(name) if isinstance(of_mean, Mapping) else None
    best = data.attrs.get("best")
    if type(best) is not int or not 0 <= best < len(values):  # of a result without a kind
        best = int(data["misfit"].values[-1].argmin())
    return Score(
        average(values, unit),
        deviation(values, unit),
        float(values[best]),
        float(mean) if isinstance(mean, (int, float)) else float("nan"),
    )


def average(values: Iterable[float], unit: str) -> float:
    """The mean of what is finite, of angles their direction in [0, 360); NaN of nothing."""
    finite = _finite(values)
    if not len(finite):
        return float("nan")
    if unit == ANGLE:
        return float(np.round(stats.circmean(finite, high=360), 9) % 360)  # not 360 less an epsilon
    return float(finite.mean())


def deviation(values: Iterable[float], unit: str) -> float:
    """Their standard deviation, of angles the circular one; NaN of fewer than two."""
    finite = _finite(values)
    if len(finite) < 2:
        return float("nan")
    return float(stats.circstd(finite, high=360) if unit == ANGLE else finite.std(ddof=1))


def _finite(values: Iterable[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return array[np.isfinite(array)]

"""Results of InverseBench's program, of any algorithm, scored twice; and ours beside them.

    scores = read_results("exps/inference/inv-scatter-linear/DPS/default")
    print(benchmark_tables({"DPS": scores, "ours": read_results("out/scattering")}))

A dataset of scores has the dimension `item` and a variable for each metric, of two sources:

    benchmark_NAME  the number that the program's own evaluator gives
    corrected_NAME  the same question without that evaluator's faults: the mean over the samples

with the attributes `long_name`, `units`, `source` ("benchmark" or "corrected"), `metric` (its name
there) and `higher_is_better`. Beside them `samples` (item), how many there are of each, and
`observation` (item), by which one can tell whether two methods saw the same data. Attributes of the
dataset: `algorithm`, `problem`, `kind`, `folder`, `missing` (ids that the run was asked for and has
not finished) and `notes`.

Source: Zheng et al. 2025, InverseBench (ICLR 2025).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lmaps_science.cards.benchmark import BenchmarkScores, Metric, Scores
from lmaps_science.cards.registry import find_kind, kinds
from lmaps_science.integrations.inversebench.saved import SavedRun, digest, is_saved_run
from lmaps_science.integrations.inversebench.tables import benchmark_tables
from lmaps_science.io.files import DataError, names
from lmaps_science.io.results import read_netcdf, require_result

__all__ = ["benchmark_tables", "compare", "read_results"]

PathLike = str | os.PathLike[str]
RESULT = "result.nc"
# What settings and tensors of the wrong kind lead to; a DataError is a ValueError.
_WRONG = (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError)


def read_results(folder: PathLike, *, data: PathLike | None = None) -> xr.Dataset:
    """Both sets of scores of a method's results, from the observations saved with them.

    Args:
        folder: of InverseBench's program, with `config.yaml` and `result_{id}.pt`; or of this
            package: one with `result.nc`, or whose sub-folders have one each, of simulated data.
            The item of such a result is the number at the end of its folder's name, else its place
            in the sorted list.
        data: where the files are that scores need beside the results, when they are no more where
            `config.yaml` says: for MRI the data set's folder (coil maps, for the data misfit), for
            black holes that of `obs.uvfits` and `gt.fits`. Where they are not found those scores
            are NaN, and `notes` says so.

    Returns:
        A dataset over `item`, see this module.

    Raises:
        DataError: no results; a file that is missing, damaged or of another program, named; an
            operator that no installed kind of problem scores; a result of ours without a known
            truth.
    """
    path = Path(folder).expanduser()
    if is_saved_run(path):
        return _program(SavedRun.of(path), None if data is None else Path(data).expanduser())
    found = _own_results(path)
    if found:
        return _own(path, found)
    if (path / "config.yaml").is_file():
        return _program(SavedRun.of(path), None)  # which says what is missing
    raise DataError(
        f"{path} holds neither result_*.pt of InverseBench's program nor {RESULT} of this package: "
        "give a folder of results, e.g. exps/inference/inv-scatter-linear/DPS/default."
    )


def compare(
    folders: Mapping[str, PathLike] | Sequence[PathLike], *, data: PathLike | None = None
) -> xr.Dataset:
    """The scores of several methods on one problem, along the dimension `method`.

    Args:
        folders: of results, each with its name in the table; without names the algorithms' own,
            with the folder's where two are the same.
        data: as for `read_results`.

    Returns:
        A dataset over `method` and `item`; NaN where a method has no result of an item. One method
        is `scores.sel({"method": "DPS"})` (xarray has other uses for `sel(method=...)`). A note
        says for which items the methods saw different observations: the program draws the noise
        anew in each run.

    Raises:
        DataError: as `read_results`; results of different kinds of problems; no folder.
    """
    if not folders:
        raise DataError("there is nothing to compare: give the folders of at least one method.")
    if isinstance(folders, Mapping):
        found = {name: read_results(folder, data=data) for name, folder in folders.items()}
    else:
        found = _named([read_results(folder, data=data) for folder in folders])
    of = {name: scores.attrs["kind"] for name, scores in found.items()}
    if len(set(of.values())) > 1:
        raise DataError(f"results of different kinds of problems cannot be compared: {of}.")
    items = sorted(set().union(*(scores["item"].values.tolist() for scores in found.values())))
    empty = {"samples": 0, "observation": ""}
    each = [
        scores.reindex(item=items, fill_value=_fill(scores, empty)) for scores in found.values()
    ]
    merged = xr.concat(each, "method", data_vars="all", coords="minimal", join="override",
                       combine_attrs="drop")  # fmt: skip
    for name, variable in merged.data_vars.items():
        variable.attrs = next(scores[name].attrs for scores in each if name in scores)
    merged = merged.assign_coords(method=list(found))
    notes = [f"{name}: {note}" for name, s in found.items() for note in s.attrs["notes"]]
    merged.attrs = {
        "kind": next(iter(of.values())),
        "problem": names(dict.fromkeys(s.attrs["problem"] for s in found.values())),
        "algorithm": {name: s.attrs["algorithm"] for name, s in found.items()},
        "missing": {name: s.attrs["missing"] for name, s in found.items()},
        "notes": [*notes, *_different_observations(merged)],
    }
    return merged


# ---------------------------------------------------------------- the program's


def _program(run: SavedRun, data: Path | None) -> xr.Dataset:
    kind, scores_class = _scores_for(run)
    try:
        scores = scores_class(run.problem, run.base, data)
    except _WRONG as error:
        raise DataError(
            f"{run.folder / 'config.yaml'}: its problem is none of {run.operator}: {error}"
        ) from error
    found, samples, observations = [], [], []
    for saved in run:
        try:
            found.append(scores.score(saved))
        except _WRONG as error:
            raise DataError(
                f"{run.folder / f'result_{saved.item}.pt'} cannot be scored as {run.operator}: "
                f"{error}"
            ) from error
        samples.append(len(saved.recon))
        observations.append(digest(saved.observation))
    attrs = {
        "algorithm": run.algorithm,
        "problem": str(run.problem.get("name", "?")),
        "kind": kind,
        "folder": str(run.folder),
        "missing": run.missing,
        "notes": scores.notes,
    }
    shifted = [item for item in run.items if run.entry(item) != item]
    if shifted:
        attrs["notes"] = [
            *scores.notes,
            f"the program's data set ignores id_list: the results {names(shifted)} are of the "
            f"entries {names(run.entry(item) for item in shifted)}.",
        ]
    return _dataset(scores_class, run.items, found, samples, observations, attrs)


def _scores_for(run: SavedRun) -> tuple[str, type[BenchmarkScores]]:
    """The kind of problem, and how it is scored."""
    known = {name: kind.benchmark_scores() for name, kind in kinds().items()}
    for name, scores in known.items():
        if scores is not None and scores.operator == run.operator:
            return name, scores
    raise DataError(
        f"{run.folder}: its operator is {run.operator or 'unknown'}, and results are scored of "
        f"{names(scores.operator for scores in known.values() if scores)} alone."
    )


# ---------------------------------------------------------------- ours


def _own_results(folder: Path) -> list[Path]:
    """The `result.nc` in a folder, or in its sub-folders, sorted by their numbers."""
    if (folder / RESULT).is_file():
        return [folder / RESULT]
    return sorted(folder.glob(f"*/{RESULT}"), key=lambda path: (_number(path) or 0, str(path)))


def _number(path: Path) -> int | None:
    """The whole number at the end of the name of a result's folder."""
    match = re.search(r"(\d{1,9})$", path.resolve().parent.name)
    return int(match[1]) if match else None


def _own(folder: Path, paths: Sequence[Path]) -> xr.Dataset:
    results = [read_netcdf(path) for path in paths]
    for path, result in zip(paths, results, strict=True):
        require_result(result, path)
        if "kind" not in result.attrs or "truth" not in result:
            raise DataError(
                f"{path} has no known truth to score against: only results of simulated data can "
                "enter the table."
            )
    of = {result.attrs["kind"] for result in results}
    kind = find_kind(next(iter(of)), str(paths[0]))
    scores = kind.benchmark_scores()
    if len(of) > 1 or scores is None:
        raise DataError(
            f"{folder} holds results of kind {names(sorted(of))}: the benchmark's scores are of "
            "one kind, for which it has some."
        )
    try:
        found = [scores.of_result(result) for result in results]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder}: a {RESULT} lacks what the scores are made from ({error}). Run it again."
        ) from error
    numbers = [_number(path) for path in paths]
    unique = None not in numbers and len(set(numbers)) == len(numbers)
    items = [int(n or 0) for n in numbers] if unique else list(range(len(paths)))
    solvers = dict.fromkeys(str(r.attrs.get("solver", "?")) for r in results)
    attrs = {
        "algorithm": names(solvers),
        "problem": names(dict.fromkeys(str(r.attrs.get("problem", "?")) for r in results)),
        "kind": kind.name,
        "folder": str(folder),
        "missing": [],
        "notes": [],
    }
    samples = [result.sizes["sample"] for result in results]
    observations = [str(result.attrs.get("saved_observation", "")) for result in results]
    return _dataset(scores, items, found, samples, observations, attrs)


# ---------------------------------------------------------------- datasets


def _dataset(
    scores: type[BenchmarkScores],
    items: Iterable[int],
    found: Sequence[Scores],
    samples: Sequence[int],
    observations: Sequence[str],
    attrs: Mapping[str, Any],
) -> xr.Dataset:
    data = xr.Dataset(
        {
            "samples": (
                "item",
                np.array(samples),
                {"long_name": "number of samples", "units": "1"},
            ),
            "observation": ("item", np.array(observations), {"long_name": "digest of the data"}),
        },
        coords={"item": ("item", list(items), {"long_name": "id of the item"})},
        attrs=dict(attrs),
    )
    for source, metrics in (("benchmark", scores.benchmark), ("corrected", scores.corrected)):
        for name, metric in metrics.items():
            values = [_mean(getattr(score, source).get(name)) for score in found]
            data[f"{source}_{_plain(name)}"] = ("item", values, _attrs(source, name, metric))
    return data


def _mean(values: Any) -> float:
    """The mean over samples; NaN where there is nothing, or where a sample has none."""
    return float("nan") if values is None else float(np.mean(values))


def _attrs(source: str, name: str, metric: Metric) -> dict[str, Any]:
    return {
        "long_name": metric.long_name,
        "units": metric.units,
        "source": source,
        "metric": name,
        "higher_is_better": int(metric.higher_is_better),
    }


def _plain(name: str) -> str:
    """A name of a metric as part of a variable's: "blur_psnr (f=10)" -> "blur_psnr_f_10"."""
    return re.sub(r"\W+", "_", name).strip("_")


def _named(found: Sequence[xr.Dataset]) -> dict[str, xr.Dataset]:
    """By their algorithms; those of one name with their folders."""
    algorithms = [scores.attrs["algorithm"] for scores in found]
    return {
        name if algorithms.count(name) == 1 else f"{name} ({scores.attrs['folder']})": scores
        for name, scores in zip(algorithms, found, strict=True)
    }


def _fill(scores: xr.Dataset, empty: Mapping[str, Any]) -> dict[Any, Any]:
    return {name: empty.get(str(name), np.nan) for name in scores.data_vars}


def _different_observations(merged: xr.Dataset) -> list[str]:
    """A note of the items of which two methods saw different data."""
    items = [
        int(item)
        for item, seen in zip(
            merged["item"].values,
            merged["observation"].transpose("item", "method").values,
            strict=True,
        )
        if len({str(digest) for digest in seen} - {""}) > 1
    ]
    if not items:
        return []
    return [
        f"the methods saw different observations of the item(s) {names(items)}: the program draws "
        "the noise anew in each run, and what it draws depends on the items before."
    ]

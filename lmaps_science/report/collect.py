"""All results of a batch as one dataset, read when it is computed."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lmaps_science.cards.registry import find_kind
from lmaps_science.io.files import DataError, names
from lmaps_science.io.folders import new_file
from lmaps_science.io.results import open_netcdf, plain_json, read_netcdf, require_result
from lmaps_science.report.runs import FAILED, FINISHED, RESULT, UNFINISHED, Run, find_runs
from lmaps_science.report.scores import check_alike, failed

__all__ = ["collect", "join", "join_folders", "write_volume"]

OBSERVATION, METHOD = "observation", "method"
NOT_BEGUN = "not begun"


def collect(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> xr.Dataset:
    """The results of a batch, or of several methods on the same observations, as one dataset.

    Its dimensions are (observation, [method,] sample, those of an image); arrays are read when they
    are computed (dask). See `join` for what becomes of attributes, and `find_runs` for the folders.
    Where one method has no result for an observation, its numbers are NaN, its text "" and `state`
    says "failed", "unfinished" or "not begun". Observations without any result are in the
    attributes `failed`, a dict of messages, and `unfinished`, a list of names.

    Args:
        paths: folders of batches, or one.

    Raises:
        DataError: no results; they are of several kinds, grids or numbers of samples.
        ImportError: dask is missing (extra `collect`).

    Example:
        >>> data = collect(["results/lmaps", "results/dps"])  # doctest: +SKIP
        >>> data["psnr"].mean("sample").to_dataframe()  # doctest: +SKIP
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    runs = find_runs(given)
    states: list[Run] = []
    opened: list[tuple[Run, xr.Dataset]] = []
    for run in runs.all:
        if run.state == FINISHED:
            try:
                data = open_netcdf(run.folder / RESULT)
                require_result(data, run.folder / RESULT)
                opened.append((run, data))
            except DataError as error:  # told below, like every other failure
                run = failed(run, error)
        states.append(run)
    runs = runs.updated(states)
    if not opened:
        raise DataError(f"there is no result to collect: {runs.describe()}.")
    check_alike([(run, data.attrs) for run, data in opened])
    joined = {}
    for method in runs.methods:
        mine = {run.name: data for run, data in opened if run.method == method}
        if mine:
            joined[method] = _join(mine, OBSERVATION)
    data = _compare(joined, runs.names) if len(joined) > 1 else next(iter(joined.values()))
    if len(joined) > 1:
        data["state"] = _states(runs.all, data)
    data.attrs["failed"] = {runs.label(r): r.failure.get("error", "") for r in runs.of(FAILED)}
    data.attrs["unfinished"] = [runs.label(run) for run in runs.of(UNFINISHED)]
    data.attrs["ignored"] = [str(path) for path in runs.ignored]
    return data


def join(results: Sequence[xr.Dataset], dimension: str) -> xr.Dataset:
    """Results of one grid along a new first dimension, such as the slices of a volume.

    Attributes on which all agree stay; the others, as JSON, are the variable `provenance`. The
    attributes `metrics_of_WHAT` become variables `METRIC_of_WHAT`, the verdict becomes `verdict`
    and `best` stays by its name. Variables that not all have, or of other shapes (data of different
    length), are left out: the attribute `left_out` names them. Samples of one number in different
    results are independent of each other.

    Args:
        results: in order; each as `Problem.analyse` gave it. Lazy ones stay lazy.
        dimension: its name. Its coordinate is what the attribute `each` of the results says of it,
            else their attribute `observation_name`, else 0, 1, ...

    Raises:
        DataError: none, of different grids or numbers of samples, or two of one coordinate.
    """
    found: list[Any] = []
    for k, data in enumerate(results):
        each = data.attrs.get("each")
        known = each.get(dimension) if isinstance(each, Mapping) else None
        known = data.attrs.get("observation_name") if known is None else known
        found.append(k if known is None else known)
    if len({type(label) for label in found}) > 1:
        found = [str(label) for label in found]
    double = sorted({str(label) for label in found if found.count(label) > 1})
    if double:
        raise DataError(f"several results are of {dimension} {names(double)}: give each once.")
    return _join(dict(zip(found, results, strict=True)), dimension)


def join_folders(paths: Iterable[str | os.PathLike[str]], dimension: str) -> xr.Dataset:
    """The finished results of one batch joined along its series, in its order; see `join`.

    Lazily where dask is there (extra `collect`), else in memory.

    Raises:
        DataError: they are of several methods, or not of a series of this name.
    """
    runs = find_runs(paths)
    read = open_netcdf if importlib.util.find_spec("dask") else read_netcdf
    found = [read(run.folder / RESULT) for run in runs.of(FINISHED)]
    if len(runs.methods) > 1 or not found:
        raise DataError(
            f"one volume is made of the results of one batch; here are {runs.describe()}."
        )
    each = [data.attrs.get("each") for data in found]
    if not all(isinstance(e, Mapping) and isinstance(e.get(dimension), int) for e in each):
        known = sorted({str(key) for e in each if isinstance(e, Mapping) for key in e})
        raise DataError(
            f"the results are not a series of {dimension} (known here: {names(known)}): give the "
            f"name that stood before the colon of `lmaps batch --each`."
        )
    return join(sorted(found, key=lambda data: int(data.attrs["each"][dimension])), dimension)


def write_volume(
    folder: str | os.PathLike[str], data: xr.Dataset, *, name: str = "volume", force: bool = False
) -> list[Path]:
    """Write joined results in the format of their field, such as NIfTI, where it has one.

    Args:
        folder: to write to.
        data: of `join`.
        name: of the files, without suffix.
        force: replace files that are there.

    Returns:
        The files.

    Raises:
        DataError: a file is there; or the field refuses, such as slices with gaps.
    """
    kind = find_kind(data.attrs.get("kind"), "the joined results")
    written = []
    with tempfile.TemporaryDirectory(prefix=".volume-", dir=folder) as staging:
        kind.write_volume(Path(staging), data, name)
        files = sorted(Path(staging).iterdir())
        targets = [new_file(Path(folder) / file.name, force) for file in files]
        for file, target in zip(files, targets, strict=True):
            written.append(Path(shutil.move(file, target)))
    return written


def _join(results: Mapping[Any, xr.Dataset], dimension: str) -> xr.Dataset:
    if not results:
        raise DataError(f"there are no results to join along {dimension}.")
    _check_grids(results)
    common, rest = _attributes([data.attrs for data in results.values()])
    parts = [_flat(data) for data in results.values()]
    joined, left_out = _concat(parts, dimension, list(results))
    joined["provenance"] = (dimension, [json.dumps(r, default=plain_json) for r in rest])
    joined.attrs = {**common, "left_out": left_out}
    return joined


def _check_grids(results: Mapping[Any, xr.Dataset]) -> None:
    """Refuse images of different pixels, or different numbers of them."""
    names_, grids = list(results), [_grid(data) for data in results.values()]
    for name, grid in zip(names_, grids, strict=True):
        if grid.keys() != grids[0].keys() or not all(
            np.array_equal(grid[axis], grids[0][axis]) for axis in grid
        ):
            told = [
                " x ".join(f"{len(v)} {axis}" for axis, v in g.items()) for g in (grids[0], grid)
            ]
            raise DataError(
                f"the images of {names_[0]} and {name} differ in their pixels or number of samples "
                f"({told[0]}; {told[1]}), or in the size of pixels: one dataset holds images of "
                "one grid. Collect them separately, or their metrics alone (lmaps collect --table)."
            )


def _grid(data: xr.Dataset) -> dict[Hashable, np.ndarray]:
    name = "image" if "image" in data else next(iter(data.data_vars))
    return {axis: np.asarray(data[axis].values) for axis in data[name].dims}


def _attributes(every: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Those on which all agree, and what else each has."""
    first = every[0]
    common = {
        key: value
        for key, value in first.items()
        if all(key in attrs and _same(attrs[key], value) for attrs in every)
    }
    moved = {"best", "verdict", *(key for attrs in every for key in attrs if _scored(key))}
    common = {key: value for key, value in common.items() if key not in moved}
    return common, [{k: v for k, v in attrs.items() if k not in common} for attrs in every]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return type(a) is type(b) and bool(a == b)


def _scored(key: str) -> bool:
    return key.startswith("metrics_of_")


def _flat(data: xr.Dataset) -> xr.Dataset:
    """The scalars of interest among the attributes as variables."""
    new: dict[str, Any] = {}
    for key, values in data.attrs.items():
        if _scored(key) and isinstance(values, Mapping):
            for metric, value in values.items():
                units = data[metric].attrs if metric in data else {}
                score = float(value) if isinstance(value, (int, float)) else np.nan
                new[f"{metric}_of_{key.removeprefix('metrics_of_')}"] = ((), score, units)
    if isinstance(data.attrs.get("best"), int):
        new["best"] = ((), data.attrs["best"])
    new["verdict"] = ((), str(data.attrs.get("verdict", "not judged")))
    return data.drop_attrs(deep=False).assign(new)


def _concat(
    parts: Sequence[xr.Dataset], dimension: str, labels: Sequence[Any]
) -> tuple[xr.Dataset, list[str]]:
    """Along a new first dimension, and the names of the variables that cannot be."""
    first = parts[0]
    every = list(dict.fromkeys(str(name) for part in parts for name in part.variables))
    alike = [n for n in every if all(n in p.variables and _like(p[n], first[n]) for p in parts)]
    # Coordinates without an index, such as noise levels, stay as they are where all agree.
    fixed = {
        name
        for name in alike
        if name in first.coords
        and all(np.array_equal(p[name].values, first[name].values) for p in parts)
    }
    moved = [n for n in alike if n in first.coords and n not in {*fixed, *first.xindexes}]
    kept = [part[alike].reset_coords(moved) for part in parts]
    index = xr.Variable(dimension, np.asarray(labels))
    joined = xr.concat(
        kept,
        dim=xr.DataArray(index, name=dimension),
        data_vars="all",
        coords="minimal",
        compat="override",
        join="override",
        combine_attrs="override",
    )
    for name in joined.data_vars:  # attributes of the first, and the new dimension first
        joined[name] = joined[name].transpose(dimension, ...)
    return joined, [name for name in every if name not in alike]


def _like(a: xr.DataArray, b: xr.DataArray) -> bool:
    return a.dims == b.dims and a.shape == b.shape and (a.dtype.kind == b.dtype.kind)


def _compare(joined: Mapping[str, xr.Dataset], observations: Sequence[str]) -> xr.Dataset:
    """Methods along a second dimension; what one lacks is NaN or empty text."""
    _check_grids({method: data.isel({OBSERVATION: 0}) for method, data in joined.items()})
    found = {name for data in joined.values() for name in data[OBSERVATION].values.tolist()}
    rows = [name for name in observations if name in found]
    complete = all(data.sizes[OBSERVATION] == len(rows) for data in joined.values())
    parts = [data if complete else _padded(data, rows) for data in joined.values()]
    common, rest = _attributes([part.attrs for part in parts])
    whole, more = _concat([part.drop_attrs(deep=False) for part in parts], METHOD, list(joined))
    for name in whole.data_vars:
        if OBSERVATION in whole[name].dims:
            whole[name] = whole[name].transpose(OBSERVATION, METHOD, ...)
    left_out = {name for data in joined.values() for name in data.attrs["left_out"]}
    for attrs in (common, *rest):
        attrs.pop("left_out", None)
    methods = dict(zip(joined, rest, strict=True))
    whole.attrs = {**common, "methods": methods, "left_out": sorted({*left_out, *more})}
    return whole


def _padded(data: xr.Dataset, rows: Sequence[str]) -> xr.Dataset:
    """All rows; numbers as floats, since only those have a NaN."""
    filled: dict[Hashable, Any] = {}
    for name, variable in data.data_vars.items():
        if OBSERVATION not in variable.dims:
            continue
        if variable.dtype.kind in "biu":
            data = data.assign({name: variable.astype(float, keep_attrs=True)})
        filled[name] = "" if variable.dtype.kind in "UO" else np.nan
    return data.reindex({OBSERVATION: list(rows)}, fill_value=filled)


def _states(runs: Sequence[Run], data: xr.Dataset) -> xr.DataArray:
    """What became of each observation by each method."""
    known = {(run.name, run.method): run.state for run in runs}
    rows, columns = data[OBSERVATION].values.tolist(), data[METHOD].values.tolist()
    states = [[known.get((row, column), NOT_BEGUN) for column in columns] for row in rows]
    return xr.DataArray(states, dims=(OBSERVATION, METHOD))

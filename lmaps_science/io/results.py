"""NetCDF files from and to `xarray.Dataset`, readable by any NetCDF tool.

NetCDF has no complex numbers, no booleans and no nested attributes. A complex variable `v` is
stored as `v_real` and `v_imag`; booleans as bytes (xarray's convention); attributes that are not a
string, a number or an array as JSON. `read_netcdf` undoes all three.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lmaps_science.io.files import (
    DataError,
    atomic_write,
    names,
    require_file,
    require_memory,
    require_parent,
)
from lmaps_science.io.hdf5 import check_hdf5

__all__ = [
    "open_netcdf",
    "plain_json",
    "read_netcdf",
    "require_result",
    "write_netcdf",
    "write_zarr",
]

_JSON = "json:"
_PART = "complex_part_of"


def write_netcdf(path: str | os.PathLike[str], dataset: xr.Dataset) -> None:
    """Write `dataset` to a NetCDF-4 file at `path`, atomically; lazy arrays chunk by chunk.

    Raises:
        DataError: the folder does not exist, or `dataset` is not an xarray.Dataset.
        OSError: the disk is full (errno ENOSPC); `path` is then as it was before.

    Example:
        >>> write_netcdf("run.nc", xr.Dataset({"psnr": ("sample", [30.0, 31.0])}))
    """
    if not isinstance(dataset, xr.Dataset):
        raise DataError(
            f"write_netcdf takes an xarray.Dataset, got {type(dataset).__name__}. "
            "Convert it, e.g. array.to_dataset(name='image')."
        )
    encoded = _encode(dataset)
    with atomic_write(path) as temporary:
        encoded.to_netcdf(temporary, engine="h5netcdf")


def read_netcdf(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a NetCDF file into memory; complex variables and attributes as they were written.

    Raises:
        DataError: no such file, not a complete NetCDF-4 file, or one larger than the memory.

    Example:
        >>> write_netcdf("run.nc", xr.Dataset({"psnr": ("sample", [30.0, 31.0])}))
        >>> read_netcdf("run.nc")["psnr"].values
        array([30., 31.])
    """
    with _readable(path) as (path, n_bytes):
        require_memory(path, "arrays", n_bytes)
        with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as opened:
            dataset = opened.load()
        dataset.encoding = {}
        return _decode(dataset)


def open_netcdf(path: str | os.PathLike[str]) -> xr.Dataset:
    """The same with arrays that are read when they are computed (extra `collect`: dask).

    The file is opened again when it is needed, so it must stay as it is. Text is read at once.

    Raises:
        DataError: as `read_netcdf`, but for the memory.
        ImportError: dask is missing.
    """
    _require("dask", "Arrays of many files are read lazily through dask")
    with _readable(path) as (path, _):
        dataset = xr.open_dataset(path, engine="h5netcdf", decode_times=False, chunks={})
        text = [name for name, variable in dataset.variables.items() if variable.dtype == object]
        return _decode(dataset.assign({name: dataset[name].compute() for name in text}))


def write_zarr(path: str | os.PathLike[str], dataset: xr.Dataset, *, force: bool = False) -> None:
    """Write `dataset` to a Zarr store (format 2), a folder, chunk by chunk (extra `collect`).

    Complex numbers and attributes are kept as in NetCDF, see above. `force` replaces a store.

    Raises:
        DataError: the folder to write to does not exist, or there is something at `path`.
        ImportError: zarr is missing.
    """
    _require("zarr", "Zarr stores are written by zarr")
    path = require_parent(path)
    replaces = force and (path / ".zgroup").is_file()
    if path.exists() and not replaces:
        raise DataError(
            f"{path} exists{' and is no Zarr store' if force else ''}: give another name."
        )
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        _encode(dataset).to_zarr(temporary, mode="w-", zarr_format=2, consolidated=True)
        if replaces:
            before = temporary.with_suffix(".before")
            path.rename(before)
            temporary.rename(path)
            shutil.rmtree(before, ignore_errors=True)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _require(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{what}, which is missing: pip install 'lmaps-science[collect]'.")


@contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[tuple[Path, int]]:
    """A checked path and the bytes of its arrays; whatever fails within is one error of ours."""
    path = require_file(path)
    unreadable = (
        f"{path} cannot be read as NetCDF-4: it is truncated, damaged or of another format. Write "
        "it again."
    )
    try:
        n_bytes = check_hdf5(path)
    except DataError as error:
        if str(error).endswith("it again."):
            raise DataError(unreadable) from error
        raise
    try:
        # Units such as "hours" are physical here: xarray must not turn them into dates.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield path, n_bytes
    except DataError as error:
        told = str(error).startswith(str(path))
        raise DataError(str(error) if told else f"{path}: {error}") from error
    except Exception as error:  # of damaged files xarray and HDF5 say almost anything
        raise DataError(unreadable) from error


def require_result(data: xr.Dataset, where: object = "the dataset") -> None:
    """Refuse datasets that are no reconstruction, such as NetCDF files of other programs.

    Raises:
        DataError: it lacks the samples' data misfit or noise levels, or attributes have other types
            than ours.
    """
    shapes = {"sigma": 1, "misfit": 2}
    wrong = [n for n, d in shapes.items() if n not in data or data[n].ndim != d or not data[n].size]
    if "sample" not in data.sizes:
        wrong.append("the dimension sample")
    types: dict[str, type] = {"card": dict, "prior": dict, "kind": str, "verdict": str}
    types |= {"verdict_reasons": list, "commit": str, "prior_check": dict, "calibration": dict}
    wrong += [
        f"the attribute {n}" for n, t in types.items() if type(data.attrs.get(n, t())) is not t
    ]
    for name in ("prior_check", "calibration"):
        told = data.attrs.get(name)
        if isinstance(told, dict) and type(told.get("text", [])) is not list:
            wrong.append(f"the attribute {name}")
    if "mode" in data and not _numbered(data["mode"]):
        wrong.append("the variable mode")
    if "kind" in data.attrs:
        best = data.attrs.get("best")
        if type(best) is not int or not 0 <= best < data.sizes.get("sample", 0):
            wrong.append("the attribute best")
    if wrong:
        raise DataError(
            f"{where} is not a result of this package: it lacks {', '.join(wrong)}, or has others "
            "than ours. Give the result.nc of a run, or what problem.analyse returned."
        )


def _numbered(mode: xr.DataArray) -> bool:
    """Whether each sample has a mode, of at most as many as there are samples."""
    if mode.dims != ("sample",) or not np.issubdtype(mode.dtype, np.integer) or not mode.size:
        return False
    return bool(mode.values.min() >= 0 and mode.values.max() < mode.size)


def _encode(dataset: xr.Dataset) -> xr.Dataset:
    encoded = dataset.copy()
    encoded.attrs = _encode_attrs(dataset.attrs)
    for key, variable in dataset.variables.items():
        name = str(key)
        attrs = _encode_attrs(variable.attrs)
        if not np.issubdtype(variable.dtype, np.complexfloating):
            encoded[name].attrs = attrs
            continue
        for part in ("real", "imag"):
            split = variable.copy(data=getattr(variable.data, part).copy())
            split.attrs = {**attrs, _PART: name}
            encoded[f"{name}_{part}"] = split
        if name in dataset.coords:
            encoded = encoded.set_coords([f"{name}_real", f"{name}_imag"])
        encoded = encoded.drop_vars(name)
    return encoded


def _decode(dataset: xr.Dataset) -> xr.Dataset:
    wholes = {str(v.attrs[_PART]) for v in dataset.variables.values() if _PART in v.attrs}
    for whole in sorted(wholes):
        parts = [f"{whole}_real", f"{whole}_imag"]
        if not all(part in dataset.variables for part in parts):
            raise DataError(
                f"it lacks a part of the complex variable {names([whole])}: write the file again "
                "with write_netcdf."
            )
        real, imag = (dataset[part].variable for part in parts)
        joined = real.copy(data=real.data + 1j * imag.data)
        del joined.attrs[_PART]
        is_coordinate = f"{whole}_real" in dataset.coords
        dataset = dataset.drop_vars([f"{whole}_real", f"{whole}_imag"])
        dataset[whole] = joined
        if is_coordinate:
            dataset = dataset.set_coords(whole)
    dataset.attrs = _decode_attrs(dataset.attrs)
    for name in dataset.variables:
        variable = dataset[name]
        variable.attrs = _decode_attrs(variable.attrs)
        variable.encoding = {}
        if variable.dtype == object:  # strings of any length come back as Python objects
            attrs = variable.attrs
            dataset[name] = variable.astype(str)
            dataset[name].attrs = attrs
    return dataset


def _encode_attrs(attrs: dict[Any, Any]) -> dict[str, Any]:
    encoded: dict[str, Any] = {}
    for key, value in attrs.items():
        plain = isinstance(value, (str, int, float, np.integer, np.floating, np.ndarray))
        if plain and not isinstance(value, bool):
            encoded[str(key)] = value
        else:
            encoded[str(key)] = _JSON + json.dumps(value, default=plain_json)
    return encoded


def plain_json(value: Any) -> Any:
    """What JSON takes in place of `value`: numbers or lists for NumPy's, else its text."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)


def _decode_attrs(attrs: dict[Any, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = {}
    for key, value in attrs.items():
        if isinstance(value, str) and value.startswith(_JSON):
            try:
                value = json.loads(value[len(_JSON) :])
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"the attribute {names([key])} is marked as JSON and is none: it was cut or "
                    "changed. Write the file again with write_netcdf."
                ) from error
        elif isinstance(value, np.generic):
            value = value.item()
        decoded[str(key)] = value
    return decoded

"""NetCDF files from and to `xarray.Dataset`, readable by any NetCDF tool.

NetCDF has no complex numbers, no booleans and no nested attributes. A complex variable `v` is
stored as `v_real` and `v_imag`; booleans as bytes (xarray's convention); attributes that are not a
string, a number or an array as JSON. `read_netcdf` undoes all three.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import xarray as xr

from lmaps_science.io.files import DataError, atomic_write, require_file

__all__ = ["plain_json", "read_netcdf", "write_netcdf"]

_JSON = "json:"
_PART = "complex_part_of"


def write_netcdf(path: str | os.PathLike[str], dataset: xr.Dataset) -> None:
    """Write `dataset` to a NetCDF-4 file at `path`, atomically.

    Raises:
        DataError: the folder does not exist, or `dataset` is not an xarray.Dataset.
        OSError: the disk is full (errno ENOSPC); `path` is then as it was before.
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
        DataError: no such file, or not a complete NetCDF file.
    """
    path = require_file(path)
    try:
        # Units such as "hours" are physical here: xarray must not turn them into dates.
        with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as opened:
            dataset = opened.load()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as NetCDF ({error}). It is truncated or of another format: "
            "write it again."
        ) from error
    dataset.encoding = {}
    return _decode(dataset)


def _encode(dataset: xr.Dataset) -> xr.Dataset:
    encoded = dataset.copy()
    encoded.attrs = _encode_attrs(dataset.attrs)
    for key, variable in dataset.variables.items():
        name = str(key)
        attrs = _encode_attrs(variable.attrs)
        if not np.iscomplexobj(variable.values):
            encoded[name].attrs = attrs
            continue
        for part in ("real", "imag"):
            split = variable.copy(data=getattr(variable.values, part).copy())
            split.attrs = {**attrs, _PART: name}
            encoded[f"{name}_{part}"] = split
        if name in dataset.coords:
            encoded = encoded.set_coords([f"{name}_real", f"{name}_imag"])
        encoded = encoded.drop_vars(name)
    return encoded


def _decode(dataset: xr.Dataset) -> xr.Dataset:
    wholes = {str(v.attrs[_PART]) for v in dataset.variables.values() if _PART in v.attrs}
    for whole in sorted(wholes):
        real, imag = dataset[f"{whole}_real"].variable, dataset[f"{whole}_imag"].variable
        joined = real.copy(data=real.values + 1j * imag.values)
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
            value = json.loads(value[len(_JSON) :])
        elif isinstance(value, np.generic):
            value = value.item()
        decoded[str(key)] = value
    return decoded

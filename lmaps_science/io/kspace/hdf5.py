"""HDF5 files of k-space: those of fastMRI, and the door to those of ISMRMRD."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import h5py

from lmaps_science.io.files import DataError, names
from lmaps_science.io.hdf5 import array, member, open_hdf5_file, text
from lmaps_science.io.kspace.arrays import Arrays
from lmaps_science.io.kspace.raw import ISMRMRD, MOST_HEADER
from lmaps_science.io.kspace.slices import Source

__all__ = ["open_hdf5", "open_map_file"]


def open_hdf5(path: Path) -> Source:
    """fastMRI's `kspace` (slices, coils, readout, phase), or a dataset of ISMRMRD acquisitions.

    Raises:
        DataError: damaged, or neither of the two.
    """
    file = open_hdf5_file(path)
    try:
        kspace = array(file, "kspace")
        if kspace is not None:
            return Arrays(
                path,
                "fastMRI HDF5",
                kspace,
                maps=_first(file, "s_maps", "sens_maps"),
                mask=array(file, "mask"),
                voxel_mm=_voxel_mm(file, kspace.shape),
                close=file.close,
            )
        keys = _keys(path, file)
        groups = [name for name in keys if _has_data(file, name)]
    except BaseException:
        file.close()
        raise
    file.close()
    if groups:
        return ISMRMRD(path, groups[0])
    raise DataError(
        f"{path} holds {names(keys)}; expected `kspace` (fastMRI) or a group with acquisitions in "
        "`data` (ISMRMRD)."
    )


def open_map_file(path: Path) -> Arrays:
    """Coil maps of an HDF5 file, `s_maps` (slices, coils, H, W).

    Raises:
        DataError: damaged, or without maps.
    """
    file = open_hdf5_file(path)
    try:
        maps = _first(file, "s_maps", "sens_maps", "maps")
        if maps is None:
            raise DataError(
                f"{path} holds {names(_keys(path, file))}; expected coil maps, `s_maps`."
            )
        return Arrays(path, "coil maps", maps, close=file.close)
    except BaseException:
        file.close()
        raise


def _keys(path: Path, file: h5py.File) -> list[str]:
    try:
        return list(file)
    except Exception as error:
        raise DataError(f"{path} is a damaged HDF5 file: copy or download it again.") from error


def _has_data(file: h5py.File, name: str) -> bool:
    try:
        elsewhere = isinstance(file.get(name, getlink=True), h5py.ExternalLink)
    except Exception:  # of a damaged name or link
        return False
    if elsewhere:
        return False
    return isinstance(member(file, name), h5py.Group) and array(file, f"{name}/data") is not None


def _first(file: h5py.File, *keys: str) -> Any:
    found = (array(file, name) for name in keys)
    return next((dataset for dataset in found if dataset is not None), None)


def _voxel_mm(file: h5py.File, shape: tuple[int, ...]) -> tuple[float, float] | None:
    """Voxel size along (readout, phase) from the header: the encoded field of view / samples."""
    try:
        header = text(file, "ismrmrd_header", MOST_HEADER)
        if header is None or b"<!ENTITY" in header:
            return None
        root = ET.fromstring(header)
        fov = root.find("./{*}encoding/{*}encodedSpace/{*}fieldOfView_mm")
        assert fov is not None
        lengths = [float(fov.findtext(f"{{*}}{axis}") or "nan") for axis in "xy"]
        sizes = [length / n for length, n in zip(lengths, shape[-2:], strict=True)]
    except Exception:  # a header without geometry: k-space is whole all the same
        return None
    return (sizes[0], sizes[1]) if all(0 < s < math.inf for s in sizes) else None

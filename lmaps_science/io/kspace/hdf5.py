"""HDF5 files of k-space: those of fastMRI, and the door to those of ISMRMRD."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import h5py

from lmaps_science.io.files import DataError, require_file
from lmaps_science.io.kspace.arrays import Arrays
from lmaps_science.io.kspace.raw import ISMRMRD
from lmaps_science.io.kspace.slices import Source

__all__ = ["open_hdf5", "open_map_file"]


def open_hdf5(path: Path) -> Source:
    """fastMRI's `kspace` (slices, coils, readout, phase), or a dataset of ISMRMRD acquisitions."""
    file = _open(path)
    if "kspace" in file:
        kspace = file["kspace"]
        return Arrays(
            path,
            "fastMRI HDF5",
            kspace,
            maps=_first(file, "s_maps", "sens_maps"),
            mask=_first(file, "mask"),
            voxel_mm=_voxel_mm(file, kspace.shape),
            close=file.close,
        )
    groups = [n for n, g in file.items() if isinstance(g, h5py.Group) and "data" in g]
    keys = ", ".join(file) or "nothing"
    file.close()
    if groups:
        return ISMRMRD(path, groups[0])
    raise DataError(
        f"{path} holds {keys}; expected `kspace` (fastMRI) or a group with acquisitions in `data` "
        "(ISMRMRD)."
    )


def open_map_file(path: Path) -> Arrays:
    """Coil maps of an HDF5 file, `s_maps` (slices, coils, H, W)."""
    file = _open(path)
    maps = _first(file, "s_maps", "sens_maps", "maps")
    if maps is None:
        keys = ", ".join(file) or "nothing"
        file.close()
        raise DataError(f"{path} holds {keys}; expected coil maps, `s_maps`.")
    return Arrays(path, "coil maps", maps, close=file.close)


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(require_file(path), "r")
    except OSError as error:
        reason = "truncated" if "truncated" in str(error) else "not an HDF5 file, or a damaged one"
        raise DataError(f"{path} is {reason}: copy or download it again.") from error


def _first(file: h5py.File, *names: str) -> Any:
    return next((file[name] for name in names if name in file), None)


def _voxel_mm(file: h5py.File, shape: tuple[int, ...]) -> tuple[float, float] | None:
    """Voxel size along (readout, phase) from the header: the encoded field of view / samples."""
    if "ismrmrd_header" not in file:
        return None
    try:
        root = ET.fromstring(file["ismrmrd_header"][()])
        fov = root.find("./{*}encoding/{*}encodedSpace/{*}fieldOfView_mm")
        assert fov is not None
        lengths = [float(fov.findtext(f"{{*}}{axis}") or "nan") for axis in "xy"]
    except (ET.ParseError, AssertionError, ValueError):
        return None  # a header without geometry: k-space is whole all the same
    sizes = [length / n for length, n in zip(lengths, shape[-2:], strict=True)]
    return (sizes[0], sizes[1]) if all(s > 0 for s in sizes) else None

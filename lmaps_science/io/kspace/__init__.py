"""k-space in the files that scanners, toolboxes and benchmarks write, read slice by slice.

Every format gives the same slices, see `KSpaceFile`; there is one file of code for each family.
"""

from __future__ import annotations

import os
from pathlib import Path

from lmaps_science.io.files import DataError
from lmaps_science.io.kspace.arrays import open_npy
from lmaps_science.io.kspace.bart import open_cfl, read_cfl, write_cfl
from lmaps_science.io.kspace.hdf5 import open_hdf5, open_map_file
from lmaps_science.io.kspace.inversebench import InverseBenchLMDB
from lmaps_science.io.kspace.slices import KSpaceFile, Source

__all__ = ["KSpaceFile", "open_kspace", "read_cfl", "write_cfl"]

FORMATS = (
    "fastMRI HDF5, ISMRMRD HDF5, NumPy .npy, BART .cfl/.hdr, and folders of InverseBench LMDB "
    "databases"
)


def open_kspace(
    path: str | os.PathLike[str],
    *,
    maps: str | os.PathLike[str] | None = None,
    crop: bool = False,
    shape: tuple[int, int] | None = None,
) -> KSpaceFile:
    """Open a file of k-space; slices are read when they are asked for.

    The format follows from the file: fastMRI or ISMRMRD HDF5, `.npy` of shape (coils, H, W) or
    (slices, coils, H, W), BART `.cfl` with its `.hdr`, or a folder of InverseBench LMDB databases.

    Args:
        maps: file of coil maps for it: HDF5 with `s_maps`, `.npy` or `.cfl`; of each slice, or one
            set for all.
        crop: reduce each slice to 320 x 320 as the InverseBench benchmark does: along the phase
            encoding (the last axis) in k-space, along the readout in image space.
        shape: (H, W) of an LMDB's images, where they are not square: it stores bare numbers.

    Raises:
        DataError: no such file, a damaged one, an unknown format, or arrays of the wrong shape.
        ImportError: a format needs a package of the extra `mri`.

    Example:
        >>> import numpy as np
        >>> np.save("scan.npy", np.ones((3, 8, 16, 16), dtype=np.complex64))  # 3 slices of 8 coils
        >>> with open_kspace("scan.npy") as scan:
        ...     len(scan), scan.shape, scan[2]["kspace"].dims
        (3, (8, 16, 16), ('coil', 'y', 'x'))
    """
    path = Path(path).expanduser()
    source = _open(path, shape)
    return KSpaceFile(path, source, None if maps is None else _open_maps(maps), crop)


def _open(path: Path, shape: tuple[int, int] | None) -> Source:
    if path.is_dir():
        return InverseBenchLMDB(path, shape)
    if path.suffix in (".cfl", ".hdr"):
        return open_cfl(path)
    if not path.exists():
        raise DataError(f"{path}: no such file (working directory: {Path.cwd()}).")
    if path.suffix == ".npy":
        return open_npy(path)
    if path.suffix in (".h5", ".hdf5", ".mrd", ".hdf") or _is_hdf5(path):
        return open_hdf5(path)
    raise DataError(f"{path}: unknown format; k-space is read from {FORMATS}.")


def _open_maps(path: str | os.PathLike[str]) -> Source:
    path = Path(path).expanduser()
    if path.suffix in (".npy", ".cfl", ".hdr"):
        return _open(path, None)
    if not path.exists():
        raise DataError(f"{path}: no such file (working directory: {Path.cwd()}).")
    return open_map_file(path)


def _is_hdf5(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"

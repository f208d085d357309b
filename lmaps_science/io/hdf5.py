"""HDF5 files, opened so that nothing is read but the file itself.

An HDF5 file can point at other files of the disk: by links, by virtual datasets, and by datasets
whose numbers are stored elsewhere. All three are refused; links inside of the file are followed.
"""

from __future__ import annotations

from pathlib import Path

import h5py

from lmaps_science.io.files import DataError, names, require_file

__all__ = ["array", "check_hdf5", "member", "open_hdf5_file"]

_MOST_LINKS = 20


def open_hdf5_file(path: Path) -> h5py.File:
    """The file, open for reading.

    Raises:
        DataError: no such file, not an HDF5 file, or a damaged one.
    """
    path = require_file(path)
    try:
        return h5py.File(path, "r")
    except Exception as error:  # mostly OSError, of damaged files almost anything
        reason = "truncated" if "truncated" in str(error) else "not an HDF5 file, or a damaged one"
        raise DataError(f"{path} is {reason}: copy or download it again.") from error


def member(file: h5py.File, name: str) -> h5py.Group | h5py.Dataset | None:
    """The group or dataset called `name`, or None where there is none.

    Raises:
        DataError: a link to nothing, to another file, or round in a circle; or it cannot be read.
    """
    try:
        return _follow(file, name, _MOST_LINKS)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{file.filename}: {name} cannot be read. The file is damaged: copy or download it "
            "again."
        ) from error


def _follow(file: h5py.File, name: str, left: int) -> h5py.Group | h5py.Dataset | None:
    """Step by step: asking for the whole path would open the other files on the way."""
    place: h5py.Group | h5py.Dataset = file
    parts = [part for part in name.split("/") if part not in ("", ".")]
    for done, part in enumerate(parts):
        link = place.get(part, getlink=True) if isinstance(place, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.SoftLink):
            before = "" if link.path.startswith("/") else "/".join(parts[:done])
            found = _follow(file, f"{before}/{link.path}", left - 1) if left else None
            if found is None:
                raise DataError(
                    f"{file.filename}: {name} is a link to nothing in this file. Copy the data "
                    "into it, e.g. with h5repack or h5py's Group.copy."
                )
            place = found
        elif isinstance(link, h5py.HardLink):
            place = place[part]
        else:
            raise DataError(
                f"{file.filename}: {name} is a link to another file, which is not followed. Copy "
                "the data into this one, e.g. with h5py's Group.copy(expand_external=True)."
            )
    return place


def array(file: h5py.File, name: str) -> h5py.Dataset | None:
    """The dataset called `name`, not read yet, or None where there is none.

    Raises:
        DataError: as `member`; or a group, or a dataset whose numbers are in other files.
    """
    found = member(file, name)
    if found is None:
        return None
    if not isinstance(found, h5py.Dataset):
        raise DataError(
            f"{file.filename}: {name} is a group that holds {_content(found)}, expected an array. "
            f"Write the array itself under the name {name}."
        )
    try:
        elsewhere = found.is_virtual or found.external is not None
        readable = found.shape is not None and found.dtype is not None
    except Exception as error:
        raise DataError(
            f"{file.filename}: {name} is damaged: copy or download the file again."
        ) from error
    if elsewhere:
        raise DataError(
            f"{file.filename}: the numbers of {name} are stored in other files, which are not "
            "read. Copy them into this one, e.g. with h5repack."
        )
    if not readable:
        raise DataError(f"{file.filename}: {name} is empty, expected an array.")
    return found


def check_hdf5(path: Path) -> int:
    """Open a file whose arrays are all at its top level (NetCDF); the bytes that these take.

    Raises:
        DataError: not an HDF5 file, links, data in other files, damage.
    """
    with open_hdf5_file(path) as file:
        try:
            found = {name: file.get(name, getlink=True) for name in file}
        except Exception as error:
            raise DataError(f"{path} is damaged: copy or write it again.") from error
        n_bytes = 0
        for name, link in found.items():
            if not isinstance(link, h5py.HardLink):
                raise DataError(
                    f"{path}: {names([name])} is a link, which NetCDF files do not have. Copy the "
                    "data into the file."
                )
            if isinstance(member(file, name), h5py.Dataset):
                dataset = array(file, name)
                if dataset is not None:
                    n_bytes += dataset.size * dataset.dtype.itemsize
    return n_bytes


def _content(group: h5py.Group) -> str:
    try:
        return names(group)
    except Exception:  # a damaged one
        return "unreadable names"

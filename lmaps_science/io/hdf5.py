"""HDF5 files, opened so that nothing is read but the file itself.

An HDF5 file can point at other files of the disk: by links, by virtual datasets, and by datasets
whose numbers are stored elsewhere. All three are refused; links inside of the file are followed.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import h5py
import numpy as np

from lmaps_science.io.files import DataError, names, require_file

__all__ = [
    "MOST_SCANNED",
    "array",
    "check_hdf5",
    "check_lengths",
    "member",
    "open_hdf5_file",
    "text",
]

_MOST_LINKS = 20
_COLLECTION = b"GCOL\1\0\0\0"
_MOST_COLLECTED = 1 << 24  # bytes; a collection holds one long text, or short ones in 4096 bytes
MOST_SCANNED = 1 << 28  # bytes; larger files are taken as they are


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
    check_lengths(path)
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


def text(file: h5py.File, name: str, most: int) -> bytes | None:
    """The text in the dataset called `name` of one string; None where there is none.

    Raises:
        DataError: as `array`; or more than one string, or one of more than `most` bytes.
    """
    found = array(file, name)
    if found is None:
        return None
    try:
        if found.size == 1 and _text_length(found) <= most:
            value = found[()]
            value = value if isinstance(value, bytes) else value.reshape(-1)[0]
            return value if isinstance(value, bytes) else None
    except Exception as error:
        raise DataError(
            f"{file.filename}: {name} is damaged: copy or download the file again."
        ) from error
    raise DataError(
        f"{file.filename}: {name} is not one text of at most {most / 1e6:g} MB: the file is "
        "damaged, copy or download it again."
    )


def _text_length(dataset: h5py.Dataset) -> float:
    """Bytes of its one string, as it is stored; infinitely many where that cannot be read safely.

    A string of variable length is stored as its length, and the address of a collection and the
    index in it that hold it. HDF5 allocates what a damaged length says, and walks through a damaged
    collection for ever.
    """
    if h5py.check_string_dtype(dataset.dtype) is None or dataset.dtype.kind != "O":
        return float(dataset.dtype.itemsize)
    place = dataset.id.get_offset()
    with open(dataset.file.filename, "rb") as raw:
        if dataset.chunks is not None:
            stored = dataset.id.read_direct_chunk((0,) * dataset.ndim)[1]
        elif place is not None:
            raw.seek(place)
            stored = raw.read(16)
        else:  # in the header of the dataset, or never written
            return 0.0 if dataset.id.get_storage_size() == 0 else math.inf
        length, address, index = struct.unpack_from("<IQI", stored)
        if length == 0:
            return 0.0
        raw.seek(address)
        head = raw.read(16)
        size = int.from_bytes(head[8:], "little")
        if not head.startswith(_COLLECTION) or size > _MOST_COLLECTED:
            return math.inf
        objects = _collected(head + raw.read(size - 16))
    return length if objects is not None and objects.get(index) == length else math.inf


def check_lengths(path: Path) -> dict[int, dict[int, int]]:
    """Refuse strings and lists of variable length that do not fit what holds them.

    HDF5 believes these lengths, 4 bytes each: it allocates and walks through gigabytes, or writes
    beyond the memory that it has allocated. They are stored in front of the address of a collection
    ("GCOL") and of an index in it.

    Returns:
        The size of every object, by the address of its collection and its index; nothing for files
        of more than `MOST_SCANNED` bytes, which are taken as they are.

    Raises:
        DataError: a length that is not that of what it points at.
    """
    if path.stat().st_size > MOST_SCANNED:
        return {}
    content, at = path.read_bytes(), 0
    objects: dict[int, dict[int, int]] = {}
    damaged = DataError(f"{path} is damaged: copy or write it again.")
    while (at := content.find(_COLLECTION, at)) >= 0:
        size = int.from_bytes(content[at + 8 : at + 16], "little")
        if 4096 <= size <= len(content) - at:
            indices = _collected(content[at : at + size])
            if indices is None:
                raise damaged
            objects[at] = indices
        at += 8
    addresses = np.array(list(objects), dtype=np.uint64)
    for shift in range(8 if len(content) > 16 else 0):
        words = np.frombuffer(content, "<u8", (len(content) - shift) // 8, shift)
        near = np.flatnonzero(words < len(content))  # few: most words are no addresses
        for k in near[np.isin(words[near], addresses)].tolist():
            at, place = shift + 8 * k, int(words[k])
            length, index = (int.from_bytes(content[p : p + 4], "little") for p in (at - 4, at + 8))
            # Other numbers may look like an address, but not with a known index behind it.
            held = objects[place].get(index) if at >= 4 else None
            if held is not None and length and (held < length or held % length):
                raise damaged
    return objects


def _collected(collection: bytes) -> dict[int, int] | None:
    """Index and size of all that a collection holds; None where they do not make up the whole."""
    found: dict[int, int] = {}
    at = 16
    while at + 16 <= len(collection):
        index = int.from_bytes(collection[at : at + 2], "little")
        size = int.from_bytes(collection[at + 8 : at + 16], "little")
        if index == 0:  # the free rest, its header included; HDF5 walks on by its size, 0 or not
            return found if at + size == len(collection) else None
        found[index] = size
        at += 16 + (size + 7) // 8 * 8
    return found if at <= len(collection) else None


def _content(group: h5py.Group) -> str:
    try:
        return names(group)
    except Exception:  # a damaged one
        return "unreadable names"

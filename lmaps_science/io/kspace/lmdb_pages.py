"""LMDB databases, read page by page with every offset checked.

The library `lmdb` trusts its files: one that is cut short ends the whole process (SIGBUS), which no
error handling survives. Reading takes little: two meta pages, a tree of pages, values beside it.

Source: the layout of LMDB 0.9 (data version 1), 64 bit, little endian.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from lmaps_science.io.files import DataError, require_file

__all__ = ["read_lmdb"]

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEADER = 16  # bytes of a page's header: number, (unused), flags, lower, upper
_BRANCH, _LEAF, _META = 1, 2, 8
_BIG = 1  # flag of an entry: its value is on pages of its own
_NO_PAGE = 2**64 - 1


def read_lmdb(folder: Path) -> dict[bytes, memoryview]:
    """The entries of the main database in `folder`: keys, and values as bytes mapped from the file.

    Raises:
        DataError: no such file, another format, or a damaged or truncated database.
    """
    path = require_file(folder / "data.mdb")
    with open(path, "rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        return _entries(data)
    except (struct.error, IndexError, ValueError) as error:
        raise DataError(
            f"{folder} is not a whole LMDB database ({error}): data.mdb is truncated, damaged or "
            "of another format. Copy or download it again."
        ) from error


def _entries(data: memoryview) -> dict[bytes, memoryview]:
    size, root = _newest_meta(data)
    found: dict[bytes, memoryview] = {}
    seen: set[int] = set()
    waiting = [] if root == _NO_PAGE else [root]
    while waiting:
        page = waiting.pop()
        if page in seen or len(seen) > len(data) // size:
            raise ValueError("its pages form a circle")
        seen.add(page)
        start = page * size
        content = _part(data, start, size)
        flags, lower = struct.unpack_from("<HH", content, 10)
        for k in range(max(0, lower - _HEADER) // 2):
            (at,) = struct.unpack_from("<H", content, _HEADER + 2 * k)
            low, high, mode, n_key = struct.unpack_from("<HHHH", content, at)
            key = bytes(_part(content, at + 8, n_key))
            if flags & _BRANCH:
                waiting.append(low | high << 16 | mode << 32)
            elif flags & _LEAF:
                found[key] = _value(data, content, at + 8 + n_key, low | high << 16, mode, size)
            else:
                raise ValueError("a page of an unknown type")
    return found


def _value(
    data: memoryview, content: memoryview, at: int, length: int, mode: int, size: int
) -> memoryview:
    """The bytes of an entry: in its page, or from the page on that the entry names."""
    if not mode & _BIG:
        return _part(content, at, length)
    (page,) = struct.unpack_from("<Q", content, at)
    return _part(data, page * size + _HEADER, length)


def _part(data: memoryview, start: int, length: int) -> memoryview:
    if start + length > len(data):
        raise ValueError("a page or an entry lies outside of the file")
    return data[start : start + length]


def _newest_meta(data: memoryview) -> tuple[int, int]:
    """Page size and root page of the last complete transaction."""
    (size,) = struct.unpack_from("<I", data, 40)
    if size not in (4096, 8192, 16384, 32768, 65536):
        raise ValueError("no page size")
    metas = []
    for start in (0, size):
        flags = struct.unpack_from("<H", data, start + 10)[0]
        magic, version = struct.unpack_from("<II", data, start + _HEADER)
        (root,) = struct.unpack_from("<Q", data, start + 40 + 48 + 40)
        (transaction,) = struct.unpack_from("<Q", data, start + 40 + 96 + 8)
        if not flags & _META or (magic, version) != (_MAGIC, _VERSION):
            raise ValueError("no LMDB meta page")
        metas.append((transaction, root))
    return size, max(metas)[1]

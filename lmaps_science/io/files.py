"""Files: one error for unusable data, suggestions, atomic writing, checksums.

Every writer of the package goes through `atomic_write`: a reader never sees half a file, and a
failed write leaves the previous version untouched.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "DataError",
    "atomic_write",
    "make_folder",
    "require_file",
    "require_parent",
    "sha256",
    "suggestion",
]

# With less than this left on the disk, a failed write is put down to the full disk: not every
# library (HDF5, for one) passes the operating system's error number on.
_FULL_BYTES = 1 << 20


class DataError(ValueError):
    """A file or an array that cannot be used: the message says which, why, and what to do."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' when a known word is close to `word`, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def require_file(path: str | os.PathLike[str]) -> Path:
    """Return `path` as a Path; raise DataError unless it is a file that holds something."""
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path}: no such file (working directory: {Path.cwd()}).")
    if not path.is_file():
        raise DataError(f"{path} is not a file: give the path of one file.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: copy or download it again.")
    return path


def require_parent(path: str | os.PathLike[str]) -> Path:
    """Return `path` as a Path; raise DataError unless the folder to write it to exists."""
    path = Path(path).expanduser()
    if not path.parent.is_dir():
        raise DataError(
            f"cannot write {path}: the folder {path.parent} does not exist. Create it first, "
            f"e.g. mkdir -p {path.parent}"
        )
    return path


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Return `path` as a Path to a folder, made with its parents where it is missing.

    Raises:
        DataError: it cannot be made, for want of permission or because a file is in its place.
    """
    path = Path(path).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot write to {path}: {error.strerror}. Choose another folder."
        ) from error
    return path


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(require_file(path), "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it onto `path` once the block has succeeded.

    The temporary file keeps the suffix, since many writers choose their format by it. If the block
    raises, the temporary file is removed and whatever was at `path` stays.

    Raises:
        DataError: the folder does not exist.
        OSError: with errno ENOSPC and a plain message when the disk is full.

    Example:
        with atomic_write("map.npy") as temporary:
            np.save(temporary, image)
    """
    path = require_parent(path)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        full = isinstance(error, Exception) and _disk_is_full(error, path.parent)
        temporary.unlink(missing_ok=True)
        if full:
            raise OSError(
                errno.ENOSPC,
                f"the disk is full: could not write {path}. Nothing was changed; free some space "
                f"under {path.parent} or write to another folder",
            ) from error
        raise


def _disk_is_full(error: Exception, folder: Path) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return shutil.disk_usage(folder).free < _FULL_BYTES

"""Files: one error for unusable data, suggestions, atomic writing, checksums, limits to reading.

Every writer of the package goes through `atomic_write`: a reader never sees half a file, and a
failed write leaves the previous version untouched. Every reader believes a file's header only as
far as the file's size bears it out (`require_memory`, `read_text`), and no error repeats what is
written in a file: a card may name any file of the user's.
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
    "names",
    "read_text",
    "require_file",
    "require_free",
    "require_memory",
    "require_parent",
    "sha256",
    "shown",
    "suggestion",
]

# With less than this left on the disk, a failed write is put down to the full disk: not every
# library (HDF5, for one) passes the operating system's error number on.
_FULL_BYTES = 1 << 20
# DEFLATE, the densest of the filters in use, packs at most 1032 bytes into one.
_DENSEST = 1032


class DataError(ValueError):
    """A file or an array that cannot be used: the message says which, why, and what to do."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' when a known word is close to `word`, else nothing."""
    if len(word) > 200:  # the comparison takes as long as the square of it
        return ""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def require_file(path: str | os.PathLike[str]) -> Path:
    """Return `path` as a Path; raise DataError unless it is a file that holds something."""
    path = Path(path).expanduser()
    if not _is_text(str(path)):
        raise DataError(
            f"{str(path)!r}: the file's name is no UTF-8 text, so that no result could say what it "
            "was made from. Rename the file."
        )
    if not path.exists():
        raise DataError(f"{path}: no such file (working directory: {Path.cwd()}).")
    if not path.is_file():
        raise DataError(f"{path} is not a file: give the path of one file.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: copy or download it again.")
    return path


def _is_text(name: str) -> bool:
    """Whether a name can be written down: bytes that are no UTF-8 come as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_text(path: str | os.PathLike[str], most: int, what: str, encoding: str = "utf-8") -> str:
    """The text of a file of at most `most` bytes.

    Args:
        path: the file.
        most: bytes; texts of the format are much smaller.
        what: the file should be, for the error, e.g. "a station file".
        encoding: of the text.

    Raises:
        DataError: no such file, a larger one, or one that holds no text.
        OSError: it cannot be read, for want of permission.
    """
    path = require_file(path)
    size = path.stat().st_size
    if size > most:
        raise DataError(
            f"{path} is not {what}: it has {size / 1e6:.1f} MB, and such text at most "
            f"{most / 1e6:g} MB. Give the right file."
        )
    try:
        text = path.read_bytes().decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(
            f"{path} is not {what}: it holds binary data instead of text ({encoding}). Give the "
            "right file, or save it as plain text."
        )
    return text


def require_memory(path: str | os.PathLike[str], what: str, n_bytes: int) -> None:
    """Refuse to read `n_bytes` that the file cannot hold, or that do not fit into memory.

    Args:
        path: the file that declares them.
        what: they are, for the error, e.g. "an image of 64 x 64".
        n_bytes: in memory, after decompression.

    Raises:
        DataError: more than the file can hold however well it is compressed, or than is free.
    """
    size = Path(path).stat().st_size
    if n_bytes > _DENSEST * size + (1 << 16):
        raise DataError(
            f"{path} declares {what}, {_amount(n_bytes)}, and has only {_amount(size)}: its header "
            "is damaged, or most of it was never written. Copy or download it again."
        )
    require_free(path, what, n_bytes)


def require_free(path: str | os.PathLike[str], what: str, n_bytes: int) -> None:
    """Refuse to take `n_bytes` for what is in a file, where fewer are free: see `require_memory`.

    Raises:
        DataError: they do not fit into memory.
    """
    free = free_memory()
    if n_bytes > free:
        raise DataError(
            f"{path} holds {what}, {_amount(n_bytes)}, and {_amount(free)} of memory are free: "
            "split the file, or use a machine with more memory."
        )


def _amount(n_bytes: float) -> str:
    """A number of bytes for people."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.4g} {unit}"
    return f"{n_bytes:.0f} bytes"


def free_memory() -> float:
    """Bytes that can be allocated; where the system does not say, as much as one likes."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return 1024.0 * next(int(line.split()[1]) for line in file if "MemAvailable" in line)
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return float("inf")


def shown(value: object, most: int = 60) -> str:
    """A value of a card for an error: its `repr`, of bounded length."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def names(found: Iterable[object], most: int = 8) -> str:
    """A list of names for an error, of bounded length: 'a, b and 3 more', or 'nothing'."""
    every = [str(name) for name in found]
    shown = ", ".join(name if len(name) <= 40 else f"{name[:37]}..." for name in every[:most])
    return shown + (f" and {len(every) - most} more" if len(every) > most else "") or "nothing"


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
        DataError: it cannot be made, for want of permission or because a file is in its place; or
            its name is no text, which the libraries that write files refuse.
    """
    path = Path(path).expanduser()
    if not _is_text(str(path)):
        raise DataError(
            f"cannot write to {str(path)!r}: the folder's name is no UTF-8 text. Choose another."
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot write to {path}: {error.strerror}. Choose another folder."
        ) from error
    return path


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits.

    Example:
        >>> written = Path("notes.txt").write_text("abc")
        >>> sha256("notes.txt")[:16]
        'ba7816bf8f01cfea'
    """
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

"""PyTorch files of tensors and plain values: written atomically, read without running their code.

Not imported by `lmaps_science.io` itself, which does without PyTorch.
"""

from __future__ import annotations

import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmaps_science.io.files import DataError, atomic_write, require_file, require_memory

__all__ = ["read_tensors", "require_stored", "write_tensors"]

_SIGNATURES = (b"PK\x03\x04", b"\x80")  # a zip archive; a pickle, as before PyTorch 1.6


def write_tensors(path: str | os.PathLike[str], content: Any) -> None:
    """Write tensors, numbers, strings, and lists, tuples and dicts of them, atomically.

    Raises:
        DataError: the folder does not exist.
        OSError: the disk is full; `path` is then as it was before.
    """
    # Not by its name, of which PyTorch wants more than a suffix.
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)


def read_tensors(path: str | os.PathLike[str], advice: str = "") -> Any:
    """Read what `write_tensors`, or `torch.save`, wrote; tensors come on the CPU.

    NumPy scalars beside them, as of a training's best loss, come as Python numbers (from PyTorch
    2.6 on; before, files with them are refused).

    Args:
        path: the file.
        advice: a sentence that ends every complaint: what to do about the file.

    Raises:
        DataError: no such file; of another format; damaged; or holding more than plain data, which
            could run code.
    """
    path, advice = require_file(path), f" {advice}" if advice else ""
    with open(path, "rb") as file:
        start = file.read(4)
    if not start.startswith(_SIGNATURES):
        raise DataError(f"{path} was refused: it is no PyTorch file.{advice}")
    _check_archive(path, advice)
    try:
        with warnings.catch_warnings(), _numpy_scalars():  # of the pickle protocol of foreign files
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Not PyTorch's own words: they recommend to load it nevertheless.
        name = re.search(r"GLOBAL (\S+)", str(error))
        raise DataError(
            f"{path} was refused: it holds more than tensors and plain values"
            f"{f' ({name[1]})' if name else ''}, and loading that would run code stored inside."
            f"{advice}"
        ) from error
    except Exception as error:  # a parser says anything of a foreign file: it is unusable
        raise DataError(
            f"{path} is truncated, damaged or no PyTorch file, at {path.stat().st_size} bytes."
            f"{advice}"
        ) from error


def require_stored(path: Path, state: Mapping[str, Tensor], example: str) -> None:
    """Refuse weights that are not all in their file.

    Args:
        path: the file.
        state: what it gave, of any shapes; their sizes and strides may repeat a few numbers
            without end.
        example: how to save them anew.

    Raises:
        DataError: they are larger than the file, sparse, or on a device.
    """
    plain = all(v.layout == torch.strided and v.device.type == "cpu" for v in state.values())
    stored = path.stat().st_size
    if not plain or sum(v.numel() * v.element_size() for v in state.values()) > stored:
        raise DataError(
            f"{path} was refused: its tensors are larger than the file, or not stored in it. Save "
            f"the weights anew with {example}."
        )


def _check_archive(path: Path, advice: str) -> None:
    """Refuse archives that unpack to more than they hold: PyTorch compresses nothing."""
    if not zipfile.is_zipfile(path):
        return  # of PyTorch before 1.6, or damaged
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except Exception as error:  # a parser says anything of a foreign file: it is unusable
        raise DataError(
            f"{path} is a damaged PyTorch file: its index is broken.{advice}"
        ) from error
    if unpacked > path.stat().st_size:
        raise DataError(
            f"{path} was refused: it is compressed, as PyTorch's own files never are.{advice}"
        )
    require_memory(path, "tensors", unpacked)


# ---------------------------------------------------------------- NumPy scalars


class _NumberType:
    """What stands in for `numpy.dtype` while a file is read: code, such as f8, and byte order."""

    def __init__(self, code: str, *unused: Any):
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if isinstance(state, tuple) and state[1:2] == (">",) else "<"


_CODES = {"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I",
          "u8": "Q", "f2": "e", "f4": "f", "f8": "d"}  # fmt: skip


def _number(kind: Any, content: Any) -> bool | int | float:
    """What stands in for NumPy's function that makes a scalar: nothing of the file is run."""
    if not isinstance(kind, _NumberType) or kind.code not in _CODES:
        raise pickle.UnpicklingError("GLOBAL numpy.dtype of something else than a number")
    value: bool | int | float = struct.unpack(kind.order + _CODES[kind.code], content)[0]
    return value


def _numpy_scalars() -> AbstractContextManager[Any]:
    """Read NumPy's scalars by the functions above, where PyTorch lets names be replaced."""
    if torch.__version__ < "2.6":
        return nullcontext()
    replaced: list[Any] = [(_NumberType, "numpy.dtype")]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before NumPy 2, and since
        replaced.append((_number, f"{module}.scalar"))
    return torch.serialization.safe_globals(replaced)

"""PyTorch files of tensors and plain values: written atomically, read without running their code.

Not imported by `lmaps_science.io` itself, which does without PyTorch.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from lmaps_science.io.files import DataError, atomic_write, require_file, require_memory

__all__ = ["read_tensors", "write_tensors"]

_SIGNATURES = (b"PK\x03\x04", b"\x80")  # a zip archive; a pickle, as before PyTorch 1.6


def write_tensors(path: str | os.PathLike[str], content: Any) -> None:
    """Write tensors, numbers, strings, and lists, tuples and dicts of them, atomically.

    Raises:
        DataError: the folder does not exist.
        OSError: the disk is full; `path` is then as it was before.
    """
    with atomic_write(path) as temporary:
        torch.save(content, temporary)


def read_tensors(path: str | os.PathLike[str], advice: str = "") -> Any:
    """Read what `write_tensors`, or `torch.save`, wrote; tensors come on the CPU.

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
        with warnings.catch_warnings():  # of the pickle protocol of foreign files
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

"""PyTorch files of tensors and plain values: written atomically, read without running their code.

Not imported by `lmaps_science.io` itself, which does without PyTorch.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from typing import Any

import torch

from lmaps_science.io.files import DataError, atomic_write, require_file

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
        start = file.read(24)
    if not start.startswith(_SIGNATURES):
        raise DataError(
            f"{path} was refused: it is no PyTorch file, it begins with {start!r}.{advice}"
        )
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
            f"{path} is truncated, damaged or no PyTorch file: it has {path.stat().st_size} bytes "
            f"and begins with {start!r}.{advice}"
        ) from error

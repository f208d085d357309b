"""NumPy's `.npy` files of numbers, mapped into memory: what is not looked at is not read."""

from __future__ import annotations

import os

import numpy as np

from lmaps_science.io.files import DataError, require_file

__all__ = ["read_npy"]


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of a `.npy` file, read-only and mapped into memory.

    Raises:
        DataError: no such file, another kind of file, Python objects (which could run code), a
            shape that the file does not hold.

    Example:
        >>> np.save("scan.npy", np.ones((2, 4, 4), dtype=np.complex64))
        >>> read_npy("scan.npy").shape
        (2, 4, 4)
    """
    path = require_file(path)
    with open(path, "rb") as file:
        magic = file.read(6)
    try:
        # A negative or overflowing size makes NumPy say almost anything, some of it advice to
        # load the file unsafely.
        if magic != b"\x93NUMPY":
            raise ValueError("another format")
        with np.errstate(all="ignore"):
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.dtype.kind not in "biufc":
            raise ValueError("no numbers")
    except Exception as error:
        raise DataError(
            f"{path} is not a whole NumPy file of numbers, whose header and size agree: write it "
            "with np.save, or copy it again."
        ) from error
    return array

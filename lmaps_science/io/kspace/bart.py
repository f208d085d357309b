"""BART's files: complex64 in `name.cfl`, column by column, and up to 16 sizes in `name.hdr`."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from lmaps_science.io.files import DataError, atomic_write, read_text
from lmaps_science.io.kspace.arrays import Arrays

__all__ = ["open_cfl", "read_cfl", "write_cfl"]

_MOST_BYTES = 100_000  # of a header: some lines of comments and one of numbers
COIL, IMAGE_DIMS = 3, 3  # dimensions 0-2 are spatial, the next is that of the coils


def read_cfl(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of a `.cfl` file, read-only and mapped into memory, with BART's 16 dimensions.

    Raises DataError when the file or its header is missing, or when they do not fit together.

    Example:
        >>> write_cfl("scan", np.ones((4, 4, 1, 8), dtype=np.complex64))
        >>> read_cfl("scan.cfl").shape[:4]
        (4, 4, 1, 8)
    """
    data, header = _both(path)
    for part in (data, header):
        if not part.exists():
            raise DataError(f"{part}: no such file; a BART array is a .cfl and a .hdr together.")
    text = read_text(header, _MOST_BYTES, "a BART header", "latin-1").splitlines()
    lines = [line for line in text if line.strip() and not line.startswith("#")]
    try:
        sizes = [int(word) for word in lines[0].split()]
        good = len(sizes) <= 16 and all(0 < size < 2**63 for size in sizes)
    except (IndexError, ValueError):
        good = False
    if not good:
        raise DataError(
            f"{header}: expected a line of up to 16 positive whole numbers, the sizes of the "
            "dimensions, e.g. 256 256 1 8."
        )
    sizes = sizes + [1] * (16 - len(sizes))
    expected, have = 8 * math.prod(sizes), data.stat().st_size
    if expected != have:
        raise DataError(
            f"{data} has {have} bytes, its header's sizes {sizes} make {expected} (complex64): one "
            "of the two is truncated or from another array."
        )
    return np.memmap(data, dtype=np.complex64, mode="r", shape=tuple(sizes), order="F")


def _both(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The two files of an array, named with or without their suffix: `recon_0.2` is a name, too."""
    name = Path(path).expanduser()
    if name.suffix in (".cfl", ".hdr"):
        name = name.with_suffix("")
    return name.with_name(f"{name.name}.cfl"), name.with_name(f"{name.name}.hdr")


def write_cfl(path: str | os.PathLike[str], array: ArrayLike) -> None:
    """Write an array, its dimensions in BART's order, to `path` `.cfl` and `.hdr`.

    k-space (coils, H, W) becomes BART's by `kspace.transpose(1, 2, 0)[:, :, None]`: readout, phase
    encodings 1 and 2, coils. Raises DataError for more than 16 dimensions.

    Example:
        >>> write_cfl("scan", np.ones((4, 4, 1, 8), dtype=np.complex64))
    """
    values = np.asarray(array, dtype=np.complex64)
    if values.ndim > 16:
        raise DataError(f"a BART array has at most 16 dimensions, this one {values.ndim}.")
    sizes = [*values.shape, *[1] * (16 - values.ndim)]
    data, header = _both(path)
    with atomic_write(data) as temporary, open(temporary, "wb") as file:
        file.write(values.tobytes(order="F"))
    with atomic_write(header) as temporary:
        temporary.write_text("# Dimensions\n" + " ".join(map(str, sizes)) + "\n", encoding="ascii")


def open_cfl(path: Path) -> Arrays:
    """k-space of a `.cfl` file: two of its three spatial dimensions, coils, and at most one more.

    The slices are those of the further dimension (BART's 13, or any other).

    Raises:
        DataError: more dimensions than these, or a damaged file.
    """
    array = read_cfl(path)
    sizes = array.shape
    spatial = [d for d in range(IMAGE_DIMS) if sizes[d] > 1]
    further = [d for d in range(COIL + 1, len(sizes)) if sizes[d] > 1]
    if len(spatial) != 2 or len(further) > 1:
        raise DataError(
            f"{path} has sizes {list(sizes)}: expected two spatial dimensions (of 0 to 2) larger "
            "than 1, coils in dimension 3, and at most one more, the slices. Transform a volume "
            "along its third axis and take slices of it, e.g. with bart fft and bart slice."
        )
    order = [*further[:1], COIL, *spatial]
    moved = array.transpose(*order, *(d for d in range(len(sizes)) if d not in order))
    path = path.with_suffix(".cfl")
    return Arrays(path, "BART cfl", moved.reshape(moved.shape[: len(order)]))

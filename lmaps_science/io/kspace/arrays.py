"""k-space in array files, which are read (or mapped into memory) a slice at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lmaps_science.io.files import DataError, require_memory
from lmaps_science.io.kspace.slices import Source
from lmaps_science.io.npy import read_npy

__all__ = ["Arrays", "open_npy"]


class Arrays(Source):
    """Arrays that can be indexed slice by slice: of NumPy, memory-mapped, or HDF5 datasets.

    `kspace` is (slices, coils, H, W) or (coils, H, W), one slice; `maps` like it, or one set for
    all slices; `mask` (W,) or (H, W), for all slices.
    """

    def __init__(
        self,
        where: Path,
        format: str,
        kspace: Any,
        maps: Any = None,
        mask: Any = None,
        voxel_mm: tuple[float, float] | None = None,
        close: Callable[[], None] | None = None,
    ):
        if len(kspace.shape) not in (3, 4) or 0 in kspace.shape:
            raise DataError(
                f"{where}: k-space has shape {tuple(kspace.shape)}, expected (coils, H, W) or "
                "(slices, coils, H, W). Of a single coil add its axis, e.g. k[None]."
            )
        self._where = where
        self.format, self._kspace, self._companions = format, kspace, {"maps": maps, "mask": mask}
        self.length = kspace.shape[0] if len(kspace.shape) == 4 else 1
        self.shape = tuple(kspace.shape[-3:])
        self.voxel_mm, self._close = voxel_mm, close
        self.holds = ("kspace", *(n for n, a in self._companions.items() if a is not None))

    def read(self, index: int) -> dict[str, np.ndarray]:
        """K-space of a slice, and its maps and mask where there are any."""
        arrays = {"kspace": self._slice(self._kspace, index)}
        maps, mask = self._companions["maps"], self._companions["mask"]
        if maps is not None:
            arrays["maps"] = self._slice(maps, index)
        if mask is not None:
            self._check_size(mask.shape, mask.dtype, "a mask")
            arrays["mask"] = np.asarray(mask)
        return arrays

    def _slice(self, array: Any, index: int) -> np.ndarray:
        whole = len(array.shape) != 4
        self._check_size(array.shape if whole else array.shape[1:], array.dtype, "a slice")
        if not whole and len(array) not in (1, self.length):
            raise DataError(
                f"{self._where}: there are {len(array)} sets of coil maps for {self.length} "
                "slices; give one set, or one for each slice."
            )
        return np.asarray(array[()] if whole else array[index if len(array) > 1 else 0])

    def _check_size(self, shape: tuple[int, ...], dtype: np.dtype, what: str) -> None:
        sizes = " x ".join(map(str, shape))
        n_bytes = math.prod(map(int, shape)) * dtype.itemsize
        require_memory(self._where, f"{what} of {sizes} values", n_bytes)

    def close(self) -> None:
        """Close the file below, if there is one."""
        if self._close is not None:
            self._close()


def open_npy(path: Path) -> Arrays:
    """A NumPy file of k-space, mapped into memory."""
    return Arrays(path, "NumPy array", read_npy(path))

"""The LMDB databases of the InverseBench benchmark (Zheng et al. 2025)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from lmaps_science.io.files import DataError, require_memory
from lmaps_science.io.kspace.lmdb_pages import read_lmdb
from lmaps_science.io.kspace.slices import Source

__all__ = ["InverseBenchLMDB"]

PARTS = {"kspace": "kspace", "maps": "s_maps", "mvue": "mvue"}


class InverseBenchLMDB(Source):
    """A folder with databases `kspace/`, and of `s_maps/` and `mvue/` those there are.

    In each, key "0", "1", ... holds the bytes of one complex64 array: (coils, H, W), and of `mvue`
    (H, W). The shape is not stored: images are taken for square ones of the size of `mvue`, unless
    `shape` (H, W) says otherwise.
    """

    format = "InverseBench LMDB"

    def __init__(self, folder: Path, shape: tuple[int, int] | None):
        self._folder, self._databases = folder, _databases(folder)
        self.length = len(self._databases["kspace"])
        if self.length == 0:
            raise DataError(f"{folder / 'kspace'} holds no slice.")
        self.holds = tuple(self._databases)
        if shape is None:
            if "mvue" not in self._databases:
                raise DataError(
                    f"{folder} has no mvue/ to tell the size of an image: give shape=(H, W), e.g. "
                    "open_kspace(folder, shape=(320, 320))."
                )
            side = math.isqrt(self._values("mvue", 0).size)
            shape = (side, side)
        if min(shape) < 1:
            raise DataError(f"{folder}: images of {shape[0]} x {shape[1]} pixels hold nothing.")
        self._image_shape = shape
        self.shape = self._array("kspace", 0).shape

    def read(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of a slice, copied out of the databases."""
        arrays = {name: self._array(name, index) for name in self._databases}
        if "mvue" in arrays:
            arrays["mvue"] = arrays["mvue"][0]
        return arrays

    def _array(self, name: str, index: int) -> np.ndarray:
        values, (height, width) = self._values(name, index), self._image_shape
        if values.size % (height * width) or not values.size:
            raise DataError(
                f"{self._folder}, {name} {index} holds {values.size} complex numbers, which is no "
                f"multiple of {height} x {width}: give the images' shape, e.g. "
                "open_kspace(folder, shape=(320, 320))."
            )
        return values.reshape(-1, height, width)

    def _values(self, name: str, index: int) -> np.ndarray:
        value = self._databases[name].get(str(index).encode())
        if value is None or len(value) % 8:
            raise DataError(
                f"{self._folder}, {name} has no complex64 array under the key {index}: the keys "
                "are 0, 1, ... in each database."
            )
        require_memory(self._folder / PARTS[name] / "data.mdb", f"{name} {index}", len(value))
        return np.frombuffer(value.tobytes(), dtype=np.complex64)

    def close(self) -> None:
        """Let go of the databases."""
        self._databases = {}


def _databases(folder: Path) -> dict[str, dict[bytes, memoryview]]:
    found = {}
    for name, part in PARTS.items():
        if not (folder / part).is_dir():
            continue
        found[name] = read_lmdb(folder / part)
    if "kspace" not in found:
        raise DataError(
            f"{folder} is a folder without kspace/: expected InverseBench's, with the databases "
            "kspace/, s_maps/ and mvue/. Of other formats give the file."
        )
    return found

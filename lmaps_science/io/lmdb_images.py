"""Images in the LMDB databases of the InverseBench benchmark: bare numbers under decimal keys."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from lmaps_science.io.files import DataError, names, require_memory
from lmaps_science.io.kspace.lmdb_pages import read_lmdb

__all__ = ["LMDBImages", "is_lmdb"]


def is_lmdb(path: str | os.PathLike[str]) -> bool:
    """Whether this is a folder with an LMDB database."""
    return (Path(path).expanduser() / "data.mdb").is_file()


class LMDBImages:
    """Square images (H, H) in a folder's database, read when they are asked for.

    The keys are "0", "1", …, and a value is the bytes of one array; neither shape nor type of
    number is stored. `len(images)`, `images.ids` (the keys, sorted), `images[id]`.

    Args:
        folder: with `data.mdb`.
        dtype: of the numbers: the benchmark's are float32 for scattering, float64 for black holes.

    Raises:
        DataError: no such database, a damaged one, or one without any decimal key.

    Example:
        image = LMDBImages("inv-scatter-test")[3]
    """

    def __init__(self, folder: str | os.PathLike[str], dtype: DTypeLike = np.float32):
        self.folder, self.dtype = Path(folder).expanduser(), np.dtype(dtype)
        self._values = read_lmdb(self.folder)
        self.ids = sorted(int(key) for key in self._values if _is_id(key))
        if not self.ids:
            raise DataError(
                f"{self.folder} holds no image under the keys 0, 1, …: its keys are "
                f"{names(key.decode('ascii', 'replace') for key in self._values)}."
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, item: int) -> np.ndarray:
        """The image (H, H) under the key `item`, as it is stored.

        Raises:
            DataError: no such key, a value that makes no square image, or values that are not
                finite.
        """
        value = self._values.get(str(item).encode())
        if value is None:
            raise DataError(
                f"{self.folder} holds no image {item}: its {len(self)} keys go from {self.ids[0]} "
                f"to {self.ids[-1]}."
            )
        count, rest = divmod(len(value), self.dtype.itemsize)
        side = int(np.sqrt(count))
        if rest or count == 0 or side * side != count:
            raise DataError(
                f"{self.folder}, image {item}: {len(value)} bytes are no square image of "
                f"{self.dtype}."
            )
        require_memory(self.folder / "data.mdb", f"image {item}", len(value))
        image = np.frombuffer(value.tobytes(), self.dtype).reshape(side, side)
        if not np.isfinite(image).all():
            raise DataError(f"{self.folder}, image {item}: its values are not all finite.")
        return image


def _is_id(key: bytes) -> bool:
    """Whether a key is a number as `str` writes it, without leading zeros."""
    return key.isdigit() and len(key) <= 9 and str(int(key)).encode() == key

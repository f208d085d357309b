"""One slice of k-space like another: what a source of any format gives, checked and labelled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr
from scipy import fft

from lmaps_science.io.files import DataError

__all__ = ["CROP", "KSpaceFile", "Source", "checked_kspace"]

CROP = (320, 320)  # the benchmark's image size


class Source:
    """The arrays of a file. A subclass writes `read`, and `close` where it holds something open.

    Attributes:
        format: its name.
        length: number of slices.
        shape: (coils, H, W) of a slice, H along the readout and W along the phase encoding.
        voxel_mm: size of a voxel along H and W, where the file has it.
        noise: a noise scan (coils, samples), where there is one.
        holds: what a slice comes with: "kspace", and of "maps", "mask", "mvue" those there are.
    """

    format: str
    length: int
    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float] | None = None
    noise: np.ndarray | None = None
    holds: tuple[str, ...] = ("kspace",)

    def read(self, index: int) -> dict[str, np.ndarray]:
        """The arrays of slice `index`, named as in `holds`."""
        raise NotImplementedError(f"{type(self).__name__} must define read(index).")

    def close(self) -> None:
        """Let go of the file."""


class KSpaceFile:
    """Slices of k-space in a file: `len(file)`, `file[i]`, iteration; a context manager.

    Each is an xr.Dataset, read when it is asked for, with

        kspace  (coil, y, x)  complex64, centred: the zero frequency is sample n // 2
        maps    (coil, y, x)  complex64 coil maps, where the file (or that of `maps`) holds them
        mask    (y, x)        bool, the acquired samples, where the file says
        mvue    (y, x)        complex64 image, where the file holds it

    y along the readout, x along the phase encoding for the formats that know it. The coordinates
    y and x, where the voxels' size is known, are those of the image in mm, 0 at pixel n // 2.

    Attributes: `shape` (coils, H, W) of a slice, `voxel_mm` along (y, x) or None, `noise` a noise
    scan (coils, samples) or None, `format`, `path`.

    A slice raises IndexError when there is no such slice, and DataError for k-space that is real,
    not finite, zero everywhere or damaged, and for maps or a mask that do not fit it.

    Example:
        >>> import numpy as np
        >>> from lmaps_science.io import open_kspace
        >>> np.save("scan.npy", np.ones((3, 8, 16, 16), dtype=np.complex64))
        >>> scan = open_kspace("scan.npy")
        >>> [part.sizes["coil"] for part in scan]
        [8, 8, 8]
    """

    def __init__(self, path: Path, source: Source, maps: Source | None = None, crop: bool = False):
        self.path, self._source, self._maps, self._crop = path, source, maps, crop
        self.format, self.noise = source.format, source.noise
        coils, height, width = source.shape
        self.shape = (coils, *CROP) if crop else source.shape
        self.voxel_mm = source.voxel_mm
        if crop and self.voxel_mm is not None:  # fewer phase encodings: the same field of view
            self.voxel_mm = (self.voxel_mm[0], self.voxel_mm[1] * width / CROP[1])
        if maps is not None and (maps.shape != source.shape or maps.length not in (1, len(self))):
            raise DataError(
                f"{path} holds {len(self)} slice(s) of {coils} coils, {height} x {width}; the file "
                f"of maps {maps.length} of {maps.shape[0]} coils, {maps.shape[1]} x "
                f"{maps.shape[2]}. Give maps of the same shape, one set or one for each slice."
            )

    def __len__(self) -> int:
        return self._source.length

    def __iter__(self) -> Iterator[xr.Dataset]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> xr.Dataset:
        if not -len(self) <= index < len(self):
            raise IndexError(
                f"{self.path} holds {len(self)} slice(s), 0 to {len(self) - 1}; there is no slice "
                f"{index}."
            )
        index = index % len(self)
        where = f"{self.path}, slice {index}"
        try:
            arrays = self._source.read(index)
            if self._maps is not None:
                arrays["maps"] = self._maps.read(index % self._maps.length)["kspace"]
        except DataError:
            raise
        except Exception as error:  # HDF5 says many things of damage
            raise DataError(
                f"{where} is damaged ({type(error).__name__}): copy or download it again."
            ) from error
        arrays["kspace"] = checked_kspace(where, arrays["kspace"])
        _check_companions(where, arrays)
        if self._crop and self._source.shape[1:] != CROP:
            arrays = _benchmark_crop(where, arrays)
        return self._labelled(index, arrays)

    def _labelled(self, index: int, arrays: dict[str, np.ndarray]) -> xr.Dataset:
        dims = {2: ("y", "x"), 3: ("coil", "y", "x")}
        data = {name: (dims[array.ndim], array) for name, array in arrays.items()}
        attrs: dict[str, Any] = {"source": str(self.path), "format": self.format, "slice": index}
        dataset = xr.Dataset(data, attrs=attrs)
        if self.voxel_mm is not None:
            for axis, size in zip("yx", self.voxel_mm, strict=True):
                n = dataset.sizes[axis]
                values = (np.arange(n) - n // 2) * size
                dataset = dataset.assign_coords({axis: (axis, values, {"units": "mm"})})
        return dataset

    def close(self) -> None:
        """Close the file; slices already read stay."""
        self._source.close()
        if self._maps is not None:
            self._maps.close()

    def __enter__(self) -> KSpaceFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        coils, height, width = self.shape
        holds = [n for n in self._source.holds if n != "kspace"] + ["maps"] * bool(self._maps)
        extras = f", with {', '.join(sorted(set(holds)))}" if holds else ""
        return (
            f"KSpaceFile({str(self.path)!r}, {self.format}: {len(self)} slice(s) of {coils} "
            f"coil(s), {height} x {width}{extras})"
        )


def checked_kspace(where: str, kspace: np.ndarray) -> np.ndarray:
    """complex64 k-space of any shape; DataError when it is real, not finite, or zero everywhere."""
    if not np.iscomplexobj(kspace):
        raise DataError(
            f"{where}: k-space has dtype {kspace.dtype}, expected a complex one. Of pairs of real "
            "numbers in the last axis make it by k[..., 0] + 1j * k[..., 1]; an image is not "
            "k-space."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        kspace = np.ascontiguousarray(kspace, dtype=np.complex64)
    bad = ~np.isfinite(kspace)
    if bad.any():
        raise DataError(
            f"{where}: {bad.sum()} of {bad.size} k-space values are not finite, the first at "
            f"(coil, y, x) = {tuple(int(i) for i in np.argwhere(bad)[0])}."
        )
    if not kspace.any():
        raise DataError(f"{where}: k-space is zero everywhere: nothing was measured.")
    return kspace


def _check_companions(where: str, arrays: dict[str, np.ndarray]) -> None:
    """Bring maps, mask and mvue to their dtypes and shapes, or raise DataError."""
    coils, height, width = arrays["kspace"].shape
    if "maps" in arrays:
        maps = arrays["maps"]
        if maps.shape != (coils, height, width) or not np.iscomplexobj(maps):
            raise DataError(
                f"{where}: the maps have shape {maps.shape} and dtype {maps.dtype}, the k-space "
                f"{coils} coils of {height} x {width}; expected complex maps of the same shape."
            )
        arrays["maps"] = np.ascontiguousarray(maps, dtype=np.complex64)
    if "mask" in arrays:
        mask = np.asarray(arrays["mask"])
        if mask.dtype.kind not in "biuf":
            raise DataError(f"{where}: the mask has dtype {mask.dtype}, expected 0 and 1.")
        if mask.ndim == 1:
            mask = mask[None]  # a line mask of fastMRI: one value for each column
        if mask.ndim != 2 or mask.shape[0] not in (1, height) or mask.shape[1] not in (1, width):
            raise DataError(
                f"{where}: the mask has shape {arrays['mask'].shape}, expected ({width},), one "
                f"value for each column of k-space, or ({height}, {width})."
            )
        arrays["mask"] = np.broadcast_to(mask != 0, (height, width)).copy()
    if "mvue" in arrays:
        if arrays["mvue"].size != height * width:
            raise DataError(
                f"{where}: the image mvue has {arrays['mvue'].size} pixels, the k-space {height} x "
                f"{width}; expected an image of the same size."
            )
        arrays["mvue"] = np.asarray(arrays["mvue"], dtype=np.complex64).reshape(height, width)


# ---------------------------------------------------------------- the benchmark's crop


def _benchmark_crop(where: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """320 x 320: columns of k-space around its centre, and rows of the image around its.

    Orthonormal transforms on both grids, as in the benchmark: maps come out sqrt(W / 320) times as
    large, where W columns were cropped.
    """
    rows, columns = CROP
    cropped = {"kspace": _rows(_resized(arrays["kspace"], -1, columns), rows)}
    if "maps" in arrays:
        spectrum = _resized(_transform(arrays["maps"], fft.fft, -1), -1, columns)
        cropped["maps"] = _resized(_transform(spectrum, fft.ifft, -1), -2, rows)
    if "mask" in arrays:
        mask = arrays["mask"]
        if not (mask == mask[:1]).all():
            raise DataError(
                f"{where}: the mask is not made of whole columns, and rows are cropped in image "
                "space: what was sampled cannot be told after. Read it without the crop."
            )
        cropped["mask"] = np.repeat(_resized(mask[:1], -1, columns), rows, axis=0)
    if "mvue" in arrays:
        image = _resized(_transform(arrays["mvue"], fft.fft, -1), -1, columns)
        cropped["mvue"] = _resized(_transform(image, fft.ifft, -1), -2, rows)
    return cropped


def _rows(kspace: np.ndarray, rows: int) -> np.ndarray:
    image = _resized(_transform(kspace, fft.ifft, -2), -2, rows)
    return _transform(image, fft.fft, -2)


def _transform(x: np.ndarray, transform: Any, axis: int) -> np.ndarray:
    """A centred orthonormal transform along one axis."""
    shifted = fft.ifftshift(x, axes=axis)
    return np.ascontiguousarray(fft.fftshift(transform(shifted, axis=axis, norm="ortho"), axis))


def _resized(x: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Cropped or zero-padded along an axis, with sample n // 2 staying at the centre."""
    n = x.shape[axis]
    shift = size // 2 - n // 2
    kept = np.arange(max(0, -shift), min(n, size - shift))
    shape = list(x.shape)
    shape[axis] = size
    out = np.zeros(shape, dtype=x.dtype)
    np.moveaxis(out, axis, 0)[kept + shift] = np.moveaxis(x, axis, 0)[kept]
    return out

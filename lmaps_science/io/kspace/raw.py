"""ISMRMRD files: a header, and one acquisition for each readout of the scanner."""

from __future__ import annotations

import itertools
import math
import struct
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lmaps_science.io.files import DataError, require_memory
from lmaps_science.io.hdf5 import MOST_SCANNED, array, check_lengths, open_hdf5_file, text
from lmaps_science.io.kspace.slices import Source

__all__ = ["ISMRMRD", "MOST_HEADER"]

MOST_HEADER = 1_000_000  # bytes of XML
# What tells one image of a scan from another; averages of the same line are averaged.
IMAGE_COUNTERS = ("slice", "contrast", "phase", "repetition", "set")


class ISMRMRD(Source):
    """Cartesian 2-D acquisitions of an ISMRMRD HDF5 file, through the library `ismrmrd`.

    Each combination of slice, contrast, phase, repetition and set is a slice here, in this order.
    A readout lies along H with its centre sample at H // 2; its line along W with the centre line
    at W // 2, on the grid of the encoded space. `mask` says which samples were acquired; repeated
    ones (averages) are averaged. Calibration lines count unless they came from a separate scan;
    navigators, phase corrections and dummy scans do not. `noise` is that of the noise scans.

    Only the headers are read when the file is opened.
    """

    format = "ISMRMRD HDF5"
    holds = ("kspace", "mask")

    def __init__(self, path: Path, group: str):
        self._path, self._library = path, _ismrmrd()
        _check_group(path, group)
        self._file = self._library.File(str(path), mode="r")
        try:
            with warnings.catch_warnings():  # of numbers in the header that are none
                warnings.simplefilter("ignore")
                self._index(group)
        except BaseException as error:
            self._file.close()
            if isinstance(error, DataError) or not isinstance(error, Exception):
                raise
            raise DataError(  # the library says almost anything of what it does not expect
                f"{path}, {group} holds no ISMRMRD acquisitions with a header that can be read "
                f"({type(error).__name__}): it is damaged or of another program. Copy it again, or "
                "convert it with the tools of ismrmrd."
            ) from error

    def _index(self, group: str) -> None:
        dataset = self._file[group]
        if not dataset.has_header() or not dataset.has_acquisitions():
            raise DataError(f"{self._path}, {group} lacks the header or the acquisitions.")
        encoding = dataset.header.encoding[0]
        trajectory = str(getattr(encoding.trajectory, "value", encoding.trajectory))
        if trajectory != "cartesian":
            raise DataError(
                f"{self._path} was acquired on a {trajectory} trajectory; a slice on a grid needs "
                "a Cartesian one. Reconstruct others with physics.mri.NonCartesianMRI."
            )
        self._acquisitions = dataset.acquisitions
        heads = self._acquisitions.data["head"]
        images = self._sort(heads, dataset.header)
        space = encoding.encodedSpace
        if len(np.unique(heads["idx"]["kspace_encode_step_2"][images])) > 1:
            raise DataError(
                f"{self._path} is a 3-D acquisition; transform it along its third axis first and "
                "save the slices, e.g. as .npy (slices, coils, H, W)."
            )
        coils = np.unique(heads["active_channels"][images])
        if len(coils) != 1:
            raise DataError(f"{self._path} has acquisitions of {coils.tolist()} coils; expected 1.")
        height, width = int(space.matrixSize.x), int(space.matrixSize.y)
        self.shape = (int(coils[0]), height, width)
        if min(self.shape) < 1:
            raise DataError(f"{self._path} declares slices of {self.shape} (coils, H, W): empty.")
        what = f"slices of {coils[0]} coils, {height} x {width}"
        require_memory(self._path, what, 8 * math.prod(self.shape))
        fov = space.fieldOfView_mm
        if 0 < fov.x < math.inf and 0 < fov.y < math.inf:
            self.voxel_mm = (float(fov.x) / height, float(fov.y) / width)
        limits = getattr(encoding.encodingLimits, "kspace_encoding_step_1", None)
        self._centre_line = width // 2 if limits is None else int(limits.center)

    def _sort(self, heads: np.ndarray, header: Any) -> np.ndarray:
        """Find the noise scans and the acquisitions of each image; all of these as indices."""
        flags = np.asarray(heads["flags"], dtype=np.uint64)
        noise = np.flatnonzero(self._flagged(flags, "NOISE_MEASUREMENT"))
        if len(noise):
            self.noise = np.concatenate([self._acquisitions[int(i)].data for i in noise], axis=1)
        other = ["NOISE_MEASUREMENT", "NAVIGATION_DATA", "PHASECORR_DATA", "DUMMYSCAN_DATA"]
        other += ["HPFEEDBACK_DATA", "RTFEEDBACK_DATA", "SURFACECOILCORRECTIONSCAN_DATA"]
        parallel = header.encoding[0].parallelImaging
        mode = getattr(parallel, "calibrationMode", None)
        if str(getattr(mode, "value", mode)) in ("separate", "external"):
            other.append("PARALLEL_CALIBRATION")
        keep = ~np.any([self._flagged(flags, name) for name in other], axis=0)
        images = np.flatnonzero(keep)
        if not len(images):
            raise DataError(f"{self._path} holds no acquisition of an image.")
        keys = np.stack([heads["idx"][name][images] for name in IMAGE_COUNTERS], axis=1)
        _, which = np.unique(keys, axis=0, return_inverse=True)
        which = which.reshape(-1)
        order, counts = np.argsort(which, kind="stable"), np.bincount(which)
        self._members = np.split(images[order], np.cumsum(counts)[:-1])
        self.length = len(self._members)
        return images

    def _flagged(self, flags: np.ndarray, name: str) -> np.ndarray:
        bit = int(getattr(self._library, f"ACQ_IS_{name}")) - 1  # the library counts from 1
        return (flags >> np.uint64(bit)) & np.uint64(1) == 1

    def read(self, index: int) -> dict[str, np.ndarray]:
        """k-space and mask of an image, from its acquisitions."""
        kspace = np.zeros(self.shape, dtype=np.complex64)
        count = np.zeros(self.shape[1:], dtype=np.int32)
        for i in self._members[index]:
            acquisition = self._acquisitions[int(i)]
            rows, column = self._place(acquisition)
            samples = acquisition.data
            if acquisition.is_flag_set(self._library.ACQ_IS_REVERSE):
                samples = samples[:, ::-1]
            with np.errstate(all="ignore"):  # what is not finite is refused later
                kspace[:, rows, column] += samples
            count[rows, column] += 1
        with np.errstate(all="ignore"):
            return {"kspace": kspace / np.maximum(count, 1), "mask": count > 0}

    def _place(self, acquisition: Any) -> tuple[slice, int]:
        """Where a readout goes: its rows, and its column."""
        _, height, width = self.shape
        start = height // 2 - acquisition.center_sample
        column = acquisition.idx.kspace_encode_step_1 - self._centre_line + width // 2
        stop = start + acquisition.number_of_samples
        if start < 0 or stop > height or not 0 <= column < width:
            raise DataError(
                f"{self._path}: a readout lies on samples {start} to {stop - 1} of line {column}, "
                f"outside of the header's encoded space, {height} x {width}."
            )
        return slice(start, stop), column

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _check_group(path: Path, group: str) -> None:
    """What the library takes for granted: acquisitions in `data`, and an XML text in `xml`."""
    objects = check_lengths(path)
    with open_hdf5_file(path) as file:
        data, xml = array(file, f"{group}/data"), text(file, f"{group}/xml", MOST_HEADER)
        columns = data.dtype.names or () if data is not None else ()
        if (
            data is None
            or xml is None
            or not {"head", "traj", "data"} <= set(columns)
            or data.ndim != 1
        ):
            raise DataError(
                f"{path}, {group} lacks the header (`xml`) or the acquisitions (`data`, one row of "
                "`head`, `traj` and `data` for each readout): it is no ISMRMRD file of raw data."
            )
        require_memory(path, f"{data.size} acquisitions", data.size * data.dtype.itemsize)
        try:
            sound = _sound_types(data.dtype) and _sound_rows(path, data, objects)
        except Exception:
            sound = False
        if not sound:
            raise DataError(
                f"{path}, {group}: the acquisitions are damaged: copy or download the file again."
            )
        # Entities can name other files, and grow without end.
        if b"<!DOCTYPE" in xml or b"<!ENTITY" in xml:
            raise DataError(
                f"{path}, {group}: the header has a document type of its own, which is not read. "
                "Write it anew as plain XML."
            )


def _sound_types(row: np.dtype) -> bool:
    """Whether a row is made like the library's; it may be laid out otherwise, without overlaps."""
    from ismrmrd.hdf5 import acquisition_header_dtype as header

    head = row["head"]
    fields = header.names or ()
    same = head.names == fields and all(head[name] == header[name] for name in fields)
    ends = sorted((at, at + kind.itemsize) for kind, at, *_ in (head.fields or {}).values())
    apart = all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))
    numbers = [h5py.check_vlen_dtype(row[name]) for name in ("traj", "data")]
    return same and apart and all(kind == np.float32 for kind in numbers)


def _sound_rows(path: Path, data: Any, objects: dict[int, dict[int, int]]) -> bool:
    """Whether each readout is as long as its row says; large files are taken as they are.

    HDF5 believes the length, and allocates gigabytes or writes beyond what it has allocated.
    """
    size = path.stat().st_size
    if data.id.get_create_plist().get_nfilters() or size > MOST_SCANNED:
        return True
    places: list[tuple[int, int]] = []
    if data.chunks is None:
        places.append((data.id.get_offset() or 0, data.id.get_storage_size()))
    else:
        data.id.chunk_iter(lambda chunk: places.append((chunk.byte_offset, chunk.size)))
    content, row = path.read_bytes(), data.dtype.itemsize
    columns = [data.dtype.fields[name][1] for name in ("traj", "data")]
    for start, length in places:
        if start + length > size:
            return False
        for at in (s + c for s in range(start, start + length - row + 1, row) for c in columns):
            values, place, index = struct.unpack_from("<IQI", content, at)
            if 4 * values != (objects.get(place, {}).get(index, -1) if values else 0):
                return False
    return True


def _ismrmrd() -> Any:
    try:
        import ismrmrd
    except ImportError as error:
        raise ImportError(
            "Reading ISMRMRD files needs ismrmrd: pip install 'lmaps-science[mri]'."
        ) from error
    return ismrmrd

import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from lmaps_science.io import (
    DataError,
    KSpaceFile,
    open_kspace,
    read_cfl,
    write_cfl,
    write_nifti,
)
from lmaps_science.physics.coils import mvue

HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xmlns:xs="http://www.w3.org/2001/XMLSchema">
 <experimentalConditions><H1resonanceFrequency_Hz>128000000</H1resonanceFrequency_Hz>
 </experimentalConditions>
 <encoding>
  <encodedSpace><matrixSize><x>12</x><y>8</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>24</x><y>12</y><z>5</z></fieldOfView_mm></encodedSpace>
  <reconSpace><matrixSize><x>6</x><y>8</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>12</x><y>12</y><z>5</z></fieldOfView_mm></reconSpace>
  <encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>7</maximum>
   <center>4</center></kspace_encoding_step_1></encodingLimits>
  <trajectory>TRAJECTORY</trajectory>
 </encoding>
</ismrmrdHeader>"""


def kspace(*shape: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    k = random.standard_normal((2, *shape))
    return (k[0] + 1j * k[1]).astype(np.complex64)


def write_fastmri(path: Path, k: np.ndarray, **datasets: object) -> Path:
    with h5py.File(path, "w") as file:
        file["kspace"] = k
        for name, value in datasets.items():
            file[name] = value
    return path


def check_slices(file: KSpaceFile, k: np.ndarray) -> None:
    """A file of slices `k` (slices, coils, H, W) behaves as a sequence of them."""
    assert len(file) == len(k)
    assert file.shape == k.shape[1:]
    for i, item in enumerate(file):
        assert item["kspace"].dims == ("coil", "y", "x")
        assert item["kspace"].dtype == np.complex64
        np.testing.assert_allclose(item["kspace"].values, k[i], rtol=1e-6)
        assert item.attrs["slice"] == i
    np.testing.assert_array_equal(file[-1]["kspace"].values, file[len(k) - 1]["kspace"].values)
    with pytest.raises(IndexError, match=f"there is no slice {len(k)}"):
        file[len(k)]
    assert f"{len(k)} slice(s) of {k.shape[1]} coil(s)" in repr(file)


# ---------------------------------------------------------------- formats


def test_fastmri(tmp_path):
    k, maps = kspace(3, 4, 12, 9), kspace(3, 4, 12, 9, seed=1)
    lines = np.arange(9) % 2 == 0
    header = HEADER.replace("TRAJECTORY", "cartesian")
    path = tmp_path / "scan.h5"
    write_fastmri(path, k, s_maps=maps, mask=lines.astype(np.float32), ismrmrd_header=header)
    with open_kspace(path) as file:
        check_slices(file, k)
        item = file[1]
    np.testing.assert_array_equal(item["maps"].values, maps[1])
    np.testing.assert_array_equal(item["mask"].values, np.tile(lines, (12, 1)))
    assert file.voxel_mm == pytest.approx((2.0, 12 / 9))
    assert item["x"].attrs["units"] == "mm"
    assert float(item["y"][12 // 2]) == 0
    with open_kspace(write_fastmri(tmp_path / "bare.h5", k)) as file:
        check_slices(file, k)
        assert set(file[0]) == {"kspace"}
        assert file.voxel_mm is None


def test_slices_are_read_one_at_a_time(tmp_path):
    """Damage in one slice of a compressed file leaves the others readable."""
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        data = kspace(3, 2, 16, 16)
        chunks = file.create_dataset("kspace", data=data, chunks=(1, 2, 16, 16), compression="gzip")
        chunk = chunks.id.get_chunk_info(1)
    raw = bytearray(path.read_bytes())
    raw[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(raw)
    with open_kspace(path) as file:
        np.testing.assert_array_equal(file[0]["kspace"].values, data[0])
        np.testing.assert_array_equal(file[2]["kspace"].values, data[2])
        with pytest.raises(DataError, match="slice 1 is damaged"):
            file[1]


def huge_fastmri(path, shape):
    with h5py.File(path / "scan.h5", "w") as file:
        file.create_dataset("kspace", shape, np.complex64, chunks=(1, *shape[1:]))[700] = 1j
    return path / "scan.h5"


def huge_contiguous_hdf5(path, shape):
    with h5py.File(path / "scan.h5", "w") as file:
        file.create_dataset("kspace", shape, np.complex64)[700] = 1j
    return path / "scan.h5"


def huge_npy(path, shape):
    array = np.lib.format.open_memmap(path / "k.npy", "w+", np.complex64, shape)
    array[700] = 1j
    return path / "k.npy"


def huge_bart(path, shape):
    slices, coils, height, width = shape
    (path / "k.hdr").write_text(f"# Dimensions\n{height} {width} 1 {coils} {slices}\n")
    with open(path / "k.cfl", "wb") as file:
        file.truncate(8 * int(np.prod(shape)))
        file.seek(8 * 700 * coils * height * width)
        file.write(np.full(shape[1:], 1j, np.complex64).tobytes())
    return path / "k.cfl"


@pytest.mark.parametrize("write", [huge_fastmri, huge_contiguous_hdf5, huge_npy, huge_bart])
def test_a_volume_of_10_gb_is_never_loaded(tmp_path, write):
    """The files are sparse: what was not written takes no room on the disk."""
    shape = (1600, 8, 320, 320)
    path = write(tmp_path, shape)
    if path.stat().st_blocks * 512 > 1e9:
        pytest.skip("this file system has no sparse files")
    tracemalloc.start()
    with open_kspace(path) as file:
        assert (len(file), *file.shape) == shape
        item = file[700]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (item["kspace"] == 1j).all()
    assert peak < 5 * item["kspace"].nbytes  # of 6.6 MB


@pytest.mark.parametrize("shape", [(3, 8, 7), (2, 3, 8, 7)])
def test_npy(tmp_path, shape):
    k = kspace(*shape)
    np.save(tmp_path / "k.npy", k.astype(np.complex128))
    with open_kspace(tmp_path / "k.npy") as file:
        check_slices(file, k if k.ndim == 4 else k[None])


def test_measured_slice(data_dir):
    path = data_dir / "mri" / "brain_8ch_kspace.npy"
    with open_kspace(path) as file:
        assert (len(file), *file.shape) == (1, 8, 230, 180)
        np.testing.assert_array_equal(file[0]["kspace"].values, np.load(path))


def test_bart(tmp_path):
    k = kspace(5, 3, 8, 7)  # slices, coils, readout, phase
    write_cfl(tmp_path / "k", k.transpose(2, 3, 1, 0)[:, :, None].reshape(8, 7, 1, 3, *[1] * 9, 5))
    assert (tmp_path / "k.hdr").read_text().split("\n")[1].startswith("8 7 1 3 1")
    # column by column: the first numbers of the file run along the readout
    first = np.fromfile(tmp_path / "k.cfl", dtype=np.complex64, count=8)
    np.testing.assert_array_equal(first, k[0, 0, :, 0])
    for name in ("k.cfl", "k.hdr"):
        with open_kspace(tmp_path / name) as file:
            check_slices(file, k)
    assert read_cfl(tmp_path / "k").shape == (8, 7, 1, 3, *[1] * 9, 5, 1, 1)
    write_cfl(tmp_path / "yz", k[0].transpose(1, 2, 0)[None])  # both phase encodings
    with open_kspace(tmp_path / "yz.cfl") as file:
        check_slices(file, k[:1])


def test_inversebench(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    k, maps, image = kspace(2, 3, 8, 8), kspace(2, 3, 8, 8, seed=1), kspace(2, 8, 8, seed=2)
    for name, values in (("kspace", k), ("s_maps", maps), ("mvue", image)):
        database = lmdb.open(str(tmp_path / name), map_size=1 << 20)
        with database.begin(write=True) as transaction:
            for i, value in enumerate(values):
                transaction.put(str(i).encode(), value.tobytes())
        database.close()
    with open_kspace(tmp_path) as file:
        check_slices(file, k)
        item = file[1]
    np.testing.assert_array_equal(item["maps"].values, maps[1])
    np.testing.assert_array_equal(item["mvue"].values, image[1])
    with open_kspace(tmp_path, shape=(4, 16)) as file:
        check_slices(file, k.reshape(2, 3, 4, 16))
    with pytest.raises(DataError, match="no multiple of 5 x 5"):
        open_kspace(tmp_path, shape=(5, 5))
    (tmp_path / "mvue").rename(tmp_path / "other")
    with pytest.raises(DataError, match=r"no mvue/.*shape="):
        open_kspace(tmp_path)


def write_ismrmrd(path: Path, readouts: list[dict], trajectory: str = "cartesian") -> Path:
    ismrmrd = pytest.importorskip("ismrmrd")
    dataset = ismrmrd.Dataset(str(path), "dataset", create_if_needed=True)
    dataset.write_xml_header(HEADER.replace("TRAJECTORY", trajectory).encode())
    for readout in readouts:
        acquisition = ismrmrd.Acquisition.from_array(readout["data"])
        acquisition.center_sample = readout.get("centre", 6)
        for counter in ("kspace_encode_step_1", "slice", "average"):
            setattr(acquisition.idx, counter, readout.get(counter, 0))
        for flag in readout.get("flags", ()):
            acquisition.set_flag(getattr(ismrmrd, flag))
        dataset.append_acquisition(acquisition)
    dataset.close()
    return path


def test_ismrmrd(tmp_path):
    k, scan = kspace(2, 3, 12, 8), kspace(3, 100, seed=3)
    readouts = [{"data": scan, "flags": ["ACQ_IS_NOISE_MEASUREMENT"]}]
    for s in (1, 0):
        for line in range(8):
            if s == 1 and line == 2:
                continue  # not acquired
            data = np.ascontiguousarray(k[s, :, :, line])
            readouts.append({"data": data, "kspace_encode_step_1": line, "slice": s})
    readouts[4]["data"] = np.ascontiguousarray(readouts[4]["data"][:, ::-1])
    readouts[4]["flags"] = ["ACQ_IS_REVERSE"]
    readouts.append({"data": kspace(3, 12), "flags": ["ACQ_IS_NAVIGATION_DATA"]})
    # a partial echo, and two averages that differ by +-1
    readouts[8]["data"], readouts[8]["centre"] = np.ascontiguousarray(k[0, :, 2:, 0]), 4
    again = {**readouts[10], "data": readouts[10]["data"] + 1, "average": 1}
    readouts[10] = {**readouts[10], "data": readouts[10]["data"] - 1}
    expected = k.copy()
    expected[1, :, :, 2] = 0
    expected[0, :, :2, 0] = 0
    with open_kspace(write_ismrmrd(tmp_path / "scan.mrd", [*readouts, again])) as file:
        assert file.format == "ISMRMRD HDF5"
        np.testing.assert_allclose(file[0]["kspace"].values, expected[0], atol=1e-6)
        np.testing.assert_array_equal(file[1]["kspace"].values, expected[1])
        np.testing.assert_array_equal(file[1]["mask"].values, (expected[1] != 0).any(0))
        np.testing.assert_array_equal(file.noise, scan)
        assert file.voxel_mm == (2.0, 1.5)
    outside = [{"data": kspace(3, 12), "kspace_encode_step_1": 9}]
    file = open_kspace(write_ismrmrd(tmp_path / "outside.h5", outside))
    with pytest.raises(DataError, match="outside of the header's encoded space"):
        file[0]
    file.close()
    with pytest.raises(DataError, match="radial trajectory"):
        open_kspace(write_ismrmrd(tmp_path / "radial.h5", readouts[1:], "radial"))
    with pytest.raises(DataError, match="no acquisition of an image"):
        open_kspace(write_ismrmrd(tmp_path / "noise.h5", readouts[:1]))


# ---------------------------------------------------------------- maps, crop


def test_maps_from_another_file(tmp_path):
    k, maps = kspace(2, 3, 8, 7), kspace(2, 3, 8, 7, seed=1)
    np.save(tmp_path / "k.npy", k)
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file["s_maps"] = maps
    np.save(tmp_path / "one.npy", maps[0])
    with open_kspace(tmp_path / "k.npy", maps=tmp_path / "maps.h5") as file:
        np.testing.assert_array_equal(file[1]["maps"].values, maps[1])
    with open_kspace(tmp_path / "k.npy", maps=tmp_path / "one.npy") as file:
        np.testing.assert_array_equal(file[1]["maps"].values, maps[0])
        assert "with maps" in repr(file)
    np.save(tmp_path / "two.npy", maps[:, :2])
    with pytest.raises(DataError, match=r"3 coils, 8 x 7; the file of maps 2 of 2 coils"):
        open_kspace(tmp_path / "k.npy", maps=tmp_path / "two.npy")
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["other"] = 1
    with pytest.raises(DataError, match="holds other; expected coil maps"):
        open_kspace(tmp_path / "k.npy", maps=tmp_path / "empty.h5")


def test_benchmark_crop(tmp_path):
    """k-space of a small object in the centre: the crop keeps the object and its maps."""
    height, width = 400, 341
    image = np.zeros((height, width), dtype=np.complex64)
    image[190:220, 150:190] = 1 + 1j
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    maps = np.stack([np.cos(np.pi * y / 4 + p) * np.exp(1j * x * p) for p in (0.3, 1.0)])
    axes = (-2, -1)
    shifted = np.fft.ifftshift(maps * image, axes=axes)
    k = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes=axes).astype(np.complex64)
    lines = np.arange(width) % 3 == 0
    path = write_fastmri(tmp_path / "scan.h5", k[None], s_maps=maps[None], mask=lines)
    with open_kspace(path, crop=True) as file:
        assert file.shape == (2, 320, 320)
        item = file[0]
    np.testing.assert_array_equal(item["mask"].values[0], lines[10:330])  # 341 // 2 - 160 = 10
    # Rows are kept where they are (400 // 2 - 160 = 40); columns shrink by 320 / 341.
    cropped = np.abs(mvue(item["kspace"].values, item["maps"].values))
    profile, full = cropped[:, 160], np.abs(mvue(k, maps))[:, 170]
    scale = np.sqrt(320 / 341)  # orthonormal transforms on both grids
    np.testing.assert_allclose(profile * scale, full[40:360], atol=0.01 * full.max())
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        del file["mask"]
        file["mask"] = np.tile(np.arange(height)[:, None] % 2, (1, width))
    with open_kspace(path, crop=True) as file, pytest.raises(DataError, match="whole columns"):
        file[0]


def test_crop_follows_sigpy(tmp_path):
    sigpy = pytest.importorskip("sigpy")
    k, maps = kspace(1, 2, 351, 330), kspace(1, 2, 351, 330, seed=1)
    with open_kspace(write_fastmri(tmp_path / "scan.h5", k, s_maps=maps), crop=True) as file:
        item = file[0]
    resized = sigpy.resize(k[0], (2, 351, 320))
    rows = sigpy.resize(sigpy.ifft(resized, axes=(-2,)), (2, 320, 320))
    expected = sigpy.fft(rows, axes=(-2,))
    np.testing.assert_allclose(item["kspace"].values, expected, atol=1e-5)
    spectrum = sigpy.resize(sigpy.fft(maps[0], axes=(-2, -1)), (2, 351, 320))
    rows = sigpy.resize(sigpy.ifft(spectrum, axes=(-2,)), (2, 320, 320))
    np.testing.assert_allclose(item["maps"].values, sigpy.ifft(rows, axes=(-1,)), atol=1e-5)


# ---------------------------------------------------------------- refusals


def test_unusable_files_are_refused(tmp_path):
    k = kspace(2, 3, 8, 7)
    whole = write_fastmri(tmp_path / "scan.h5", k).read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.h5").write_text("<html>not found</html>")
    (tmp_path / "scan.txt").write_text("1 2 3")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = np.ones(3)
    np.save(tmp_path / "flat.npy", k[0, 0])
    (tmp_path / "folder").mkdir()
    write_cfl(tmp_path / "short", k[0].transpose(1, 2, 0)[:, :, None])
    (tmp_path / "short.cfl").write_bytes((tmp_path / "short.cfl").read_bytes()[:-8])
    write_cfl(tmp_path / "volume", np.ones((4, 4, 4, 2)))
    np.save(tmp_path / "alone.npy", k)
    for name, message in {
        "missing.h5": "no such file",
        "missing.cfl": "a .cfl and a .hdr together",
        "cut.h5": "truncated",
        "page.h5": "not an HDF5 file",
        "scan.txt": "unknown format; k-space is read from fastMRI",
        "cut.npy": "not a whole NumPy file",
        "other.h5": "holds image; expected `kspace`",
        "flat.npy": r"shape \(8, 7\), expected \(coils, H, W\)",
        "folder": "without kspace/",
        "short.cfl": "one of the two is truncated",
        "volume.cfl": "two spatial dimensions",
    }.items():
        with pytest.raises(DataError, match=message):
            open_kspace(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda k: k.real.astype(np.float32), "dtype float32, expected a complex one"),
        (lambda k: (100 * k.real).astype(np.int16), "dtype int16"),
        (lambda k: k * np.where(np.arange(7) == 3, np.nan, 1), "are not finite, the first at"),
        (lambda k: k * 0, "zero everywhere"),
    ],
)
def test_unusable_kspace_is_refused(tmp_path, change, message):
    np.save(tmp_path / "k.npy", change(kspace(3, 8, 7)))
    with open_kspace(tmp_path / "k.npy") as file, pytest.raises(DataError, match=message):
        file[0]


def test_companions_that_do_not_fit_are_refused(tmp_path):
    k = kspace(2, 3, 8, 7)
    for name, datasets, message in (
        ("coils", {"s_maps": kspace(2, 2, 8, 7)}, r"maps have shape \(2, 8, 7\).*3 coils"),
        ("mask", {"mask": np.ones(8)}, r"mask has shape \(8,\), expected \(7,\)"),
    ):
        path = write_fastmri(tmp_path / f"{name}.h5", k, **datasets)
        with open_kspace(path) as file, pytest.raises(DataError, match=message):
            file[0]


# ---------------------------------------------------------------- NIfTI


def test_nifti(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    volume = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    for image, sizes in ((volume, (5.0, 1.5, 1.0)), (volume[0], (1.5, 1.0))):
        write_nifti(tmp_path / "image.nii.gz", image, sizes)
        nifti = nibabel.load(tmp_path / "image.nii.gz")
        values = np.asarray(nifti.dataobj)
        np.testing.assert_array_equal(values[:, ::-1, 0], volume[0].T)
        assert nifti.header.get_zooms()[:2] == (1.0, 1.5)
        assert nifti.get_data_dtype() == np.float32
    write_nifti(tmp_path / "complex.nii", volume * 1j, (5.0, 1.5, 1.0))
    assert nibabel.load(tmp_path / "complex.nii").get_data_dtype() == np.complex64
    for path, image, sizes, message in (
        ("image.png", volume, (1, 1, 1), "named .nii"),
        ("image.nii", volume[0, 0], (1,), "has shape"),
        ("image.nii", volume * np.nan, (1, 1, 1), "finite"),
        ("image.nii", volume, (1.0, -1.0, 1.0), "positive size"),
        ("image.nii", volume, (1.0, 1.0), "positive size"),
    ):
        with pytest.raises(DataError, match=message):
            write_nifti(tmp_path / path, image, sizes)


def test_names_with_dots_are_names(tmp_path):
    for k, name in enumerate(("recon_0.1", "recon_0.2")):
        write_cfl(tmp_path / name, np.full((2, 2), k))
    for k, name in enumerate(("recon_0.1", "recon_0.2.cfl")):
        assert (read_cfl(tmp_path / name) == k).all()

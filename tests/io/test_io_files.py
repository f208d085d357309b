"""Atomic writing, checksums and NetCDF files."""

import errno
import hashlib
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lmaps_science.io import (
    DataError,
    atomic_write,
    make_image,
    read_netcdf,
    require_file,
    sha256,
    write_fits,
    write_netcdf,
)
from lmaps_science.io.files import make_folder

DISK_USAGE = shutil.disk_usage("/")


@pytest.fixture
def dataset() -> xr.Dataset:
    values = np.arange(6.0).reshape(2, 3)
    return xr.Dataset(
        {
            "visibility": (("vis", "leg"), values * (1 + 2j), {"units": "Jy"}),
            "image": (("vis", "leg"), values.astype(np.float32)),
            "flag": ("vis", [True, False]),
            "station": ("vis", ["AA", "long name"]),
            "count": ((), 3),
            "none": ("empty", np.zeros(0)),
        },
        coords={
            "gain": ("vis", np.array([1j, 2])),
            "time": ("vis", [0.5, 1.0], {"units": "hours"}),
        },
        attrs={
            "card": {"name": "black_hole", "levels": [1, None]},
            "scale": None,
            "on": True,
            "also": np.bool_(True),
            "seed": 3,
            "sigma": 0.5,
            "text": "Jy",
        },
    )


def test_netcdf_returns_what_was_written(tmp_path, dataset):
    write_netcdf(tmp_path / "result.nc", dataset)
    back = read_netcdf(tmp_path / "result.nc")
    xr.testing.assert_identical(back, dataset)
    assert {name: v.dtype for name, v in back.variables.items()} == {
        name: v.dtype for name, v in dataset.variables.items()
    }
    assert [p.name for p in tmp_path.iterdir()] == ["result.nc"]


def test_netcdf_is_plain_for_other_tools(tmp_path, dataset):
    netCDF4 = pytest.importorskip("netCDF4")
    write_netcdf(tmp_path / "result.nc", dataset)
    with netCDF4.Dataset(tmp_path / "result.nc") as file:
        np.testing.assert_array_equal(file["visibility_imag"][:], dataset["visibility"].values.imag)
        assert file["visibility_real"].units == "Jy"
        assert list(file["station"][:]) == ["AA", "long name"]


def test_netcdf_refuses_what_it_cannot_write_or_read(tmp_path, dataset):
    with pytest.raises(DataError, match=r"xarray\.Dataset, got DataArray"):
        write_netcdf(tmp_path / "a.nc", dataset["image"])
    with pytest.raises(DataError, match="no such file"):
        read_netcdf(tmp_path / "a.nc")
    write_netcdf(tmp_path / "a.nc", dataset)
    whole = (tmp_path / "a.nc").read_bytes()
    (tmp_path / "a.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="truncated"):
        read_netcdf(tmp_path / "a.nc")


def test_atomic_write_keeps_the_old_file_when_the_new_one_fails(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")

    def fail():
        with atomic_write(path) as temporary:
            assert (temporary.parent, temporary.suffix) == (tmp_path, ".txt")
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["result.txt"]


def test_atomic_write_needs_the_folder(tmp_path):
    with pytest.raises(DataError, match="mkdir -p"):
        write_netcdf(tmp_path / "no" / "result.nc", xr.Dataset())


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def hdf_error(*_, **__):
    raise RuntimeError("NetCDF: HDF error")


@pytest.mark.parametrize("failure", [full_disk, hdf_error])
def test_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path, dataset, monkeypatch, failure):
    path = tmp_path / "result.nc"
    path.write_text("old")
    monkeypatch.setattr(xr.Dataset, "to_netcdf", lambda self, p, **_: (Path(p).touch(), failure()))
    if failure is hdf_error:  # HDF5 does not say why: the free space does
        monkeypatch.setattr(shutil, "disk_usage", lambda _: DISK_USAGE._replace(free=1000))
    with pytest.raises(OSError, match=r"the disk is full: could not write .*result\.nc") as error:
        write_netcdf(path, dataset)
    assert error.value.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.nc"]


def test_other_failures_are_not_put_down_to_the_disk(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(xr.Dataset, "to_netcdf", hdf_error)
    with pytest.raises(RuntimeError, match="HDF error"):
        write_netcdf(tmp_path / "result.nc", dataset)


def test_full_disk_while_writing_fits(tmp_path, monkeypatch):
    from astropy.io import fits

    monkeypatch.setattr(fits.PrimaryHDU, "writeto", full_disk)
    with pytest.raises(OSError, match="the disk is full"):
        write_fits(tmp_path / "image.fits", make_image(np.ones((4, 4)), 1e-11))
    assert list(tmp_path.iterdir()) == []


def test_sha256_and_require_file(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(b"abc" * 500_000)
    assert sha256(path) == hashlib.sha256(b"abc" * 500_000).hexdigest()
    assert require_file(str(path)) == path
    (tmp_path / "empty").touch()
    for wrong, reason in ((tmp_path / "empty", "empty"), (tmp_path, "not a file")):
        with pytest.raises(DataError, match=reason):
            require_file(wrong)


@pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
def test_names_that_are_no_text_are_refused_before_anything_is_done(tmp_path):
    name = tmp_path / os.fsdecode(b"\xff")
    with pytest.raises(DataError, match=r"no UTF-8 text"):
        make_folder(name)
    assert list(tmp_path.iterdir()) == []
    name.write_bytes(b"a")
    with pytest.raises(DataError, match=r"no UTF-8 text.*Rename"):
        require_file(name)

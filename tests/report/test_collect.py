"""All results as one dataset: lazily, nothing invented, nothing lost."""

import importlib.util
import json

import nibabel
import numpy as np
import pytest
import xarray as xr
from report_results import fail, made, write
from typer.testing import CliRunner

from lmaps_science import cli
from lmaps_science.io import DataError, read_netcdf, write_netcdf
from lmaps_science.report import collect, join, write_volume

needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("dask") is None, reason="needs dask (extra collect)"
)


def lmaps(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


@needs_dask
def test_one_method(tmp_path):
    for k in range(3):
        write(tmp_path / f"o{k}", made(k, seed_=k))
    fail(tmp_path / "o3", "why")
    (tmp_path / "o4").mkdir()
    data = collect(tmp_path)
    assert data["image"].dims == ("observation", "sample", "y", "x")
    assert data["image"].chunks is not None
    assert data["observation"].values.tolist() == ["o0", "o1", "o2"]
    np.testing.assert_array_equal(data["image"][1], made(1)["image"])
    assert data["image"].attrs["units"] == "Jy/pixel"
    assert data["psnr_of_mean"].values.tolist() == [23.0] * 3
    assert np.isnan(data["angle_of_mean"]).all()
    assert data["mode"].dtype == np.int64
    assert data.attrs["failed"] == {"o3": "why"}
    assert data.attrs["unfinished"] == ["o4"]
    assert data.attrs["solver"] == "LMAPS()"
    assert [json.loads(p)["seed_"] for p in data["provenance"].values] == [0, 1, 2]


@needs_dask
def test_methods_with_gaps(tmp_path):
    write(tmp_path / "a" / "o0", made(0))
    write(tmp_path / "a" / "o1", made(1))
    write(tmp_path / "b" / "o1", made(1, levels=7, solver="DPS()", verdict="doubtful"))
    fail(tmp_path / "b" / "o0")
    data = collect([tmp_path])
    assert data["image"].dims == ("observation", "method", "sample", "y", "x")
    assert data["state"].values.tolist() == [["finished", "failed"], ["finished", "finished"]]
    assert data["verdict"].values.tolist() == [["good", ""], ["good", "doubtful"]]
    lost = data.sel({"observation": "o0", "method": "b"})
    assert np.isnan(lost["image"]).all()
    assert np.isnan(lost["mode"]).all()
    np.testing.assert_array_equal(data["image"].sel({"method": "b"})[1], made(1)["image"])
    assert data.attrs["left_out"] == ["misfit", "sigma"]
    assert data.attrs["methods"]["b"]["solver"] == "DPS()"


@needs_dask
def test_data_of_other_lengths_are_left_out_by_name_and_other_grids_refused(tmp_path):
    write(tmp_path / "o0", made(0, length=5))
    write(tmp_path / "o1", made(1, length=6))
    assert collect(tmp_path).attrs["left_out"] == ["residual"]
    write(tmp_path / "o2", made(2, npix=8))
    with pytest.raises(DataError, match=r"images of o0 and o2 differ .*16 y x 16 x; .*8 y x 8 x"):
        collect(tmp_path)
    outcome = lmaps("collect", tmp_path)  # metrics have no grid
    assert outcome.exit_code == 0
    assert "3 finished" in outcome.stdout


@needs_dask
def test_files_are_the_same_in_both_formats(tmp_path):
    pytest.importorskip("zarr")
    for method in "ab":
        write(tmp_path / "in" / method / "o0", made())
    for name in ("all.nc", "all.zarr"):
        command = ["collect", tmp_path / "in", "--out", tmp_path / name]
        assert lmaps(*command).exit_code == 0
        again = lmaps(*command)
        assert again.exit_code == 1
        assert "exists" in again.stderr
        assert lmaps(*command, "--force").exit_code == 0
    whole = collect(tmp_path / "in").compute()
    xr.testing.assert_equal(read_netcdf(tmp_path / "all.nc"), whole)
    with xr.open_zarr(tmp_path / "all.zarr") as stored:
        xr.testing.assert_equal(stored.load(), whole)
    assert read_netcdf(tmp_path / "all.nc").attrs["methods"].keys() == {"a", "b"}
    assert {p.name for p in tmp_path.iterdir()} == {"in", "all.nc", "all.zarr"}


def test_without_dask_metrics_are_collected_and_datasets_say_what_is_missing(tmp_path, monkeypatch):
    write(tmp_path / "in" / "o0", made())
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "dask" else found(name, *a)
    )
    assert lmaps("collect", tmp_path / "in", "--table", tmp_path / "t.csv").exit_code == 0
    outcome = lmaps("collect", tmp_path / "in", "--out", tmp_path / "a.nc")
    assert outcome.exit_code == 1
    assert "lmaps-science[collect]" in outcome.stderr
    with pytest.raises(ImportError, match=r"lmaps-science\[collect\]"):
        collect(tmp_path / "in")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--table", "t.xls"], "the suffix tells the format"),
        (["--out", "a.hdf"], "the suffix tells the format"),
        (["--of", "median"], "give one of samples, best, mean"),
        (["--join", "slice"], "say where"),
        (["--reference", "b"], "no method 'b'"),
        (["--table", "there.csv"], "there.csv exists"),
    ],
)
def test_refusals(tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in" / "o0", made())
    (tmp_path / "there.csv").write_text("mine")
    outcome = lmaps("collect", "in", *options)
    assert outcome.exit_code == 1
    assert said in outcome.stderr
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"in", "there.csv"}


def test_tables_are_replaced_on_request_alone(tmp_path):
    write(tmp_path / "in" / "o0", made())
    (tmp_path / "t.tex").write_text("mine")
    assert (
        lmaps("collect", tmp_path / "in", "--table", tmp_path / "t.tex", "--force").exit_code == 0
    )
    assert "toprule" in (tmp_path / "t.tex").read_text()


# ---------------------------------------------------------------- volumes


def a_slice(k, n=6):
    """One of MRI, with pixels of 2 x 1.5 mm."""
    rng = np.random.default_rng(k)
    axes = {"y": np.arange(n) * 2.0, "x": np.arange(n) * 1.5}
    data = xr.Dataset(
        {
            "image": (("sample", "part", "y", "x"), rng.random((2, 2, n, n))),
            "image_mean": (("part", "y", "x"), rng.random((2, n, n))),
            "misfit": (("level", "sample"), rng.random((3, 2))),
            "psnr": ("sample", rng.random(2)),
        },
        coords={name: (name, values, {"units": "mm"}) for name, values in axes.items()},
    ).assign_coords(sigma=("level", [1.0, 0.5, 0.1]), sample=[0, 1])
    data.attrs = {"kind": "mri", "best": 0, "each": {"slice": k}, "observation_name": f"s{k}"}
    return data


def test_slices_become_a_volume(tmp_path):
    slices = [a_slice(k) for k in (7, 8, 9)]
    volume = join(slices, "slice")
    assert volume["image"].dims == ("slice", "sample", "part", "y", "x")
    assert volume["slice"].values.tolist() == [7, 8, 9]
    np.testing.assert_array_equal(volume["image"].sel(slice=8), slices[1]["image"])
    assert volume["sigma"].dims == ("level",)  # the same in all
    write_netcdf(tmp_path / "volume.nc", volume)
    xr.testing.assert_equal(read_netcdf(tmp_path / "volume.nc"), volume)
    (path,) = write_volume(tmp_path, volume)
    image = nibabel.load(path)
    assert path.name == "volume.nii.gz"
    assert image.shape == (6, 6, 3)
    assert image.header.get_zooms() == (1.5, 2.0, 1.0)
    shown = np.hypot(*slices[2]["image_mean"].values)
    np.testing.assert_allclose(image.get_fdata()[:, ::-1, 2].T, shown, rtol=1e-6)
    with pytest.raises(DataError, match="exists"):
        write_volume(tmp_path, volume)
    assert {p.name for p in tmp_path.iterdir()} == {"volume.nc", "volume.nii.gz"}


def test_gaps_and_doubles_are_refused(tmp_path):
    with pytest.raises(DataError, match="not evenly spaced"):
        write_volume(tmp_path, join([a_slice(k) for k in (1, 2, 4)], "slice"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="slice 1: give each once"):
        join([a_slice(1), a_slice(1)], "slice")
    with pytest.raises(DataError, match="no results to join"):
        join([], "slice")
    assert write_volume(tmp_path, join([made(0), made(1)], "run")) == []  # a field without volumes


def test_the_command_joins_a_series_in_its_order(tmp_path):
    for k in (10, 9, 11):
        write(tmp_path / "in" / f"s{k}", a_slice(k))
    out = tmp_path / "head.nc"
    outcome = lmaps("collect", tmp_path / "in", "--join", "slice", "--out", out)
    assert outcome.exit_code == 0, outcome.output
    assert read_netcdf(out)["slice"].values.tolist() == [9, 10, 11]
    assert (tmp_path / "volume.nii.gz").exists()
    said = lmaps("collect", tmp_path / "in", "--join", "time", "--out", tmp_path / "t.nc").stderr
    assert "not a series of time (known here: slice)" in said

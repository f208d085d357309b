"""`lmaps` on MRI: every format of k-space, and one line for whatever cannot be reconstructed."""

import json
import re

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lmaps_science import cli
from lmaps_science.arrays import centred_fft2
from lmaps_science.io import read_netcdf, write_cfl
from lmaps_science.physics.sampling import line_mask

COILS, HEIGHT, WIDTH = SHAPE = 4, 48, 40
LINES = np.isin(np.arange(WIDTH), [*range(0, WIDTH, 3), *range(14, 26)])
FILES = {"result.nc", "mean.nii.gz", "figure.png", "samples.png", "summary.txt", "summary.json"}
HEADER = f"""<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xmlns:xs="http://www.w3.org/2001/XMLSchema">
 <experimentalConditions><H1resonanceFrequency_Hz>128000000</H1resonanceFrequency_Hz>
 </experimentalConditions>
 <encoding>
  <encodedSpace><matrixSize><x>{HEIGHT}</x><y>{WIDTH}</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>96</x><y>120</y><z>5</z></fieldOfView_mm></encodedSpace>
  <reconSpace><matrixSize><x>{HEIGHT}</x><y>{WIDTH}</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>96</x><y>120</y><z>5</z></fieldOfView_mm></reconSpace>
  <encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{WIDTH - 1}</maximum>
   <center>{WIDTH // 2}</center></kspace_encoding_step_1></encodingLimits>
  <trajectory>cartesian</trajectory>
 </encoding>
</ismrmrdHeader>"""


def inverse(kspace):
    """Images of centred k-space."""
    return centred_fft2(torch.as_tensor(kspace).conj()).conj().resolve_conj().numpy()


def lmaps(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def run(out, data, *settings, samples=2):
    arguments = ["run", "mri/kspace", "--prior", "gaussian", "--samples", samples, "--out", out]
    arguments += ["-q", "--device", "cpu", *(() if data is None else ("--data", data))]
    for setting in ("solver.levels=3", *settings):
        arguments += ["--set", setting]
    return lmaps(*arguments)


@pytest.fixture(scope="module")
def scan():
    """Undersampled k-space of a disc with a little noise, and its coil maps."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    angle = np.pi / 2 * np.arange(COILS)[:, None, None]
    maps = np.exp(1j * angle) / ((x - 1.4 * np.cos(angle)) + 1j * (y - 1.4 * np.sin(angle)))
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    image = ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1) * (1 + 0.3 * np.cos(9 * y))
    noise = 0.02 * np.random.default_rng(0).normal(size=(2, *SHAPE))
    kspace = centred_fft2(torch.as_tensor(maps * image)).numpy() + noise[0] + 1j * noise[1]
    return (LINES * kspace).astype(np.complex64), maps.astype(np.complex64)


# ---------------------------------------------------------------- formats


def npy(folder, kspace, maps):
    np.save(folder / "scan.npy", kspace)
    return folder / "scan.npy", ()


def bart(folder, kspace, maps):
    write_cfl(folder / "scan", kspace.transpose(1, 2, 0)[:, :, None])
    write_cfl(folder / "maps", maps.transpose(1, 2, 0)[:, :, None])
    return folder / "scan.cfl", ("maps.source=file", f"kspace.maps_file={folder / 'maps.cfl'}")


def fastmri(folder, kspace, maps):
    with h5py.File(folder / "scan.h5", "w") as file:
        file["kspace"] = np.stack([0.1 * kspace, kspace])
    return folder / "scan.h5", ("kspace.slice=1",)


def fastmri_with_companions(folder, kspace, maps):
    with h5py.File(folder / "scan.h5", "w") as file:
        file["kspace"], file["s_maps"], file["mask"] = kspace[None], maps[None], LINES
    return folder / "scan.h5", ("maps.source=file",)


def fastmri_with_maps(folder, kspace, maps):
    with h5py.File(folder / "scan.h5", "w") as file:
        file["kspace"], file["s_maps"] = kspace[None], maps[None]
    return folder / "scan.h5", ("maps.source=file",)


def fastmri_with_mask(folder, kspace, maps):
    with h5py.File(folder / "scan.h5", "w") as file:
        file["kspace"], file["mask"] = kspace[None], LINES.astype(np.float32)
    return folder / "scan.h5", ()


def inversebench(folder, kspace, maps):
    square = (slice(None), slice(4, 44), slice(None))  # its images are square
    return write_lmdb(folder, kspace[square], maps[square], maps[0][4:44]), ()


def write_lmdb(folder, kspace, maps, image):
    lmdb = pytest.importorskip("lmdb")
    arrays = {"kspace": kspace, "s_maps": maps, "mvue": image}
    for name, value in arrays.items():
        database = lmdb.open(str(folder / name), map_size=1 << 24)
        with database.begin(write=True) as transaction:
            transaction.put(b"0", value.tobytes())
        database.close()
    return folder


def raw(folder, kspace, maps):
    return write_raw(folder, [kspace]), ()


def raw_with_slices_and_noise(folder, kspace, maps):
    noise = 0.02 * np.random.default_rng(1).normal(size=(2, COILS, 500))
    path = write_raw(folder, [0.1 * kspace, kspace], (noise[0] + 1j * noise[1]))
    return path, ("kspace.slice=1", "noise.prewhiten=true")


def write_raw(folder, slices, noise=None):
    ismrmrd = pytest.importorskip("ismrmrd")
    dataset = ismrmrd.Dataset(str(folder / "scan.mrd"), "dataset", create_if_needed=True)
    dataset.write_xml_header(HEADER.encode())
    if noise is not None:
        scan = ismrmrd.Acquisition.from_array(noise.astype(np.complex64))
        scan.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        dataset.append_acquisition(scan)
    for index, line in ((i, k) for i in range(len(slices)) for k in np.flatnonzero(LINES)):
        readout = ismrmrd.Acquisition.from_array(np.ascontiguousarray(slices[index][:, :, line]))
        readout.center_sample, readout.idx.kspace_encode_step_1 = HEIGHT // 2, int(line)
        readout.idx.slice = index
        dataset.append_acquisition(readout)
    dataset.close()
    return folder / "scan.mrd"


EVERY_FORMAT = [
    npy,
    bart,
    fastmri,
    fastmri_with_companions,
    fastmri_with_maps,
    fastmri_with_mask,
    inversebench,
    raw,
    raw_with_slices_and_noise,
]


@pytest.mark.parametrize("write", EVERY_FORMAT, ids=lambda w: w.__name__)
def test_every_format_is_reconstructed(scan, tmp_path, write):
    kspace, maps = scan
    source = tmp_path / "source"
    source.mkdir()
    path, settings = write(source, kspace, maps)
    outcome = run(tmp_path / "out", path, *settings)
    assert outcome.exit_code == 0, outcome.output
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES
    data = read_netcdf(tmp_path / "out" / "result.nc")
    expected = np.broadcast_to(LINES, data["mask"].shape)
    np.testing.assert_array_equal(data["mask"], expected)
    assert data.sizes["sample"] == 2
    assert float(data["chi2"].max()) < 2
    assert f"4 coils, {100 * LINES.mean():.0f} % of" in outcome.stdout
    assert "maps the file's" in outcome.stdout or "central samples" in outcome.stdout


def test_samples_as_nifti_with_their_voxels(scan, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    path, _ = raw(tmp_path, *scan)
    out = tmp_path / "out"
    arguments = ["run", "mri/kspace", "--data", path, "--prior", "gaussian", "--samples", 2]
    outcome = lmaps(*arguments, "--out", out, "--each-sample", "--set", "solver.levels=3", "-q")
    assert outcome.exit_code == 0, outcome.output
    assert {p.name for p in out.iterdir()} == FILES | {"sample_000.nii.gz", "sample_001.nii.gz"}
    data = read_netcdf(out / "result.nc")
    for name, image in (("mean", data["image_mean"]), ("sample_001", data["image"][1])):
        nifti = nibabel.load(out / f"{name}.nii.gz")
        assert nifti.header.get_zooms()[:2] == (3.0, 2.0)
        np.testing.assert_allclose(nifti.get_fdata()[:, ::-1, 0].T, np.hypot(*image.values))


def test_results_are_described(scan, tmp_path):
    path, _ = npy(tmp_path, *scan)
    assert run(tmp_path / "out", path, "sampling.hold_out=0.1").exit_code == 0
    described = lmaps("info", tmp_path / "out" / "result.nc", "--figure", tmp_path / "again.png")
    assert described.stdout == (tmp_path / "out" / "summary.txt").read_text()
    for word in ("scan.npy", "estimated", "by the acquired samples", "held_out_error", "chi2"):
        assert word in described.stdout
    assert (tmp_path / "again.png").exists()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["scaled_by"] == "the acquired samples"
    assert 0 < summary["metrics_of_mean"]["held_out_error"] < 1


def test_cards_are_listed_and_shown():
    listed = lmaps("problems").stdout
    assert all(f"mri/{name}" in listed for name in ("brain_raw", "kspace", "inversebench"))
    shown = lmaps("problems", "mri/brain_raw").stdout
    assert all(key in shown for key in ("hold_out: 0.0", "maps_file: null", "source: calibration"))


# ---------------------------------------------------------------- the benchmark


@pytest.fixture(scope="module")
def full_scan():
    """A disc of 320 x 320 seen by three coils: k-space with noise, maps of norm 1, its MVUE."""
    y, x = np.mgrid[-1:1:320j, -1:1:320j]
    maps = np.stack([np.exp(-((y - a) ** 2) - (x - b) ** 2 + 1j * a * x) for a, b in CORNERS])
    maps = (maps / np.sqrt((np.abs(maps) ** 2).sum(0))).astype(np.complex64)
    image = 3 * ((y / 0.8) ** 2 + (x / 0.6) ** 2 < 1) * (1 + 0.3 * np.cos(20 * y))
    noise = 0.05 * np.random.default_rng(0).normal(size=(2, *maps.shape))
    kspace = centred_fft2(torch.as_tensor(maps * image)).numpy() + noise[0] + 1j * noise[1]
    coils = inverse(kspace)
    return kspace.astype(np.complex64), maps, (maps.conj() * coils).sum(0).astype(np.complex64)


CORNERS = ((-1, -1), (-1, 1), (1, 0))


def benchmark_run(folder, data, *settings):
    arguments = ["run", "mri/inversebench", "--data", data, "--prior", "gaussian", "-q"]
    arguments += ["--samples", 1, "--device", "cpu", "--out", folder / "out"]
    for setting in ("solver.levels=3", *settings):
        arguments += ["--set", setting]
    outcome = lmaps(*arguments)
    assert outcome.exit_code == 0, outcome.output
    return outcome, read_netcdf(folder / "out" / "result.nc")


@pytest.mark.parametrize(("acceleration", "lines"), [(4, 80), (8, 40)])
@pytest.mark.parametrize("noiseless", [True, False])
def test_the_benchmark_on_its_own_files(full_scan, tmp_path, acceleration, lines, noiseless):
    kspace, maps, image = full_scan
    data = write_lmdb(tmp_path, kspace, maps, image)
    settings = (f"sampling.acceleration={acceleration}", f"kspace.noiseless={noiseless}".lower())
    outcome, result = benchmark_run(tmp_path, data, *settings)
    expected = line_mask((320, 320), acceleration)  # columns, seed 0
    assert expected[0].sum() == lines
    np.testing.assert_array_equal(result["mask"], expected)
    truth = result["truth"].values[0] + 1j * result["truth"].values[1]
    np.testing.assert_allclose(truth, image / np.percentile(np.abs(image), 99), atol=1e-4)
    assert "99th percentile 1, by the fully sampled image" in outcome.stdout
    assert result.attrs["scaled_by"] == "the fully sampled image"
    assert result.attrs["card"]["kspace"]["noiseless"] is noiseless
    data = centred_fft2(torch.as_tensor(maps * image)).numpy() if noiseless else kspace
    coils = inverse(data * expected)
    zero_filled = (maps.conj() * coils).sum(0)
    have = result["zero_filled"].values[0] + 1j * result["zero_filled"].values[1]
    np.testing.assert_allclose(have * np.percentile(np.abs(image), 99), zero_filled, atol=2e-3)


def test_the_benchmark_crops_files_of_fastmri(full_scan, tmp_path):
    """Rows are cropped in image space: an oversampled readout gives the same image."""
    kspace, maps, image = full_scan
    coils = inverse(kspace)
    wide = np.pad(coils, ((0, 0), (40, 40), (0, 0)))
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = centred_fft2(torch.as_tensor(wide)).numpy()[None]
        file["s_maps"] = np.pad(maps, ((0, 0), (40, 40), (0, 0)))[None]
    result = benchmark_run(tmp_path, tmp_path / "scan.h5")[1]
    truth = result["truth"].values[0] + 1j * result["truth"].values[1]
    np.testing.assert_allclose(truth, image / np.percentile(np.abs(image), 99), atol=1e-3)
    assert "maps the file's" in result.attrs["data"]
    with h5py.File(tmp_path / "scan.h5", "a") as file:
        del file["s_maps"]
    arguments = ["--data", tmp_path / "scan.h5", "--prior", "gaussian", "--out", tmp_path / "no"]
    outcome = lmaps("run", "mri/inversebench", *arguments)
    assert outcome.exit_code == 1
    assert "holds no maps" in outcome.stderr


# ---------------------------------------------------------------- what cannot be reconstructed


def changed(kspace, where, value):
    kspace = kspace.copy()
    kspace[where] = value
    return kspace


def without_calibration(kspace):
    return changed(kspace, (..., [*range(14, 20), *range(21, 26)]), 0)


BAD_KSPACE = {
    "zero": (np.zeros_like, (), "zero everywhere"),
    "integer": (lambda k: k.real.astype(int), (), "dtype int64, expected a complex one"),
    "float32": (lambda k: k.real.copy(), (), "dtype float32, expected a complex one"),
    "nan": (lambda k: changed(k, (1, 2, 3), np.nan), (), r"not finite.*\(1, 2, 3\)"),
    "one image": (lambda k: k[0], (), r"expected \(coils, H, W\)"),
    "no calibration": (without_calibration, (), "calibration region is .* maps.source=file"),
    "no centre": (lambda k: changed(k, (..., 20), 0), (), "centre of k-space"),
    "no such slice": (np.copy, ("kspace.slice=7",), "kspace.slice: .*there is no slice 7"),
    "no maps": (np.copy, ("maps.source=file",), "holds no maps.*kspace.maps_file"),
    "no file of maps": (np.copy, ("kspace.maps_file=no.npy",), "no.npy: no such file"),
    "not full": (np.copy, ("sampling.acceleration=4",), "has 55 % of its samples.*=null"),
    "no full maps": (np.copy, ("maps.source=full",), "needs a fully sampled scan"),
    "no reference": (np.copy, ("scaling=reference",), "needs a fully sampled scan"),
    "too many coils": (np.copy, ("noise.coils=5",), "5 of 4 coils"),
    "misspelt": (np.copy, ("sampling.holdout=0.1",), "unknown key 'holdout'.*'hold_out'"),
    "dead coil": (
        lambda k: changed(k, 2, 0),
        ("noise.prewhiten=true",),
        "not positive definite.*drop it",
    ),
}


def refuse(out, data, *settings):
    """Expect one line on stderr, exit code 1 and no folder; give the line."""
    outcome = run(out, data, *settings)
    assert outcome.exit_code == 1, outcome.output
    assert not out.exists()
    (line,) = outcome.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "Error:" not in line  # an expected one has no type
    return line


@pytest.mark.parametrize("name", BAD_KSPACE)
def test_unusable_kspace(scan, tmp_path, name):
    change, settings, message = BAD_KSPACE[name]
    np.save(tmp_path / "k.npy", change(scan[0]))
    line = refuse(tmp_path / "out", tmp_path / "k.npy", *settings)
    assert re.search(message, line), line


BAD_COMPANIONS = {
    "maps of other coils": ({"s_maps": (3, HEIGHT, WIDTH)}, "the maps have shape"),
    "maps of another size": ({"s_maps": (COILS, HEIGHT, 30)}, "the maps have shape"),
    "mask too short": ({"mask": (30,)}, r"the mask has shape \(30,\)"),
    "mask empty": ({"mask": None}, "the mask is empty"),
}


@pytest.mark.parametrize("name", BAD_COMPANIONS)
def test_unusable_companions(scan, tmp_path, name):
    shapes, message = BAD_COMPANIONS[name]
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = scan[0][None]
        for key, shape in shapes.items():
            values = np.zeros(WIDTH) if shape is None else np.ones(shape, np.complex64)
            file[key] = values[None] if key == "s_maps" else values.real
    line = refuse(tmp_path / "out", tmp_path / "scan.h5", "maps.source=file")
    assert re.search(message, line), line


def test_unusable_files(scan, tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = scan[0][None]
    whole = (tmp_path / "scan.h5").read_bytes()
    (tmp_path / "scan.h5").write_bytes(whole[: len(whole) // 2])
    np.save(tmp_path / "maps.npy", scan[1][:3])
    np.save(tmp_path / "k.npy", scan[0])
    (tmp_path / "notes.txt").write_text("hello")
    out = tmp_path / "out"
    assert "truncated" in refuse(out, tmp_path / "scan.h5")
    assert "no such file" in refuse(out, tmp_path / "missing.h5")
    assert "unknown format" in refuse(out, tmp_path / "notes.txt")
    assert "give a file of k-space" in refuse(out, None)
    line = refuse(out, tmp_path / "k.npy", f"kspace.maps_file={tmp_path / 'maps.npy'}")
    assert "of 3 coils" in line

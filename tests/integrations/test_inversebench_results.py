"""Results of InverseBench: its metrics to the digit, the corrected ones, tables, refusals."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from inversebench_items import (
    GOLDEN,
    TARGETS,
    inversebench,  # noqa: F401
    its_operator,
    maps,
    saved,
    truth,
    write_data,
    write_lmdb,
    write_measurement,
    write_mri,
    write_run,
)
from registries import load_golden

from lmaps_science import metrics
from lmaps_science.cards.load import load_problem
from lmaps_science.integrations.inversebench.results import (
    benchmark_tables,
    compare,
    read_results,
)
from lmaps_science.integrations.inversebench.saved import SavedRun
from lmaps_science.io import DataError, read_netcdf, write_netcdf
from lmaps_science.physics.sampling import line_mask
from lmaps_science.problems.mri.inversebench import BATCH, MRIScores, _as_the_program
from lmaps_science.sampling import sample as run
from lmaps_science.solvers import DPS

pytest.importorskip("lmdb")

# What the program's own evaluators gave for the items of `write_run`, in version b113d67.
FROZEN = {
    ("scattering", 1): [
        {"psnr": 29.004194259643555, "ssim": 0.9477207660675049},
        {"psnr": 29.00571632385254, "ssim": 0.9469972252845764},
    ],
    ("scattering", 3): [
        {"psnr": 29.0008602142334, "ssim": 0.945580005645752},
        {"psnr": 29.029916763305664, "ssim": 0.9499885439872742},
    ],
    ("mri", 1): [
        {"psnr": 26.902452142298074, "ssim": 0.9695597966862475, "data misfit": 32.710916188792126},
        {"psnr": 26.884742431476916, "ssim": 0.9710645599984244, "data misfit": 32.88580759554968},
    ],
    ("mri", 3): [
        {"psnr": 0.0, "ssim": 0.0, "data misfit": 56.667946999904586},
        {"psnr": 0.0, "ssim": 0.0, "data misfit": 56.967563240572915},
    ],
    ("black_hole", 1): [
        {"cp_chi2": 1562.7347412109375, "camp_chi2": 184.35440063476562,
         "psnr": 27.247230529785156, "blur_psnr (f=10)": 27.247230529785156,
         "blur_psnr (f=15)": 30.565698623657227, "blur_psnr (f=20)": 31.682119369506836},
        {"cp_chi2": 1515.9974365234375, "camp_chi2": 187.10470581054688,
         "psnr": 26.96281623840332, "blur_psnr (f=10)": 26.96281623840332,
         "blur_psnr (f=15)": 30.283803939819336, "blur_psnr (f=20)": 31.4548397064209},
    ],
    ("black_hole", 3): [
        {"cp_chi2": 1562.7347412109375, "camp_chi2": 182.20675659179688,
         "psnr": 27.385757446289062, "blur_psnr (f=10)": 27.385757446289062,
         "blur_psnr (f=15)": 30.909748077392578, "blur_psnr (f=20)": 32.08226776123047},
        {"cp_chi2": 1433.4827880859375, "camp_chi2": 93.92852020263672,
         "psnr": 27.381099700927734, "blur_psnr (f=10)": 27.381099700927734,
         "blur_psnr (f=15)": 30.820823669433594, "blur_psnr (f=20)": 31.9660587310791},
    ],
}  # fmt: skip


def needs_ehtim(field):
    if field == "black_hole":
        pytest.importorskip("ehtim")


def assert_theirs(data, index, expected):
    """The benchmark's numbers of one item, to 1e-6."""
    of = {v.attrs["metric"]: v for v in data.data_vars.values() if "metric" in v.attrs
          and v.attrs["source"] == "benchmark"}  # fmt: skip
    assert of.keys() == expected.keys()
    for name, value in expected.items():
        assert float(of[name][index]) == pytest.approx(float(value), rel=1e-6, abs=1e-6), name


# ---------------------------------------------------------------- the benchmark's metrics


@pytest.mark.parametrize(("field", "samples"), FROZEN)
def test_its_metrics_are_those_of_its_evaluators(field, samples, tmp_path):
    needs_ehtim(field)
    write_data(tmp_path, field)
    data = read_results(write_run(tmp_path, field, samples=samples))
    for k, expected in enumerate(FROZEN[field, samples]):
        assert_theirs(data, k, expected)
    assert data["samples"].values.tolist() == [samples] * 2
    assert (data.attrs["algorithm"], data.attrs["kind"]) == ("Formula", field)


@pytest.mark.parametrize(("field", "samples"), FROZEN)
def test_frozen_numbers_are_those_of_the_checkout(field, samples, tmp_path, inversebench):  # noqa: F811
    import eval as evaluators

    write_data(tmp_path, field)
    name = {"scattering": "InverseScatter", "mri": "MRI", "black_hole": "BlackHoleEvaluator"}[field]
    evaluator = getattr(evaluators, name)(forward_op=its_operator(field, tmp_path))
    data = read_results(write_run(tmp_path, field, samples=samples))
    for k, expected in enumerate(FROZEN[field, samples]):
        item = saved(field, k, samples)
        found = evaluator(item["recon"], item["target"], item["observation"])
        assert_theirs(data, k, found)
        assert found == pytest.approx(expected, rel=1e-6)


def test_golden_black_holes(tmp_path):
    """Against the independent implementation's chi2 and PSNR."""
    pytest.importorskip("ehtim")
    golden = load_golden("black_hole")
    write_measurement(tmp_path / "data" / "measure")
    folder = write_run(tmp_path, "black_hole", items=range(0))
    for k in range(2):
        item = {
            "observation": torch.as_tensor(golden["y"]),
            "recon": torch.as_tensor((golden["x_model"][k : k + 1] + 1) / 2),
            "target": torch.as_tensor((golden["truth_model"] + 1) / 2),
        }
        torch.save(item, folder / f"result_{k}.pt")
    data = read_results(folder)
    for ours, theirs in (("chi2_cphase", "raw_chi2_cphase"), ("chi2_logcamp", "raw_chi2_logcamp")):
        np.testing.assert_allclose(data[f"corrected_{ours}"], golden[theirs], rtol=2e-4)
    for ours, theirs in (("cp_chi2", "eval_chi2_cphase"), ("camp_chi2", "eval_chi2_logcamp")):
        np.testing.assert_allclose(data[f"benchmark_{ours}"], golden[theirs], rtol=2e-4)


def test_chi2_below_one_is_inverted_in_its_table_alone(tmp_path):
    pytest.importorskip("ehtim")
    golden = load_golden("black_hole")
    write_measurement(tmp_path / "data" / "measure")
    folder = write_run(tmp_path, "black_hole", items=range(1))
    counts = [int(golden[f"{n}_dim"]) for n in ("amp", "cphase", "logcamp")]
    lengths = [n for n in counts for _ in range(2)] + [1]
    x = golden["x_model"][:1]
    exact = list(torch.as_tensor(golden["forward"])[:1].split(lengths, dim=2))
    exact[2] = exact[2] + 0.5 * exact[3]  # half a standard deviation off
    exact[4] = exact[4] + 0.5 * exact[5]
    item = {"observation": torch.cat(exact, dim=2), "recon": torch.as_tensor((x + 1) / 2),
            "target": torch.as_tensor((x + 1) / 2)}  # fmt: skip
    torch.save(item, folder / "result_0.pt")
    data = read_results(folder)
    assert float(data["corrected_chi2_logcamp"][0]) == pytest.approx(0.25, rel=1e-2)
    assert float(data["benchmark_camp_chi2"][0]) == pytest.approx(4.0, rel=1e-2)
    assert float(data["benchmark_cp_chi2"][0]) > 1 > float(data["corrected_chi2_cphase"][0])


def test_whole_batches_of_samples_of_mri():
    values = np.linspace(20, 30, 2 * BATCH + 3)
    expected = (values[:BATCH].mean() + values[BATCH : 2 * BATCH].mean()) / len(values)
    assert _as_the_program(values) == pytest.approx(expected)
    assert _as_the_program(values[:2]) == 0
    assert _as_the_program(values[:1]) == values[0]


# ---------------------------------------------------------------- corrected metrics


@pytest.mark.parametrize("field", TARGETS)
def test_corrected_ones_are_means_over_samples(field, tmp_path):
    needs_ehtim(field)
    write_data(tmp_path, field)
    together = read_results(write_run(tmp_path, field, range(1), samples=2))
    alone = []
    for k in range(2):
        folder = write_run(tmp_path, field, range(0), algorithm=f"sample {k}")
        torch.save({**saved(field, 0, 2), "recon": saved(field, 0, 2)["recon"][k : k + 1]},
                   folder / "result_0.pt")  # fmt: skip
        alone.append(read_results(folder))
    names = [n for n in together.data_vars if str(n).startswith("corrected_")]
    assert len(names) >= 4
    for name in names:
        both = np.mean([float(data[name][0]) for data in alone])
        assert float(together[name][0]) == pytest.approx(both, rel=1e-5), name


def test_corrected_scattering_knows_its_noise(tmp_path):
    """An image off by noise of the stated size has chi2 1; and PSNR is of no constant."""
    problem = load_problem("scattering/linear_60", prior="gaussian", overrides={
        "image.npix": 32, "observation.transmitters": 8, "observation.receivers": 40,
    })  # fmt: skip
    image = torch.as_tensor(problem.truth.values)[None, None]
    exact = problem.physical.operator(image)
    folder = write_run(tmp_path, "scattering", range(0))
    turn = torch.exp(1j * torch.arange(exact.numel())).reshape(exact.shape)
    item = {"observation": exact + 1e-4 * turn, "recon": image, "target": image}
    torch.save(item, folder / "result_0.pt")
    data = read_results(folder)
    assert float(data["corrected_chi2"][0]) == pytest.approx(1.0, rel=1e-2)
    relative = 1e-4 * np.sqrt(exact.numel()) / float(exact.abs().square().sum().sqrt())
    assert float(data["corrected_relative_misfit"][0]) == pytest.approx(relative, rel=1e-2)
    assert np.isinf(data["corrected_psnr"][0])
    assert float(data["benchmark_psnr"][0]) == pytest.approx(80.0)  # 1e-8 in its formula


def test_corrected_mri(tmp_path):
    """PSNR of magnitudes relative to the target's largest; the misfit with the maps of the data."""
    write_mri(tmp_path / "data" / "mri", range(2))
    data = read_results(write_run(tmp_path, "mri", samples=2))
    item, scores, fits = saved("mri", 1, 2), [], []
    mask = line_mask((32, 32), 4)
    for recon in item["recon"].double():
        a, b = (np.hypot(*image.numpy()) for image in (recon, item["target"][0].double()))
        error = np.mean((np.clip(a, 0, b.max()) - b) ** 2)
        scores.append(10 * np.log10(b.max() ** 2 / error))
        image = recon[0].numpy() + 1j * recon[1].numpy()
        k = np.fft.fft2(np.fft.ifftshift(maps() * image, axes=(1, 2)), norm="ortho")
        predicted = mask * np.fft.fftshift(k, axes=(1, 2))
        y = torch.view_as_complex(item["observation"])[0].numpy()
        fits.append(np.linalg.norm(predicted - y))
    assert float(data["corrected_psnr"][1]) == pytest.approx(np.mean(scores), rel=1e-6)
    assert float(data["corrected_data_misfit"][1]) == pytest.approx(np.mean(fits), rel=1e-6)


def test_corrected_black_holes_are_scaled_and_shifted(tmp_path):
    """A perfect image elsewhere in another unit: infinitely good; the program does not see that."""
    pytest.importorskip("ehtim")
    write_measurement(tmp_path / "data" / "measure")
    folder = write_run(tmp_path, "black_hole", range(0))
    target = torch.as_tensor(truth("black_hole", 0))[None]
    recon = 0.5 * target.roll((3, -2), (-2, -1))
    torch.save({**saved("black_hole", 0), "recon": recon, "target": target}, folder / "result_0.pt")
    data = read_results(folder)
    assert float(data["corrected_psnr"][0]) > 60 > 30 > float(data["benchmark_psnr"][0])
    assert float(data["corrected_nxcorr"][0]) == pytest.approx(1, abs=1e-6)
    dark = {**saved("black_hole", 0), "recon": torch.zeros(1, 1, 64, 64)}
    torch.save(dark, folder / "result_0.pt")  # as an algorithm that met a NaN gives
    blank = read_results(folder)
    expected = metrics.psnr(torch.zeros_like(target), saved("black_hole", 0)["target"])
    assert float(blank["corrected_psnr"][0]) == pytest.approx(float(expected), rel=1e-5)


# ---------------------------------------------------------------- what is missing or wrong


def test_unfinished_items_are_listed(tmp_path):
    folder = write_run(tmp_path, "scattering", range(2), data={"id_list": "0-1,5,7-8"})
    assert read_results(folder).attrs["missing"] == [5, 7, 8]
    folder = write_run(tmp_path, "scattering", range(2), algorithm="all", data={"id_list": None})
    assert read_results(folder).attrs["missing"] == []


def test_ids_of_its_black_holes_are_not_its_entries(tmp_path):
    settings = {"_target_": "training.dataset.BlackHole", "id_list": "2-3"}
    folder = write_run(tmp_path, "black_hole", range(2, 4), data=settings)
    assert [SavedRun.of(folder).entry(item) for item in (2, 3)] == [0, 1]
    notes = " ".join(read_results(folder).attrs["notes"])
    assert "the results 2, 3 are of the entries 0, 1" in notes


def test_without_the_data_set_there_is_no_misfit(tmp_path):
    folder = write_run(tmp_path, "mri")
    data = read_results(folder)
    assert np.isnan(data["corrected_data_misfit"]).all()
    assert np.isnan(data["benchmark_data_misfit"]).all()
    assert "coil maps" in data.attrs["notes"][0]
    assert len(data.attrs["notes"]) == 1
    elsewhere = write_mri(tmp_path / "elsewhere", range(2))
    whole = read_results(folder, data=elsewhere)
    assert_theirs(whole, 0, FROZEN["mri", 1][0])
    assert whole.attrs["notes"] == []
    other = tmp_path / "other" / "shape"
    write_lmdb(other / "kspace", {0: np.ones((2, 32, 32), np.complex64)})
    write_lmdb(other / "s_maps", {0: np.ones((2, 32, 32), np.complex64)})
    assert "no coil maps of shape (3, 32, 32)" in read_results(folder, data=other).attrs["notes"][0]


def write_hdf5(folder, side=32, names=("a_T2", "b_T2")):
    """fastMRI's k-space and, beside it, a folder of maps; 11 and 12 slices, each of its own."""
    root = folder / "val_sens_maps_espirit"
    for path in (root, folder / "val"):
        path.mkdir(parents=True)
    for k, name in enumerate(names):
        shape = (11 + k, 3, side, side)
        values = np.random.default_rng(k).normal(size=(2, *shape)).astype(np.float32)
        for path, part, array in (
            (root, "s_maps", values[0] + 1j * values[1]),
            (folder / "val", "kspace", values[1] - 1j * values[0]),
        ):
            with h5py.File(path / f"{name}.h5", "w") as file:
                file[part] = array.astype(np.complex64)
    return root


HDF5 = {"_target_": "training.dataset.MultiCoilMRIData", "root": "data/val_sens_maps_espirit"}


@pytest.mark.parametrize("entry", [0, 1, 2])
def test_maps_of_its_hdf5_files(entry, tmp_path):
    """Entry 0 is slice 5 of the first file, entries 1 and 2 slices 5 and 6 of the second."""
    root = write_hdf5(tmp_path / "data")
    folder = write_run(tmp_path, "mri", range(entry, entry + 1), data=HDF5)
    data = read_results(folder)
    assert data.attrs["notes"] == []
    with h5py.File(sorted(root.iterdir())[min(entry, 1)]) as file:
        own = file["s_maps"][[5, 5, 6][entry]]
    item = saved("mri", entry)
    image = item["recon"][0, 0].numpy() + 1j * item["recon"][0, 1].numpy()
    k = np.fft.fft2(np.fft.ifftshift(own * image, axes=(1, 2)), norm="ortho")
    difference = line_mask((32, 32), 4) * np.fft.fftshift(k, axes=(1, 2))
    difference = difference - torch.view_as_complex(item["observation"])[0].numpy()
    expected = np.linalg.norm(difference)
    assert float(data["benchmark_data_misfit"][0]) == pytest.approx(expected, rel=1e-6)


def test_entries_that_its_hdf5_files_lack(tmp_path):
    write_hdf5(tmp_path / "data", names=("brain_a_T1", "brain_b_T2"))
    found = [
        read_results(write_run(tmp_path, "mri", range(k, k + 1), algorithm=f"{k}", data=HDF5))
        for k in (1, 2)
    ]
    assert found[0].attrs["notes"] == []  # brains: those of T2 alone, which has two
    assert "has 2 slices in all, and no entry 2" in found[1].attrs["notes"][0]


def test_its_hdf5_data_set_numbers_slices_alike(tmp_path, inversebench):  # noqa: F811
    """Cropped to 320 x 320, too."""
    from training.dataset import MultiCoilMRIData

    for side, size in ((32, 32), (324, 320)):
        root = write_hdf5(tmp_path / str(side), side)
        data = MultiCoilMRIData(str(root), [size, size])
        scores = MRIScores({"data": {"root": str(root)}}, tmp_path)
        for entry in range(3):
            ours = scores._maps(entry, (3, size, size))
            assert scores.notes == []
            np.testing.assert_allclose(ours, data[entry]["maps"], atol=1e-5)


def test_without_the_measurement_there_are_no_closures(tmp_path):
    data = read_results(write_run(tmp_path, "black_hole"))
    assert np.isnan(data["corrected_chi2_cphase"]).all()
    assert np.isnan(data["corrected_blur_psnr_15"]).all()
    assert np.isfinite(data["corrected_psnr"]).all()
    assert data["benchmark_psnr"][0] == pytest.approx(FROZEN["black_hole", 1][0]["psnr"], rel=1e-6)
    assert "obs.uvfits and gt.fits" in data.attrs["notes"][0]


def test_a_measurement_of_another_run_is_refused(tmp_path):
    pytest.importorskip("ehtim")
    write_measurement(tmp_path / "data" / "measure")
    folder = write_run(tmp_path, "black_hole", model={"observation_time_ratio": 0.5})
    with pytest.raises(DataError, match=r"result_0.pt cannot be scored.*has 1113 numbers"):
        read_results(folder)


def test_moved_results_find_their_data_from_the_working_directory(tmp_path, monkeypatch):
    write_mri(tmp_path / "data" / "mri", range(2))
    folder = write_run(tmp_path / "there", "mri")
    assert np.isnan(read_results(folder)["corrected_data_misfit"]).all()
    moved = folder.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert_theirs(read_results(moved), 1, FROZEN["mri", 1][1])


def truncate(folder: Path) -> None:
    path = folder / "result_1.pt"
    path.write_bytes(path.read_bytes()[:-200])


def empty(folder: Path) -> None:
    (folder / "result_1.pt").write_bytes(b"")


def run_code(folder: Path) -> None:
    torch.save({"recon": Path("x")}, folder / "result_1.pt")


def change(folder: Path, **parts) -> None:
    torch.save({**saved("scattering", 1), **parts}, folder / "result_1.pt")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, r"result_1.pt is .*damaged.*run that item again, problem.data.id_list=1"),
        (empty, r"result_1.pt is empty"),
        (run_code, r"result_1.pt was refused.*more than tensors"),
        (lambda f: change(f, recon=None), r"result_1.pt lacks the tensor\(s\) recon"),
        (
            lambda f: torch.save([1], f / "result_1.pt"),
            "lacks the tensor.*recon, target, observation",
        ),
        (lambda f: change(f, recon=torch.ones(32, 32)), r"recon has shape \(32, 32\)"),
        (lambda f: change(f, target=torch.ones(2, 1, 32, 32)), r"target \(2, 1, 32, 32\)"),
        (lambda f: change(f, observation=torch.full((1, 8, 40), torch.nan)), "not finite"),
        (lambda f: change(f, observation=torch.ones(1, 3, 40)), "result_1.pt cannot be scored"),
        (lambda f: (f / "config.yaml").unlink(), "config.yaml: no such file.*whole folder"),
        (lambda f: (f / "config.yaml").write_text("a: [1"), "config.yaml is not"),
        (lambda f: (f / "config.yaml").write_text("a: 1"), "has no section problem"),
        (lambda f: [p.unlink() for p in f.glob("*.pt")], "holds no result_"),
    ],
)
def test_damaged_folders_name_the_file(spoil, message, tmp_path):
    folder = write_run(tmp_path, "scattering")
    spoil(folder)
    with pytest.raises(DataError, match=message):
        read_results(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": {"_target_": "a.AcousticWave"}}, "AcousticWave, and results are scored of"),
        ({"model": {"Ny": 16}}, "its grid is not square"),
        ({"model": {"Nx": "many"}}, "problem.model makes no scattering problem"),
        ({"data": [1]}, None),
        ({"model": {"sensorRadius": [1]}}, "problem.model makes no scattering problem"),
        ({"model": {"sensorRadius": 0.01}}, "result_0.pt cannot be scored"),
        ({"model": {"numRec": 0}}, "no pixels, transmitters or receivers"),
        ({"model": {"numRec": 10**12}}, "320 data of an image of 32 pixels are not those of 8 tr"),
        ({"model": {"Nx": 10**9, "Ny": 10**9}}, "40 receivers and 1000000000 pixels"),
        ({"data": {"id_list": "3-1"}}, "config.yaml: problem.data.id_list is '3-1'"),
    ],
)
def test_settings_that_make_no_problem(settings, message, tmp_path):
    folder = write_run(tmp_path, "scattering", **settings)
    if message is None:  # not needed
        assert read_results(folder).sizes["item"] == 2
        return
    with pytest.raises(DataError, match=message):
        read_results(folder)


@pytest.mark.parametrize(
    "model", [{"imsize": "x"}, {"imsize": [64]}, {"observation_time_ratio": {}}]
)
def test_settings_that_make_no_black_hole(model, tmp_path):
    with pytest.raises(DataError, match=r"config.yaml: its problem is none of BlackHoleImaging"):
        read_results(write_run(tmp_path, "black_hole", model=model))


@pytest.mark.parametrize("model", [{"pattern": "spiral"}, {"acceleration_ratio": 99}])
def test_settings_that_make_no_mask(model, tmp_path):
    write_data(tmp_path, "mri")
    with pytest.raises(DataError, match=r"result_0.pt cannot be scored as MultiCoilMRI: line_mask"):
        read_results(write_run(tmp_path, "mri", model=model))


def test_a_folder_without_results(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match=r"neither result_.*nor result\.nc"):
            read_results(folder)


def test_nan_in_an_image_stays(tmp_path):
    folder = write_run(tmp_path, "scattering")
    broken = saved("scattering", 1)["recon"]
    broken[0, 0, 5, 5] = torch.nan
    change(folder, recon=broken)
    data = read_results(folder)
    assert np.isnan(data["corrected_psnr"].values).tolist() == [False, True]


# ---------------------------------------------------------------- ours, and tables

SMALL = {
    "scattering": ("scattering/linear_60", {
        "image.npix": 32, "observation.transmitters": 6, "observation.receivers": 20,
    }),
    "mri": ("mri/simulated", {
        "kspace.npix": 32, "kspace.coils": 3, "maps.source": "file", "scaling": "reference",
    }),
    "black_hole": ("black_hole/inversebench_100", {
        "observation.coverage": {"kind": "uvfits", "file": str(GOLDEN / "black_hole_obs.uvfits"),
                                 "average_seconds": None},
    }),
}  # fmt: skip


@pytest.mark.parametrize("field", SMALL)
def test_ours_get_the_scores_that_the_program_would_give_them(field, tmp_path):
    """The same images, saved by us, and as the program saves them."""
    pytest.importorskip({"mri": "sigpy", "black_hole": "ehtim"}.get(field, "torch"))
    card, overrides = SMALL[field]
    problem = load_problem(card, prior="gaussian", overrides=overrides)
    data = problem.analyse(run(problem, DPS(3), 2, progress=False))
    ours = tmp_path / "ours" / "item_4"
    ours.mkdir(parents=True)
    write_netcdf(ours / "result.nc", data)
    found = read_results(ours)
    assert found["item"].values.tolist() == [4]
    assert (
        read_results(tmp_path / "ours")
        .drop_vars("observation")
        .equals(found.drop_vars("observation"))
    )
    peak = float(problem.truth.max()) if field == "black_hole" else 1.0
    images = torch.as_tensor(data["image"].values / peak).float().reshape(2, *problem.image_shape)
    target = torch.as_tensor(problem.truth.values / peak).float().reshape(1, *problem.image_shape)
    folder = write_run(tmp_path, field, range(0))
    if field == "black_hole":
        write_measurement(tmp_path / "data" / "measure")
    item = {**saved(field, 0), "recon": images, "target": target}
    if field == "mri":
        item["observation"] = torch.view_as_real(problem.misfit.data)
    torch.save(item, folder / "result_0.pt")
    if field == "scattering":  # another geometry: the images' scores alone are the same
        item["observation"] = saved(field, 0)["observation"]
    theirs = read_results(folder)
    names = [n for n in found if "psnr" in str(n) or "ssim" in str(n) or "nxcorr" in str(n)]
    assert len(names) >= 4
    for name in names:
        assert float(found[name][0]) == pytest.approx(float(theirs[name][0]), rel=2e-3, abs=2e-3)
    fits = [n for n in found if "chi2" in str(n) or "misfit" in str(n)]
    assert all(
        np.isfinite(found[name]).all() for name in fits if name != "corrected_relative_misfit"
    )


def test_ours_without_a_truth_cannot_enter(tmp_path):
    problem = load_problem(*[SMALL["scattering"][0]], prior="gaussian",
                           overrides=SMALL["scattering"][1])  # fmt: skip
    data = problem.analyse(run(problem, DPS(2), 1, progress=False)).drop_vars("truth")
    write_netcdf(tmp_path / "result.nc", data)
    with pytest.raises(DataError, match="has no known truth"):
        read_results(tmp_path)


def test_methods_side_by_side(tmp_path):
    a = write_run(tmp_path, "scattering", range(2), algorithm="A")
    b = write_run(
        tmp_path, "scattering", range(3), samples=2, algorithm="B", data={"id_list": "0-3"}
    )
    item = saved("scattering", 1, 2)
    torch.save({**item, "observation": 2 * item["observation"]}, b / "result_1.pt")
    both = compare([a, b])
    assert both["benchmark_psnr"].dims == ("method", "item")
    assert both["method"].values.tolist() == ["A", "B"]
    assert np.isnan(both["benchmark_psnr"].values).tolist() == [[False, False, True], [False] * 3]
    assert both["samples"].values.tolist() == [[1, 1, 0], [2, 2, 2]]
    assert both.attrs["missing"] == {"A": [], "B": [3]}
    assert "different observations of the item(s) 1:" in both.attrs["notes"][0]
    assert both["corrected_chi2"].attrs["source"] == "corrected"
    alone = read_results(b)
    np.testing.assert_array_equal(
        both.sel({"method": "B"})["corrected_ssim"], alone["corrected_ssim"]
    )
    named = compare({"first": a, "again": a})
    assert named["method"].values.tolist() == ["first", "again"]
    assert named.attrs["notes"] == []
    write_netcdf(tmp_path / "both.nc", both)
    assert read_netcdf(tmp_path / "both.nc").attrs["missing"] == both.attrs["missing"]


def test_methods_of_one_name_are_told_apart(tmp_path):
    folders = [write_run(tmp_path / where, "scattering") for where in ("one", "two")]
    methods = compare(folders)["method"].values.tolist()
    assert len(set(methods)) == 2
    assert all(name.startswith("Formula (") for name in methods)


def test_other_kinds_are_not_compared(tmp_path):
    folders = [write_run(tmp_path, field) for field in ("scattering", "mri")]
    with pytest.raises(DataError, match="different kinds"):
        compare(folders)
    with pytest.raises(DataError, match="nothing to compare"):
        compare([])


def rows(table: str) -> list[list[str]]:
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_two_tables(tmp_path):
    a = read_results(
        write_run(tmp_path, "scattering", range(3), algorithm="A", data={"id_list": "0-4"})
    )
    b = read_results(write_run(tmp_path, "scattering", range(1), samples=2, algorithm="B"))
    text = benchmark_tables({"a|b": a, "B": b})
    first, second = (rows(part) for part in text.split("Corrected metrics"))
    assert first[0] == ["method", "psnr [dB] ↑", "ssim ↑", "n"]
    assert second[0][-3:] == ["relative_misfit ↓", "chi2 ↓", "n"]
    psnr = a["benchmark_psnr"].values
    assert first[2][0] == "a\\|b"
    assert first[2][1] == f"{psnr.mean():.4g} ± {psnr.std():.2g}"
    exact = a["corrected_psnr"].values
    assert second[2][1] == f"{exact.mean():.4g} ± {exact.std(ddof=1):.2g}"
    assert second[3][1] == f"{float(b['corrected_psnr'][0]):.4g}"  # one item has no spread
    assert (first[2][-1], first[3][-1]) == ("3", "1")
    assert "- a\\|b: unfinished: 3, 4" in text
    assert "- B: unfinished: 1" in text
    with pytest.raises(DataError, match="no table without"):
        benchmark_tables({})
    with pytest.raises(DataError, match="expected a dataset of read_results"):
        benchmark_tables({"x": a.drop_attrs()})


def test_tables_say_how_many_items_have_a_score(tmp_path):
    write_mri(tmp_path / "data" / "mri", range(1))
    data = read_results(write_run(tmp_path, "mri"))
    table = rows(benchmark_tables({"x": data}))
    assert table[2][3].endswith("(1 of 2)")


# ---------------------------------------------------------------- the real program

NETWORK = ["pretrain.model.model_channels=8", "pretrain.model.channel_mult=[1,2]",
           "pretrain.model.attn_resolutions=[]"]  # fmt: skip
SETTINGS = {
    "scattering": ["problem=inv-scatter", "pretrain=inv-scatter",
                   "pretrain.model.img_resolution=32",
                   "problem.model.Nx=32", "problem.model.Ny=32", "problem.model.numTrans=8",
                   "problem.model.numRec=40", "+problem.model.svd=False",
                   "problem.data.resolution=32", "+problem.data.raw_resolution=32"],
    "mri": ["problem=multi-coil-mri-knee-lmdb", "pretrain=mri-knee-mvue",
            "pretrain.model.img_resolution=32", "problem.model.total_lines=32",
            "problem.data.image_size=[32,32]"],
    "black_hole": ["problem=blackhole", "pretrain=blackhole",
                   "problem.model.noise_type=vis_thermal", "problem.model.root=data/measure"],
}  # fmt: skip


@pytest.mark.parametrize(("field", "samples"), [("scattering", 2), ("mri", 1), ("black_hole", 2)])
def test_results_of_the_real_program(field, samples, tmp_path, inversebench):  # noqa: F811
    """Its DPS, run by its main program: the scores in its log are those read from its files."""
    from models import precond

    write_data(tmp_path, field)
    stored = np.float64 if field == "black_hole" else np.float32
    if field != "mri":
        images = {k: truth(field, k)[0].astype(stored) for k in range(2)}
        write_lmdb(tmp_path / "data" / field, images)
    channels, side = {"scattering": (1, 32), "mri": (2, 32), "black_hole": (1, 64)}[field]
    vp = field == "black_hole"
    make = precond.VPPrecond if vp else precond.EDMPrecond
    network = make(side, channels, model_type="SongUNet" if vp else "DhariwalUNet",
                   model_channels=8, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[],
                   dropout=0.0)  # fmt: skip
    torch.save({"ema": network.state_dict()}, tmp_path / "prior.pt")
    command = [
        sys.executable, str(inversebench / "main.py"), *SETTINGS[field], *NETWORK, "algorithm=dps",
        "algorithm.method.diffusion_scheduler_config.num_steps=4", f"num_samples={samples}",
        "problem.prior=prior.pt", f"problem.data.root=data/{field}", "problem.data.id_list=0-1",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = {path.parent for path in tmp_path.glob("exps/**/result_*.pt")}
    log = (folder / "log.txt").read_text()
    found = re.findall(r"\] Metric results: (\{.*\})\.\.\.", log)
    data = read_results(folder)
    assert len(found) == data.sizes["item"] == 2
    assert data.attrs["notes"] == []
    for k, scores in enumerate(found):
        assert_theirs(data, k, ast.literal_eval(scores))
    assert all(
        np.isfinite(variable).all() for name, variable in data.items() if name != "observation"
    )

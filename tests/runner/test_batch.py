"""Batches: resumed by what is there, the same in any company, and nothing lost when killed."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmaps_science import load_problem, read_netcdf, reconstruct_many
from lmaps_science.io import DataError
from lmaps_science.priors import LowRankCovariance, NetworkDenoiser, build_network, save_prior
from lmaps_science.problems.restoration.pictures import write_picture
from lmaps_science.runner import Terminated, batch, many, memory
from lmaps_science.runner.plan import Batch, find_observations, shard_of

CARD = "scattering/linear_60"
SMALL = {
    "image.npix": 16,
    "solver.levels": 3,
    "solver.local.iterations": 5,  # 30 of this ill-posed problem make 1e-3 of rounding
    "observation.receivers": 24,
    "observation.transmitters": 4,
}
OPTIONS = {"prior": "gaussian", "overrides": SMALL, "n_samples": 2}
QUIET = {**OPTIONS, "figures": False, "progress": False}


def run(out, each="phantom:0-4", **options):
    return reconstruct_many(CARD, out=out, each=each, **{**QUIET, **options})


def images(out):
    return {
        folder.name: read_netcdf(folder / "result.nc")["image"].values
        for folder in sorted(out.iterdir())
        if (folder / "result.nc").exists()
    }


def statuses(report):
    return [outcome.status for outcome in report.outcomes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert statuses(run(out, batch_size=4)) == ["done"] * 5
    return out


# ---------------------------------------------------------------- which observations


def test_each_observation_has_a_name_and_a_key_of_its_own(tmp_path):
    for name in ("night1/obs.npy", "night2/obs.npy", "night1/other.npy", "night2/a b;c.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, np.full((16, 16), len(name) + ("2" in name)))
    work = Batch(CARD, str(tmp_path / "out"), prior="gaussian", overrides=SMALL)
    found = find_observations(work, [f"{tmp_path}/night*/*.npy"])
    assert [o.name for o in found] == ["night1-obs", "other", "a_b_c", "night2-obs"]
    assert len({o.key for o in found}) == 4


def test_names_that_become_the_same_are_told_apart(tmp_path):
    for name in ("scan 1.npy", "scan_1.npy"):
        np.save(tmp_path / name, np.eye(16))
    work = Batch(CARD, str(tmp_path / "out"), prior="gaussian", overrides=SMALL)
    found = find_observations(work, [f"{tmp_path}/*.npy"])
    assert len({o.name.lower() for o in found}) == 2


@pytest.mark.parametrize(
    ("options", "overrides"),
    [
        ({"prior": "a.safetensors"}, {"prior.file": "b.safetensors"}),
        ({"prior": "gaussian"}, {"prior.kind": "network"}),
        ({"preset": "default"}, {"preset": "quick"}),
    ],
)
def test_an_argument_and_an_override_that_say_the_same_are_refused(tmp_path, options, overrides):
    work = Batch(CARD, str(tmp_path), overrides={**SMALL, **overrides}, **options)
    with pytest.raises(DataError, match="would be ignored"):
        find_observations(work, each="phantom:0-1")


def crop_network(channels):
    """Untrained and small, for pictures of all sizes."""
    config = {
        "architecture": "song",
        "preconditioning": "edm",
        "image_shape": [channels, 16, 16],
        "model_channels": 16,
        "channel_mult": [1],
        "num_blocks": 1,
        "attn_resolutions": [],
    }
    return build_network(config)


def test_weights_that_have_changed_are_read_again(tmp_path):
    file, found = tmp_path / "prior.safetensors", []
    work = Batch(CARD, str(tmp_path / "out"), prior=str(file), overrides=SMALL)
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        network = crop_network(1)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        save_prior(file, NetworkDenoiser(network), training={"seed": seed})
        (observation,) = find_observations(work, each="phantom:0-0")
        found.append(batch.load(work, observation).prior.network)
    weights = [next(iter(network.parameters())) for network in found]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    again = batch.load(work, observation).prior.network
    assert next(iter(again.parameters())).data_ptr() == weights[2].data_ptr()  # shared, not copied


def test_a_prior_is_what_it_was_after_pictures_of_another_size(tmp_path):
    own = NetworkDenoiser(crop_network(3))
    own.covariance = LowRankCovariance.from_images(torch.randn(20, 3, 16, 16), rank=3)
    file = tmp_path / "prior.safetensors"
    save_prior(file, own, training={})
    for name, side in (("a", 20), ("b", 16)):
        write_picture(tmp_path / f"{name}.png", np.full((3, side, side), 0.5))
    work = Batch("restoration/random", str(tmp_path / "out"), prior=str(file))
    found = [
        batch.load(work, observation).prior.covariance
        for observation in find_observations(work, [str(tmp_path / "*.png")])
    ]
    assert not isinstance(found[0], LowRankCovariance)  # of another size: photographs'
    assert isinstance(found[1], LowRankCovariance)  # its own, as it is alone


def test_the_same_content_elsewhere_has_the_same_key(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(16))
    np.save(tmp_path / "b.npy", np.eye(16))
    work = Batch(CARD, str(tmp_path))
    one, two = find_observations(work, [str(tmp_path / "a.npy"), str(tmp_path / "b.npy")])
    assert one.key == two.key > 0


def test_a_list_names_files_beside_it(tmp_path):
    for name in ("a.npy", "b.npy", "c.npy"):
        np.save(tmp_path / name, np.eye(16))
    listed = tmp_path / "list.txt"
    listed.write_text("# mine\nb.npy\n\n[ac].npy  # a pattern\n")
    found = find_observations(Batch(CARD, str(tmp_path)), listed=listed)
    assert [o.name for o in found] == ["b", "a", "c"]
    listed.write_text("b.npy\n*.npy\n")
    with pytest.raises(DataError, match=r"given twice: .*b\.npy"):
        find_observations(Batch(CARD, str(tmp_path)), listed=listed)
    listed.write_text("# nothing\n")
    with pytest.raises(DataError, match="names no file"):
        find_observations(Batch(CARD, str(tmp_path)), listed=listed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "there is nothing to run over"),
        ({"data": ["nothing/*.npy"]}, r"no file matches nothing/\*\.npy"),
        ({"data": ["nothing.npy"]}, "nothing.npy: no such file"),
        ({"each": "slice"}, "no such series.* It has phantom"),
        ({"each": "fantom:1-2"}, "Did you mean 'phantom'"),
        ({"each": "phantom"}, "it has no end"),
        ({"each": "phantom:9-1"}, "the smaller number comes first"),
        ({"each": "phantom:0-9999999"}, "1,000,000 are enough"),
        ({"each": "phantom:1,1"}, "names a number twice"),
        ({"each": "phantom:a"}, "write numbers and ranges"),
        ({"each": "phantom:1", "overrides": {"observation.seed": 3}}, "which --set sets, too"),
        ({"each": "phantom:1", "data": [__file__]}, r"observation\.image would be ignored, or"),
        ({"each": "observation.sed:0-1"}, "unknown key 'sed'.* Did you mean 'seed'"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        run(tmp_path / "out", **{"each": None, **options})
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_name_is_refused():
    with pytest.raises(DataError, match="has no name"):
        run("")


def test_workers_get_absolute_paths(tmp_path, monkeypatch):
    """They may have started elsewhere."""
    (tmp_path / "mine.yaml").write_text(f"extends: {CARD}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    original = many.run_group

    def elsewhere(*arguments):
        monkeypatch.chdir(tmp_path / "elsewhere")
        return original(*arguments)

    monkeypatch.setattr(many, "run_group", elsewhere)
    report = reconstruct_many("mine.yaml", out="out", each="phantom:0", **QUIET)
    assert statuses(report) == ["done"]
    assert list(images(tmp_path / "out")) == ["phantom0"]


def test_parts_of_the_work(monkeypatch):
    assert shard_of("3/8") == (2, 8)
    assert shard_of(None) == (0, 1)
    for text in ("0/8", "9/8", "1", "a/b", "1/0"):
        with pytest.raises(DataError, match="--shard"):
            shard_of(text)
    array = {"ID": "14", "MIN": "10", "COUNT": "4", "STEP": "2"}
    for name, value in array.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert shard_of(None) == (2, 4)
    assert shard_of("1/2") == (0, 2)  # what is said goes before
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "18")  # some tasks of an array, submitted again
    with pytest.raises(DataError, match="do not number the parts"):
        shard_of(None)


# ---------------------------------------------------------------- results


def test_a_series_is_what_its_overrides_say(whole):
    data = read_netcdf(whole / "phantom3" / "result.nc")
    assert data.attrs["each"] == {"phantom": 3}
    assert data.attrs["card"]["observation"]["image"] == "phantom:3"
    assert data.attrs["card"]["observation"]["seed"] == 3  # noise of its own
    alone = run(whole.parent / "alone", "phantom:3")
    assert statuses(alone) == ["done"]
    one = read_netcdf(whole.parent / "alone" / "phantom3" / "result.nc")
    np.testing.assert_allclose(one["image"], data["image"], atol=1e-4)
    assert one.attrs["identity"] == data.attrs["identity"]


def test_parts_give_the_same_bits(whole, tmp_path):
    for part in ("1/2", "2/2"):
        run(tmp_path, batch_size=4, shard=part)
    found = images(tmp_path)
    assert set(found) == set(images(whole))
    assert all(np.array_equal(found[name], image) for name, image in images(whole).items())


@pytest.mark.parametrize("size", [1, 3, 10])
def test_batch_sizes_agree(whole, tmp_path, size):
    run(tmp_path, batch_size=size)
    for name, image in images(whole).items():
        np.testing.assert_allclose(images(tmp_path)[name], image, atol=1e-4)


def test_finished_ones_are_left_alone_and_others_come_out_the_same(whole, tmp_path):
    run(tmp_path, batch_size=4)
    removed, damaged, touched = (tmp_path / f"phantom{k}" for k in (0, 1, 3))
    for file in removed.iterdir():
        file.unlink()
    content = bytearray((damaged / "result.nc").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "result.nc").write_bytes(content)
    (touched / "summary.json").unlink()  # killed between result.nc and the rest
    before = (tmp_path / "phantom2" / "result.nc").stat().st_mtime_ns
    report = run(tmp_path, batch_size=4)
    assert statuses(report) == ["done", "done", "found", "done", "found"]
    assert (tmp_path / "phantom2" / "result.nc").stat().st_mtime_ns == before
    found = images(tmp_path)
    assert all(np.array_equal(found[name], image) for name, image in images(whole).items())
    assert not list(tmp_path.glob("checkpoint-*"))


def test_other_settings_in_the_same_folder_are_refused(whole):
    with pytest.raises(DataError, match=r"solver\.levels: 3, now 4; seed: 0, now 1"):
        run(whole, overrides={**SMALL, "solver.levels": 4}, seed=1)
    assert statuses(run(whole, batch_size=4)) == ["found"] * 5
    (whole.parent / "other" / "phantom0").mkdir(parents=True)
    (whole.parent / "other" / "phantom0" / "result.nc").write_text("mine")
    with pytest.raises(DataError, match="does not say how it was made"):
        run(whole.parent / "other")
    assert (whole.parent / "other" / "phantom0" / "result.nc").read_text() == "mine"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
SUMMARIES = st.binary() | st.fixed_dictionaries(
    {}, optional={"settings": JSON, "identity": JSON, "sha256": JSON}
).map(lambda content: json.dumps(content).encode())


@given(SUMMARIES)
@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_summary_is_refused_or_done_again(tmp_path, content):
    """What stands beside a result that is none is never taken for a finished one."""
    work = Batch(CARD, str(tmp_path), prior="gaussian", overrides=SMALL, samples=2)
    (observation,) = find_observations(work, each="phantom:0")
    folder = work.folder(observation)
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_bytes(content)
    with contextlib.suppress(DataError):
        batch.check_settings(work, [observation])
    task = batch._Task.of(work, observation)
    assert not batch._finished(folder, task.settings)
    assert (folder / "summary.json").read_bytes() == content


def test_one_that_fails_does_not_keep_the_others(tmp_path):
    for k in range(3):
        np.save(tmp_path / f"obs{k}.npy", np.full((16, 16), 0.1 * k + 0.1))
    np.save(tmp_path / "obs1.npy", np.full((16, 15), 0.1))
    out = tmp_path / "out"
    report = run(out, None, data=str(tmp_path / "*.npy"), batch_size=8)
    assert statuses(report) == ["done", "failed", "done"]
    failure = json.loads((out / "obs1" / "failure.json").read_text())
    assert "(16, 15)" in failure["error"]
    assert failure["type"] == "DataError"
    assert failure["data"].endswith("obs1.npy")
    assert "obs1: " in str(report)
    np.save(tmp_path / "obs1.npy", np.full((16, 16), 0.1))
    (out / "obs2" / "failure.json").write_text("{}")  # killed before it was removed
    report = run(out, None, data=str(tmp_path / "*.npy"), batch_size=8)
    assert statuses(report) == ["found", "done", "found"]
    assert not (out / "obs2" / "failure.json").exists()
    assert not (out / "obs1" / "failure.json").exists()


def test_one_that_diverges_does_not_keep_the_others(tmp_path, monkeypatch):
    original = batch.sample

    def diverging(problem, *arguments, **options):
        names = problem.facts.get("observations", [problem.facts])
        if any("phantom:1" in str(facts) for facts in names):
            raise FloatingPointError("DPS: sample(s) [0] of the batch became NaN")
        return original(problem, *arguments, **options)

    monkeypatch.setattr(batch, "sample", diverging)
    report = run(tmp_path, "phantom:0-2", batch_size=6)
    assert statuses(report) == ["done", "failed", "done"]
    assert "became NaN" in report.failed[0].error


def test_a_full_disk_ends_the_batch(tmp_path, monkeypatch):
    original = batch.write_results

    def full(folder, *arguments):
        if "phantom2" in str(folder):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(folder, *arguments)

    monkeypatch.setattr(batch, "write_results", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path)
    assert set(images(tmp_path)) == {"phantom0", "phantom1"}
    assert not (tmp_path / "phantom2").exists()
    monkeypatch.undo()
    assert statuses(run(tmp_path)) == ["found", "found", "done", "done", "done"]


def test_the_largest_batch_is_measured(tmp_path, monkeypatch):
    work = Batch(CARD, str(tmp_path), prior="gaussian", overrides=SMALL, samples=2)
    found = find_observations(work, each="phantom:0-9")
    assert memory.largest_batch(work, found, tell=False) == 20
    tried = []

    def level(problem, images):
        tried.append(images)
        if images > 8:
            raise MemoryError
        return 1e6 * images

    monkeypatch.setattr(memory, "_level", level)
    monkeypatch.setattr(memory, "_peak", lambda problem: 0.0)
    monkeypatch.setattr(memory, "_free", lambda problem: 1e12)
    assert memory.largest_batch(work, found, tell=False) == 8
    assert tried == [2, 4, 8, 16]
    monkeypatch.setattr(memory, "_free", lambda problem: 7.6e6 / memory.SHARE)
    assert memory.largest_batch(work, found, tell=False) == 6  # 7 fit, three observations' worth


# ---------------------------------------------------------------- volumes


def slices(tmp_path, count=4):
    """Slices of a Shepp-Logan head of different brightness, seen by coils."""
    keys = {"kspace.npix": 48, "sampling.acceleration": None}
    scan = load_problem("mri/simulated", prior="gaussian", overrides=keys)
    kspace = scan.observation["kspace"].values
    np.save(tmp_path / "scan.npy", np.stack([(1 + k) * kspace for k in range(count)]))
    return str(tmp_path / "scan.npy")


def run_slices(tmp_path, data, each="slice", **options):
    keys = {"solver.levels": 2, "sampling.acceleration": 2}
    return reconstruct_many(
        "mri/kspace", data, tmp_path / "out", each=each, **{**QUIET, "overrides": keys, **options}
    )


def test_the_slices_of_a_volume_are_joined_when_all_are_done(tmp_path):
    pytest.importorskip("nibabel", reason="needs nibabel (extra mri)")
    pytest.importorskip("sigpy", reason="needs SigPy (extra mri)")
    import nibabel

    data = slices(tmp_path)
    out = tmp_path / "out"
    run_slices(tmp_path, data, shard="1/2")
    assert not (out / "scan.nc").exists()
    report = run_slices(tmp_path, data, shard="2/2", batch_size=4)
    assert [o.name for o in report.outcomes] == ["scan-slice2", "scan-slice3"]
    run_slices(tmp_path, data, batch_size=4)  # what the first part did one by one fits in here
    volume = read_netcdf(out / "scan.nc")
    assert volume["image_mean"].dims == ("slice", "part", "y", "x")
    one = read_netcdf(out / "scan-slice2" / "result.nc")["image_mean"]
    np.testing.assert_array_equal(volume["image_mean"][2], one)
    nifti = nibabel.load(out / "scan.nii.gz")
    assert nifti.shape == (48, 48, 4)
    before = (out / "scan.nc").stat().st_mtime_ns
    run_slices(tmp_path, data, batch_size=4)
    assert (out / "scan.nc").stat().st_mtime_ns == before


def test_a_users_file_of_a_volumes_name_stays(tmp_path, capsys):
    pytest.importorskip("nibabel", reason="needs nibabel (extra mri)")
    pytest.importorskip("sigpy", reason="needs SigPy (extra mri)")
    data, out = slices(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "scan.nii.gz").write_bytes(b"mine")
    run_slices(tmp_path, data, "slice:0-1", progress=True)
    assert (out / "scan.nii.gz").read_bytes() == b"mine"
    assert "scan.nii.gz" in capsys.readouterr().err
    xr.Dataset({"mine": 1}).to_netcdf(out / "scan.nc", engine="h5netcdf")
    run_slices(tmp_path, data, "slice:0-2", progress=True)
    assert "mine" in read_netcdf(out / "scan.nc")
    assert "is no volume of results" in capsys.readouterr().err


def test_a_volume_whose_join_was_cut_off_is_joined_again(tmp_path):
    pytest.importorskip("sigpy", reason="needs SigPy (extra mri)")
    data, out = slices(tmp_path), tmp_path / "out"
    run_slices(tmp_path, data, "slice:0-1")
    (out / "scan.nc").rename(tmp_path / "two.nc")
    run_slices(tmp_path, data, "slice:0-2")
    shutil.copyfile(tmp_path / "two.nc", out / "scan.nc")
    os.utime(out / "scan.nc", (1, 1))
    run_slices(tmp_path, data, "slice:0-2")
    assert read_netcdf(out / "scan.nc").sizes["slice"] == 3


def test_a_volume_with_gaps_has_no_nifti(tmp_path, capsys):
    pytest.importorskip("nibabel", reason="needs nibabel (extra mri)")
    pytest.importorskip("sigpy", reason="needs SigPy (extra mri)")
    run_slices(tmp_path, slices(tmp_path), "slice:0,1,3", progress=True)
    assert list(read_netcdf(tmp_path / "out" / "scan.nc")["slice"].values) == [0, 1, 3]
    assert not (tmp_path / "out" / "scan.nii.gz").exists()
    assert "are not evenly spaced" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"give a file of k-space, e\.g\."):
        run_slices(tmp_path, (), "slice")


# ---------------------------------------------------------------- interruptions

SCRIPT = """
import sys, time
from lmaps_science import reconstruct_many
from lmaps_science.runner import batch
original = batch._write
def slow(*arguments):
    original(*arguments)
    print("written", flush=True)
    time.sleep(0.2)
batch._write = slow
if __name__ == "__main__":
    reconstruct_many(sys.argv[1], (), sys.argv[2], each="phantom:0-4", **{options!r})
"""


def start(out):
    code = SCRIPT.replace("{options!r}", repr(QUIET | {"batch_size": 4}))
    return subprocess.Popen([sys.executable, "-c", code, CARD, str(out)], stdout=subprocess.PIPE)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_is_finished_survives(whole, tmp_path, number):
    process = start(tmp_path)
    process.stdout.readline()
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/result.nc")}
    assert 1 <= len(kept) < 5
    report = run(tmp_path, batch_size=4)
    assert statuses(report).count("done") == 5 - len(kept)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    found = images(tmp_path)
    assert all(np.array_equal(found[name], image) for name, image in images(whole).items())
    left = [p for p in tmp_path.rglob("*") if "writing" in p.name or p.suffix == ".pt"]
    assert not left


def test_sigterm_keeps_the_level(whole, tmp_path, monkeypatch):
    levels = []

    def ask(problem, solver, *arguments, callback, **options):
        def after(level, state):
            levels.append(level)
            if len(levels) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)  # the handler runs between two bytecodes
            callback(level, state)

        return original(problem, solver, *arguments, callback=after, **options)

    original = batch.sample
    monkeypatch.setattr(batch, "sample", ask)
    with pytest.raises(Terminated, match="0 of 5 are finished; the same command goes on") as caught:
        run(tmp_path, batch_size=4)
    assert caught.value.exit_code == 143
    assert len(list(tmp_path.glob("checkpoint-*.pt"))) == 1
    assert statuses(run(tmp_path, batch_size=4)) == ["done"] * 5
    assert levels == [0, 1, 2] * 3  # of three groups, none twice
    found = images(tmp_path)
    assert all(np.array_equal(found[name], image) for name, image in images(whole).items())


# ---------------------------------------------------------------- workers


def test_workers_give_the_same_bits_though_one_is_killed(whole, tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs Dask (extra `dask`)")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True
    )
    with cluster, distributed.Client(cluster) as client:
        workers = list(client.run(os.getpid).values())

        import threading

        def kill():
            deadline = time.monotonic() + 120
            while not list(tmp_path.glob("*/summary.json")) and time.monotonic() < deadline:
                time.sleep(0.02)
            os.kill(workers[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        report = run(tmp_path, batch_size=4, dask=cluster.scheduler_address)
        killer.join()
    assert sorted(statuses(report)) in (["done"] * 5, ["done"] * 4 + ["found"])
    found = images(tmp_path)
    assert set(found) == set(images(whole))
    assert all(np.array_equal(found[name], image) for name, image in images(whole).items())


def test_no_scheduler_there(tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="needs Dask (extra `dask`)")
    import lmaps_science.runner.dask as engine

    monkeypatch.setattr(engine, "SECONDS", 0.5)
    with pytest.raises(DataError, match="no scheduler answers there"):
        run(tmp_path, dask="tcp://127.0.0.1:1")


# ---------------------------------------------------------------- command line


def test_the_command(tmp_path):
    command = [
        sys.executable, "-m", "lmaps_science.cli", "batch", CARD, "--prior", "gaussian",
        "--each", "phantom:0-1", "--samples", "2", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    for key, value in SMALL.items():
        command += ["--set", f"{key}={value}"]
    first = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert first.returncode == 0, first.stderr
    assert "2 observations in" in first.stdout
    assert "2 done" in first.stdout
    assert (tmp_path / "out" / "phantom1" / "samples.png").exists()
    bad = subprocess.run([*command, "--batch-size", "many"], capture_output=True, text=True)
    assert bad.returncode == 2
    assert "neither a number" in bad.stderr

"""A result made again: the same to the bit, or what differs, or what is missing; never its code."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers import NETWORK
from typer.testing import CliRunner

from lmaps_science import load_problem, read_netcdf, reconstruct, rerun, write_netcdf
from lmaps_science.cards import inputs
from lmaps_science.cli import app
from lmaps_science.io import DataError, sha256
from lmaps_science.priors import NetworkDenoiser, build_network, load_prior, save_prior
from lmaps_science.runner import rerun as _function
from lmaps_science.solvers import DPS

module = sys.modules[_function.__module__]
UVFITS = Path(__file__).parents[1] / "golden" / "black_hole_obs.uvfits"
HOLE = {"image.npix": 16, "preset": "single", "solver.levels": 3, "solver.local.iterations": 3}
SCATTERING = {
    "image.npix": 16,
    "solver.levels": 3,
    "observation.receivers": 24,
    "observation.transmitters": 4,
}
CODE = """
from dataclasses import dataclass
from pathlib import Path
from lmaps_science.solvers import LMAPS

Path(__file__).with_suffix(".ran").touch()

@dataclass(frozen=True)
class Mine(LMAPS):
    pass
"""


def lmaps(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def kspace_file(folder):
    pytest.importorskip("sigpy")
    scan = load_problem("mri/simulated", None, "gaussian", {"kspace.npix": 64})
    np.save(folder / "scan.npy", scan.observation["kspace"].values[None])
    return folder / "scan.npy"


def black_hole(folder):
    return load_problem("black_hole/simulated", None, "gaussian", HOLE)


def measured_black_hole(folder):
    pytest.importorskip("ehtim")
    (folder / "m87.uvfits").write_bytes(UVFITS.read_bytes())
    return load_problem("black_hole/uvfits", folder / "m87.uvfits", "gaussian", HOLE)


def mri(folder):
    pytest.importorskip("sigpy")
    changes = {"kspace.npix": 64, "solver.levels": 3}
    return load_problem("mri/simulated", None, "gaussian", changes)


def measured_mri(folder):
    """The file is named in the card, by its `kspace.file`."""
    changes = {"kspace.file": str(kspace_file(folder)), "maps.source": "full", "solver.levels": 3}
    changes["sampling.acceleration"] = 2
    return load_problem("mri/kspace", None, "gaussian", changes)


def scattering(folder):
    # 30 iterations of this ill-posed problem make 1e-3 of rounding.
    few = {**SCATTERING, "solver.local.iterations": 5}
    return load_problem("scattering/linear_60", None, "gaussian", few)


def network(folder):
    """Weights of one's own."""
    torch.manual_seed(0)
    denoiser = NetworkDenoiser(build_network({**NETWORK, "image_shape": [1, 16, 16]}))
    path = save_prior(folder / "mine.safetensors", denoiser, training={})
    return load_problem("scattering/linear_60", None, path, SCATTERING)


PROBLEMS = [black_hole, measured_black_hole, mri, measured_mri, scattering, network]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """result.nc by the problem: 2 samples, one by one, with a key that is not 0; made once."""
    made = {}

    def result(make):
        if make not in made:
            folder = tmp_path_factory.mktemp(make.__name__)
            problem = make(folder).with_key(7)
            reconstruct(problem, folder / "out", 2, 3, batch_size=1, progress=False)
            made[make] = folder / "out" / "result.nc"
        return made[make]

    return result


@pytest.fixture
def result(results):
    """A dataset to change."""
    return read_netcdf(results(scattering))


def forge(data, **changes):
    """With other settings, as somebody would who knows how identities are made."""
    data.attrs["settings"] = {**data.attrs["settings"], **changes}
    data.attrs["identity"] = inputs.identity(data.attrs["settings"])
    return data


# ---------------------------------------------------------------- the same again


@pytest.mark.parametrize("make", PROBLEMS, ids=lambda make: make.__name__)
def test_it_is_the_same_to_the_bit(make, results):
    path = results(make)
    before = path.read_bytes()
    outcome = lmaps("rerun", path, "--quiet")
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout.splitlines()[-1] == "verdict   identical to the bit"
    assert path.read_bytes() == before
    data = read_netcdf(path)
    assert data.attrs["batch_size"] == 1
    assert data.attrs["threads"] == torch.get_num_threads()


@pytest.mark.parametrize("make", [black_hole, mri, scattering], ids=lambda make: make.__name__)
def test_other_batches_agree_within_rounding_and_that_is_told(make, results):
    found = rerun(results(make), batch_size=2, progress=False)
    assert found.agrees
    assert found.notes == ("images side by side: 1, now 2",)
    assert found.images.shape == (2,)
    assert found.images.max() <= 1e-4  # a tenth of the tolerance
    assert max(found.numbers.values()) <= 1e-3
    assert set(found.numbers) >= {"misfit", "psnr"}


def test_the_threads_are_those_of_the_result(result, monkeypatch):
    own = torch.get_num_threads()
    monkeypatch.setattr(module.os, "cpu_count", lambda: own + 1)
    for count, taken in ((own + 1, own + 1), (own + 2, own), (10**12, own), (0, own)):
        seen = []
        monkeypatch.setattr(torch, "set_num_threads", seen.append)
        result.attrs["threads"] = count
        found = rerun(result, progress=False)
        assert seen == [taken, own]
        assert f"threads: {count}, now {own}" in found.notes


def test_other_versions_are_notes(result):
    result.attrs["prior_check"] = {"text": []}
    result.attrs |= {"torch_version": "2.4.0", "commit": "0" * 40, "device": "Some GPU"}
    del result.attrs["numpy_version"]
    found = rerun(result, device="cpu", progress=False)
    assert found.identical
    assert any(note.startswith("PyTorch: '2.4.0', now ") for note in found.notes)
    assert any(note.startswith("NumPy: not in the result") for note in found.notes)
    assert "device: 'Some GPU', now 'cpu'" in found.notes
    assert found.notes[-1] == "what came of the second prior was not made again"


def test_new_results_are_kept_on_request_and_nothing_is_overwritten(results, tmp_path):
    path = results(scattering)
    assert lmaps("rerun", path, "-q", "--out", tmp_path / "again").exit_code == 0
    again = read_netcdf(tmp_path / "again" / "result.nc")
    assert again.attrs["identity"] == read_netcdf(path).attrs["identity"]
    np.testing.assert_array_equal(again["image"], read_netcdf(path)["image"])
    before = {p: p.read_bytes() for p in path.parent.iterdir()}
    refused = lmaps("rerun", path, "-q", "--out", path.parent)
    assert refused.exit_code == 1
    assert "holds results already" in refused.stderr
    assert before == {p: p.read_bytes() for p in path.parent.iterdir()}


# ---------------------------------------------------------------- what differs


def test_one_other_image_is_told(result, tmp_path):
    result["image"].values[1, 3, 4] += 0.02 * result["image"].values.max()
    write_netcdf(tmp_path / "result.nc", result)
    outcome = lmaps("rerun", tmp_path / "result.nc", "-q")
    assert outcome.exit_code == 1
    last = outcome.stdout.splitlines()[-1]
    assert last == ("verdict   differs: 1 of 2 images, by up to 0.02 of the peak (rounding: 0.001)")


def test_rounding_other_numbers_and_verdicts_are_told_apart(result):
    def changed(name, factor):
        copy = result.copy(deep=True)
        copy[name].values *= factor
        return rerun(copy, progress=False)

    assert changed("image", np.float32(1 + 1e-6)).verdict.startswith("agrees within rounding")
    assert changed("misfit", np.float32(1 + 1e-5)).verdict.startswith("agrees within rounding")
    assert changed("psnr", 1.1).verdict.startswith("differs: psnr by 0.0")
    assert "misfit by inf" in changed("misfit", np.float32(np.nan)).verdict
    result.attrs["verdict"] = "splendid"
    found = rerun(result, progress=False)
    assert not found.agrees
    assert "the verdict was splendid, now " in found.verdict
    assert "rounding grows" not in str(found)  # made as it was: it is no rounding
    result.attrs["torch_version"] = "2.4.0"
    assert "rounding grows along a run" in str(rerun(result, progress=False))


# ---------------------------------------------------------------- files


@pytest.fixture
def moved(tmp_path):
    """A result of a data file and one of weights, and the folder to which both were moved."""
    (tmp_path / "old").mkdir()
    image = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    np.save(tmp_path / "old" / "object.npy", image)
    torch.manual_seed(0)
    denoiser = NetworkDenoiser(build_network({**NETWORK, "image_shape": [1, 16, 16]}))
    weights = save_prior(tmp_path / "old" / "mine.safetensors", denoiser, training={})
    problem = load_problem(
        "scattering/linear_60", tmp_path / "old" / "object.npy", weights, SCATTERING
    )
    reconstruct(problem, tmp_path / "out", 1, progress=False)
    (tmp_path / "old").rename(tmp_path / "new")
    return tmp_path / "out" / "result.nc", tmp_path / "new"


def test_missing_and_changed_files_are_named_and_found_elsewhere(moved):
    result, folder = moved
    told = lmaps("rerun", result, "-q").stderr
    assert "object.npy' (data) is missing" in told
    assert "mine.safetensors' (prior.file) is missing" in told
    for places in ({"data": folder}, {"data": folder / "object.npy", "prior": folder}):
        assert rerun(result, progress=False, **places).identical
    (folder / "object.npy").rename(folder / "renamed.npy")
    both = {"data": folder / "renamed.npy", "prior": folder / "mine.safetensors"}
    assert rerun(result, progress=False, **both).identical
    was = sha256(folder / "renamed.npy")
    np.save(folder / "renamed.npy", np.ones((16, 16)))
    with pytest.raises(DataError, match=f"has changed: its SHA-256 is [0-9a-f]{{64}}, was {was}"):
        rerun(result, progress=False, **both)


def test_a_place_that_holds_none_of_the_files_is_refused(moved, results, tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        rerun(results(scattering), data=tmp_path / "nowhere", progress=False)
    (tmp_path / "other.npy").write_bytes(b"other")
    with pytest.raises(DataError, match="holds no file of this run"):
        rerun(results(scattering), data=tmp_path / "other.npy", progress=False)


def test_public_data_are_looked_for_by_name(data_dir, tmp_path, monkeypatch):
    pytest.importorskip("ehtim")
    monkeypatch.setenv("LMAPS_DATA", str(data_dir))
    problem = load_problem("black_hole/m87_2017", None, "gaussian", HOLE)
    reconstruct(problem, tmp_path / "out", 1, progress=False)
    result = tmp_path / "out" / "result.nc"
    assert rerun(result, progress=False).identical
    monkeypatch.setenv("LMAPS_DATA", str(tmp_path / "empty"))
    monkeypatch.setattr("lmaps_science.manifests.cache_folder", lambda: tmp_path / "empty")
    with pytest.raises(DataError, match="lmaps data m87_2017_095_lo"):
        rerun(result, progress=False)
    assert rerun(result, data=data_dir / "eht", progress=False).identical


def test_a_folder_of_all_files_of_a_disk_is_no_data(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "_MOST_FILES", 3)
    for k in range(3):
        (tmp_path / str(k)).write_text("")
    assert len(inputs.fingerprint(tmp_path)) == 64
    (tmp_path / "3").write_text("")
    with pytest.raises(DataError, match="more than 3 files"):
        inputs.fingerprint(tmp_path)


# ---------------------------------------------------------------- solvers, priors, seeds


def test_another_preset_and_solvers_and_priors_of_python(tmp_path):
    problem = scattering(tmp_path)
    reconstruct(problem, tmp_path / "a", 1, solver=problem.solvers["quick"], progress=False)
    assert rerun(tmp_path / "a" / "result.nc", progress=False).identical
    own = DPS(levels=2)
    reconstruct(problem, tmp_path / "b", 1, solver=own, progress=False)
    with pytest.raises(DataError, match=r"cannot be rebuilt.*DPS\(levels=2.*LMAPS\(levels=3"):
        rerun(tmp_path / "b" / "result.nc", progress=False)
    assert rerun(tmp_path / "b" / "result.nc", solver=own, progress=False).identical
    with pytest.raises(DataError, match=r"another run: solver.levels: 2, now 4"):
        rerun(tmp_path / "b" / "result.nc", solver=DPS(levels=4), progress=False)


def test_a_prior_of_python_is_asked_for(tmp_path):
    network(tmp_path)
    prior = load_prior(tmp_path / "mine.safetensors")
    problem = load_problem("scattering/linear_60", None, prior, SCATTERING)
    reconstruct(problem, tmp_path / "out", 1, progress=False)
    result = tmp_path / "out" / "result.nc"
    with pytest.raises(DataError, match="the prior was given in Python"):
        rerun(result, progress=False)
    assert rerun(result, prior=tmp_path / "mine.safetensors", progress=False).identical
    assert rerun(result, prior=prior, progress=False).identical
    torch.manual_seed(1)
    other = NetworkDenoiser(build_network({**NETWORK, "image_shape": [1, 16, 16]}))
    with pytest.raises(DataError, match="another run: prior: "):
        rerun(result, prior=other, progress=False)


def test_what_was_changed_afterwards_is_refused(result):
    def refused(match, **attrs):
        copy = result.copy()
        copy.attrs = {**json.loads(json.dumps(result.attrs)), **attrs}
        with pytest.raises(DataError, match=match):
            rerun(copy, progress=False)
        return copy

    refused("another run: seed: 3, now 4", seed=4)
    refused("identity", settings={**result.attrs["settings"], "seed": 4})
    refused(
        "another run: sigma_factor: 1.0, now 2.0", card=result.attrs["card"] | {"sigma_factor": 2}
    )
    refused("cannot be rebuilt", solver="LMAPS(levels=4)")
    refused("seed: Input should be", seed="3; import os")
    refused("dtype is 'complex'", dtype="complex")
    refused("kind is 'blackhole'", kind="blackhole")
    refused("was changed after it was written", kind="mri")
    with pytest.raises(DataError, match="another run: samples: 2, now 1"):
        rerun(result.isel(sample=[0]), progress=False)


def test_results_of_older_versions_say_what_they_lack(result):
    for name in ("settings", "identity", "inputs"):
        del result.attrs[name]
    with pytest.raises(DataError, match="lacks inputs, settings, identity"):
        rerun(result, progress=False)


def test_keys_that_are_new_in_this_version_have_their_defaults(result):
    card = {k: v for k, v in result.attrs["card"].items() if k != "sigma_factor"}
    known = {k: v for k, v in result.attrs["settings"].items() if k != "sigma_factor"}
    result.attrs |= {"card": card, "settings": known, "identity": inputs.identity(known)}
    assert rerun(result, progress=False).identical


# ---------------------------------------------------------------- foreign results


def test_code_that_a_result_names_is_not_imported_unless_it_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "foreign_solver.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    changes = {**SCATTERING, "solver.method": "foreign_solver:Mine"}
    del changes["solver.levels"]
    changes["solver.levels"] = 2
    problem = load_problem("scattering/linear_60", None, "gaussian", changes)
    reconstruct(problem, tmp_path / "out", 1, progress=False)
    result, ran = tmp_path / "out" / "result.nc", tmp_path / "foreign_solver.ran"
    assert ran.exists()
    ran.unlink()
    del sys.modules["foreign_solver"]
    refused = lmaps("rerun", result, "-q")
    assert refused.exit_code == 1
    assert "--trust 'foreign_solver:Mine'" in refused.stderr
    assert lmaps("rerun", result, "-q", "--trust", "other:Class").exit_code == 1
    assert not ran.exists()
    assert "foreign_solver" not in sys.modules
    trusted = lmaps("rerun", result, "-q", "--trust", "foreign_solver:Mine")
    assert trusted.exit_code == 0, trusted.output
    assert "identical to the bit" in trusted.stdout
    assert ran.exists()


@pytest.mark.parametrize("place", ["method", "local"])
def test_it_is_not_imported_from_any_preset_or_part_of_a_solver(
    place, result, monkeypatch, tmp_path
):
    (tmp_path / "foreign_part.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    presets = json.loads(json.dumps(result.attrs["card"]["presets"]))
    presets["paper"][place] = "foreign_part:Mine"
    result.attrs["card"] = {**result.attrs["card"], "presets": presets}
    with pytest.raises(DataError, match="'foreign_part:Mine' is a class outside"):
        rerun(result, progress=False)
    assert not (tmp_path / "foreign_part.ran").exists()


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["/etc/passwd", "../../x", "/dev/zero", "/", "~root/x", "\0", "os:system"]),
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(content, path=()):
    """Every place in nested dicts and lists."""
    items = content.items() if isinstance(content, dict) else ()
    items = enumerate(content) if isinstance(content, list) else items
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def test_any_attributes_give_a_result_or_an_error_of_ours(results, tmp_path, monkeypatch):
    """Up to where something would run: the problem is not built here, cards have their own test."""
    stored = read_netcdf(results(network))
    names = ["card", "inputs", "settings", "identity", "seed", "solver", "kind", "threads", "dtype"]
    names += ["batch_size", "device", "problem"]
    where = [p for p in places(stored.attrs) if p[0] in names]

    class Reached(Exception):
        pass

    def reached(*arguments):
        raise Reached

    monkeypatch.setattr(module, "build_problem", reached)
    monkeypatch.setattr(inputs, "_MOST_FILES", 100)
    monkeypatch.chdir(tmp_path)

    @settings(
        max_examples=150,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.lists(st.tuples(st.sampled_from(where), VALUES), min_size=1, max_size=3), st.booleans()
    )
    def check(changes, forged):
        attrs = json.loads(json.dumps(stored.attrs))
        for path, value in changes:
            section = attrs
            for key in path[:-1]:
                section = section[key] if isinstance(section, dict) and key in section else {}
            if isinstance(section, dict):
                section[path[-1]] = value
        if forged and isinstance(attrs.get("settings"), dict):
            attrs["identity"] = inputs.identity(attrs["settings"])
        changed = stored.copy()
        changed.attrs = attrs
        complaint = ""
        try:
            rerun(changed, progress=False)
        except Reached:
            pass
        except DataError as error:
            complaint = str(error)
        assert complaint == "" or 20 < len(complaint) < 3000

    check()
    assert list(tmp_path.iterdir()) == []

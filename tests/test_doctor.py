"""`lmaps doctor`: what it finds right, and that it sees what is wrong."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint, PackageNotFoundError, metadata
from importlib.util import find_spec

import pytest
import torch
from typer.testing import CliRunner

from lmaps_science import doctor
from lmaps_science.cards.kind import SelfTest
from lmaps_science.cards.registry import kinds
from lmaps_science.cli import app
from lmaps_science.io import sha256
from lmaps_science.manifests import shipped_folder


def rows(part):
    return {row.what: row for row in part()}


def replaced(monkeypatch, **changes):
    """The kinds, each with `changes` of the kind of that name."""
    now = {k: replace(v, **changes[k]) if k in changes else v for k, v in kinds().items()}
    monkeypatch.setattr(doctor, "kinds", lambda: now)
    return now


# ---------------------------------------------------------------- all of it


def test_this_installation_is_in_order():
    outcome = CliRunner().invoke(app, ["doctor"])
    assert outcome.exit_code == 0, outcome.output
    told = outcome.stdout.splitlines()
    assert told[-1].startswith("0 failed, ")
    for kind in kinds():
        (row,) = (line for line in told if f"self-test {kind}" in line)
        assert row.startswith("ok ") or "not run: " in row
        assert any(f"cards of {kind}" in line for line in told)
    assert any(line.startswith("ok    torch ") for line in told)


def test_json_and_the_exit_code_and_no_test(monkeypatch):
    monkeypatch.setenv("LMAPS_DATA", "/nowhere/at/all")
    monkeypatch.setattr(doctor, "_self_tests", None)  # would be called
    outcome = CliRunner().invoke(app, ["doctor", "--no-test", "--json"])
    assert outcome.exit_code == 1
    found = {row["what"]: row for row in json.loads(outcome.stdout)}
    assert found["LMAPS_DATA"]["status"] == "FAIL"
    assert "there is no such folder" in found["LMAPS_DATA"]["text"]
    assert [row["what"] for row in found.values() if row["status"] == "FAIL"] == ["LMAPS_DATA"]


def test_a_part_that_breaks_hides_no_other(monkeypatch):
    monkeypatch.setattr(doctor, "free_memory", lambda: 1 / 0)
    found = {row.what: row for row in doctor.examine(self_tests=False)}
    assert found["room"].status == "FAIL"
    assert "ZeroDivisionError" in found["room"].text
    assert {"python", "threads", "LMAPS_DATA", "kinds"} <= set(found)


def test_it_needs_no_optional_package(tmp_path):
    """In a process to which all that only extras bring is missing."""
    (tmp_path / "without.py").write_text(
        "import sys\n"
        "for name in ('ehtim', 'finufft', 'ismrmrd', 'nibabel', 'sigpy', 'skimage', 'nilearn',\n"
        "             'accelerate', 'diffusers', 'dask', 'distributed', 'lmdb', 'hydra',\n"
        "             'omegaconf', 'pylops', 'IPython', 'zarr'):\n"
        "    sys.modules[name] = None\n"
        "from lmaps_science.cli import app\n"
        "app(['doctor'])\n"
    )
    command = [sys.executable, str(tmp_path / "without.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout.splitlines()
    lines = {line[6:].split("  ")[0].strip(): line for line in told}
    assert lines["self-test black_hole"].startswith("ok ")
    assert lines["self-test scattering"].startswith("ok ")
    assert "lmaps-science[mri]" in lines["self-test mri"]
    assert lines["self-test mri"].startswith("note")


# ---------------------------------------------------------------- versions and extras


def test_every_extra_of_the_metadata_has_a_row():
    found = rows(doctor._extras)
    assert set(found) == {f"extra {e}" for e in metadata(doctor.PACKAGE).get_all("Provides-Extra")}


def test_missing_and_old_packages(monkeypatch):
    texts = [
        "numpy>=1.26",
        "torch>=99",
        'scipy>=1; extra == "some"',
        'no-such-package>=2; extra == "some"',
        'tqdm>=99; extra == "old"',
        'lmaps-science[old]; extra == "all"',
        'lmaps-science[all]; extra == "all"',
        'other>=1; sys_platform == "nowhere"',
        "not a requirement !",
    ]
    own = doctor.metadata(doctor.PACKAGE)
    monkeypatch.setattr(doctor, "requires", lambda name: texts)
    monkeypatch.setattr(doctor, "metadata", lambda name: _Extras(["some", "old", "all"]))
    assert own["Name"] == doctor.PACKAGE
    found = rows(doctor._versions)
    assert found["numpy"].status == "ok"
    assert found["torch"].status == "FAIL"
    assert found["torch"].text == f"torch is {torch.__version__}, needed is >=99"
    assert "other" not in found
    found = rows(doctor._extras)
    assert {row.status for row in found.values()} == {"note"}
    assert found["extra some"].text == (
        "no-such-package is missing: pip install 'lmaps-science[some]'"
    )
    assert "tqdm is 4" in found["extra old"].text
    assert found["extra all"].text.startswith("tqdm is 4")


class _Extras:
    def __init__(self, names):
        self.names = names

    def get_all(self, key):
        assert key == "Provides-Extra"
        return self.names


def test_a_source_tree_that_is_not_installed_is_told(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", missing)
    monkeypatch.setattr(doctor, "requires", missing)
    assert rows(doctor._versions)[doctor.PACKAGE].status == "note"
    assert rows(doctor._extras) == {}


# ---------------------------------------------------------------- the machine


def test_more_threads_than_cores_are_noted(monkeypatch):
    monkeypatch.setattr(doctor, "_cores", lambda: torch.get_num_threads() - 0.5)
    row = rows(doctor._threads)["threads"]
    assert row.status == "note"
    assert "which is slow" in row.text
    monkeypatch.setattr(doctor, "_cores", lambda: float(torch.get_num_threads()))
    assert rows(doctor._threads)["threads"].status == "ok"


def test_little_memory_and_a_full_disk_are_noted(monkeypatch):
    monkeypatch.setattr(doctor, "free_memory", lambda: 1e9)
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    found = rows(doctor._room)
    assert {row.status for row in found.values()} == {"note"}
    assert found["memory"].text == "1.0 GB free"


def test_devices_that_break_fail(monkeypatch):
    def broken(device):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", broken)
    row = rows(doctor._devices)["cuda:0"]
    assert row.status == "FAIL"
    assert "no kernel image" in row.text


# ---------------------------------------------------------------- weights, cards, entry points


@pytest.mark.parametrize(
    "folder", sorted(shipped_folder("problems").iterdir()), ids=lambda p: p.name
)
def test_the_lists_of_checksums_are_those_of_the_weights(folder):
    """After a change: cd problems/KIND && sha256sum *.safetensors > SHA256SUMS"""
    listed = kinds()[folder.name].checksums
    assert listed == {path.name: sha256(path) for path in folder.glob("*.safetensors")}


def test_changed_missing_and_unlisted_weights(monkeypatch, tmp_path):
    name = next(iter(kinds()))
    (tmp_path / "good.safetensors").write_bytes(b"good")
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    (tmp_path / "new.safetensors").write_bytes(b"new")
    good = sha256(tmp_path / "good.safetensors")
    (tmp_path / "card.yaml").write_text("prior: {kind: network, file: gone.safetensors}")
    listed = ["good", "bad", "gone", "unused"]  # the last as in a wheel, where no card uses it
    lines = [f"{good} {'*' if k == 'bad' else ' '}{k}.safetensors" for k in listed]
    (tmp_path / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    replaced(monkeypatch, **{name: {"cards": tmp_path}})
    found = {what.split()[1]: row for what, row in rows(doctor._weights).items()}
    status = {k: found[f"{k}.safetensors"].status for k in (*listed, "new")}
    assert status.pop("unused") == "note"
    assert status == {"good": "ok", "bad": "FAIL", "new": "note", "gone": "FAIL"}
    assert found["bad.safetensors"].text.startswith(
        f"its SHA-256 is {sha256(tmp_path / 'bad.safetensors')}"
    )


def test_entry_points_that_fail_to_load(monkeypatch):
    broken = EntryPoint("Broken", "no_such_module:Solver", doctor.SOLVERS)
    original = doctor.entry_points

    def entry_points(group):
        return [*original(group=group), *([broken] if group == doctor.SOLVERS else [])]

    monkeypatch.setattr(doctor, "entry_points", entry_points)
    found = rows(doctor._entries)
    assert found["solvers: Broken"].status == "FAIL"
    assert "no_such_module" in found["solvers: Broken"].text
    assert found["kinds"].status == "ok"


def test_cards_that_cannot_be_used(monkeypatch, tmp_path):
    name, kind = next(iter(kinds().items()))
    (tmp_path / "broken.yaml").write_text("kind: nothing")
    found = {row.what: row for row in doctor._cards(replace(kind, cards=tmp_path))}
    assert found[f"card {name}/broken"].status == "FAIL"


# ---------------------------------------------------------------- self-tests


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({"expected": 99.0}, "FAIL", "expected 99"),
        ({"metric": "beauty"}, "FAIL", "no metric 'beauty'"),
        ({"card": "gone"}, "FAIL", "there is no problem"),
    ],
)
def test_a_self_test_that_misses_its_figure_fails(changes, status, told, monkeypatch):
    name = "scattering"
    small = {"image.npix": 16, "prior.kind": "gaussian", "observation.receivers": 24}
    test = SelfTest("linear_60", "psnr", 20.0, 50.0, {**small, "solver.levels": 2})
    monkeypatch.setattr(doctor, "kinds", lambda: {name: replace(kinds()[name], self_test=test)})
    assert rows(doctor._self_tests)[f"self-test {name}"].status == "ok"
    monkeypatch.setattr(
        doctor,
        "kinds",
        lambda: {name: replace(kinds()[name], self_test=replace(test, **changes))},
    )
    row = rows(doctor._self_tests)[f"self-test {name}"]
    assert row.status == status
    assert told in row.text


def test_the_self_tests_tell_the_shipped_prior_from_another(monkeypatch):
    """A figure that any prior reaches would say nothing of the weights."""
    for name, kind in kinds().items():
        if kind.self_test is None or (name == "mri" and find_spec("sigpy") is None):
            continue
        without = {**kind.self_test.overrides, "prior.kind": "gaussian"}
        other = replace(kind, self_test=replace(kind.self_test, overrides=without))
        monkeypatch.setattr(doctor, "kinds", lambda k=other, n=name: {n: k})
        assert rows(doctor._self_tests)[f"self-test {name}"].status == "FAIL"

"""The wheel holds what cards and programs need, and little else."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from lmaps_science.cards.registry import kinds

ROOT = Path(__file__).parents[1]
WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]
LEFT_OUT = [PurePosixPath(path) for path in WHEEL["targets"]["wheel"]["exclude"]]
WEIGHTS = [path for path in LEFT_OUT if path.suffix == ".safetensors"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="builds the wheel with hatchling (extra dev)")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, timeout=120)
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.name)
def test_no_card_uses_weights_that_are_left_out(path):
    kind = kinds()[path.parent.name]
    assert path.name in kind.checksums  # so `find_prior` can tell of it
    for card in kind.cards.glob("*.yaml"):
        assert path.name not in card.read_text("utf-8")


def test_it_holds_all_data_but_what_is_left_out(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    out = {path.name for path in WEIGHTS}
    for folder in ("problems", "data_manifests"):
        for path in (ROOT / folder).rglob("*.*"):
            name = f"lmaps_science/shipped/{path.relative_to(ROOT).as_posix()}"
            assert (name in names) == (path.name not in out and path.suffix != ".png"), name
    assert "lmaps_science/shipped/problems/mri/SHA256SUMS" in names
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {
        "lmaps_science",
        "hydra_plugins",
    }


def test_its_size(wheel):
    size = wheel.stat().st_size / 1e6
    assert size <= 40, f"{size:.1f} MB: leave out weights that no card uses, see pyproject.toml"


def test_it_holds_the_configurations_and_the_plugin_of_a_namespace(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    folder = "lmaps_science/integrations/inversebench/conf"
    configurations = {f"{folder}/algorithm/{p.name}" for p in (ROOT / folder).rglob("*.yaml")}
    assert len(configurations) > 30
    assert configurations | {f"{folder}/__init__.py"} <= names
    assert "hydra_plugins/lmaps_inversebench/__init__.py" in names
    assert "hydra_plugins/__init__.py" not in names  # others' plug-ins would vanish

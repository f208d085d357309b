"""The recipes for clusters: their syntax, and that their commands and arguments exist."""

import ast
import inspect
import py_compile
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from lmaps_science import reconstruct_many
from lmaps_science.cli import app

RECIPES = Path(__file__).parents[2] / "docs" / "cluster"
TEXTS = [RECIPES / "slurm_array.sh", RECIPES / "Snakefile", RECIPES.parent / "cluster.md"]


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.sh")), ids=lambda file: file.name)
def test_shell(file):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    subprocess.run([bash, "-n", str(file)], check=True)


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.py")), ids=lambda file: file.name)
def test_python(file, tmp_path):
    py_compile.compile(str(file), cfile=str(tmp_path / "compiled"), doraise=True)
    known = inspect.signature(reconstruct_many).parameters
    calls = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and "reconstruct_many" in ast.unparse(node)
    ]
    names = {keyword.arg for call in calls for keyword in call.keywords}
    assert {"n_samples", "batch_size", "device"} <= names & set(known)


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.name)
def test_commands_have_these_options(file):
    commands = typer.main.get_command(app).commands
    text = file.read_text().replace("\\\n", " ")
    found = re.findall(r"\blmaps (batch|collect|report|rerun) ([^\n`]*)", text)
    assert found
    for name, arguments in found:
        options = {option for p in commands[name].params for option in (*p.opts, *p.secondary_opts)}
        given = set(re.findall(r"(?<!\S)(--[a-z-]+)", arguments.split("#")[0]))
        assert given <= options, (name, given - options)

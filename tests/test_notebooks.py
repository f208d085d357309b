"""Notebooks: they run, they only narrate, and what is committed is the outcome of one clean run."""

import ast
import re
from pathlib import Path

import pytest

HOW = "notebooks take nbclient and ipykernel: pip install 'lmaps-science[notebooks]'"
nbclient = pytest.importorskip("nbclient", reason=HOW)
nbformat = pytest.importorskip("nbformat", reason=HOW)
pytest.importorskip("ipykernel", reason=HOW)

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
# A slash that starts a path of two parts or more, not one in a URL, a word or a tag.
ABSOLUTE_PATH = re.compile(r"(?<![\w<>/.)*-])/[A-Za-z][\w.-]*/[\w.-]+|\b[A-Za-z]:\\\\?[A-Za-z]")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook):
    """Sources and textual outputs, HTML included."""
    for cell in notebook.cells:
        yield cell.source
        for output in cell.get("outputs", []):
            yield output.get("text", "")
            data = output.get("data", {})
            yield from (str(value) for kind, value in data.items() if not kind.startswith("image"))


def test_there_is_a_notebook():
    assert NOTEBOOKS


@each_notebook
def test_runs_without_measured_data(path, tmp_path, monkeypatch):
    monkeypatch.setenv("LMAPS_FAST", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("LMAPS_DATA", raising=False)
    client = nbclient.NotebookClient(
        read(path),
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},  # nothing may depend on the folder
    )
    client.execute()  # raises at the first error
    assert [p.name for p in tmp_path.iterdir()] in ([], ["ipython"]), "it leaves files behind"


@each_notebook
def test_narrates_only(path):
    """What deserves a name belongs into the package, where it is tested."""
    for cell in code_cells(read(path)):
        definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        found = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, definitions)]
        assert not found, cell.source


@each_notebook
def test_committed_outputs_are_of_one_clean_run(path):
    notebook = read(path)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if "Warning" in output.get("text", "")]
    assert path.stat().st_size < 2.5e6


@each_notebook
def test_no_path_of_a_machine(path):
    for text in texts(read(path)):
        assert not ABSOLUTE_PATH.findall(text)


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("see /home/someone/file.nc", True),
        ("'/tmp/a.png'", True),
        (r"C:\\Users\\someone", True),
        ("File=/opt/data/m87.uvfits", True),
        ("https://doi.org/10.3847/2041-8213/ab0c57", False),
        ("</td></tr> 12 Jy/pixel, image/png, notebooks/black_hole.ipynb", False),
        ("card: black_hole/simulated", False),
    ],
)
def test_what_counts_as_a_path(text, is_path):
    assert bool(ABSOLUTE_PATH.search(text)) == is_path

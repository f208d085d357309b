"""The Python in README.md runs as it stands, with fewer samples and levels."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
FEWER = {
    "n_samples=8": "n_samples=1",
    "n_samples=4": "n_samples=1",
}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_readme_python_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for many, few in FEWER.items():
        block = block.replace(many, few)
    given: dict = {}
    # One block may use what the one before it imported, as a reader would.
    imports = "\n".join(re.findall(r"^from .*|^import .*", "\n".join(BLOCKS), re.MULTILINE))
    exec(compile(f"{imports}\n{block}", str(README), "exec"), given)
    assert len(given["result"]) == 1
    if "plot_reconstruction" in block:
        assert (tmp_path / "figure.png").stat().st_size > 10_000
        assert "Result(1 sample(s)" in capsys.readouterr().out

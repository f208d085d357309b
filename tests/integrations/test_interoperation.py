"""The examples of docs/interoperation.md run as they stand, where their package is installed."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from lmaps_science.integrations.deepinv import as_reconstructor, from_deepinv, to_deepinv
from lmaps_science.operators import Affine
from lmaps_science.solvers import LMAPS

GUIDE = (Path(__file__).parents[2] / "docs" / "interoperation.md").read_text("utf-8")
EXAMPLES = dict(re.findall(r"```python (\w+)\n(.*?)```", GUIDE, re.DOTALL))


def run(package):
    """Names that the example leaves."""
    try:
        __import__(package)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another PyTorch
        pytest.skip(f"needs {package}: {error}")
    found: dict = {}
    exec(compile(EXAMPLES[package], f"interoperation.md, {package}", "exec"), found)
    return found


def test_missing_deepinv_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepinv", None)
    operator = Affine(0.5, 1.0, (1, 6, 5))
    for call in (
        lambda: to_deepinv(operator),
        lambda: from_deepinv(operator),
        lambda: as_reconstructor(LMAPS(), None),
    ):
        with pytest.raises(ImportError, match=r"needs DeepInverse: pip install .*\[deepinv\]"):
            call()


def test_deepinv(capsys):
    found = run("deepinv")
    error = (found["found"] - found["x"]).square().mean().sqrt()
    assert float(error) < 0.2
    assert "tensor" in capsys.readouterr().out


def test_sigpy():
    found = run("sigpy")
    apart = np.linalg.norm(found["found"] - found["image"]) / np.linalg.norm(found["image"])
    assert apart < 0.05
    kspace = found["kspace"][0].numpy()
    np.testing.assert_allclose(kspace, found["linop"](found["found"]), atol=1e-4)


def test_scipy():
    found = run("scipy")
    data, matrix = found["data"], found["matrix"]
    assert np.linalg.norm(matrix @ found["found"].ravel() - data) < 1e-3 * np.linalg.norm(data)
    assert found["largest"].max() == pytest.approx(found["operator"].norm(), rel=1e-2)
    assert found["blurred"].shape == (1, 1, 16, 16)


def test_pylops():
    found = run("pylops")
    assert found["slopes"].shape == (4, 2, 32, 32)
    assert np.isfinite(found["image"]).all()

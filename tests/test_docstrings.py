"""One dialect: Google's sections, names in single backticks, no roles but :math:."""

import ast
import re
from pathlib import Path

import pytest

import lmaps_science

ROOT = Path(lmaps_science.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
KINDS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_docstrings_are_of_one_dialect(file):
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        text = ast.get_docstring(node) if isinstance(node, KINDS) else None
        if text is None:
            continue
        where = f"{file.name}: {getattr(node, 'name', 'module')}"
        assert "``" not in text, f"{where}: write `name`, in single backticks"
        roles = set(re.findall(r":(\w+):`", text)) - {"math"}
        assert not roles, f"{where}: write `name` instead of the roles {roles}"
        wrong = re.findall(r"^\s*(\w+):?\n\s*-{3,}$", text, re.M)
        assert not wrong, f"{where}: NumPy's sections; write Args:, Returns:, Raises:"

"""One dialect: Google's sections, names in single backticks, no roles but :math:.

And what public names tell: what they are, shapes, errors, equations, sources, examples that run.
"""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from pathlib import Path

import pytest

import lmaps_science
from lmaps_science import metrics
from lmaps_science.cards.registry import methods
from lmaps_science.operators import Operator

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


# ---------------------------------------------------------------- what public names tell


def modules():
    names = (m.name for m in pkgutil.walk_packages(lmaps_science.__path__, "lmaps_science."))
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


MODULES = modules()


def public(module):
    """Classes and functions of `__all__` that are written here, and public methods of classes."""
    for name in getattr(module, "__all__", ()):
        found = getattr(module, name)
        if getattr(found, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(found) or inspect.isfunction(found):
            yield name, found, found.__doc__ if inspect.isclass(found) else inspect.getdoc(found)
        for key, member in vars(found).items() if inspect.isclass(found) else ():
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if not key.startswith("_") and inspect.isfunction(function):
                yield f"{name}.{key}", function, inspect.getdoc(getattr(found, key))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_public_names_say_what_they_are(module):
    missing = [name for name, _, text in public(module) if not text]
    assert not missing, f"{module.__name__}: a docstring for {missing}"


def raised(function):
    """Errors that a function raises itself, those of functions inside it left out."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    pending = list(ast.iter_child_nodes(tree))
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield ast.unparse(node.exc.func)
        if not isinstance(node, (ast.FunctionDef, ast.Lambda)):
            pending += ast.iter_child_nodes(node)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_functions_say_what_they_refuse(module):
    for name, found, text in public(module):
        if inspect.isfunction(found) and {"ValueError", "DataError", "TypeError"} & {
            *raised(found)
        }:
            said = re.search(r"Raises:|Raise |[Rr]efuse|[A-Z]\w+Error", text)
            assert said, f"{module.__name__}.{name}: it raises, and its docstring needs Raises:"


ARRAY = re.compile(r"\b(Tensor|ndarray|NDArray|ArrayLike)\b")
SHAPE = re.compile(r"\([^)]*\b[A-Za-z.*]+\s*,|\(\w+,?\)|\blike\b|shape|as in `")
# Fields' own helpers draw and measure images of their own.
GENERAL = [m for m in MODULES if m.__name__.split(".")[1] not in ("problems", "integrations")]


@pytest.mark.parametrize("module", GENERAL, ids=lambda module: module.__name__)
def test_functions_of_arrays_say_their_shapes(module):
    for name, found, text in public(module):
        if not inspect.isfunction(found) or "." in name:
            continue
        takes = [str(p.annotation) for p in inspect.signature(found).parameters.values()]
        if any(map(ARRAY.search, takes)):
            assert SHAPE.search(text), f"{module.__name__}.{name}: which shapes, e.g. (B, C, H, W)?"


SOLVERS = [cls for cls in methods().values() if cls.__module__.startswith("lmaps_science.solvers.")]


@pytest.mark.parametrize("cls", SOLVERS, ids=lambda cls: cls.__name__)
def test_solvers_name_their_source(cls):
    told = f"{sys.modules[cls.__module__].__doc__} {cls.__doc__}"
    ours = {"ExactSVD", "Langevin", "Metropolis"}  # a textbook's
    assert re.search(r"Sources?\b|[A-Z]\w+ et al\. \d{4}|LMAPS", told) or cls.__name__ in ours


PHYSICS = [
    (f"{module.__name__}.{name}", text)
    for module in MODULES
    if module.__name__.startswith("lmaps_science.physics.")
    for name, found, text in public(module)
    if inspect.isclass(found) and issubclass(found, Operator)
]


@pytest.mark.parametrize(("name", "text"), PHYSICS, ids=[name for name, _ in PHYSICS])
def test_operators_show_their_equation(name, text):
    module = sys.modules[name.rpartition(".")[0]].__doc__
    assert re.search(r"\.\. math::|:math:`|\S+ = \S+", f"{text} {module}"), name


# ---------------------------------------------------------------- examples


SHOWN = [
    *((name, getattr(lmaps_science, name)) for name in lmaps_science.__all__),
    *((f"solvers.{cls.__name__}", cls) for cls in methods().values()),
    *((f"metrics.{name}", getattr(metrics, name)) for name in metrics.__all__),
]


@pytest.mark.parametrize(("name", "found"), SHOWN, ids=[name for name, _ in SHOWN])
def test_what_users_meet_first_shows_an_example(name, found):
    assert re.search(r"^\s*Example:\n\s+>>> ", found.__doc__, re.M), (
        f"{name}: two lines of use, >>>"
    )


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples_run(module, tmp_path, monkeypatch):
    """What is written after >>>; other examples, which need data of somebody's, are Python."""
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0
    for name, _, text in public(module):
        for example in re.findall(r"^Examples?:\n((?:[ ]{4}.*\n?|\n)+)", text or "", re.M):
            if ">>>" not in example:
                compile(textwrap.dedent(example), f"{module.__name__}.{name}", "exec")

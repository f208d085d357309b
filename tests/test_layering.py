"""A module imports only from lower levels; optional packages are imported where they are used."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmaps_science

ROOT = Path(lmaps_science.__file__).parent
LEVELS = [  # modules and sub-packages, each one unit; siblings on a level do not import each other
    {"arrays", "metering", "search"},
    {"linalg", "noise", "metrics", "io"},
    {"manifests"},  # files that io then reads
    {"operators"},
    {"priors"},  # of latents, too, whose decoder is an operator
    {"misfit", "surrogate"},
    {"physics"},
    {"local_map"},
    {"sampling"},
    {"solvers", "training", "diagnostics", "toys"},
    {"cards"},  # finds problems and solvers by their entry points, without importing them
    {"plots", "commands"},
    {"problems"},
    {"report"},
    {"runner", "integrations"},
    {"doctor", "compare"},
    {"cli"},
]
LEVEL_OF = {unit: level for level, units in enumerate(LEVELS) for unit in units}
OPTIONAL = {
    "accelerate", "dask", "deepinv", "diffusers", "distributed", "ehtim", "finufft", "hydra",
    "ismrmrd", "jinja2", "lmdb", "lpips", "nibabel", "optuna", "pylops", "sigpy", "zarr",
}  # fmt: skip
# Importing the package must stay quick and need no display: these, too, wait until they are used.
SLOW = {"astropy", "IPython", "matplotlib", "pooch"}
FILES = sorted(set(ROOT.rglob("*.py")) - {ROOT / "__init__.py"})  # it opens every door


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def unit_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Dotted names that a file imports, and whether it does so inside a function."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    late = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef)) or _is_type_checking(outer)
        for inner in ast.walk(outer)
    }
    package = ["lmaps_science", *file.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names = [origin]
            if origin == "lmaps_science":  # `from lmaps_science import solvers`
                names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((imported, id(node) in late) for imported in names)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def test_every_unit_has_a_level():
    units = {unit_of(file) for file in FILES}
    assert units <= set(LEVEL_OF), f"give a level to {units - set(LEVEL_OF)}"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_imports_go_down(file):
    unit = unit_of(file)
    for imported, _ in imports(file):
        parts = imported.split(".")
        if parts[0] != "lmaps_science" or len(parts) == 1:
            continue
        other = parts[1]
        if other == unit:
            continue
        if other not in LEVEL_OF:
            # A name of the package itself, such as its version, comes through the front door.
            assert LEVEL_OF[unit] == len(LEVELS) - 1, f"{name(file)} imports {imported}"
            continue
        assert LEVEL_OF[other] < LEVEL_OF[unit], (
            f"{name(file)} is on level {LEVEL_OF[unit]} and imports {imported}, "
            f"which is on level {LEVEL_OF[other]}."
        )


@pytest.mark.parametrize("file", FILES, ids=name)
def test_optional_and_slow_packages_are_imported_where_they_are_used(file):
    early = {imported.split(".")[0] for imported, late in imports(file) if not late}
    draws = unit_of(file) == "plots" or file.name == "figures.py"
    allowed = {"matplotlib"} if draws else set()
    assert not early & (OPTIONAL | SLOW) - allowed


FIELDS = sorted(p.name for p in (ROOT / "problems").iterdir() if (p / "__init__.py").exists())


@pytest.mark.parametrize("file", FILES, ids=name)
def test_fields_do_not_know_each_other_and_nobody_else_names_them(file):
    parts = file.relative_to(ROOT).parts
    others = set(FIELDS) - set(parts[1:2] if parts[0] == "problems" else ())
    for imported, _ in imports(file):
        assert not set(imported.split(".")[2:3]) & others or ".problems." not in imported
    strings = {
        node.value
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert not strings & others, f"{name(file)} tests which field it is: put that into its Kind"

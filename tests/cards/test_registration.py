"""What is installed is found by its entry points, ours like any other's."""

import dataclasses
import importlib
import inspect
import tomllib
from pathlib import Path

import pytest
import registries
from instances_restoration import STAND_INS, WITHOUT_DERIVATIVE

from lmaps_science import local_map, misfit, operators, priors, solvers
from lmaps_science.cards.methods import build_solver
from lmaps_science.cards.registry import find_method, kinds, methods, recipes
from lmaps_science.local_map import LBFGS, LocalSolver
from lmaps_science.sampling import Solver
from lmaps_science.solvers.local_posterior import LocalSampler

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
POINTS = PROJECT["project"]["entry-points"]
PHYSICS = [  # every module of operators
    importlib.import_module(f"lmaps_science.physics.{path.stem}")
    for path in Path(importlib.import_module("lmaps_science.physics").__file__).parent.glob("*.py")
    if path.stem != "__init__"
]


def exported(module, base):
    """Classes of a module's `__all__` derived from `base`, but `base` itself."""
    named = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
    return {
        name: c
        for name, c in named.items()
        if isinstance(c, type) and issubclass(c, base) and not inspect.isabstract(c) and c != base
    }


def parts(value, found=None):
    """The classes of an object and of what it holds."""
    found = set() if found is None else found
    if type(value) not in found and type(value).__module__.startswith("lmaps_science"):
        found.add(type(value))
    inside = vars(value).values() if hasattr(value, "__dict__") else ()
    for item in inside:
        for each in item if isinstance(item, (tuple, list)) else (item,):
            if type(each).__module__.startswith("lmaps_science"):
                parts(each, found)
    return found


def test_every_solver_and_part_is_an_entry_point():
    declared = set(POINTS["lmaps_science.solvers"])
    exist = {
        **exported(solvers, Solver),
        **exported(solvers, LocalSampler),
        **exported(solvers, LocalSolver),
        **exported(local_map, LocalSolver),
    }
    assert declared == set(exist)
    assert all(dataclasses.is_dataclass(cls) for cls in exist.values())
    assert {cls.__name__ for cls in methods().values()} >= declared


def test_every_field_is_an_entry_point():
    folder = Path(importlib.import_module("lmaps_science.problems").__file__).parent
    fields = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert set(POINTS["lmaps_science.problems"]) == fields <= set(kinds())
    for name in fields:
        kind = kinds()[name]
        assert kind.card_class.model_fields["kind"].annotation.__args__ == (name,)
        assert list(kind.cards.glob("*.yaml"))
    assert {"black_hole", "brain", "nuclei"} <= set(recipes())


def test_the_registry_of_solvers_is_complete():
    built = set().union(*(parts(make()) for make in registries.SOLVERS))
    missing = {c.__name__ for c in methods().values() if c.__module__.startswith("lmaps_science.")}
    missing -= {cls.__name__ for cls in built}
    assert not missing, f"tests/registries.py has no {sorted(missing)}"


def test_the_registry_of_operators_is_complete():
    makers = (*registries.OPERATORS, *WITHOUT_DERIVATIVE, *STAND_INS)
    built = set().union(*(parts(make()) for make in makers))
    named = [exported(module, operators.Operator) for module in (operators, *PHYSICS)]
    missing = set().union(*named) - {cls.__name__ for cls in built}
    missing -= {"LinearOperator", "SVDOperator"}  # they have no forward of their own
    assert not missing, f"tests/registries.py has no {sorted(missing)}"


def test_the_registry_of_misfits_is_complete():
    built = set().union(*(parts(make()) for make in registries.MISFITS))
    named = [exported(module, misfit.Misfit) for module in (misfit, *PHYSICS)]
    missing = set().union(*named) - {cls.__name__ for cls in built}
    assert not missing, f"tests/registries.py has no {sorted(missing)}"


def test_the_registry_of_priors_is_complete():
    built = set().union(*(parts(make((1, 8, 8))) for make in registries.PRIORS))
    missing = set(exported(priors, priors.Denoiser)) - {cls.__name__ for cls in built}
    missing -= {"ConditionalDenoiser"}  # it must be told data: tests/trunk/test_conditional.py
    covariances = set(exported(priors, priors.Covariance)) - {cls.__name__ for cls in built}
    assert not missing | covariances, f"tests/registries.py has no {missing | covariances}"


def test_a_class_that_is_not_installed_is_found_by_its_module(tmp_path, monkeypatch):
    (tmp_path / "my_methods.py").write_text(
        "from dataclasses import dataclass\n"
        "from lmaps_science.local_map import LBFGS\n"
        "from lmaps_science.solvers import LMAPS\n"
        "@dataclass(frozen=True)\n"
        "class Mine(LMAPS):\n"
        "    strength: float = 1.0\n"
        "@dataclass(frozen=True)\n"
        "class Local(LBFGS):\n"
        "    extra: int = 2\n"
        "class NoSolver:\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    local = {"method": "my_methods:Local", "extra": 3}
    found = build_solver({"method": "my_methods:Mine", "strength": 2, "local": local})
    assert (found.strength, found.local.extra, found.local.iterations) == (2.0, 3, 20)
    for name, message in (
        ("my_methods:Nobody", "Nobody"),
        ("no_module:Mine", "no_module.*package.module:Class"),
        ("my_methods:NoSolver", "no dataclass derived from lmaps_science.sampling.protocol.Solver"),
        ("my_methods:Local", "no dataclass derived from"),
    ):
        with pytest.raises(ValueError, match=message):
            build_solver({"method": name})


def test_a_part_is_no_solver_and_a_solver_no_part():
    assert find_method("lbfgs", LocalSolver) is LBFGS
    assert find_method("lbfgs", Solver) is None
    with pytest.raises(ValueError, match=r"solver\.local\.method: there is no 'lmaps'"):
        build_solver({"method": "lmaps", "local": "lmaps"})
    with pytest.raises(ValueError, match=r"Did you mean 'lbfgs'"):
        build_solver({"method": "lmaps", "local": "lbfg"})

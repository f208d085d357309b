"""What is installed: kinds of problems and solvers, ours and those of other packages.

Both are found through Python's entry points, groups `lmaps_science.problems` (objects
`Kind`) and `lmaps_science.solvers` (dataclasses: solvers, and the
parts that some of them take, such as local solvers). The built-in ones are declared in this
package's own pyproject.toml and found in the same way.
"""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from lmaps_science.cards.kind import Kind, Recipe
from lmaps_science.io.files import DataError, shown, suggestion

__all__ = ["find_kind", "find_method", "kinds", "methods", "recipes", "trusting"]

PROBLEMS, SOLVERS = "lmaps_science.problems", "lmaps_science.solvers"
_TRUSTED: ContextVar[frozenset[str] | None] = ContextVar("trusted", default=None)  # None: all


@lru_cache(maxsize=1)
def kinds() -> Mapping[str, Kind]:
    """The kinds of problems that are installed, by name."""
    found = _installed(PROBLEMS, Kind, lambda kind: kind.name)
    for kind in found.values():
        if not kind.cards.is_dir():  # else it would just not be in any list
            message = f"{kind.package}: there is no folder {kind.cards} with the cards of kind "
            warnings.warn(f"{message}{kind.name!r}. Is it in the wheel?", stacklevel=2)
    return dict(sorted(found.items()))


def find_kind(name: object, where: str) -> Kind:
    """The kind called `name`; `where` says who asks.

    Raises:
        DataError: there is none, with the nearest known one.
    """
    known = kinds()
    if not isinstance(name, str) or name not in known:
        raise DataError(
            f"{where}: kind is {shown(name)}.{suggestion(str(name), known)} Known: "
            f"{', '.join(known)}."
        )
    return known[name]


@lru_cache(maxsize=1)
def methods() -> Mapping[str, type]:
    """The classes of group `lmaps_science.solvers` by their own names, as `plain` has them.

    The names of their entry points do not count: messages and cards know a method by its class.
    """
    return _installed(SOLVERS, type, lambda cls: plain(cls.__name__))


def find_method(name: str, base: type | tuple[type, ...]) -> type | None:
    """A dataclass derived from `base`: an installed one by its name, any as `module:Class`.

    Raises:
        DataError: `module:Class` cannot be imported, is no such class, or is not trusted.
    """
    if ":" not in name:
        found = methods().get(plain(name))
        return found if found is not None and issubclass(found, base) else None
    trusted = _TRUSTED.get()
    if trusted is not None and name not in trusted:
        raise DataError(
            f"{shown(name)} is a class outside of what is installed, named by a file and not by "
            "you: to import it would run whatever code is found under that name. If you know it, "
            f"say so: --trust {shown(name)} (in Python, trust=[{shown(name)}])."
        )
    module, _, attribute = name.partition(":")
    try:
        if not all(part.isidentifier() for part in module.split(".")):
            raise ImportError(f"{shown(module)} is no name of a module")
        cls: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"{shown(name)}: {error}. Write package.module:Class, of a module that Python can "
            "import from here (set PYTHONPATH to the folder of a single file)."
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, base) and dataclasses.is_dataclass(cls)):
        bases = base if isinstance(base, tuple) else (base,)
        wanted = " or ".join(f"{each.__module__}.{each.__name__}" for each in bases)
        raise DataError(f"{name} is no dataclass derived from {wanted}.")
    return cls


@contextmanager
def trusting(names: Iterable[str]) -> Iterator[None]:
    """While it is open, `find_method` imports no `module:Class` but these: for foreign files."""
    token = _TRUSTED.set(frozenset(names))
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def recipes() -> dict[str, Recipe]:
    """How priors are trained, of all kinds."""
    found: dict[str, Recipe] = {}
    for kind in kinds().values():
        for name, recipe in kind.training_recipes().items():
            _keep(found, name, recipe, f"recipe {name!r} of {kind.package}")
    return found


def plain(name: str) -> str:
    """A name without case and hyphens: `red_diff`, `RED-diff` and `REDDiff` are one."""
    return name.lower().replace("_", "").replace("-", "")


def _installed(group: str, kind: type, name: Callable[[Any], str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in entry_points(group=group):
        try:
            value = entry.load()
        except Exception as error:  # another package's mistake should not stop this one
            warnings.warn(f"{entry.value} ({group}) cannot be used: {error!r}", stacklevel=3)
            continue
        if not isinstance(value, kind):
            warnings.warn(f"{entry.value} ({group}) is no {kind.__name__}.", stacklevel=3)
            continue
        _keep(found, name(value), value, f"{entry.value} ({group})")
    return found


def _keep(found: dict[str, Any], name: str, value: Any, where: str) -> None:
    """Put in what has a new name; a second of the same would be found by chance, so it is not."""
    if found.setdefault(name, value) is not value:
        warnings.warn(f"{where} is left out: another is called {name!r}. Rename it.", stacklevel=4)

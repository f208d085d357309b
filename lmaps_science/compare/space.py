"""What of a solver may vary: its own `search` and those of its parts, by dotted names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lmaps_science.io.files import DataError
from lmaps_science.sampling import Solver
from lmaps_science.search import Choice, Range, Space

__all__ = ["changed", "search_space", "value_at"]


def search_space(solver: Solver) -> Space:
    """The ranges of a solver, and of the parts in it as `local.learning_rate`.

    Those that do not go with how the solver is set, such as `LMAPS.kappa` beside `kappa2`, are left
    out: both ends of a range must be options that it takes.

    Raises:
        DataError: the solver declares none, or nothing of it may vary.
    """
    name = type(solver).__name__
    if getattr(solver, "search", None) is None:
        raise DataError(
            f"{name} does not say what may vary: give its class an attribute such as search: "
            'ClassVar[Space] = {"zeta": Range(0.02, 2.0, log=True)}, see lmaps_science.search.'
        )
    found = {key: span for key, span in _declared(solver) if _goes(solver, key, span)}
    if not found:
        raise DataError(
            f"nothing of {solver!r} may vary but what it costs: there is nothing to tune."
        )
    return found


def _declared(part: Any, before: str = "") -> list[tuple[str, Range | Choice]]:
    declared: Space = getattr(part, "search", None) or {}
    found = [(before + key, span) for key, span in declared.items()]
    for field in dataclasses.fields(part):
        inner = getattr(part, field.name)
        if dataclasses.is_dataclass(inner) and not isinstance(inner, type):
            found += _declared(inner, f"{before}{field.name}.")
    return found


def _goes(solver: Solver, key: str, span: Range | Choice) -> bool:
    ends = (span.low, span.high) if isinstance(span, Range) else span.values
    try:
        for end in ends:
            changed(solver, {key: end})
    except ValueError:
        return False
    return True


def value_at(part: Any, key: str) -> Any:
    """The option at a dotted name."""
    for name in key.split("."):
        part = getattr(part, name)
    return part


def changed(solver: Solver, values: Mapping[str, Any]) -> Solver:
    """The solver with options, by dotted names, of other values.

    Raises:
        ValueError: it does not take them.
    """
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *above, last = key.split(".")
        inside = nested
        for name in above:
            inside = inside.setdefault(name, {})
        inside[last] = value
    found: Solver = _replaced(solver, nested)
    return found


def _replaced(part: Any, values: Mapping[str, Any]) -> Any:
    new = {
        name: _replaced(getattr(part, name), value) if isinstance(value, dict) else value
        for name, value in values.items()
    }
    return dataclasses.replace(part, **new)

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

    A range is narrowed to what the solver takes as it is set, towards the value that it has: of a
    population `sigma_max` stays above the level at which it is thinned. What may not vary beside
    the other options at all, such as `LMAPS.kappa` beside `kappa2`, is left out.

    Raises:
        DataError: the solver declares none, or nothing of it may vary.
    """
    name = type(solver).__name__
    if getattr(solver, "search", None) is None:
        raise DataError(
            f"{name} does not say what may vary: give its class an attribute such as search: "
            'ClassVar[Space] = {"zeta": Range(0.02, 2.0, log=True)}, see lmaps_science.search.'
        )
    spans = {key: _taken(solver, key, span) for key, span in _declared(solver)}
    found = {key: span for key, span in spans.items() if span is not None}
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


def _taken(solver: Solver, key: str, span: Range | Choice) -> Range | Choice | None:
    """The part of a range that the solver takes, None where that is no more than a value."""
    if isinstance(span, Choice):
        return span if all(_takes(solver, key, value) for value in span.values) else None
    if _takes(solver, key, span.low) and _takes(solver, key, span.high):
        return span
    now = value_at(solver, key)
    if not isinstance(now, (int, float)) or not span.low <= now <= span.high:
        return None
    low, high = (_edge(solver, key, now, end, span) for end in (span.low, span.high))
    return dataclasses.replace(span, low=low, high=high) if high - low > 0.01 * abs(high) else None


def _edge(solver: Solver, key: str, inside: float, outside: float, span: Range) -> float:
    """The last value that the solver takes between `inside`, which it takes, and `outside`."""
    if _takes(solver, key, outside):
        return outside
    for _ in range(12):
        middle = (inside * outside) ** 0.5 if span.log else 0.5 * (inside + outside)
        middle = round(middle) if span.whole else middle
        if _takes(solver, key, middle):
            inside = middle
        else:
            outside = middle
    return inside


def _takes(solver: Solver, key: str, value: Any) -> bool:
    try:
        changed(solver, {key: value})
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

"""Solvers of cards: `{method: lmaps, levels: 50, local: {method: lbfgs}}` -> a dataclass."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lmaps_science.cards.registry import find_method, methods, plain
from lmaps_science.io.files import shown, suggestion
from lmaps_science.sampling import Solver

__all__ = ["build_solver"]


def build_solver(spec: Mapping[str, Any] | str, where: str = "solver") -> Solver:
    """A solver from `{method: lmaps, levels: 50, local: {method: lbfgs, iterations: 20}}`.

    Method names are the class names, in any case, with or without underscores, or
    `package.module:Class` for a class that is not installed. Options are checked against the types
    of the dataclass; an option that is itself a method, such as a local solver, is written alike.

    Raises:
        ValueError: unknown method or option (with the nearest known one), or a wrong value.
    """
    solver: Solver = _build(spec, Solver, where)
    return solver


def _build(spec: Any, base: type | tuple[type, ...], where: str) -> Any:
    spec = {"method": spec} if isinstance(spec, str) else spec
    known = sorted(cls.__name__ for cls in methods().values() if issubclass(cls, base))
    if not isinstance(spec, Mapping) or "method" not in spec:
        raise ValueError(
            f"{where}: expected `method` and its options, e.g. {{method: {known[0]}}}, got "
            f"{shown(spec)}."
        )
    method = str(spec["method"])
    cls = find_method(method, base)
    if cls is None:
        raise ValueError(
            f"{where}.method: there is no {shown(method)}."
            f"{suggestion(plain(method), {plain(name): name for name in known})} Known: "
            f"{', '.join(known)}; or package.module:Class."
        )
    options = {key: value for key, value in spec.items() if key != "method"}
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    try:
        hints = typing.get_type_hints(cls)
    except NameError as error:
        raise ValueError(
            f"{where}: the types of {cls.__name__}'s options cannot be looked up: {error}. Import "
            "them at the top of its module, not under `if TYPE_CHECKING`."
        ) from error
    arguments = {}
    for key, value in options.items():
        if key not in fields:
            holds = [p for p, part in options.items() if isinstance(part, Mapping) and key in part]
            above = where.split(".")[2 if where.startswith("presets.") else 1 :]
            path = ".".join(["solver", *above, *holds[:1], str(key)])
            hint = f" Its {holds[0]} has: --set {path}=..." if holds else ""
            raise ValueError(
                f"{where}: {cls.__name__} has no option {shown(key)}."
                f"{hint or suggestion(str(key), fields)} It has {', '.join(fields)}."
            )
        arguments[key] = _argument(value, hints[key], f"{where}.{key}")
    missing = [name for name in _required(fields) if name not in arguments]
    if missing:
        raise ValueError(f"{where}: {cls.__name__} needs {', '.join(missing)}.")
    try:
        return cls(**arguments)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _required(fields: Mapping[str, dataclasses.Field[Any]]) -> list[str]:
    return [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


def _argument(value: Any, hint: Any, where: str) -> Any:
    # A part, such as a local solver, or `LocalSolver | None`: any registered class of its kind
    parts = [h for h in (hint, *typing.get_args(hint)) if inspect.isabstract(h)]
    if parts and not (value is None and type(None) in typing.get_args(hint)):
        return _build(value, tuple(parts), where)
    if parts:
        return None
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{where}: {fault['msg']}, got {shown(value)}.") from error

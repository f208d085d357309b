"""Problem cards: YAML files that name the data, the prior and the solvers of a problem.

A card is read in three steps: find it and merge it into the card that it `extends`, apply the
overrides, validate everything against the schema of its `kind`. An unknown key is an error.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from lmaps_science import local_map, solvers
from lmaps_science.io.files import DataError, require_file, suggestion
from lmaps_science.manifests import shipped_folder
from lmaps_science.priors import Denoiser
from lmaps_science.sample import Solver

__all__ = ["Card", "Section", "build_solver", "list_problems", "override", "read_card", "validate"]

# Keys that choose what a section is: with another choice, the section's other keys do not apply.
_CHOICES = ("kind", "method")
CardType = TypeVar("CardType", bound="Card")


# ---------------------------------------------------------------- the schema


class Section(BaseModel):
    """Part of a card; an unknown key is an error that suggests the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _know_every_key(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            _check_keys(values, cls.model_fields)
        return values


class Card(Section):
    """What the cards of every kind hold.

    Attributes:
        kind: of problem, which decides the rest of the schema.
        title: one line for lists.
        description: what the problem is, and what to compare a result with.
        references: papers and data releases.
        presets: named solvers, each `{method: ..., option: value, ...}`; one is "default".
        preset: the one in use. Overrides reach it as `solver.option`.
    """

    kind: str
    title: str
    description: str = ""
    references: tuple[str, ...] = ()
    presets: dict[str, dict[str, Any]]
    preset: str = "default"

    @model_validator(mode="after")
    def _check_presets(self) -> Card:
        if self.preset not in self.presets:
            raise ValueError(
                f"preset: there is no {self.preset!r}.{suggestion(self.preset, self.presets)} "
                f"This card has {', '.join(self.presets)}."
            )
        for name in self.presets:
            self.solver(name)
        return self

    def problem(
        self,
        name: str,
        data: str | Path | None = None,
        prior: Denoiser | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Any:
        """The problem, with its data read or simulated; each kind of card makes its own."""
        raise NotImplementedError(f"{type(self).__name__} must define problem(name, ...).")

    def solver(self, preset: str | None = None) -> Solver:
        """The solver of a preset; default: the one in use."""
        name = preset or self.preset
        return build_solver(self.presets[name], f"presets.{name}")


# ---------------------------------------------------------------- files


def list_problems() -> list[str]:
    """Names of the cards that come with the package, such as `black_hole/m87_2017`."""
    folder = shipped_folder("problems")
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


def find_card(name: str) -> Path:
    """The file of a card: a shipped one by its name, or any by its path.

    Raises:
        DataError: neither.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        return require_file(name)
    known = list_problems()
    if name not in known:
        raise DataError(
            f"there is no problem {name!r}.{suggestion(name, known)} Known: {', '.join(known)}; "
            "or give the path of a card, e.g. my_problem.yaml."
        )
    return shipped_folder("problems") / f"{name}.yaml"


def read_card(name: str) -> dict[str, Any]:
    """The content of a card, merged into the card that it `extends` (a name, or a path beside it).

    Raises:
        DataError: no such card, not YAML, or cards that extend each other in a circle.
    """
    return _read(find_card(name), ())


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise DataError(f"{path} extends itself, by way of {seen[-1]}: remove one `extends`.")
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a card: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a card: expected `key: value` lines at its top level.")
    base = content.pop("extends", None)
    if base is None:
        return content
    beside = path.parent / str(base)
    found = beside if beside.is_file() else find_card(str(base))
    return _merged(_read(found, (*seen, path)), content)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = value
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            same = all(value.get(choice, old.get(choice)) == old.get(choice) for choice in _CHOICES)
            merged[key] = _merged(old, value) if same else value
    return merged


# ---------------------------------------------------------------- overrides


def override(card: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a card's content with dotted paths set, e.g. `{"observation.fraction": 0.1}`.

    `solver.` stands for the preset in use. Values are as in YAML; strings are parsed as such, so
    that `"0.1"` from a command line is a number. Setting `kind` or `method` to another value
    starts that section afresh, since its other keys belonged to the old one.

    Raises:
        DataError: a path through something that is not a section.
    """
    changed = copy.deepcopy(dict(card))
    for path, value in changes.items():
        if isinstance(value, str):
            value = _parse(path, value)
        keys = path.split(".")
        if keys[0] == "solver":
            preset = str(changed.get("preset", "default"))
            if preset not in changed.get("presets", {}):
                continue  # the schema will say which there are
            keys[:1] = ["presets", preset]
        _set(changed, keys, value, path)
    return changed


def _parse(path: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"{path}={text}: {' '.join(str(error).split())}") from error


def _set(content: dict[str, Any], keys: list[str], value: Any, path: str) -> None:
    section: Any = content
    for depth, key in enumerate(keys[:-1], 1):
        inside = section.setdefault(key, {})
        if isinstance(inside, str) and keys[0] == "presets":  # `local: lbfgs`, in short
            inside = section[key] = {"method": inside}
        if not isinstance(inside, dict):
            raise DataError(
                f"{path}: {'.'.join(keys[:depth])} is {inside!r}, not a section with keys."
            )
        section = inside
    last = keys[-1]
    if last in _CHOICES and section.get(last) != value:
        section.clear()
    section[last] = value


# ---------------------------------------------------------------- validation


def validate(schema: type[CardType], content: Mapping[str, Any], name: str) -> CardType:
    """The card, checked.

    Raises:
        DataError: the first thing that is wrong, with its path in the card.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        # An unknown key often explains a missing one: it comes first.
        fault = min(error.errors(), key=lambda e: e["type"] == "missing")
        path, message = _path(fault["loc"], content), fault["msg"]
        if fault["type"] == "value_error":
            message = message.removeprefix("Value error, ")
        elif fault["type"] == "missing":
            path, message = [*path, str(fault["loc"][-1])], "this key is missing"
        elif fault["type"] == "union_tag_invalid":
            kind, known = (
                str(fault["ctx"]["tag"]),
                re.findall(r"\w+", fault["ctx"]["expected_tags"]),
            )
            path, message = [*path, "kind"], f"there is no {kind!r}.{suggestion(kind, known)} "
            message += f"Known: {', '.join(known)}."
        else:
            message = f"{message[0].lower()}{message[1:]}, got {fault['input']!r}"
        raise DataError(f"card {name}: {': '.join(filter(None, ['.'.join(path), message]))}") from (
            error
        )


def _path(location: tuple[int | str, ...], content: Any) -> list[str]:
    """The keys of a location; pydantic mixes in the kinds of sections, which are no keys."""
    keys = []
    for part in location:
        if isinstance(content, Mapping) and part in content:
            keys.append(str(part))
            content = content[part]
    return keys


def _check_keys(values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for key in values:
        if key not in known:
            raise ValueError(
                f"unknown key {key!r}.{suggestion(str(key), known)} Known here: {', '.join(known)}."
            )


# ---------------------------------------------------------------- solvers


def build_solver(spec: Mapping[str, Any], where: str = "solver") -> Solver:
    """A solver from `{method: lmaps, levels: 50, local: {method: lbfgs, iterations: 20}}`.

    Method names are the class names, in any case, with or without underscores. Options are checked
    against the types of the dataclass.

    Raises:
        ValueError: unknown method or option (with the nearest known one), or a wrong value.
    """
    known = {name: cls for name, cls in _dataclasses() if hasattr(cls, "step")}
    return _build(spec, known, where)


def _dataclasses() -> list[tuple[str, type]]:
    """Solvers, and the parts that some of them take, such as local solvers."""
    modules = (solvers, local_map)
    found = [(name, getattr(module, name)) for module in modules for name in module.__all__]
    return [(name, c) for name, c in found if isinstance(c, type) and dataclasses.is_dataclass(c)]


def _build(spec: Any, known: Mapping[str, type], where: str) -> Any:
    spec = {"method": spec} if isinstance(spec, str) else spec
    if not isinstance(spec, Mapping) or "method" not in spec:
        raise ValueError(
            f"{where}: expected `method` and its options, e.g. {{method: {next(iter(known))}}}, "
            f"got {spec!r}."
        )
    names = {_plain(name): name for name in known}
    method = str(spec["method"])
    if _plain(method) not in names:
        raise ValueError(
            f"{where}.method: there is no {method!r}.{suggestion(_plain(method), names)} Known: "
            f"{', '.join(known)}."
        )
    cls = known[names[_plain(method)]]
    options = {key: value for key, value in spec.items() if key != "method"}
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in options.items():
        if key not in fields:
            raise ValueError(
                f"{where}: {cls.__name__} has no option {key!r}.{suggestion(key, fields)} It has "
                f"{', '.join(fields)}."
            )
        arguments[key] = _argument(value, hints[key], f"{where}.{key}")
    try:
        return cls(**arguments)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _argument(value: Any, hint: Any, where: str) -> Any:
    if getattr(hint, "_is_protocol", False):  # a part: any dataclass that is called the same way
        return _build(value, _parts(hint), where)
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{where}: {fault['msg']}, got {value!r}.") from error


def _parts(protocol: type) -> dict[str, type]:
    def parameters(cls: Any) -> list[str]:
        return list(inspect.signature(cls.__call__).parameters)

    return {
        name: cls
        for name, cls in _dataclasses()
        if "__call__" in vars(cls) and parameters(cls) == parameters(protocol)
    }


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")

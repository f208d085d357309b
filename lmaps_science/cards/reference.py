"""A card in full, each key with its meaning: what it may be, its default, what it does.

Everything comes from the schema: types, limits and `Field(description=...)`.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from lmaps_science.cards.registry import find_method
from lmaps_science.cards.schema import Card
from lmaps_science.sampling import Solver

__all__ = ["Key", "annotated", "keys", "sections", "undescribed"]

WIDTH = 100
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
NAMES = {
    "string": "text",
    "number": "number",
    "integer": "whole number",
    "boolean": "true or false",
    "null": "null",
    "object": "keys and values",
}
UNIT = re.compile(r" ?\[([A-Za-zµ][^\]]*)\]")  # in a description: "Field of view [microarcsecond]."


class Key(NamedTuple):
    """A key of a card: its name, what it may be, its default, its unit and what it means.

    Attributes:
        name: of the key.
        allowed: what it may be, in words.
        default: as YAML writes it; empty where the key must be given.
        unit: of a number; empty where it has none.
        meaning: one or two sentences.
    """

    name: str
    allowed: str
    default: str
    unit: str
    meaning: str


def annotated(card: Card) -> str:
    """The card as YAML, with a comment above each key: a card itself."""
    return "\n".join(_section(card, 0, {})).strip()


def undescribed(schema: type[BaseModel]) -> list[str]:
    """Keys of a schema, `Section.key`, that say nothing of their meaning; sections' classes do."""
    found = []
    for model in _models(schema):
        for name, field in model.model_fields.items():
            parts = typing.get_args(field.annotation) or (field.annotation,)
            section = all(inspect.isclass(part) and issubclass(part, BaseModel) for part in parts)
            if not section and not _meaning(model, name):
                found.append(f"{model.__name__}.{name}")
    return found


def sections(schema: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    """What may be inside of a card, with the key of each section, in the order of the keys."""
    found: list[tuple[str, type[BaseModel]]] = []
    for name, field in schema.model_fields.items():
        pending = [field.annotation]
        while pending:
            hint = pending.pop(0)
            if inspect.isclass(hint) and issubclass(hint, BaseModel):
                inside = [(f"{name}.{key}", model) for key, model in sections(hint)]
                found += [item for item in [(name, hint), *inside] if item not in found]
            else:
                pending += typing.get_args(hint)
    return found


def keys(schema: type[BaseModel]) -> list[Key]:
    """The keys of a section or card, those of sections inside it not included."""
    whole = schema.model_json_schema()
    found = []
    for name, field in schema.model_fields.items():
        meaning = _meaning(schema, name) or _choice(field.annotation)
        units = UNIT.findall(meaning)
        allowed = _allowed(whole["properties"][name], whole.get("$defs", {}))
        value = field.get_default(call_default_factory=True)
        given = not field.is_required() and not isinstance(value, BaseModel)
        default = _plain(value) if given else ""
        meaning = UNIT.sub("", meaning) if len(units) == 1 else meaning
        found.append(Key(name, allowed, default, units[0] if len(units) == 1 else "", meaning))
    return found


def _choice(hint: Any) -> str:
    """What a section is, or may be, each in the first line of its class."""
    parts = [part for part in typing.get_args(hint) or (hint,) if inspect.isclass(part)]
    lines = [_first_line(part) for part in parts if issubclass(part, BaseModel)]
    return " Or: ".join(lines)


def _models(schema: type[BaseModel]) -> list[type[BaseModel]]:
    """A section's class, and those of all sections that may be inside."""
    found = [schema]
    pending: list[Any] = [field.annotation for field in schema.model_fields.values()]
    while pending:
        hint = pending.pop()
        if inspect.isclass(hint) and issubclass(hint, BaseModel):
            found += [model for model in _models(hint) if model not in found]
        else:
            pending += typing.get_args(hint)
    return found


def _meaning(model: type[BaseModel], name: str) -> str:
    """The description of a key, or where a class narrows an inherited one, of that."""
    for cls in model.__mro__:
        field = getattr(cls, "model_fields", {}).get(name)
        if field is not None and field.description:
            return str(field.description)
    return ""


# ---------------------------------------------------------------- YAML


def _section(section: BaseModel, depth: int, choices: Mapping[str, str]) -> Iterator[str]:
    schema = type(section).model_json_schema()
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        wanted = schema["properties"][name]
        inside = isinstance(value, BaseModel)
        meaning = _first_line(type(value)) if inside else _meaning(type(section), name)
        # A section shows what it may be by its kind.
        allowed = choices.get(name) or ("" if inside else _allowed(wanted, schema.get("$defs", {})))
        if not field.is_required() and not inside:
            allowed += f"; default: {_plain(field.get_default(call_default_factory=True))}"
        if depth == 0 and inside:
            yield ""
        yield from _comment(meaning, allowed, depth)
        if inside:
            yield f"{'  ' * depth}{name}:"
            kinds = wanted.get("discriminator", {})
            tags = {kinds["propertyName"]: " or ".join(kinds["mapping"])} if kinds else {}
            yield from _section(value, depth + 1, tags)
        elif isinstance(section, Card) and name == "presets":
            yield f"{name}:"
            yield from _presets(section)
        else:
            yield from _indented(section.model_dump(mode="json", include={name}), depth)


def _presets(card: Card) -> Iterator[str]:
    for name, options in card.presets.items():
        cls = find_method(str(options["method"]), Solver)
        if cls is not None:
            others = [
                f"{field.name}: {_plain(field.default)}"
                for field in dataclasses.fields(cls)
                if field.init and field.name not in options
            ]
            yield from _comment(f"{cls.__name__}, {_first_line(cls)}", "", 1)
            if others:
                yield from _comment(f"Also: {', '.join(others)}.", "", 1)
        yield from _indented({name: options}, 1)


def _indented(content: Mapping[str, Any], depth: int) -> Iterator[str]:
    """YAML of one key: short lists and options on a line, long text folded, references apart."""
    ((name, value),) = content.items()
    width = WIDTH - 2 * depth
    if isinstance(value, str) and len(value) > 60 and " ".join(value.split()) == value.rstrip("\n"):
        lines = textwrap.wrap(value, width - 2, break_on_hyphens=False, break_long_words=False)
        text = f"{name}: >{'' if value.endswith(chr(10)) else '-'}\n"
        text += textwrap.indent("\n".join(lines), "  ")
    else:
        numbers = isinstance(value, list) and not any(isinstance(item, str) for item in value)
        flow = None if numbers or isinstance(value, dict) else False
        text = yaml.safe_dump(
            dict(content),
            sort_keys=False,
            allow_unicode=True,
            width=width,
            default_flow_style=flow,
        )
    yield from textwrap.indent(text.rstrip(), "  " * depth).splitlines()


def _comment(meaning: str, allowed: str, depth: int) -> Iterator[str]:
    text = f"{meaning} ({allowed})" if meaning and allowed else meaning or allowed
    start = "  " * depth + "# "
    yield from textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=start)


def _first_line(cls: type) -> str:
    line = (inspect.getdoc(cls) or "").split("\n")[0]
    return re.sub(r"(:\w+:)?`+~?([^`]*)`+", r"\2", line)


# ---------------------------------------------------------------- what a key may be


def _allowed(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    """Words for a JSON schema of one key."""
    if "$ref" in schema:
        return _allowed(defs[schema["$ref"].rsplit("/", 1)[-1]], defs)
    if "anyOf" in schema or "oneOf" in schema:
        options = schema.get("anyOf") or schema["oneOf"]
        return " or ".join(dict.fromkeys(_allowed(option, defs) for option in options))
    if "const" in schema:
        return _plain(schema["const"])
    if "enum" in schema:
        return " or ".join(_plain(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return _list(schema, defs)
    if "properties" in schema:
        return "a section"
    bounds = [f"{sign} {schema[name]:g}" for name, sign in BOUNDS.items() if name in schema]
    return " ".join([NAMES.get(schema.get("type", ""), "anything"), *bounds])


def _list(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    if "prefixItems" in schema:
        items = list(dict.fromkeys(_allowed(item, defs) for item in schema["prefixItems"]))
        return f"list of {len(schema['prefixItems'])}: {', '.join(items)}"
    return f"list of {_allowed(schema.get('items', {}), defs)}"


def _plain(value: Any) -> str:
    """A value as YAML writes it."""
    if isinstance(value, (str, int, float, type(None), list, tuple)):
        value = list(value) if isinstance(value, tuple) else value
        text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
        return text.removesuffix("\n...\n").strip()
    return str(value)

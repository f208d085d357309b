"""Solvers as one names them on a command line, and as cards know them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lmaps_science.cards.files import override
from lmaps_science.cards.methods import build_solver
from lmaps_science.cards.registry import find_method, methods
from lmaps_science.cards.schema import Card
from lmaps_science.io.files import DataError, read_text, shown, suggestion
from lmaps_science.io.yaml_text import parse_yaml
from lmaps_science.sampling import Solver

__all__ = ["TUNED_ON", "Method", "Unknown", "find_solver", "split_list"]

TUNED_ON = "# tuned on: "  # begins the line of a solver's file that says on which images, as JSON
EXAMPLE = "e.g. default,dps,daps(levels=50,local=langevin(steps=20)),mine=best.yaml"
_LABEL = re.compile(r"[\w+-]+")
_REQUEST = re.compile(
    r"(?:(?P<label>[\w+-]+)=)?(?P<what>[^()=]+?)\s*(?:\((?P<options>.*)\))?", re.S
)
_MOST_TEXT = 1 << 20


class Unknown(DataError):
    """A name that is neither a preset of the card nor a method."""


@dataclass(frozen=True)
class Method:
    """One solver of a comparison.

    Attributes:
        name: of its folder and its rows.
        spec: as a card's preset has it.
        source: where it is from, in words.
        tuned_on: the images it was tuned on, as `tune` noted them; empty where it did not.
    """

    name: str
    spec: Mapping[str, Any]
    source: str
    tuned_on: Mapping[str, Any] = field(default_factory=dict)

    @property
    def solver(self) -> Solver:
        """The solver itself."""
        return build_solver(self.spec, self.name)

    def changed(self, options: Mapping[str, Any]) -> Method:
        """The same with other options; a key reaches into parts as `local.steps`."""
        preset = {"preset": "it", "presets": {"it": dict(self.spec)}}
        found = override(preset, {f"solver.{key}": value for key, value in options.items()})
        return replace(self, spec=found["presets"]["it"])

    @property
    def overrides(self) -> dict[str, Any]:
        """What makes it the solver of a card."""
        return {"preset": self.name, f"presets.{self.name}": dict(self.spec)}


def find_solver(text: str, card: Card) -> Method:
    """The solver that `text` names.

    `[LABEL=]NAME[(KEY=VALUE,...)]`, where NAME is a preset of the card, else a method with its own
    defaults (`dps`, `package.module:Class`), or a YAML file with `method` and its options, as
    `tune` writes it. Options change those of the preset, method or file: a VALUE is YAML, or a part
    such as `langevin(steps=20)`; a KEY reaches into parts as `local.steps`.

    Raises:
        Unknown: there is no such preset or method.
        DataError: it cannot be read, or an option is wrong.
    """
    found = _REQUEST.fullmatch(text.strip())
    if found is None:
        raise DataError(
            f"--solvers {shown(text)}: write NAME, NAME(KEY=VALUE) or LABEL=…, {EXAMPLE}."
        )
    what = found["what"]
    base, source, tuned_on = _base(what, card)
    changes = _options(found["options"], text)
    label = found["label"]
    if label is None:
        label = Path(what).stem if _is_file(what) else text.strip()
        label = re.sub(r"[^\w+-]+", "_", label).strip("_")
    source += ", changed" if changes else ""
    method = Method(label, base, source, tuned_on).changed(changes)
    try:
        method.solver  # noqa: B018 (it refuses wrong options)
    except ValueError as error:
        raise DataError(f"--solvers {text.strip()}: {error}") from error
    return method


def _base(what: str, card: Card) -> tuple[dict[str, Any], str, Mapping[str, Any]]:
    """Options to start from, where they are from, and what they were tuned on."""
    if _is_file(what):
        return _read(what)
    if what in card.presets:
        return dict(card.presets[what]), f"the card's preset {what}", {}
    if find_method(what, Solver) is None:
        known = sorted(cls.__name__ for cls in methods().values() if issubclass(cls, Solver))
        raise Unknown(
            f"--solvers {shown(what)}: there is no such preset or method."
            f"{suggestion(what, [*card.presets, *known])} This card's presets are "
            f"{', '.join(card.presets)}; methods are {', '.join(known)}."
        )
    return {"method": what}, "the method's defaults", {}


def _is_file(what: str) -> bool:
    return Path(what).suffix in (".yaml", ".yml")


def _read(name: str) -> tuple[dict[str, Any], str, Mapping[str, Any]]:
    """The solver in a file, and on which images it was tuned where a line tells."""
    path = Path(name).expanduser()
    text = read_text(path, _MOST_TEXT, "a solver")
    content = parse_yaml(text, f"{path} is not YAML")
    if not isinstance(content, dict) or "method" not in content:
        raise DataError(f"{path} holds no solver: expected `method: NAME` and its options.")
    line = next((line for line in text.splitlines() if line.startswith(TUNED_ON)), None)
    if line is None:
        return content, f"the file {path.name}", {}
    try:
        tuned_on = json.loads(line.removeprefix(TUNED_ON))
        dict(tuned_on)
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: the line {shown(line)} is no JSON: leave it as it is, or out."
        ) from error
    return content, f"the file {path.name}, tuned", tuned_on


def split_list(text: str) -> list[str]:
    """The parts between the commas that stand in no brackets.

    Raises:
        DataError: brackets that do not close.
    """
    parts, depth, last = [""], 0, ""
    for sign in text:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(sign, 0)
        if depth < 0:
            break
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
        last = sign
    if depth:
        raise DataError(f"{shown(text)}: brackets do not match after {shown(last)}; {EXAMPLE}.")
    return [part.strip() for part in parts if part.strip()]


def _options(text: str | None, whole: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in split_list(text or ""):
        key, equals, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not (key and equals and value):
            raise DataError(f"--solvers {whole}: {shown(part)} is no KEY=VALUE, {EXAMPLE}.")
        if key in found:
            raise DataError(f"--solvers {whole}: {key} was given twice.")
        inner = re.fullmatch(r"([A-Za-z_][\w.:]*)\((.*)\)", value, re.S)
        if inner is not None:
            found[key] = {"method": inner[1], **_options(inner[2], whole)}
        else:
            found[key] = parse_yaml(value, f"--solvers {whole}: the value of {key} is not YAML")
    return found


def check_names(found: Sequence[Method]) -> None:
    """Refuse two of one name, which share a folder.

    Raises:
        DataError: with what to write instead.
    """
    names = [method.name.lower() for method in found]
    for method in found:
        if names.count(method.name.lower()) > 1:
            raise DataError(
                f"two solvers are called {method.name}: give one a name of its own, e.g. "
                f"{method.name}_2={method.name}."
            )

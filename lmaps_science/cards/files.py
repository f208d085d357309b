"""Card files: found by name, merged into the card that they `extend`, changed by overrides."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmaps_science.cards.registry import kinds
from lmaps_science.io.files import DataError, require_file, shown, suggestion
from lmaps_science.io.yaml_text import parse_yaml, read_yaml

__all__ = ["find_card", "list_problems", "override", "read_card"]


def _choices(top: str) -> tuple[str, ...]:
    """Keys that choose what a section below a top-level key is, so that its others follow them."""
    return ("kind", "method") if top in ("presets", "solver") else ("kind",)


def list_problems() -> list[str]:
    """Names of the cards of all kinds that are installed, such as `black_hole/m87_2017`.

    Example:
        >>> [name for name in list_problems() if name.startswith("mri/brain")]
        ['mri/brain_lines', 'mri/brain_raw']
    """
    return sorted(_installed())


def _installed() -> dict[str, Path]:
    return {
        f"{kind.name}/{path.stem}": path
        for kind in kinds().values()
        for path in kind.cards.glob("*.yaml")
    }


def find_card(name: str) -> Path:
    """The file of a card: an installed one by its name, or any by its path.

    Raises:
        DataError: neither.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        return require_file(name)
    known = _installed()
    if name not in known:
        raise DataError(
            f"there is no problem {shown(name)}.{suggestion(name, known)} Known: "
            f"{', '.join(sorted(known))}; or give the path of a card, e.g. my_problem.yaml."
        )
    return known[name]


def read_card(name: str) -> dict[str, Any]:
    """The content of a card, merged into the card that it `extends` (a name, or a path beside it).

    Raises:
        DataError: no such card, not YAML, or cards that extend each other in a circle.
    """
    return _read(find_card(name), ())


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise DataError(f"{path} extends itself, by way of {seen[-1]}: remove one `extends`.")
    content = read_yaml(path, "a card")
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a card: expected `key: value` lines at its top level.")
    base = content.pop("extends", None)
    if base is None:
        return content
    beside = path.parent / str(base)
    is_card = beside.suffix in (".yaml", ".yml") and beside.is_file()
    found = beside if is_card else find_card(str(base))
    return _merged(_read(found, (*seen, path)), content)


def _merged(
    base: Mapping[str, Any], changes: Mapping[str, Any], top: str | None = None
) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = value
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            choices = _choices(top or key)
            same = all(value.get(choice, old.get(choice)) == old.get(choice) for choice in choices)
            merged[key] = _merged(old, value, top or key) if same else value
    return merged


# ---------------------------------------------------------------- overrides


def override(card: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a card's content with dotted paths set, e.g. `{"observation.fraction": 0.1}`.

    `solver.` stands for the preset in use. Values are as in YAML; strings are parsed as such, so
    that `"0.1"` from a command line is a number. Setting `kind`, or a solver's `method`, to another
    value starts that section afresh, since its other keys belonged to the old one. The order of the
    changes does not matter: sections come before what is in them, and choices before other keys.

    Raises:
        DataError: a path through something that is not a section.
    """
    changed = copy.deepcopy(dict(card))
    parsed = {
        path: _parse(path, value) if isinstance(value, str) else value
        for path, value in changes.items()
    }

    def order(path: str) -> tuple[bool, int, bool]:
        *above, last = path.split(".")
        return above[:1] == ["solver"], len(above), last not in _choices(path.split(".")[0])

    for path in sorted(parsed, key=order):
        keys = path.split(".")
        if keys[0] == "solver":
            preset = str(changed.get("preset", "default"))
            if preset not in changed.get("presets", {}):
                continue  # the schema will say which there are
            keys[:1] = ["presets", preset]
        _set(changed, keys, parsed[path], path)
    return changed


def _parse(path: str, text: str) -> Any:
    return parse_yaml(text, f"the value of {path} is not YAML")


def _set(content: dict[str, Any], keys: list[str], value: Any, path: str) -> None:
    section: Any = content
    for depth, key in enumerate(keys[:-1], 1):
        inside = section.setdefault(key, {})
        if isinstance(inside, str) and keys[0] == "presets":  # `local: lbfgs`, in short
            inside = section[key] = {"method": inside}
        if not isinstance(inside, dict):
            raise DataError(
                f"{path}: {'.'.join(keys[:depth])} is {shown(inside)}, not a section with keys."
            )
        section = inside
    last = keys[-1]
    if last in _choices(keys[0]) and section.get(last) != value:
        section.clear()
    section[last] = value

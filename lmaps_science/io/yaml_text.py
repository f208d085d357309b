"""YAML of people's hands: plain values, each key once, and never more than its text says."""

from __future__ import annotations

import os
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from lmaps_science.io.files import DataError, read_text

__all__ = ["parse_yaml", "read_yaml"]

_MOST_BYTES = 100_000  # cards and manifests have some thousand; more takes seconds to parse
_DEEPEST = 40
_MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses what the text would hide or blow up."""

    _depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.MarkedYAMLError(
                problem=f"more than {_DEEPEST} levels inside of each other",
                problem_mark=self.peek_event().start_mark,
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in first:
                raise yaml.MarkedYAMLError(
                    problem=f"the same key in line {first[name]} and in line {line}; keep one of "
                    "the two",
                    problem_mark=key.start_mark,
                )
            first[name] = line
        return node

    def get_single_node(self) -> Node | None:
        node: Node | None = super().get_single_node()
        _count(node, {})
        return node


def _count(node: Node | None, known: dict[int, int]) -> int:
    """The number of values below a node, each alias (`*name`) counted like what it repeats."""
    if not isinstance(node, CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES  # until it is known: of an anchor inside of itself
        parts = (part for item in node.value for part in (item if type(item) is tuple else (item,)))
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
        if known[id(node)] > _MOST_VALUES:
            raise yaml.MarkedYAMLError(
                problem=f"aliases that repeat to more than {_MOST_VALUES} values, or that contain "
                "themselves",
                problem_mark=node.start_mark,
            )
    return known[id(node)]


def read_yaml(path: str | os.PathLike[str], what: str) -> Any:
    """The content of a YAML file.

    Args:
        path: the file.
        what: it is, for the error, e.g. "a card".

    Raises:
        DataError: see `parse_yaml`; or no such file, or more than 100 kB.
    """
    return parse_yaml(read_text(path, _MOST_BYTES, what), f"{path} is not {what}")


def parse_yaml(text: str, complaint: str) -> Any:
    """Plain values (dict, list, str, numbers, bool, None, dates) of YAML text.

    Raises:
        DataError: not YAML; a key twice in one section, with both lines; more than 40 levels;
            aliases without end. It begins with `complaint` and does not repeat the text.
    """
    try:
        return yaml.load(text, _Loader)  # a safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        # PyYAML may quote a character, a tag or a name of the text: only its own words pass.
        problem = (error.problem or "no YAML").split("'")[0].split('"')[0].strip()
        problem = "something else is expected here" if problem == "expected" else problem
        raise DataError(f"{complaint}: {where}{problem}. Write `key: value` lines.") from error
    except yaml.YAMLError as error:
        raise DataError(
            f"{complaint}: it holds characters that YAML does not allow. Save it as plain UTF-8 "
            "text with `key: value` lines."
        ) from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # Dates and numbers that there are not, such as 2020-99-99.
        raise DataError(
            f"{complaint}: a value has the form of a date, a number or a tag, and is none. Put it "
            "in quotation marks."
        ) from error

"""`{card-keys}`: every key of every field's cards, from their schemas."""

from __future__ import annotations

import inspect
import re

from docutils import nodes
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from lmaps_science.cards.reference import keys, sections
from lmaps_science.cards.registry import kinds
from lmaps_science.cards.schema import Card


class CardKeys(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        common = set(Card.model_fields)
        lines = ["## Every card", "", *table(Card)]
        for kind in kinds().values():
            schema = kind.card_class
            lines += [f"## {kind.name}", "", *paragraph(schema)]
            if set(schema.model_fields) - common:
                lines += table(schema, leave_out=common)
            for name, model in sections(schema):
                lines += [f"### `{name}`{variant(model)}", "", *paragraph(model), *table(model)]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def variant(model: type[BaseModel]) -> str:
    """Of which kind a section is, where it may be of several."""
    for name, field in model.model_fields.items():
        if name == "kind" and field.is_required():
            allowed = next(key.allowed for key in keys(model) if key.name == "kind")
            return f", kind `{allowed}`"
    return ""


def paragraph(model: type[BaseModel]) -> list[str]:
    """The docstring, its lists and formulas left out."""
    first = re.split(r"\n\s*\n", inspect.getdoc(model) or "")
    return [" ".join(first[0].split()), ""]


def table(model: type[BaseModel], leave_out: set[str] = frozenset()) -> list[str]:
    rows = ["| key | what it may be | default | unit | meaning |", "|---|---|---|---|---|"]
    for key in keys(model):
        if key.name not in leave_out:
            section = key.allowed.startswith("a section")
            default = f"`{key.default}`" if key.default else "" if section else "given by the card"
            cells = [f"`{key.name}`", key.allowed, default, key.unit, key.meaning]
            rows.append("| " + " | ".join(escaped(cell) for cell in cells) + " |")
    return [*rows, ""]


def escaped(text: str) -> str:
    return text.replace("|", r"\|").replace("<", r"\<").replace("^", r"\^").replace("$", r"\$")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("card-keys", CardKeys)
    return {"parallel_read_safe": True}

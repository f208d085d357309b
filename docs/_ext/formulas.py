"""Formulas as MathML, which browsers show by themselves: no script, and nothing from elsewhere."""

from __future__ import annotations

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

log = logging.getLogger(__name__)


def mathml(node: nodes.Element, block: bool) -> str:
    text = node.astext().strip()
    # What docutils does not know, or would set with too much room.
    text = text.replace(r"\dots", r"\ldots").replace("||", r"\|")
    text = re.sub(r"(\\t?frac) ?(\w)(\w)", r"\1{\2}{\3}", text)
    if block and "\\begin" not in text and re.search(r"\\\\|&", text):
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    try:
        return str(tex2mathml(text, as_block=block))
    except MathError as error:
        log.warning("formula %r: %s", text, error, location=node)
        return f"<code>{text}</code>"


def inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(mathml(node, False))
    raise nodes.SkipNode


def display(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(f'<div class="formula">{mathml(node, True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"parallel_read_safe": True}

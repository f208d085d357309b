"""`{command-line}`: the commands of `lmaps`, as Typer describes them."""

from __future__ import annotations

import re
import subprocess
import sys

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

COMMAND = [sys.executable, "-m", "typer", "lmaps_science.cli", "utils", "docs", "--name", "lmaps"]


class CommandLine(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        text = subprocess.run(COMMAND, check=True, capture_output=True, text=True).stdout
        text = text.split("\n", 1)[1]  # the page has a title
        # Examples, which are a paragraph here.
        text = re.sub(
            r"(?m)(?:^(?:lmaps|  +) ?.*\n)*^lmaps .*\n(?:^(?:lmaps|  +).*\n)*", code, text
        )
        # Placeholders, such as <str>, are no HTML.
        text = re.sub(r"(?m)^\* `(.*?)`: (.*)$", lambda m: f"* `{m[1]}`: {plain(m[2])}", text)
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def code(found: re.Match[str]) -> str:
    return f"```bash\n{found[0].rstrip()}\n```\n"


def plain(text: str) -> str:
    """Text with its own brackets and stars, without Markdown's."""
    return re.sub(r"(?<!\\)([*<\[])", r"\\\1", text)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}

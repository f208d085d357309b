"""`{bibliography}`: the works of docs/bibliography.yaml, by group, with their addresses."""

from __future__ import annotations

from pathlib import Path

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Bibliography(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        file = Path(self.env.srcdir, "docs", "bibliography.yaml")
        self.env.note_dependency(str(file))
        lines = []
        for group, works in yaml.safe_load(file.read_text("utf-8")).items():
            lines += [f"## {group}", "", *(entry(work) for work in works), ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def entry(work: dict[str, str]) -> str:
    text = f"* {work['authors']} ({work['year']}). {work['title']}."
    if "where" in work:
        text += f" {work['where']}."
    if "doi" in work:
        text += f" [doi:{work['doi']}](https://doi.org/{work['doi']})."
    elif "url" in work:
        text += f" [{work['url'].removeprefix('https://')}]({work['url']})."
    return f"{text} Here: {work['here']}."


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("bibliography", Bibliography)
    return {"parallel_read_safe": True}

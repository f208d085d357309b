"""`.. modules:: a b`: the public names of modules and packages, each module a section.

A module that no page shows is a warning, so that none is forgotten.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

PACKAGE = "lmaps_science"
NOT_SHOWN = {"lmaps_science.cli"}  # has a page of its own, made from its commands
log = logging.getLogger(__name__)


def public(name: str) -> Iterator[str]:
    """The module, and those inside where it is a package, that have names for others."""
    module = importlib.import_module(name)
    inside = getattr(module, "__path__", None)
    if inside is None:
        if getattr(module, "__all__", None):
            yield name
        return
    for found in sorted(pkgutil.iter_modules(inside), key=lambda m: m.name):
        if not found.name.startswith("_") and f"{name}.{found.name}" not in NOT_SHOWN:
            yield from public(f"{name}.{found.name}")


class Modules(SphinxDirective):
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        text = []
        for given in self.arguments[0].split():
            for name in public(given):
                title = name.removeprefix(f"{PACKAGE}.")
                text += [title, "-" * len(title), "", f".. automodule:: {name}", ""]
                self.env.metadata[self.env.docname].setdefault("modules", "")
                self.env.metadata[self.env.docname]["modules"] += f" {name}"
        return self.parse_text_to_nodes("\n".join(text), allow_section_headings=True)


def none_is_forgotten(app: Sphinx, env: BuildEnvironment) -> None:
    shown = {name for page in env.metadata.values() for name in page.get("modules", "").split()}
    for name in public(PACKAGE):
        if name not in shown:
            log.warning("%s is on no page of docs/reference", name)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("modules", Modules)
    app.connect("env-check-consistency", lambda app, env: none_is_forgotten(app, env))
    return {"parallel_read_safe": True}

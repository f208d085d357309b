"""`{solver-table}`: every solver that is installed, with what it needs of a problem."""

from __future__ import annotations

import inspect

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from lmaps_science.cards.registry import methods
from lmaps_science.sampling import Solver


class SolverTable(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        rows = ["| solver | what it does | needs |", "|---|---|---|"]
        found = [cls for cls in methods().values() if issubclass(cls, Solver)]
        for cls in sorted(found, key=lambda cls: cls.__name__.lower()):
            first = " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())
            name = f"{cls.__module__}.{cls.__name__}"
            rows.append(f"| {{py:class}}`~{name}` | {first} | {needs(cls)} |".replace("\\", "\\\\"))
        return self.parse_text_to_nodes("\n".join(rows))


def needs(cls: type[Solver]) -> str:
    try:
        return ", ".join(sorted(cls().requires)) or "nothing"
    except TypeError:  # made of another solver
        return "what its solver needs"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("solver-table", SolverTable)
    return {"parallel_read_safe": True}

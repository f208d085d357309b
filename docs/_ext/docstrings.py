"""The dialect of our docstrings, see tests/test_docstrings.py, told to Sphinx.

Names stand in single backticks; formulas and examples are indented; `*`, `|` and `_` are letters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from docutils.parsers.rst import roles, states
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
SECTION = re.compile(
    r"(Args|Arguments|Attributes|Returns|Yields|Raises|Warns|Examples?|Notes?|References?|See Also)"
    r":$"
)
# What is not text: code in backticks, with its role if it has one.
SPAN = re.compile(r"((?::\w+:)?`[^`]*`)")


def code_name(
    name: str, rawtext: str, text: str, line: int, inliner: states.Inliner, *_: Any
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """`text` as code; a link where it is the name of something that is documented."""
    text = text.replace("\x00", "\\")  # backslashes of code are no escapes
    literal = nodes.literal(rawtext, text, classes=["code"])
    # A single word in lower case is most often an argument.
    if not NAME.fullmatch(text.removesuffix("()")) or (text.isalpha() and text.islower()):
        return [literal], []
    env: BuildEnvironment = inliner.document.settings.env
    found = addnodes.pending_xref(
        rawtext,
        literal,
        refdomain="py",
        reftype="obj",
        reftarget=text.removesuffix("()"),
        refdoc=env.docname,
        refwarn=False,
    )
    for context in ("py:module", "py:class"):
        found[context] = env.ref_context.get(context)
    return [found], []


def find_by_last_name(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.Node | None:
    """`LMAPS` for `lmaps_science.solvers.lmaps.LMAPS`, where there is one of that name."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    objects = env.domains.python_domain.objects
    # Names of modules may be abbreviated from the left, too: `noise.VP` is lmaps_science.noise.VP.
    found = [name for name in objects if name.endswith(f".{target}")]
    classes = [name for name in found if objects[name].objtype in ("class", "function", "module")]
    if len(classes) != 1:
        return None
    entry = objects[classes[0]]
    return make_refnode(
        app.builder, node["refdoc"], entry.docname, entry.node_id, content, classes[0]
    )


# ---------------------------------------------------------------- docstrings as reStructuredText


def translate(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = "\n".join(_blocks(lines)).split("\n")


def _blocks(lines: list[str]) -> Iterator[str]:
    """The text, with formulas and examples as literal blocks and its letters escaped."""
    text: list[str] = []
    before, section, at = "", "", 0
    while at < len(lines):
        line = lines[at]
        indent = _indent(line)
        if line.strip() and indent == 0:
            found = SECTION.match(line)
            section = found[1] if found else ""
        directive = line.lstrip().startswith(".. ")
        opens = bool(line.strip()) and at > 0 and not lines[at - 1].strip()
        formula = opens and indent >= 4 and not section and _is_text(before)
        example = section.startswith("Example") and indent >= 4
        if directive or formula or example:
            yield from _escaped(text)
            text = []
            last = at + 1
            inside = indent + (1 if directive else 0)
            while last < len(lines) and (not lines[last].strip() or _indent(lines[last]) >= inside):
                last += 1
            yield from _literal(lines[at:last], indent, directive)
            before, at = "", last
            continue
        if line.strip():
            before = line
        text.append(line)
        at += 1
    yield from _escaped(text)


def _literal(block: list[str], indent: int, directive: bool) -> Iterator[str]:
    if directive or block[0].lstrip().startswith(">>>"):
        yield from block
        return
    yield from ["", f"{' ' * indent}::", ""]
    yield from (f"    {line}" if line.strip() else line for line in block)
    yield ""


def _is_text(line: str) -> bool:
    """Whether an indented block after it would be a formula, not the rest of an item."""
    return bool(line) and _indent(line) == 0 and not re.match(r"[*-] |\d+\. |\.\. ", line)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _escaped(lines: list[str]) -> list[str]:
    if not lines:
        return []
    parts = SPAN.split("\n".join(lines))
    return "".join(part if SPAN.fullmatch(part) else _plain(part) for part in parts).split("\n")


def _plain(text: str) -> str:
    text = re.sub(r"\|", r"\\|", text)
    text = re.sub(r"(?m)(?<!^)(?<!\*)\*(?!\*)(?! *$)", _star, text)
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)


def _star(found: re.Match[str]) -> str:
    """A star is a letter, unless it begins an item of a list."""
    start = found.string.rfind("\n", 0, found.start()) + 1
    item = (
        not found.string[start : found.start()].strip() and found.string[found.end() :][:1] == " "
    )
    return "*" if item else r"\*"


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """What other packages write into our classes, such as Matplotlib's `set`, is not ours."""
    module = getattr(obj, "__module__", None) or "lmaps_science"
    theirs = callable(obj) and not str(module).startswith("lmaps_science")
    named = (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")
    return True if theirs or named or name == "model_config" else None


def dashes(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Between an argument and its meaning Sphinx leaves two hyphens to its smart quotes."""
    for text in list(tree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(": "))


def setup(app: Sphinx) -> dict[str, bool]:
    roles.register_local_role("code_name", code_name)
    app.connect("autodoc-process-docstring", translate, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip)
    app.connect("doctree-resolved", dashes)
    app.connect("missing-reference", find_by_last_name)
    return {"parallel_read_safe": True}

"""Links to files of the repository that are no pages of the site lead to the repository."""

from __future__ import annotations

import posixpath
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

REPOSITORY = "https://github.com/lmaps-science/lmaps-science"


def target(link: nodes.Element, folder: str, pages: set[str]) -> str:
    """Path of the file from the root of the repository; empty where the link is none to a file."""
    if isinstance(link, addnodes.download_reference):
        return posixpath.normpath(posixpath.join(folder, link["reftarget"]))
    if link.get("reftype") != "myst":
        return ""
    if link.get("refdomain") == "doc":  # the name of a page, without suffix, from the root
        return f"{link['reftarget']}.md" if link["reftarget"] not in pages else ""
    return posixpath.normpath(posixpath.join(folder, link["reftarget"]))


def redirect(app: Sphinx, tree: nodes.document) -> None:
    """Every link to a file or folder that exists and is no page."""
    folder = posixpath.dirname(app.env.docname)
    for link in [*tree.findall(addnodes.download_reference), *tree.findall(addnodes.pending_xref)]:
        path = target(link, folder, app.env.found_docs)
        here = Path(app.srcdir, path)
        if not path or path.startswith("..") or not here.exists():
            continue  # a page, or Sphinx says that it leads nowhere
        kind = "tree" if here.is_dir() else "blob"
        outside = nodes.reference("", "", refuri=f"{REPOSITORY}/{kind}/main/{path}")
        outside += link.children
        link.replace_self(outside)


def setup(app: Sphinx) -> dict[str, bool]:
    # Before Sphinx collects downloads.
    app.connect("doctree-read", redirect, priority=100)
    return {"parallel_read_safe": True}

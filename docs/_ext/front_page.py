"""The site's address leads to its first page, which stands in docs/ as in the repository."""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>lmaps-science</title>
<meta http-equiv="refresh" content="0; url={0}">
<link rel="canonical" href="{0}">
<p><a href="{0}">lmaps-science: documentation</a></p>
</html>
"""


def write(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.name == "html":
        Path(app.outdir, "index.html").write_text(PAGE.format("docs/index.html"), "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True}

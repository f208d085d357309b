"""`python -m lmaps_science.cli` is `lmaps`."""

from lmaps_science.cli import app

app()

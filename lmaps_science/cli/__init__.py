"""The command line: one module for each group of commands, and those of the fields.

Everything heavy is imported inside the commands, so that `lmaps --help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from lmaps_science.cards.registry import kinds
from lmaps_science.cli import checks, compare, priors, problems, reports, runs
from lmaps_science.commands import DEBUG, PLAIN, OnceCommand

app = typer.Typer(
    help="Reconstruct scientific images from indirect measurements with diffusion priors.",
    pretty_exceptions_enable=False,
    **PLAIN,
)
for _own in (runs.app, compare.app, reports.app, problems.app, checks.app):
    app.registered_commands += _own.registered_commands
app.add_typer(priors.app, name="prior")
for _kind in kinds().values():
    _group = _kind.command_group()
    if _group is not None:
        app.registered_commands += _group.registered_commands


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"lmaps-science {version('lmaps-science')}")
        raise typer.Exit()


@app.callback()
def main(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    DEBUG.set(debug)


for _command in [*app.registered_commands, *priors.app.registered_commands]:
    _command.cls = OnceCommand

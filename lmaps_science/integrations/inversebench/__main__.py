"""`python -m lmaps_science.integrations.inversebench`: the configurations, with command lines."""

from __future__ import annotations

import textwrap
from typing import Annotated

import typer

from lmaps_science.commands import PLAIN, reported
from lmaps_science.integrations.inversebench.settings import configurations
from lmaps_science.io.files import DataError

app = typer.Typer(
    help="Solvers of lmaps-science in InverseBench: what there is, and how it is run.",
    pretty_exceptions_enable=False,
    **{**PLAIN, "no_args_is_help": False},
)


@app.command()
@reported
def show(
    name: Annotated[
        str, typer.Argument(metavar="[PART]", help="Only names that contain this.")
    ] = "",
) -> None:
    """List the configurations: what each was tuned on, and its command line.

    The command lines are for the benchmark's folder, in an environment that has both.
    """
    chosen = [found for found in configurations() if name in found.name]
    if not chosen:
        raise DataError(f"no configuration's name contains {name!r}; without it, all are listed.")
    for found in chosen:
        typer.echo(found.name)
        typer.echo(textwrap.indent(textwrap.fill(found.about, 96), "    "))
        typer.echo(f"    {found.command}\n")


if __name__ == "__main__":
    app(prog_name="python -m lmaps_science.integrations.inversebench")

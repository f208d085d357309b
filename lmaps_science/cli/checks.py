"""Commands that check: a result by making it again, an installation by looking at it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lmaps_science.commands import PLAIN, reported

__all__ = ["app"]

app = typer.Typer(**PLAIN)


@app.command()
@reported
def rerun(
    result: Annotated[Path, typer.Argument(help="result.nc of a run.")],
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="New folder to keep the new results in.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Where the data files are now: a file, or their folder.")
    ] = None,
    prior: Annotated[str | None, typer.Option(help="Where the prior's weights are now.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, …, or auto; default: as in the result.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples side by side; default: as in the result.")
    ] = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE:CLASS", help="Import this solver of its card; repeatable."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Tell nothing of progress.")] = False,
) -> None:
    """Make a result again from what it says of itself, and compare the two.

    Files are known by their checksums: one that is missing or has changed is told, and nothing
    runs. With the same versions, on the same kind of machine, the results are identical to the bit;
    else rounding grows along a run, and a sample of a problem with several solutions can come
    upon another of them. The exit code is 1 where they differ by more than rounding.

    A result is data: of a solver that it names as module:Class nothing is imported without --trust.

    \b
    lmaps rerun demo/result.nc
    lmaps rerun demo/result.nc --data /new/place/of/the/data --out again
    """
    from lmaps_science.runner import rerun as again

    found = again(
        result,
        data=data,
        prior=prior,
        out=out,
        device=device,
        batch_size=batch_size,
        trust=trust or (),
        progress=not quiet,
    )
    typer.echo(found)
    if not found.agrees:
        raise typer.Exit(1)


@app.command()
@reported
def doctor(
    test: Annotated[
        bool, typer.Option("--test/--no-test", help="Reconstruct a little, some 10 s.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Look at the installation: versions, devices, memory, extras, weights, and a self-test.

    Each row is ok, a note (something is missing that one may not need), or FAIL; the exit code is 1
    where one fails.

    \b
    lmaps doctor
    lmaps doctor --no-test --json
    """
    from lmaps_science.doctor import as_table, examine

    rows = examine(self_tests=test)
    if as_json:
        content = [{"what": r.what, "status": r.status, "text": r.text} for r in rows]
        typer.echo(json.dumps(content, indent=1))
    else:
        typer.echo(as_table(rows))
    if any(row.status == "FAIL" for row in rows):
        raise typer.Exit(1)

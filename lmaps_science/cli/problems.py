"""The commands that show what there is: `lmaps info`, `lmaps problems`, `lmaps data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lmaps_science.commands import PLAIN, reported

__all__ = ["app"]

app = typer.Typer(**PLAIN)


@app.command()
@reported
def info(
    result: Annotated[Path, typer.Argument(help="result.nc of a run.")],
    figure: Annotated[Path | None, typer.Option(help="Draw it again, to this file.")] = None,
) -> None:
    """Describe a result, or draw it again.

    \b
    lmaps info demo/result.nc
    lmaps info demo/result.nc --figure demo.pdf
    """
    from lmaps_science.io import DataError, read_netcdf
    from lmaps_science.io.results import require_result
    from lmaps_science.runner import describe

    data = read_netcdf(result)
    missing = [name for name in ("image", "misfit") if name not in data]
    missing += [] if "kind" in data.attrs else ["the attribute kind"]
    if missing:
        raise DataError(f"{result} is not a result of `lmaps run`: it lacks {', '.join(missing)}.")
    require_result(data, result)
    typer.echo(describe(data))
    if figure is not None:
        from lmaps_science.plots import plot_reconstruction

        plot_reconstruction(data, path=figure)


@app.command()
@reported
def problems(
    card: Annotated[str | None, typer.Argument(help="Show this card in full.")] = None,
) -> None:
    """List the problems, or show one in full.

    A card shows every key that `lmaps run --set` can reach, with its meaning, what it may be and
    its default; solver.KEY reaches the preset in use. What is shown is a card itself: YAML.

    \b
    lmaps problems
    lmaps problems black_hole/m87_2017
    """
    from lmaps_science.cards.files import list_problems
    from lmaps_science.cards.load import load_card

    if card is None:
        names = list_problems()
        width = max(map(len, names))
        for name in names:
            try:
                title = load_card(name).title
            except Exception as error:  # one card should not hide the others
                title = f"cannot be used: {' '.join(str(error).split())}"
            typer.echo(f"{name:<{width}}  {title}")
        return
    from lmaps_science.cards.reference import annotated

    typer.echo(annotated(load_card(card)))


@app.command("data")
@reported
def data_files(
    name: Annotated[str | None, typer.Argument(help="Fetch this file, verified.")] = None,
) -> None:
    """List public data, or fetch a file.

    Copies are looked for in $LMAPS_DATA, then in the cache, and verified by their checksum.

    \b
    lmaps data
    lmaps data m87_2017_095_lo
    """
    from lmaps_science.manifests import fetch, find, list_data

    if name is not None:
        typer.echo(fetch(name))
        if list_data()[name].sha256 is None:
            typer.echo("warning: its checksum is not known, so it was not verified", err=True)
        return
    for known, file in list_data().items():
        here = "here" if find(known) else "    "
        typer.echo(f"{here}  {known}\n      {file.what}\n      {file.source}; {file.licence}")

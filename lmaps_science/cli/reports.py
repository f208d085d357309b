"""The commands that read many results: `lmaps collect`, `lmaps report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lmaps_science.commands import PLAIN, Force, reported

__all__ = ["app"]

app = typer.Typer(**PLAIN)
Folders = Annotated[
    list[Path], typer.Argument(metavar="DIR", help="Folders of batches, one for each method.")
]
Reference = Annotated[
    str | None, typer.Option(help="The method that others are compared with; default: the first.")
]


@app.command()
@reported
def collect(
    folders: Folders,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="All results, as .nc or .zarr.")
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --out: a volume, along the series of this name."),
    ] = None,
    table: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A row an observation: .csv, .md or .tex; repeatable."),
    ] = None,
    summary: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Means with intervals, likewise; repeatable."),
    ] = None,
    of: Annotated[
        str, typer.Option(help="What .md and .tex tables score: samples, best or mean (image).")
    ] = "mean",
    reference: Reference = None,
    force: Force = False,
) -> None:
    """Collect the results of a batch: one dataset, tables, means with intervals.

    Prints means with standard deviations and 95 % bootstrap intervals; with several methods on the
    same observations, matched by the names of their folders, also the differences in pairs. What
    failed or is not finished is named. --out (extra `collect`) writes all results as one dataset of
    dimensions observation, method, sample and those of an image; a .csv table has all numbers in
    full. Folders of InverseBench's results (result_*.pt) get the benchmark's table, twice.

    \b
    lmaps collect out
    lmaps collect out --table table.csv --summary summary.tex
    lmaps collect out/lmaps out/dps --reference dps --out all.zarr
    lmaps collect volume --join slice --out volume.nc
    """
    from lmaps_science.io import DataError
    from lmaps_science.report import (
        FORMATS,
        OF,
        find_runs,
        observations_table,
        read_outcomes,
        summary_text,
    )

    if of not in OF:
        raise DataError(f"--of {of}: give one of {', '.join(OF)}.")
    if join is not None and out is None:
        raise DataError("--join writes a dataset: say where, e.g. --out volume.nc")
    _check(out, (".nc", ".zarr"), force)
    for path in (*(table or ()), *(summary or ())):
        _check(path, tuple(FORMATS), force)
    if any(_foreign(folder) for folder in folders):
        if out or table or summary:
            raise DataError(
                "of InverseBench's results the benchmark's table is printed alone: leave out "
                "--out, --table and --summary."
            )
        typer.echo(_benchmark(folders))
        return
    outcomes = read_outcomes(find_runs(folders))
    told = outcomes.runs.describe()
    for path in table or ():
        _write(path, observations_table(outcomes, FORMATS[path.suffix.lower()], of))
    for path in summary or ():
        _write(path, summary_text(outcomes, FORMATS[path.suffix.lower()], reference))
    typer.echo(f"{told}\n\n{summary_text(outcomes, 'markdown', reference)}".rstrip())
    if out is not None:
        _dataset(folders, out, join, force)


def _dataset(folders: Sequence[Path], out: Path, dimension: str | None, force: bool) -> None:
    from lmaps_science.io.results import write_netcdf, write_zarr
    from lmaps_science.report import collect as collected
    from lmaps_science.report import join_folders, write_volume

    data = collected(folders) if dimension is None else join_folders(folders, dimension)
    if out.suffix.lower() == ".nc":
        write_netcdf(out, data)
    else:
        write_zarr(out, data, force=force)
    typer.echo(f"written to {out}", err=True)
    if dimension is not None:
        for path in write_volume(out.parent, data, force=force):
            typer.echo(f"written to {path}", err=True)


def _check(path: Path | None, suffixes: tuple[str, ...], force: bool) -> None:
    """Before anything is read: where results go must be free, and of a known format."""
    from lmaps_science.io import DataError
    from lmaps_science.io.files import require_parent
    from lmaps_science.io.folders import new_file

    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        raise DataError(f"{path}: the suffix tells the format, one of {', '.join(suffixes)}.")
    if path.suffix.lower() == ".zarr" and path.is_dir():
        if not force:
            raise DataError(f"{path} exists: give another name, or replace it with --force.")
    else:
        new_file(path, force)
    require_parent(path)


def _write(path: Path, text: str) -> None:
    from lmaps_science.io import atomic_write

    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    typer.echo(f"written to {path}", err=True)


def _foreign(folder: Path) -> bool:
    """Whether InverseBench's program wrote the results there."""
    return any(folder.glob("result_*.pt")) and not (folder / "result.nc").exists()


def _benchmark(folders: Sequence[Path]) -> str:
    from lmaps_science.integrations.inversebench.results import benchmark_tables, read_results

    found = {}
    for folder in folders:
        scores = read_results(folder)
        name = str(scores.attrs.get("algorithm") or folder.name)
        found[name if name not in found else f"{name} ({folder})"] = scores
    return str(benchmark_tables(found))


@app.command()
@reported
def report(
    folders: Folders,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Of the page; default: the card's.")] = None,
    reference: Reference = None,
    figures: Annotated[
        float, typer.Option(metavar="MB", min=0, help="How much of the page figures may take.")
    ] = 40.0,
    force: Force = False,
) -> None:
    """Show the results of a batch as one HTML page, which needs no network.

    A table that sorts and filters, means with intervals, the images of all methods side by side and
    over one another, verdicts with their reasons, failures with their messages, and where the
    results come from. All pictures are inside the file.

    \b
    lmaps report out
    lmaps report out/lmaps out/dps --reference dps --out comparison.html
    """
    from lmaps_science.report import write_report

    _check(out, (".html", ".htm"), force)
    path = write_report(folders, out, title=title, reference=reference, most_megabytes=figures)
    typer.echo(f"written to {path}, {path.stat().st_size / 1e6:.1f} MB")

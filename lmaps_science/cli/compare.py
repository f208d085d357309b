"""The commands that compare and tune methods: `lmaps bench`, `lmaps tune`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lmaps_science.cli.runs import Device, Prior, Quiet, Settings, batch_size_of, settings_of
from lmaps_science.commands import PLAIN, reported

__all__ = ["app"]

app = typer.Typer(**PLAIN)
Seed = Annotated[int, typer.Option(min=0, help="Which images, and of the random numbers.")]


@app.command()
@reported
def bench(
    cards: Annotated[list[str], typer.Argument(metavar="CARD...", help="Problems, or YAML files.")],
    solvers: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Presets, methods, files: NAME, NAME(KEY=VALUE,...), LABEL=NAME; default: the "
            "card's presets.",
        ),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Simulated observations of each card.")] = 10,
    seed: Seed = 0,
    budget: Annotated[
        list[int] | None,
        typer.Option(
            metavar="CALLS",
            help="Network calls of a sample, a VJP counted as two more: levels are chosen to fit. "
            "Several, each with --budget, make a curve.",
        ),
    ] = None,
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="Gets a folder for each card; made if missing.")
    ] = "comparison",
    samples: Annotated[int, typer.Option(min=1, help="Samples of each observation.")] = 1,
    each: Annotated[
        str | None,
        typer.Option(metavar="SERIES", help="Other observations, as for `lmaps batch`."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Files of images to observe, or of data whose truth is in them."),
    ] = None,
    prior: Prior = None,
    settings: Settings = None,
    batch_size: Annotated[
        Any,
        typer.Option(metavar="N|auto", parser=batch_size_of, help="Images side by side."),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Part of the work; default: SLURM's array.")
    ] = None,
    dask: Annotated[
        str | None, typer.Option(help="A scheduler's address or file, or local (extra `dask`).")
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Compare methods on the same simulated observations of a card.

    Prints a table and writes table.md, table.csv and figure.png to a folder for each card: the
    field's metrics, differences to the first method on the same images with standard errors,
    network and operator calls, seconds and memory. A method that cannot serve a card is listed as
    refused. The same command goes on after an interruption. Exit code 1 where an image failed.

    NAME is a preset of the card, else a method with its defaults, or a file as `lmaps tune` writes
    it. Parts are written alike: daps(local=langevin(steps=20)).

    \b
    lmaps bench scattering/linear_60 --solvers default,dps,daps --images 10 --out comparison
    lmaps bench black_hole/simulated mri/simulated --solvers 'default,DPS(levels=200)' --out both
    lmaps bench scattering/linear_60 --solvers default,dps,tuned=dps-tuned/best.yaml --budget 300
    lmaps bench scattering/linear_60 --solvers default,dps --budget 25 --budget 50 --budget 100
    lmaps bench scattering/linear_60 --solvers default,ddrm --set physics.svd=true --out svd
    """
    from lmaps_science.compare import bench as compared
    from lmaps_science.compare.bench import CURVES

    found = compared(
        cards,
        solvers,
        images,
        seed,
        out=out,
        budget=budget or None,
        samples=samples,
        each=each,
        data=data or (),
        prior=prior,
        overrides=settings_of(settings),
        device=device,
        batch_size=batch_size,
        shard=shard,
        dask=dask,
        progress=not quiet,
    )
    typer.echo("\n\n".join(f"{comparison}written to {comparison.folder}" for comparison in found))
    if len(found) > len(cards):
        for folder in dict.fromkeys(comparison.folder.parent for comparison in found):
            typer.echo(f"all of it: {folder / CURVES}")
    if any(comparison.failed for comparison in found):
        raise typer.Exit(1)


@app.command()
@reported
def tune(
    card: Annotated[str, typer.Argument(help="A problem, or a YAML file.")],
    solver: Annotated[str, typer.Argument(help="A preset, a method or a file, as for `bench`.")],
    trials: Annotated[int, typer.Option(min=1, help="Earlier ones in the folder count.")] = 30,
    images: Annotated[int, typer.Option(min=1, help="Simulated observations of a trial.")] = 5,
    seed: Seed = 0,
    budget: Annotated[
        int | None,
        typer.Option(metavar="CALLS", min=1, help="Network calls of a sample, as for `bench`."),
    ] = None,
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="For the results; made if missing.")
    ] = "tuned",
    prior: Prior = None,
    settings: Settings = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Tune the options of a method on images that `lmaps bench` never takes (extra `tune`).

    Searches what the method declares, never the number of levels, for the best mean of the field's
    main metric. Writes best.yaml, a solver for a card's presets or for `lmaps bench`, trials.csv
    and history.png. The same command goes on after an interruption, also with more trials.

    \b
    lmaps tune scattering/linear_60 'dps(levels=100)' --trials 30 --out dps-tuned
    lmaps tune mri/simulated default --budget 60 --images 3 --out mri-tuned
    lmaps bench scattering/linear_60 --solvers default,tuned=dps-tuned/best.yaml
    """
    from lmaps_science.compare import tune as tuned

    found = tuned(
        card,
        solver,
        trials,
        images,
        seed,
        out=out,
        budget=budget,
        prior=prior,
        overrides=settings_of(settings),
        device=device,
        progress=not quiet,
    )
    typer.echo(str(found))

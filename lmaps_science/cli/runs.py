"""The commands that reconstruct: `lmaps run`, `lmaps batch`, `lmaps calibrate`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lmaps_science.commands import PLAIN, Force, reported

__all__ = ["app", "batch_size_of", "settings_of"]

app = typer.Typer(**PLAIN)
Name = Annotated[str, typer.Argument(help="A problem (see `lmaps problems`), or a YAML file.")]
Samples = Annotated[int, typer.Option(min=1, help="How many samples of each observation.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the random numbers.")]
Preset = Annotated[str | None, typer.Option(help="Which of the card's solvers.")]
Prior = Annotated[
    str | None, typer.Option(help="A prior's file, or 'gaussian'; default: the card's.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the card; repeatable."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")]
EachSample = Annotated[bool, typer.Option(help="Write each sample as FITS or NIfTI, too.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Tell nothing of progress.")]


@app.command()
@reported
def run(
    card: Name,
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="Folder for the results; made if missing.")
    ],
    data: Annotated[
        str | None, typer.Option(help="The measurements; for a simulation, the image to observe.")
    ] = None,
    samples: Samples = 4,
    seed: Seed = 0,
    preset: Preset = None,
    prior: Prior = None,
    settings: Settings = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples that run side by side; default: all.")
    ] = None,
    device: Device = "auto",
    checkpoint: Annotated[
        bool, typer.Option(help="Keep a checkpoint, from which the same command goes on.")
    ] = True,
    each_sample: EachSample = False,
    prior_check: Annotated[
        str | None,
        typer.Option(
            metavar="PRIOR", help="Run a second prior, too: gaussian, a file, or a method as rml."
        ),
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Reconstruct: data in, images out.

    Runs a solver from several random starts: images that fit the data and look as the prior's do.
    LMAPS looks for modes, so the spread of its samples is no calibrated uncertainty; --preset
    uncertainty, where a card has it, draws, and `lmaps calibrate` learns how far to trust that.
    Writes result.nc (everything), the mean as FITS or NIfTI, figure.png, samples.png and
    summary.txt/.json to a folder: all of them, or none.

    An interrupted run goes on with the same command. A folder that holds results is refused
    without --force, which replaces them and leaves all other files alone.

    \b
    lmaps run black_hole/simulated --out demo
    lmaps run black_hole/m87_2017 --data SR1_M87_2017_095_lo_hops_netcal_StokesI.uvfits --out m87
    lmaps run black_hole/uvfits --data my.uvfits --set observation.flux=0.6 --out mine
    lmaps run mri/brain_raw --set solver.levels=25 --set solver.local.iterations=10 --out brain
    lmaps run black_hole/m87_2017 --set solver.method=dps --prior my_prior.safetensors --out dps
    lmaps run black_hole/m87_2017 --prior-check compact_sources_64.safetensors --out two-priors
    """
    from lmaps_science.cards.load import load_problem, load_second
    from lmaps_science.runner import describe, reconstruct

    keys = settings_of(settings)
    problem = load_problem(card, data, prior, keys, preset=preset, device=device)
    second = None
    if prior_check is not None:
        second = load_second(problem, prior_check, data, keys, preset=preset, device=device)
    typer.echo(f"{problem}\n", err=True)
    analysed = reconstruct(
        problem,
        out,
        samples,
        seed,
        batch_size=batch_size,
        checkpoint=checkpoint,
        each_sample=each_sample,
        progress=not quiet,
        force=force,
        second=second,
    )
    typer.echo(describe(analysed))
    typer.echo(f"\nverdict: {analysed.attrs['verdict']}; written to {out}/")


def batch_size_of(text: str) -> int | str:
    """What `--batch-size` says."""
    if text != "auto" and not (text.isdecimal() and int(text)):
        raise typer.BadParameter(f"{text!r} is neither a number from 1 on nor auto.")
    return text if text == "auto" else int(text)


@app.command()
@reported
def batch(
    card: Name,
    out: Annotated[
        str,
        typer.Option(metavar="FOLDER", help="Gets a folder for each observation; made if missing."),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(help="A file, a folder, or a quoted pattern: 'obs/*.uvfits'; repeatable."),
    ] = None,
    listed: Annotated[
        str | None,
        typer.Option("--list", metavar="FILE", help="Text with a path or a pattern a line."),
    ] = None,
    each: Annotated[
        str | None,
        typer.Option(metavar="SERIES", help="slice, slice:0-9,12, phantom:0-99, or KEY:0-3."),
    ] = None,
    samples: Samples = 4,
    seed: Seed = 0,
    preset: Preset = None,
    prior: Prior = None,
    settings: Settings = None,
    batch_size: Annotated[
        Any,
        typer.Option(
            metavar="N|auto",
            parser=batch_size_of,
            help="Images side by side; auto: as many as fit; default: an observation's samples.",
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Part of the work; default: SLURM's array.")
    ] = None,
    dask: Annotated[
        str | None, typer.Option(help="A scheduler's address or file, or local (extra `dask`).")
    ] = None,
    device: Device = "auto",
    each_sample: EachSample = False,
    figures: Annotated[bool, typer.Option(help="Draw figure.png and samples.png of each.")] = True,
    quiet: Quiet = False,
) -> None:
    """Reconstruct many observations: files, slices of a volume, numbered phantoms.

    Each gets a folder with the files of `lmaps run`; slices are joined to their volume, too. The
    same command goes on after an interruption: what is finished, with the same settings and a
    right checksum, is left alone; what failed, and says why in failure.json, is tried again. Exit
    code 1 where any failed.

    \b
    lmaps batch black_hole/uvfits --data 'obs/*.uvfits' --out obs-results
    lmaps batch mri/kspace --data volume.h5 --each slice --out volume
    lmaps batch scattering/linear_360 --each phantom:0-99 --batch-size auto --out table
    lmaps batch mri/kspace --list scans.txt --shard 3/8 --out scans
    lmaps batch mri/kspace --list scans.txt --dask tcp://node1:8786 --out scans
    """
    from lmaps_science.runner import reconstruct_many

    report = reconstruct_many(
        card,
        data or (),
        out,
        samples,
        seed,
        each=each,
        listed=listed,
        prior=prior,
        overrides=settings_of(settings),
        preset=preset,
        batch_size=batch_size,
        device=device,
        each_sample=each_sample,
        figures=figures,
        shard=shard,
        dask=dask,
        progress=not quiet,
    )
    typer.echo(str(report))
    if report.failed:
        raise typer.Exit(1)


@app.command()
@reported
def calibrate(
    card: Name,
    out: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Gets the factor; default: CARD.calibration.json, here."),
    ] = None,
    images: Annotated[int, typer.Option(help="Simulated observations, 5 or more.")] = 20,
    samples: Annotated[int, typer.Option(help="How many samples of each, 3 or more.")] = 8,
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.9,
    first: Annotated[int, typer.Option(min=0, help="Number of the first image.")] = 1000,
    seed: Seed = 0,
    preset: Preset = None,
    prior: Prior = None,
    settings: Settings = None,
    runs: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="For the results; default: beside FILE.")
    ] = None,
    batch_size: Annotated[
        Any,
        typer.Option(
            metavar="N|auto", parser=batch_size_of, help="Images side by side, see batch."
        ),
    ] = None,
    device: Device = "auto",
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Learn the factor that makes intervals hold, on simulated observations of a card.

    Reconstructs observations whose truth is known, and finds the factor on the samples' spread with
    which 90 % intervals hold 90 % of the pixels. Results of the same configuration, whatever their
    image, then come with calibrated intervals (interval_90); others say that they have none. The
    file is used where it lies beside the card, or where a card names it: calibration: FILE.

    An interrupted command goes on with the same command. See docs/uncertainty.md.

    \b
    lmaps calibrate scattering/linear_60 --preset uncertainty --images 20
    lmaps run scattering/linear_60 --preset uncertainty --set \\
        calibration=linear_60.calibration.json --samples 8 --out mine
    """
    from pathlib import Path

    from lmaps_science.runner import calibrate as learn

    file = f"{Path(card).stem}.calibration.json" if out is None else out
    found = learn(
        card,
        file,
        images,
        samples,
        seed,
        level=level,
        first=first,
        runs=runs,
        preset=preset,
        prior=prior,
        overrides=settings_of(settings),
        batch_size=batch_size,
        device=device,
        progress=not quiet,
        force=force,
    )
    typer.echo(
        f"factor {found.factor:.3g} for {100 * found.level:g} % intervals, learned on "
        f"{found.source}\nwithout it they hold {100 * found.uncalibrated:.1f} % of the pixels; "
        f"left out, each observation had {100 * found.left_out:.1f} ± "
        f"{100 * found.left_out_error:.1f} % inside\nwritten to {file}"
    )


def settings_of(pairs: list[str] | None) -> dict[str, Any]:
    """The overrides that `--set` gives.

    Raises:
        DataError: not KEY=VALUE, or a key twice.
    """
    from lmaps_science.io import DataError

    settings = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not (key.strip() and equals):
            raise DataError(f"--set {pair}: write KEY=VALUE, e.g. --set solver.levels=25")
        if key.strip() in settings:
            raise DataError(f"--set {key.strip()} was given twice: give one value.")
        settings[key.strip()] = value
    return settings

"""The command line: `lmaps run`, `batch`, `simulate`, `info`, `problems`, `data`, `prior`.

Everything heavy is imported inside the commands, so that `lmaps --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lmaps_science.cards.registry import kinds, recipes
from lmaps_science.commands import DEBUG, PLAIN, Force, OnceCommand, reported

app = typer.Typer(
    help="Reconstruct scientific images from indirect measurements with diffusion priors.",
    pretty_exceptions_enable=False,
    **PLAIN,
)
prior_app = typer.Typer(help="Train a prior, describe one, draw from one.", **PLAIN)
app.add_typer(prior_app, name="prior")
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


# ---------------------------------------------------------------- reconstruct


@app.command()
@reported
def run(
    card: Annotated[str, typer.Argument(help="A problem (see `lmaps problems`), or a YAML file.")],
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="Folder for the results; made if missing.")
    ],
    data: Annotated[
        str | None, typer.Option(help="The measurements; for a simulation, the image to observe.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many samples.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers.")] = 0,
    preset: Annotated[str | None, typer.Option(help="Which of the card's solvers.")] = None,
    prior: Annotated[
        str | None, typer.Option(help="A prior's file, or 'gaussian'; default: the card's.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the card; repeatable."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples that run side by side; default: all.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
    checkpoint: Annotated[
        bool, typer.Option(help="Keep a checkpoint, from which the same command goes on.")
    ] = True,
    each_sample: Annotated[
        bool, typer.Option(help="Write each sample as FITS or NIfTI, too.")
    ] = False,
    prior_check: Annotated[
        str | None,
        typer.Option(
            metavar="PRIOR", help="Run a second prior, too: gaussian, a file, or a method as rml."
        ),
    ] = None,
    force: Force = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Tell nothing of progress.")] = False,
) -> None:
    """Reconstruct: data in, images out.

    Runs a solver from several random starts: images that fit the data and look as the prior's do.
    LMAPS looks for modes, so the spread of its samples is no calibrated uncertainty; a sampler of
    the posterior is solver.method=daps. Writes result.nc (everything), the mean as FITS or NIfTI,
    figure.png, samples.png and summary.txt/.json to a folder: all of them, or none.

    An interrupted run goes on with the same command. A folder that holds results is refused
    without --force, which replaces them and leaves all other files alone.

    \b
    lmaps run black_hole/simulated --out demo
    lmaps run black_hole/m87_2017 --data SR1_M87_2017_095_lo_hops_netcal_StokesI.uvfits --out m87
    lmaps run black_hole/uvfits --data my.uvfits --set observation.flux=0.6 --out mine
    lmaps run black_hole/m87_2017 --set solver.levels=25 --set solver.local.iterations=10 --out m87
    lmaps run black_hole/m87_2017 --set solver.method=dps --prior my_prior.safetensors --out dps
    lmaps run black_hole/m87_2017 --prior-check compact_sources_64.safetensors --out two-priors
    """
    from lmaps_science.cards.load import load_problem, load_second
    from lmaps_science.runner import describe, reconstruct

    keys = _settings(settings)
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


def _batch_size(text: str) -> int | str:
    if text != "auto" and not (text.isdecimal() and int(text)):
        raise typer.BadParameter(f"{text!r} is neither a number from 1 on nor auto.")
    return text if text == "auto" else int(text)


@app.command()
@reported
def batch(
    card: Annotated[str, typer.Argument(help="A problem (see `lmaps problems`), or a YAML file.")],
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
    samples: Annotated[int, typer.Option(min=1, help="How many samples of each.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers.")] = 0,
    preset: Annotated[str | None, typer.Option(help="Which of the card's solvers.")] = None,
    prior: Annotated[
        str | None, typer.Option(help="A prior's file, or 'gaussian'; default: the card's.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the card; repeatable."),
    ] = None,
    batch_size: Annotated[
        Any,
        typer.Option(
            metavar="N|auto",
            parser=_batch_size,
            help="Images side by side; auto: as many as fit; default: an observation's samples.",
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Part of the work; default: SLURM's array.")
    ] = None,
    dask: Annotated[
        str | None, typer.Option(help="A scheduler's address or file, or local (extra `dask`).")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
    each_sample: Annotated[
        bool, typer.Option(help="Write each sample as FITS or NIfTI, too.")
    ] = False,
    figures: Annotated[bool, typer.Option(help="Draw figure.png and samples.png of each.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Tell nothing of progress.")] = False,
) -> None:
    """Reconstruct many observations: files, slices of a volume, numbered phantoms.

    Each gets a folder with the files of `lmaps run`. The same command goes on after an
    interruption: what is finished, with the same settings and a right checksum, is left alone;
    what failed, and says why in failure.json, is tried again. Exit code 1 where any failed.

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
        overrides=_settings(settings),
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


# ---------------------------------------------------------------- priors


@prior_app.command("train")
@reported
def prior_train(
    out: Annotated[Path, typer.Option(help="Folder for weights, checkpoints and samples.")],
    like: Annotated[
        str | None, typer.Option(help="Which shipped prior's images, network and settings to take.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help=".npy file (n, H, W) in [0, 1] instead of its images.")
    ] = None,
    npix: Annotated[int | None, typer.Option(min=8, help="Another size of its images.")] = None,
    channels: Annotated[int | None, typer.Option(min=8, help="Width of the network.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 20_000,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Its largest value.")] = None,
    precision: Annotated[str, typer.Option(help="no (float32) or bf16.")] = "no",
    initial: Annotated[
        str | None,
        typer.Option("--from", help="A prior's file: begin with its network and weights."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of images and noise.")] = 0,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    description: Annotated[str, typer.Option(help="One paragraph, kept in the file.")] = "",
) -> None:
    """Train a prior, or go on training it.

    The same command goes on from the last checkpoint in its folder. --like is black_hole, brain
    (extra `brain`) or nuclei.

    \b
    lmaps prior train --out prior --steps 20000 --precision bf16
    lmaps prior train --out prior --like brain
    lmaps prior train --out prior --images my_images.npy
    lmaps prior train --out prior --images my_images.npy --from a_prior.safetensors
    accelerate launch -m lmaps_science.cli prior train --out prior
    """
    from dataclasses import replace

    from lmaps_science.cards.sections import find_prior
    from lmaps_science.io import DataError
    from lmaps_science.io.files import suggestion
    from lmaps_science.priors import load_prior
    from lmaps_science.training import train

    known = recipes()
    like = next(iter(known)) if like is None else like
    if like not in known:
        raise DataError(
            f"there is no shipped prior {like!r}.{suggestion(like, known)} Known: "
            f"{', '.join(known)}."
        )
    recipe = known[like]
    size = npix or recipe.npix
    training: Any
    validation: Any
    if images is None:
        training, validation = (recipe.images(size, s) for s in (seed, seed + 1))
    else:
        training, validation = _own_images(images, seed)
    shape = list(training.batch(0, 1).shape[1:])
    start: Any = None if initial is None else load_prior(find_prior(initial)).network
    config = {**(recipe.config if start is None else start.config), "image_shape": shape}
    if start is None and any(n % (config["patch"] * 8) for n in shape[1:]):
        config["patch"] = 1
    if channels is not None:
        config["model_channels"] = channels
    given: dict[str, Any] = {"batch_size": batch_size, "learning_rate": learning_rate}
    options = replace(
        recipe.settings,
        steps=steps,
        precision=precision,
        seed=seed,
        validate_every=validate_every,
        **{name: value for name, value in given.items() if value is not None},
    )
    path = train(config, training, validation, out, options, initial=start, description=description)
    typer.echo(f"written to {path}")


@prior_app.command("info")
@reported
def prior_describe(
    prior: Annotated[str, typer.Argument(help="A .safetensors file, or shipped weights by name.")],
) -> None:
    """Describe a prior and its training.

    \b
    lmaps prior info prior/prior.safetensors
    """
    import yaml

    from lmaps_science.cards.sections import find_prior
    from lmaps_science.io import sha256
    from lmaps_science.priors import prior_info

    path = find_prior(prior)
    facts = {**prior_info(path), "sha256": sha256(path)}
    typer.echo(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=100).rstrip())


@prior_app.command("sample")
@reported
def prior_sample(
    prior: Annotated[str, typer.Argument(help="A prior's file, or shipped weights by name.")],
    out: Annotated[Path, typer.Option(help="Picture to write.")],
    samples: Annotated[int, typer.Option(min=1, help="How many.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers.")] = 0,
    preconditioning: Annotated[
        str | None, typer.Option(help="For .pt checkpoints: edm, vp, ve or iddpm.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
) -> None:
    """Draw samples of a prior, without data.

    \b
    lmaps prior sample prior/prior.safetensors --out samples.png
    lmaps prior sample blackhole.pt --preconditioning vp --out samples.png
    """
    from lmaps_science.cards.load import find_device
    from lmaps_science.cards.sections import find_prior
    from lmaps_science.priors import load_prior
    from lmaps_science.training import sample_sheet

    config = {"preconditioning": preconditioning} if preconditioning else None
    found = load_prior(find_prior(prior), config=config, device=find_device(device))
    sample_sheet(found, out, samples, seed)
    typer.echo(f"written to {out}")


# ---------------------------------------------------------------- arguments


def _settings(pairs: list[str] | None) -> dict[str, Any]:
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


def _own_images(path: Path, seed: int) -> tuple[Any, Any]:
    """Training and validation images from a file: the last tenth is held out."""
    from lmaps_science.cards.sections import read_array_file
    from lmaps_science.io import DataError
    from lmaps_science.training import ArrayImages

    array = read_array_file(path)
    array = array[:, None] if array.ndim == 3 else array
    held_out = max(len(array) // 10, 1)
    if array.ndim != 4 or len(array) < 2:
        raise DataError(f"{path} has shape {array.shape}; it takes (n, H, W) with n > 1.")
    return ArrayImages(array[:-held_out], seed), ArrayImages(array[-held_out:], seed)


for _command in [*app.registered_commands, *prior_app.registered_commands]:
    _command.cls = OnceCommand

if __name__ == "__main__":
    app()

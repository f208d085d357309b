"""The commands of priors: `lmaps prior train`, `train-autoencoder`, `info`, `sample`, …"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from lmaps_science.cards.registry import recipes
from lmaps_science.commands import PLAIN, reported

__all__ = ["app"]

ENCODED = 4000  # images that a training on latents encodes, once

app = typer.Typer(help="Train a prior, describe one, draw from one.", **PLAIN)


@app.command("train")
@reported
def prior_train(
    out: Annotated[Path, typer.Option(help="Folder for weights, checkpoints and samples.")],
    like: Annotated[
        str | None, typer.Option(help="Which shipped prior's images, network and settings to take.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help=".npy file (n, H, W) in [0, 1] instead of its images.")
    ] = None,
    autoencoder: Annotated[
        str | None, typer.Option(help="Its file: train on the latents it makes of the images.")
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

    The same command goes on from the last checkpoint in its folder. --like is black_hole
    (the default), compact_sources, nuclei, photographs (Debian packages), heads (extra `heads`)
    or brain (extra `brain`), both with Debian's mricron-data.

    \b
    lmaps prior train --out prior --steps 20000 --precision bf16
    lmaps prior train --out prior --like brain
    lmaps prior train --out prior --images my_images.npy
    lmaps prior train --out prior --images my_images.npy --from a_prior.safetensors
    lmaps prior train --out prior --like nuclei --autoencoder autoencoder.safetensors
    accelerate launch -m lmaps_science.cli prior train --out prior
    """
    from dataclasses import replace

    from lmaps_science.cards.sections import find_prior
    from lmaps_science.priors import load_prior
    from lmaps_science.training import train

    recipe, training, validation = _recipe(like, images, npix, seed)
    facts: dict[str, Any] = {}
    decode: Any = None
    if autoencoder is not None:
        training, validation, facts = _latents(training, validation, find_prior(autoencoder))
        decode = training.decoder
    shape = list(training.batch(0, 1).shape[1:])
    start: Any = None if initial is None else load_prior(find_prior(initial)).network
    config = {**(recipe.config if start is None else start.config), "image_shape": shape}
    if start is None and autoencoder is not None:
        config["patch"] = 2  # the grid is coarse already
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
    path = train(
        config,
        training,
        validation,
        out,
        options,
        initial=start,
        facts=facts,
        decode=decode,
        description=description,
    )
    typer.echo(f"written to {path}")


def _latents(training: Any, validation: Any, path: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Training and validation images as an autoencoder encodes them, each once; and its facts."""
    from lmaps_science.priors import load_autoencoder
    from lmaps_science.training.autoencoder import LatentImages

    decoder = load_autoencoder(path)
    made = [LatentImages(images, decoder, ENCODED) for images in (training, validation)]
    known = {key: decoder.metadata[key] for key in ("file", "sha256")}
    return made[0], made[1], {"autoencoder": known, "encoded_images": ENCODED}


@app.command("train-autoencoder")
@reported
def prior_train_autoencoder(
    out: Annotated[Path, typer.Option(help="Folder for weights and checkpoints.")],
    like: Annotated[
        str | None, typer.Option(help="Which shipped prior's images and settings to take.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help=".npy file (n, H, W) in [0, 1] instead of its images.")
    ] = None,
    npix: Annotated[int | None, typer.Option(min=8, help="Another size of its images.")] = None,
    patch: Annotated[int, typer.Option(min=1, help="How much coarser latents are.")] = 4,
    latent_channels: Annotated[int, typer.Option(min=1, help="Numbers for each point.")] = 4,
    channels: Annotated[int, typer.Option(min=4, help="Width of both networks.")] = 64,
    kl_weight: Annotated[
        float, typer.Option(min=0, help="Smoother latents for coarser images.")
    ] = 1e-4,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 1500,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Its largest value.")] = 1e-3,
    precision: Annotated[str, typer.Option(help="no (float32) or bf16.")] = "no",
    seed: Annotated[int, typer.Option(min=0, help="Of images and noise.")] = 0,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 250,
    description: Annotated[str, typer.Option(help="One paragraph, kept in the file.")] = "",
) -> None:
    """Train an autoencoder, whose latents `lmaps prior train --autoencoder` learns.

    A card then has prior: {kind: latent, file: prior.safetensors, autoencoder:
    autoencoder.safetensors}. The same command goes on from the last checkpoint in its folder.

    \b
    lmaps prior train-autoencoder --out autoencoder --like nuclei
    lmaps prior train --out prior --like nuclei --autoencoder autoencoder/autoencoder.safetensors
    """
    from dataclasses import replace

    import torch

    from lmaps_science.priors import Autoencoder
    from lmaps_science.training.autoencoder import train_autoencoder

    recipe, training, validation = _recipe(like, images, npix, seed)
    options = replace(
        recipe.settings,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        ema_decay=0.995,
        precision=precision,
        seed=seed,
        validate_every=validate_every,
        validation_images=min(64, recipe.settings.validation_images),
    )
    torch.manual_seed(seed)  # the fresh weights
    network = Autoencoder(
        training.batch(0, 1).shape[1:],
        patch=patch,
        latent_channels=latent_channels,
        channels=channels,
    )
    path = train_autoencoder(
        network, training, validation, out, options, kl_weight=kl_weight, description=description
    )
    typer.echo(f"written to {path}")


def _recipe(
    like: str | None, images: Path | None, npix: int | None, seed: int
) -> tuple[Any, Any, Any]:
    """The recipe of this name, and training and validation images, of it or of a file."""
    from lmaps_science.io import DataError
    from lmaps_science.io.files import suggestion

    known = recipes()
    like = next(iter(known)) if like is None else like
    if like not in known:
        raise DataError(
            f"there is no shipped prior {like!r}.{suggestion(like, known)} Known: "
            f"{', '.join(known)}."
        )
    recipe = known[like]
    if images is not None:
        if npix is not None:
            raise DataError(f"--npix {npix}: images of a file have their own size. Leave it out.")
        return recipe, *_own_images(images, seed)
    size = npix or recipe.npix
    validation = (recipe.validation or recipe.images)(size, seed + 1)
    return recipe, recipe.images(size, seed), validation


@app.command("train-conditional")
@reported
def prior_train_conditional(
    card: Annotated[str, typer.Argument(help="Whose prior, operator and noise it is for.")],
    out: Annotated[Path, typer.Option(help="Folder for weights and checkpoints.")],
    images: Annotated[
        int | None,
        typer.Option(min=1, help="How many of the recipe's images to train on.  [default: 100]"),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help=".npy file (n, H, W) in [0, 1] instead of the recipe's.")
    ] = None,
    like: Annotated[str | None, typer.Option(help="Which recipe's images, see train.")] = None,
    prior: Annotated[
        str | None, typer.Option(help="Another prior than the card's: its file.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the card, repeatable."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 2000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Its largest value.")] = 3e-4,
    precision: Annotated[str, typer.Option(help="no (float32) or bf16.")] = "no",
    seed: Annotated[int, typer.Option(min=0, help="Of images and noise.")] = 0,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 250,
    description: Annotated[str, typer.Option(help="One paragraph, kept in the file.")] = "",
) -> None:
    """Train a denoiser that sees the data, beside a card's prior and for its operator.

    The prior stays as it is; a second encoder of it learns from simulated data of the card. Name
    the result in a card, conditional: control.safetensors, and let a solver use it, e.g.
    --set solver.conditional=true (DPS, DMAP, LMAPS). The same command goes on from the last
    checkpoint in its folder.

    \b
    lmaps prior train-conditional restoration/sr4 --images 100 --out control
    """
    from dataclasses import replace

    from lmaps_science.cards.load import load_problem
    from lmaps_science.cards.registry import find_kind
    from lmaps_science.cli.runs import settings_of
    from lmaps_science.io import DataError
    from lmaps_science.io.files import suggestion
    from lmaps_science.training.control import FirstImages, train_control

    problem = load_problem(card, prior=prior, overrides=settings_of(settings))
    known = find_kind(problem.card.kind, card).training_recipes()
    like = next(iter(known), None) if like is None else like
    if like not in known:
        raise DataError(
            f"{problem.card.kind} has no recipe {like!r}.{suggestion(str(like), known)} Known: "
            f"{', '.join(known) or 'none'}."
        )
    recipe, size = known[like], problem.image_shape[-1]
    training: Any
    validation: Any
    if file is not None and images is not None:
        raise DataError(f"--images {images}: all images of --file are used. Leave one of them out.")
    if file is None:
        count = images or 100
        training = FirstImages(recipe.images(size, seed), count)
        validation = (recipe.validation or recipe.images)(size, seed + 1)
    else:
        training, validation = _own_images(file, seed)
        count = len(training.images)
    options = replace(
        recipe.settings,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        precision=precision,
        seed=seed,
        validate_every=validate_every,
        validation_images=min(32, recipe.settings.validation_images),
    )
    facts = {"card": card, "images": count, "overrides": settings_of(settings)}
    path = train_control(
        problem, training, validation, out, options, facts=facts, description=description
    )
    typer.echo(f"written to {path}")


@app.command("info")
@reported
def prior_describe(
    prior: Annotated[str, typer.Argument(help="A .safetensors file, or shipped weights by name.")],
) -> None:
    """Describe a prior, an autoencoder or conditional weights, and their training.

    \b
    lmaps prior info prior/prior.safetensors
    """
    import yaml

    from lmaps_science.cards.sections import find_prior
    from lmaps_science.io import DataError, sha256
    from lmaps_science.priors import prior_info
    from lmaps_science.priors.autoencoder import autoencoder_info
    from lmaps_science.priors.conditional import control_info

    path, facts = find_prior(prior), None
    for info in (autoencoder_info, control_info):
        with suppress(DataError):  # of another kind
            facts = info(path)
    facts = prior_info(path) if facts is None else facts
    facts["sha256"] = sha256(path)
    typer.echo(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=100).rstrip())


@app.command("sample")
@reported
def prior_sample(
    prior: Annotated[str, typer.Argument(help="A prior's file, or shipped weights by name.")],
    out: Annotated[Path, typer.Option(help="Picture to write.")],
    samples: Annotated[int, typer.Option(min=1, help="How many.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers.")] = 0,
    autoencoder: Annotated[
        str | None, typer.Option(help="Its file, where the prior is of latents.")
    ] = None,
    preconditioning: Annotated[
        str | None, typer.Option(help="For .pt checkpoints: edm, vp, ddpm, ve or iddpm.")
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
    from lmaps_science.priors.draws import sample_sheet

    config = {"preconditioning": preconditioning} if preconditioning else None
    found = load_prior(find_prior(prior), config=config, device=find_device(device))
    decode = None if autoencoder is None else _decoder_of(found, find_prior(autoencoder))
    sample_sheet(found, out, samples, seed, decode)
    typer.echo(f"written to {out}")


def _decoder_of(prior: Any, path: Path) -> Any:
    """The decoder in a file, where the prior is of its latents."""
    from lmaps_science.io import DataError
    from lmaps_science.priors import LatentPrior, load_autoencoder

    try:
        decoder = LatentPrior(prior, load_autoencoder(path)).decoder
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"--autoencoder {path}: {error}") from error
    return decoder.to(prior.device)


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

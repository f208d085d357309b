"""Sections that cards of several kinds share: files of data, network priors, numbered images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lmaps_science.cards.kind import Kind
from lmaps_science.cards.registry import find_kind, kinds
from lmaps_science.io.files import DataError, require_memory, shown, suggestion
from lmaps_science.io.npy import read_npy
from lmaps_science.manifests import fetch
from lmaps_science.misfit import Misfit
from lmaps_science.operators import Operator
from lmaps_science.priors import Denoiser, LatentPrior, load_autoencoder, load_prior

__all__ = [
    "FileSection",
    "LatentSection",
    "NetworkSection",
    "Pixels",
    "Section",
    "check_keys",
    "find_prior",
    "fitting",
    "in_space_of",
    "latent_prior",
    "network_prior",
    "numbered",
    "prior_facts",
    "read_array_file",
]

Item = TypeVar("Item")
MisfitType = TypeVar("MisfitType", bound=Misfit)

SOURCE = "https://github.com/lmaps-science/lmaps-science"

# Pixels along a side of an image: beyond that neither priors nor operators are meant to go, and a
# slip of the keyboard asks for terabytes.
Pixels = Annotated[int, Field(ge=4, le=4096)]


class Section(BaseModel):
    """Part of a card; an unknown key is an error that suggests the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _know_every_key(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            check_keys(values, cls.model_fields)
        return values


def check_keys(values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse keys that are not known, with the nearest one that is."""
    for key in values:
        if key not in known:
            raise ValueError(
                f"unknown key {shown(key)}.{suggestion(str(key), known)} Known here: "
                f"{', '.join(known)}."
            )


# ---------------------------------------------------------------- data


class FileSection(Section):
    """Measured data: a file, or the one of a manifest."""

    file: str | None = Field(
        default=None, description="Path of the measured data; --data goes before it."
    )
    manifest: str | None = Field(
        default=None,
        description="Name of public data to use where no file is given, see `lmaps data`.",
    )

    def path(self, data: str | Path | None, what: str, example: str) -> Path:
        """The file given with the command, else the section's, else that of its manifest.

        Args:
            data: a path, or None.
            what: the file holds, for the error, e.g. "a uvfits file".
            example: of its name.

        Raises:
            DataError: there is none.
        """
        chosen = data or self.file
        if chosen is None and self.manifest is None:
            raise DataError(
                f"this problem has no data of its own: give {what}, e.g. lmaps run ... --data "
                f'{example}, or load_problem(..., data="{example}").'
            )
        return Path(chosen or fetch(str(self.manifest)))


def numbered(name: str, prefix: str, item: Callable[[int], Item]) -> Item:
    """`item(K)` for a name `prefix:K`, K = 0, 1, 2, …

    Raises:
        DataError: no such number.
    """
    try:
        return item(int(name.removeprefix(f"{prefix}:")))
    except (ValueError, IndexError) as error:
        raise DataError(f"{name}: {error}. Write {prefix}:K with K = 0, 1, 2, …") from error


def read_array_file(name: str | Path) -> np.ndarray:
    """The array in a `.npy` file of numbers.

    Raises:
        DataError: no such file, or another kind of file.
    """
    array = read_npy(name)
    require_memory(name, f"an array of shape {array.shape}", array.nbytes)
    return np.array(array)


# ---------------------------------------------------------------- priors


class NetworkSection(Section):
    """A trained network."""

    kind: Literal["network"] = Field(description="What the prior is.")
    file: str = Field(
        description="Path of its weights, or the name of weights that come with the problems."
    )
    config: dict[str, Any] | None = Field(
        default=None,
        description="For .pt checkpoints alone: what their weights cannot tell, such as "
        "preconditioning (edm, vp, ddpm, ve or iddpm).",
    )


def network_prior(section: NetworkSection, kind: str) -> Denoiser:
    """The network of a card of this `kind`, whose folder of cards holds the shipped weights.

    Raises:
        DataError: a file that is missing, or is no prior.
    """
    prior = load_prior(find_prior(section.file, kind), config=section.config)
    of = prior.metadata["training"].get("autoencoder")
    if of is not None:
        raise DataError(
            f"{section.file} is a prior of the latents of {of.get('file')}, not of images: name "
            f"both, prior: {{kind: latent, file: {section.file}, autoencoder: {of.get('file')}}}, "
            "in the card or by --set."
        )
    return prior


class LatentSection(Section):
    """A trained network that denoises what an autoencoder makes of images, and the autoencoder."""

    kind: Literal["latent"] = Field(description="What the prior is.")
    file: str = Field(
        description="Path of the weights of the prior of latents, of `lmaps prior train "
        "--autoencoder`, or their name where they come with the problems."
    )
    autoencoder: str = Field(
        description="Path of the weights of the autoencoder, of `lmaps prior train-autoencoder`, "
        "or their name where they come with the problems."
    )


def latent_prior(section: LatentSection, kind: str) -> LatentPrior:
    """The prior of latents of a card of this `kind`, with the decoder of its images.

    Raises:
        DataError: a file that is missing or is another, or an autoencoder of other latents.
    """
    decoder = load_autoencoder(find_prior(section.autoencoder, kind))
    try:
        return LatentPrior(load_prior(find_prior(section.file, kind)), decoder)
    except DataError:
        raise
    except ValueError as error:
        raise DataError(f"prior: {error}") from error


def in_space_of(
    prior: Denoiser, misfit: MisfitType, decode: Operator
) -> tuple[MisfitType, Operator]:
    """The misfit and the map to physical images on the space of the prior.

    They stand behind the decoder of a prior of latents, and are unchanged for one of images.
    """
    if not isinstance(prior, LatentPrior):
        return misfit, decode
    return misfit @ prior.decoder, decode @ prior.decoder  # type: ignore[return-value]


def find_prior(name: str | Path, kind: str | None = None) -> Path:
    """The file of a prior: shipped weights by their name, else a path.

    Args:
        name: of the file, e.g. "my_prior/prior.safetensors".
        kind: whose shipped weights have names; None: those of every kind.

    Raises:
        DataError: neither, with the nearest name; or weights that are not in the wheel, with the
            place where they are.
    """
    among = kinds().values() if kind is None else [find_kind(kind, "prior")]
    shipped = {path.name: path for k in among for path in sorted(k.cards.glob("*.safetensors"))}
    if str(name) in shipped:
        return shipped[str(name)]
    path = Path(name).expanduser()
    left_out = {name: k for k in among for name in k.checksums}
    if not path.exists() and str(name) in left_out:
        raise DataError(_left_out(str(name), left_out[str(name)]))
    if not path.exists():
        raise DataError(
            f"{name}: no such prior, neither at that path nor among those that come with the "
            f"package: {', '.join(shipped) or 'none'}.{suggestion(str(name), shipped)} Train one "
            "with `lmaps prior train`, or take prior 'gaussian', which needs no file."
        )
    return path


def _left_out(name: str, kind: Kind) -> str:
    """Where weights are that are listed beside the cards, and not there: those of a wheel."""
    return (
        f"{name} is not in this installation: weights that no card uses are left out of the wheel. "
        f"It is in the source archive and the repository, {SOURCE}, as "
        f"problems/{kind.name}/{name} (SHA-256 {kind.checksums[name]}). Give the path of a copy "
        f"instead, e.g. ./{name}"
    )


def fitting(prior: Denoiser, shape: tuple[int, ...], advice: str) -> Denoiser:
    """The prior for images of this shape (C, H, W), where it serves them.

    Raises:
        DataError: it does not; `advice` says what to set so that it would, formatted with `npix`.
    """
    latent = isinstance(prior, LatentPrior)
    have = tuple(prior.decoder.data_shape or () if latent else prior.image_shape)  # type: ignore
    if have == shape:
        return prior
    if have[0] == shape[0] and hasattr(prior, "for_size"):
        try:
            resized: Denoiser = prior.for_size(*shape[1:])
        except ValueError:
            pass  # trained on whole images
        else:
            return resized
    if have[0] != shape[0]:
        raise DataError(
            f"the prior is for images of {have[0]} channel{'s' * (have[0] != 1)}, these have "
            f"{shape[0]}: it belongs to another kind of problem. Give one trained on such images."
        )
    raise DataError(
        f"the prior is for images of shape {have} (channels, height, width), the problem's are of "
        f"{shape}: {advice.format(npix=have[-1])}."
    )


def prior_facts(prior: Denoiser) -> dict[str, Any]:
    """What a result should say of its prior."""
    metadata = getattr(prior, "metadata", {})
    keep = ("description", "file", "sha256", "autoencoder")
    return {"repr": repr(prior), **{key: metadata[key] for key in keep if key in metadata}}

"""The network priors of cards: found by path, or among the weights that come with the problems."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lmaps_science.io import DataError
from lmaps_science.manifests import shipped_folder
from lmaps_science.priors import Denoiser, load_prior
from lmaps_science.problem.cards import Section

__all__ = ["NetworkSection", "network_prior", "prior_facts"]


class NetworkSection(Section):
    """A network: `file` is a path, or the name of weights that come with the problems.

    `config` is for `.pt` checkpoints alone: what their weights cannot tell (`priors.infer_config`).
    """

    kind: Literal["network"]
    file: str
    config: dict[str, Any] | None = None


def network_prior(section: NetworkSection, folder: str) -> Denoiser:
    """The network of a card; `folder` is that of its kind's shipped weights.

    Raises:
        DataError: a file that is missing, or is no prior.
    """
    path, shipped = Path(section.file), shipped_folder("problems") / folder / section.file
    path = shipped if shipped.is_file() else path
    if not path.exists():
        raise DataError(
            f"{path}: no such prior, neither at that path nor in {shipped.parent}. Train one with "
            "`lmaps prior train`, or take prior 'gaussian', which needs no file."
        )
    return load_prior(path, config=section.config)


def prior_facts(prior: Denoiser) -> dict[str, Any]:
    """What a result should say of its prior."""
    metadata = getattr(prior, "metadata", {})
    keep = ("description", "file", "sha256")
    return {"repr": repr(prior), **{key: metadata[key] for key in keep if key in metadata}}

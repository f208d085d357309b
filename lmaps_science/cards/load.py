"""A card (YAML) and data in, a problem to sample out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lmaps_science.cards.files import override, read_card
from lmaps_science.cards.problem import Problem
from lmaps_science.cards.registry import find_kind
from lmaps_science.cards.schema import Card, validate
from lmaps_science.priors.base import Denoiser

__all__ = ["load_card", "load_problem"]


def load_card(name: str, overrides: Mapping[str, Any] | None = None) -> Card:
    """The validated card of a problem.

    Args:
        name: a shipped card, e.g. "black_hole/m87_2017" (see `list_problems`), or a YAML file.
        overrides: dotted paths, e.g. `{"observation.fraction": 0.1, "solver.levels": 25}`.

    Raises:
        DataError: no such card, or something wrong in it: the message names the key, and the
            nearest known one where it is misspelt.
    """
    content = override(read_card(name), overrides or {})
    kind = find_kind(content.get("kind"), f"card {name}")
    return validate(kind.card_class, content, name)


def load_problem(
    name: str,
    data: str | Path | None = None,
    prior: Denoiser | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """A problem, ready for `sample(problem, problem.solver)`.

    Args:
        name: a shipped card, e.g. "black_hole/m87_2017" (see `list_problems`), or a YAML file.
        data: the file to work on; default: the card's. A uvfits file or one of k-space, or for a
            simulation the image to observe (see the card's section).
        prior: "shipped" or None for the card's; "gaussian" for an analytic one that needs no file;
            the path of a checkpoint; or any denoiser.
        overrides: dotted paths, e.g. `{"observation.fraction": 0.1, "solver.levels": 25}`.
        preset: which of the card's solvers to use.
        device, dtype: where and in which precision to compute; default: CPU, float32.

    Raises:
        DataError: a wrong card, override, file or size of image.

    Example:
        >>> problem = load_problem("black_hole/simulated", prior="gaussian")  # doctest: +SKIP
        >>> result = sample(problem, problem.solver, n_samples=4)             # doctest: +SKIP
        >>> problem.analyse(result)                                          # doctest: +SKIP
    """
    changes: dict[str, Any] = {} if preset is None else {"preset": preset}
    if prior == "gaussian":
        changes["prior.kind"] = "gaussian"
    elif isinstance(prior, (str, Path)) and prior != "shipped":
        changes["prior"] = {"kind": "network", "file": str(prior)}
    card = load_card(name, {**changes, **(overrides or {})})
    given = prior if isinstance(prior, Denoiser) else None
    return card.problem(name, data, given, device, dtype)

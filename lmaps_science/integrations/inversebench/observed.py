"""Ours on the data that InverseBench's methods saw: problems with a saved observation and truth.

The program draws the noise of each observation anew, so methods are only compared fairly on the
observation that one run saved:

    problem = load_problem("scattering/linear_360", prior=network, overrides={...})
    theirs = "exps/inference/inv-scatter-linear/DPS/default"
    for item in range(10):
        reconstruct(observed(problem, f"{theirs}/result_{item}.pt"), f"ours/{item}")
    print(benchmark_tables({"DPS": read_results(theirs), "ours": read_results("ours")}))
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from lmaps_science.cards.problem import Problem
from lmaps_science.cards.registry import find_kind
from lmaps_science.integrations.inversebench.saved import digest, read_saved
from lmaps_science.io.files import DataError, sha256
from lmaps_science.operators import Affine

__all__ = ["observed"]

_MOST = 20  # times the misfit that the truth is expected to have


def observed(problem: Problem, path: str | os.PathLike[str]) -> Problem:
    """The same problem with the observation and the true image of a saved result.

    Args:
        problem: of a card with the benchmark's geometry; for MRI of the same slice, whose coil maps
            results do not hold.
        path: a `result_{id}.pt` of any algorithm.

    Raises:
        DataError: a file that is damaged or of another program; an observation that the problem's
            operator does not make, or an image of another size.

    Warns (UserWarning) where the true image does not explain the observation: then the card's
    geometry, or for MRI the slice, is another one.
    """
    path = Path(path).expanduser()
    saved = read_saved(path)
    kind = find_kind(problem.card.kind, problem.name)
    scores = kind.benchmark_scores()
    if scores is None:
        raise DataError(f"{problem.name}: the benchmark has no problem of kind {kind.name!r}.")
    try:
        data, truth = scores.unpacked(saved, problem)
        like = problem.misfit.data
        data = data.reshape(like.shape).to(like)
        image = problem.image.copy(
            data=truth.reshape(problem.image.shape).astype(problem.image.dtype)
        )
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"{path}: an observation of shape {tuple(saved.observation.shape)} and an image of "
            f"{tuple(saved.target.shape)} are not those of {problem.name}, whose data are "
            f"{tuple(problem.misfit.data.shape)} and images {problem.image_shape}: set the card to "
            "the benchmark's numbers of pixels and measurements."
        ) from error
    facts = {"saved_observation": digest(saved.observation), "saved_result_sha256": sha256(path)}
    found = replace(
        problem.with_data(data),
        truth=image,
        facts={**problem.facts, **facts},
    )
    found = replace(found, observation=found.observation.assign_attrs(file=str(path)))
    _warn_of_another_geometry(found, path)
    return found


def _warn_of_another_geometry(problem: Problem, path: Path) -> None:
    if not isinstance(problem.decode, Affine) or problem.truth is None:
        return
    values = torch.as_tensor(problem.truth.values).reshape(1, *problem.image_shape)
    peak = float(values.max()) if problem.image.attrs.get("units") == "Jy/pixel" else 1.0
    with torch.no_grad():
        misfit = problem.misfit(problem.decode.to_model((values / peak).to(problem.like(0))))
    excess = float(misfit) / problem.misfit.data.numel()
    if excess > _MOST:
        warnings.warn(
            f"{path}: its true image explains its observation badly with {problem.name} (misfit "
            f"{excess:.3g} a number, expected about 1): the card's geometry, or its slice, is not "
            "that of the result.",
            stacklevel=3,
        )

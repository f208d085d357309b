"""Learn how far the spread of samples must be widened, on simulated observations of one card."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from lmaps_science.cards.calibration import (
    SpreadFactor,
    configuration,
    differs,
    read_factors,
    simulations,
    write_factors,
)
from lmaps_science.cards.inputs import identity, made_from
from lmaps_science.cards.registry import find_kind
from lmaps_science.cards.schema import Card
from lmaps_science.io import DataError, read_netcdf
from lmaps_science.io.files import make_folder, names, require_parent
from lmaps_science.io.folders import RESULT
from lmaps_science.io.results import require_result
from lmaps_science.metrics import calibration, object_pixels, spread_factor
from lmaps_science.metrics.calibration import FEWEST
from lmaps_science.runner.many import reconstruct_many
from lmaps_science.runner.plan import Batch, find_observations

__all__ = ["calibrate", "learn", "read_pairs"]

MIN_IMAGES = 5
FIRST = 1000  # far from the numbers that cards and tables show
PIXELS = "the mean of the samples is above 5 % of its peak"
Pair = tuple[np.ndarray, np.ndarray]


def calibrate(
    card: str,
    out: str | os.PathLike[str],
    images: int = 20,
    n_samples: int = 8,
    seed: int = 0,
    *,
    level: float = 0.9,
    first: int = FIRST,
    runs: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    prior: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    batch_size: int | Literal["auto"] | None = None,
    device: str = "auto",
    progress: bool = True,
    force: bool = False,
) -> SpreadFactor:
    """What `lmaps calibrate` does: simulate, reconstruct, compare, keep a factor in a file.

    The results of the simulated observations stay in a folder of their own, as of
    `reconstruct_many`; so the same call goes on after an interruption, and a call with more images
    adds to them. The factor is that of `metrics.spread_factor` on the pixels of
    `metrics.object_pixels`.

    Args:
        card, preset, prior, overrides, device: as in `load_problem`.
        out: the file; factors of other configurations that it holds stay.
        images: simulated observations, 5 at least.
        n_samples, seed, batch_size, progress: as in `reconstruct_many`.
        level: of the intervals.
        first: number of the first image. No other than these is used.
        runs: folder for the results; default: one for these settings in `NAME-runs` beside `out`.
        force: replace the factor of the same configuration in `out`.

    Raises:
        DataError: too few images or samples; data that are measured; a solver whose spread is no
            error bar (`Solver.caution`); `out` holds a factor of this configuration; or an
            observation failed.

    Example:
        calibrate("scattering/linear_60", "mine.calibration.json", preset="uncertainty")
    """
    path = require_parent(Path(out).expanduser())
    if images < MIN_IMAGES or n_samples < FEWEST or not 0 < level < 1:
        raise DataError(
            f"calibrate needs at least {MIN_IMAGES} images, {FEWEST} samples of each and a level "
            f"between 0 and 1, got {images}, {n_samples} and {level}: the factor of fewer says "
            "more about these images than about the card. 20 images of 8 samples serve well."
        )
    changes = dict(overrides or {})
    batch = Batch(card, "", prior, changes, preset, samples=n_samples, seed=seed)
    name, _ = simulations(batch.card_of())
    each = f"{name}:{first}-{first + images - 1}"
    found = find_observations(batch, each=each)
    simulated = batch.card_of(found[0])
    if simulated.solver().caution is not None:
        raise DataError(
            f"calibrate makes no error bars of this solver: {simulated.solver().caution}. Take "
            "another preset, e.g. --preset uncertainty."
        )
    others = _others(path, simulated, card, force)
    made = configuration(simulated, made_from(simulated, card, None), simulated.solver())
    if runs is None:  # of other settings each other ones
        own = identity({"configuration": made, "samples": n_samples, "seed": seed})[:12]
        runs = path.with_name(f"{path.name.split('.')[0]}-runs") / own
    folder = make_folder(runs)
    report = reconstruct_many(
        card,
        (),
        folder,
        n_samples,
        seed,
        each=each,
        prior=prior,
        overrides=changes,
        preset=preset,
        batch_size=batch_size,
        device=device,
        figures=False,
        further_runs=False,
        progress=progress,
    )
    if report.failed:
        first_failed = report.failed[0]
        raise DataError(
            f"{len(report.failed)} of {images} observations failed, e.g. {first_failed.name}: "
            f"{first_failed.error} A factor without them would be of the easy ones: see why, the "
            "same command goes on."
        )
    pairs, numbers = read_pairs([folder / observation.name for observation in found])
    facts = learn(pairs, numbers, level)
    factor = SpreadFactor(
        **facts,
        level=level,
        observations=each,
        samples=n_samples,
        seed=seed,
        configuration=made,
    )
    write_factors(path, [*others, factor])
    return factor


def _others(path: Path, card: Card, name: str, force: bool) -> list[SpreadFactor]:
    """The factors in the file that stay; refuses one of this configuration unless `force`."""
    if not path.exists():
        return []
    found = read_factors(path)
    inputs = made_from(card, name, None)
    others = [f for f in found if differs(f.configuration, card, inputs, card.solver())]
    if len(others) < len(found) and not force:
        raise DataError(
            f"{path} holds a factor of this configuration: give another --out, or replace it with "
            "--force."
        )
    return others


def read_pairs(folders: Sequence[Path]) -> tuple[list[Pair], list[str]]:
    """Truths (...) and samples (n, ...) that are compared, of results, and the folders' names.

    What has fewer than 3 samples that belong together is left out.

    Raises:
        DataError: a result without truth.
    """
    pairs, kept = [], []
    for folder in folders:
        data = read_netcdf(folder / RESULT)
        require_result(data, folder)
        samples, truth = find_kind(data.attrs.get("kind"), str(folder)).comparable(data)
        if truth is None:
            raise DataError(f"{folder}: the truth is not known, so there is nothing to learn.")
        if samples.sizes["sample"] >= FEWEST:
            pairs.append((_values(truth), _values(samples)))
            kept.append(folder.name)
    return pairs, kept


def _values(image: xr.DataArray) -> np.ndarray:
    return np.asarray(image.values, float)


def learn(pairs: Sequence[Pair], found: Sequence[str], level: float) -> dict[str, Any]:
    """The factor of these truths and samples, and how the others' factor does on each.

    Returns:
        The parts of `SpreadFactor` that data decide: `factor`, `images`, `pixels`, `uncalibrated`,
        `left_out`, `left_out_error`, and the package's `version`.

    Raises:
        DataError: too few of them.
    """
    from importlib.metadata import version

    if len(pairs) < MIN_IMAGES:
        raise DataError(
            f"{len(pairs)} observations have at least {FEWEST} samples that belong together "
            f"({names(found)}), a factor takes {MIN_IMAGES}: give more images, or more samples."
        )
    truths, samples = map(list, zip(*pairs, strict=True))
    masks = [object_pixels(drawn) for drawn in samples]

    def factor_of(which: Sequence[int]) -> float:
        chosen = ([values[k] for k in which] for values in (truths, samples, masks))
        some_truths, some_samples, some_masks = chosen
        return spread_factor(some_truths, some_samples, level, where=some_masks)

    def share(k: int, factor: float) -> float:
        found = calibration(
            truths[k : k + 1],
            samples[k : k + 1],
            where=masks[k : k + 1],
            levels=(level,),
            factor=factor,
        )
        return float(found["coverage"][0])

    everyone = range(len(pairs))
    left_out = [share(k, factor_of([j for j in everyone if j != k])) for k in everyone]
    return {
        "factor": factor_of(everyone),
        "images": len(pairs),
        "pixels": PIXELS,
        "uncalibrated": float(np.mean([share(k, 1.0) for k in everyone])),
        "left_out": float(np.mean(left_out)),
        "left_out_error": float(np.std(left_out, ddof=1) / len(left_out) ** 0.5),
        "version": version("lmaps-science"),
    }

"""Factors on the spread of samples: learned on simulated observations, kept in files, applied.

A factor belongs to one configuration: a card with everything that decides how an image is observed
and reconstructed, but not which image. It is applied to no other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import xarray as xr
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from lmaps_science.cards.files import find_card
from lmaps_science.cards.inputs import differences, settings
from lmaps_science.cards.registry import find_kind
from lmaps_science.io.files import DataError, atomic_write, read_text
from lmaps_science.metrics import interval_factor
from lmaps_science.metrics.calibration import FEWEST

if TYPE_CHECKING:
    from lmaps_science.cards.problem import Problem
    from lmaps_science.cards.schema import Card
    from lmaps_science.cards.series import Series
    from lmaps_science.sampling import Result, Solver

__all__ = [
    "SpreadFactor",
    "configuration",
    "differs",
    "put_intervals",
    "read_factors",
    "simulations",
    "write_factors",
]

FORMAT = "lmaps calibration 1"
SUFFIX = ".calibration.json"  # of the file beside a card
_MOST_BYTES = 10_000_000
_NOT_CONFIGURATION = ("samples", "seed", "keys", "calibration")


class SpreadFactor(BaseModel):
    """A factor on the samples' deviation, and what it was learned from.

    Attributes:
        factor, level: with the factor, intervals of this level hold that share of the pixels.
        configuration: for which it was learned, see `configuration`.
        observations: on which, as of `lmaps batch --each`.
        images, samples, seed: how many observations, samples of each, and the runs' seed.
        pixels: which ones counted.
        uncalibrated: the share that intervals held without the factor.
        left_out: the share that they hold with the factor of all other observations, averaged;
            `left_out_error` is its standard error.
        version: of the package that learned it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    factor: Annotated[FiniteFloat, Field(gt=0)]
    level: Annotated[float, Field(gt=0, lt=1)]
    observations: str
    images: Annotated[int, Field(ge=2)]
    samples: Annotated[int, Field(ge=FEWEST)]
    seed: Annotated[int, Field(ge=0)]
    pixels: str
    uncalibrated: FiniteFloat
    left_out: FiniteFloat
    left_out_error: FiniteFloat
    version: str
    configuration: dict[str, Any]

    @property
    def source(self) -> str:
        """What it was learned from, in words."""
        return (
            f"{self.images} simulated observations ({self.observations}), {self.samples} samples "
            f"each, seed {self.seed}"
        )


# ---------------------------------------------------------------- configurations


def simulations(card: Card) -> tuple[str, Series]:
    """The series of simulated observations of a card, whose images are known, and its name.

    Raises:
        DataError: the card has none, or its data are measured.
    """
    content = card.model_dump(mode="json")
    found = {name: series for name, series in card.series.items() if series.simulated}
    for name, series in found.items():
        if all(_holds(content, key) for key in series.keys):
            return name, series
    told = f"its data are measured, and {', '.join(found)} is" if found else "it has no"
    raise DataError(
        f"this card cannot be calibrated: {told} a series of simulations with known truths. "
        "Calibrate a card that simulated what you measure, e.g. with observation.kind=simulation."
    )


def _holds(content: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(content, Mapping) or part not in content:
            return False
        content = content[part]
    return True


def configuration(
    card: Card, inputs: Mapping[str, Any], solver: Solver, *, chosen: bool = False
) -> dict[str, Any]:
    """All on which the spread of samples depends, but not which image is observed.

    Args:
        card: with its overrides.
        inputs: of `made_from`.
        solver: in use.
        chosen: leave out the keys of the card that have their defaults.
    """
    found = settings(card, inputs, solver, 0, 0)
    found = {key: value for key, value in found.items() if key not in _NOT_CONFIGURATION}
    if chosen:
        found = _common(found, card.model_dump(mode="json", exclude_defaults=True), ("solver",))
    try:
        _, series = simulations(card)
    except DataError:  # measured: the data are part of it
        return _plain(found)
    found.pop("data", None)
    for key in (*series.keys, *series.others):
        *above, last = key.split(".")
        section: Any = found
        for part in above:
            section = section.get(part, {})
        section.pop(last, None)
    return _plain(found)


def differs(learned: Mapping[str, Any], card: Card, inputs: Any, solver: Solver) -> list[str]:
    """Where a configuration is not that of the card, a line each.

    Keys that a newer version has added do not count where they have their defaults.
    """
    now = configuration(card, inputs, solver)
    set_now = configuration(card, inputs, solver, chosen=True)
    return differences(learned, _without_new_defaults(now, learned, set_now))


def _without_new_defaults(now: Any, learned: Any, set_now: Any) -> Any:
    if not isinstance(now, Mapping) or not isinstance(learned, Mapping):
        return now
    chosen = set_now if isinstance(set_now, Mapping) else {}
    return {
        key: _without_new_defaults(value, learned.get(key), chosen.get(key))
        for key, value in now.items()
        if key in learned or key in chosen
    }


def _common(found: Any, other: Any, whole: tuple[str, ...] = ()) -> Any:
    """The part of `found` whose keys are in `other`, those of `whole` as they are."""
    if not isinstance(found, Mapping) or not isinstance(other, Mapping):
        return found
    return {k: _common(v, other.get(k)) for k, v in found.items() if k in other or k in whole}


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """As a JSON file gives it back."""
    found: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return found


# ---------------------------------------------------------------- files


def read_factors(path: str | os.PathLike[str]) -> list[SpreadFactor]:
    """The factors in a file of `lmaps calibrate`.

    Raises:
        DataError: no such file, or not as that writes it.
    """
    text = read_text(path, _MOST_BYTES, "a file of spread factors")
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(f"its `format` is not {FORMAT!r}")
        return [SpreadFactor.model_validate(item) for item in content.get("factors", ())]
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part)[:40] for part in fault["loc"])
        reason = f"{key}: {fault['msg']}"
    except (ValueError, TypeError, RecursionError) as error:
        reason = str(error)
    raise DataError(
        f"{path} is no file of spread factors: {reason}. Make one with `lmaps calibrate`."
    )


def write_factors(path: str | os.PathLike[str], factors: list[SpreadFactor]) -> None:
    """Write factors to a file, all or nothing."""
    content = {"format": FORMAT, "factors": [factor.model_dump() for factor in factors]}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _file_of(problem: Problem) -> Path | None:
    """The file of factors that the card names, or the one beside it."""
    if problem.card.calibration is not None:
        return Path(problem.card.calibration).expanduser()
    try:
        beside = find_card(problem.name)
    except DataError:  # made in Python, or gone since
        return None
    path = beside.with_name(beside.stem + SUFFIX)
    return path if path.is_file() else None


# ---------------------------------------------------------------- results


def put_intervals(data: xr.Dataset, problem: Problem, result: Result) -> None:
    """Put the calibrated intervals into a result, or the reason why there are none.

    Sets the attribute `calibration`: whether a factor was `applied`, and `text`. Where one fits the
    configuration, `interval_90` (of level 0.9; bound, ...) holds the ends of the interval of every
    pixel, of the samples that belong together (see `Kind.comparable`), with the factor, its level
    and what it was learned from among its attributes.
    """
    found = _factor(problem, result)
    if isinstance(found, str):
        text = [f"not calibrated: {found}"]
        data.attrs["calibration"] = {"applied": False, "text": text}
        return
    samples = find_kind(problem.card.kind, "card").comparable(data)[0]
    n = samples.sizes["sample"]
    name = f"interval_{100 * found.level:g}".replace(".", "_")
    if n < FEWEST:
        text = [f"not calibrated: {n} samples belong together, an interval takes {FEWEST} or more"]
        data.attrs["calibration"] = {"applied": False, "text": text}
        return
    mean, deviation = samples.mean("sample"), samples.std("sample", ddof=1)
    half = found.factor * interval_factor(n, found.level) * deviation
    bounds = xr.concat([mean - half, mean + half], "bound").assign_coords(bound=["lower", "upper"])
    facts = {**found.model_dump(exclude={"configuration"}), "n": n}
    data[name] = bounds.astype(samples.dtype).assign_attrs(
        {
            "units": samples.attrs.get("units", "1"),
            "long_name": f"{found.level:g} interval",
            **facts,
        }
    )
    text = [
        f"{name}: mean ± {found.factor:.3g} times the {100 * found.level:g} % interval of {n} "
        f"samples; factor learned on {found.source}",
        f"left out, each of these had {100 * found.left_out:.1f} ± {100 * found.left_out_error:.1f}"
        f" % of its pixels inside (without the factor {100 * found.uncalibrated:.1f} %); counted "
        f"where {found.pixels}",
    ]
    if n < len(result):
        text.append(
            f"it is of the {n} of {len(result)} samples that belong together, and holds if the "
            "truth is of their kind: of what the other samples show it says nothing"
        )
    data.attrs["calibration"] = {"applied": True, "variable": name, "text": text, **facts}


def _factor(problem: Problem, result: Result) -> SpreadFactor | str:
    """The factor that fits, or why there is none."""
    path, inputs = _file_of(problem), problem.facts.get("inputs")
    solver = _solver(problem, result)
    if len(result) < FEWEST:
        return f"{len(result)} sample{'s' * (len(result) > 1)}, a spread takes {FEWEST} or more"
    if solver is not None and solver.caution is not None:
        return solver.caution
    if path is None:
        return "no factor was learned for this card (`lmaps calibrate`)"
    if inputs is None or solver is None:
        return "the problem or its solver was made in Python, not by a card"
    reasons = []
    for factor in read_factors(path):
        reasons.append(differs(factor.configuration, problem.card, inputs, solver))
        if not reasons[-1]:
            return factor
    nearest = min(reasons, key=len, default=["it holds none"])
    more = f"; and {len(nearest) - 2} more" if len(nearest) > 2 else ""
    return f"{path.name} has no factor of this configuration ({'; '.join(nearest[:2])}{more})"


def _solver(problem: Problem, result: Result) -> Solver | None:
    """Of the card's solvers the one that made the result."""
    name = result.facts.get("solver")
    return next((s for s in problem.solvers.values() if repr(s) == name), None)

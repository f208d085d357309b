"""Series of observations that one card can describe: the slices of a volume, numbered phantoms."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaps_science.io.files import DataError, shown, suggestion

if TYPE_CHECKING:
    from lmaps_science.cards.schema import Card

__all__ = ["Series", "expand"]

MOST = 1_000_000  # of numbers in a series: more is a slip of the keyboard
EXAMPLE = "--each slice, --each slice:0-9,12 or --each observation.seed:0-3"


@dataclass(frozen=True)
class Series:
    """What changes from one observation to the next, as `Card.series` names it.

    Args:
        keys: of the card, and their values, where `{}` stands for the number.
        count: of the card and the data given with the command, how many there are; None where
            there is no end, so that a range must be given.
        joins: whether their results make a volume.
        simulated: whether each is an observation of another image, which is known: those on which
            methods are compared, and spreads calibrated.
        others: further keys of the card that choose the image, and not how it is observed.

    Example:
        series = {"phantom": Series({"observation.image": "phantom:{}"})}
    """

    keys: Mapping[str, str]
    count: Callable[[Any, str | Path | None], int] | None = field(default=None)
    joins: bool = False
    simulated: bool = False
    others: tuple[str, ...] = ()


def expand(text: str, card: Card, data: str | Path | None = None) -> list[dict[str, Any]]:
    """The overrides of each observation of a series.

    Args:
        text: `NAME` or `NAME:RANGE`, e.g. `slice:0-9,12`; a key of the card may be the name.
        card: whose series have names.
        data: the file that holds them, where there is one.

    Returns:
        For each observation `{"each": {NAME: number}, "overrides": {key: value}, "joins": ...}`.

    Raises:
        DataError: no such series, or no such range.
    """
    name, _, numbers = text.partition(":")
    known = type(card).series
    if name in known:
        series = known[name]
    elif "." in name:
        series = Series({name: "{}"})
    else:
        raise DataError(
            f"--each {shown(text)}: this card has no such series.{suggestion(name, known)} It has "
            f"{', '.join(known) or 'none'}; or give a key of the card, e.g. {EXAMPLE}."
        )
    if numbers:
        chosen = _numbers(text, numbers)
    elif series.count is not None:
        chosen = list(range(series.count(card, data)))
    else:
        raise DataError(f"--each {text}: it has no end; say which, e.g. --each {name}:0-99.")
    return [
        {
            "each": {name: number},
            "overrides": {key: value.format(number) for key, value in series.keys.items()},
            "joins": series.joins,
        }
        for number in chosen
    ]


def _numbers(text: str, numbers: str) -> list[int]:
    chosen: list[int] = []
    for part in numbers.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
        if found is None:
            raise DataError(f"--each {shown(text)}: write numbers and ranges, e.g. {EXAMPLE}.")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last - first >= MOST:
            raise DataError(
                f"--each {shown(text)}: {part.strip()} runs from {first} to {last}; the smaller "
                f"number comes first, and {MOST:,} are enough."
            )
        chosen += range(first, last + 1)
    if len(set(chosen)) < len(chosen):
        raise DataError(f"--each {shown(text)} names a number twice.")
    return chosen

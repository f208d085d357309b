"""What may vary in a solver or a part of one: the ranges that `lmaps tune` searches.

Solvers and parts declare theirs beside their options, as the class attribute `search`. What makes a
run dearer, such as the number of levels, does not belong there: more of it is better, and how much
one affords is another question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Choice", "Range", "Space"]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Attributes:
        low, high: the ends.
        log: equal ratios are equally likely, not equal differences.
        whole: whole numbers alone.

    Raises:
        ValueError: the ends are in the wrong order, or not positive where `log` needs it.

    Example:
        search: ClassVar[Space] = {"zeta": Range(0.02, 2.0, log=True)}
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high if self.log else self.low < self.high):
            raise ValueError(f"a range needs low < high, above 0 where it is log, got {self!r}.")


@dataclass(frozen=True)
class Choice:
    """One of some values: text, numbers, booleans or None.

    Raises:
        ValueError: there is nothing to choose from.
    """

    values: tuple[str | float | bool | None, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise ValueError(f"a choice needs two values at least, got {self.values!r}.")


Space = Mapping[str, Range | Choice]

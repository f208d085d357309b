"""Does a result explain its data? One word that a scientist can rely on, and the reasons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

__all__ = ["LEVELS", "NOT_JUDGED", "Check", "judge"]

LEVELS = ("good", "doubtful", "does not fit")
NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Check:
    """One number that tells whether a result can be believed.

    Attributes:
        what: the number is, as the sentence that reports it begins, e.g. "chi2 of closure phases".
        value: the number; NaN is worse than any.
        doubtful, wrong: above these the result is doubtful, or does not fit; infinite: never.
        reason: what a large value means, and what to do about it.
    """

    what: str
    value: float
    doubtful: float
    wrong: float = float("inf")
    reason: str = ""

    @property
    def level(self) -> int:
        """0: good, 1: doubtful, 2: does not fit."""
        if not np.isfinite(self.value):
            return 2
        return int(self.value > self.doubtful) + int(self.value > self.wrong)

    def __str__(self) -> str:
        limit = (self.doubtful, self.doubtful, self.wrong)[self.level]
        sentence = f"{self.what} {self.value:.3g} ({'above' if self.level else 'within'} {limit:g})"
        return f"{sentence}: {self.reason}" if self.level and self.reason else sentence


def judge(checks: Iterable[Check]) -> tuple[str, list[str]]:
    """The verdict, the worst level of all checks, and its reasons; all of them when it is good.

    Without a check the result is "not judged".
    """
    found = list(checks)
    if not found:
        return NOT_JUDGED, ["this kind of problem has no checks"]
    worst = max(check.level for check in found)
    return LEVELS[worst], [str(check) for check in found if check.level == worst]

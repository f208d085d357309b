"""How often denoisers and operators are called: a meter that they are handed.

Counting sits in their checked public methods. A metered copy shares its meter with the parts that
it hands out, such as an operator's Jacobian; the parts inside of it have none, so that a call of
the whole is one call.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Meter"]


class Meter:
    """Counts of calls and of vector-Jacobian products.

    Attributes:
        counts: denoiser_calls, denoiser_vjps, operator_calls and operator_vjps. Of an operator with
            a singular value decomposition each product with V^T or U is a call, with V or U^T a
            vector-Jacobian product; A^H A is one of each.
    """

    NAMES = ("denoiser_calls", "denoiser_vjps", "operator_calls", "operator_vjps")

    def __init__(self, counts: Mapping[str, int] | None = None):
        self.counts = dict.fromkeys(self.NAMES, 0) | dict(counts or {})

    def add(self, *names: str) -> None:
        """One more of each."""
        for name in names:
            self.counts[name] += 1

    def times(self, n: int) -> Meter:
        """A meter whose every call counts `n` times in this one: for `n` particles a sample."""
        return _Multiple(self, n)

    def __repr__(self) -> str:
        return f"Meter({self.counts})"


class _Multiple(Meter):
    def __init__(self, meter: Meter, n: int):
        super().__init__()
        self._meter, self._n = meter, n

    def add(self, *names: str) -> None:
        self._meter.add(*names * self._n)

"""How often the denoiser and the operator are called: a problem that counts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from lmaps_science.operators import LinearOperator, Operator
from lmaps_science.priors.base import Denoiser
from lmaps_science.sample.protocol import InverseProblem

COUNTS = ("denoiser_calls", "denoiser_vjps", "operator_calls", "operator_vjps")


def counted(
    problem: InverseProblem, counts: dict[str, int], autocast: torch.dtype | None = None
) -> InverseProblem:
    """The same problem, whose denoiser and operator add their calls to ``counts``.

    ``autocast`` is the dtype in which the denoiser, and it alone, runs.
    """
    operator = _counting(problem.misfit.operator, counts, [False])
    misfit = copy.copy(problem.misfit)
    misfit.operator = operator
    return replace(problem, prior=_CountingPrior(problem.prior, counts, autocast), misfit=misfit)


def _counting(operator: Operator, counts: dict[str, int], inside: list[bool]) -> Operator:
    kind = type(operator)
    counting = copy.copy(operator)
    counting.__class__ = type(kind.__name__, (_CountingOperator, kind), {})
    counting._counts, counting._inside = counts, inside  # type: ignore[attr-defined]
    return counting


class _CountingPrior(Denoiser):
    def __init__(
        self, prior: Denoiser, counts: dict[str, int], autocast: torch.dtype | None
    ) -> None:
        self.prior, self.counts, self.autocast = prior, counts, autocast
        self.image_shape, self.value_range = prior.image_shape, prior.value_range
        self.covariance = prior.covariance

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.counts["denoiser_calls"] += 1
        # Here and not around the loop: the operator's products must keep their precision.
        reduced = torch.autocast(x.device.type, self.autocast) if self.autocast else nullcontext()
        with reduced:
            out = self.prior._denoise(x, sigma).to(x.dtype)
        if out.requires_grad:
            out.register_hook(self._count_vjp)
        return out

    def _count_vjp(self, gradient: Tensor) -> None:
        self.counts["denoiser_vjps"] += 1


class _CountingOperator:
    """Mixed into a copy of the operator, so that it keeps its type and all it can do.

    Only the outermost call counts: ``normal`` is one call and one adjoint, however it is made.
    """

    _counts: dict[str, int]
    _inside: list[bool]

    def _outermost(self, name: str, times: Mapping[str, int], *args: Any) -> Any:
        if self._inside[0]:
            return getattr(super(), name)(*args)
        self._inside[0] = True
        try:
            for key, count in times.items():
                self._counts[key] += count
            return getattr(super(), name)(*args)
        finally:
            self._inside[0] = False

    def __call__(self, x: Tensor) -> Tensor:
        return self._outermost("__call__", {"operator_calls": 1}, x)

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        return self._outermost("vjp", {"operator_vjps": 1}, x, v)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._outermost("adjoint", {"operator_vjps": 1}, y)

    def normal(self, x: Tensor) -> Tensor:
        return self._outermost("normal", {"operator_calls": 1, "operator_vjps": 1}, x)

    @property
    def linear(self) -> LinearOperator | None:
        """The Jacobian, which counts as well: an affine operator has another one than itself."""
        found: Any = super().linear  # type: ignore[misc]
        if found is None or hasattr(found, "_counts"):
            return found
        return cast(LinearOperator, _counting(found, self._counts, self._inside))

    def pullback(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        y, pull = self._outermost("pullback", {"operator_calls": 1}, x)

        def counted_pull(v: Tensor) -> Tensor:
            if not self._inside[0]:
                self._counts["operator_vjps"] += 1
            inside, self._inside[0] = self._inside[0], True
            try:
                return pull(v)
            finally:
                self._inside[0] = inside

        return y, counted_pull

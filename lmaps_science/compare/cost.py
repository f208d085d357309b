"""What a run costs: network calls, operator calls, memory; and levels that keep to a budget."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lmaps_science.cards.problem import Problem
from lmaps_science.io.files import DataError
from lmaps_science.sampling import Solver, State, sample

__all__ = [
    "first_level",
    "levels_of",
    "levels_within",
    "network_calls",
    "operator_calls",
    "within_budget",
]

MOST_LEVELS = 1_000_000


def network_calls(counts: Mapping[str, Any]) -> int:
    """Calls of the denoiser, a vector-Jacobian product counted as two more."""
    return int(counts["denoiser_calls"]) + 2 * int(counts["denoiser_vjps"])


def operator_calls(counts: Mapping[str, Any]) -> int:
    """Calls of the operator and of its adjoint or Jacobian."""
    return int(counts["operator_calls"]) + int(counts["operator_vjps"])


# ---------------------------------------------------------------- a trial


class _Enough(Exception):
    """The first level is done."""


def first_level(
    problem: Problem, solver: Solver, n_samples: int = 1, batch_size: int | None = None
) -> float:
    """Run the first noise level, as a trial of whether the solver serves the problem.

    Returns:
        The most memory in use meanwhile, in megabytes: what PyTorch took of a GPU, else that of the
        whole process; NaN where the system does not tell.

    Raises:
        ValueError: the solver refuses the problem, with the reason.
    """

    def stop(level: int, state: State) -> None:
        raise _Enough

    forgotten = _forget_peak(problem)
    # One that diverges, say, fails where it runs, image by image: that is no refusal.
    with suppress(_Enough, FloatingPointError, RuntimeError):
        sample(problem, solver, n_samples, batch_size=batch_size, progress=False, callback=stop)
    return _peak(problem) if forgotten else float("nan")


def _forget_peak(problem: Problem) -> bool:
    """Begin to measure memory; False where that cannot be."""
    gc.collect()
    device = problem.like(1).device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return True
    if sys.platform != "linux":
        return False
    with suppress(OSError, AttributeError):  # what is freed goes back to the system first
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak(problem: Problem) -> float:
    device = problem.like(1).device
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)
    return int(found[1]) * 1.024e-3 if found else float("nan")


# ---------------------------------------------------------------- a budget


def within_budget(problem: Problem, solver: Solver, budget: int) -> Solver:
    """The solver with as many levels as make its network calls the most that `budget` holds.

    Where they grow by as many with each level, runs of one and of two levels tell how many; where
    they depend on the data, as those of iterations that end when they are good enough, the result
    is an estimate. See `Solver.network_calls`.

    Raises:
        DataError: the solver has no levels, or one level of it takes more.
    """
    name = type(solver).__name__
    core = _core(solver)
    fields = {field.name for field in dataclasses.fields(core)}  # type: ignore[arg-type]
    if "levels" not in fields:
        raise DataError(
            f"{name} cannot be scaled to {budget} network calls: it has no option `levels`. Leave "
            "it out, or compare without --budget."
        )

    def of_core(levels: int) -> Solver:
        return dataclasses.replace(core, levels=levels)  # type: ignore[type-var, no-any-return]

    def of(levels: int) -> Solver:
        if core is solver:
            return of_core(levels)
        return dataclasses.replace(solver, solver=of_core(levels))  # type: ignore[type-var, call-arg]

    def counted(levels: int) -> int:
        try:
            scaled = of(levels)
        except ValueError:  # fewer levels than it needs
            return 0
        if scaled.network_calls is not None:
            return scaled.network_calls
        # A solver's own particles are in its trial's counts already, those of a population not.
        images = levels if core is solver else sum(scaled.width(i) for i in range(levels))
        return line[0] + line[1] * images

    line = (0, 0)
    if solver.network_calls is None:
        try:
            one, two = (
                network_calls(sample(problem, of_core(n), progress=False).counts) for n in (1, 2)
            )
        except (FloatingPointError, RuntimeError) as error:
            raise DataError(
                f"{name} cannot be scaled to {budget} network calls: {error}"
            ) from error
        line = (2 * one - two, two - one)
        if two <= one:
            raise DataError(
                f"{name} cannot be scaled to {budget} network calls: two levels take {two}, one "
                f"{one}. Compare without --budget."
            )
    levels = levels_within(budget, counted)
    if levels < 1:
        raise DataError(
            f"{name} cannot be scaled to {budget} network calls: one level takes {counted(1)}. "
            "Give more, or options that make a level cheaper, such as fewer steps."
        )
    try:
        return of(levels)
    except ValueError as error:
        raise DataError(
            f"{name} cannot be scaled to {budget} network calls: with {levels} levels, {error}"
        ) from error


def _core(solver: Solver) -> Any:
    """Whose levels they are: a population has its solver's."""
    return getattr(solver, "solver", solver)


def levels_of(solver: Solver) -> dict[str, int]:
    """How many levels, by the option that says it; empty where none does.

    A population has its solver's: `{"solver.levels": 40}`.
    """
    core = _core(solver)
    key = "levels" if core is solver else "solver.levels"
    return {key: core.levels} if hasattr(core, "levels") else {}


def levels_within(budget: int, calls: Callable[[int], int]) -> int:
    """The most levels whose `calls`, which never fall, are within `budget`; 0: not even one."""
    low, high = 0, 1
    while high <= MOST_LEVELS and calls(high) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if calls(middle) <= budget:
            low = middle
        else:
            high = middle
    return low

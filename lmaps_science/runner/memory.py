"""How many images fit into a device's memory side by side: measured, not guessed."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Sequence

import torch

from lmaps_science.cards.problem import Problem
from lmaps_science.io.files import free_memory
from lmaps_science.noise import SampleNoise
from lmaps_science.runner.batch import load
from lmaps_science.runner.plan import Batch, Observation
from lmaps_science.sampling.progress import say

__all__ = ["largest_batch"]

SHARE = 0.7  # of the free memory that is used: later levels may take more than the first
MOST = 1024  # beyond it nothing gets faster


def largest_batch(batch: Batch, observations: Sequence[Observation], tell: bool = True) -> int:
    """How many images fit side by side, a multiple of the samples of one observation.

    One level is run on 1, 2, 4, ... observations' worth of images; what memory each image takes
    follows from the last doubling. Beyond what the device can hold, or all the images there are,
    nothing is tried.

    Raises:
        DataError: the first observation cannot be loaded.
    """
    problem = load(batch, observations[0])
    wanted, size = min(batch.samples * len(observations), MOST), batch.samples
    capacity = _peak(problem) + SHARE * _free(problem)
    used, found = _level(problem, size), size
    while 2 * size <= wanted:
        try:
            twice = _level(problem, 2 * size)
        except (torch.OutOfMemoryError, MemoryError):
            found = size
            break
        each = max(twice - used, 1) / size
        size, used = 2 * size, twice
        found = min(size + int(max(capacity - used, 0) / each), wanted)
        if found < 2 * size:
            break
    found = max(found // batch.samples, 1) * batch.samples
    if tell:
        say(f"batch size: {found} images side by side")
    return found


def _level(problem: Problem, images: int) -> float:
    """Bytes in use at the most when the first level has run on so many images."""
    device, solver = problem.like(1).device, problem.solver
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    noise = SampleNoise(0, tuple(range(images)))
    with torch.no_grad():
        prepared = problem.prepare(solver)
        solver.step(0, solver.init(prepared, noise), prepared, noise)
    return _peak(problem)


def _peak(problem: Problem) -> float:
    device = problem.like(1).device
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _free(problem: Problem) -> float:
    device = problem.like(1).device
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return free_memory()

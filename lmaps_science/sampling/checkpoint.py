"""Interrupted runs: batches on their way, kept in one file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from lmaps_science.arrays import norm
from lmaps_science.io.files import DataError, require_parent
from lmaps_science.io.pytorch import read_tensors, write_tensors
from lmaps_science.noise import SampleNoise
from lmaps_science.priors.conditional import ConditionalDenoiser
from lmaps_science.sampling.protocol import InverseProblem, Solver, State

_AT = "probes:"  # begins the numbers of a key
_ADVICE = "Remove it, or give each run its own checkpoint file."


@dataclass(frozen=True)
class Track:
    """One batch on its way: its state, and what has been recorded of it at every level.

    Attributes:
        state: after the last level.
        misfits: data misfits (B,) of the estimates.
        estimates: (B, C, H, W) each, where the trajectory is kept.
    """

    state: State
    misfits: tuple[Tensor, ...] = ()
    estimates: tuple[Tensor, ...] = ()

    @property
    def level(self) -> int:
        """The number of levels that are done."""
        return len(self.misfits)

    def after(self, state: State, misfit: Tensor, trajectory: bool) -> Track:
        """The track, one level on."""
        kept = (state.estimate.cpu(),) if trajectory else ()
        return Track(state, (*self.misfits, misfit.cpu()), self.estimates + kept)


class Checkpoint:
    """The batches of one run, finished or on their way, in a file; without a path, nowhere.

    Args:
        path: the file, or None.
        run: tells this run of the problem from others.
        problem: what is sampled.

    Attributes:
        counts, seconds: cost of the run up to the last save.

    Raises:
        DataError: no folder for the file, or a file that is no checkpoint.
        ValueError: the file holds another run.
    """

    def __init__(self, path: str | Path | None, run: str, problem: InverseProblem) -> None:
        self.path = None if path is None else require_parent(path)
        self.counts: dict[str, int] = {}
        self.seconds = 0.0
        self._batches: dict[int, dict[str, Any]] = {}
        self._device, self._run, self._problem = problem.like(1).device, run, problem
        if self.path is None or not self.path.exists():
            return
        saved = read_tensors(self.path, _ADVICE)
        key = saved.get("key") if isinstance(saved, dict) else type(saved).__name__
        if not _same(key, self._key):
            raise ValueError(
                f"{self.path} holds another run ({key}), not this one ({self._key}). {_ADVICE}"
            )
        if not _whole(saved, problem.like(1)):
            raise self._damaged()
        self.counts, self.seconds = saved["counts"], saved["seconds"]
        self._batches = saved["batches"]

    @cached_property
    def _key(self) -> str:
        """Costs a denoiser and an operator call: made when a file is read or written."""
        return f"{self._run} {_fingerprint(self._problem)}"

    @property
    def levels(self) -> int:
        """Levels of all batches that are done."""
        return sum(len(saved["misfits"]) for saved in self._batches.values())

    def _damaged(self) -> DataError:
        return DataError(f"{self.path} is damaged: it holds other values than ours. {_ADVICE}")

    def track(self, first: int, samples: int, solver: Solver) -> Track | None:
        """The batch of `samples` that begins with sample `first`, as last saved.

        Raises:
            DataError: it has other images, or more levels, than the solver would have left.
        """
        if first not in self._batches:
            return None
        saved = self._batches[first]
        level, sizes = len(saved["misfits"]), [len(saved["state"][k]) for k in ("x", "estimate")]
        if level >= len(solver.sigmas) or sizes != [samples * solver.width(level), samples]:
            raise self._damaged()
        state = State(**saved["state"]).to(device=self._device)
        return Track(state, saved["misfits"], saved["estimates"])

    def keep(self, first: int, track: Track) -> None:
        """Remember a batch for the next `save`."""
        if self.path is not None:
            state = {**vars(track.state), "extra": dict(track.state.extra)}
            self._batches[first] = {**vars(track), "state": state}

    def save(self, counts: Mapping[str, int], seconds: float) -> None:
        """Write all batches that were kept, if any, with the cost of the run up to now."""
        if self.path is None or not self._batches:
            return
        content = {"key": self._key, "counts": dict(counts), "seconds": seconds}
        write_tensors(self.path, {**content, "batches": self._batches})


def _whole(saved: dict[str, Any], like: Tensor) -> bool:
    """Whether what a checkpoint holds has the types and shapes of what `save` writes."""
    counts, batches = saved.get("counts"), saved.get("batches")
    if not isinstance(counts, dict) or not isinstance(batches, dict):
        return False
    plain = all(type(n) is int for n in counts.values()) and type(saved.get("seconds")) is float
    return plain and all(type(k) is int and _whole_batch(v, like) for k, v in batches.items())


def _whole_batch(saved: Any, like: Tensor) -> bool:
    if not isinstance(saved, dict) or set(saved) != {field.name for field in fields(Track)}:
        return False
    state, histories = saved["state"], (saved["misfits"], saved["estimates"])
    if not isinstance(state, dict) or set(state) != {field.name for field in fields(State)}:
        return False
    if not isinstance(state["extra"], dict) or not all(isinstance(h, tuple) for h in histories):
        return False
    images = (state["x"], state["estimate"])
    tensors = (*images, *state["extra"].values(), *histories[0], *histories[1])
    if not all(isinstance(value, Tensor) for value in tensors):
        return False
    fit = all(x.shape[1:] == like.shape[1:] and x.dtype == like.dtype for x in images)
    return fit and all(misfit.shape == (len(state["estimate"]),) for misfit in histories[0])


def _fingerprint(problem: InverseProblem) -> str:
    """Tells problems apart: by what they make of a fixed noise image, and by their very data."""
    image = SampleNoise(0, (0,)).normal(problem.like(1), 0)
    every = image.expand(problem.observations, *image.shape[1:])
    images = [problem.prior(image, 1.0)]
    conditional = problem.conditional
    if isinstance(conditional, ConditionalDenoiser):
        conditional = conditional.told(image)
    if conditional is not None:
        images.append(conditional(image, 1.0))
    numbers = [x for denoised in images for x in (denoised.mean(), norm(denoised))]
    numbers.append(problem.misfit(every).sum())
    told = " ".join(f"{float(x):.6g}" for x in numbers)
    return (
        f"{image.dtype} {problem.prior!r} data={_digest(problem)} keys={problem.keys} {_AT} {told}"
    )


def _same(one: Any, other: str) -> bool:
    """Whether two keys are of one run; their numbers may differ by the rounding of processors."""
    if not isinstance(one, str):
        return False
    (text, _, numbers), (wanted, _, expected) = (key.partition(_AT) for key in (one, other))
    try:
        pairs = zip(map(float, numbers.split()), map(float, expected.split()), strict=True)
        return text == wanted and all(math.isclose(a, b, rel_tol=1e-3) for a, b in pairs)
    except ValueError:
        return False


def _digest(problem: InverseProblem) -> str:
    try:
        data = problem.misfit.data.detach().cpu().contiguous()
    except NotImplementedError:  # a misfit of someone's own may do without
        return "?"
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()[:16]

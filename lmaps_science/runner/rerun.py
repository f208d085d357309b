"""A result, made again from what it says of itself, and compared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from lmaps_science.cards.inputs import differences, made_from, settings
from lmaps_science.cards.load import build_problem, find_device
from lmaps_science.cards.registry import find_kind, trusting
from lmaps_science.cards.schema import Card, validate
from lmaps_science.io import DataError, read_netcdf
from lmaps_science.io.files import shown
from lmaps_science.io.results import require_result
from lmaps_science.priors import Denoiser, load_prior
from lmaps_science.runner.one import reconstruct
from lmaps_science.runner.provenance import Located, Provenance, locate
from lmaps_science.runner.results import commit, metric_names
from lmaps_science.sampling import Solver, sample

__all__ = ["Rerun", "rerun"]

# Rounding, in units of the peak, of images made in other network batches, measured in float32 on a
# CPU, 15 samples of each: up to 2e-6 in MRI and 4e-4 in scattering (conjugate gradients, 12 and 8
# levels); of closure quantities (L-BFGS, 12 levels) up to 7e-5 for 12 samples, and 4e-3 to 1e-2 for
# the other 3, which rounding led elsewhere, as it does more often in longer runs. Those differ.
# float64: in proportion to its precision. Of misfits and metrics, relative: up to 6e-4.
TOLERANCE = {"float32": 1e-3, "float64": 2e-12}
OF_NUMBERS = 10.0  # times as much


@dataclass(frozen=True)
class Rerun:
    """How a result and the one that was made again compare.

    Attributes:
        images: of each sample, the largest difference of its image, in units of the largest value
            of all images of the result; infinite where one is NaN and the other not.
        numbers: the largest relative difference of the misfit and of each metric.
        verdicts: before, and now.
        identical: whether images, misfits, metrics and verdict are the same to the bit.
        tolerance: of `images`; `numbers` may differ by 10 times as much.
        notes: what differs between then and now.
        data: the new dataset.
    """

    images: np.ndarray
    numbers: Mapping[str, float]
    verdicts: tuple[str, str]
    identical: bool
    tolerance: float
    notes: tuple[str, ...]
    data: xr.Dataset

    @property
    def agrees(self) -> bool:
        """Whether they are the same, or differ by rounding alone."""
        return self.identical or not self._differing

    @property
    def verdict(self) -> str:
        """One line."""
        if self.identical:
            return "identical to the bit"
        if self.agrees:
            return f"agrees within rounding ({self.images.max():.1g} of the peak)"
        return f"differs: {'; '.join(self._differing)}"

    @property
    def _differing(self) -> list[str]:
        n, found = int((self.images > self.tolerance).sum()), []
        if n:
            found.append(
                f"{n} of {len(self.images)} images, by up to {self.images.max():.2g} of the peak "
                f"(rounding: {self.tolerance:g})"
            )
        found += [
            f"{name} by {value:.2g} of itself"
            for name, value in self.numbers.items()
            if value > OF_NUMBERS * self.tolerance
        ]
        before, now = self.verdicts
        found += [f"the verdict was {before}, now {now}"] if before != now else []
        return found

    @property
    def _explanation(self) -> list[str]:
        if self.agrees or not any(", now " in note for note in self.notes):
            return []
        return [
            "rounding grows along a run, and can lead a sample to another solution, where there "
            "are several; as it was made, a result is the same to the bit"
        ]

    def __str__(self) -> str:
        largest = ", ".join(f"{name} {value:.1g}" for name, value in self.numbers.items())
        before, now = self.verdicts
        rows = [("images", f"largest difference {self.images.max():.2g} of the peak")]
        rows += [("numbers", f"largest relative differences: {largest}")]
        rows += [("judged", before if before == now else f"{before}, now {now}")]
        rows += [("note", note) for note in (*self.notes, *self._explanation)]
        return "\n".join(f"{k:<10}{v}" for k, v in [*rows, ("verdict", self.verdict)])

    __repr__ = __str__


def rerun(
    result: str | os.PathLike[str] | xr.Dataset,
    *,
    data: str | Path | None = None,
    prior: Denoiser | str | Path | None = None,
    solver: Solver | None = None,
    out: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    trust: Sequence[str] = (),
    progress: bool = True,
) -> Rerun:
    """Make a result again, from the card that it holds, and compare the two.

    The card, the files (known by their fingerprints), the seed and the solver must be those of the
    result, else nothing is run; other versions or another machine are told. With equal versions,
    device, batch size and number of threads, which is taken from the result where there are so many
    processors, the two are the same to the bit.

    Args:
        result: `result.nc` of a run, or the dataset it holds.
        data: where the data files are now, a file or a folder; default: where they were.
        prior: where the prior's weights are now; or the denoiser, where the run had one of Python.
        solver: where the run had one of Python, instead of the card's.
        out: a new folder for the new results; default: they are not written.
        device: default: that of the result, where there is such a one.
        batch_size: default: that of the result.
        trust: names `module:Class` of solvers in the card that may be imported. It is the code of
            that name on this machine that runs.
        progress: as in `sample`.

    Raises:
        DataError: the result does not say how it was made; a file is missing or has changed; the
            solver cannot be rebuilt; or `out` holds results.

    Example:
        >>> rerun("run/result.nc").identical  # doctest: +SKIP
    """
    where = "the dataset" if isinstance(result, xr.Dataset) else result
    before = result if isinstance(result, xr.Dataset) else read_netcdf(result)
    require_result(before, where)
    made = Provenance.of(before, where)
    weights = prior if made.inputs.prior is None else None  # else they are not of its card
    places = [place for place in (data, weights) if isinstance(place, (str, Path))]
    with trusting(trust):
        found = locate(made, places)
        card = _card(made, found)
        chosen = _solver(made, card) if solver is None else solver
        denoiser = _prior(made, prior)
        _same_settings(made, card, found, chosen, denoiser, before.sizes["sample"])
        problem = build_problem(
            card,
            made.problem,
            found.instead or found.data,
            denoiser,
            find_device(_device(made) if device is None else device),
            _dtype(made.dtype),
        ).with_key(made.key)
        n, size = before.sizes["sample"], batch_size or made.batch_size
        with _threads(made.threads):
            if out is None:
                drawn = sample(problem, chosen, n, made.seed, batch_size=size, progress=progress)
                now = problem.analyse(drawn)
            else:
                now = reconstruct(
                    problem, out, n, made.seed, solver=chosen, batch_size=size, progress=progress
                )
    notes = _notes(made, now)
    if "prior_check" in before.attrs:
        notes += ("what came of the second prior was not made again",)
    return _compare(before, now, str(problem.image.name or "image"), notes)


# ---------------------------------------------------------------- what is run


def _card(made: Provenance, found: Located) -> Card:
    kind = find_kind(made.kind, "the result")
    if found.card.get("kind") != made.kind:
        raise DataError(
            f"the result is of kind {shown(made.kind)}, and its card of "
            f"{shown(found.card.get('kind'))}: it was changed after it was written."
        )
    return validate(kind.card_class, found.card, made.problem)


def _solver(made: Provenance, card: Card) -> Solver:
    """The card's solver that looks as the result's did: of the preset in use, else of another."""
    for name in (card.preset, *card.presets):
        solver = card.solver(name)
        if repr(solver) == made.solver:
            return solver
    raise DataError(
        f"the solver cannot be rebuilt: the result was made with {shown(made.solver, 500)}, and "
        f"its card makes {shown(card.solver(), 500)}. It was given in Python, or this version has "
        "other options: give it, rerun(..., solver=...)."
    )


def _prior(made: Provenance, prior: Denoiser | str | Path | None) -> Denoiser | None:
    """The denoiser that was given in place of the card's, if any was."""
    if made.inputs.prior is None:
        return prior if isinstance(prior, Denoiser) else None
    if isinstance(prior, (str, Path)):
        return load_prior(Path(prior))
    if prior is None:
        raise DataError(
            f"the prior was given in Python, {shown(made.inputs.prior, 200)}: give it again, "
            "--prior FILE, or rerun(..., prior=...)."
        )
    return prior


def _same_settings(
    made: Provenance,
    card: Card,
    found: Located,
    solver: Solver,
    prior: Denoiser | None,
    samples: int,
) -> None:
    """Refuse what would be another run."""
    inputs = made_from(card, made.problem, found.data, prior)
    now = settings(card, inputs, solver, samples, made.seed, (made.key,))
    changed = differences(made.settings, _known_then(now, made.settings))
    if changed:
        raise DataError(
            f"this would be another run: {'; '.join(changed[:5])}"
            f"{f'; and {len(changed) - 5} more' if len(changed) > 5 else ''}. The result was "
            "changed after it was written, or this version reads its card otherwise."
        )


def _known_then(now: Any, then: Any) -> Any:
    """Without the keys of cards that are new in this version: they have their defaults."""
    if not isinstance(now, Mapping) or not isinstance(then, Mapping):
        return now
    return {key: _known_then(value, then[key]) for key, value in now.items() if key in then}


def _device(made: Provenance) -> str:
    if made.device in ("cpu", "mps"):
        return made.device
    return "auto"


def _dtype(name: str) -> torch.dtype:
    if name not in TOLERANCE:
        raise DataError(f"its dtype is {shown(name)}; known are {', '.join(TOLERANCE)}.")
    found: torch.dtype = getattr(torch, name)
    return found


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """As many threads as then, where there are so many processors: sums are split by them."""
    own = torch.get_num_threads()
    possible = count is not None and 1 <= count <= (os.cpu_count() or 1)
    torch.set_num_threads(count if possible and count is not None else own)
    try:
        yield
    finally:
        torch.set_num_threads(own)


# ---------------------------------------------------------------- how they compare


def _notes(made: Provenance, now: xr.Dataset) -> tuple[str, ...]:
    """What may explain a difference."""
    words = {
        "lmaps_science_version": "lmaps-science",
        "torch_version": "PyTorch",
        "numpy_version": "NumPy",
        "device": "device",
        "processor": "processor",
        "threads": "threads",
        "batch_size": "images side by side",
        "commit": "commit",
    }
    attrs: dict[str, Any] = {**commit(), **now.attrs}
    found = []
    for key, word in words.items():
        then = getattr(made, key)
        if then is None and key != "commit":
            found.append(f"{word}: not in the result, now {shown(attrs.get(key))}")
        elif then is not None and key in attrs and then != attrs[key]:
            found.append(f"{word}: {shown(then)}, now {shown(attrs[key])}")
    return tuple(found)


def _compare(before: xr.Dataset, now: xr.Dataset, image: str, notes: tuple[str, ...]) -> Rerun:
    numbers = ["misfit", *metric_names(now)]
    lacking = [name for name in (image, *numbers) if name not in before]
    if lacking:
        notes += (f"not in the result: {', '.join(lacking)}",)
    if image in lacking:
        raise DataError(f"the result holds no {image!r}: it is not of this kind of problem.")
    shared = [name for name in numbers if name not in lacking]
    old, new = before[image].values, now[image].values
    verdicts = (str(before.attrs.get("verdict")), str(now.attrs["verdict"]))
    arrays = [(before[name].values, now[name].values) for name in (image, *shared)]
    same = all(a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True) for a, b in arrays)
    return Rerun(
        images=_difference(old, new, by_sample=True),
        numbers={name: _difference(_final(before[name]), _final(now[name])) for name in shared},
        verdicts=verdicts,
        identical=same and not lacking and verdicts[0] == verdicts[1],
        tolerance=TOLERANCE[str(now.attrs["dtype"])],
        notes=notes,
        data=now,
    )


def _final(variable: xr.DataArray) -> np.ndarray:
    """Of a history, what it came to: on the way there rounding matters more, and nobody looks."""
    values: np.ndarray = variable.values
    return values[-1] if "level" in variable.dims[:1] else values


def _difference(old: np.ndarray, new: np.ndarray, by_sample: bool = False) -> Any:
    """The largest |old - new|, of each sample or of all, over the largest |old|."""
    n = len(new) if by_sample else 1
    if old.shape != new.shape or not np.issubdtype(old.dtype, np.floating):
        return np.full(n, np.inf) if by_sample else np.inf
    old, new = (np.asarray(x, dtype=float) for x in (old, new))
    with np.errstate(invalid="ignore"):
        scale = np.nanmax(abs(old), initial=0.0) or 1.0
        away = abs(old - new) / scale
    unequal = (np.isnan(old) != np.isnan(new)) | (np.isinf(old) & (old != new))
    away = np.where(unequal, np.inf, np.where(np.isnan(away), 0.0, away))
    if not by_sample:
        return float(away.max(initial=0.0))
    return away.reshape(n, -1).max(1, initial=0.0)

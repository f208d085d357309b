"""The batch engine: groups of observations, one after the other or by workers of Dask."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lmaps_science.io.files import DataError, make_folder, names
from lmaps_science.runner.batch import Group, Outcome, check_settings, run_group
from lmaps_science.runner.memory import largest_batch
from lmaps_science.runner.plan import Batch, find_observations, shard_of
from lmaps_science.runner.signals import Sigterm, Terminated
from lmaps_science.runner.volume import join_volumes
from lmaps_science.sampling import State
from lmaps_science.sampling.progress import Progress, say

__all__ = ["BatchReport", "reconstruct_many"]


@dataclass(frozen=True)
class BatchReport:
    """What became of each observation of this part of the work."""

    out: str
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Those that failed, with their errors."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == "failed")

    def __str__(self) -> str:
        words = {"done": "done", "found": "finished before", "failed": "failed"}
        counts = [
            f"{sum(o.status == status for o in self.outcomes)} {word}"
            for status, word in words.items()
            if any(o.status == status for o in self.outcomes)
        ]
        lines = [f"{len(self.outcomes)} observations in {self.out}: {', '.join(counts) or 'none'}"]
        lines += [f"  {outcome.name}: {outcome.error}" for outcome in self.failed[:20]]
        if len(self.failed) > 20:
            lines.append(f"  and {names(o.name for o in self.failed[20:])}")
        return "\n".join(lines)

    __repr__ = __str__


def reconstruct_many(
    card: str,
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    out: str | os.PathLike[str] = "",
    n_samples: int = 4,
    seed: int = 0,
    *,
    each: str | None = None,
    listed: str | os.PathLike[str] | None = None,
    prior: str | os.PathLike[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    preset: str | None = None,
    batch_size: int | Literal["auto"] | None = None,
    device: str = "auto",
    each_sample: bool = False,
    figures: bool = True,
    further_runs: bool = True,
    shard: str | None = None,
    dask: str | None = None,
    progress: bool = True,
) -> BatchReport:
    """Reconstruct many observations; what `lmaps batch` does.

    Each gets a folder in `out` as of `reconstruct`. One that is finished there, with the same
    settings, is left alone; so the same call goes on after an interruption, and retries what
    failed. An observation's samples depend on `seed`, on its data and on its place in the series,
    not on the others, nor on shards and workers. With another `batch_size` they agree within
    rounding, see `sample`.

    The slices of a volume are joined into one dataset, and a file of the field's format, beside
    their folders when all of them are done.

    Args:
        card, prior, overrides, preset, device: as in `load_problem`.
        data: files, folders, or patterns such as `obs/*.uvfits`.
        out: folder for the results; made if missing.
        n_samples, seed, each_sample, progress: as in `reconstruct`.
        each: a series: the slices of a volume (`slice`, `slice:0-9`), numbered phantoms
            (`phantom:0-99`), or the values of a key of the card (`observation.seed:0-3`).
        listed: a text file with a path or a pattern a line.
        batch_size: images side by side; observations that fit together share a network batch.
            "auto" measures how many fit into the device's memory. Default: the samples of one
            observation.
        further_runs: let results look for more than samples tell, as the ring test of black holes
            does with eight runs and more; metrics need none of it.
        figures: draw figure.png and samples.png, a second or two for each observation.
        shard: "i/n": part i of n of the work, i from 1; default: that of the SLURM array task in
            which this runs, if any. Parts need not know of each other.
        dask: the address of a Dask scheduler, the path of its file, or "local" for workers on this
            machine (extra `dask`).

    Raises:
        DataError: nothing to do, or `out` holds results of other settings.
        OSError: the disk is full.
        KeyboardInterrupt: interrupted, or `Terminated`; the same call goes on.

    Example:
        >>> report = reconstruct_many("mri/kspace", "scans/*.h5", "out")  # doctest: +SKIP
    """
    if not os.fspath(out):
        raise DataError("the folder for the results has no name: give one, e.g. out='results'.")
    patterns = [data] if isinstance(data, (str, os.PathLike)) else data
    batch = Batch(  # with absolute paths: workers may have started elsewhere
        card=_absolute(card),
        out=str(Path(out).expanduser().resolve()),
        prior=None if prior is None else _absolute(os.fspath(prior)),
        overrides=dict(overrides or {}),
        preset=preset,
        device=device,
        samples=n_samples,
        seed=seed,
        each_sample=each_sample,
        figures=figures,
        further_runs=further_runs,
    )
    found = find_observations(batch, [os.fspath(path) for path in patterns], listed, each)
    if batch_size == "auto":
        batch_size = largest_batch(batch, found, tell=progress)
    batch = replace(batch, size=batch_size)
    index, count = shard_of(shard)
    groups = batch.groups(found)[index::count]
    if count > 1 and progress:
        say(f"part {index + 1} of {count}: {sum(map(len, groups))} of {len(found)} observations")
    check_settings(batch, [observation for group in groups for observation in group])
    make_folder(batch.out)
    if dask is None:
        outcomes = list(_in_turn(batch, groups, progress))
    else:
        from lmaps_science.runner.dask import by_workers

        outcomes = list(by_workers(batch, groups, dask, progress))
    done = [outcome.name for outcome in outcomes if outcome.status == "done"]
    join_volumes(batch, found, done, progress)
    return BatchReport(str(out), tuple(outcomes))


def _absolute(name: str) -> str:
    """The absolute path of a file; names of what is shipped as they are."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_file() else name


def _in_turn(batch: Batch, groups: Sequence[Group], progress: bool) -> Iterator[Outcome]:
    """One group after the other, in this process."""
    total = sum(map(len, groups))
    done = failed = 0
    bar = Progress(Path(batch.out).name, total, unit="observation", shown=progress)
    with bar, Sigterm() as sigterm:

        def after_level(level: int, state: State) -> None:
            sigterm.after_level(level, state)
            bar.note(level=str(level + 1), failed=str(failed))

        try:
            for group in groups:
                if sigterm.asked:
                    raise Terminated
                for outcome in run_group(batch, group, after_level):
                    done, failed = done + 1, failed + (outcome.status == "failed")
                    bar.count(outcome.status == "found", failed=str(failed))
                    yield outcome
        except KeyboardInterrupt as error:
            error.args = (f"{done} of {total} are finished; the same command goes on from here",)
            raise

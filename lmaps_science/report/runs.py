"""Which folders hold results, failures, or what was begun and not finished."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lmaps_science.io.files import DataError, names, read_text

__all__ = ["FAILED", "FINISHED", "UNFINISHED", "Run", "Runs", "find_runs"]

FINISHED, FAILED, UNFINISHED = "finished", "failed", "unfinished"
RESULT, FAILURE = "result.nc", "failure.json"
BEGUN = re.compile(r"checkpoint-.*\.pt|\.writing-.*")  # of a run, or of a batch
MOST_TEXT = 1 << 20  # bytes of a failure


@dataclass(frozen=True)
class Run:
    """One observation, reconstructed by one method, as its folder tells.

    Attributes:
        name: of the observation, that of its folder.
        method: name of the folder that holds the observations of the batch.
        folder: where it is.
        state: "finished", "failed" or "unfinished".
        failure: of a failed one, `error` (a sentence), `type`, `data` and `when`.
    """

    name: str
    method: str
    folder: Path
    state: str
    failure: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Runs:
    """All runs of some folders, sorted by observation, then by method.

    Attributes:
        all: the runs.
        methods: in the order in which they were found.
        ignored: folders beside them that hold no run.
        going_on: folders of batches with a checkpoint: not all of their runs have folders yet.
    """

    all: Sequence[Run]
    methods: Sequence[str]
    ignored: Sequence[Path] = ()
    going_on: Sequence[Path] = ()

    def of(self, state: str) -> list[Run]:
        """Those in this state."""
        return [run for run in self.all if run.state == state]

    def updated(self, all: Iterable[Run]) -> Runs:
        """The same with other states."""
        return replace(self, all=list(all))

    @property
    def names(self) -> list[str]:
        """The observations."""
        return list(dict.fromkeys(run.name for run in self.all))

    def label(self, run: Run) -> str:
        """A run's name, with its method where there are several."""
        return f"{run.method}/{run.name}" if len(self.methods) > 1 else run.name

    def describe(self) -> str:
        """How many there are, and the names of those without a result."""
        several = f" by {len(self.methods)} methods" if len(self.methods) > 1 else ""
        counts = [f"{len(self.of(FINISHED))} finished"]
        for state in (FAILED, UNFINISHED):
            found = [self.label(run) for run in self.of(state)]
            if found:
                counts.append(f"{len(found)} {state} ({names(found, 20)})")
        lacking = len(self.names) * len(self.methods) - len(self.all)
        counts += [f"{lacking} not begun"] if lacking else []
        text = f"{len(self.names)} observations{several}: {', '.join(counts)}"
        if self.ignored:
            text += f"; ignored, no results: {names((p.name for p in self.ignored), 20)}"
        if self.going_on:
            text += f"; not at its end: {names(p.name for p in self.going_on)}"
        return text


def find_runs(paths: Iterable[str | os.PathLike[str]]) -> Runs:
    """The runs in some folders.

    A folder is that of one observation (it holds `result.nc`, `failure.json`, a checkpoint, or
    nothing), of a batch (it holds folders of observations), or of several batches, whose names are
    then those of the methods to compare.

    Raises:
        DataError: no such folder, one without any run, batches inside a folder of observations, or
            two methods of one name.
    """
    found: list[Run] = []
    ignored: list[Path] = []
    homes: dict[str, Path] = {}
    for given in paths:
        top = Path(given).expanduser().resolve()
        if not top.is_dir():
            raise DataError(f"{given}: no such folder. Give the folder of a batch, e.g. out.")
        new, other = _runs_in(top)
        if not any(run.state != UNFINISHED or any(run.folder.iterdir()) for run in new):
            raise DataError(
                f"{given} holds no results: give the folder that `lmaps batch --out` or `lmaps run "
                "--out` wrote to, or one of such folders."
            )
        for run in new:
            if homes.setdefault(run.method, run.folder.parent) != run.folder.parent:
                raise DataError(
                    f"{homes[run.method]} and {run.folder.parent} have one name, and methods are "
                    "told apart by the names of their folders: rename one."
                )
        found += new
        ignored += other
    unique = {run.folder: run for run in found}.values()
    ordered = sorted(unique, key=lambda run: (natural(run.name), run.method))
    going_on = [
        home for home in homes.values() if any(BEGUN.fullmatch(p.name) for p in home.iterdir())
    ]
    return Runs(ordered, list(homes), ignored, going_on)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts `slice_2` before `slice_10`."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if k % 2 else (-1, part) for k, part in enumerate(parts)]


def _runs_in(top: Path) -> tuple[list[Run], list[Path]]:
    """The runs in a folder, and the folders in it that are none."""
    if _is_run(top):
        return [_run(top)], []
    runs = [_run(child) for child in _folders(top) if _is_run(child)]
    rest = [child for child in _folders(top) if not _is_run(child)]
    batches = [child for child in rest if any(_is_run(inner) for inner in _folders(child))]
    ignored = [child for child in rest if child not in batches]
    if not batches:
        return runs, ignored
    full = [run.name for run in runs if any(run.folder.iterdir())]
    if full:
        raise DataError(
            f"{top} holds observations ({names(full)}) and folders of observations "
            f"({names(batch.name for batch in batches)}): give those one by one."
        )
    ignored += [run.folder for run in runs]  # empty ones, beside the batches
    inside = [child for batch in batches for child in _folders(batch)]
    ignored += [child for child in inside if not _is_run(child)]
    return [_run(child) for child in inside if _is_run(child)], ignored


def _folders(folder: Path) -> list[Path]:
    children = (child for child in folder.iterdir() if not child.name.startswith("."))
    return sorted(child for child in children if child.is_dir())


def _is_run(folder: Path) -> bool:
    """Whether a folder is that of one observation; an empty one was made for one."""
    inside = [child.name for child in folder.iterdir()]
    if RESULT in inside or FAILURE in inside:
        return True
    return not _folders(folder) and (not inside or any(map(BEGUN.fullmatch, inside)))


def _run(folder: Path) -> Run:
    where = folder.name, folder.parent.name, folder
    if (folder / RESULT).exists():
        return Run(*where, FINISHED)
    if not (folder / FAILURE).exists():
        return Run(*where, UNFINISHED)
    try:
        content: Any = json.loads(read_text(folder / FAILURE, MOST_TEXT, "a failure"))
        told = {k: str(v) for k, v in content.items() if v is not None}
    except (ValueError, OSError, AttributeError, RecursionError) as error:
        told = {"error": f"{FAILURE} cannot be read: {error}"}
    return Run(*where, FAILED, told)

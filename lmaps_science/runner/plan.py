"""What a batch has to do: which observations, under which names, in which network batches."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmaps_science.cards.inputs import fingerprint
from lmaps_science.cards.load import arguments, load_card, refuse_both, refuse_second_data
from lmaps_science.cards.schema import Card
from lmaps_science.cards.series import expand
from lmaps_science.io.files import DataError, names, read_text

__all__ = ["Batch", "Observation", "find_observations", "shard_of"]

_LIST_BYTES = 100_000_000


@dataclass(frozen=True)
class Observation:
    """One of a batch.

    Attributes:
        name: of its folder.
        data: the file, as an absolute path where it is one; None for the card's.
        each: its place in the series, e.g. `{"slice": 7}`.
        overrides: of the card.
        key: of its random numbers, see `InverseProblem.keys`: made from `each` and what the file
            holds, so that it is the same in any batch, folder or order.
        volume: the name of what its series joins, or "".
    """

    name: str
    data: str | None = None
    each: Mapping[str, int] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    key: int = 0
    volume: str = ""

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True)
class Batch:
    """All that a worker must know; plain values, so that it can be sent.

    Attributes:
        card, prior, overrides, preset, device: as in `load_problem`.
        out: folder that gets a folder for each observation.
        samples, seed, each_sample: as in `reconstruct`.
        figures: whether to draw them.
        size: images side by side; None: the samples of one observation.
        further_runs: see `Problem`.
    """

    card: str
    out: str
    prior: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    device: str = "auto"
    samples: int = 4
    seed: int = 0
    each_sample: bool = False
    figures: bool = True
    size: int | None = None
    further_runs: bool = True

    def folder(self, observation: Observation) -> Path:
        """Where the results of an observation go."""
        return Path(self.out) / observation.name

    def card_of(self, observation: Observation | None = None) -> Card:
        """The card with all overrides, those of an observation included."""
        changes = arguments(self.prior, self.preset)
        own = {} if observation is None else observation.overrides
        return load_card(self.card, {**changes, **self.overrides, **own})

    def groups(self, observations: Sequence[Observation]) -> list[tuple[Observation, ...]]:
        """The observations of each network batch; the same for every shard and worker."""
        together = max((self.size or 1) // self.samples, 1)
        found = range(0, len(observations), together)
        return [tuple(observations[k : k + together]) for k in found]


def find_observations(
    batch: Batch,
    data: Sequence[str] = (),
    listed: str | os.PathLike[str] | None = None,
    each: str | None = None,
) -> list[Observation]:
    """The observations that a command means, in a fixed order, each with a name of its own.

    Args:
        batch: what is to be done with each.
        data: files, folders, or patterns such as `obs/*.uvfits`.
        listed: a text file with a path or a pattern a line, relative to its own folder; `#` begins
            a comment.
        each: a series, see `cards.series.expand`.

    Raises:
        DataError: there is none; a pattern that matches nothing; one file twice; a series that the
            card does not have, or one of other data than the files.
    """
    patterns = [(text, Path()) for text in data]
    if listed is not None:
        text = read_text(listed, _LIST_BYTES, "a list of files")
        lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
        patterns += [(line, Path(listed).expanduser().parent) for line in lines if line]
    files: list[str | None] = [path for text, base in patterns for path in _matches(text, base)]
    twice = [str(path) for path, times in Counter(files).items() if times > 1]
    if twice:
        told = names(sorted(Path(path).name for path in twice))
        raise DataError(f"given twice: {told}. Give each file once.")
    if not files and (data or listed is not None):
        raise DataError(f"{listed} names no file: write a path a line.")
    if not files and each is None:
        raise DataError(
            "there is nothing to run over: give files, e.g. --data 'obs/*.uvfits', or a series, "
            "e.g. --each phantom:0-99."
        )
    card, found = batch.card_of(), []
    stems = _names([f for f in files if f is not None])
    for file in files or [None]:
        series = (
            [{"each": {}, "overrides": {}, "joins": False}]
            if each is None
            else expand(each, card, file)
        )
        for item in series:
            found.append(_observation(file, stems.get(file or ""), item, series))
    refuse_both(batch.prior, batch.preset, batch.overrides)
    both = set(found[0].overrides) & set(batch.overrides)
    if both:
        raise DataError(f"--each {each} sets {names(sorted(both))}, which --set sets, too.")
    if files:
        refuse_second_data(card, [*batch.overrides, *found[0].overrides])
    batch.card_of(found[0])  # a mistake in the series would else be each observation's failure
    return found


def _matches(text: str, base: Path) -> list[str]:
    path = base / Path(text).expanduser()
    if path.exists():
        return [str(path.resolve())]
    found = sorted(glob.glob(str(path), recursive=True))
    if not found and not glob.has_magic(text):
        return [text] if base == Path() and ":" in text else _missing(path)
    if not found:
        raise DataError(f"no file matches {path} (working directory: {Path.cwd()}).")
    return [str(Path(each).resolve()) for each in found]


def _missing(path: Path) -> list[str]:
    raise DataError(f"{path}: no such file (working directory: {Path.cwd()}).")


def _names(files: Sequence[str]) -> dict[str, str]:
    """A name for each file: that of the file, with as many of its folders as tell it apart."""
    found: dict[str, str] = {}
    for depth in range(1, 64):
        left = [file for file in files if file not in found]
        chosen = {file: _plain("-".join(_last(Path(file), depth))) for file in left}
        taken = Counter(name.lower() for name in (*chosen.values(), *found.values()))
        found |= {file: name for file, name in chosen.items() if taken[name.lower()] == 1}
        if len(found) == len(files):
            break
    return {file: found.get(file) or f"{_plain(file)}-{_hash(file)}" for file in files}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _last(path: Path, depth: int) -> list[str]:
    return [*path.parts[-depth:-1], path.stem]


def _plain(name: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^\w.+-]+", "_", name).lstrip(".") or "_"


def _observation(
    file: str | None, stem: str | None, item: Mapping[str, Any], series: Sequence[Mapping[str, Any]]
) -> Observation:
    width = max((len(str(n)) for other in series for n in other["each"].values()), default=1)
    parts = [f"{word.rsplit('.', 1)[-1]}{n:0{width}d}" for word, n in item["each"].items()]
    name = "-".join([*([stem] if stem else []), *map(_plain, parts)])
    there = file is not None and Path(file).exists()
    content = f"{fingerprint(file) if file and there else file} {sorted(item['each'].items())}"
    key = int(hashlib.sha256(content.encode()).hexdigest()[:8], 16)
    volume = (stem or "volume") if item["joins"] else ""
    return Observation(name, file, item["each"], item["overrides"], key, volume)


def shard_of(text: str | None) -> tuple[int, int]:
    """Which part of the work, from 0, and of how many.

    Args:
        text: `i/n`, i from 1 to n; None: that of the SLURM array task in which this runs, from
            SLURM_ARRAY_TASK_ID, _MIN, _COUNT and _STEP, else all of it.

    Raises:
        DataError: no such part, or an array whose tasks do not number a whole.
    """
    if text is not None:
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise DataError(f"--shard {text}: write i/n with i from 1 to n, e.g. --shard 1/8.")
        return int(found[1]) - 1, int(found[2])
    given = {
        name: os.environ.get(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "MIN", "COUNT", "STEP")
    }
    if given["ID"] is None:
        return 0, 1
    try:
        task, first = int(given["ID"]), int(given["MIN"] or 0)
        count, step = int(given["COUNT"] or 0), int(given["STEP"] or 1)
        index, odd = divmod(task - first, step)
        if odd or not 0 <= index < count:
            raise ValueError
    except (ValueError, ZeroDivisionError):
        told = ", ".join(f"{name} {value}" for name, value in given.items())
        raise DataError(
            f"the tasks of this SLURM array do not number the parts of a whole ({told}): submit it "
            "as --array=0-7, or say which part this is, --shard i/n."
        ) from None
    return index, count

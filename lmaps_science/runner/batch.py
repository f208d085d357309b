"""Many reconstructions of one kind: a loop that can be stopped, sharded and sent to workers.

An observation is finished when its folder holds a result of the same settings whose checksum is
right; there is no other record. Nothing is shared between workers but the folder.
"""

from __future__ import annotations

import datetime
import errno
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lmaps_science.cards.inputs import differences, fingerprint, identity, made_from, settings
from lmaps_science.cards.load import build_problem, find_device
from lmaps_science.cards.problem import Problem
from lmaps_science.cards.schema import Card
from lmaps_science.cards.sections import NetworkSection, find_prior, network_prior
from lmaps_science.io import read_netcdf
from lmaps_science.io.files import DataError, atomic_write, sha256
from lmaps_science.io.folders import RESULT, SUMMARY, results_folder
from lmaps_science.priors import Denoiser
from lmaps_science.runner.one import run_facts
from lmaps_science.runner.plan import Batch, Observation
from lmaps_science.runner.results import write_results
from lmaps_science.sampling import Result, State, sample, stack
from lmaps_science.sampling.progress import say

__all__ = ["FAILURE", "Outcome", "check_settings", "load", "run_group"]

FAILURE = "failure.json"
LONGEST = 2000  # characters of an error that are kept
Group = tuple[Observation, ...]
AfterLevel = Callable[[int, State], None]


@dataclass(frozen=True)
class Outcome:
    """What became of an observation: `done` now, `found` finished, or `failed` with its error."""

    name: str
    status: Literal["done", "found", "failed"]
    error: str = ""


# ---------------------------------------------------------------- what is there


@dataclass(frozen=True, eq=False)
class _Task:
    """An observation, its card, and all on which its result depends; nothing is loaded yet."""

    observation: Observation
    card: Card
    settings: dict[str, Any]

    @classmethod
    def of(cls, batch: Batch, observation: Observation) -> _Task:
        card = batch.card_of(observation)
        inputs = made_from(card, batch.card, observation.data)
        keys = (observation.key,)
        found = settings(card, inputs, card.solver(), batch.samples, batch.seed, keys)
        return cls(observation, card, found)


def _known(folder: Path) -> dict[str, Any]:
    """What the result there says of itself, in its summary or, where that is missing, within."""
    try:
        found = json.loads((folder / SUMMARY).read_text("utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        pass
    try:
        return dict(read_netcdf(folder / RESULT).attrs)
    except DataError:  # none, or none of ours
        return {}


def _finished(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the folder holds the result of these settings, whole."""
    known = _known(folder)
    if known.get("identity") != identity(settings) or not (folder / RESULT).is_file():
        return False
    return bool(known.get("sha256") == sha256(folder / RESULT))


def check_settings(batch: Batch, observations: Sequence[Observation]) -> None:
    """Refuse a folder that holds results of other settings, before anything is computed.

    Raises:
        DataError: with what differs.
    """
    for observation in observations:
        folder = batch.folder(observation)
        known = _known(folder).get("settings")
        if known is None and not (folder / RESULT).exists():
            continue
        if not isinstance(known, dict):
            raise DataError(
                f"{folder} holds a result that does not say how it was made: give another --out."
            )
        found = _Task.of(batch, observation).settings
        now = json.loads(json.dumps(found, default=str))
        changed = differences(known, now)
        if changed:
            raise DataError(
                f"{folder} holds a result of other settings: {'; '.join(changed[:5])}"
                f"{f'; and {len(changed) - 5} more' if len(changed) > 5 else ''}. Give the same, "
                "or another --out."
            )


# ---------------------------------------------------------------- the work


def run_group(batch: Batch, group: Group, after_level: AfterLevel | None = None) -> list[Outcome]:
    """Reconstruct the observations of one network batch, and write what is missing.

    Whatever is finished of the group is left alone. The others are computed in the same company as
    ever, those that are finished included, so that they come out the same to the bit.

    Args:
        batch: what to do.
        group: one of `batch.groups`.
        after_level: called after every level, see `sample`; what it raises ends the group, after a
            checkpoint.

    Returns:
        An outcome for each. One that fails does not keep the others: its `failure.json` says why.

    Raises:
        OSError: the disk is full.
    """
    outcomes: dict[str, Outcome] = {}
    tasks: list[_Task] = []
    for observation in group:
        with _reported(batch, observation, outcomes):
            task = _Task.of(batch, observation)
            tasks.append(task)
            if _finished(batch.folder(observation), task.settings):
                outcomes[observation.name] = Outcome(observation.name, "found")
                # Where it was killed between the two, that of an earlier attempt is left.
                (batch.folder(observation) / FAILURE).unlink(missing_ok=True)
    if any(task.observation.name not in outcomes for task in tasks):
        problems: dict[_Task, Problem] = {}
        for task in tasks:
            found = task.observation.name in outcomes  # it keeps company alone
            with suppress(Exception) if found else _reported(batch, task.observation, outcomes):
                problems[task] = load(batch, task.observation, task.card)
        missing = [task for task in problems if task.observation.name not in outcomes]
        if missing:
            _reconstruct(batch, problems, missing, outcomes, after_level)
    return [outcomes[observation.name] for observation in group]


def _reconstruct(
    batch: Batch,
    problems: Mapping[_Task, Problem],
    missing: Sequence[_Task],
    outcomes: dict[str, Outcome],
    after_level: AfterLevel | None,
) -> None:
    """Sample all of them side by side, or where that cannot be, one after the other."""
    if len(problems) > 1:
        try:
            results = _sampled(batch, problems, after_level)
        except (ValueError, FloatingPointError, MemoryError, RuntimeError) as error:
            # They do not fit together, or into memory, or one diverges: alone, it is seen which.
            _tell_once(f"note: some observations are reconstructed one by one: {error}")
            _checkpoint(batch, problems).unlink(missing_ok=True)
        else:
            for task in missing:
                with _reported(batch, task.observation, outcomes):
                    _write(batch, task.observation, problems[task], results[task])
                    outcomes[task.observation.name] = Outcome(task.observation.name, "done")
            _checkpoint(batch, problems).unlink(missing_ok=True)
            return
    for task in missing:
        alone = {task: problems[task]}
        with _reported(batch, task.observation, outcomes):
            try:
                result = _sampled(batch, alone, after_level)[task]
                _write(batch, task.observation, problems[task], result)
            except Exception:
                _checkpoint(batch, alone).unlink(missing_ok=True)  # it leads nowhere else
                raise
            outcomes[task.observation.name] = Outcome(task.observation.name, "done")
        _checkpoint(batch, alone).unlink(missing_ok=True)


def _sampled(
    batch: Batch, problems: Mapping[_Task, Problem], after_level: AfterLevel | None
) -> dict[_Task, Result]:
    first = next(iter(problems.values()))
    joined = stack(list(problems.values())) if len(problems) > 1 else first
    result = sample(
        joined,
        first.solver,
        batch.samples,
        batch.seed,
        batch_size=batch.size,
        progress=False,
        callback=after_level,
        checkpoint=_checkpoint(batch, problems),
        checkpoint_every=None,
    )
    return {
        task: replace(part, template=problem.template)
        for (task, problem), part in zip(problems.items(), result.split(), strict=True)
    }


def _checkpoint(batch: Batch, tasks: Iterable[_Task]) -> Path:
    """Of these observations together: others of the folder do not go on from it."""
    text = {"of": [task.settings for task in tasks], "size": batch.size}
    return Path(batch.out) / f"checkpoint-{identity(text)[:12]}.pt"


def _write(batch: Batch, observation: Observation, problem: Problem, result: Result) -> None:
    folder = batch.folder(observation)
    data = problem.analyse(result)
    data.attrs |= run_facts(problem, problem.solver, batch.samples, batch.seed)
    data.attrs |= {"observation_name": observation.name, "each": dict(observation.each)}
    with results_folder(folder, force=True) as staging:
        write_results(staging, data, batch.each_sample, batch.figures)
    (folder / FAILURE).unlink(missing_ok=True)


@contextmanager
def _reported(
    batch: Batch, observation: Observation, outcomes: dict[str, Outcome]
) -> Iterator[None]:
    """What goes wrong with one observation is written down, and the others go on."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        if isinstance(error, ImportError):  # the others need it, too
            raise
        sentence = " ".join(str(error).split())[:LONGEST] or type(error).__name__
        outcomes[observation.name] = Outcome(observation.name, "failed", sentence)
        folder = batch.folder(observation)
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "name": observation.name,
            "error": sentence,
            "type": type(error).__name__,
            "data": observation.data,
            "each": dict(observation.each),
            "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        with atomic_write(folder / FAILURE) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


_told: list[str] = []


def _tell_once(line: str) -> None:
    if not _told:  # the next ones differ in numbers alone
        say(line)
        _told.append(line)


# ---------------------------------------------------------------- problems


_SHARED: dict[str, Denoiser] = {}  # the network in use: read once by each process


def load(batch: Batch, observation: Observation, card: Card | None = None) -> Problem:
    """The problem of an observation; the prior's network is read once."""
    card = batch.card_of(observation) if card is None else card
    device = find_device(batch.device)
    section = getattr(card, "prior", None)
    prior = None
    if isinstance(section, NetworkSection):
        weights = fingerprint(find_prior(section.file, card.kind))  # which may have been trained on
        name = f"{card.kind} {section.model_dump_json()} {weights} {device}"
        if name not in _SHARED:  # as it is in its file, fitted to no observation yet
            _SHARED.clear()
            _SHARED[name] = network_prior(section, card.kind).to(device=device)
        prior = _SHARED[name]
    problem = build_problem(card, batch.card, observation.data, prior, device)
    problem = replace(problem, further_runs=batch.further_runs)
    return problem.with_key(observation.key)

"""The options of a solver, tuned on images that no comparison uses: `lmaps tune`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from lmaps_science.cards.inputs import identity, made_from, settings
from lmaps_science.cards.problem import Problem
from lmaps_science.compare.cost import first_level, levels_of, within_budget
from lmaps_science.compare.figures import draw_history
from lmaps_science.compare.images import VALIDATION, image_series
from lmaps_science.compare.methods import TUNED_ON, Method, find_solver
from lmaps_science.compare.space import changed, search_space, value_at
from lmaps_science.io.files import DataError, atomic_write, make_folder, names
from lmaps_science.plots import finish
from lmaps_science.report.tables import csv_lines
from lmaps_science.runner.batch import load
from lmaps_science.runner.plan import Batch, find_observations
from lmaps_science.sampling import NonFiniteError, Solver, sample
from lmaps_science.sampling.progress import Progress
from lmaps_science.search import Range, Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

__all__ = ["Tuned", "tune"]

BEST, TRIALS, FIGURE, LOG = "best.yaml", "trials.csv", "history.png", "trials.log"
GIVEN = "given"  # marks the trial of the solver as it was given
STARTUP = 10  # trials at random before the model of what is good begins


@dataclass(frozen=True)
class _Task:
    """What is tuned, and on what."""

    solver: Solver
    space: Space
    problems: Sequence[Problem]
    metric: str
    seed: int


@dataclass(frozen=True)
class Tuned:
    """What a search has found.

    Attributes:
        solver: the best.
        value: its main metric, the mean over the images; larger is better.
        given: that of the solver as it was given; NaN where that is outside of the ranges.
        metric: the name of the main metric.
        trials: how many were evaluated.
        folder: where the files are.
        spec: the solver as a card's preset has it.
    """

    solver: Solver
    value: float
    given: float
    metric: str
    trials: int
    folder: Path
    spec: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.solver!r}\n{self.metric} {self.value:.4g}, as given {self.given:.4g}; "
            f"{self.trials} trials; written to {self.folder / BEST}"
        )


def tune(
    card: str,
    solver: str,
    trials: int = 30,
    images: int = 5,
    seed: int = 0,
    *,
    out: str | os.PathLike[str],
    budget: int | None = None,
    prior: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Tuned:
    """Search the options of a solver for the best main metric; what `lmaps tune` does.

    Optuna's tree-structured Parzen estimator, seeded, on simulated observations of the card whose
    numbers `bench` never takes, one sample each; the first trial is the solver as given. A trial
    none of whose means so far reaches the median of the others after as many images is given up.
    What may
    vary the solver declares (`search`); it is never the number of levels, which `budget` sets.

    Writes to `out`: `best.yaml`, the solver for a card's presets or for `bench`; `trials.csv`,
    `history.png`, and `trials.log`, with which the same call goes on, also for more trials. One
    process at a time works in a folder.

    Args:
        card: its name, or a YAML file.
        solver: see `find_solver`.
        trials: how many, those of earlier calls included.
        images: to average over.
        seed: of the images, of the samples and of the search.
        out: a folder; made if missing.
        budget: network calls of a sample, as in `bench`.
        prior, overrides, device: as in `load_problem`.
        progress: show how far it is.

    Raises:
        DataError: the solver does not serve the card, nothing of it may vary, or `out` holds
            another search.
        ImportError: Optuna is missing (extra `tune`).

    Example:
        tune("scattering/linear_60", "dps(levels=100)", trials=30, out="dps-tuned")
    """
    _optuna()
    if not os.fspath(out):
        raise DataError("the folder for the results has no name: give one, e.g. --out dps-tuned")
    folder = Path(out).expanduser()
    method, task, tuned_on, key = _prepared(
        card, solver, images, seed, budget, prior, dict(overrides or {}), device
    )
    study = _study(folder, key)
    done = _evaluated(study)
    bar = Progress("tuning", trials, min(len(done), trials), unit="trial", shown=progress)
    with bar:
        for number in range(len(done), trials):
            value = _one(study, task, number)
            bar.step(**{task.metric: f"{value:.4g}"})
    found = _best(study, task, method, folder)
    _write_all(study, task, found, card, tuned_on)
    return found


def _optuna() -> Any:
    """The module, and nothing told of each trial.

    Raises:
        ImportError: it is missing, with the extra that has it.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "tuning needs Optuna, which is missing here: install the extra `tune`, e.g. pip "
            "install 'lmaps-science[tune]'."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _prepared(
    name: str,
    text: str,
    images: int,
    seed: int,
    budget: int | None,
    prior: str | None,
    overrides: dict[str, Any],
    device: str,
) -> tuple[Method, _Task, dict[str, Any], str]:
    """The solver, the task, the images as `bench` looks for them, and what tells the search."""
    for key in overrides:
        if key.split(".")[0] in ("solver", "preset", "presets"):
            raise DataError(f"--set {key}: give the solver its options, e.g. 'dps(levels=100)'.")
    plain = Batch(name, "", prior, overrides, device=device, samples=1, seed=seed)
    card = plain.card_of()
    method = find_solver(text, card)
    series, first, last = image_series(card, name, VALIDATION, images, seed)
    batch = Batch(
        name, "", prior, {**overrides, **method.overrides}, device=device, samples=1, seed=seed
    )
    try:
        observations = find_observations(batch, (), None, f"{series}:{first}-{last}")
    except DataError as error:
        raise DataError(f"{name} cannot simulate observations ({error})") from error
    problems = [load(batch, observation) for observation in observations]
    solver = method.solver
    space = search_space(solver)
    try:
        first_level(problems[0], solver)
        solver = solver if budget is None else within_budget(problems[0], solver, budget)
    except ValueError as error:
        raise DataError(f"{method.name} does not serve {name}: {error}") from error
    task = _Task(solver, space, problems, problems[0].main_metric, seed)
    tuned_on = {"kind": card.kind, "card": name, "series": series, "first": first, "last": last}
    inputs = made_from(batch.card_of(), name, None)
    told = settings(batch.card_of(), inputs, solver, 1, seed)
    spans = {key: repr(span) for key, span in space.items()}
    return method, task, tuned_on, identity({**told, "images": tuned_on, "space": spans})


# ---------------------------------------------------------------- the search


def _study(folder: Path, key: str) -> Study:
    """That of the folder; a new one where there is none.

    Raises:
        DataError: it is of another search, or its files are of something else.
    """
    optuna = _optuna()
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    there = [file for file in (BEST, TRIALS, FIGURE) if (folder / file).exists()]
    if there and not (folder / LOG).exists():
        raise DataError(f"{folder} holds {names(there)} already: give another --out.")
    make_folder(folder)
    storage = JournalStorage(JournalFileBackend(str(folder / LOG)))
    study: Study = optuna.create_study(
        storage=storage, study_name="tune", direction="maximize", load_if_exists=True
    )
    known = study.user_attrs.get("key")
    if known is None:
        study.set_user_attr("key", key)
    elif known != key:
        raise DataError(
            f"{folder} holds the trials of another search (other card, solver, images or seed): "
            "give the same, or another --out."
        )
    for trial in study.get_trials(deepcopy=False):
        if trial.state == optuna.trial.TrialState.RUNNING:  # its process was killed
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _evaluated(study: Study) -> list[FrozenTrial]:
    """The trials that have been evaluated, those that were given up included."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _one(study: Study, task: _Task, number: int) -> float:
    """One trial; its number seeds the choice, so that a search that goes on is the same search."""
    import optuna

    seed = int(np.random.SeedSequence([task.seed, number]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP // 2)
    if number == 0:  # as given, where that is within the ranges
        given = {key: value_at(task.solver, key) for key in task.space}
        waiting = study.get_trials(False, states=(optuna.trial.TrialState.WAITING,))
        if not waiting and all(_inside(value, task.space[key]) for key, value in given.items()):
            study.enqueue_trial(given, user_attrs={GIVEN: True})
    trial = study.ask()
    try:
        value = _objective(trial, task)
    except optuna.TrialPruned as error:
        trial.set_user_attr("given_up", str(error))
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return float("nan")
    study.tell(trial, value)
    return value


def _inside(value: Any, span: Any) -> bool:
    if isinstance(span, Range):
        return isinstance(value, (int, float)) and span.low <= value <= span.high
    return value in span.values


def _objective(trial: Trial, task: _Task) -> float:
    """The mean of the main metric over the images."""
    import optuna

    values: list[float] = []
    try:
        solver = changed(task.solver, {k: _asked(trial, k, s) for k, s in task.space.items()})
        for k, problem in enumerate(task.problems):
            result = sample(problem, solver, 1, task.seed, progress=False)
            values.append(float(problem.scores(result)[task.metric][0]))
            if not math.isfinite(values[-1]):
                raise optuna.TrialPruned(f"{task.metric} is {values[-1]} on image {k}")
            trial.report(float(np.mean(values)), k)
            if k + 1 < len(task.problems) and trial.should_prune():
                raise optuna.TrialPruned(f"below the median after {k + 1} images")
    except (NonFiniteError, ValueError, RuntimeError) as error:  # such as fields that diverge
        raise optuna.TrialPruned(" ".join(str(error).split())) from error
    finally:
        trial.set_user_attr("values", values)
    return float(np.mean(values))


def _asked(trial: Trial, key: str, span: Any) -> Any:
    if not isinstance(span, Range):
        return trial.suggest_categorical(key, list(span.values))
    if span.whole:
        return trial.suggest_int(key, int(span.low), int(span.high), log=span.log)
    return float(f"{trial.suggest_float(key, span.low, span.high, log=span.log):.4g}")


# ---------------------------------------------------------------- what comes of it


def _value(trial: FrozenTrial) -> float:
    """Its objective; NaN where it was given up, whatever Optuna kept of it."""
    whole = trial.state.name == "COMPLETE" and trial.value is not None
    return float(trial.value) if whole else math.nan  # type: ignore[arg-type]


def _values(trial: FrozenTrial, task: _Task) -> dict[str, Any]:
    """The options of a trial, as they were used."""
    return {
        key: float(f"{trial.params[key]:.4g}")
        if isinstance(span, Range) and not span.whole
        else trial.params[key]
        for key, span in task.space.items()
    }


def _best(study: Study, task: _Task, method: Method, folder: Path) -> Tuned:
    evaluated = _evaluated(study)
    complete = [trial for trial in evaluated if math.isfinite(_value(trial))]
    if not complete:
        reasons = names((t.user_attrs.get("given_up", "?") for t in evaluated), 3)
        raise DataError(f"none of {len(evaluated)} trials came to an end: {reasons}.")
    best = max(complete, key=_value)
    given = [_value(trial) for trial in complete if trial.user_attrs.get(GIVEN)]
    values = _values(best, task)
    spelled = replace(method, spec=_spelled(method, task))
    spec = spelled.changed({**values, **levels_of(task.solver)}).spec
    return Tuned(
        changed(task.solver, values),
        _value(best),
        given[0] if given else float("nan"),
        task.metric,
        len(evaluated),
        folder,
        spec,
    )


def _spelled(method: Method, task: _Task) -> dict[str, Any]:
    """The solver's spec, with the parts that its ranges reach into written out."""
    spec = dict(method.spec)
    for key in task.space:
        part = key.split(".")[0]
        if part != key and part not in spec:
            spec[part] = {"method": type(getattr(task.solver, part)).__name__}
    return spec


def _write_all(
    study: Study, task: _Task, found: Tuned, card: str, tuned_on: Mapping[str, Any]
) -> None:
    evaluated, n = _evaluated(study), len(task.problems)
    block = yaml.safe_dump(dict(found.spec), sort_keys=False, allow_unicode=True)
    head = (
        f"# {card}: the best of {found.trials} trials, {found.metric} {found.value:.4g} (mean of "
        f"{n} images; as given {found.given:.4g}).\n{TUNED_ON}{json.dumps(dict(tuned_on))}\n"
    )
    _write(found.folder / BEST, head + block)
    keys = list(task.space)
    unit = task.problems[0].unit(found.metric)
    tail = "" if unit == "1" else f" [{unit}]"
    rows = [["trial", "state", *keys, f"{found.metric}{tail}", "se", "images", "given_up"]]
    for k, trial in enumerate(evaluated):
        each = np.asarray(trial.user_attrs.get("values", []), float)
        error = each.std(ddof=1) / len(each) ** 0.5 if len(each) > 1 else math.nan
        values = _values(trial, task)
        row = [str(k), trial.state.name.lower(), *(str(values[key]) for key in keys)]
        numbers = (_value(trial), float(error))
        row += [repr(x) if math.isfinite(x) else "" for x in numbers] + [str(len(each))]
        rows.append([*row, str(trial.user_attrs.get("given_up", ""))])
    _write(found.folder / TRIALS, csv_lines(rows))
    history = [_value(trial) for trial in evaluated]
    title = f"{type(task.solver).__name__} on {card}, mean of {n} images"
    finish(draw_history(history, found.metric, unit, title), found.folder / FIGURE)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

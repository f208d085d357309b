"""Several solvers on the same simulated observations of a card: `lmaps bench`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

from lmaps_science.cards.inputs import identity, made_from, settings
from lmaps_science.compare.cost import first_level, levels_of, within_budget
from lmaps_science.compare.figures import draw
from lmaps_science.compare.images import TEST, check_held_out, image_series
from lmaps_science.compare.methods import Method, Unknown, check_names, find_solver, split_list
from lmaps_science.compare.table import Comparison, Entry, csv_text, markdown_text
from lmaps_science.io.files import DataError, atomic_write, make_folder, names
from lmaps_science.plots import finish
from lmaps_science.report import find_runs, read_outcomes
from lmaps_science.runner import reconstruct_many
from lmaps_science.runner.batch import load
from lmaps_science.runner.plan import Batch, Observation, find_observations
from lmaps_science.sampling.progress import say

__all__ = ["Comparison", "bench"]

TABLE, CSV, FIGURE, RECORD = "table.md", "table.csv", "figure.png", "bench.json"
CURVES = "calls.png"  # of several budgets
KNOWN = "method.json"  # what was found out about a method before it ran


@dataclass(frozen=True)
class _Plan:
    """What is to be done with one card."""

    batch: Batch
    folder: Path
    observations: list[Observation]
    methods: list[Method]
    unknown: dict[str, str] = field(default_factory=dict)  # names that other cards know


def bench(
    cards: str | Sequence[str],
    solvers: str | Sequence[str] | None = None,
    images: int = 10,
    seed: int = 0,
    *,
    out: str | os.PathLike[str],
    budget: int | Sequence[int] | None = None,
    samples: int = 1,
    each: str | None = None,
    data: Sequence[str | os.PathLike[str]] = (),
    prior: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    batch_size: int | Literal["auto"] | None = None,
    shard: str | None = None,
    dask: str | None = None,
    progress: bool = True,
) -> list[Comparison]:
    """Compare solvers on the same observations of one or several cards; what `lmaps bench` does.

    Every card gets a folder in `out`, and in it every solver one, as `reconstruct_many` makes it:
    the same call goes on after an interruption, and `collect` and `write_report` read it. Beside
    them are `table.md`, `table.csv`, `figure.png` and `bench.json`. A solver that cannot serve a
    card is listed as refused, with the reason.

    Args:
        cards: names, or YAML files.
        solvers: see `find_solver`; a text of several, with commas between them, or a list. The
            others are compared with the first. Default: the presets of each card.
        images: how many of the card's simulated images, see `compare.images`.
        seed: which of them, and of the random numbers.
        out: folder for the results; made if missing.
        budget: network calls of a sample that no solver exceeds, see `cost.within_budget`. Several
            make as many comparisons of a card, each in a folder of its own in the card's, which
            `collect` takes one at a time, and `calls.png`, the main metric of each solver against
            its network calls, at these budgets.
        samples: of each observation.
        each, data: other observations than simulated ones, as in `reconstruct_many`.
        prior, overrides, device: as in `load_problem`; overrides of the solver are refused.
        batch_size, shard, dask, progress: as in `reconstruct_many`.

    Raises:
        DataError: a card or a solver that does not exist; images whose truth is not known, or on
            which a solver was tuned; `out` holds results of other settings.
        OSError: the disk is full.
        KeyboardInterrupt: interrupted; the same call goes on.

    Example:
        bench("scattering/linear_60", "default,dps,daps(levels=50)", out="comparison")
    """
    named = [cards] if isinstance(cards, str) else list(cards)
    chosen = split_list(solvers) if isinstance(solvers, str) else solvers
    if not named or (chosen is not None and not chosen):
        raise DataError("there is nothing to compare: give a card, and solvers or none for all.")
    if not os.fspath(out):
        raise DataError("the folder for the results has no name: give one, e.g. --out comparison")
    budgets = _budgets(budget)
    _check_overrides(overrides or {})
    first = Batch(
        card="",
        out=str(Path(out).expanduser().resolve()),
        prior=prior,
        overrides=dict(overrides or {}),
        device=device,
        samples=samples,
        seed=seed,
        size=batch_size if isinstance(batch_size, int) else None,
        figures=False,
    )
    patterns = [os.fspath(path) for path in data]
    plans = [_planned(replace(first, card=card), chosen, images, each, patterns) for card in named]
    _refuse_unknown(plans, chosen or ())
    shared = {"batch_size": batch_size, "shard": shard, "dask": dask, "progress": progress}
    done = []
    for card, plan in zip(named, plans, strict=True):
        series = each or _series(plan, images, bool(patterns))
        engine = {**shared, "data": patterns, "each": series}
        if len(budgets) < 2:
            done.append(_compared(card, plan, next(iter(budgets), None), engine))
        else:
            done += _at_each(card, plan, budgets, engine)
    return done


def _budgets(given: int | Sequence[int] | None) -> list[int]:
    """In order, each once; none where there is no limit."""
    listed: Sequence[Any] = (
        [] if given is None else given if isinstance(given, list | tuple) else [given]
    )
    whole = all(isinstance(calls, Integral) and int(calls) >= 1 for calls in listed)
    if not whole or (given is not None and not listed):
        shown = ", ".join(map(str, listed))
        raise DataError(f"--budget {shown}: give whole numbers of network calls from 1 on.")
    return sorted({int(calls) for calls in listed})


def _check_overrides(overrides: Mapping[str, Any]) -> None:
    for key in overrides:
        if key.split(".")[0] in ("solver", "preset", "presets"):
            raise DataError(
                f"--set {key} would change every solver alike: give each its own options, e.g. "
                "--solvers 'default(levels=20),dps(levels=100)'."
            )


# ---------------------------------------------------------------- before anything runs


def _planned(
    batch: Batch,
    solvers: Sequence[str] | None,
    images: int,
    each: str | None,
    data: Sequence[str],
) -> _Plan:
    card = batch.card_of()
    found, unknown = [], {}
    for text in list(card.presets) if solvers is None else solvers:
        try:
            found.append(find_solver(text, card))
        except Unknown as error:
            unknown[text] = str(error)
    check_names(found)
    path = Path(batch.card)
    name = path.stem if path.suffix in (".yaml", ".yml") else batch.card.replace("/", "-")
    plan = _Plan(batch, Path(batch.out) / name, [], found, unknown)
    series = each or _series(plan, images, bool(data))
    observations = _observations(batch, data, series, each is None and not data)
    chosen: dict[str, list[int]] = {}
    for observation in observations:
        for key, number in observation.each.items():
            chosen.setdefault(key, []).append(number)
    for method in found:
        check_held_out(method.name, method.tuned_on, card.kind, chosen)
    return replace(plan, observations=observations)


def _series(plan: _Plan, images: int, files: bool) -> str | None:
    """The card's simulated images; None where files are given."""
    if files:
        return None
    batch = plan.batch
    series, start, end = image_series(batch.card_of(), batch.card, TEST, images, batch.seed)
    return f"{series}:{start}-{end}"


def _observations(
    batch: Batch, data: Sequence[str], series: str | None, simulated: bool
) -> list[Observation]:
    try:
        return find_observations(batch, data, None, series)
    except DataError as error:
        if not simulated:
            raise
        raise DataError(
            f"{batch.card} cannot simulate observations ({error}) Compare on a card that does (see "
            "`lmaps problems`), or give observations whose truth is known, with --data or --each."
        ) from error


def _refuse_unknown(plans: Sequence[_Plan], solvers: Iterable[str]) -> None:
    """What no card knows is a slip; what some know is refused by the others alone."""
    for text in solvers:
        if all(text in plan.unknown for plan in plans):
            raise DataError(plans[0].unknown[text])


# ---------------------------------------------------------------- one card


def _at_each(
    name: str, plan: _Plan, budgets: Sequence[int], engine: Mapping[str, Any]
) -> list[Comparison]:
    """The comparisons at several budgets, and a figure of all."""
    figure = plan.folder / CURVES
    if figure.exists() and not any(plan.folder.glob(f"*-calls/{RECORD}")):
        raise DataError(f"{figure} is of no comparison. Give another --out.")
    at = {calls: replace(plan, folder=plan.folder / f"{calls}-calls") for calls in budgets}
    for there in at.values():
        _check_ours(there.folder)
    found = [_compared(name, there, calls, engine) for calls, there in at.items()]
    finish(draw(found), figure)
    return found


def _compared(name: str, plan: _Plan, budget: int | None, engine: Mapping[str, Any]) -> Comparison:
    _check_ours(plan.folder)
    make_folder(plan.folder)
    facts = {
        "card": name,
        "seed": plan.batch.seed,
        "samples": plan.batch.samples,
        "budget": budget,
        "images": [observation.name for observation in plan.observations],
        "overrides": dict(plan.batch.overrides),
        "prior": plan.batch.prior,
    }
    _write(plan.folder / RECORD, json.dumps(facts, indent=1, default=str) + "\n")
    entries = []
    for method in plan.methods:
        entry = _tried(plan, method, budget)
        if engine["progress"]:
            say(f"{name}, {method.name}{': refused: ' + entry.refused if entry.refused else ''}")
        entries.append(entry)
        if not entry.refused:
            reconstruct_many(
                plan.batch.card,
                out=plan.folder / method.name,
                n_samples=plan.batch.samples,
                seed=plan.batch.seed,
                prior=plan.batch.prior,
                overrides={**plan.batch.overrides, **entry.method.overrides},
                device=plan.batch.device,
                figures=False,
                further_runs=False,
                **engine,
            )
    nothing = {text: Method(text, {}, "none") for text in plan.unknown}
    entries += [Entry(nothing[text], reason) for text, reason in plan.unknown.items()]
    return _told(name, plan, facts, entries)


def _check_ours(folder: Path) -> None:
    if (folder / KNOWN).exists():
        raise DataError(f"{folder} holds what a solver of that name made. Give another --out.")
    files = [file for file in (TABLE, CSV, FIGURE) if (folder / file).exists()]
    if files and not (folder / RECORD).exists():
        raise DataError(
            f"{folder} holds {names(files)}, and no {RECORD}: it is no folder of a comparison. "
            "Give another --out."
        )


def _tried(plan: _Plan, method: Method, budget: int | None) -> Entry:
    """The method as it will run, or why it will not; found out once."""
    batch = replace(plan.batch, overrides={**plan.batch.overrides, **method.overrides})
    card, observation = batch.card_of(plan.observations[0]), plan.observations[0]
    inputs = made_from(card, batch.card, observation.data)
    known = settings(card, inputs, method.solver, batch.samples, batch.seed)
    key = identity({**known, "budget": budget, "device": batch.device})
    file = plan.folder / method.name / KNOWN
    found = _read_known(file)
    if found.get("key") != key:
        problem = load(batch, observation, card)
        _check_truth(plan, problem.main_metric if problem.truth is not None else "")
        found = {"key": key, "levels": None, "refused": "", "megabytes": None}
        try:
            megabytes = first_level(problem, method.solver, batch.samples, batch.size)
            found["megabytes"] = megabytes if math.isfinite(megabytes) else None
            if budget is not None:
                found["levels"] = levels_of(within_budget(problem, method.solver, budget))
        except ValueError as error:
            found["refused"] = " ".join(str(error).split())
        make_folder(file.parent)
        _write(file, json.dumps(found, indent=1) + "\n")
    if found["levels"] is not None:
        method = method.changed(found["levels"])
    megabytes = float("nan") if found["megabytes"] is None else float(found["megabytes"])
    return Entry(method, str(found["refused"]), megabytes)


def _read_known(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    whole = isinstance(found, dict) and {"key", "levels", "refused", "megabytes"} <= set(found)
    return found if whole and isinstance(found["levels"], dict | None) else {}


def _check_truth(plan: _Plan, metric: str) -> None:
    if not metric:
        raise DataError(
            f"{plan.batch.card}: the truth of {plan.observations[0].name} is not known, so nothing "
            "tells which method is better. Compare on simulated observations."
        )


def _told(name: str, plan: _Plan, facts: Mapping[str, Any], entries: Sequence[Entry]) -> Comparison:
    """The tables and the figure, from what the folders hold."""
    wanted = {observation.name for observation in plan.observations}
    folders = [plan.folder / e.method.name for e in entries if not e.refused]
    folders = [folder for folder in folders if any(p.is_dir() for p in folder.glob("[!.]*"))]
    outcomes = []
    if folders:
        runs = find_runs(folders)
        runs = runs.updated(run for run in runs.all if run.name in wanted)
        outcomes = list(read_outcomes(runs))
    metric = load(plan.batch, plan.observations[0]).main_metric
    found = Comparison(name, plan.folder, facts, entries, outcomes, metric)
    _write(plan.folder / TABLE, markdown_text(found))
    _write(plan.folder / CSV, csv_text(found))
    finish(draw([found]), plan.folder / FIGURE)
    return found


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")

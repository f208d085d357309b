"""One page of all results: tables, pictures, failures and provenance; it needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lmaps_science.cards.verdict import LEVELS, NOT_JUDGED
from lmaps_science.io.files import atomic_write
from lmaps_science.io.results import plain_json
from lmaps_science.report.pictures import TRUTH, Album, Picture, figure
from lmaps_science.report.runs import FAILED, FINISHED, UNFINISHED, Runs, find_runs
from lmaps_science.report.scores import OF, Outcome, read_outcomes
from lmaps_science.report.statistics import differences, metric_names, summarise
from lmaps_science.report.tables import caption, estimate_parts, number

__all__ = ["write_report"]

WORST_FIRST = (*LEVELS[::-1], NOT_JUDGED)
FACTS = {  # attributes of results, and what the page calls them
    "problem": "problem",
    "kind": "field",
    "solver": "solver",
    "seed": "seed",
    "device": "device",
    "dtype": "precision",
    "lmaps_science_version": "lmaps-science",
    "commit": "commit",
    "torch_version": "PyTorch",
    "denoiser_calls": "denoiser calls a sample",
    "operator_calls": "operator calls a sample",
}


@dataclass(frozen=True)
class Entry:
    """One observation on the page.

    Attributes:
        name: of the observation.
        anchor: where it is on the page.
        outcomes: one for each method.
        images: mean images by method, or "truth".
        thumbnails: the same for the table.
        figures: the figures of the runs by method, as far as they are inside the page.
    """

    name: str
    anchor: str
    outcomes: Sequence[Outcome]
    images: Mapping[str, Picture]
    thumbnails: Mapping[str, Picture]
    figures: Mapping[str, Picture]


def write_report(
    paths: Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    title: str | None = None,
    reference: str | None = None,
    most_megabytes: float = 40.0,
) -> Path:
    """Write a page that shows the results in some folders, see `find_runs`.

    It is one file, with all pictures inside, and loads nothing: it can be sent by mail and read
    without network. Everything that comes from results is escaped, and a content security policy
    allows no script but the page's own.

    Args:
        paths: folders of batches.
        out: the file, replaced if it is there.
        title: of the page; default: the card's.
        reference: the method that others are compared with; default: the first.
        most_megabytes: of figures inside the page; beyond, those of doubtful results come first
            and the page says where the others are. Mean images are always there.

    Returns:
        The path of the page.

    Raises:
        DataError: no results, or of several kinds.
        OSError: the disk is full.

    Example:
        >>> write_report(["results/lmaps", "results/dps"], "report.html")  # doctest: +SKIP
    """
    album = Album()
    outcomes = read_outcomes(find_runs(paths), album)
    album.finish()
    runs = outcomes.runs
    figures = _figures(outcomes, most_megabytes * 1e6)
    rows, compared = summarise(outcomes), []
    if len(runs.methods) > 1:
        compared = differences(outcomes, reference)
    text = _template().render(
        title=title or _title(outcomes, runs),
        runs=runs,
        entries=_entries(runs, outcomes, album, figures),
        units=metric_names(outcomes),
        tables=[(rows, caption(rows), False), (compared, caption(compared, errors=True), True)],
        verdicts=_tally(outcomes),
        failures=[o.run for o in outcomes if o.run.state == FAILED],
        unfinished=[o.run for o in outcomes if o.run.state == UNFINISHED],
        facts=_facts(outcomes),
        cards=_cards(outcomes),
        figures=len(figures),
        finished=len(runs.of(FINISHED)),
        megabytes=(album.bytes + sum(len(p.source) for p in figures.values())) / 1e6,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version("lmaps-science"),
        **_assets(),
    )
    with atomic_write(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(out)


def _figures(outcomes: Sequence[Outcome], most: float) -> dict[Path, Picture]:
    """The figures by folder, the worst verdicts first, as long as they take less than `most`."""
    found: dict[Path, Picture] = {}
    done = [outcome for outcome in outcomes if outcome.run.state == FINISHED]
    for outcome in sorted(done, key=lambda o: _rank(o.verdict)):
        picture = figure(outcome.run.folder / "figure.png")
        if picture is not None:
            most -= len(picture.source)
            if most < 0:
                break
            found[outcome.run.folder] = picture
    return found


def _rank(verdict: str) -> int:
    return WORST_FIRST.index(verdict) if verdict in WORST_FIRST else len(WORST_FIRST)


def _entries(
    runs: Runs, outcomes: Sequence[Outcome], album: Album, figures: Mapping[Path, Picture]
) -> list[Entry]:
    entries = []
    for k, name in enumerate(runs.names, 1):
        mine = [outcome for outcome in outcomes if outcome.run.name == name]
        inside = {o.run.method: figures[o.run.folder] for o in mine if o.run.folder in figures}
        images = album.large.get(name, {}), album.small.get(name, {})
        entries.append(Entry(name, f"o{k}", mine, *images, inside))
    return entries


def _title(outcomes: Sequence[Outcome], runs: Runs) -> str:
    """That of the card, or the names of the folders."""
    titles = {
        str(_get(o.attrs, "card", "title")) for o in outcomes if _get(o.attrs, "card", "title")
    }
    return titles.pop() if len(titles) == 1 else ", ".join(runs.methods)


def _get(attrs: Mapping[str, Any], *keys: str) -> Any:
    value: Any = attrs
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _tally(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How often each verdict or state came, the best first."""
    found = [outcome.verdict for outcome in outcomes]
    order = [*LEVELS, NOT_JUDGED, FAILED, UNFINISHED]
    return {
        word: found.count(word)
        for word in sorted(
            set(found), key=lambda w: (w not in order, order.index(w) if w in order else 0)
        )
    }


def _facts(outcomes: Sequence[Outcome]) -> dict[str, list[tuple[str, str]]]:
    """Where the results come from: by fact, each value with the methods that have it."""
    done = [o for o in outcomes if o.attrs]
    methods = list(dict.fromkeys(o.run.method for o in done))
    found = {title: [o.attrs.get(key) for o in done] for key, title in FACTS.items()}
    found["prior"] = [
        _get(o.attrs, "prior", "file") or _get(o.attrs, "prior", "repr") for o in done
    ]
    found["samples"] = [o.samples for o in done]
    by = {title: _by_method(done, methods, values) for title, values in found.items()}
    by["seconds in all"] = [
        (method, number(sum(_seconds(o) for o in done if o.run.method == method)))
        for method in methods
    ]
    return {title: values for title, values in by.items() if values}


def _seconds(outcome: Outcome) -> float:
    value = outcome.attrs.get("wall_seconds")
    return float(value) if isinstance(value, (int, float)) else math.nan


def _by_method(
    outcomes: Sequence[Outcome], methods: Sequence[str], values: Sequence[Any]
) -> list[tuple[str, str]]:
    """One value for all where they agree, else one for each method, or how many it has."""
    told: dict[str, str] = {}
    for method in methods:
        mine = zip(outcomes, values, strict=True)
        found = {str(v) for o, v in mine if o.run.method == method and v is not None}
        if found:
            told[method] = found.pop() if len(found) == 1 else f"{len(found)} different ones"
    alike = len(set(told.values())) == 1 and len(told) == len(methods)
    return [("", next(iter(told.values())))] if alike else list(told.items())


def _cards(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """The card of the first result of each method."""
    cards: dict[str, str] = {}
    for outcome in outcomes:
        if outcome.attrs and outcome.run.method not in cards:
            card = outcome.attrs.get("card", {})
            cards[outcome.run.method] = json.dumps(card, indent=1, default=plain_json)
    return cards


# ---------------------------------------------------------------- the template


def _template() -> Any:
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lmaps_science.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": lambda *of: _minus(number(*of)),
        "estimate": lambda *of: [_minus(part) for part in estimate_parts(*of)],
        "finite": math.isfinite,
        "minus": _minus,
        "breakable": lambda name: markupsafe.Markup("_<wbr>").join(name.split("_")),
    }
    environment.globals |= {"OF": OF, "TRUTH": TRUTH}
    return environment.get_template("page.html")


def _minus(text: str) -> str:
    """With minus signs in place of hyphens."""
    return text.replace("-", "\N{MINUS SIGN}")


def _assets() -> dict[str, str]:
    """Style and script, and the policy that allows these two and nothing else."""
    folder = resources.files("lmaps_science.report") / "templates"
    style, script = ((folder / name).read_text("utf-8") for name in ("page.css", "page.js"))
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    )
    return {"style": style, "script": script, "policy": policy}


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"

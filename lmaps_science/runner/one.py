"""One reconstruction, from a problem to a folder of results."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import xarray as xr

from lmaps_science.cards.inputs import identity, settings
from lmaps_science.cards.problem import Problem
from lmaps_science.io.folders import results_folder
from lmaps_science.runner.results import RESULTS, write_results
from lmaps_science.runner.signals import Sigterm
from lmaps_science.sampling import Solver, sample
from lmaps_science.sampling.progress import say

__all__ = ["checkpoint_name", "reconstruct", "run_facts"]


def reconstruct(
    problem: Problem,
    out: str | os.PathLike[str],
    n_samples: int = 4,
    seed: int = 0,
    *,
    solver: Solver | None = None,
    batch_size: int | None = None,
    checkpoint: bool = True,
    each_sample: bool = False,
    progress: bool = True,
    force: bool = False,
) -> xr.Dataset:
    """All that `lmaps run` does: sample, keep checkpoints, analyse, draw and write to a folder.

    Args:
        problem: of `load_problem`.
        out: folder for the results; made if missing. It gets all of them, or none.
        n_samples, seed, batch_size, progress: as in `lmaps_science.sample`.
        solver: default: that of the card's preset in use.
        checkpoint: keep one in `out` while it runs, from which the same call goes on after an
            interruption. SIGTERM ends the run after the level that it is at.
        each_sample: write each sample in the field's format, too.
        force: replace the results in `out`, and remove the checkpoints of other runs there.

    Returns:
        The dataset that `result.nc` holds.

    Raises:
        DataError: `out` cannot be written to, or holds results.
        OSError: the disk is full.
        FloatingPointError: a NaN or an infinity appeared.
        KeyboardInterrupt: interrupted, or `Terminated`.
    """
    solver = problem.solver if solver is None else solver
    expected = [*RESULTS, *(["samples.png"] if n_samples > 1 else [])]
    megabytes = 8 + n_samples * problem.image.size * 20e-6
    with results_folder(out, megabytes, expected=expected, force=force) as folder:
        name = checkpoint_name(problem, solver, n_samples, seed, batch_size)
        saved = Path(out).expanduser() / name
        others = _other_checkpoints(saved, tell=progress and not force)
        try:
            with Sigterm() as sigterm:
                result = sample(
                    problem,
                    solver,
                    n_samples,
                    seed,
                    batch_size=batch_size,
                    checkpoint=saved if checkpoint else None,
                    progress=progress,
                    callback=sigterm.after_level,
                )
                sigterm.at_once = True
                data = problem.analyse(result)
                data.attrs |= run_facts(problem, solver, n_samples, seed)
                write_results(folder, data, each_sample)
        except KeyboardInterrupt as error:
            again = "the same command goes on from here" if saved.exists() else "nothing was kept"
            error.args = (again,)
            raise
        except FloatingPointError:
            saved.unlink(missing_ok=True)  # it leads nowhere else
            raise
    for finished in (saved, *(others if force else ())):
        finished.unlink(missing_ok=True)  # the results are where they belong
    return data


def _other_checkpoints(own: Path, tell: bool) -> list[Path]:
    """Those of other runs in the folder, which may never go on."""
    pattern = re.compile(r"checkpoint-[0-9a-f]{12}\.pt")
    found = [p for p in own.parent.glob("checkpoint-*.pt") if pattern.fullmatch(p.name)]
    others = sorted(set(found) - {own})
    if others and tell:
        say(
            f"note: {', '.join(map(str, others))} {'is' if len(others) == 1 else 'are'} of "
            "another run, which was interrupted; this one begins afresh (--force removes it)"
        )
    return others


def checkpoint_name(problem: Problem, solver: Solver, *arguments: Any) -> str:
    """A file name that tells runs apart, so that none goes on from the checkpoint of another."""
    text = json.dumps([dict(problem.facts), repr(solver), arguments], default=str, sort_keys=True)
    return f"checkpoint-{hashlib.sha256(text.encode()).hexdigest()[:12]}.pt"


def run_facts(problem: Problem, solver: Solver, n_samples: int, seed: int) -> dict[str, Any]:
    """`settings` and their `identity`, where it is known what the problem was made from."""
    if "inputs" not in problem.facts:  # built by hand
        return {}
    inputs = problem.facts["inputs"]
    found = settings(problem.card, inputs, solver, n_samples, seed, problem.keys)
    return {"settings": found, "identity": identity(found)}

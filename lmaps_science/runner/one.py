"""One reconstruction, from a problem to a folder of results."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from lmaps_science.cards.inputs import identity, settings
from lmaps_science.cards.problem import Problem
from lmaps_science.io.files import DataError
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
    second: Problem | str | None = None,
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
        second: the same problem with another prior, or the name of one of `problem.classical`:
            runs, too, and `problem.compare` puts it into the dataset. See `load_second`.

    Returns:
        The dataset that `result.nc` holds.

    Raises:
        DataError: `out` cannot be written to, or holds results.
        OSError: the disk is full.
        FloatingPointError: a NaN or an infinity appeared.
        KeyboardInterrupt: interrupted, or `Terminated`.

    Example:
        >>> from lmaps_science import load_problem
        >>> changes = {"prior.kind": "gaussian", "image.npix": 16, "solver.levels": 3}
        >>> problem = load_problem("scattering/linear_60", overrides=changes)
        >>> data = reconstruct(problem, "run", n_samples=1, progress=False)
        >>> sorted(path.name for path in Path("run").iterdir())
        ['figure.png', 'result.nc', 'summary.json', 'summary.txt']
    """
    solver = problem.solver if solver is None else solver
    expected = [*RESULTS, *(["samples.png"] if n_samples > 1 else [])]
    expected += [] if second is None else ["prior_check.png"]
    megabytes = 8 + n_samples * problem.image.size * (20e-6 if second is None else 30e-6)
    with results_folder(out, megabytes, expected=expected, force=force) as folder:
        runs = [problem, *([second] if isinstance(second, Problem) else [])]
        names = [checkpoint_name(run, solver, n_samples, seed, batch_size) for run in runs]
        saved = [Path(out).expanduser() / name for name in names]
        others = _other_checkpoints(saved, tell=progress and not force)
        try:
            # First: it is quick, and may lack a package.
            classical = _classical(problem, second) if isinstance(second, str) else None
            with Sigterm() as sigterm:
                results = [
                    sample(
                        run,
                        solver,
                        n_samples,
                        seed,
                        batch_size=batch_size,
                        checkpoint=file if checkpoint else None,
                        progress=progress,
                        callback=sigterm.after_level,
                    )
                    for run, file in zip(runs, saved, strict=True)
                ]
                sigterm.at_once = True
                data = problem.analyse(results[0])
                data.attrs |= run_facts(problem, solver, n_samples, seed)
                if classical is not None:
                    problem.compare(data, classical, str(second))
                for run, result in zip(runs[1:], results[1:], strict=True):
                    problem.compare(data, run.analyse(result), _name_of_prior(run))
                write_results(folder, data, each_sample)
        except KeyboardInterrupt as error:
            kept = any(file.exists() for file in saved)
            again = "the same command goes on from here" if kept else "nothing was kept"
            error.args = (again,)
            raise
        except FloatingPointError:
            for file in saved:
                file.unlink(missing_ok=True)  # they lead nowhere else
            raise
    for finished in (*saved, *(others if force else ())):
        finished.unlink(missing_ok=True)  # the results are where they belong
    return data


def _classical(problem: Problem, name: str) -> xr.Dataset:
    """The image of a classical method, as the result of one sample.

    Raises:
        DataError: the field has no such method.
    """
    if name not in problem.classical:
        known = ", ".join(problem.classical) or "none"
        raise DataError(f"second={name!r}: there is no such classical method here; known: {known}.")
    image, variable = problem.classical[name](), str(problem.image.name or "image")
    mean = problem.image.copy(data=image.values).reset_coords(drop=True)
    return xr.Dataset({variable: mean.expand_dims("sample"), f"{variable}_mean": mean})


def _name_of_prior(problem: Problem) -> str:
    prior = problem.facts.get("prior", {})
    return Path(prior["file"]).name if "file" in prior else type(problem.prior).__name__


def _other_checkpoints(own: Sequence[Path], tell: bool) -> list[Path]:
    """Those of other runs in the folder, which may never go on."""
    pattern = re.compile(r"checkpoint-[0-9a-f]{12}\.pt")
    found = [p for p in own[0].parent.glob("checkpoint-*.pt") if pattern.fullmatch(p.name)]
    others = sorted(set(found) - set(own))
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

"""Figures of reconstructions, without any global state: each function returns a Figure.

They draw the datasets that `Problem.analyse` makes and `read_netcdf` reads back, so a result can be
drawn long after the run.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from lmaps_science.plots import black_hole, mri, scattering
from lmaps_science.plots.black_hole import plot_uv
from lmaps_science.plots.common import PATH, finish
from lmaps_science.problem import Problem
from lmaps_science.sample import Result

__all__ = ["plot_reconstruction", "plot_samples", "plot_uv"]

KINDS: dict[str, ModuleType] = {"black_hole": black_hole, "mri": mri, "scattering": scattering}


def plot_reconstruction(
    result: xr.Dataset | Result,
    problem: Problem | None = None,
    path: PATH | None = None,
    **options: Any,
) -> Figure:
    """The images of a reconstruction, their spread, and how they fit the data.

    Args:
        result: what `problem.analyse` gave (or `read_netcdf`), or a Result together with `problem`.
        problem: needed for a Result alone.
        path: a file to write, atomically; its suffix tells the format.
        options: those of the kind of problem: `plots.black_hole.reconstruction`,
            `plots.mri.reconstruction`, `plots.scattering.reconstruction`.
    """
    data = _dataset(result, problem)
    return finish(KINDS[data.attrs["kind"]].reconstruction(data, **options), path)


def plot_samples(
    result: xr.Dataset | Result,
    problem: Problem | None = None,
    path: PATH | None = None,
    *,
    most: int = 16,
) -> Figure:
    """Up to `most` samples side by side on one colour scale; arguments as above."""
    data = _dataset(result, problem)
    return finish(KINDS[data.attrs["kind"]].samples(data, most=most), path)


def _dataset(result: xr.Dataset | Result, problem: Problem | None) -> xr.Dataset:
    if isinstance(result, xr.Dataset):
        return result
    if problem is None:
        raise ValueError(
            "a Result knows neither its data nor its truth: give the problem as well, or draw "
            "problem.analyse(result)."
        )
    return problem.analyse(result)

"""Reconstruct scientific images from indirect measurements with diffusion priors.

>>> from lmaps_science import load_problem, sample                       # doctest: +SKIP
>>> problem = load_problem("black_hole/m87_2017", data="m87.uvfits")      # doctest: +SKIP
>>> result = sample(problem, problem.solver, n_samples=4, seed=0)        # doctest: +SKIP
>>> problem.analyse(result)                                              # doctest: +SKIP

Names are imported when they are first used: importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

_HOMES = {
    "io": (
        "make_image",
        "read_image",
        "read_netcdf",
        "read_uvfits",
        "simulate_observation",
        "write_fits",
        "write_uvfits",
    ),
    "local_map": ("LBFGS", "BarzilaiBorwein", "ConjugateGradient", "GradientSteps"),
    "manifests": ("fetch", "list_data"),
    "misfit": ("ClosureMisfit", "GaussianMisfit"),
    "operators": ("Affine", "LinearOperator", "Operator"),
    "phantoms": ("BlackHoleImages",),
    "physics.interferometry": ("ClosureQuantities", "Visibilities"),
    "plots": ("plot_reconstruction", "plot_samples", "plot_uv"),
    "priors": ("Denoiser", "GaussianPrior", "from_diffusers", "from_function", "load_prior"),
    "problem": ("Problem", "list_problems", "load_problem"),
    "sample": ("InverseProblem", "Result", "sample"),
    "solvers": (
        "DAPS",
        "DPS",
        "LMAPS",
        "DiffPIR",
        "REDDiff",
        "regularised_maximum_likelihood",
    ),
    "training": ("TrainingSettings", "train"),
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """Lets `lmaps_science.sample` be the function: importing the module would put itself there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "sample" and isinstance(value, types.ModuleType):
            value = value.sample
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

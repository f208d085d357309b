r"""What methods that make images consistent with their data share, each of it once.

They minimise the misfit of an image that is made from coordinates `u`,

.. math:: s L(R(u)) + \tfrac{\lambda}{2} ||u - u_0||^2

with the misfit's unit `s` (`objective_scale`; for Gaussian noise `s L` is half the squared
residual), and stop, each sample for itself, where the data are explained: by the discrepancy
principle, at the value of L that the noise alone leaves of it.

Source of the stopping rule: Morozov 1966.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lmaps_science.arrays import inner, per_sample, scaled
from lmaps_science.local_map import GradientSolver
from lmaps_science.misfit import Misfit
from lmaps_science.sampling import InverseProblem
from lmaps_science.solvers.guidance import through

__all__ = ["check", "explained", "fit", "goal", "needs"]


def needs(local: GradientSolver, discrepancy: float) -> frozenset[str]:
    """What the problem must provide: its noise, where that decides when to stop."""
    return local.requires | ({"noise"} if discrepancy > 0 else set())


def check(owner: object, local: GradientSolver, discrepancy: float) -> None:
    """ValueError unless `local` works from gradients alone, and the discrepancy is 0 or more."""
    name = type(owner).__name__
    if not isinstance(local, GradientSolver):
        raise ValueError(
            f"{name} needs a local solver for any function, such as LBFGS() or Adam(), got "
            f"{local!r}, which solves local problems alone."
        )
    if not 0 <= discrepancy < float("inf"):
        raise ValueError(
            f"{name} needs discrepancy >= 0 (1: stop at the stated noise, 0: never), got "
            f"{discrepancy}. Example: {name}(discrepancy=1.0)."
        )


def goal(problem: InverseProblem, discrepancy: float) -> Tensor:
    """The L at which data are explained, (N,) or (1,): `discrepancy` times that of noise alone."""
    if discrepancy == 0:
        return problem.misfit.like.new_zeros(1)
    return discrepancy * problem.misfit.noise_floor()


def explained(problem: InverseProblem, images: Tensor) -> Tensor:
    """Which images explain their data: booleans (B,). The goal is what `prepare` kept."""
    found: Tensor = problem.misfit(images) <= problem.prepared
    return found


def fit(
    misfit: Misfit,
    local: GradientSolver,
    start: Tensor,
    goal: Tensor,
    image: Callable[[Tensor], Tensor] = lambda u: u,
    weight: float = 0.0,
) -> Tensor:
    """The coordinates of images that explain their data, as `local` finds them from `start`.

    Args:
        misfit: L, of images in model space.
        local: how to minimise.
        start: `u_0`, (B, C, H, W).
        goal: the L at which a sample stops, (1,) or (B,).
        image: `R`, differentiable, from coordinates to images.
        weight: `lambda`.
    """

    def gradient(u: Tensor) -> tuple[Tensor, Tensor]:
        _, slope, loss = through(misfit, image, u)
        unit, away = misfit.objective_scale, u - start
        slope = scaled(unit, slope) + weight * away
        # Explained data leave nothing to follow: a slope of 0 ends the descent of that sample.
        left = torch.where(per_sample(loss > goal, slope), slope, 0)
        return left, unit * loss + 0.5 * weight * inner(away, away)

    return local.minimise(gradient, start)

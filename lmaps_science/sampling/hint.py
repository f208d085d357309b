"""What the data say without a prior that is trained: the hint of conditional denoisers."""

from __future__ import annotations

from torch import Tensor

from lmaps_science.local_map import LBFGS, ConjugateGradient, LocalProblem, LocalSolver
from lmaps_science.misfit import GaussianMisfit, Misfit

__all__ = ["hint"]


def hint(misfit: Misfit, batch: int) -> Tensor:
    r"""An image of the data alone, (B, C, H, W) in model space.

    .. math:: h = argmin_z \tfrac12 ||z||^2 + L(z)

    the MAP estimate for white images of unit variance, which is about a pseudo-inverse where the
    data determine the image, and 0 where they do not. By conjugate gradients where the problem is
    linear with Gaussian noise, else by L-BFGS.

    Args:
        misfit: on model space, of one observation or of one for each image.
        batch: B.
    """
    nothing = misfit.like.new_zeros(batch, *misfit.operator.image_shape)
    linear = isinstance(misfit, GaussianMisfit) and misfit.operator.linear is not None
    solver: LocalSolver = ConjugateGradient(30, 1e-2) if linear else LBFGS(30)
    local = LocalProblem(nothing, misfit, 1.0, 1.0, 1 / misfit.objective_scale)
    return local.image(solver(local))

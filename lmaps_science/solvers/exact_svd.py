"""The exact local MAP by the operator's singular value decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lmaps_science.arrays import scaled
from lmaps_science.local_map import LocalProblem, LocalSolver
from lmaps_science.search import Space

__all__ = ["ExactSVD"]


@dataclass(frozen=True)
class ExactSVD(LocalSolver):
    r"""The local MAP of a linear operator with known singular vectors (LMAPS paper, eq. 15).

    Solves `(w A^T A / v + w_p) (z - m) = w A^T (y - A m) / v` for the variance `v` of a datum,
    in one go where `ConjugateGradient` iterates.

    Raises ValueError for a noise level that differs from datum to datum, for the prior's covariance
    and for `kappa1 = 0`, which leaves nothing to make the solution unique.

    Example:
        >>> from lmaps_science import LMAPS, load_problem, sample
        >>> changes = {"picture.npix": 16}
        >>> problem = load_problem("restoration/random", prior="gaussian", overrides=changes)
        >>> solver = LMAPS(levels=5, local=ExactSVD())
        >>> sample(problem, solver, n_samples=2, progress=False).samples.shape
        (2, 3, 16, 16)
    """

    requires = frozenset({"svd", "gaussian"})
    search: ClassVar[Space] = {}

    def __call__(self, problem: LocalProblem) -> Tensor:
        operator, common = problem.misfit.svd(), problem.misfit.gaussian().common_variance
        if problem.covariance is not None:
            raise ValueError(
                "ExactSVD needs covariance='isotropic': say so (solver.covariance=isotropic), or "
                "take ConjugateGradient() instead."
            )
        if common is None or problem.prior_weight == 0:
            raise ValueError(
                "ExactSVD needs one sigma for all data and kappa1 > 0: take ConjugateGradient() "
                "instead."
            )
        # The equation divided by w / v, so that the damping is all that depends on the level.
        scale = common / problem.misfit_weight
        b = scaled(-scale, problem.gradient(problem.denoised)[0])
        # b lies in the span of V but for what the decomposition left out; to divide that by the
        # damping alone made a leak of 1e-5 the largest term at high noise levels.
        damping = (scale * problem.prior_weight).reshape(-1, 1)
        coefficients = operator.Vt(b) / (operator.singular_values**2 + damping)
        return problem.denoised + operator.V(coefficients)

r"""Local MAP problems whose covariance is the denoiser's own, :math:`\Sigma = \sigma^2 J(x)`.

For the exact denoiser this is the covariance of the clean image given the noisy one (TMPD, Boys et
al. 2023), so that for a Gaussian prior, a linear operator and Gaussian noise the local MAP is the
exact mean given both the noisy image and the data. Networks are not exact: their J is symmetric and
positive semi-definite only about. The weights of `LocalProblem` apply: as a factor on Sigma, 1 with
`kappa = 1`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from lmaps_science.arrays import inner, norm, per_sample, scaled
from lmaps_science.linalg import conjugate_gradient
from lmaps_science.local_map import LocalProblem

__all__ = ["JacobianProblem", "KrylovProblem"]


@dataclass(frozen=True)
class JacobianProblem(LocalProblem):
    r"""Of a linear operator with Gaussian noise, for `ConjugateGradient` (LMAPS paper, eq. 15).

    .. math:: z = m + \Sigma A^T (A \Sigma A^T + \Gamma)^{-1} (y - H(m)), \quad \Sigma = \sigma^2 J

    with the data's variances `Gamma`, solved among the data, whitened: one vector-Jacobian product
    of the denoiser, one call and one adjoint of the operator for each iteration. There are no
    other coordinates than the image itself.

    Attributes:
        pull: `v -> J^T v`, from `Denoiser.pullback`.
    """

    pull: Callable[[Tensor], Tensor] = field(kw_only=True)

    def __call__(self, w: Tensor) -> Tensor:
        """J of each image, (B,), where it is least: there z - m is -Sigma times the slope of L."""
        slope, misfit = self.misfit.gradient(w)
        return self.misfit_weight * (misfit - 0.5 * inner(slope, w - self.denoised))

    def conjugate_gradient(self, iterations: int, tolerance: float) -> Tensor:
        misfit, operator = self.misfit.gaussian(), self.misfit.linear()
        deviation = misfit.variance.sqrt()
        weight = self.misfit_weight / self.prior_weight  # of J: kappa sigma^2

        def spread(u: Tensor) -> Tensor:  # Sigma A^T Gamma^-1/2 u
            return scaled(weight, self.pull(operator.adjoint(u / deviation)))

        def system(u: Tensor) -> Tensor:
            data = _as_data(u, like=residual)
            return _as_real(operator(spread(data)) / deviation) + u

        residual = (misfit.y - misfit.operator(self.denoised)) / deviation
        solved = conjugate_gradient(
            system, _as_real(residual), iterations=iterations, tolerance=tolerance
        )
        return self.denoised + spread(_as_data(solved, like=residual))


@dataclass(frozen=True)
class KrylovProblem(LocalProblem):
    r"""Of any operator: J in the subspace of a few products, and round outside of it.

    .. math:: J \approx Q T Q^T + \tau (I - Q Q^T), \quad T = Q^T J Q, \qquad
        Q \text{ spans } g, J g, J^2 g, \dots, \quad g = \nabla L(m)

    with the smallest eigenvalue `tau` of T, the least that is known to be possible. The subspace
    holds the first step of any descent. With as many products as J has distinct eigenvalues it is
    exact, where only the smallest is degenerate.

    Attributes:
        pull: `v -> J^T v`, from `Denoiser.pullback`.
        products: dimensions of the subspace, one vector-Jacobian product of the denoiser each.
    """

    pull: Callable[[Tensor], Tensor] = field(kw_only=True)
    products: int = field(kw_only=True)
    isotropic = False

    def image(self, w: Tensor) -> Tensor:
        return self.denoised + self.root(w - self.denoised)

    def root(self, x: Tensor) -> Tensor:
        basis, change, outside = self._subspace
        along = torch.stack([inner(q, x) for q in basis], 1)
        weights = (change @ along[:, :, None])[:, :, 0]
        found = per_sample(outside, x) * x
        for weight, q in zip(weights.T, basis, strict=True):
            found = found + per_sample(weight, x) * q
        return found

    @cached_property
    def _subspace(self) -> tuple[list[Tensor], Tensor, Tensor]:
        """Orthonormal images Q, the root of T less that of tau (B, r, r), and the latter (B,)."""
        basis: list[Tensor] = []
        images: list[Tensor] = []
        new = self.misfit.gradient(self.denoised)[0]
        for _ in range(self.products):
            basis.append(_normalised(new, basis))
            images.append(self.pull(basis[-1]))
            new = images[-1]
        rows = [torch.stack([inner(q, image) for image in images], 1) for q in basis]
        matrix = torch.stack(rows, 1)
        # A place in the basis that is empty, as nothing was new, must not pass for an eigenvalue 0.
        empty = torch.stack([norm(q) == 0 for q in basis], 1)
        matrix = matrix + torch.diag_embed(torch.where(empty, matrix[:, :1, 0], 0))
        values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
        roots = values.clamp_min(0).sqrt()
        return basis, (vectors * (roots - roots[:, :1])[:, None]) @ vectors.mT, roots[:, 0]


def _normalised(x: Tensor, basis: list[Tensor]) -> Tensor:
    """What is new in `x`, of norm 1; 0 where that is only rounding."""
    before = norm(x)
    for _ in range(2):  # the second time for what rounding left
        for q in basis:
            x = x - per_sample(inner(q, x), x) * q
    after, eps = norm(x), torch.finfo(x.dtype).eps
    new = after > eps**0.5 * before
    return per_sample(torch.where(new, 1 / after.where(new, torch.ones_like(after)), 0), x) * x


def _as_real(data: Tensor) -> Tensor:
    return torch.view_as_real(data) if data.is_complex() else data


def _as_data(u: Tensor, like: Tensor) -> Tensor:
    return torch.view_as_complex(u.contiguous()) if like.is_complex() else u

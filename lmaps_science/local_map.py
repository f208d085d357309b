r"""The local MAP problem of one noise level, and the solvers that can be swapped for it.

The problem (LMAPS paper, eq. 12-13): with the denoised image `m = D(x, sigma)`, minimise

.. math:: J(z) = w_p \tfrac12 ||z - m||^2 + w_d \kappa_2 \ell(z), \quad
          w_p = \frac{\kappa_1^2}{\kappa_1^2 + \sigma^2}, \quad w_d = 1 - w_p

where `l` is the misfit in the unit that published values of `kappa_2` refer to. It is the MAP
estimate for the prior N(m, kappa sigma^2 I), `kappa = kappa_2 / kappa_1^2` in those units.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lmaps_science.arrays import factor_to, inner, norm, per_sample, scaled
from lmaps_science.linalg import adam, conjugate_gradient, lbfgs
from lmaps_science.misfit import Misfit
from lmaps_science.priors.covariance import Covariance
from lmaps_science.search import Range, Space

__all__ = [
    "LBFGS",
    "Adam",
    "BarzilaiBorwein",
    "ConjugateGradient",
    "Gradient",
    "GradientSolver",
    "GradientSteps",
    "LocalProblem",
    "LocalSolver",
]


LONGER = 10.0  # than steps before, of Barzilai and Borwein
Gradient = Callable[[Tensor], tuple[Tensor, Tensor]]  # x -> gradients like x, values (B,)


@dataclass(frozen=True)
class LocalProblem:
    r"""The local problem of one noise level, in coordinates in which the prior term is round.

    Without a `covariance`, `J` is that of the module's head and the coordinates `w` are the
    image `z` itself. With the prior's covariance `C`, the isotropic `sigma^2 I` gives way to

    .. math:: \Sigma = \sigma^2 G, \quad G = C (C + \sigma^2 I)^{-1}, \qquad
              z = m + G^{1/2} (w - m)

    which is the posterior covariance of a Gaussian prior, and TMPD's `sigma^2 J` for it: at high
    noise the estimate moves only where and as images of the prior do.

    Solvers minimise over `w`, starting at `w = m`; `image` takes the result to `z`.
    """

    denoised: Tensor
    misfit: Misfit
    sigma: float
    kappa1: float
    kappa2: float | Tensor
    covariance: Covariance | None = None

    @property
    def prior_weight(self) -> float:
        """`w_p = kappa1^2 / (kappa1^2 + sigma^2)`."""
        return self.kappa1**2 / (self.kappa1**2 + self.sigma**2)

    @property
    def misfit_weight(self) -> float | Tensor:
        """`w_d kappa2`, times the misfit's unit; (B,) where that differs from image to image."""
        return (1 - self.prior_weight) * self.kappa2 * self.misfit.objective_scale

    @property
    def isotropic(self) -> bool:
        """Whether the coordinates are the image itself."""
        return self.covariance is None

    def image(self, w: Tensor) -> Tensor:
        """The image `z` of coordinates `w`, both (B, C, H, W)."""
        return w if self.covariance is None else self.denoised + self.root(w - self.denoised)

    def __call__(self, w: Tensor) -> Tensor:
        """J of each image, (B,)."""
        away = w - self.denoised
        misfit = self.misfit(self.image(w))
        return 0.5 * self.prior_weight * inner(away, away) + self.misfit_weight * misfit

    def gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of J by the coordinates, like `w`, and the values (B,)."""
        slope, misfit = self.misfit.gradient(self.image(w))
        away = w - self.denoised
        value = 0.5 * self.prior_weight * inner(away, away) + self.misfit_weight * misfit
        return self.prior_weight * away + scaled(self.misfit_weight, self.root(slope)), value

    def root(self, x: Tensor) -> Tensor:
        """`G^(1/2) x`."""
        if self.covariance is None:
            return x
        values = self.covariance.eigenvalues
        return self.covariance.apply(x, (values / (values + self.sigma**2)).sqrt())

    def conjugate_gradient(self, iterations: int, tolerance: float) -> Tensor:
        """The coordinates of the minimiser, of a linear operator with Gaussian noise."""
        misfit = self.misfit.gaussian()

        def curvature(d: Tensor) -> Tensor:
            pulled = self.root(misfit.hessian(self.root(d)))
            return self.prior_weight * d + scaled(self.misfit_weight, pulled)

        b = -self.gradient(self.denoised)[0]
        step = conjugate_gradient(curvature, b, iterations=iterations, tolerance=tolerance)
        return self.denoised + step


class LocalSolver(ABC):
    """Anything that takes a `LocalProblem` to the coordinates of its minimiser, or near."""

    @property
    def requires(self) -> frozenset[str]:
        """What the problem must provide."""
        return frozenset({"differentiable"})

    @abstractmethod
    def __call__(self, problem: LocalProblem) -> Tensor:
        """The coordinates (B, C, H, W) of the minimiser."""


class GradientSolver(LocalSolver):
    """A local solver that asks for gradients alone: it minimises any function of each image.

    An image whose gradient is 0 stays as it is, from then on: a function may stop its descent.
    """

    def __call__(self, problem: LocalProblem) -> Tensor:
        return self.minimise(problem.gradient, problem.denoised)

    @abstractmethod
    def minimise(self, gradient: Gradient, start: Tensor) -> Tensor:
        """The minimiser of each image's function, or near, from `start` (B, ...).

        `gradient` takes images like `start` to their gradients and values (B,).
        """


@dataclass(frozen=True)
class GradientSteps(GradientSolver):
    """Plain gradient descent from the denoised image, as in the LMAPS paper (algorithm 4).

    The learning rate is in the units of J, so it belongs to one operator and one noise level of
    the data; `BarzilaiBorwein` needs none.

    Example:
        >>> from lmaps_science import LMAPS, sample, toys
        >>> solver = LMAPS(levels=5, local=GradientSteps(steps=50, learning_rate=1e-3))
        >>> sample(toys.mixture().problem, solver, n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    steps: int = 100
    learning_rate: float = 0.01
    search: ClassVar[Space] = {"learning_rate": Range(1e-6, 10.0, log=True)}

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and 0 < self.learning_rate < math.inf):
            raise ValueError(f"GradientSteps needs steps >= 1 and learning_rate > 0, got {self!r}.")

    def minimise(self, gradient: Gradient, start: Tensor) -> Tensor:
        z = start
        for _ in range(self.steps):
            z = z - self.learning_rate * gradient(z)[0]
        return z


@dataclass(frozen=True)
class Adam(GradientSolver):
    """Adam: steps of about `learning_rate` in each pixel, however steep the function is there.

    The step of many published methods, at rates that belong to images of about [-1, 1]. It neither
    looks at values nor ends by itself. Source: Kingma and Ba 2015, algorithm 1.

    Example:
        >>> from lmaps_science import LMAPS, sample, toys
        >>> solver = LMAPS(levels=5, local=Adam(steps=20))
        >>> sample(toys.mixture().problem, solver, n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    steps: int = 50
    learning_rate: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    search: ClassVar[Space] = {"learning_rate": Range(1e-4, 0.3, log=True)}

    def __post_init__(self) -> None:
        fits = self.steps >= 1 and 0 < self.learning_rate < math.inf
        if not (fits and all(0 <= beta < 1 for beta in self.betas)):
            raise ValueError(
                f"Adam needs steps >= 1, learning_rate > 0 and betas in [0, 1), got {self!r}."
            )

    def minimise(self, gradient: Gradient, start: Tensor) -> Tensor:
        z, first, second = start, torch.zeros_like(start), torch.zeros_like(start)
        for k in range(self.steps):
            slope = gradient(z)[0]
            direction, first, second = adam(slope, first, second, k + 1, self.betas)
            going = per_sample(norm(slope) != 0, z)  # else the momentum would carry it on
            z = torch.where(going, z - self.learning_rate * direction, z)
        return z


@dataclass(frozen=True)
class BarzilaiBorwein(GradientSolver):
    r"""Gradient steps with the scale-free length `s.y / y.y` of the last step's secant.

    `s` is the last change of z and `y` that of the gradient. The first step moves every pixel
    by `first_step` (root mean square). Between two places of like slope the secant promises
    anything: from the third on no step is longer than ten times the longest after the first, and
    the last one, which no other corrects, than ten times the one before. Source: Barzilai and
    Borwein 1988.

    Example:
        >>> from lmaps_science import LMAPS, sample, toys
        >>> solver = LMAPS(levels=5, local=BarzilaiBorwein(steps=10))
        >>> sample(toys.mixture().problem, solver, n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    steps: int = 20
    first_step: float = 0.01
    search: ClassVar[Space] = {}

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and 0 < self.first_step < math.inf):
            raise ValueError(f"BarzilaiBorwein needs steps >= 1 and first_step > 0, got {self!r}.")

    def minimise(self, gradient: Gradient, start: Tensor) -> Tensor:
        z, g = start, gradient(start)[0]
        tiny = torch.finfo(z.dtype).tiny
        length = factor_to(self.first_step * z[0].numel() ** 0.5, g)
        longest = torch.zeros_like(length)
        for k in range(1, self.steps):
            s = -per_sample(length, g) * g
            z = z + s
            g_new = gradient(z)[0]
            y = g_new - g
            sy, yy = inner(s, y), inner(y, y)
            # Where the function is not convex the secant says nothing: keep the last length.
            length = torch.where(sy > 0, sy / yy.clamp_min(tiny), length)
            g = g_new
            if k > 1:  # the first step is no measure, its length being given
                longest = torch.maximum(longest, norm(s))
                bound = longest if k < self.steps - 1 else norm(s)  # nothing corrects the last one
                length = torch.minimum(length, factor_to(LONGER * bound, g))
        return z - per_sample(length, g) * g


@dataclass(frozen=True)
class LBFGS(GradientSolver):
    """Limited-memory BFGS with a line search: the fewest operator calls on nonlinear problems.

    `iterations` bounds the evaluations of the misfit and its gradient; a sample stops earlier
    when two steps running bring less than `tolerance` of the decrease so far.

    Example:
        >>> from lmaps_science import LMAPS, sample, toys
        >>> solver = LMAPS(levels=5, local=LBFGS(iterations=20))
        >>> sample(toys.mixture().problem, solver, n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    iterations: int = 20
    memory: int = 10
    tolerance: float = 1e-3
    search: ClassVar[Space] = {}

    def __post_init__(self) -> None:
        if not (self.iterations >= 2 and self.memory >= 1 and 0 <= self.tolerance < 1):
            raise ValueError(
                "LBFGS needs iterations >= 2 (the first evaluates the start), memory >= 1 and "
                f"0 <= tolerance < 1, got {self!r}."
            )

    def minimise(self, gradient: Gradient, start: Tensor) -> Tensor:
        return lbfgs(
            gradient,
            start,
            iterations=self.iterations,
            memory=self.memory,
            tolerance=self.tolerance,
            first_step=0.01 * start[0].numel() ** 0.5,
        )


@dataclass(frozen=True)
class ConjugateGradient(LocalSolver):
    r"""The exact local MAP of a linear operator with Gaussian noise (LMAPS paper, eq. 15).

    Solves `(w A^T A / sigma_y^2 + w_p) (z - m) = w A^T (y - A m) / sigma_y^2` with
    `w = w_d kappa_2 sigma_y^2` by conjugate gradients from `z = m`.

    Example:
        >>> from lmaps_science import LMAPS, sample, toys
        >>> solver = LMAPS(levels=5, local=ConjugateGradient(iterations=15))
        >>> sample(toys.mixture().problem, solver, n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    iterations: int = 50
    tolerance: float = 1e-5
    requires = frozenset({"linear", "gaussian"})
    search: ClassVar[Space] = {}

    def __post_init__(self) -> None:
        if not (self.iterations >= 1 and 0 <= self.tolerance < 1):
            raise ValueError(
                f"ConjugateGradient needs iterations >= 1 and 0 <= tolerance < 1, got {self!r}."
            )

    def __call__(self, problem: LocalProblem) -> Tensor:
        return problem.conjugate_gradient(self.iterations, self.tolerance)

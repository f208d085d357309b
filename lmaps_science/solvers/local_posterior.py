r"""The local posterior of one noise level, and samplers that can be swapped for it.

What `lmaps_science.local_map` is to a maximum, this is to a draw:

.. math:: -\log p(z) = \frac{||z - m||^2}{2 r^2} + \frac{L(z)}{\tau} + const

with the mean `m` and the radius `r` of a local Gaussian prior and a temperature `tau`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from lmaps_science.arrays import factor_to, inner, norm, per_sample
from lmaps_science.local_map import ConjugateGradient, LocalProblem, LocalSolver
from lmaps_science.misfit import Misfit
from lmaps_science.operators import LinearOperator, Operator
from lmaps_science.search import Range, Space

__all__ = ["Langevin", "LocalPosterior", "LocalSampler", "Metropolis", "PerturbAndMAP"]

Normal = Callable[[Tensor, int], Tensor]  # normal(like, draw): numbers of this level


@dataclass(frozen=True)
class LocalPosterior:
    """`-log p(z) = |z - mean|^2 / (2 radius^2) + L(z) / temperature`, up to a constant."""

    mean: Tensor
    misfit: Misfit
    radius: float
    temperature: float

    @classmethod
    def of(cls, problem: LocalProblem, radius: float, temperature: float) -> LocalPosterior:
        """That of which `problem` finds the maximum, in its coordinates, where the prior is round.

        `problem.image` takes a draw to the image.
        """
        misfit = problem.misfit if problem.isotropic else problem.misfit @ _Coordinates(problem)
        return cls(problem.denoised, misfit, radius, temperature)

    def gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient, like `z`, and the values (B,)."""
        slope, misfit = self.misfit.gradient(z)
        away = (z - self.mean) / self.radius**2
        value = 0.5 * inner(z - self.mean, away) + misfit / self.temperature
        return away + slope / self.temperature, value


class LocalSampler(ABC):
    """Anything that takes a `LocalPosterior` to one draw (about) from it.

    `progress` is i / T at noise level i of T, from 0 on.
    """

    @property
    def requires(self) -> frozenset[str]:
        """What the problem must provide."""
        return frozenset({"differentiable"})

    @abstractmethod
    def __call__(self, target: LocalPosterior, progress: float, normal: Normal) -> Tensor:
        """One draw (B, C, H, W)."""


@dataclass(frozen=True)
class Langevin(LocalSampler):
    """Unadjusted Langevin steps, from the mean.

    The learning rate belongs to one operator and noise; it falls linearly over the T noise
    levels, to `last` of itself at level T, one after the lowest. `Metropolis` needs none.

    Example:
        >>> from lmaps_science import sample, toys
        >>> from lmaps_science.solvers import DAPS
        >>> solver = DAPS(levels=5, local=Langevin(steps=20))
        >>> sample(toys.mixture().problem, solver, n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    steps: int = 100
    learning_rate: float = 1e-4
    last: float = 0.01
    search: ClassVar[Space] = {
        "learning_rate": Range(1e-7, 0.1, log=True),
        "last": Range(0.001, 1.0, log=True),
    }

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and self.learning_rate > 0 and self.last > 0):
            raise ValueError(f"Langevin needs steps >= 1 and positive rates, got {self!r}.")

    def __call__(self, target: LocalPosterior, progress: float, normal: Normal) -> Tensor:
        rate = self.learning_rate * (1 + progress * (self.last - 1))
        z = target.mean
        for k in range(self.steps):
            z = z - rate * target.gradient(z)[0] + (2 * rate) ** 0.5 * normal(z, k)
        return z


@dataclass(frozen=True)
class Metropolis(LocalSampler):
    """Hamiltonian Monte Carlo from the mean, with steps that find their own length.

    A proposal is a path of `leaps` leapfrog steps from a random momentum; with one it is a
    Langevin step that may be refused (MALA). The length starts from the curvature along the
    gradient; it grows by a tenth when a proposal is accepted and shrinks by a fifth when it is
    refused: balance lies at 70 % acceptance, near the optimum of 65 %. `steps` are all leaps
    together, rounded down to whole paths; there are two more evaluations of the misfit. Source:
    Neal 2011, "MCMC using Hamiltonian dynamics".

    Example:
        >>> from lmaps_science import sample, toys
        >>> from lmaps_science.solvers import DAPS
        >>> solver = DAPS(levels=5, local=Metropolis(steps=20))
        >>> sample(toys.mixture().problem, solver, n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    steps: int = 100
    leaps: int = 10
    search: ClassVar[Space] = {}

    def __post_init__(self) -> None:
        if not 1 <= self.leaps <= self.steps:
            raise ValueError(f"Metropolis needs 1 <= leaps <= steps, got {self!r}.")

    def __call__(self, target: LocalPosterior, progress: float, normal: Normal) -> Tensor:
        z = target.mean
        slope, value = target.gradient(z)
        length = self._first_length(target, slope)
        for k in range(self.steps // self.leaps):
            momentum = normal(z, 2 * k)
            proposal, force, energy = z, slope, value + 0.5 * inner(momentum, momentum)
            for _ in range(self.leaps):
                momentum = momentum - 0.5 * length * force
                proposal = proposal + length * momentum
                force, there = target.gradient(proposal)
                momentum = momentum - 0.5 * length * force
            gain = energy - there - 0.5 * inner(momentum, momentum)
            uniform = torch.special.ndtr(normal(value, 2 * k + 1))
            accept = uniform.log() < gain.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
            z = torch.where(per_sample(accept, z), proposal, z)
            slope = torch.where(per_sample(accept, z), force, slope)
            value = torch.where(accept, there, value)
            length = length * per_sample(torch.where(accept, 1.1, 0.8), z)
        return z

    @staticmethod
    def _first_length(target: LocalPosterior, slope: Tensor) -> Tensor:
        """1 / sqrt(curvature), from the secant over a probe of 1e-3 of the radius, (B, 1, 1, 1)."""
        probe = 1e-3 * target.radius * slope[0].numel() ** 0.5
        step = per_sample(factor_to(probe, slope), slope) * slope
        there = target.gradient(target.mean - step)[0]
        curvature = (norm(slope - there) / probe).clamp_min(1 / target.radius**2)
        return per_sample(curvature.rsqrt(), slope)


@dataclass(frozen=True)
class PerturbAndMAP(LocalSampler):
    r"""The minimiser for a mean and data with noise added: an exact draw where H is linear.

    .. math:: z = argmin_z \frac{||z - m - r n_1||^2}{2 r^2}
        + \frac{||y + \sqrt\tau \sigma_y n_2 - H(z)||^2}{2 \tau \sigma_y^2}

    is N(mean, covariance) of the local posterior when the noise is Gaussian and H linear or affine,
    to the precision of the `local` solver: a forward and an adjoint for each of its iterations.
    What the data do not see is drawn exactly. With a nonlinear H, or closure quantities, whose
    noise is perturbed as `Misfit.perturbed` says, the draw is approximate (and `local=LBFGS()`): of
    a posterior that is curved, or has several maxima, `Metropolis` draws truly, at more cost. It
    refuses a misfit that has no noise to add. Sources: Papandreou and Yuille 2010, "Gaussian
    sampling by local perturbations"; Bardsley et al. 2014, "Randomize-then-optimize", for
    nonlinear H.

    Example:
        >>> from lmaps_science import LMAPS, sample, toys
        >>> solver = LMAPS(levels=5, local=PerturbAndMAP())
        >>> sample(toys.mixture().problem, solver, n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    local: LocalSolver = field(default_factory=ConjugateGradient)
    search: ClassVar[Space] = {}

    @property
    def requires(self) -> frozenset[str]:
        return self.local.requires | {"perturbable"}

    def __call__(self, target: LocalPosterior, progress: float, normal: Normal) -> Tensor:
        misfit, temperature = target.misfit, target.temperature
        mean = target.mean + target.radius * normal(target.mean, 0)
        perturbed = misfit.perturbed(len(mean), lambda like: normal(like, 1), temperature**0.5)
        # With kappa1 = 1 the local problem is this one up to a factor.
        kappa2 = 1 / (temperature * misfit.objective_scale)
        return self.local(LocalProblem(mean, perturbed, target.radius, 1.0, kappa2))


# ---------------------------------------------------------------- coordinates


class _Coordinates(Operator):
    """The images of coordinates in which a local prior is round."""

    def __init__(self, problem: LocalProblem):
        self.problem = problem
        self.image_shape = self.data_shape = tuple(problem.denoised.shape[1:])

    def _forward(self, x: Tensor) -> Tensor:
        return self.problem.image(x)

    def _vjp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.problem.root(v)

    def _linear(self) -> LinearOperator:
        return _Root(self.problem)


class _Root(LinearOperator):
    """`G^(1/2)`, which is symmetric."""

    def __init__(self, problem: LocalProblem):
        self.problem = problem
        self.image_shape = self.data_shape = tuple(problem.denoised.shape[1:])

    def _forward(self, x: Tensor) -> Tensor:
        return self.problem.root(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.problem.root(y)

"""Local MAP sampling.

Source: "Local MAP Sampling for Diffusion Models", algorithm 4; equations cited line by line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor

from lmaps_science.local_map import LBFGS, LocalProblem, LocalSolver
from lmaps_science.noise import EDM, SampleNoise, renoised
from lmaps_science.sampling import InverseProblem, ScoredSolver, State
from lmaps_science.search import Range, Space
from lmaps_science.solvers.local_jacobian import JacobianProblem, KrylovProblem
from lmaps_science.solvers.local_posterior import LocalPosterior, LocalSampler

__all__ = ["LMAPS"]


@dataclass(frozen=True)
class LMAPS(ScoredSolver):
    r"""Local MAP sampling: denoise, solve a local MAP problem, go down one noise level.

    Known bias: it seeks modes. Beside an exact posterior of two modes (`toys.inpainting`) no
    sample lies between them and their weights are about kept, but within a mode samples spread by
    two thirds of what they should. `local=PerturbAndMAP()` spreads as it should there, and the
    mode of weight 0.71 gets 0.61 (with `covariance="jacobian"` 0.64).

    Args:
        levels: noise levels T.
        kappa1: trust-region scale of the prior; at noise levels above it the data decide. 0 drops
            the prior term: the local solver's early stop is then the only regulariser.
        kappa2: weight of the data misfit, in the misfit's published unit. None gives it the one
            that makes the local covariance `kappa sigma^2`.
        rho: share of fresh noise in a transition: 0 is deterministic (DDIM), 1 renoises fully.
        local: the solver of the local problem; `GradientSteps(K, lr)` is the paper's. Or a sampler,
            `PerturbAndMAP()` (any other of `lmaps_science.solvers.local_posterior`): `z` is drawn
            from the local posterior instead of its maximum, so that samples spread as far as the
            data leave open; at `temperature` 1, and with the covariance that the denoised image
            has in truth (`"prior"`, of a Gaussian prior), they are those of the posterior.
        sigma_max, sigma_min: ends of the noise schedule (EDM, power 7).
        covariance: `"isotropic"`, the paper's `kappa sigma^2 I`; `"prior"`, which uses the
            covariance that comes with the prior, see `LocalProblem`; or `"jacobian"`, the
            denoiser's own `sigma^2 J` (TMPD): exact with `ConjugateGradient()` where J is symmetric
            and at most 1, as for analytic priors (a network's may be neither: on MRI it fails), in
            a Krylov subspace with the other local solvers, see
            `lmaps_science.solvers.local_jacobian`.
        kappa: factor on the local covariance, where kappa2 is None: above 1 the data count more.
        products: vector-Jacobian products of the denoiser that span the subspace.
        temperature: of draws: the variance in units of the local posterior's, 1 being a true draw.
            Below 1 a draw lies nearer to the maximum.
        conditional: the problem's conditional denoiser, which sees the data, is asked instead of
            the prior.

    Example:
        >>> from lmaps_science import sample, toys
        >>> problem = toys.mixture().problem
        >>> sample(problem, LMAPS(levels=10, kappa=2.0), n_samples=2, progress=False).samples.shape
        (2, 1, 1, 2)
    """

    levels: int = 50
    kappa1: float = 1.0
    kappa2: float | None = None
    rho: float = 1.0
    local: LocalSolver | LocalSampler = field(default_factory=LBFGS)
    sigma_max: float = 100.0
    sigma_min: float = 0.1
    covariance: Literal["isotropic", "prior", "jacobian"] = "isotropic"
    kappa: float = 1.0
    products: int = 3
    temperature: float = 1.0
    conditional: bool = False
    search: ClassVar[Space] = {
        "kappa": Range(0.1, 30.0, log=True),
        "rho": Range(0.0, 1.0),
        "sigma_max": Range(0.5, 100.0, log=True),
        "sigma_min": Range(0.003, 0.3, log=True),
    }

    def __post_init__(self) -> None:
        weighted = self.kappa1 > 0 if self.kappa2 is None else self.kappa2 > 0
        if not (self.kappa1 >= 0 and weighted and 0 <= self.rho <= 1):
            raise ValueError(
                f"LMAPS needs kappa1 >= 0, kappa2 > 0 (or None, with kappa1 > 0) and 0 <= rho <= "
                f"1, got kappa1={self.kappa1}, kappa2={self.kappa2}, rho={self.rho}."
            )
        if not self.kappa > 0 or (self.kappa2 is not None and self.kappa != 1):
            raise ValueError(
                f"LMAPS needs kappa > 0, and kappa2 or kappa but not both, got kappa={self.kappa}, "
                f"kappa2={self.kappa2}."
            )
        if self.covariance not in ("isotropic", "prior", "jacobian"):
            raise ValueError(
                f"LMAPS: covariance must be 'isotropic', 'prior' or 'jacobian', got "
                f"{self.covariance!r}."
            )
        usable = (
            not self.conditional
            and self.kappa1 > 0
            and "svd" not in self.local.requires
            and self.products >= 1
        )
        if self.covariance == "jacobian" and not usable:
            raise ValueError(
                f"LMAPS(covariance='jacobian') needs kappa1 > 0, products >= 1, a local solver "
                f"without singular vectors, e.g. ConjugateGradient(), and conditional=False, "
                f"got kappa1={self.kappa1}, products={self.products}, local={self.local!r}."
            )
        self._check_draws()
        super().__post_init__()

    def _check_draws(self) -> None:
        """Refuse a temperature without draws, and draws whose radius is not known."""
        if not self._draws and self.temperature != 1:
            raise ValueError(
                f"LMAPS: temperature={self.temperature} is that of draws, and {self.local!r} finds "
                "the maximum: take a sampler, e.g. local=PerturbAndMAP(), or leave it at 1."
            )
        if self._draws and not (self.temperature > 0 and self.kappa2 is None):
            raise ValueError(
                f"LMAPS with draws needs temperature > 0, and kappa instead of kappa2: the local "
                f"covariance is kappa sigma^2; got temperature={self.temperature}, "
                f"kappa2={self.kappa2}."
            )

    @property
    def _draws(self) -> bool:
        return isinstance(self.local, LocalSampler)

    @property
    def requires(self) -> frozenset[str]:
        """What the local solver needs; the prior's covariance where it is to be used."""
        wants = {"covariance": self.covariance == "prior", "conditional": self.conditional}
        return self.local.requires | {name for name, wanted in wants.items() if wanted}

    @property
    def schedule(self) -> EDM:
        """The noise levels, and 0."""
        return EDM(self.levels, self.sigma_max, self.sigma_min)

    def scored_step(
        self, i: int, state: State, problem: InverseProblem, noise: SampleNoise
    ) -> tuple[State, Callable[[], Tensor]]:
        """One noise level, and J of where it led."""
        sigma, after = float(self.sigmas[i]), float(self.sigmas[i + 1])
        if self.covariance == "jacobian":
            denoised, pull = problem.prior.pullback(state.x, sigma)
            local = self._local_problem(problem, denoised, sigma, pull)
        else:
            denoised = problem.denoised(state.x, sigma, None, self.conditional)
            local = self._local_problem(problem, denoised, sigma)
        w = self._local(local, i, noise)
        z = local.image(w)  # eq. 8a
        x = renoised(state.x, z, sigma, after, self.rho, noise.normal(z, 1, i))  # eq. 8b
        return State(x=x, estimate=z), partial(local, w)

    def _local(self, problem: LocalProblem, i: int, noise: SampleNoise) -> Tensor:
        """The coordinates of the maximum, or of a draw."""
        if not isinstance(self.local, LocalSampler):
            return self.local(problem)
        radius = (self.temperature * self.kappa) ** 0.5 * float(self.sigmas[i])
        target = LocalPosterior.of(problem, radius, self.temperature)
        return self.local(
            target, i / self.levels, lambda like, draw: noise.normal(like, 2, i, draw)
        )

    def _local_problem(
        self,
        problem: InverseProblem,
        denoised: Tensor,
        sigma: float,
        pull: Callable[[Tensor], Tensor] | None = None,
    ) -> LocalProblem:
        kappa2: float | Tensor
        if self.kappa2 is not None:
            kappa2 = self.kappa2
        else:
            kappa2 = self.kappa * self.kappa1**2 / problem.misfit.objective_scale
        weighted = (denoised, problem.misfit, sigma, self.kappa1, kappa2)
        if pull is not None and "linear" in self.local.requires and not self._draws:
            return JacobianProblem(*weighted, pull=pull)
        if pull is not None:
            return KrylovProblem(*weighted, pull=pull, products=self.products)
        covariance = problem.prior.covariance if self.covariance == "prior" else None
        return LocalProblem(*weighted, covariance)

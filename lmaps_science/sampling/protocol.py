"""What the loop takes: an inverse problem, and a solver that steps from one state to the next."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import torch
import xarray as xr
from torch import Tensor

from lmaps_science.arrays import Movable, difference, inner, norm
from lmaps_science.metering import Meter
from lmaps_science.misfit import GaussianMisfit, Misfit
from lmaps_science.noise import SampleNoise, Schedule
from lmaps_science.operators import LinearOperator, Operator, SVDOperator
from lmaps_science.priors.base import Denoiser
from lmaps_science.priors.conditional import ConditionalDenoiser
from lmaps_science.priors.latent import Decoder, split
from lmaps_science.sampling.hint import hint

__all__ = ["InverseProblem", "ScoredSolver", "Solver", "State", "stack", "start"]

ProblemType = TypeVar("ProblemType", bound="InverseProblem")


@dataclass(frozen=True)
class InverseProblem(Movable):
    """What a solver needs to know of the world.

    Attributes:
        prior: the denoiser D(x, sigma) on model space.
        misfit: -log p(y | z) on model space; it owns the data and the operator. A misfit of
            physical images becomes one as `misfit @ decode`: where that is forgotten and the
            shapes are the same, nothing can tell, and the data seem to contradict every image.
        decode: model space to physical space, such as an `Affine`
            map, or the decoder of an autoencoder.
        template: an image (zeros will do) whose dimensions, coordinates, name and attributes the
            reconstructions take; None gives (channel, y, x) in pixels.
        facts: what should be kept with every result: file names, checksums, settings.
        conditional: a denoiser that sees the data, where there is one; solvers with
            `conditional=True` use it. A `priors.ConditionalDenoiser` is told the data of a run when
            that begins, see `hint`.
        keys: of each observation, whole numbers >= 0: with the seed they determine its random
            numbers. Observations of equal keys meet equal noise.
        prepared: what the solver's `prepare` made; set by `sample`.

    Raises:
        ValueError: the shapes do not fit together, or a linear operator is not linear.

    Example:
        >>> from lmaps_science import Affine, GaussianMisfit, from_function
        >>> prior = from_function(lambda x, sigma: x / (1 + sigma**2), (1, 4, 4))
        >>> decode = Affine(0.5, 1.0, (1, 4, 4))  # the prior's [-1, 1] to [0, 1]
        >>> misfit = GaussianMisfit(decode, torch.full((1, 1, 4, 4), 0.5), sigma=0.1)
        >>> sorted(InverseProblem(prior, misfit, decode).provides)
        ['differentiable', 'gaussian', 'linear', 'noise', 'perturbable']
    """

    prior: Denoiser
    misfit: Misfit
    decode: Operator
    template: xr.DataArray | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    conditional: Denoiser | None = None
    keys: tuple[int, ...] = (0,)
    prepared: Any = None

    def __post_init__(self) -> None:
        shapes = {
            "prior": tuple(self.prior.image_shape),
            "misfit": tuple(self.misfit.operator.image_shape),
            "decode": tuple(self.decode.image_shape),
        }
        if self.conditional is not None:
            shapes["conditional"] = tuple(self.conditional.image_shape)
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"{', '.join(shapes)} must share one image shape, got {shapes}. "
                "Build the operator for the prior's image size, e.g. npix=64 for a 64 x 64 prior."
            )
        if len(self.keys) not in (1, self.observations):
            raise ValueError(
                f"{len(self.keys)} keys for {self.observations} observations: give one each."
            )
        _check_linear(self.misfit.operator, self.misfit.like)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.prior.image_shape)

    @property
    def observations(self) -> int:
        """How many observations there are, each with images of its own."""
        return self.misfit.observations

    @property
    def provides(self) -> frozenset[str]:
        """The properties that solvers may require."""
        has = set(self.misfit.operator.provides)
        linear = self.misfit.operator.linear
        if isinstance(self.misfit, GaussianMisfit):
            has.add("gaussian")
        if self.misfit.perturbable:
            has.add("perturbable")
        if linear is not None:
            has.add("linear")
        if isinstance(linear, SVDOperator):
            has.add("svd")
        if self.prior.covariance is not None:
            has.add("covariance")
        if self.conditional is not None:
            has.add("conditional")
        if type(self.misfit).noise_floor is not Misfit.noise_floor:
            has.add("noise")
        if split(self.misfit.operator) is not None:
            has.add("encoder")
        return frozenset(has)

    def gaussian(self) -> GaussianMisfit:
        """The misfit, where its noise is Gaussian; ValueError elsewhere."""
        return self.misfit.gaussian()

    def linear(self) -> LinearOperator:
        """The operator's Jacobian, where it is the same for every image; ValueError elsewhere."""
        return self.misfit.linear()

    def svd(self) -> SVDOperator:
        """The same with its singular vectors, where they are known; ValueError elsewhere."""
        return self.misfit.svd()

    def autoencoder(self) -> tuple[Misfit, Decoder]:
        """The misfit of decoded images, and the decoder, where the prior is one of latents.

        Raises:
            ValueError: it is one of images.
        """
        found = split(self.misfit.operator)
        if found is None:
            raise ValueError(
                "this needs a prior of latents, whose decoder has an encoder, and here is "
                f"{self.misfit.operator!r}. Choose a solver for images, e.g. DPS()."
            )
        operator, decoder = found
        meter = self.misfit.operator._meter
        misfit = copy.copy(self.misfit)
        misfit.operator = operator if meter is None else operator.metered(meter)
        return misfit, decoder

    def like(self, batch: int) -> Tensor:
        """Zeros (B, C, H, W) of the device and dtype in which the misfit works."""
        return self.misfit.like.new_zeros(batch, *self.image_shape)

    # ---------------------------------------------------------------- copies, not checked again

    def with_misfit(self: ProblemType, misfit: Misfit) -> ProblemType:
        """The same problem with another misfit."""
        return self._changed(misfit=misfit)

    def with_facts(self: ProblemType, **facts: Any) -> ProblemType:
        """The same problem, with more to be kept with every result."""
        return self._changed(facts={**self.facts, **facts})

    def with_key(self: ProblemType, key: int) -> ProblemType:
        """The same problem of one observation, with this key for its random numbers."""
        return self._changed(keys=(key,))

    def metered(
        self: ProblemType, meter: Meter, autocast: torch.dtype | None = None
    ) -> ProblemType:
        """The same problem, whose denoisers and operator count their calls in `meter`.

        `autocast` is the dtype in which the denoisers, and they alone, run.
        """
        misfit = copy.copy(self.misfit)
        misfit.operator = misfit.operator.metered(meter)
        conditional = self.conditional
        return self._changed(
            prior=self.prior.metered(meter, autocast),
            misfit=misfit,
            conditional=None if conditional is None else conditional.metered(meter, autocast),
        )

    def select(self: ProblemType, rows: Sequence[int]) -> ProblemType:
        """The problem of a batch whose images belong to these observations."""
        if self.observations == 1:
            return self
        index = torch.as_tensor(rows, device=self.misfit.like.device)
        return self._changed(misfit=self.misfit.select(index))

    def of_particles(self: ProblemType, each: int) -> ProblemType:
        """The problem of `each` particles for every image, those of an image one after the other.

        A call of the denoiser or the operator counts `each` times: that is its cost for a sample.
        """
        if each == 1:
            return self
        changed = self.select([row for row in range(self.observations) for _ in range(each)])
        conditional = self.conditional
        if isinstance(conditional, ConditionalDenoiser) and conditional.hints is not None:
            hints = conditional.hints.repeat_interleave(each, 0)
            changed = changed._changed(conditional=conditional.told(hints))
        meter, autocast = self.prior._meter, self.prior._autocast
        return changed if meter is None else changed.metered(meter.times(each), autocast)

    def prepare(self: ProblemType, solver: Solver) -> ProblemType:
        """The problem with what `solver` wants to know of it beforehand."""
        return self._changed(prepared=solver.prepare(self))

    def told(self: ProblemType, batch: int) -> ProblemType:
        """The problem whose conditional denoiser has seen the data of a batch of B images."""
        conditional = self.conditional
        if not isinstance(conditional, ConditionalDenoiser):
            return self
        return self._changed(conditional=conditional.told(hint(self.misfit, batch)))

    def denoised(
        self, x: Tensor, sigma: float | Tensor, own: Tensor | None, conditional: bool
    ) -> Tensor:
        """The conditional denoiser's image of `x`, or the prior's `own`, where it is known."""
        if conditional:
            assert self.conditional is not None  # solvers require it
            return self.conditional(x, sigma)
        return self.prior(x, sigma) if own is None else own

    def _changed(self: ProblemType, **changes: Any) -> ProblemType:
        changed = copy.copy(self)
        for name, value in changes.items():
            object.__setattr__(changed, name, value)
        return changed


def stack(problems: Sequence[InverseProblem]) -> InverseProblem:
    """Several observations as one problem, to be sampled side by side.

    `sample(stack(problems), solver, n_samples)` gives `n_samples` of each, and
    `result.split()` the results one by one. They must share the prior, the shapes and the map to
    physical space, and have operators that fit in one batch: the same geometry with other data, or
    MRI with maps and masks of its own for each.

    Raises:
        ValueError: they cannot share a batch: which, and why.

    Example:
        >>> from dataclasses import replace
        >>> from lmaps_science import LMAPS, sample, toys
        >>> first = toys.mixture(y=0.1).problem
        >>> second = replace(first, misfit=toys.mixture(y=0.5).problem.misfit)  # other data
        >>> joined = stack([first, second])
        >>> [len(r) for r in sample(joined, LMAPS(levels=3), n_samples=4, progress=False).split()]
        [4, 4]
    """
    if not problems:
        raise ValueError("stack: there is no problem to stack; give one at least.")
    first, found = problems[0], []
    for k, problem in enumerate(problems):
        for part in ("prior", "decode", "conditional"):
            reason = difference(getattr(first, part), getattr(problem, part), part)
            if reason is not None:
                raise ValueError(f"stack: problem {k} differs from problem 0: {reason}.")
        if problem.observations > 1:
            raise ValueError(f"stack: problem {k} holds {problem.observations} observations.")
        found.append(problem.misfit)
    try:
        misfit = type(first.misfit).stack(found)
    except ValueError as error:
        raise ValueError(f"stack: {error}") from error
    same = all(_same_template(first.template, p.template) for p in problems)
    return InverseProblem(
        prior=first.prior,
        misfit=misfit,
        decode=first.decode,
        template=first.template if same else None,
        facts={"observations": [dict(problem.facts) for problem in problems]},
        conditional=first.conditional,
        keys=tuple(key for problem in problems for key in problem.keys),
    )


def _same_template(a: xr.DataArray | None, b: xr.DataArray | None) -> bool:
    return a is b or (a is not None and b is not None and a.identical(b))


def _check_linear(operator: Operator, like: Tensor) -> None:
    """One dot test: Re <v, A x> = Re <A^H v, x>, of a random image and random data."""
    if not isinstance(operator, LinearOperator) or like.device.type == "meta":
        return
    generator = torch.Generator().manual_seed(0)
    shape = (operator.batch or 1, *operator.image_shape)
    x = torch.randn(shape, generator=generator).to(like)
    y = operator(x)
    parts = torch.randn((2, *y.shape), generator=generator).to(like)
    v = torch.complex(*parts) if y.is_complex() else parts[0]
    forward, back = inner(v, y).real.sum(), inner(operator.adjoint(v), x).sum()
    scale = norm(v).square().sum().sqrt() * norm(y).square().sum().sqrt()
    if not bool((forward - back).abs() <= 1e-3 * scale):
        raise ValueError(
            f"{type(operator).__name__} is a LinearOperator, but not linear, or its _adjoint is "
            f"not the adjoint: <v, A x> = {float(forward):.6g} and <A^H v, x> = {float(back):.6g} "
            "for random v and x. Derive it from Operator, or correct _forward (no constant term) "
            "and _adjoint."
        )


@dataclass(frozen=True)
class State(Movable):
    """Where a batch stands: the noisy images, the current estimates, and what else a solver keeps.

    Attributes:
        x: (B, C, H, W) at the noise level that comes next; (B P, C, H, W) for a solver of P
            particles a sample, those of a sample one after the other.
        estimate: (B, C, H, W), the reconstruction so far, in model space.
        extra: further tensors of a solver; they are saved in checkpoints.
    """

    x: Tensor
    estimate: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)


class Solver(ABC):
    """A method: a frozen dataclass of its hyper-parameters.

    A subclass has a `schedule` and writes `step`; where it needs more than a differentiable
    problem it says so in `requires`, and what is the same at every level it makes in `prepare`.
    `init` and `step` are pure: all randomness comes from `noise`, with the level as part of the
    key. A subclass with a `__post_init__` of its own calls this one's, which checks the schedule.

    What `lmaps tune` may vary stands beside the options, as `search: ClassVar[Space]`, see
    `lmaps_science.search`.

    Attributes:
        caution: what the spread of its samples must not be taken for; it goes with every result,
            among its notes and to its figures.

    Example:
        >>> from lmaps_science.solvers import DDRM
        >>> sorted(DDRM.requires), DDRM(levels=4).sigmas.shape  # the last sigma is 0
        (['gaussian', 'svd'], torch.Size([5]))
    """

    caution: ClassVar[str | None] = None

    @property
    def requires(self) -> frozenset[str]:
        """What the problem must provide.

        Of `differentiable`, `gaussian`, `perturbable` (its data, by noise as they have it),
        `linear`, `svd`, `covariance` (the prior's), `noise` (the misfit says what noise leaves of
        it), `conditional` (a denoiser that sees the data), `encoder` (the prior is of latents) and
        what operators add by their `provides`, such as `multi-frequency`.
        """
        return frozenset({"differentiable"})

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                kind = type(self).__name__
                raise ValueError(f"{kind} needs finite numbers, got {name}={value}.")
        self.schedule  # noqa: B018 (it refuses what it cannot make)

    @property
    @abstractmethod
    def schedule(self) -> Schedule:
        """The noise schedule."""

    @cached_property
    def sigmas(self) -> Tensor:
        """The noise levels, T + 1, the last 0."""
        return self.schedule.sigmas

    @property
    def network_calls(self) -> int | None:
        """Denoiser calls of a sample, a vector-Jacobian product counted as two more.

        None: they grow by as many with each level, and a comparison at equal cost counts those of
        the first two. Where a level's calls depend on its place, a subclass says how many there
        are.
        """
        return None

    def width(self, i: int) -> int:
        """How many images a sample has before level i: 1, or the number of its particles."""
        return 1

    def prepare(self, problem: InverseProblem) -> Any:
        """What is the same at every level; `init` and `step` find it in `problem.prepared`."""
        return None

    def init(self, problem: InverseProblem, noise: SampleNoise) -> State:
        """The state before the first level: pure noise."""
        return start(problem, noise, self.sigmas[0])

    @abstractmethod
    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        """The state after level i, at noise level i + 1."""


class ScoredSolver(Solver):
    """A method that solves a local problem at each level, and can tell how well that went."""

    @abstractmethod
    def scored_step(
        self, i: int, state: State, problem: InverseProblem, noise: SampleNoise
    ) -> tuple[State, Callable[[], Tensor]]:
        """The state after level i, and what gives the local objective (B,) of its estimates.

        The objective ranks images of one sample at one level: up to a factor that they share,
        -log of the local posterior. It may cost a call of the operator, so it is made on demand.
        """

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        """The state after level i, at noise level i + 1."""
        return self.scored_step(i, state, problem, noise)[0]


def start(problem: InverseProblem, noise: SampleNoise, sigma: float | Tensor) -> State:
    """`x = sigma n` (B, C, H, W), the start of every solver that begins at pure noise."""
    like = problem.like(len(noise.samples))
    return State(x=float(sigma) * noise.normal(like, 0), estimate=like)

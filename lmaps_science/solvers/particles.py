r"""What methods of several particles a sample share: which of them go on, and filters of them.

The particles of a sample are rows of the batch, one after the other: (B P, C, H, W).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lmaps_science.noise import VP, SampleNoise, ancestral
from lmaps_science.sampling import InverseProblem, Solver, State
from lmaps_science.search import Space
from lmaps_science.solvers.spectral import Spectrum, spectrum

__all__ = ["Move", "ParticleFilter", "best", "fuse", "resample", "rows"]


def rows(chosen: Tensor, each: int) -> Tensor:
    """Rows (B K,) of particles `chosen` (B, K) of a batch that has `each` particles a sample."""
    first = each * torch.arange(len(chosen), device=chosen.device)
    return (first[:, None] + chosen).flatten()


def best(objective: Tensor, count: int) -> Tensor:
    """The `count` particles of the lowest objective (B, P), the lowest first: (B, count)."""
    return torch.argsort(objective, dim=1, stable=True)[:, :count]


def resample(log_weights: Tensor, uniform: Tensor) -> Tensor:
    r"""As many particles as there are, (B, P), each as often as its weight says; systematic.

    Particle j of the new ones is the one at `(u + j / P) mod 1` of the cumulated weights, with one
    `uniform` number u in (0, 1) a sample, (B,): the first is a draw by the weights, the others are
    spread evenly.
    """
    count = log_weights.shape[1]
    steps = torch.arange(count, device=uniform.device, dtype=uniform.dtype) / count
    places = (uniform[:, None] + steps) % 1
    cumulated = log_weights.softmax(1).cumsum(1)
    return (places[:, :, None] > cumulated[:, None]).sum(2).clamp_max(count - 1)


# ---------------------------------------------------------------- filters of linear problems


class Move(NamedTuple):
    """How particles go to the next level, coefficient by coefficient, each (B P, r).

    Attributes:
        log_weight: how well the data fit where a particle stands, up to what particles share.
        mean, deviation: of the normal distribution from which the next coefficient is drawn.
    """

    log_weight: Tensor
    mean: Tensor
    deviation: Tensor


def fuse(mean: Tensor, spread: Tensor | float, datum: Tensor, variance: Tensor) -> Move:
    r"""The prior `N(mean, spread^2)` and a datum of a `variance`: their product and its integral.

    Where the variance is infinite there is no datum.
    """
    total = torch.where(torch.isfinite(variance), spread**2 + variance, 1)
    gain = torch.where(torch.isfinite(variance), spread**2 / total, 0)
    miss = torch.where(torch.isfinite(variance), (datum - mean).abs(), 0)
    deviation = spread * (1 - gain).clamp_min(0).sqrt()
    return Move(-0.5 * miss**2 / total, mean + gain * (datum - mean), deviation)


class Prepared(NamedTuple):
    """Of a filter: the problem of all particles, and its data in singular coordinates."""

    problem: InverseProblem
    data: Spectrum


@dataclass(frozen=True)
class ParticleFilter(Solver):
    r"""Sequential Monte Carlo for linear problems with white noise, in singular coordinates.

    Every level weighs the particles of a sample by what the data say of where they stand, draws as
    many anew by their weights, and takes the prior's ancestral step with the data in it. What does
    both is the method's, `move`; coefficients without data are the prior's. The last level denoises
    and draws the coefficients whose data are more precise than its noise around those. The estimate
    of a sample is that of its first particle, a draw by the weights.

    Args:
        levels: noise levels T.
        particles: P a sample. All of them pass the denoiser at every level.
        time_min: end of the variance-preserving schedule with linear beta.
    """

    levels: int = 100
    particles: int = 16
    time_min: float = 1e-3
    search: ClassVar[Space] = {}
    requires = frozenset({"gaussian", "svd"})

    def __post_init__(self) -> None:
        if self.particles < 1:
            name = type(self).__name__
            raise ValueError(
                f"{name} needs particles >= 1, got {self.particles}. Example: {name}(particles=16)."
            )
        super().__post_init__()

    @property
    def schedule(self) -> VP:
        return VP(self.levels, time_min=self.time_min)

    def width(self, i: int) -> int:
        return self.particles

    def prepare(self, problem: InverseProblem) -> Prepared:
        many = problem.of_particles(self.particles)
        return Prepared(many, spectrum(many))

    @abstractmethod
    def begin(self, data: Spectrum, noise: Tensor) -> tuple[Move, Mapping[str, Tensor]]:
        """The distribution of the first coefficients, and what the method keeps.

        Args:
            data: what was measured.
            noise: coefficients (B P, r) of a noise image a sample, of unit variance.
        """

    @abstractmethod
    def move(
        self, i: int, x: Tensor, denoised: Tensor, data: Spectrum, state: State, noise: Tensor
    ) -> tuple[Move, Mapping[str, Tensor]]:
        """From level i to the next, which is above 0, and what the method keeps.

        Args:
            i: the level.
            x, denoised: coefficients of the particles and of their denoised images, (B P, r).
            data: what was measured.
            state: what was kept is in its `extra`.
            noise: as in `begin`.
        """

    def init(self, problem: InverseProblem, noise: SampleNoise) -> State:
        """Noise that agrees with the data."""
        many = noise.of_particles(self.particles)
        (whole, data), like = problem.prepared, problem.like(len(many.samples))
        fresh = many.normal(like, 0)
        move, kept = self.begin(data, self._shared(data, whole, noise, 0))
        x = _put(float(self.sigmas[0]) * fresh, move, fresh, data)
        return State(x, like[:: self.particles], kept)

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        """One level: weigh, draw anew, step."""
        (whole, data), many = problem.prepared, noise.of_particles(self.particles)
        sigma, after = self.sigmas[i], self.sigmas[i + 1]
        denoised = whole.prior(state.x, float(sigma))
        x, d = data.operator.Vt(state.x), data.operator.Vt(denoised)
        if after == 0:
            precise = data.noise < sigma
            move = fuse(d, float(sigma), data.data, data.noise**2)
            mean = torch.where(precise, move.mean, d)
            deviation = torch.where(precise, move.deviation, 0)
            z = _put(denoised, Move(mean, mean, deviation), many.normal(denoised, 1, i), data)
            return State(z, z[:: self.particles])
        move, kept = self.move(i, x, d, data, state, self._shared(data, whole, noise, i + 1))
        mean, spread = ancestral(state.x, denoised, sigma, after)
        weights = move.log_weight.sum(1).reshape(-1, self.particles)
        uniform = torch.special.ndtr(noise.normal(weights[:, 0], 2, i))
        going = rows(resample(weights, uniform), self.particles)
        fresh = many.normal(mean, 1, i)
        drawn = Move(*(part.expand(x.shape)[going] for part in move))
        x_next = _put(mean[going] + spread * fresh, drawn, fresh, data)
        return State(x_next, denoised[going][:: self.particles], kept)

    def _shared(self, data: Spectrum, many: InverseProblem, noise: SampleNoise, k: int) -> Tensor:
        """Coefficients of a noise image that the particles of a sample share, (B P, r)."""
        image = noise.normal(many.like(len(noise.samples)), 3, k)
        return data.operator.Vt(image.repeat_interleave(self.particles, 0))


def _put(x: Tensor, move: Move, fresh: Tensor, data: Spectrum) -> Tensor:
    """Images x with coefficients drawn from a move, by the noise that is in them already."""
    drawn: Any = move.mean + move.deviation * data.operator.Vt(fresh)
    return x + data.operator.V(drawn - data.operator.Vt(x))

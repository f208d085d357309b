r"""Noise schedules, and random numbers that belong to a sample rather than to a batch.

Everything is in noise-level (EDM) notation: `x_sigma = x_0 + sigma n`. A variance-preserving
model, `x_t = alpha_t x_0 + s_t n` with `alpha_t^2 + s_t^2 = 1`, is the same at
`sigma = s_t / alpha_t` on `x_t / alpha_t`.

Sources: Karras et al. 2022 (EDM), Table 1; Song et al. 2021 (VE and VP).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "EDM",
    "VE",
    "VP",
    "Constant",
    "SampleNoise",
    "Schedule",
    "ancestral",
    "ancestral_spread",
    "renoised",
    "vp_alpha",
]

NoiseType = TypeVar("NoiseType", bound="SampleNoise")


class Schedule(ABC):
    """A noise schedule: noise levels that do not rise, and 0.

    Sub-classes are frozen dataclasses that refuse what they cannot make.
    """

    levels: int

    @property
    @abstractmethod
    def sigmas(self) -> Tensor:
        """float64 tensor of `levels + 1` noise levels that do not rise; the last is 0."""

    def _check(self, low: float, high: float) -> None:
        name = type(self).__name__
        if self.levels < 1 or not 0 < low < high or not math.isfinite(high):
            raise ValueError(
                f"{name} needs levels >= 1 and ends 0 < lowest < highest, got levels="
                f"{self.levels}, lowest={low}, highest={high}. Example: {name}(50)."
            )


@dataclass(frozen=True)
class EDM(Schedule):
    r"""EDM's schedule: equal steps in `sigma^(1/power)`. One level is `sigma_max`.

    .. math:: \sigma_i = \left(\sigma_{max}^{1/p} + \tfrac{i}{T-1}
              (\sigma_{min}^{1/p} - \sigma_{max}^{1/p})\right)^p

    Source: Karras et al. 2022, eq. 5.

    Example:
        >>> EDM(3, sigma_max=10.0, sigma_min=0.01).sigmas.round(decimals=3)
        tensor([10.0000,  0.7180,  0.0100,  0.0000], dtype=torch.float64)
    """

    levels: int
    sigma_max: float = 100.0
    sigma_min: float = 0.1
    power: float = 7.0

    def __post_init__(self) -> None:
        self._check(self.sigma_min, self.sigma_max)

    @property
    def sigmas(self) -> Tensor:
        ramp = torch.linspace(0, 1, self.levels, dtype=torch.float64)
        top, bottom = self.sigma_max ** (1 / self.power), self.sigma_min ** (1 / self.power)
        return _with_zero((top + ramp * (bottom - top)) ** self.power)


@dataclass(frozen=True)
class VE(Schedule):
    """Variance exploding: a geometric sequence of noise levels.

    Example:
        >>> VE(3, sigma_max=10.0, sigma_min=0.1).sigmas.round(decimals=3)
        tensor([10.0000,  1.0000,  0.1000,  0.0000], dtype=torch.float64)
    """

    levels: int
    sigma_max: float = 100.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        self._check(self.sigma_min, self.sigma_max)

    @property
    def sigmas(self) -> Tensor:
        ends = math.log(self.sigma_max), math.log(self.sigma_min)
        return _with_zero(torch.linspace(*ends, self.levels, dtype=torch.float64).exp())


@dataclass(frozen=True)
class VP(Schedule):
    r"""Variance preserving with linear beta, equal steps in time from 1 to `time_min`.

    .. math:: \sigma(t) = \sqrt{\exp(\tfrac12 \beta_{range} t^2 + \beta_{min} t) - 1}

    Source: Song et al. 2021, eq. 29, in the notation of Karras et al. 2022, Table 1.

    Example:
        >>> VP(3).sigmas.shape  # levels, and 0
        torch.Size([4])
    """

    levels: int
    beta_min: float = 0.1
    beta_range: float = 19.9
    time_min: float = 1e-3

    def __post_init__(self) -> None:
        self._check(self.time_min, 1.0)

    @property
    def sigmas(self) -> Tensor:
        t = torch.linspace(1.0, self.time_min, self.levels, dtype=torch.float64)
        return _with_zero(torch.expm1(0.5 * self.beta_range * t**2 + self.beta_min * t).sqrt())


@dataclass(frozen=True)
class Constant(Schedule):
    """Rounds at one noise level, of methods that stay where they begin."""

    levels: int
    sigma: float

    def __post_init__(self) -> None:
        if self.levels < 1 or not 0 < self.sigma < math.inf:
            raise ValueError(f"Constant needs levels >= 1 and a finite sigma > 0, got {self!r}.")

    @property
    def sigmas(self) -> Tensor:
        return _with_zero(torch.full((self.levels,), self.sigma, dtype=torch.float64))


def vp_alpha(sigma: Tensor) -> Tensor:
    """The signal scale `alpha = 1 / sqrt(1 + sigma^2)` of the VP state, like the noise level."""
    return (1 + sigma**2).rsqrt()


def _with_zero(sigma: Tensor) -> Tensor:
    return torch.cat([sigma, sigma.new_zeros(1)])


@dataclass(frozen=True)
class SampleNoise:
    """Standard normal numbers, each a function of (seed, observation, sample, particle, key) alone.

    A sample therefore sees the same noise alone, in a batch, or in a resumed run; there is no
    generator state to save. Numbers are drawn on the CPU, so that they agree on every device.

    Args:
        seed: the run's seed, any integer >= 0 (0 is a seed like any other).
        samples: the index of each image of the batch among the samples of its observation.
        observations: the key of each image's observation, see `InverseProblem.keys`; 0 if not
            given.
        particles: the index of each image among the particles of its sample, see `of_particles`;
            0 if not given.

    Example:
        >>> like = torch.zeros(2, 1, 4, 4)
        >>> both, one = SampleNoise(0, (0, 1)), SampleNoise(0, (1,))
        >>> torch.equal(both.normal(like, 3)[1:], one.normal(like[1:], 3))
        True
    """

    seed: int
    samples: tuple[int, ...]
    observations: tuple[int, ...] = ()
    particles: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        whole = isinstance(self.seed, (int, np.integer)) and not isinstance(self.seed, bool)
        if not whole or self.seed < 0 or min((*self.samples, *self.observations), default=0) < 0:
            raise ValueError(
                f"SampleNoise needs a whole seed >= 0 and sample indices >= 0, got seed="
                f"{self.seed!r}, samples={self.samples}, observations={self.observations}. "
                "Example: SampleNoise(0, (0, 1))."
            )
        if self.observations and len(self.observations) != len(self.samples):
            raise ValueError(
                f"SampleNoise: {len(self.samples)} samples of {len(self.observations)} "
                "observations; give the observation of each sample, or none."
            )

    def normal(self, like: Tensor, *key: int) -> Tensor:
        """Noise of the shape, dtype and device of `like` (B, ...), one draw for each `key`.

        Use a key once: the same key gives the same numbers again.

        Raises:
            ValueError: the batch is not that of the samples.
        """
        if len(like) != len(self.samples):
            raise ValueError(
                f"SampleNoise for {len(self.samples)} samples was asked for noise of batch "
                f"{len(like)}; make it with one index for each image of the batch."
            )
        none = (0,) * len(self.samples)
        owners = zip(self.observations or none, self.samples, self.particles or none, strict=True)
        draws = [
            torch.randn(like.shape[1:], dtype=like.dtype, generator=self._generator(*owner, key))
            for owner in owners
        ]
        return torch.stack(draws).to(like.device)

    def of_particles(self: NoiseType, each: int) -> NoiseType:
        """The noise of `each` particles of every image, those of an image one after the other.

        The first has the numbers of the image itself.
        """
        return replace(
            self,
            samples=tuple(k for k in self.samples for _ in range(each)),
            observations=tuple(k for k in self.observations for _ in range(each)),
            particles=tuple(range(each)) * len(self.samples),
        )

    def _generator(
        self, observation: int, sample: int, particle: int, key: tuple[int, ...]
    ) -> torch.Generator:
        # A spawn key: as plain entropy, (0,) and (0, 0) would give the same numbers.
        entropy: int | list[int] = [int(self.seed), observation] if observation else int(self.seed)
        if particle:
            entropy = [int(self.seed), observation, particle]
        sequence = np.random.SeedSequence(entropy, spawn_key=(sample, *key))
        words: Any = sequence.generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(words[0]) >> 1)


# ---------------------------------------------------------------- from one level to the next


def ancestral_spread(sigma: float | Tensor, after: float | Tensor) -> float:
    """The deviation of the prior's own step, `s_i` of `ancestral`; levels are of shape ()."""
    return float(after) * (1 - float(after / sigma) ** 2) ** 0.5


def ancestral(
    x: Tensor, denoised: Tensor, sigma: float | Tensor, after: float | Tensor
) -> tuple[Tensor, float]:
    r"""The prior's own step, `p(x_{i+1} | x_i) = N(mu_i, s_i^2 I)`, from x (B, ...): mu_i and s_i.

    .. math:: \mu_i = D + \frac{\sigma_{i+1}^2}{\sigma_i^2} (x_i - D), \quad
        s_i^2 = \frac{\sigma_{i+1}^2 (\sigma_i^2 - \sigma_{i+1}^2)}{\sigma_i^2}
    """
    shrink = float(after / sigma) ** 2
    return denoised + shrink * (x - denoised), ancestral_spread(sigma, after)


def renoised(
    x: Tensor, z: Tensor, sigma: float, after: float, fresh: float, normal: Tensor
) -> Tensor:
    r"""From the estimate z of x (B, ...) to the next level, `fresh` being the share of new noise.

    .. math:: z + \sigma_{i+1} \left(\sqrt{1 - \rho^2} \frac{x - z}{\sigma_i} + \rho n\right)
    """
    kept = (1 - fresh**2) ** 0.5 * (x - z) / sigma
    return z + after * (kept + fresh * normal)

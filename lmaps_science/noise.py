r"""Noise schedules, and random numbers that belong to a sample rather than to a batch.

Everything is in noise-level (EDM) notation: ``x_sigma = x_0 + sigma n``. A variance-preserving
model, ``x_t = alpha_t x_0 + s_t n`` with ``alpha_t^2 + s_t^2 = 1``, is the same at
``sigma = s_t / alpha_t`` on ``x_t / alpha_t``.

Sources: Karras et al. 2022 (EDM), Table 1; Song et al. 2021 (VE and VP).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["SampleNoise", "edm_schedule", "ve_schedule", "vp_alpha", "vp_schedule"]


def _checked(name: str, levels: int, low: float, high: float) -> None:
    if levels < 1 or not 0 < low < high or not math.isfinite(high):
        raise ValueError(
            f"{name} needs levels >= 1 and ends 0 < lowest < highest, got levels={levels}, "
            f"lowest={low}, highest={high}. Example: {name}(50)."
        )


def edm_schedule(
    levels: int, sigma_max: float = 100.0, sigma_min: float = 0.1, power: float = 7.0
) -> Tensor:
    r"""EDM's schedule: equal steps in ``sigma^(1/power)``, then 0. One level is ``sigma_max``.

    .. math:: \sigma_i = \left(\sigma_{max}^{1/p} + \tfrac{i}{T-1}
              (\sigma_{min}^{1/p} - \sigma_{max}^{1/p})\right)^p

    Returns:
        float64 tensor of ``levels + 1`` decreasing noise levels; the last is 0.

    Source: Karras et al. 2022, eq. 5.
    """
    _checked("edm_schedule", levels, sigma_min, sigma_max)
    ramp = torch.linspace(0, 1, levels, dtype=torch.float64)
    top, bottom = sigma_max ** (1 / power), sigma_min ** (1 / power)
    return _with_zero((top + ramp * (bottom - top)) ** power)


def ve_schedule(levels: int, sigma_max: float = 100.0, sigma_min: float = 0.01) -> Tensor:
    """Variance exploding: a geometric sequence of noise levels, then 0. Same shape as EDM's."""
    _checked("ve_schedule", levels, sigma_min, sigma_max)
    ramp = torch.linspace(math.log(sigma_max), math.log(sigma_min), levels, dtype=torch.float64)
    return _with_zero(ramp.exp())


def vp_schedule(
    levels: int, beta_min: float = 0.1, beta_range: float = 19.9, time_min: float = 1e-3
) -> Tensor:
    r"""Variance preserving with linear beta, equal steps in time from 1 to ``time_min``, then 0.

    .. math:: \sigma(t) = \sqrt{\exp(\tfrac12 \beta_{range} t^2 + \beta_{min} t) - 1}

    Source: Song et al. 2021, eq. 29, in the notation of Karras et al. 2022, Table 1.
    """
    _checked("vp_schedule", levels, time_min, 1.0)
    t = torch.linspace(1.0, time_min, levels, dtype=torch.float64)
    return _with_zero(torch.expm1(0.5 * beta_range * t**2 + beta_min * t).sqrt())


def vp_alpha(sigma: Tensor) -> Tensor:
    """The signal scale ``alpha = 1 / sqrt(1 + sigma^2)`` of the VP state at noise level sigma."""
    return (1 + sigma**2).rsqrt()


def _with_zero(sigma: Tensor) -> Tensor:
    return torch.cat([sigma, sigma.new_zeros(1)])


@dataclass(frozen=True)
class SampleNoise:
    """Standard normal numbers, each a function of (seed, sample, key) and of nothing else.

    A sample therefore sees the same noise alone, in a batch, or in a resumed run; there is no
    generator state to save. Numbers are drawn on the CPU, so that they agree on every device.

    Args:
        seed: the run's seed, any integer >= 0 (0 is a seed like any other).
        samples: the index in the run of each image in the batch.
    """

    seed: int
    samples: tuple[int, ...]

    def __post_init__(self) -> None:
        whole = isinstance(self.seed, (int, np.integer)) and not isinstance(self.seed, bool)
        if not whole or self.seed < 0 or any(k < 0 for k in self.samples):
            raise ValueError(
                f"SampleNoise needs a whole seed >= 0 and sample indices >= 0, got seed="
                f"{self.seed!r}, samples={self.samples}. Example: SampleNoise(0, (0, 1))."
            )

    def normal(self, like: Tensor, *key: int) -> Tensor:
        """Noise of the shape, dtype and device of ``like`` (B, ...), one draw for each ``key``.

        Use a key once: the same key gives the same numbers again.
        """
        if len(like) != len(self.samples):
            raise ValueError(
                f"SampleNoise for {len(self.samples)} samples was asked for noise of batch "
                f"{len(like)}; make it with one index for each image of the batch."
            )
        draws = [
            torch.randn(like.shape[1:], dtype=like.dtype, generator=self._generator(k, key))
            for k in self.samples
        ]
        return torch.stack(draws).to(like.device)

    def _generator(self, sample: int, key: tuple[int, ...]) -> torch.Generator:
        # A spawn key: as plain entropy, (0,) and (0, 0) would give the same numbers.
        sequence = np.random.SeedSequence(int(self.seed), spawn_key=(sample, *key))
        words: Any = sequence.generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(words[0]) >> 1)

"""Samples of a prior, without data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lmaps_science.io.files import atomic_write, require_parent
from lmaps_science.noise import EDM, SampleNoise
from lmaps_science.priors.networks import NetworkDenoiser

__all__ = ["draw", "sample_sheet"]


@torch.no_grad()
def draw(
    denoiser: Callable[[Tensor, Tensor], Tensor], x: Tensor, schedule: Tensor | None = None
) -> Tensor:
    """Samples of the prior from `x` ~ N(0, I) (B, C, H, W): Heun's method on EDM's ODE.

    Source: Karras et al. 2022, algorithm 1.
    """
    sigmas = (EDM(32, 80.0, 0.01).sigmas if schedule is None else schedule).to(x)
    x = x * sigmas[0]
    for now, after in itertools.pairwise(sigmas):
        slope = (x - denoiser(x, now)) / now
        ahead = x + (after - now) * slope
        if after > 0:
            slope = 0.5 * (slope + (ahead - denoiser(ahead, after)) / after)
        x = x + (after - now) * slope
    return x


def sample_sheet(
    denoiser: NetworkDenoiser,
    path: Path,
    count: int = 32,
    seed: int = 0,
    decode: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """A picture of `count` samples of the prior, magnitudes where there are two channels.

    `decode` makes images of the samples (B, C, H, W) of a prior of latents.
    """
    from matplotlib.figure import Figure

    require_parent(path)  # before the work
    like = torch.zeros(count, *denoiser.image_shape, device=denoiser.device)
    samples = draw(denoiser, SampleNoise(seed, tuple(range(count))).normal(like, 0))
    if decode is not None:
        with torch.no_grad():
            samples = torch.cat([decode(part) for part in samples.split(8)])
    shown = samples.norm(dim=1) if samples.shape[1] == 2 else samples[:, 0]
    low, high = (0.0, None) if samples.shape[1] == 2 else denoiser.value_range
    figure = Figure(figsize=(12, 1.5 * math.ceil(count / 8)))
    for k, axis in enumerate(np.atleast_1d(figure.subplots(math.ceil(count / 8), 8)).flat):
        axis.set_axis_off()
        if k < count:
            axis.imshow(shown[k].cpu().numpy(), cmap="afmhot", vmin=low, vmax=high)
    figure.tight_layout(pad=0.2)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)

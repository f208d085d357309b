r"""Which explanations of the data did the samples find, and which is the more probable?

Closure quantities do not determine an image: different images can fit them equally well. Samples
are therefore grouped by likeness, and ranked by an estimate of their negative log posterior,

.. math:: E(z) = L(z) + R(z), \qquad
          R(z) = \int \frac{\mathbb{E}_n ||D(z + \sigma n, \sigma) - z||^2}{\sigma^2} \, d\ln\sigma

where ``L`` is the data misfit and ``R`` the denoiser's own loss: up to a constant, the evidence
lower bound on ``-log p(z)`` that diffusion training optimises.

Source: Kingma et al. 2021 (variational diffusion models), eq. 15, in noise-level notation; the
clustering is average linkage (Sokal and Michener 1958).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmaps_science.metrics import blur, nxcorr
from lmaps_science.noise import SampleNoise
from lmaps_science.priors.base import Denoiser

__all__ = ["Modes", "find_modes", "prior_energy"]


class Modes(NamedTuple):
    """Attributes: ``labels`` (n,), 0 for the most probable mode; ``energies`` (n,), E of each."""

    labels: np.ndarray
    energies: np.ndarray

    @property
    def best(self) -> int:
        """The sample of the lowest energy."""
        return int(self.energies.argmin())


@torch.no_grad()
def prior_energy(
    prior: Denoiser,
    images: Tensor,
    *,
    sigma_min: float = 0.05,
    sigma_max: float = 20.0,
    draws: int = 32,
    seed: int = 0,
) -> Tensor:
    """``R(z)`` of images (n, C, H, W) in model space, shape (n,), in nats up to a constant.

    The integral is a stratified sum over ``draws`` noise levels, with the same noise for every
    image, so that differences between images are far more precise than the values.
    """
    low, high = math.log(sigma_min), math.log(sigma_max)
    total = torch.zeros(len(images), dtype=images.dtype, device=images.device)
    for k in range(draws):
        sigma = math.exp(low + (k + 0.5) / draws * (high - low))
        noise = SampleNoise(seed, (0,)).normal(images[:1], 2, k)
        error = prior(images + sigma * noise, sigma) - images
        total += error.square().flatten(1).sum(1) / sigma**2
    return total * (high - low) / draws


def find_modes(
    images: np.ndarray,
    energies: np.ndarray,
    *,
    likeness: float = 0.9,
    blur_pixels: float = 8.0,
) -> Modes:
    """Group images (n, H, W) whose blurred cross-correlation is at least ``likeness``.

    Position and scale do not count (see :func:`lmaps_science.metrics.nxcorr`); ``blur_pixels`` is
    the FWHM of the blur, best the nominal resolution. Modes are numbered by their lowest energy.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    n = len(images)
    if n != len(energies) or not np.isfinite(energies).all():
        raise ValueError(
            f"find_modes: expected one finite energy for each of {n} images, got {energies!r}."
        )
    if n == 1:
        return Modes(np.zeros(1, dtype=np.int64), energies)
    smooth = blur(images, blur_pixels)
    rows, columns = np.triu_indices(n, 1)
    distance = 1 - nxcorr(smooth[rows], smooth[columns]).cpu().double().numpy()
    tree = linkage(np.clip(distance, 0, None), "average")
    groups = fcluster(tree, 1 - likeness, "distance")
    lowest = {g: energies[groups == g].min() for g in np.unique(groups)}
    number = {g: k for k, g in enumerate(sorted(lowest, key=lowest.__getitem__))}
    return Modes(np.array([number[g] for g in groups], dtype=np.int64), energies)

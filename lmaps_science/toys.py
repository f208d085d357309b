r"""Two bimodal problems small enough that all about them is known.

Both have a mixture prior, linear data with Gaussian noise, and a posterior that is a mixture of two
Gaussians, so that what a method makes of two modes can be counted.

Sources: LMAPS, appendix A and figure 3; Xu et al. 2025 (DMAP), appendix A.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lmaps_science.misfit import GaussianMisfit
from lmaps_science.noise import EDM, SampleNoise, renoised
from lmaps_science.operators import Affine, SVDOperator
from lmaps_science.priors.analytic import GaussianMixturePrior
from lmaps_science.priors.mixture import MixtureDenoiser, mixture_posterior
from lmaps_science.sampling import InverseProblem, Solver, State

__all__ = ["MixtureDDIM", "Toy", "between_modes", "component_shares", "inpainting", "mixture"]


class Matrix(SVDOperator):
    """y = A x of flattened images: `matrix` (m, d), real, and its singular vectors."""

    def __init__(self, matrix: Tensor, image_shape: tuple[int, ...]) -> None:
        self.matrix = matrix
        self.image_shape, self.data_shape = image_shape, (len(matrix),)
        self.left, self.singular_values, self.right = torch.linalg.svd(matrix, full_matrices=False)

    def _forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T

    def _adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix).reshape(-1, *self.image_shape)

    def _Vt(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.right.T

    def _V(self, c: Tensor) -> Tensor:
        return (c @ self.right).reshape(-1, *self.image_shape)

    def _Ut(self, y: Tensor) -> Tensor:
        return y @ self.left

    def _U(self, c: Tensor) -> Tensor:
        return c @ self.left.T


@dataclass(frozen=True)
class Toy:
    """A problem and its exact posterior.

    Attributes:
        problem: prior, data and noise; images of shape (1, 1, d).
        posterior: p(x0 | y), a mixture with weights, means and a score at every noise level.
    """

    problem: InverseProblem
    posterior: MixtureDenoiser


def mixture(
    pixels: int = 2,
    distance: float = 2.0,
    scale: float = 0.2,
    y: float = 0.1,
    sigma_y: float = 1.0,
) -> Toy:
    """Two equal components on the diagonal, seen through the mean of all pixels (appendix A).

    Args:
        pixels: d; the offsets of the two means from 0 are `distance / 2` along (1, ..., 1).
        distance: between the means.
        scale: standard deviation of a component, in each pixel.
        y: the datum: `sqrt(d)` times the mean pixel, plus noise.
        sigma_y: of the noise. Where it is small against `distance`, one mode is left.
    """
    diagonal = torch.ones(1, 1, 1, pixels, dtype=torch.float64) / pixels**0.5
    means = torch.cat([diagonal, -diagonal]) * distance / 2
    return _toy(means, scale, diagonal.reshape(1, pixels), [y], sigma_y)


def inpainting(y: float = 0.5, scale: float = 0.3, sigma_y: float = 1.0) -> Toy:
    """Two pixels of which the first is measured; components at (-1, -1) and (1, 1) (A.4).

    The paper gives y = 0.5 and the scale 0.3 and leaves the noise open: 1 makes the posterior
    bimodal, with weights of 0.71 and 0.29.
    """
    means = torch.ones(2, 1, 1, 2, dtype=torch.float64)
    means[1] = -1.0
    return _toy(means, scale, torch.tensor([[1.0, 0.0]], dtype=torch.float64), [y], sigma_y)


def _toy(means: Tensor, scale: float, matrix: Tensor, y: list[float], sigma_y: float) -> Toy:
    shape = (means.shape[1], means.shape[2], means.shape[3])
    scales = torch.full((len(means),), scale, dtype=means.dtype)
    prior = GaussianMixturePrior(torch.ones_like(scales), means, scales)
    data = torch.tensor(y, dtype=means.dtype)
    posterior = mixture_posterior(prior, matrix, data, sigma_y)
    misfit = GaussianMisfit(Matrix(matrix, shape), data[None], sigma_y)
    problem = InverseProblem(prior, misfit, Affine(1.0, 0.0, shape), conditional=posterior)
    return Toy(problem, posterior)


def between_modes(images: Tensor, exact: MixtureDenoiser, level: float = 0.99) -> Tensor:
    r"""Which images (B, C, H, W) belong to no mode, (B,), bool.

    A mode is the region of a component that holds the share `level` of it, an ellipsoid. Of exact
    draws the share outside all of them is at most `1 - level`.

    .. math:: \min_k (x - \nu_k)^T C_k^{-1} (x - \nu_k) > \chi^2_d(level)
    """
    from scipy.stats import chi2

    limit = float(chi2.ppf(level, exact.means[0].numel()))
    return exact.distance(images).amin(1) > limit


def component_shares(images: Tensor, exact: MixtureDenoiser) -> Tensor:
    """The share of images nearest to each component, (K,); of exact draws about its weights."""
    nearest = exact.distance(images).argmin(1)
    return torch.bincount(nearest, minlength=len(exact.means)) / len(images)


@dataclass(frozen=True)
class MixtureDDIM(Solver):
    r"""DDIM with another estimate in place of the denoised image (LMAPS, eq. 29-31).

    .. math:: x \leftarrow z + \sigma_{i+1} \left(\sqrt{1 - \rho^2} \frac{x - z}{\sigma_i}
        + \rho n\right), \quad z \in \{\text{mean}, \text{local MAP}, \text{draw}\}
        \text{ of } p(x_0 | x, y)

    It needs the exact posterior as `problem.conditional`, which the toys have. With the mean and
    rho = 0 this is the probability flow and gives exact samples, in the limit of many levels; the
    draw with rho = 1 does so at any number of levels. The local MAP seeks modes: nothing stays
    between them, and the heavier one gets more than its weight.

    Args:
        estimate: what takes the denoised image's place.
        levels: noise levels T.
        rho: share of fresh noise.
        sigma_max, sigma_min: ends of the noise schedule (EDM, power 7).
    """

    estimate: Literal["mean", "map", "draw"] = "mean"
    levels: int = 100
    rho: float = 0.0
    sigma_max: float = 10.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        if self.estimate not in ("mean", "map", "draw") or not 0 <= self.rho <= 1:
            raise ValueError(
                "MixtureDDIM needs estimate 'mean', 'map' or 'draw' and 0 <= rho <= 1, got "
                f"{self.estimate!r} and {self.rho}."
            )
        super().__post_init__()

    @property
    def schedule(self) -> EDM:
        return EDM(self.levels, self.sigma_max, self.sigma_min)

    def prepare(self, problem: InverseProblem) -> None:
        """Nothing; ValueError where the posterior is not known."""
        if not isinstance(problem.conditional, MixtureDenoiser):
            raise ValueError(
                "MixtureDDIM needs the exact posterior as the problem's conditional denoiser: "
                "give conditional=mixture_posterior(...), or a problem of lmaps_science.toys."
            )

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, after = float(self.sigmas[i]), float(self.sigmas[i + 1])
        assert isinstance(problem.conditional, MixtureDenoiser)
        clean = problem.conditional.posterior(state.x, sigma)
        if self.estimate == "mean":
            z = clean.mean()
        elif self.estimate == "map":
            z = clean.local_map()
        else:
            uniform = torch.special.ndtr(noise.normal(state.x[:, 0, 0, 0], 2, i))
            z = clean.draw(uniform, noise.normal(state.x, 3, i).flatten(1))
        z = z.reshape(state.x.shape)
        x = renoised(state.x, z, sigma, after, self.rho, noise.normal(z, 1, i))
        return State(x=x, estimate=z)

r"""Gaussian mixtures with any covariances, such as what data leave of a mixture prior.

With a prior `sum_k pi_k N(mu_k, s_k^2 I)` and data `y = A x0 + sigma_y n` the posterior is again a
mixture, with covariances that are no longer round; its denoiser and its score are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lmaps_science.priors.analytic import GaussianMixturePrior
from lmaps_science.priors.base import Denoiser

__all__ = ["Mixture", "MixtureDenoiser", "mixture_posterior"]


@dataclass(frozen=True)
class Mixture:
    r"""One mixture :math:`\sum_k r_k N(\nu_k, C_k)` for each image of a batch.

    Attributes:
        log_weights: `log r_k`, (B, K), normalised.
        means: `nu_k`, flattened, (B, K, d).
        values: eigenvalues of `C_k`, (B, K, d).
        vectors: their eigenvectors, columns, (K, d, d).
    """

    log_weights: Tensor
    means: Tensor
    values: Tensor
    vectors: Tensor

    def mean(self) -> Tensor:
        """The mean, flattened, (B, d): it may lie where there is no mass."""
        return (self.log_weights.exp()[:, :, None] * self.means).sum(1)

    def local_map(self) -> Tensor:
        """The mean of the component with the highest peak, (B, d)."""
        peaks = self.log_weights - 0.5 * self.values.log().sum(2)
        return self.means[torch.arange(len(peaks), device=peaks.device), peaks.argmax(1)]

    def draw(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """A draw (B, d), from numbers uniform in (0, 1), (B,), and standard normal ones, (B, d)."""
        cumulative = self.log_weights.exp().cumsum(1)
        k = (uniform[:, None] > cumulative).sum(1).clamp_max(self.means.shape[1] - 1)
        row = torch.arange(len(k), device=k.device)
        spread = self.values[row, k].sqrt() * normal
        return self.means[row, k] + torch.einsum("bij,bj->bi", self.vectors[k], spread)


class MixtureDenoiser(Denoiser):
    r"""The exact denoiser of a mixture of Gaussians with any covariances; for small images.

    .. math:: D(x, \sigma) = \sum_k r_k(x) \left[ \mu_k + C_k (C_k + \sigma^2 I)^{-1} (x - \mu_k)
        \right], \quad r_k \propto w_k N(x; \mu_k, C_k + \sigma^2 I)

    Args:
        weights: w, (K,), positive; normalised to sum to 1.
        means: mu, (K, C, H, W).
        covariances: C, (K, d, d), symmetric and positive, d = C H W.
        value_range: nominal range of the images.

    Raises:
        ValueError: the shapes do not fit, or a covariance is not positive.
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
        value_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        k, d = len(weights), means[0].numel()
        if means.ndim != 4 or len(means) != k or covariances.shape != (k, d, d):
            raise ValueError(
                "MixtureDenoiser: expected weights (K,), means (K, C, H, W) and covariances "
                f"(K, d, d) with d = C H W, got {tuple(weights.shape)}, {tuple(means.shape)} and "
                f"{tuple(covariances.shape)}."
            )
        self.values, self.vectors = torch.linalg.eigh(covariances)
        if not bool((weights > 0).all() & (self.values > 0).all()):
            raise ValueError(
                "MixtureDenoiser: weights and the eigenvalues of all covariances must be positive; "
                "give a component without width a small one, e.g. 1e-6 of the others'."
            )
        self.image_shape = (means.shape[1], means.shape[2], means.shape[3])
        self.value_range = value_range
        self.weights, self.means = weights / weights.sum(), means

    def posterior(self, x: Tensor, sigma: float | Tensor) -> Mixture:
        """The exact distribution of the clean image given `x` = x0 + sigma n."""
        self._check_image(x)
        return self._posterior(x, self._check_sigma(sigma, x))

    def _posterior(self, x: Tensor, sigma: Tensor) -> Mixture:
        coefficients = self._coefficients(x)
        noisy = self.values + sigma[:, None, None] ** 2  # (B, K, d)
        gain = self.values / noisy
        means = self.means.flatten(1) + torch.einsum(
            "kij,bkj->bki", self.vectors, gain * coefficients
        )
        log_weights = self._log_joint(coefficients, noisy).log_softmax(1)
        return Mixture(log_weights, means, gain * sigma[:, None, None] ** 2, self.vectors)

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self._posterior(x, sigma).mean().reshape(x.shape)

    def score(self, x: Tensor, sigma: float) -> Tensor:
        """The gradient of the log density of `x0 + sigma n` at x, like x (Tweedie)."""
        return (self(x, sigma) - x) / sigma**2

    def log_prob(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """Log density (B,) of `x0 + sigma n` at x (B, C, H, W)."""
        self._check_image(x)
        variance = (self.values + sigma**2).expand(len(x), *self.values.shape)
        return self._log_joint(self._coefficients(x), variance).logsumexp(1)

    def distance(self, x: Tensor) -> Tensor:
        """Squared Mahalanobis distance of each image to each component, (B, K)."""
        return (self._coefficients(x).square() / self.values).sum(2)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` independent images (n, C, H, W)."""
        like, flat = self.means, self.means.flatten(1)
        log_weights = self.weights.log().expand(n, -1)
        values = self.values.expand(n, *flat.shape)
        whole = Mixture(log_weights, flat.expand(n, *flat.shape), values, self.vectors)
        uniform = torch.rand(n, generator=generator, dtype=like.dtype)
        normal = torch.randn(n, flat.shape[1], generator=generator, dtype=like.dtype)
        draws = whole.draw(uniform.to(like.device), normal.to(like.device))
        return draws.reshape(n, *self.image_shape)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean (C, H, W) and covariance (d, d) of the whole."""
        flat = self.means.flatten(1)
        mean = (self.weights[:, None] * flat).sum(0)
        inside = torch.einsum("kij,kj,klj->kil", self.vectors, self.values, self.vectors)
        away = flat - mean
        each = inside + away[:, :, None] * away[:, None, :]
        return mean.reshape(self.image_shape), (self.weights[:, None, None] * each).sum(0)

    def _coefficients(self, x: Tensor) -> Tensor:
        """Of `x - mu_k` in the eigenvectors of C_k, (B, K, d)."""
        away = x.flatten(1)[:, None] - self.means.flatten(1)
        return torch.einsum("kij,bki->bkj", self.vectors, away)

    def _log_joint(self, coefficients: Tensor, variance: Tensor) -> Tensor:
        """log of w_k N(x; mu_k, .), (B, K)."""
        terms = coefficients.square() / variance + variance.log() + math.log(2 * math.pi)
        return self.weights.log() - 0.5 * terms.sum(2)


def mixture_posterior(
    prior: GaussianMixturePrior, matrix: Tensor, y: Tensor, sigma_y: float
) -> MixtureDenoiser:
    r"""What data `y = A x0 + sigma_y n` leave of a mixture prior, as a denoiser.

    .. math:: C_k = (I / s_k^2 + A^T A / \sigma_y^2)^{-1}, \quad
        \nu_k = \mu_k + C_k A^T (y - A \mu_k) / \sigma_y^2, \quad
        r_k \propto \pi_k N(y; A \mu_k, s_k^2 A A^T + \sigma_y^2 I)

    Args:
        prior: its components have a positive width.
        matrix: A, (m, d), real, acting on flattened images; for small images.
        y: data, (m,).
        sigma_y: standard deviation of the noise.

    Raises:
        ValueError: matrix, data and prior do not fit together.
    """
    d = prior.means[0].numel()
    if matrix.ndim != 2 or matrix.shape[1] != d or y.shape != matrix.shape[:1]:
        raise ValueError(
            f"mixture_posterior: expected a matrix (m, {d}) and data (m,), got "
            f"{tuple(matrix.shape)} and {tuple(y.shape)}."
        )
    eye = torch.eye(d, dtype=y.dtype, device=y.device)
    flat, scales = prior.means.flatten(1), prior.scales
    precision = eye / scales[:, None, None] ** 2 + matrix.T @ matrix / sigma_y**2
    covariances = torch.linalg.inv(precision)
    residual = y - flat @ matrix.T
    means = flat + torch.einsum("kij,kj->ki", covariances, residual @ matrix / sigma_y**2)
    noise = sigma_y**2 * torch.eye(len(y), dtype=y.dtype, device=y.device)
    seen = scales[:, None, None] ** 2 * (matrix @ matrix.T) + noise
    evidence = torch.distributions.MultivariateNormal(torch.zeros_like(y), seen).log_prob(residual)
    weights = (prior.weights.log() + evidence).softmax(0)
    shape = prior.means.shape
    return MixtureDenoiser(weights, means.reshape(shape), covariances, prior.value_range)

"""Priors known in closed form: Gaussians and Gaussian mixtures.

Their denoisers, densities and posteriors are exact, so they serve as ground truth in tests, as
quick priors where no network exists, and as the toy example of LMAPS (appendix A).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lmaps_science.priors.base import Denoiser
from lmaps_science.priors.covariance import Covariance

_LOG_2PI = math.log(2 * math.pi)


class GaussianPrior(Denoiser):
    r"""Gaussian images, :math:`x_0 \sim N(m, C)`.

    .. math:: D(x, \sigma) = m + C (C + \sigma^2 I)^{-1} (x - m)

    Args:
        mean: `(C, H, W)`.
        covariance: one of `DiagonalCovariance`, `StationaryCovariance`,
            `MirroredCovariance`, `DenseCovariance`.
        value_range: nominal range of the images.

    Example:
        >>> from lmaps_science.priors.covariance import DiagonalCovariance
        >>> prior = GaussianPrior(torch.zeros(1, 2, 2), DiagonalCovariance(torch.ones(1, 2, 2)))
        >>> prior(torch.ones(1, 1, 2, 2), 1.0)[0, 0]
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """

    covariance: Covariance

    def __init__(
        self, mean: Tensor, covariance: Covariance, value_range: tuple[float, float] = (-1.0, 1.0)
    ) -> None:
        if mean.shape != covariance.eigenvalues.shape:
            raise ValueError(
                f"GaussianPrior: mean {tuple(mean.shape)} and covariance of images "
                f"{tuple(covariance.eigenvalues.shape)} differ in shape."
            )
        self.image_shape = (mean.shape[0], mean.shape[1], mean.shape[2])
        self.value_range = value_range
        self.mean, self.covariance = mean, covariance

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        values = self.covariance.eigenvalues
        gain = values / (values + _column(sigma) ** 2)
        return self.mean + self.covariance.apply(x - self.mean, gain)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` independent images (n, C, H, W)."""
        noise = _normal((n, *self.image_shape), self.mean, generator)
        return self.mean + self.covariance.apply(noise, self.covariance.eigenvalues.sqrt())

    def log_prob(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Log density (B,) of `x0 + sigma n` at `x` (B, C, H, W).

        Raises:
            ValueError: `sigma` is 0 and the covariance is singular: there is no density.
        """
        self._check_image(x)
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[0])
        variance = self.covariance.eigenvalues + _column(levels) ** 2
        if bool((variance <= 0).any()):
            raise ValueError(
                "GaussianPrior.log_prob: the covariance is singular, so there is no "
                "density at sigma = 0; give a positive sigma."
            )
        coefficients = self.covariance.analyse(x - self.mean)
        terms = coefficients.abs() ** 2 / variance + variance.log() + _LOG_2PI
        return -0.5 * terms.sum(dim=(1, 2, 3))

    def posterior(self, matrix: Tensor, y: Tensor, sigma_y: float) -> tuple[Tensor, Tensor]:
        r"""Posterior given :math:`y = A x_0 + \sigma_y n`; for small images.

        .. math:: K = C A^T (A C A^T + \sigma_y^2 I)^{-1}, \quad m + K (y - A m), \quad C - K A C

        Args:
            matrix: `A` (m, d), real, acting on flattened images, d = C H W.
            y: data (B, m).
            sigma_y: standard deviation of the noise.

        Returns:
            Mean (B, C, H, W) and covariance (d, d).
        """
        d = self.mean.numel()
        if matrix.ndim != 2 or matrix.shape[1] != d or y.shape[1:] != matrix.shape[:1]:
            raise ValueError(
                f"GaussianPrior.posterior: expected a matrix (m, {d}) and data (B, m), got "
                f"{tuple(matrix.shape)} and {tuple(y.shape)}."
            )
        cov = self.covariance.dense()
        cross = matrix @ cov
        noise = sigma_y**2 * torch.eye(len(matrix), dtype=cov.dtype, device=cov.device)
        gain = torch.linalg.solve(cross @ matrix.T + noise, cross)
        mean = self.mean.flatten() + (y - matrix @ self.mean.flatten()) @ gain
        return mean.reshape(-1, *self.image_shape), cov - cross.T @ gain


@dataclass(frozen=True)
class MixturePosterior:
    r"""The posterior :math:`p(x_0 | x_\sigma) = \sum_k r_k N(\nu_k, v_k I)` of a mixture prior.

    Attributes:
        log_weights: :math:`\log r_k`, `(B, K)`, the responsibilities.
        means: :math:`\nu_k`, `(B, K, C, H, W)`.
        variances: :math:`v_k`, `(B, K)`.

    Source: LMAPS, appendix A, eq. 21-28.
    """

    log_weights: Tensor
    means: Tensor
    variances: Tensor

    def mean(self) -> Tensor:
        """Posterior mean (B, C, H, W), the exact denoiser (eq. 27): averages the modes."""
        return (self.log_weights.exp()[:, :, None, None, None] * self.means).sum(dim=1)

    def local_map(self) -> Tensor:
        """Mean of the component with the highest peak density (eq. 28): seeks a mode."""
        pixels = self.means[0, 0].numel()
        peaks = self.log_weights - 0.5 * pixels * self.variances.log()
        return _pick(self.means, peaks.argmax(dim=1))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One image (B, C, H, W) per item of the batch, drawn from the posterior (eq. 31)."""
        index = torch.multinomial(self.log_weights.exp(), 1, generator=generator)[:, 0]
        means = _pick(self.means, index)
        spread = self.variances.gather(1, index[:, None])[:, 0].sqrt()
        return means + _column(spread) * _normal(means.shape, means, generator)


class GaussianMixturePrior(Denoiser):
    r"""A mixture of isotropic Gaussians, :math:`x_0 \sim \sum_k \pi_k N(\mu_k, s_k^2 I)`.

    .. math:: D(x, \sigma) = \sum_k r_k(x)
              \left[ \mu_k + \frac{s_k^2}{s_k^2 + \sigma^2} (x - \mu_k) \right], \quad
              r_k \propto \pi_k N(x; \mu_k, (s_k^2 + \sigma^2) I)

    Args:
        weights: `(K,)`, positive; normalised to sum to 1.
        means: `(K, C, H, W)`.
        scales: `(K,)`, the standard deviations s_k, non-negative.
        value_range: nominal range of the images.

    Example:
        >>> means = torch.stack([torch.ones(1, 2, 2), -torch.ones(1, 2, 2)])
        >>> prior = GaussianMixturePrior(torch.ones(2), means, torch.full((2,), 0.1))
        >>> prior(torch.full((1, 1, 2, 2), 0.9), 0.1)[0, 0]  # halfway to the nearer mean
        tensor([[0.9500, 0.9500],
                [0.9500, 0.9500]])
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        scales: Tensor,
        value_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        k = len(weights)
        if means.ndim != 4 or weights.shape != (k,) or scales.shape != (k,) or len(means) != k:
            raise ValueError(
                "GaussianMixturePrior: expected weights (K,), means (K, C, H, W), scales (K,), got "
                f"{tuple(weights.shape)}, {tuple(means.shape)}, {tuple(scales.shape)}."
            )
        if bool((weights <= 0).any()) or bool((scales < 0).any()):
            raise ValueError("GaussianMixturePrior: weights must be positive, scales not negative.")
        self.image_shape = (means.shape[1], means.shape[2], means.shape[3])
        self.value_range = value_range
        self.weights, self.means, self.scales = weights / weights.sum(), means, scales

    def _log_joint(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """log of pi_k N(x; mu_k, .), and the offsets x - mu_k."""
        variance = self.scales**2 + sigma[:, None] ** 2
        offset = x[:, None] - self.means
        pixels = offset[0, 0].numel()
        distance = offset.square().sum(dim=(2, 3, 4)) / variance
        log_density = -0.5 * (distance + pixels * (variance.log() + _LOG_2PI))
        return self.weights.log() + log_density, offset

    def posterior(self, x: Tensor, sigma: float | Tensor) -> MixturePosterior:
        """The exact posterior of the clean image given `x` = x0 + sigma n."""
        self._check_image(x)
        return self._posterior(x, self._check_sigma(sigma, x))

    def _posterior(self, x: Tensor, sigma: Tensor) -> MixturePosterior:
        log_joint, offset = self._log_joint(x, sigma)
        shrink = self.scales**2 / (self.scales**2 + sigma[:, None] ** 2)
        means = self.means + shrink[:, :, None, None, None] * offset
        return MixturePosterior(log_joint.log_softmax(dim=1), means, shrink * sigma[:, None] ** 2)

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self._posterior(x, sigma).mean()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` independent images (n, C, H, W)."""
        index = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = _normal((n, *self.image_shape), self.means, generator)
        return self.means[index] + _column(self.scales[index]) * noise

    def log_prob(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Log density (B,) of `x0 + sigma n` at `x` (B, C, H, W).

        Raises:
            ValueError: `sigma` is 0 and a component has no width: there is no density.
        """
        self._check_image(x)
        levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[0])
        if bool((self.scales**2 + levels[:, None] ** 2 <= 0).any()):
            raise ValueError(
                "GaussianMixturePrior.log_prob: a component of scale 0 has no density "
                "at sigma = 0; give a positive sigma."
            )
        return self._log_joint(x, levels)[0].logsumexp(dim=1)


def _column(values: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return values[:, None, None, None]


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def _pick(means: Tensor, index: Tensor) -> Tensor:
    """means[b, index[b]] for each b."""
    return means[torch.arange(len(index), device=index.device), index]

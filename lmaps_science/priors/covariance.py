"""Covariances of images with a fast square root: exact ones, and the one of a trained prior."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from scipy import fft
from torch import Tensor

from lmaps_science.arrays import Movable


class Covariance(Movable, ABC):
    """A covariance of images with a known orthonormal eigenbasis.

    Any function of it costs one change of basis there and back:
    `f(C) x = synthesise(f(eigenvalues) * analyse(x))`.

    Attributes:
        eigenvalues: `(C, H, W)`, real and non-negative, in the units of the image squared.
    """

    eigenvalues: Tensor

    @abstractmethod
    def analyse(self, x: Tensor) -> Tensor:
        """Coefficients (B, C, H, W) of `x` (B, C, H, W) in the eigenbasis."""

    @abstractmethod
    def synthesise(self, coefficients: Tensor) -> Tensor:
        """Inverse of `analyse`."""

    def apply(self, x: Tensor, gain: Tensor) -> Tensor:
        """Multiply the coefficients of `x` by `gain` (broadcast against (B, C, H, W))."""
        return self.synthesise(gain * self.analyse(x))

    def dense(self) -> Tensor:
        """The matrix `(d, d)`, d = C H W; for small images."""
        shape, d = self.eigenvalues.shape, self.eigenvalues.numel()
        unit = torch.eye(d, dtype=self.eigenvalues.dtype, device=self.eigenvalues.device)
        return self.apply(unit.reshape(d, *shape), self.eigenvalues).reshape(d, d)


class DiagonalCovariance(Covariance):
    """Independent pixels with a `variance` image (C, H, W).

    Example:
        >>> DiagonalCovariance(torch.full((1, 2, 2), 4.0)).eigenvalues.shape
        torch.Size([1, 2, 2])
    """

    def __init__(self, variance: Tensor) -> None:
        self.eigenvalues = _spectrum(variance, "variance")

    def analyse(self, x: Tensor) -> Tensor:
        return x

    def synthesise(self, coefficients: Tensor) -> Tensor:
        return coefficients


class StationaryCovariance(Covariance):
    """Periodic images whose correlation depends on the distance alone.

    Args:
        power_spectrum: `(C, H, W)` on the grid of `torch.fft.fft2`: the variance of each
            coefficient of the orthonormal transform. Its mean over the grid is the pixel variance;
            it is symmetric, S(-k) = S(k). Channels are independent.
    """

    def __init__(self, power_spectrum: Tensor) -> None:
        self.eigenvalues = _spectrum(power_spectrum, "power_spectrum")
        mirrored = power_spectrum.flip((-2, -1)).roll((1, 1), (-2, -1))
        if not torch.allclose(power_spectrum, mirrored, rtol=1e-4):
            raise ValueError(
                "StationaryCovariance: real images have a symmetric power spectrum, S(-k) = S(k), "
                "on the grid of torch.fft.fft2 (zero frequency first); use torch.fft.ifftshift if "
                "yours has the zero frequency in the centre."
            )

    def analyse(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x, norm="ortho")

    def synthesise(self, coefficients: Tensor) -> Tensor:
        return torch.fft.ifft2(coefficients, norm="ortho").real


class MirroredCovariance(Covariance):
    r"""Images mirrored at their borders, whose correlation depends on the distance alone.

    Its eigenvectors are those of the orthonormal cosine transform (DCT-II),

    .. math:: \sqrt{2/N} \cos(\pi k (n + 1/2) / N), \quad k = 1 \ldots N - 1

    and :math:`1 / \sqrt N` for k = 0, along each axis of N pixels. A `StationaryCovariance` makes
    neighbours of opposite borders; this one does not.

    Args:
        power_spectrum: `(C, H, W)`, the variance of each coefficient, at k / 2N cycles per pixel
            along an axis, k = 0 first. Channels are independent.

    Example:
        >>> MirroredCovariance(torch.ones(1, 4, 4)).analyse(torch.ones(1, 1, 4, 4))[0, 0, 0]
        tensor([4., 0., 0., 0.])
    """

    def __init__(self, power_spectrum: Tensor) -> None:
        self.eigenvalues = _spectrum(power_spectrum, "power_spectrum")
        self.rows, self.columns = (_cosines(n).to(power_spectrum) for n in power_spectrum.shape[1:])

    def analyse(self, x: Tensor) -> Tensor:
        # Products with matrices: as fast as Fourier transforms up to some 256 x 256 pixels.
        return self.rows @ x @ self.columns.T

    def synthesise(self, coefficients: Tensor) -> Tensor:
        return self.rows.T @ coefficients @ self.columns


class DenseCovariance(Covariance):
    """Any covariance `matrix` (d, d) of images with d = C H W pixels; for small images."""

    def __init__(self, matrix: Tensor, image_shape: tuple[int, int, int]) -> None:
        d = math.prod(image_shape)
        if matrix.shape != (d, d) or not torch.allclose(matrix, matrix.T, rtol=1e-4):
            raise ValueError(
                f"DenseCovariance: expected a symmetric matrix of shape ({d}, {d}) for images "
                f"{tuple(image_shape)}, got {tuple(matrix.shape)}."
            )
        values, self.vectors = torch.linalg.eigh(matrix)
        # Rounding leaves the null space slightly negative.
        values = torch.where(values.abs() < 1e-6 * values.abs().max(), values.clamp(min=0), values)
        self.eigenvalues = _spectrum(values.reshape(image_shape), "eigenvalues of the matrix")

    def analyse(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.vectors).reshape(x.shape)

    def synthesise(self, coefficients: Tensor) -> Tensor:
        return (coefficients.flatten(1) @ self.vectors.T).reshape(coefficients.shape)


class LowRankCovariance(Covariance):
    r"""The principal components of a set of images, and noise for what they leave over.

    .. math:: C = \sum_k \lambda_k v_k v_k^T + \lambda_0 (I - \sum_k v_k v_k^T)

    It says what a trained prior knows before any data: where in the field there can be emission,
    and how pixels go together (probabilistic PCA, Tipping and Bishop 1999).

    Args:
        components: `v`, (r, C, H, W), orthonormal.
        variances: `lambda`, (r,), in the units of the image squared.
        residual: `lambda_0`, the variance in every other direction.

    Example:
        >>> covariance = LowRankCovariance.from_images(torch.randn(20, 1, 4, 4), rank=3)
        >>> covariance.components.shape
        torch.Size([3, 1, 4, 4])
    """

    def __init__(self, components: Tensor, variances: Tensor, residual: float = 0.0) -> None:
        if components.ndim != 4 or variances.shape != components.shape[:1]:
            raise ValueError(
                f"LowRankCovariance: expected components (r, C, H, W) and variances (r,), got "
                f"{tuple(components.shape)} and {tuple(variances.shape)}."
            )
        values = torch.cat([variances, variances.new_tensor([residual])])
        self.eigenvalues = _spectrum(values, "variances", ndim=1)
        self.components = components

    @classmethod
    def from_images(cls, images: Tensor, rank: int = 200) -> LowRankCovariance:
        """The first `rank` principal components of `images` (n, C, H, W), n > rank.

        Raises:
            ValueError: too few images for that rank, or values that are not finite.
        """
        n, pixels = len(images), images[0].numel()
        if not 0 < rank < min(n, pixels + 1) or not bool(torch.isfinite(images).all()):
            raise ValueError(
                f"LowRankCovariance: a rank of {rank} needs more than {rank} finite images of at "
                f"least as many pixels, got {n} images of {pixels} pixels. Example: rank=200 of "
                f"4000 images."
            )
        centred = (images - images.mean(0)).flatten(1)
        # Subspace iteration, with a fixed start so that the result is reproducible.
        generator = torch.Generator().manual_seed(0)
        extra = min(rank + 20, n - 1, pixels)
        basis = torch.randn(pixels, extra, generator=generator).to(centred)
        for _ in range(6):
            basis = torch.linalg.qr(centred.T @ (centred @ basis))[0]
        _, values, rows = torch.linalg.svd(centred @ basis, full_matrices=False)
        components = (rows @ basis.T)[:rank].reshape(rank, *images.shape[1:])
        variances = values[:rank] ** 2 / n
        left = float(centred.square().sum() / n - variances.sum()) / max(pixels - rank, 1)
        return cls(components, variances, max(left, 0.0))

    def analyse(self, x: Tensor) -> Tensor:
        """Coefficients (B, r) of `x` on the components; the rest of `x` is left out."""
        return x.flatten(1) @ self.components.flatten(1).T

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """Images (B, C, H, W) of coefficients (B, r)."""
        image = coefficients @ self.components.flatten(1)
        return image.reshape(-1, *self.components.shape[1:])

    def apply(self, x: Tensor, gain: Tensor) -> Tensor:
        """Multiply the components of `x` by `gain[:r]`, and what is left by `gain[r]`."""
        return gain[-1] * x + self.synthesise((gain[:-1] - gain[-1]) * self.analyse(x))

    def dense(self) -> Tensor:
        """The matrix `(d, d)`, d = C H W; for small images."""
        rows, residual = self.components.flatten(1), self.eigenvalues[-1]
        unit = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
        return residual * unit + rows.T @ ((self.eigenvalues[:-1] - residual)[:, None] * rows)


def _cosines(n: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) of n numbers, (n, n)."""
    return torch.as_tensor(fft.dct(np.eye(n), axis=0, norm="ortho"))


def _spectrum(values: Tensor, name: str, ndim: int = 3) -> Tensor:
    if values.ndim != ndim or not bool((torch.isfinite(values) & (values >= 0)).all()):
        raise ValueError(
            f"covariance: {name} must be of shape {'(C, H, W)' if ndim == 3 else '(r,)'}, finite "
            f"and not negative, got shape {tuple(values.shape)} with minimum "
            f"{float(values.min()):.3g}."
        )
    return values

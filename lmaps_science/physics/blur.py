"""Blur of pictures: kernels, and convolutions with mirrored or periodic borders.

They act on every channel alike.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor

from lmaps_science.operators import LinearOperator, SVDOperator
from lmaps_science.physics.restoration import Separable

__all__ = [
    "Blur",
    "CircularBlur",
    "gaussian_kernel",
    "motion_kernel",
    "separable_blur",
    "uniform_kernel",
]

Shape = tuple[int, ...]


def separable_blur(
    kernel: NDArray[np.floating],
    image_shape: Shape,
    *,
    smallest: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Separable:
    """Blur along both axes with a kernel (n,) of odd length, mirrored at the borders, with its SVD.

    Raises:
        ValueError: the kernel is even, or longer than the image.

    Example:
        >>> blur = separable_blur(gaussian_kernel(9, 2.0), (3, 16, 16))
        >>> blur(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 3, 16, 16])
    """
    from scipy import ndimage

    _check_kernel(kernel, image_shape)
    rows, columns = (
        torch.as_tensor(ndimage.convolve1d(np.eye(n), kernel, axis=0, mode="mirror"))
        for n in image_shape[1:]
    )
    return Separable(rows, columns, image_shape[0], smallest=smallest, dtype=dtype)


class CircularBlur(SVDOperator):
    r"""Convolution with periodic borders: the Fourier transform diagonalises it.

    .. math:: y = F^H (\hat k \cdot F x) = (F^H \frac{\hat k}{|\hat k|} F W) \; |\hat k| \; W x

    with the orthonormal Hartley transform W, real and its own inverse, whose coefficients are
    scaled by \|k\| alike since a real kernel has the same modulus at opposite frequencies.

    Args:
        kernel: (h, w), odd; its centre does not move the image.
        image_shape: (C, H, W).
        smallest: singular values up to this share of the largest are set to 0.
        dtype: of the operator.

    Raises:
        ValueError: the kernel is even, larger than the image, or not finite.

    Example:
        >>> blur = CircularBlur(motion_kernel(9, seed=1), (3, 16, 16))
        >>> blur.singular_values.shape
        torch.Size([768])
    """

    def __init__(
        self,
        kernel: NDArray[np.floating],
        image_shape: Shape,
        *,
        smallest: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        _check_kernel(kernel, image_shape)
        height, width = image_shape[1:]
        padded = np.zeros((height, width))
        padded[: kernel.shape[0], : kernel.shape[1]] = kernel
        padded = np.roll(padded, [-(n // 2) for n in kernel.shape], (0, 1))
        symbol = torch.fft.fft2(torch.as_tensor(padded, dtype=torch.float64))
        size = symbol.abs()
        size = torch.where(size > max(smallest, 1e-12) * size.max(), size, 0)
        self.image_shape = self.data_shape = tuple(image_shape)
        self.size = size.to(dtype)
        self.phase = torch.where(size > 0, symbol / symbol.abs().clamp_min(1e-300), 1).to(
            dtype.to_complex()
        )
        self.singular_values = self.size.flatten().repeat(image_shape[0])

    def _filtered(self, x: Tensor, transfer: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x) * transfer).real

    def _forward(self, x: Tensor) -> Tensor:
        return self._filtered(x, self.size * self.phase)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._filtered(y, self.size * self.phase.conj())

    def _normal(self, x: Tensor) -> Tensor:
        return self._filtered(x, self.size**2)

    def _Vt(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(x, norm="ortho")
        return (spectrum.real - spectrum.imag).flatten(1)

    def _V(self, c: Tensor) -> Tensor:
        return self._Vt(c.reshape(-1, *self.image_shape)).reshape(-1, *self.image_shape)

    def _Ut(self, y: Tensor) -> Tensor:
        return self._Vt(self._filtered(y, self.phase.conj()))

    def _U(self, c: Tensor) -> Tensor:
        return self._filtered(self._V(c), self.phase)


class Blur(LinearOperator):
    r"""Convolution with any kernel, mirrored at the borders; no SVD is known.

    .. math:: y = k * \mathrm{mirrored}(x)

    Args:
        kernel: (h, w), odd; its centre does not move the image.
        image_shape: (C, H, W).
        dtype: of the operator.

    Raises:
        ValueError: the kernel is even, larger than the image, or not finite.

    Example:
        >>> blur = Blur(motion_kernel(9, seed=1), (3, 16, 16))
        >>> blur(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self,
        kernel: NDArray[np.floating],
        image_shape: Shape,
        *,
        dtype: torch.dtype = torch.float32,
    ):
        _check_kernel(kernel, image_shape)
        self.kernel = torch.as_tensor(np.array(kernel), dtype=dtype)
        self.image_shape = self.data_shape = tuple(image_shape)
        self.borders = tuple(n // 2 for n in self.kernel.shape)
        # Of the wide image, its mirrored borders included; longer, where that is the faster FFT.
        wide = (n + 2 * border for n, border in zip(image_shape[1:], self.borders, strict=True))
        self.size = tuple(next_fast_len(n, real=True) for n in wide)
        self.spectrum = torch.fft.rfft2(self.kernel, s=self.size)

    def _moved_from(self, original: Blur) -> None:
        self.spectrum = torch.fft.rfft2(self.kernel, s=self.size)

    def _forward(self, x: Tensor) -> Tensor:
        (down, right), (height, width) = self.borders, self.image_shape[1:]
        wide = F.pad(x, (right, right, down, down), mode="reflect")
        y = torch.fft.irfft2(torch.fft.rfft2(wide, s=self.size) * self.spectrum, s=self.size)
        return y[..., 2 * down : 2 * down + height, 2 * right : 2 * right + width]

    def _adjoint(self, y: Tensor) -> Tensor:
        (down, right), (height, width) = self.borders, self.image_shape[1:]
        wide = F.pad(y, (2 * right, 0, 2 * down, 0))
        x = torch.fft.irfft2(torch.fft.rfft2(wide, s=self.size) * self.spectrum.conj(), s=self.size)
        x = _folded(x[..., : height + 2 * down, :], down, -2)
        return _folded(x[..., : width + 2 * right], right, -1)


def _folded(wide: Tensor, border: int, dim: int) -> Tensor:
    """The adjoint of mirroring: each border is added to where it came from."""
    size = wide.shape[dim] - 2 * border
    x = wide.narrow(dim, border, size).clone()
    x.narrow(dim, 1, border).add_(wide.narrow(dim, 0, border).flip(dim))
    x.narrow(dim, size - 1 - border, border).add_(wide.narrow(dim, border + size, border).flip(dim))
    return x


def uniform_kernel(size: int) -> NDArray[np.float64]:
    """The mean of `size` pixels, (size,), for `separable_blur`.

    Example:
        >>> uniform_kernel(4)
        array([0.25, 0.25, 0.25, 0.25])
    """
    return np.full(size, 1 / size)


def gaussian_kernel(size: int, sigma: float) -> NDArray[np.float64]:
    """A Gaussian of standard deviation `sigma` pixels, (size,), of sum 1.

    Raises:
        ValueError: a width that is not positive.

    Example:
        >>> gaussian_kernel(3, 1.0).round(3)
        array([0.274, 0.452, 0.274])
    """
    if not sigma > 0:
        raise ValueError(f"gaussian_kernel: sigma {sigma:g}, expected a positive number, e.g. 3.")
    kernel = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    return np.asarray(kernel / kernel.sum())


def motion_kernel(size: int, intensity: float = 0.5, seed: int = 0) -> NDArray[np.float64]:
    """The path of a shaking hand, (size, size), of sum 1.

    The velocity is a random walk: the direction turns the more, the larger `intensity` (0: a
    straight line, 1: a tangle). The path is centred by its centre of mass, fills at most 0.9 of the
    kernel and is drawn with bilinear weights.

    Raises:
        ValueError: an intensity outside of [0, 1].

    Example:
        >>> kernel = motion_kernel(31, intensity=0.5, seed=0)
        >>> kernel.shape, round(float(kernel.sum()), 6)
        ((31, 31), 1.0)
    """
    if not 0 <= intensity <= 1:
        raise ValueError(f"motion_kernel: intensity {intensity:g}, expected 0 to 1.")
    rng = np.random.default_rng([0x5AAE, seed])
    steps = 40 * size
    turn = np.cumsum(rng.normal(0, 6.0 * intensity / math.sqrt(steps), steps))
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(turn) / math.sqrt(steps)
    speed = np.exp(np.cumsum(rng.normal(0, 1 / math.sqrt(steps), steps)))
    path = np.cumsum(speed * np.stack([np.sin(angle), np.cos(angle)]), axis=1)
    path -= path.mean(1, keepdims=True)
    path *= 0.45 * (size - 1) / np.abs(path).max()
    path += (size - 1) / 2
    low = np.floor(path).astype(int)
    part = path - low
    kernel = np.zeros((size + 1, size + 1))
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - down - part[0]) * np.abs(1 - right - part[1])
            np.add.at(kernel, (low[0] + down, low[1] + right), weight)
    return np.asarray(kernel[:size, :size] / kernel.sum())


def _check_kernel(kernel: NDArray[np.floating], image_shape: Shape) -> None:
    shape = np.shape(kernel)
    if not np.isfinite(kernel).all() or not np.any(kernel):
        raise ValueError("blur: the kernel must be finite and not 0 everywhere.")
    if any(n % 2 == 0 for n in shape):
        raise ValueError(
            f"blur: the kernel has shape {shape}: an even side has no centre, and would shift the "
            f"image by half a pixel. Take odd ones, e.g. {tuple(n - 1 + n % 2 for n in shape)}."
        )
    smallest = min(image_shape[1:])
    if any(n > smallest for n in shape):
        raise ValueError(
            f"blur: the kernel of {shape} is larger than the image of {tuple(image_shape[1:])}: "
            f"take one of {smallest - 1 + smallest % 2} or less, or a larger image."
        )

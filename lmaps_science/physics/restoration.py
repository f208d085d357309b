"""Linear degradations of pictures: pixels that are lost, reduced size, blur.

They act on every channel alike. Images have any range; the papers' cards state noise for [-1, 1].
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lmaps_science.operators import LinearOperator, SVDOperator

__all__ = [
    "Blur",
    "CircularBlur",
    "Inpainting",
    "Mask",
    "Separable",
    "gaussian_kernel",
    "motion_kernel",
    "pixel_mask",
    "reducing",
    "separable_blur",
    "uniform_kernel",
]

Mask = Literal["box", "random", "half", "expand", "grid"]
Shape = tuple[int, ...]


# ---------------------------------------------------------------- lost pixels


class Inpainting(SVDOperator):
    r"""The pixels of a mask; all others are 0, and carry no noise.

    .. math:: y = M x

    Its singular values are 1, one for each pixel that is kept in each channel.

    Args:
        mask: (H, W), true where a pixel is known; the same for all channels.
        image_shape: (C, H, W).

    Raises:
        ValueError: the mask has another shape, or hides everything.

    Example:
        >>> mask = pixel_mask("box", (16, 16))
        >>> Inpainting(mask, (3, 16, 16))(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(self, mask: ArrayLike | Tensor, image_shape: Shape):
        kept = torch.as_tensor(np.asarray(mask)).bool()
        if kept.shape != tuple(image_shape[1:]):
            raise ValueError(
                f"Inpainting: the mask has shape {tuple(kept.shape)}, expected that of the image, "
                f"{tuple(image_shape[1:])}: true where a pixel is known."
            )
        if not kept.any():
            raise ValueError(
                "Inpainting: the mask hides every pixel: there are no data. Keep some, e.g. "
                f"pixel_mask('random', {tuple(image_shape[1:])}, share=0.7), which hides 70 %."
            )
        self.image_shape = self.data_shape = tuple(image_shape)
        self.mask = kept
        self.places = torch.nonzero(kept.flatten())[:, 0]
        self.singular_values = torch.ones(self.image_shape[0] * int(kept.sum()))

    def _forward(self, x: Tensor) -> Tensor:
        return x * self.mask

    def _adjoint(self, y: Tensor) -> Tensor:
        return y * self.mask

    def _normal(self, x: Tensor) -> Tensor:
        return x * self.mask

    def _Vt(self, x: Tensor) -> Tensor:
        return gather(x, self.places)

    def _V(self, c: Tensor) -> Tensor:
        return scatter(c, self.places, self.image_shape)

    def _Ut(self, y: Tensor) -> Tensor:
        return self._Vt(y)

    def _U(self, c: Tensor) -> Tensor:
        return self._V(c)


def gather(x: Tensor, places: Tensor) -> Tensor:
    """The pixels at these places of each channel (B, C, H, W), in a row (B, C n)."""
    return x.flatten(2).index_select(2, places).flatten(1)


def scatter(c: Tensor, places: Tensor, shape: Shape) -> Tensor:
    """The reverse: (B, C n) into images (B, C, H, W) of zeros."""
    image = c.new_zeros(len(c), shape[0], math.prod(shape[1:]))
    rows = c.reshape(len(c), shape[0], -1)
    return image.index_copy(2, places, rows).reshape(-1, *shape)


def pixel_mask(
    kind: Mask, shape: tuple[int, int], share: float | None = None, seed: int = 0
) -> NDArray[np.bool_]:
    """Which pixels are known, (H, W), in the papers' experiments.

    Args:
        kind: "box" hides a centred box, "expand" all but one; "half" hides the right half;
            "random" hides pixels at random; "grid" keeps one pixel of 4 x 4 (super-resolution
            without averaging).
        shape: (H, W).
        share: of the side that the box has (default 0.5), or of the pixels that "random" hides
            (default 0.7).
        seed: of the random choice.

    Raises:
        ValueError: an unknown kind, or a share that hides all or nothing.

    Example:
        >>> pixel_mask("half", (2, 4))
        array([[ True,  True, False, False],
               [ True,  True, False, False]])
    """
    height, width = shape
    share = (0.7 if kind == "random" else 0.5) if share is None else share
    if not 0 < share < 1:
        raise ValueError(f"pixel_mask: share {share:g}, expected between 0 and 1, e.g. 0.5.")
    if kind == "random":
        hidden = np.random.default_rng([0xA5C, seed]).permutation(height * width)
        mask = np.ones(height * width, bool)
        mask[hidden[: round(share * height * width)]] = False
        return mask.reshape(shape)
    rows, columns = np.ogrid[:height, :width]
    if kind in ("box", "expand"):
        box = np.ones(shape, bool)
        for index, n in ((rows, height), (columns, width)):
            side = max(round(share * n), 1)
            box &= (index >= (n - side) // 2) & (index < (n - side) // 2 + side)
        return box if kind == "expand" else ~box
    if kind == "half":
        return np.broadcast_to(columns < (width + 1) // 2, shape).copy()
    if kind == "grid":
        return (rows % 4 == 0) & (columns % 4 == 0)
    raise ValueError(
        f"pixel_mask: kind {kind!r}, expected 'box', 'random', 'half', 'expand' or 'grid'."
    )


# ---------------------------------------------------------------- separable maps


class Separable(SVDOperator):
    r"""A map of the rows and one of the columns, with the SVD of their product.

    .. math:: y = R x C^T, \qquad R = U_R S_R V_R^T, \quad C = U_C S_C V_C^T

    The singular values of the product are the products of those of R and C.

    Args:
        rows: R, (h, H).
        columns: C, (w, W).
        channels: of the image.
        smallest: singular values up to this share of the largest are set to 0, as DDRM's and
            VML-MAP's experiments do; what is left is no longer R and C themselves.
        dtype: of the operator; the decomposition is made in double precision.

    Example:
        >>> rows = reducing(16, 4, "bicubic")
        >>> Separable(rows, rows, channels=3)(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 3, 4, 4])
    """

    def __init__(
        self,
        rows: Tensor,
        columns: Tensor,
        channels: int,
        *,
        smallest: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        parts = [torch.linalg.svd(m.double(), full_matrices=False) for m in (rows, columns)]
        (u_rows, s_rows, v_rows), (u_columns, s_columns, v_columns) = parts
        values = s_rows[:, None] * s_columns
        kept = values > max(smallest, 1e-12) * values.max()
        self.places = torch.nonzero(kept.flatten())[:, 0]
        self.singular_values = values[kept].repeat(channels).to(dtype)
        self.u_rows, self.u_columns = u_rows.to(dtype), u_columns.to(dtype)
        self.v_rows, self.v_columns = v_rows.to(dtype), v_columns.to(dtype)
        self.image_shape = (channels, rows.shape[1], columns.shape[1])
        self.data_shape = (channels, rows.shape[0], columns.shape[0])

    def _Vt(self, x: Tensor) -> Tensor:
        return gather(self.v_rows @ x @ self.v_columns.T, self.places)

    def _V(self, c: Tensor) -> Tensor:
        return self.v_rows.T @ self._grid(c) @ self.v_columns

    def _Ut(self, y: Tensor) -> Tensor:
        return gather(self.u_rows.T @ y @ self.u_columns, self.places)

    def _U(self, c: Tensor) -> Tensor:
        return self.u_rows @ self._grid(c) @ self.u_columns.T

    def _grid(self, c: Tensor) -> Tensor:
        shape = (self.image_shape[0], len(self.v_rows), len(self.v_columns))
        return scatter(c, self.places, shape)


def reducing(size: int, factor: int, kind: Literal["average", "bicubic"]) -> Tensor:
    """The matrix (size / factor, size) that reduces a row of pixels, in double precision.

    "average" takes the mean of blocks; "bicubic" is Keys' kernel (a = -0.5), stretched by the
    factor against aliasing, as Pillow and MATLAB reduce pictures.

    Raises:
        ValueError: the factor does not divide the size.

    Example:
        >>> reducing(4, 2, "average")
        tensor([[0.5000, 0.5000, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.5000, 0.5000]], dtype=torch.float64)
    """
    if factor < 2 or size % factor:
        divisor = max(factor, 2)
        fitting = max(size - size % divisor, divisor)
        raise ValueError(
            f"reducing: a side of {size} pixels cannot be reduced by {factor}: the factor must be "
            f"2 or more and divide the size, e.g. {fitting} by {divisor}."
        )
    eye = torch.eye(size, dtype=torch.float64)[None]  # (1, W, n): each column a picture of one row
    if kind == "average":
        return F.avg_pool1d(eye, factor)[0].T
    shape = (1, size // factor)
    rows = F.interpolate(
        eye.transpose(0, 1)[:, :, None], size=shape, mode="bicubic", antialias=True
    )
    return rows[:, 0, 0].T.contiguous()


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


# ---------------------------------------------------------------- convolutions


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

    def _forward(self, x: Tensor) -> Tensor:
        down, right = (n // 2 for n in self.kernel.shape)
        wide = F.pad(x, (right, right, down, down), mode="reflect")
        shape = tuple(wide.shape[-2:])
        spectrum = torch.fft.rfft2(wide) * torch.fft.rfft2(self.kernel, s=shape)
        return torch.fft.irfft2(spectrum, s=shape)[..., 2 * down :, 2 * right :]


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

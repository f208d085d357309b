r"""What receivers record of currents on the pixels, with as few products as they allow.

The functions of n_rx receivers around a square span few dimensions: they are sums of cylindrical
waves J_m(k rho) cos(m phi), J_m(k rho) sin(m phi) (Graf's addition theorem), of orders up to about
k times the square's half diagonal. Each wave is even or odd in x, and even or odd in y, so that a
quarter of the square determines it: currents are first combined over the four mirror images of a
pixel, (+x, +y), (-x, +y), (+x, -y) and (-x, -y), and each class of waves sees its combination
alone. That is a quarter of the multiplications.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from lmaps_science.arrays import Movable
from lmaps_science.physics.scattering_geometry import ScatteringGeometry

__all__ = ["Receivers", "as_tensor"]

Array = NDArray[np.floating]


class Receivers(Movable):
    r"""What the receivers record of currents w on the pixels, y_r = dx^2 sum_p G_r(p) w(p).

    Their functions factor as G = C R with a real R of r rows: cylindrical waves where these are
    fewer than 2 n_rx, else the real and imaginary parts of G themselves, which is exact. Complex
    currents go through as two real rows: 2 n_tx of them, the real parts first.

    The currents are in g parts (B, 2 n_tx, h), see `split`: for waves the g = 4 quarters of
    the square, else all of it. `waves` holds R on the first of the parts, (r, h), class by class.

    `tolerance` bounds the error of |G| relative to its value at the centre; None never compresses.
    `compression_error` is the bound that holds, `rank` is r.
    """

    def __init__(
        self,
        geometry: ScatteringGeometry,
        tolerance: float | None,
        dtype: torch.dtype,
        device: torch.device | str | None,
    ):
        if tolerance is not None and not 0 < tolerance < 1:
            raise ValueError(
                f"tolerance {tolerance} of the receivers: give one in (0, 1), or None."
            )
        expansion, waves, index = self._factors(geometry, tolerance)
        self.rank = len(waves)
        self.waves = as_tensor(waves, dtype, device)
        self.expansion = as_tensor(expansion.T * geometry.pixel_size**2, dtype.to_complex(), device)
        self.mask = torch.as_tensor(np.asarray(geometry.mask), device=device)
        # `index` finds the pixels of the parts, N^2 where there is none; `place` finds them back.
        self.index = torch.as_tensor(index, device=device)
        pixels, place = np.unique(index, return_index=True)
        self.place = torch.as_tensor(place[pixels < geometry.npix**2], device=device)

    def _factors(
        self, geometry: ScatteringGeometry, tolerance: float | None
    ) -> tuple[NDArray[np.complexfloating], Array, NDArray[np.int64]]:
        """C (n_rx, r) complex, R (r, h) real and the pixels (g, h) of the parts."""
        n_rx = geometry.data_shape[1]
        if tolerance is not None:
            order, error = _highest_order(geometry, tolerance)
            if 2 * order + 1 < 2 * n_rx:
                self.compression_error = error
                expansion, waves, self.counts = _cylindrical_waves(geometry, order)
                return expansion, waves, _mirror_images(geometry.npix)
        self.compression_error, self.counts = 0.0, [2 * n_rx]
        green_functions = geometry.sensor_green()
        unit = np.eye(n_rx)
        parts = np.concatenate([green_functions.real, green_functions.imag])
        everything = np.arange(geometry.npix**2)[None]
        return np.concatenate([unit, 1j * unit], axis=1), parts, everything

    def split(self, images: Tensor) -> tuple[Tensor, ...]:
        """The g parts (..., h) of images (..., N^2); a pixel that is its own mirror image is in one
        part, the others have 0 there."""
        if len(self.index) == 1:
            return (images,)
        padded = F.pad(images, (0, 1))
        return tuple(padded[..., part] for part in self.index)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """The images (..., N^2) of parts (..., h): the inverse and adjoint of `split`."""
        return parts[0] if len(parts) == 1 else torch.cat(tuple(parts), dim=-1)[..., self.place]

    def record(self, parts: Sequence[Tensor]) -> Tensor:
        """Data of currents: g times (B, 2 n_tx, h) real -> (B, n_tx, n_rx) complex.

        Overwrites the parts.
        """
        classes = zip(_combined(parts), self.waves.split(self.counts), strict=True)
        real, imaginary = torch.cat([c @ w.T for c, w in classes], dim=-1).chunk(2, dim=1)
        return torch.complex(real, imaginary) @ self.expansion * self.mask

    def spread(self, y: Tensor) -> Sequence[Tensor]:
        """The adjoint of `record`: (B, n_tx, n_rx) complex -> g times (B, 2 n_tx, h) real."""
        coefficients = (y * self.mask) @ self.expansion.mH
        return self.sums(torch.cat([coefficients.real, coefficients.imag], dim=1))

    def sums(self, coefficients: Tensor) -> Sequence[Tensor]:
        """Combinations of the rows of R in parts: (..., r) -> g times (..., h)."""
        classes = coefficients.split(self.counts, dim=-1), self.waves.split(self.counts)
        return _combined([c @ w for c, w in zip(*classes, strict=True)])


def as_tensor(array: NDArray, dtype: torch.dtype, device: torch.device | str | None) -> Tensor:
    """A contiguous tensor of the array's values, of shape like the array's."""
    return torch.as_tensor(np.ascontiguousarray(array), dtype=dtype, device=device)


def _combined(parts: Sequence[Tensor]) -> Sequence[Tensor]:
    """Mirror images -> even in both, odd in x, odd in y, odd in both; and back, but for 4.

    In place: with new memory for every sum, getting that takes as long as summing.
    """
    pairs = ((0, 1), (2, 3), (0, 2), (1, 3)) if len(parts) == 4 else ()
    for one, other in pairs:
        parts[one].add_(parts[other])
        parts[other].mul_(-2).add_(parts[one])  # the sum less twice the other: the difference
    return parts


def _mirror_images(npix: int) -> NDArray[np.int64]:
    """Flat pixels (4, h) at (+x, +y), (-x, +y), (+x, -y), (-x, -y) for x, y >= 0; npix^2: none."""
    half = npix // 2  # coordinates are -half ... npix - 1 - half, in pixels
    axis = np.arange(half + 1)
    forward = np.where(axis + half < npix, axis + half, -1)
    backward = np.where(axis > 0, half - axis, -1)  # 0 is its own mirror image: counted once
    pixels = []
    for rows, columns in (
        (forward, forward),
        (forward, backward),
        (backward, forward),
        (backward,) * 2,
    ):
        both = (rows[:, None] >= 0) & (columns >= 0)
        pixels.append(np.where(both, rows[:, None] * npix + columns, npix**2).ravel())
    return np.stack(pixels)


def _highest_order(geometry: ScatteringGeometry, tolerance: float) -> tuple[int, float]:
    """Fewest orders whose tail 2 sum_{m > M} |H_m(k R) J_m(k rho)| is below tolerance |H_0(k R)|.

    Beyond k rho, J_m grows with rho: its largest value is the one at the square's corner.
    """
    inner = geometry.wavenumber * geometry.side / np.sqrt(2)
    outer = geometry.wavenumber * geometry.receiver_radius
    orders = np.arange(int(np.ceil(inner)), int(np.ceil(inner)) + 20_000)
    with np.errstate(over="ignore", invalid="ignore"):
        terms = 2 * np.abs(special.hankel1(orders, outer) * special.jv(orders, inner))
    usable = np.isfinite(terms) & (terms > 0)
    stop = int(np.argmin(usable)) if not usable.all() else len(terms)
    tail = np.cumsum(terms[:stop][::-1])[::-1] / np.abs(special.hankel1(0, outer))
    good = np.nonzero(tail <= tolerance)[0]
    if len(good) == 0:
        return len(orders) * 2, 0.0  # receivers at the square's corner: more waves than is useful
    return int(orders[good[0]]) - 1, float(tail[good[0]])


def _cylindrical_waves(
    geometry: ScatteringGeometry, order: int
) -> tuple[NDArray[np.complexfloating], Array, list[int]]:
    """H0(k |r - p|) = sum_m H_m(k R) J_m(k rho) cos(m (theta - phi)), doubled for m > 0.

    C (n_rx, r), R (r, h) in the quarter x, y >= 0, and the number of rows of R in each class.
    """
    axis = np.arange(geometry.npix // 2 + 1)
    x, y = (c.ravel() for c in np.meshgrid(axis, axis, indexing="xy"))
    unique, place = np.unique(x**2 + y**2, return_inverse=True)  # few distinct radii on a grid
    orders = np.arange(order + 1)
    k, radius = geometry.wavenumber, geometry.receiver_radius
    bessel = special.jv(orders[:, None], k * geometry.pixel_size * np.sqrt(unique))
    # J_m is tiny and H_m huge for high m: neither may leave the range of float32.
    scale = np.abs(bessel).max(axis=1)
    radial = (bessel / scale[:, None])[:, place]
    phi, theta = np.arctan2(y, x), np.deg2rad(geometry.receiver_angles)
    weight = 0.25j * k**2 * special.hankel1(orders, k * radius) * scale
    weight[1:] *= 2

    even, odd, positive = orders[::2], orders[1::2], orders[2::2]
    classes = [(np.cos, even), (np.cos, odd), (np.sin, odd), (np.sin, positive)]  # see `_combined`
    waves = [radial[m] * wave(np.outer(m, phi)) for wave, m in classes]
    expansion = [weight[m] * wave(np.outer(theta, m)) for wave, m in classes]
    return np.concatenate(expansion, axis=1), np.concatenate(waves), [len(m) for _, m in classes]

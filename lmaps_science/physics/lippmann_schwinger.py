r"""Full-wave scattering: the Lippmann-Schwinger equation and its adjoint-state gradient.

    u = u_inc + k^2 int g(|p - q|) f(q) u(q) dq,      y[t, r] = k^2 int g(|r - p|) f(p) u_t(p) dp

for real contrast f = eps_r - 1 and electric fields along the cylinders (TM). The convolution is an
FFT on the doubled grid; g is taken at the pixels' centres, with a correction where it is singular.

Source: Colton and Kress 2019, section 8.2; Richmond 1965 for the discretisation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from lmaps_science.arrays import complex_dtype
from lmaps_science.linalg import bicgstab
from lmaps_science.operators import Operator
from lmaps_science.physics.receivers import Receivers, as_tensor
from lmaps_science.physics.scattering_geometry import ScatteringGeometry, green

__all__ = ["FullWaveScattering", "NotConverged"]


class NotConverged(RuntimeError, FloatingPointError):
    """The fields of some images did not converge; `images`, booleans (B,), says of which.

    It is a FloatingPointError, too: a run that meets it has diverged, as one that meets a NaN.
    """

    def __init__(self, message: str, images: Tensor):
        super().__init__(message)
        self.images = images

    def __reduce__(self) -> tuple[type[NotConverged], tuple[str, Tensor]]:
        """For workers, which send their errors home."""
        return type(self), (str(self), self.images)


class FullWaveScattering(Operator):
    r"""Scattered fields with multiple scattering, (B, 1, N, N) -> (B, n_tx, n_rx) complex.

    The fields of all transmitters and images are found together by BiCGStab; each stops at a
    relative residual of `tolerance`. The vector-Jacobian product needs one more solve of the same
    size and no memory of the iterations: with K the convolution, F = diag(f), S the receivers,

        u = (I - K F)^-1 u_inc,   dy = S (I - F K)^-1 (u df)
        J^H v = Re sum_t u conj(w),   conj(w) = (I - K F)^-1 conj(S^H v)

    Where f is small, this is `BornScattering` (with `conjugate_incident=False`): its first term.

    Args:
        geometry: pixels, sources, receivers, wavelength.
        tolerance: of the fields; it stays above ten times the rounding of the dtype.
        iterations: of BiCGStab, at most; a few per wavelength of the object and unit of contrast.
        receiver_tolerance: see `Receivers`.

    Raises:
        NotConverged: the fields of an image do not converge (with the residual).

    Accuracy: sums over pixels take f for smooth. Against the series of dielectric cylinders with
    eps_r from 1.5 to 3, 0.6 to 1.2 wavelengths wide, at 10 pixels per wavelength in the medium,
    fields and data are wrong by up to 1.2 % where a pixel on the edge holds the share that the
    cylinder covers; by up to 0.5 % where the smoothing that this means is taken back, with
    f - Laplacian(f) / 24. Either way the error falls as the square of the pixel or faster.

    Warns (UserWarning) when an image has fewer than 8 pixels per wavelength in its densest medium.

    Example:
        >>> from lmaps_science.physics.scattering_geometry import ScatteringGeometry
        >>> angles = range(0, 360, 20)
        >>> geometry = ScatteringGeometry(16, 0.1, 0.1, [0, 120, 240], angles, 1.0, 1.0)
        >>> FullWaveScattering(geometry)(0.1 * torch.rand(2, 1, 16, 16)).shape
        torch.Size([2, 3, 18])
    """

    def __init__(
        self,
        geometry: ScatteringGeometry,
        *,
        tolerance: float = 1e-5,
        iterations: int = 1000,
        receiver_tolerance: float | None = 1e-8,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ):
        if not 0 < tolerance < 1 or iterations < 1:
            raise ValueError(
                f"FullWaveScattering needs tolerance in (0, 1) and iterations >= 1, got {tolerance}"
                f" and {iterations}. Example: tolerance=1e-5, iterations=1000."
            )
        self.geometry, self.tolerance, self.iterations = geometry, tolerance, iterations
        self.receiver_tolerance = receiver_tolerance
        self.image_shape = (1, geometry.npix, geometry.npix)
        self.data_shape = geometry.data_shape
        self._build(dtype, device)

    def _build(self, dtype: torch.dtype, device: torch.device | str | None) -> None:
        kind, n = complex_dtype(dtype), self.geometry.npix
        self.incident = as_tensor(self.geometry.incident().reshape(-1, n, n), kind, device)
        self.kernel = as_tensor(_convolution_kernel(self.geometry), kind, device)
        self.receivers = Receivers(self.geometry, self.receiver_tolerance, dtype, device)

    def _moved_from(self, original: FullWaveScattering) -> None:
        if self.incident.dtype != original.incident.dtype:
            self._build(self.like.dtype, self.incident.device)

    def fields(self, x: Tensor) -> Tensor:
        """Total field of each transmitter on the pixels: (B, 1, N, N) -> (B, n_tx, N, N)."""
        self._check_image(x)
        self._warn_of_coarse_pixels(x)
        return self._solve(x, self.incident.expand(len(x), -1, -1, -1))

    def _forward(self, x: Tensor) -> Tensor:
        return _Scatter.apply(x, self)

    def _pullback(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The data and the map v -> J(x)^H v: one solve each."""
        with torch.no_grad():
            u = self.fields(x)
            currents = (u * x).flatten(2)
            rows = torch.cat([currents.real, currents.imag], dim=1)
            y = self.receivers.record(self.receivers.split(rows))

        def pull(v: Tensor) -> Tensor:
            with torch.no_grad():
                # spread is S^H v; the conjugate of it is the source of the adjoint field
                rows = self.receivers.join(self.receivers.spread(v.to(y.dtype)))
                real, imaginary = rows.chunk(2, dim=1)
                source = torch.complex(real, -imaginary).unflatten(-1, self.image_shape[1:])
                return (u * self._solve(x, source)).real.sum(dim=1, keepdim=True)

        return y, pull

    def _solve(self, x: Tensor, source: Tensor) -> Tensor:
        """(I - K F)^-1 source, (B, n_tx, N, N)."""
        batch, transmitters = source.shape[:2]
        tolerance = max(self.tolerance, 10 * torch.finfo(x.dtype).eps)
        contrast = x.expand(-1, transmitters, -1, -1).flatten(0, 1)
        fields, residual = bicgstab(
            lambda u: u - self._convolve(contrast * u),
            source.flatten(0, 1),
            x0=source.flatten(0, 1),
            iterations=self.iterations,
            tolerance=tolerance,
        )
        # The recursion's residual, which stops the iteration, drifts from the true one.
        failed = ~(residual <= 10 * tolerance)
        if bool(failed.any()):
            raise NotConverged(
                f"FullWaveScattering: {int(failed.sum())} of {batch * transmitters} fields did not "
                f"converge in {self.iterations} iterations: relative residual "
                f"{float(residual.max()):.2g}, wanted {tolerance:g}. The contrast goes from "
                f"{float(x.min()):.3g} to {float(x.max()):.3g}: too much for so large an image. "
                "Samplers come upon such images by accident, mostly where the first, made of "
                "noise, fills the square: take the method frequency_hopping, which starts anew "
                "from no object, lower the limits of the contrast (in a card image.max_contrast, "
                "e.g. 2.0) or leave out the highest frequency. Where this very image is meant, "
                "give more iterations, e.g. 5000, or dtype=torch.float64.",
                failed.unflatten(0, (batch, transmitters)).any(1),
            )
        return fields.unflatten(0, (batch, transmitters))

    def _convolve(self, w: Tensor) -> Tensor:
        """K w, (..., N, N)."""
        n = w.shape[-1]
        spectrum = torch.fft.fft2(w, s=(2 * n, 2 * n)) * self.kernel
        return torch.fft.ifft2(spectrum)[..., :n, :n]

    def _warn_of_coarse_pixels(self, x: Tensor) -> None:
        resolved = self.geometry.pixels_per_wavelength
        if float(x.detach().max()) > (resolved / 8) ** 2 - 1:
            warnings.warn(  # the same text for every image, so that it is shown once
                f"FullWaveScattering: {resolved:.1f} pixels per wavelength of free space leave at "
                f"least 8 in media up to eps_r {(resolved / 8) ** 2:.2f}; an image exceeds that, "
                "where its fields are wrong by more than about 1 %. Use a larger npix.",
                stacklevel=3,
            )


class _Scatter(torch.autograd.Function):
    """The forward map with the adjoint-state gradient as its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: FullWaveScattering) -> Tensor:
        y, ctx.pull = operator._pullback(x)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None]:
        return ctx.pull(v), None


def _convolution_kernel(geometry: ScatteringGeometry) -> NDArray[np.complexfloating]:
    """Transform of k^2 dx^2 g on the doubled grid, (2 N, 2 N)."""
    n, step = geometry.npix, geometry.wavenumber * geometry.pixel_size
    offsets = np.minimum(np.arange(2 * n), 2 * n - np.arange(2 * n))  # distance on the ring
    apart = step * np.hypot(offsets[:, None], offsets[None])
    apart[0, 0] = 1.0  # any: the next line but one sets it
    values = green(apart)
    values[0, 0] = _own_pixel(step)
    return np.fft.fft2(step**2 * values)


def _own_pixel(width: float) -> complex:
    """What a pixel of side `width` (times k) contributes to its own field, in units of its area.

    Near 0, g = i/4 - (ln(r/2) + gamma) / 2 pi. The trapezoidal rule on a square grid, the origin
    left out, misses of ln r the share ln h - c with c = ln(Gamma(1/4)^2 / (2 sqrt(pi))); with it
    the rule is of fourth order where f u is smooth. (The mean of g over the pixel, which is often
    taken, leaves an error of second order, some 2 % at 10 pixels per wavelength.)

    Source: Marin, Runborg and Tornberg 2014, IMA J. Numer. Anal. 34, 509.
    """
    missed = np.log(width / 2) + np.euler_gamma - np.log(special.gamma(0.25) ** 2 / 2 / np.pi**0.5)
    return complex(0.25j - missed / (2 * np.pi))

"""Classical reconstructions of multi-coil MRI: CG-SENSE, wavelet-l1, total variation.

Sources: Pruessmann et al. 2001 (CG-SENSE), Lustig et al. 2007 (compressed sensing MRI), Ramani and
Fessler 2011 (the method of both: augmented Lagrangian, split so that every step is exact).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from lmaps_science.arrays import as_channels, centred_fft2, norm
from lmaps_science.linalg import conjugate_gradient
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.physics.mri import MultiCoilMRI

__all__ = ["sense_reconstruction"]

RELAXATION = 1.6  # of the constraints, beyond 1
STRIDE = 10  # iterations between two looks at how far the image has moved


def sense_reconstruction(
    misfit: GaussianMisfit,
    regulariser: Literal["l2", "wavelet", "tv"] = "wavelet",
    weight: float = 0.005,
    iterations: int = 2000,
    tolerance: float = 5e-5,
    callback: Callable[[int, float], None] | None = None,
) -> Tensor:
    r"""The minimiser of :math:`\tfrac12 ||y - M F S x||^2 + \lambda R(x)`, (B, 2, H, W).

    Args:
        misfit: of a `MultiCoilMRI`, with maps for all images.
        regulariser: `"l2"`: half the squared norm (CG-SENSE); `"wavelet"`: the l1 norm of
            wavelet coefficients (Daubechies 4, by SigPy); `"tv"`: that of the differences.
        weight: lambda, in units of the image; it wants tuning to noise and acceleration.
        iterations: at most so many; a warning says when they were too few.
        tolerance: it ends when the image has moved by less than this, relative, in ten iterations
            (l2: when it is that close to the minimiser); 0 makes all iterations (but for l2).
        callback: called as `callback(iterations, movement)` every ten iterations, not for l2.

    Raises:
        ImportError: SigPy is missing (extra `mri`), for wavelets.
        ValueError: unknown regulariser, negative weight, no iteration, or another kind of misfit.
    """
    operator = misfit.operator
    if regulariser not in ("l2", "wavelet", "tv") or not weight >= 0 or iterations < 1:
        raise ValueError(
            f"sense_reconstruction: regulariser {regulariser!r} of weight {weight}, {iterations} "
            "iterations; expected 'l2', 'wavelet' or 'tv', a weight >= 0, and at least one "
            "iteration, e.g. 'wavelet', 0.005, 2000."
        )
    if not isinstance(operator, MultiCoilMRI) or operator.batch is not None:
        raise ValueError(
            f"sense_reconstruction: expected the misfit of a MultiCoilMRI operator with maps "
            f"(coils, H, W) and a mask (H, W), got {misfit!r}."
        )
    if regulariser == "l2":
        return _least_squares(operator, misfit.y, weight, iterations, tolerance)
    sparse = _Differences(operator) if regulariser == "tv" else _Wavelets(operator)
    images = [
        _sparse(operator, y, sparse, weight, iterations, tolerance, callback) for y in misfit.y
    ]
    return as_channels(torch.stack(images))


def _least_squares(
    operator: MultiCoilMRI, y: Tensor, weight: float, iterations: int, tolerance: float
) -> Tensor:
    """Conjugate gradients on (A^H A + lambda) x = A^H y."""

    def matvec(x: Tensor) -> Tensor:
        return operator.normal(x) + weight * x

    b = operator.adjoint(y)
    # The relative error of x is at most that of the residual times the condition number.
    condition = (_largest(operator) + weight) / weight if weight else 1e3
    goal = max(tolerance / condition, 1e-12)  # below, single precision underflows
    x = conjugate_gradient(matvec, b, iterations=iterations, tolerance=goal)
    floor = 10 * torch.finfo(b.dtype).eps  # of what rounding lets a residual be
    if tolerance and bool((norm(b - matvec(x)) > 10 * max(goal, floor) * norm(b)).any()):
        _warn(iterations, tolerance)
    return x


def _sparse(
    operator: MultiCoilMRI,
    y: Tensor,
    sparse: _Sparse,
    weight: float,
    iterations: int,
    tolerance: float,
    callback: Callable[[int, float], None] | None,
) -> Tensor:
    """The minimiser (H, W) for k-space y (coils, H, W), by the augmented Lagrangian.

    Coil images z = S x and coefficients c = G x are unknowns of their own, tied to x by scaled
    multipliers. One more coil, which sees what the others do not and is never sampled, makes
    S^H S a multiple of the identity, so that x, z and c have closed forms each.
    """
    maps, largest = operator.maps, _largest(operator)
    unseen = (largest - maps.abs().square().sum(0)).clamp_min(0).sqrt().to(maps)
    maps = torch.cat([maps, unseen[None]])
    mask = operator.mask.to(y.real).expand(y.shape[-2:])
    mask = torch.cat([mask.expand(len(y), -1, -1), torch.zeros_like(mask)[None]])
    # In the order of an FFT without shifts, which the mask follows as an array and y by its image.
    coil_images = centred_fft2((mask[:-1] * y).conj()).conj()
    data = torch.fft.fft2(torch.cat([coil_images, torch.zeros_like(coil_images[:1])]), norm="ortho")
    mask = torch.fft.ifftshift(mask, dim=(-2, -1))

    coils, tie = sparse.coils, sparse.pace * max(weight, 1e-4)  # weights of z = S x and c = G x
    x = torch.zeros_like(maps[0])
    z, c = torch.zeros_like(maps), torch.zeros_like(sparse(x))
    z_dual, c_dual, last = z, c, x
    for k in range(1, iterations + 1):
        right = coils * (maps.conj() * (z - z_dual)).sum(0)
        right = right + tie * sparse.adjoint(c - c_dual)
        x = sparse.solve(right, coils * largest, tie)
        seen = RELAXATION * maps * x + (1 - RELAXATION) * z + z_dual
        spectrum = (data + coils * torch.fft.fft2(seen, norm="ortho")) / (mask + coils)
        z = torch.fft.ifft2(spectrum, norm="ortho")
        z_dual = seen - z
        felt = RELAXATION * sparse(x) + (1 - RELAXATION) * c + c_dual
        c = _shrunk(felt, weight / tie)
        c_dual = felt - c
        if k % STRIDE == 0:
            moved = float(torch.linalg.vector_norm(x - last) / torch.linalg.vector_norm(x))
            last = x
            if callback is not None:
                callback(k, moved)
            if moved < tolerance:
                return x
    if tolerance:
        _warn(iterations, tolerance)
    return x


def _shrunk(c: Tensor, by: float) -> Tensor:
    """Complex numbers with moduli smaller by this, or 0."""
    modulus = c.abs()
    return c * ((modulus - by).clamp_min(0) / modulus.clamp_min(torch.finfo(modulus.dtype).tiny))


def _warn(iterations: int, tolerance: float) -> None:
    warnings.warn(
        f"sense_reconstruction: after {iterations} iterations the image still moves by more than "
        f"{tolerance:g}, relative: allow more iterations, or a larger weight.",
        stacklevel=3,
    )


def _largest(operator: MultiCoilMRI) -> float:
    """The largest sum_c |S_c|^2, which bounds the eigenvalues of the normal operator."""
    return float(operator.maps.abs().square().sum(0).max())


# ---------------------------------------------------------------- what is sparse


class _Sparse(Protocol):
    """G, of which the l1 norm is small: complex (H, W) -> complex coefficients.

    Attributes:
        coils: what z = S x weighs in the augmented Lagrangian.
        pace: what c = G x weighs, in units of lambda. Both change the number of iterations, not the
            minimiser: the best of a few for brain scans, masks of lines and of points, and images
            of unit 99th percentile.
    """

    coils: float
    pace: float

    def __call__(self, x: Tensor) -> Tensor: ...

    def adjoint(self, c: Tensor) -> Tensor: ...

    def solve(self, right: Tensor, a: float, b: float) -> Tensor:
        """x of (a + b G^H G) x = right."""


class _Differences:
    """Differences of neighbours along both axes, which go round the border."""

    coils, pace = 0.05, 30.0

    def __init__(self, operator: MultiCoilMRI):
        like = operator.like
        turns = [torch.arange(n, dtype=torch.float64) / n for n in operator.image_shape[1:]]
        rows, columns = (2 - 2 * torch.cos(2 * math.pi * turn) for turn in turns)
        self.eigenvalues = (rows[:, None] + columns).to(like)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack([x - x.roll(1, -2), x - x.roll(1, -1)])

    def adjoint(self, c: Tensor) -> Tensor:
        return c[0] - c[0].roll(-1, -2) + c[1] - c[1].roll(-1, -1)

    def solve(self, right: Tensor, a: float, b: float) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(right) / (a + b * self.eigenvalues))


class _Wavelets:
    """SigPy's Daubechies wavelets of order 4, zero beyond the border: G^H G = 1."""

    coils, pace = 0.02, 3.0

    def __init__(self, operator: MultiCoilMRI):
        try:
            import sigpy
        except ImportError as error:
            raise ImportError(
                "wavelet reconstruction needs SigPy: pip install 'lmaps-science[mri]'"
            ) from error
        self.transform: Any = sigpy.linop.Wavelet(operator.image_shape[1:], wave_name="db4")

    def __call__(self, x: Tensor) -> Tensor:
        return self._applied(self.transform, x)

    def adjoint(self, c: Tensor) -> Tensor:
        return self._applied(self.transform.H, c)

    def solve(self, right: Tensor, a: float, b: float) -> Tensor:
        return right / (a + b)

    @staticmethod
    def _applied(transform: Any, x: Tensor) -> Tensor:
        return torch.as_tensor(np.asarray(transform(x.cpu().numpy()))).to(x)

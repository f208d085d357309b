r"""Classical reconstructions from linear data: back-propagation, Tikhonov, total variation.

All take the misfit of a linear operator on images of the contrast. Weights are relative to the
largest eigenvalue of A^H A / variance, so that they do not depend on the unit of the data.

Sources: Devaney 1982 (filtered back-propagation); Beck and Teboulle 2009 (FISTA with TV).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lmaps_science.arrays import inner, norm
from lmaps_science.linalg import conjugate_gradient
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import LinearOperator
from lmaps_science.physics.born_svd import BornSVD
from lmaps_science.physics.scattering import BornScattering, ScatteringGeometry
from lmaps_science.priors.total_variation import tv_prox

__all__ = ["filtered_back_propagation", "fista_tv", "tikhonov"]


def filtered_back_propagation(misfit: GaussianMisfit, geometry: ScatteringGeometry) -> Tensor:
    r"""The adjoint, its spectrum multiplied by :math:`|K| \sqrt{1 - |K|^2 / 4 k^2}`, (B, 1, N, N).

    With sources and receivers all around in the far field, A^H A multiplies the spectrum by the
    inverse of that: the density of the differences K of two points on the circle of radius k.
    Frequencies beyond 2 k, which no datum sees, are 0. The least-squares fit to the data sets the
    scale.

    The adjoint decays slowly and does not end where the image ends: cut off there, the filter would
    turn the step into a bright frame. It is taken on a square twice as wide (or as wide as fits
    between the receivers) and filtered there.

    Args:
        misfit: of a `BornScattering`, or of its singular value decomposition.
        geometry: the operator's.

    Raises:
        ValueError: another operator.
    """
    operator = _linear(misfit, "filtered_back_propagation")
    born = operator.operator if isinstance(operator, BornSVD) else operator
    if not isinstance(born, BornScattering):
        raise ValueError(
            f"filtered_back_propagation needs the Born approximation of one frequency, got {born!r}"
            ". Example: GaussianMisfit(BornScattering(geometry), y, sigma)."
        )
    n, pixel = geometry.npix, geometry.pixel_size
    radius = min(geometry.transmitter_radius, geometry.receiver_radius)
    margin = max(min(n // 2, int(radius / (math.sqrt(2) * pixel)) - n // 2 - 1), 0)
    wide = n + 2 * margin
    back = BornScattering(
        replace(geometry, npix=wide, side=wide * pixel),
        conjugate_incident=born.conjugate_incident,
        tolerance=born.tolerance,
        dtype=born.like.dtype,
        device=born.like.device,
    ).adjoint(misfit.y)
    frequency = torch.fft.fftfreq(wide, pixel, dtype=torch.float64)
    squared = 4 * math.pi**2 * (frequency[:, None] ** 2 + frequency**2)  # |K|^2
    gain = (squared * (1 - squared / (2 * geometry.wavenumber) ** 2).clamp_min(0)).sqrt()
    inside = slice(margin, margin + n)
    image = torch.fft.ifft2(torch.fft.fft2(back) * gain.to(back)).real[..., inside, inside]
    predicted = operator(image)
    fit = inner(predicted, misfit.y).real / inner(predicted, predicted).real
    return image * fit[:, None, None, None]


def tikhonov(
    misfit: GaussianMisfit, weight: float = 1e-3, *, iterations: int = 100, tolerance: float = 1e-4
) -> Tensor:
    r"""The minimiser of the misfit plus :math:`\tfrac{w}{2} ||x||^2`, by conjugate gradients.

    Args:
        misfit: of a linear operator.
        weight: > 0, relative to the largest eigenvalue of the misfit's Hessian.
        iterations, tolerance: of conjugate gradients.

    Raises:
        ValueError: a weight that is not positive.
    """
    if not weight > 0:
        raise ValueError(f"tikhonov needs weight > 0, got {weight}. Example: 1e-3.")
    normal, b = _normal_equations(misfit, "tikhonov")
    largest = _largest_eigenvalue(normal, b)
    return conjugate_gradient(
        lambda x: normal(x) / largest + weight * x,
        b / largest,
        iterations=iterations,
        tolerance=tolerance,
    )


def fista_tv(
    misfit: GaussianMisfit,
    weight: float = 1e-4,
    *,
    limits: tuple[float, float] = (0.0, 1.0),
    iterations: int = 200,
) -> Tensor:
    r"""The minimiser of the misfit plus :math:`w\, TV(x)` within `limits`, by FISTA.

    Args:
        misfit: of a linear operator.
        weight: >= 0, relative to the largest eigenvalue of the misfit's Hessian; it wants tuning.
        limits: smallest and largest value of a pixel.
        iterations: of FISTA, each with ten of the proximal map, which starts where the last ended.

    Raises:
        ValueError: a negative weight, no iteration, or limits in the wrong order.
    """
    if not (weight >= 0 and iterations >= 1 and limits[0] < limits[1]):
        raise ValueError(
            "fista_tv needs weight >= 0, iterations >= 1 and limits (low, high), got "
            f"{weight}, {iterations} and {limits}. Example: weight=1e-4, limits=(0, 1)."
        )
    normal, b = _normal_equations(misfit, "fista_tv")
    step = 1 / (1.02 * _largest_eigenvalue(normal, b))
    x = momentum = torch.zeros_like(b)
    t, dual = 1.0, None
    for _ in range(iterations):
        descended = momentum - step * (normal(momentum) - b)
        new, dual = tv_prox(descended, weight, limits=limits, iterations=10, dual=dual)
        t_new = (1 + math.sqrt(1 + 4 * t * t)) / 2
        momentum = new + (t - 1) / t_new * (new - x)
        x, t = new, t_new
    return x


def _linear(misfit: GaussianMisfit, owner: str) -> LinearOperator:
    operator = misfit.operator
    if not isinstance(operator, LinearOperator):
        raise ValueError(
            f"{owner} needs the misfit of a linear operator on the contrast, got {operator!r}. "
            "Example: GaussianMisfit(BornScattering(geometry), y, sigma)."
        )
    return operator


def _normal_equations(
    misfit: GaussianMisfit, owner: str
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """x -> A^H A x / variance, and A^H y / variance."""
    operator = _linear(misfit, owner)
    b = operator.adjoint(misfit.y / misfit.variance)
    return lambda x: operator.adjoint(operator(x) / misfit.variance), b


def _largest_eigenvalue(normal: Callable[[Tensor], Tensor], like: Tensor) -> float:
    """By power iteration from the data's own back-projection, to about a per cent."""
    x, value = like[:1], 0.0
    for _ in range(30):
        x = normal(x / norm(x).clamp_min(torch.finfo(x.dtype).tiny).reshape(-1, 1, 1, 1))
        previous, value = value, float(norm(x))
        if abs(value - previous) <= 1e-3 * value:
            break
    return value

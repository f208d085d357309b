r"""Total variation: its proximal map, and the prior of piecewise-constant images that it makes.

.. math:: TV(z) = \sum_p |(\nabla z)_p|, \quad
          (\nabla z)_p = (z_{p+e_y} - z_p,\; z_{p+e_x} - z_p)

Source: Beck and Teboulle 2009, IEEE Trans. Image Process. 18, 2419 (FGP).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lmaps_science.priors.base import Denoiser

__all__ = ["TotalVariationPrior", "total_variation", "tv_prox"]


def total_variation(z: Tensor) -> Tensor:
    """TV of each image, isotropic: (B, C, H, W) -> (B,)."""
    return torch.linalg.vector_norm(_gradient(z), dim=0).flatten(1).sum(1)


def tv_prox(
    x: Tensor,
    weight: float | Tensor,
    *,
    limits: tuple[float, float] = (-math.inf, math.inf),
    iterations: int = 100,
    dual: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The minimiser of :math:`\tfrac12 ||z - x||^2 + w\, TV(z)` within `limits`.

    Args:
        x: images (B, C, H, W).
        weight: w >= 0, a number or (B,), in units of the image.
        limits: smallest and largest value of a pixel.
        iterations: of the fast gradient projection on the dual problem.
        dual: where to start, e.g. what a call on a similar image returned; 0 when None.

    Returns:
        The images, like `x`, and their dual variables (2, B, C, H, W).
    """
    w = torch.as_tensor(weight, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)
    p = x.new_zeros(2, *x.shape) if dual is None else dual
    r, t = p, 1.0
    for _ in range(iterations):
        z = (x - w * _adjoint(r)).clamp(*limits)
        # 1/8 is the largest step that the norm of the gradient allows; w = 0 needs none
        q = r + _gradient(z) / (8 * w).clamp_min(torch.finfo(x.dtype).tiny)
        new = q / torch.linalg.vector_norm(q, dim=0).clamp_min(1.0)  # its derivative at 0 is 0
        t_new = (1 + math.sqrt(1 + 4 * t * t)) / 2
        r = new + (t - 1) / t_new * (new - p)
        p, t = new, t_new
    return (x - w * _adjoint(p)).clamp(*limits), p


class TotalVariationPrior(Denoiser):
    r"""Piecewise-constant images, :math:`p(x_0) \propto e^{-w\,TV(x_0)}` within `value_range`.

    .. math:: D(x, \sigma) = \arg\min_z \tfrac12 ||z - x||^2 + \sigma^2 w\, TV(z)

    This is the most probable clean image, not the mean of all: no closed form is known for that.
    It needs no training, and respects the limits of the value range at every noise level.

    Args:
        image_shape: (C, H, W).
        weight: w, in inverse units of the image: about one over the change between two
            neighbouring pixels that noise, not an edge, makes.
        value_range: limits of the images.
        iterations: of `tv_prox`.

    Example:
        >>> prior = TotalVariationPrior((1, 16, 16), weight=5.0)
        >>> prior(torch.rand(2, 1, 16, 16), 0.1).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        weight: float = 5.0,
        value_range: tuple[float, float] = (-1.0, 1.0),
        iterations: int = 100,
    ) -> None:
        if not (0 < weight < math.inf and value_range[0] < value_range[1] and iterations >= 1):
            raise ValueError(
                "TotalVariationPrior needs weight > 0, a value range and iterations >= 1, got "
                f"{weight}, {value_range} and {iterations}. Example: weight=5.0."
            )
        self.image_shape, self.value_range = image_shape, value_range
        self.weight, self.iterations = weight, iterations

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        strength = self.weight * sigma**2
        return tv_prox(x, strength, limits=self.value_range, iterations=self.iterations)[0]

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, weight {self.weight:g})"


def _gradient(z: Tensor) -> Tensor:
    """Differences to the next pixel down and right, 0 at the last: (2, B, C, H, W)."""
    down = F.pad(z[..., 1:, :] - z[..., :-1, :], (0, 0, 0, 1))
    right = F.pad(z[..., 1:] - z[..., :-1], (0, 1))
    return torch.stack([down, right])


def _adjoint(p: Tensor) -> Tensor:
    """The adjoint of `_gradient`: (2, B, C, H, W) -> (B, C, H, W)."""
    down, right = p[0][..., :-1, :], p[1][..., :-1]
    return (
        F.pad(down, (0, 0, 1, 0)) - F.pad(down, (0, 0, 0, 1))
        + F.pad(right, (1, 0)) - F.pad(right, (0, 1))
    )  # fmt: skip

r"""The variational mode-seeking loss of a noisy image: its value and its gradient.

With `D = D(x, sigma)` and `Cov = sigma^2 J` the moments of the clean image given the noisy one,

.. math:: VML(x, \sigma) = KL(p(x_0 | x_\sigma = x)\, ||\, p(x_0 | y)) + const
    = -\log p_\sigma(x) - \frac{||D - x||^2 + Tr\, Cov}{2 \sigma^2} + L(D)
    + \tfrac12 Tr(\nabla^2 L\, Cov)

and the simplified loss leaves out both traces, which tend to a constant as sigma tends to 0. For a
Gaussian prior they are constants, and the denoised image of the minimiser is the mode at every
sigma.

Source: "Mode-seeking for inverse problems with diffusion models", propositions 1 and 2, eq. 5, 6.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lmaps_science.arrays import inner
from lmaps_science.misfit import GaussianMisfit, Misfit
from lmaps_science.priors import Denoiser, GaussianMixturePrior, GaussianPrior

__all__ = ["bracket", "vml_loss"]


def bracket(
    prior: Denoiser, misfit: Misfit, x: Tensor, sigma: float
) -> tuple[Tensor, Tensor, Tensor, Callable[[Tensor], Tensor]]:
    r"""What the gradient of the simplified loss is made of (eq. 6), for any misfit.

    .. math:: \nabla VML_S = -J^T \left[\frac{D - x}{\sigma^2} - \nabla L(D)\right]

    Returns:
        The bracket, the slope of L, the denoised images, and the map v -> J^T v.
    """
    denoised, pull = prior.pullback(x, sigma)
    slope = misfit.gradient(denoised)[0]
    return (denoised - x) / sigma**2 - slope, slope, denoised, pull


def vml_loss(
    prior: GaussianPrior | GaussianMixturePrior,
    misfit: Misfit,
    x: Tensor,
    sigma: float,
    traces: bool = True,
) -> Tensor:
    """The loss (B,) of images (B, C, H, W), differentiable; of a prior with a known density.

    Args:
        prior: one with `log_prob`.
        misfit: of model-space images.
        x: noisy images.
        sigma: their noise level.
        traces: whether to take the traces, too: the full matrix J, d vector-Jacobian products for d
            pixels, and a linear operator with Gaussian noise. False is the simplified loss.

    Raises:
        ValueError: the traces are wanted, and the operator is nonlinear or the noise not Gaussian.
    """
    denoised = prior(x, sigma)
    loss = -prior.log_prob(x, sigma) - inner(denoised - x, denoised - x) / (2 * sigma**2)
    loss = loss + misfit(denoised)
    if not traces:
        return loss
    jacobian = _jacobian(prior, x, sigma)
    hessian = _hessian(misfit.gaussian(), x)
    data = (hessian * jacobian.mT).sum(dim=(1, 2))  # Tr(A^T A / sigma_y^2 J)
    return loss - 0.5 * jacobian.diagonal(dim1=1, dim2=2).sum(1) + 0.5 * sigma**2 * data


def _jacobian(prior: Denoiser, x: Tensor, sigma: float) -> Tensor:
    """J, (B, d, d); differentiable where `x` is."""
    kept = x.requires_grad
    with torch.enable_grad():
        leaf = x if kept else x.detach().requires_grad_()
        flat = prior(leaf, sigma).flatten(1)
        rows = [torch.autograd.grad(f.sum(), leaf, create_graph=True)[0] for f in flat.T]
    jacobian = torch.stack([row.flatten(1) for row in rows], 1)
    return jacobian if kept else jacobian.detach()


def _hessian(misfit: GaussianMisfit, x: Tensor) -> Tensor:
    """A^T A / variance, (1, d, d); the same for all images."""
    d = x[0].numel()
    unit = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, *x.shape[1:])
    return misfit.hessian(unit).reshape(1, d, d)

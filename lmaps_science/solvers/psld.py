r"""Posterior sampling with latent diffusion (PSLD): DPS on latents, glued to the encoder.

Source: Rout et al. 2023, "Solving Linear Inverse Problems Provably via Posterior Sampling with
Latent Diffusion Models", NeurIPS, in noise-level notation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lmaps_science.arrays import norm, per_sample
from lmaps_science.sampling import InverseProblem
from lmaps_science.search import Range, Space
from lmaps_science.solvers.dps import DPS
from lmaps_science.solvers.guidance import Guidance, residual_of

__all__ = ["PSLD"]


@dataclass(frozen=True)
class PSLD(DPS):
    r"""DPS on the latents of an autoencoder, where the denoised latent must be a fixed point, too.

    With the decoder D, the encoder E, the denoised latent z and the image x = D(z), the steps of
    DPS follow the gradient of

    .. math:: \frac{||y - A x||}{||A||} + \gamma\, ||z - E(x + A^H (y - A x) / ||A||^2)||

    down to 0. The second term glues: of the many latents that explain the data, it wants one that
    the autoencoder gives back when the data have corrected its image. For masks, where A^H A
    projects, the corrected image is the paper's, `A^H y + (I - A^H A) x`; other operators are not
    as wide as that, and the correction is a step down the residual. Data weigh by their noise.

    It needs a prior of latents, and Gaussian data that are linear in the image, not in the latent.
    A level costs what one of DPS does, a pass of the encoder and back, and one more A^H A.

    Known bias: that of DPS.

    Args:
        levels, zeta, scale_free, time_min, conditional: as in DPS, for the sum of both terms.
        gluing: gamma, relative to the residual in units of the image; 0 is DPS.

    Example:
        >>> problem = load_problem("scattering/linear_60_latent")  # doctest: +SKIP
        >>> result = sample(problem, PSLD(levels=300), n_samples=4)  # doctest: +SKIP
    """

    gluing: float = 0.1
    search: ClassVar[Space] = {
        "zeta": Range(0.02, 2.0, log=True),
        "gluing": Range(0.01, 1.0, log=True),
    }

    def __post_init__(self) -> None:
        if not self.gluing >= 0:
            raise ValueError(f"PSLD needs gluing >= 0, got {self.gluing}. Example: 0.1.")
        super().__post_init__()

    @property
    def requires(self) -> frozenset[str]:
        """A differentiable problem of latents with Gaussian noise."""
        return super().requires | {"encoder", "gaussian"}

    def prepare(self, problem: InverseProblem) -> Tensor:
        """||A||^2 over the noise, (1 or B,); ValueError where images make data nonlinearly."""
        misfit = problem.autoencoder()[0].gaussian()
        variance = misfit.variance
        own = variance.ndim == misfit.y.ndim
        finest = variance.flatten(1).amin(1) if own else variance.min()
        return misfit.linear().norms(like=variance).square() / finest

    def guide(self, problem: InverseProblem, x: Tensor, sigma: float) -> Guidance:
        """Both terms at the denoised latent, and the gradient of their sum by `x`."""
        (misfit, decoder), curvature = problem.autoencoder(), problem.prepared
        latent, pull = problem.prior.pullback(x, sigma)
        image, undecode = decoder.pullback(latent)
        slope, loss = misfit.gradient(image)
        tiny = torch.finfo(image.dtype).tiny
        residual = residual_of(loss, 1 / curvature)
        downhill = per_sample(1 / (curvature * residual), image) * slope
        with torch.enable_grad():
            corrected = (image - per_sample(1 / curvature, image) * slope).requires_grad_()
            apart = latent - decoder.encode(corrected)
        distance = norm(apart.detach()).clamp_min(tiny)
        along = apart.detach() / per_sample(distance, apart)
        back = torch.autograd.grad(apart, corrected, -along)[0]
        back = back - per_sample(1 / curvature, image) * misfit.gaussian().hessian(back)
        total = undecode(downhill - self.gluing * back) + self.gluing * along
        return Guidance(latent, residual + self.gluing * distance, pull(total))

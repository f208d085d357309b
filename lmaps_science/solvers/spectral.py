"""A linear problem with white noise in the coordinates of its operator's singular vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lmaps_science.operators import SVDOperator
from lmaps_science.sampling import InverseProblem


@dataclass(frozen=True)
class Spectrum:
    """Each datum is one coefficient of the image, `V^T x`, with noise of its own.

    Attributes:
        operator: the linear part A of the problem's operator.
        data: `S^-1 U^T (y - H(0))`, (1 or B, r); 0 where the singular value is.
        noise: its standard deviations `sigma_y / s`, (1 or B, r); infinite where s is 0.
    """

    operator: SVDOperator
    data: Tensor
    noise: Tensor

    @property
    def seen(self) -> Tensor:
        """Where there are data, (1 or B, r)."""
        return torch.isfinite(self.noise)


def spectrum(problem: InverseProblem, tolerance: float = 1e-6) -> Spectrum:
    """Of a problem that is gaussian and svd; an s up to `tolerance` max(s) counts as zero.

    Raises:
        ValueError: some data are noisier than others, so that their combinations `U^T y` are not
            independent.
    """
    misfit, operator = problem.gaussian(), problem.svd()
    common = misfit.common_variance
    if common is None:
        sigma = misfit.sigma
        raise ValueError(
            f"a method in the coordinates of an SVD needs one noise level for all data, here it "
            f"runs from {float(sigma.min()):g} to {float(sigma.max()):g}. Divide operator and data "
            "by the noise, or choose a solver without SVD, e.g. PiGDM()."
        )
    s = operator.singular_values
    seen = s > tolerance * s.max()
    safe = torch.where(seen, s, 1)
    offset = misfit.operator(problem.like(1))  # H may be affine
    data = torch.where(seen, operator.Ut(misfit.y - offset) / safe, 0)
    # The coefficients are real, also those of complex data.
    deviation = common.sqrt().reshape(-1, 1)
    return Spectrum(operator, data, torch.where(seen, deviation / safe, torch.inf))

"""The classical reconstruction: filtered back-projection.

Sources: Kak and Slaney 1988, Principles of Computerized Tomographic Imaging, chapter 3; the filter
of Shepp and Logan 1974.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .radon import Radon

__all__ = ["filtered_back_projection"]


def filtered_back_projection(
    sinogram: Tensor, operator: Radon, width: float, pixel: float
) -> Tensor:
    r"""Images (B, 1, N, N) in 1/cm of sinograms (B, angles, bins): filter, then adjoint.

    .. math:: h_n = \frac{2}{\pi^2 w (1 - 4 n^2)}

    Args:
        sinogram: line integrals at angles that divide half a turn.
        operator: of these projections.
        width, pixel: w of a detector bin, and side of a pixel, in cm.
    """
    angles, bins = sinogram.shape[1:]
    n = torch.arange(1 - bins, bins).to(sinogram)
    kernel = 2 / (math.pi**2 * width * (1 - 4 * n**2))
    filtered = torch.conv1d(sinogram.flatten(0, 1)[:, None], kernel[None, None], padding=bins - 1)
    # The adjoint adds pixel^2 / width of each projection; their integral is over half a turn.
    scale = math.pi / angles * width / pixel**2
    return scale * operator.adjoint(filtered.reshape(sinogram.shape))

"""Classical reconstructions of multi-coil MRI, by SigPy: CG-SENSE, wavelet-l1, total variation.

Sources: Pruessmann et al. 2001 (CG-SENSE), Lustig et al. 2007 (compressed sensing MRI).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lmaps_science.misfit import GaussianMisfit
from lmaps_science.physics.mri import MultiCoilMRI

__all__ = ["sense_reconstruction"]

APPS = {"l2": "SenseRecon", "wavelet": "L1WaveletRecon", "tv": "TotalVariationRecon"}


def sense_reconstruction(
    misfit: GaussianMisfit,
    regulariser: Literal["l2", "wavelet", "tv"] = "wavelet",
    weight: float = 0.005,
    iterations: int = 100,
) -> Tensor:
    r"""The minimiser of :math:`\tfrac12 ||y - M F S x||^2 + \lambda R(x)`, (B, 2, H, W).

    Args:
        misfit: of a :class:`~lmaps_science.physics.mri.MultiCoilMRI`, with maps for all images.
        regulariser: ``"l2"``: half the squared norm (CG-SENSE); ``"wavelet"``: the l1 norm of
            wavelet coefficients (Daubechies 4); ``"tv"``: that of the differences.
        weight: lambda, in units of the image; it wants tuning to noise and acceleration.
        iterations: of conjugate gradients, FISTA or the primal-dual method.

    Raises:
        ImportError: SigPy is missing (extra ``mri``).
        ValueError: unknown regulariser, negative weight, or another kind of misfit.
    """
    try:
        from sigpy.mri import app
    except ImportError as error:
        raise ImportError(
            "classical MRI reconstruction needs SigPy: pip install 'lmaps-science[mri]'"
        ) from error
    operator = misfit.operator
    if regulariser not in APPS or not weight >= 0:
        raise ValueError(
            f"sense_reconstruction: regulariser {regulariser!r} of weight {weight}; expected one "
            f"of {', '.join(APPS)} and a weight >= 0, e.g. 'wavelet', 0.005."
        )
    if not isinstance(operator, MultiCoilMRI) or operator.maps.ndim != 3:
        raise ValueError(
            f"sense_reconstruction: expected the misfit of one MultiCoilMRI operator, got "
            f"{misfit!r}."
        )
    maps = operator.maps.cpu().numpy()
    mask = operator.mask.expand(maps.shape[1:]).cpu().numpy().astype(np.float32)
    images = []
    for y in misfit.y.cpu().numpy():
        recon = getattr(app, APPS[regulariser])(
            y, maps, lamda=weight, weights=mask, max_iter=iterations, show_pbar=False
        )
        image = torch.as_tensor(np.asarray(recon.run()))
        images.append(torch.stack([image.real, image.imag]))
    return torch.stack(images).to(misfit.y.real)

"""Classical reconstructions of multi-coil MRI, by SigPy: CG-SENSE, wavelet-l1, total variation.

Sources: Pruessmann et al. 2001 (CG-SENSE), Lustig et al. 2007 (compressed sensing MRI).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lmaps_science.misfit import GaussianMisfit
from lmaps_science.physics.mri import MultiCoilMRI

__all__ = ["sense_reconstruction"]

# The dual step of the primal-dual method. SigPy's own, 1, suits dual variables as large as the
# image; here they are at most lambda, and the image, about 1, then moves too little: 1,000
# iterations instead of 100.
DUAL_STEP = 0.1


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
        iterations: of conjugate gradients, FISTA or the primal-dual method; 100 come within 1 %
            of the minimum of undersampled scans.

    Raises:
        ImportError: SigPy is missing (extra ``mri``).
        ValueError: unknown regulariser, negative weight, no iteration, or another kind of misfit.
    """
    try:
        from sigpy.mri import app
    except ImportError as error:
        raise ImportError(
            "classical MRI reconstruction needs SigPy: pip install 'lmaps-science[mri]'"
        ) from error
    operator = misfit.operator
    if regulariser not in ("l2", "wavelet", "tv") or not weight >= 0 or iterations < 1:
        raise ValueError(
            f"sense_reconstruction: regulariser {regulariser!r} of weight {weight}, {iterations} "
            "iterations; expected 'l2', 'wavelet' or 'tv', a weight >= 0, and at least one "
            "iteration, e.g. 'wavelet', 0.005, 100."
        )
    if not isinstance(operator, MultiCoilMRI) or operator.batch is not None:
        raise ValueError(
            f"sense_reconstruction: expected the misfit of a MultiCoilMRI operator with maps "
            f"(coils, H, W) and a mask (H, W), got {misfit!r}."
        )
    maps = operator.maps.cpu().numpy()
    options: dict[str, Any] = {
        "lamda": weight,
        "weights": operator.mask.cpu().numpy().astype(maps.real.dtype),
        "max_iter": iterations,
        "show_pbar": False,
    }
    # Step sizes from the largest eigenvalue, at most, of the normal operator and of differences;
    # SigPy would estimate it, from random numbers of the global seed.
    largest = float((np.abs(maps) ** 2).sum(0).max())
    if regulariser == "wavelet":
        options["alpha"] = 1 / largest
    elif regulariser == "tv":
        options |= {"sigma": DUAL_STEP, "tau": 1 / (DUAL_STEP * (largest + 8))}
    apps = {
        "l2": app.SenseRecon,
        "wavelet": app.L1WaveletRecon,
        "tv": app.TotalVariationRecon,
    }
    images = []
    for y in misfit.y.cpu().numpy():
        image = torch.as_tensor(np.asarray(apps[regulariser](y, maps, **options).run()))
        images.append(torch.stack([image.real, image.imag]))
    return torch.stack(images).to(misfit.y.real)

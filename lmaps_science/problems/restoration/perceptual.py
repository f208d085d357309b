"""LPIPS, the perceptual distance that papers on restoration report, through its own package."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from lmaps_science.io import DataError

__all__ = ["lpips_distance"]


def lpips_distance(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    r"""The perceptual distance of photographs to the true one; 0 is best.

    .. math:: d = \sum_l \frac{1}{H_l W_l} \sum_{ij} || w_l (f_l(x)_{ij} - f_l(t)_{ij}) ||^2

    with the normalised features `f_l` of AlexNet and the package's weights `w_l`, version 0.1.

    Args:
        images: (n, 3, H, W) in [0, 1], at least 32 pixels along each side.
        truth: (3, H, W), alike.

    Returns:
        The distances (n,), without unit.

    Raises:
        ImportError: the extra `lpips` is not installed.
        DataError: the weights of AlexNet are neither there nor to be had.

    Source: Zhang et al. 2018, arXiv:1801.03924; https://pypi.org/project/lpips.
    """
    network = _network()
    device = next(network.parameters()).device
    x, t = (torch.as_tensor(np.ascontiguousarray(a), dtype=torch.float32) for a in (images, truth))
    with torch.no_grad():
        found = [network(i[None].to(device), t[None].to(device), normalize=True) for i in x]
    return torch.cat(found).flatten().cpu().numpy().astype(float)


@lru_cache(maxsize=1)
def _network() -> Any:
    try:
        import lpips
    except (ImportError, RuntimeError) as error:  # the latter of a torchvision for another torch
        raise ImportError(
            "the metric LPIPS needs its package: pip install 'lmaps-science[lpips]', with a "
            "torchvision built for the same torch; or leave card key lpips at false."
        ) from error
    try:
        return lpips.LPIPS(net="alex", verbose=False).eval()
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors
        raise DataError(
            f"the weights of AlexNet, of which LPIPS takes the features, could not be downloaded "
            f"({type(error).__name__}: {error}). Fetch "
            "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth where there is a "
            "network, and put it into torch.hub.get_dir() + '/checkpoints'; or leave card key "
            "lpips at false."
        ) from error

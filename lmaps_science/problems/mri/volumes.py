"""Read volumes of heads, and find out what is in them: the scalp's fat, the brain."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

__all__ = [
    "brain_share",
    "denoised",
    "filled",
    "package_folder",
    "read_photograph",
    "read_volume",
    "scalp_fat",
    "twice_as_fine",
]


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"brain images need {name}: pip install 'lmaps-science[brain]'")
    return Path(found.submodule_search_locations[0])


def read_volume(path: Path) -> Tensor:
    """The voxels of a NIfTI file, (D, H, W)."""
    try:
        import nibabel
    except ImportError as error:
        raise ImportError(
            "brain images need nibabel: pip install 'lmaps-science[brain]'"
        ) from error
    data = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)  # type: ignore[attr-defined]
    return torch.from_numpy(np.ascontiguousarray(np.squeeze(data)))


def read_photograph(path: Path) -> Tensor:
    """A picture as grey values of peak 1, (H, W)."""
    from matplotlib.image import imread

    pixels = np.asarray(imread(path), dtype=np.float32)
    grey = pixels[..., :3].mean(-1) if pixels.ndim == 3 else pixels
    return torch.from_numpy(grey / grey.max())


def twice_as_fine(volume: Tensor) -> Tensor:
    """The volume on a grid twice as fine, on which linear interpolation hardly blurs.

    What going there takes away is roughly put back.
    """
    fine = F.interpolate(volume[None, None], scale_factor=2, mode="trilinear")[0, 0]
    blurred = F.avg_pool3d(fine[None, None], 3, stride=1, padding=1)[0, 0]
    return (fine + 0.8 * (fine - blurred)).clamp(0, 1)


def filled(head: Tensor) -> Tensor:
    """Where the head is: what is bright, and what that encloses in a slice along some axis.

    In slices, since the bone of a head that ends at the neck is open to the outside there.
    """
    bright = head.numpy() > 0.15
    inside = bright.copy()
    for axis in range(3):
        slices = np.moveaxis(bright, axis, 0)
        inside |= np.moveaxis(np.stack(list(map(ndimage.binary_fill_holes, slices))), 0, axis)
    return torch.from_numpy(ndimage.binary_opening(inside, iterations=3))


def scalp_fat(head: Tensor, inside: Tensor | None = None) -> Tensor:
    """The fraction of fat in a head of 1 mm voxels: what is bright within a centimetre of the air.

    The muscle and the skin in it are taken for fat, too. `inside` is where the head is; default:
    what is bright and what it encloses.
    """
    if inside is None:
        inside = torch.from_numpy(ndimage.binary_fill_holes(head.numpy() > 0.15))
    depth = torch.from_numpy(ndimage.distance_transform_edt(inside.numpy())).float()
    return ((11 - depth) / 2).clamp(0, 1) * ((head - 0.25) / 0.2).clamp(0, 1)


def brain_share(head: Tensor, grey: float, white: float) -> Tensor:
    """The share of brain, fluid in its folds included, in a T1-weighted head of 1 mm voxels.

    Tissue between half the level of grey matter and that of white matter, off the scalp, is
    loosened from what hangs on it by thin bridges; the largest piece stays, its folds filled.
    """
    values = head.numpy()
    depth = ndimage.distance_transform_edt(filled(head).numpy())
    tissue = (values > 0.7 * grey) & (values < 1.12 * white) & (depth > 11)
    core = ndimage.distance_transform_edt(tissue) > 2.5
    pieces, _ = ndimage.label(core)
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    tissue &= ndimage.distance_transform_edt(~largest) < 7
    closed = ndimage.distance_transform_edt(ndimage.distance_transform_edt(~tissue) < 6) > 5
    whole = ndimage.binary_fill_holes(closed | tissue)
    inside = ndimage.distance_transform_edt(whole) - ndimage.distance_transform_edt(~whole)
    return torch.from_numpy((inside / 2 + 0.5).clip(0, 1)).float()


def denoised(volume: Tensor, step: float) -> Tensor:
    """Means over neighbours that differ by less than about `step`, so that edges stay."""
    padded = F.pad(volume[None, None], [1] * 6, mode="replicate")[0, 0]
    total, weights = torch.zeros_like(volume), torch.zeros_like(volume)
    d, h, w = volume.shape
    for i, j, k in np.ndindex(3, 3, 3):
        moved = padded[i : i + d, j : j + h, k : k + w]
        weight = torch.exp(-(((moved - volume) / step) ** 2))
        weight *= 0.5 ** (abs(i - 1) + abs(j - 1) + abs(k - 1))
        total += weight * moved
        weights += weight
    return total / weights

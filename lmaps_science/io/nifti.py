"""NIfTI images, the format of neuroimaging viewers (extra `mri`: nibabel)."""

from __future__ import annotations

import gzip
import os

import numpy as np
from numpy.typing import ArrayLike

from lmaps_science.io.files import DataError, atomic_write

__all__ = ["write_nifti"]


def write_nifti(
    path: str | os.PathLike[str], image: ArrayLike, voxel_mm: tuple[float, ...]
) -> None:
    """Write an image (H, W) or a volume (slices, H, W) to a `.nii` or `.nii.gz` file.

    Real images become float32, complex ones complex64 (give `abs(image)` for viewers that show
    magnitudes only). `voxel_mm` is the size of a voxel along the same axes; of an image, the
    slice's thickness may come first. The first NIfTI axis runs along a row to the right, the second
    up the columns, and the origin is the centre: the patient's orientation is not known here.

    Raises DataError for another shape, values that are not finite, sizes that are not positive, or
    another suffix; ImportError when nibabel is missing.

    Example:
        >>> write_nifti("mean.nii.gz", np.ones((4, 4)), (1.0, 1.0))  # doctest: +SKIP
    """
    try:
        import nibabel
    except ImportError as error:
        raise ImportError(
            "Writing NIfTI needs nibabel: pip install 'lmaps-science[mri]'."
        ) from error
    values, sizes = np.asarray(image), tuple(float(s) for s in voxel_mm)
    if not str(path).endswith((".nii", ".nii.gz")):
        raise DataError(f"{path}: a NIfTI file is named .nii or .nii.gz.")
    if values.ndim not in (2, 3) or not np.isfinite(values).all():
        raise DataError(
            f"an image for NIfTI has shape (H, W) or (slices, H, W) and finite values, this one "
            f"has shape {values.shape}."
        )
    if len(sizes) not in (values.ndim, 3) or not all(s > 0 for s in sizes):
        raise DataError(
            f"voxel_mm is {sizes} for an image of shape {values.shape}; give a positive size for "
            "each axis, e.g. (1.0, 1.0) for (y, x)."
        )
    if values.ndim == 2:
        values = values[None]
    dtype = np.complex64 if np.iscomplexobj(values) else np.float32
    volume = values.astype(dtype).transpose(2, 1, 0)[:, ::-1]  # x, y, z, with y upwards
    steps = [sizes[-1], sizes[-2], sizes[0] if len(sizes) == 3 else 1.0]
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = [-step * (n // 2) for step, n in zip(steps, volume.shape, strict=True)]
    nifti = nibabel.Nifti1Image(volume, affine)
    nifti.header.set_xyzt_units("mm")
    content = nifti.to_bytes()
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress(content) if str(path).endswith(".gz") else content)

"""Magnitudes as NIfTI, which every viewer of medical images shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from lmaps_science.io import write_nifti

__all__ = ["write_images"]


def write_images(folder: Path, data: xr.Dataset, each_sample: bool) -> None:
    """`mean.nii.gz`, and `sample_NNN.nii.gz` with `each_sample`."""
    images = {"mean": data["image_mean"]}
    if each_sample:
        images |= {f"sample_{k:03d}": image for k, image in enumerate(data["image"])}
    for name, image in images.items():
        write_nifti(folder / f"{name}.nii.gz", np.hypot(*image.values), _voxel_mm(image))


def _voxel_mm(image: xr.DataArray) -> tuple[float, ...]:
    """Size of a pixel along y and x; 1 where the file did not tell."""
    known = all(image[axis].attrs.get("units") == "mm" for axis in "yx")
    return tuple(abs(float(image[a][1] - image[a][0])) if known else 1.0 for a in "yx")

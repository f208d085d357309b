"""Magnitudes as NIfTI, which every viewer of medical images shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from lmaps_science.io import DataError, write_nifti

__all__ = ["write_images", "write_volume"]


def write_images(folder: Path, data: xr.Dataset, each_sample: bool) -> None:
    """`mean.nii.gz`, and `sample_NNN.nii.gz` with `each_sample`."""
    images = {"mean": data["image_mean"]}
    if each_sample:
        images |= {f"sample_{k:03d}": image for k, image in enumerate(data["image"])}
    for name, image in images.items():
        write_nifti(folder / f"{name}.nii.gz", np.hypot(*image.values), _voxel_mm(image))


def write_volume(folder: Path, data: xr.Dataset, name: str) -> None:
    """`NAME.nii.gz`: the mean of each slice, stacked along the first dimension of `data`.

    Its coordinate is the slices' distance where it has the unit mm. Else they are numbered, their
    distance is not known, and a millimetre in the file.

    Raises:
        DataError: slices are missing between others.
        ImportError: nibabel is missing.
    """
    image = data["image_mean"]
    axis = str(image.dims[0])
    position = image[axis].values
    steps = np.diff(position) if np.issubdtype(position.dtype, np.number) else np.ones(1)
    step = abs(float(np.median(steps))) if len(steps) else 1.0
    if len(steps) and not np.allclose(steps, steps[0], rtol=1e-3):
        raise DataError(
            f"the {axis}s of the volume are not evenly spaced (steps of {steps.min():g} to "
            f"{steps.max():g}): some are missing, and NIfTI has no gaps. Finish them first."
        )
    thickness = step if image[axis].attrs.get("units") == "mm" else 1.0
    magnitude = np.hypot(*image.transpose("part", axis, "y", "x").values)
    write_nifti(folder / f"{name}.nii.gz", magnitude, (thickness, *_voxel_mm(image)))


def _voxel_mm(image: xr.DataArray) -> tuple[float, ...]:
    """Size of a pixel along y and x; 1 where the file did not tell."""
    known = all(image[axis].attrs.get("units") == "mm" for axis in "yx")
    return tuple(abs(float(image[a][1] - image[a][0])) if known else 1.0 for a in "yx")

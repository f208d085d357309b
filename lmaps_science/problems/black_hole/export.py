"""Images as FITS, for eht-imaging, DS9 and astropy."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from lmaps_science.io import write_fits

__all__ = ["write_images"]


def write_images(folder: Path, data: xr.Dataset, each_sample: bool) -> None:
    """`mean.fits`, and `sample_NNN.fits` with `each_sample`, where the flux is known."""
    if data["image"].attrs.get("units") != "Jy/pixel":
        return
    images = {"mean": data["image_mean"]}
    if each_sample:
        images |= {f"sample_{k:03d}": image for k, image in enumerate(data["image"])}
    history = [f"lmaps-science: {data.attrs.get('problem')}", str(data.attrs.get("solver"))]
    for name, image in images.items():
        image = image.drop_vars("sample", errors="ignore")
        write_fits(folder / f"{name}.fits", image, history=history)

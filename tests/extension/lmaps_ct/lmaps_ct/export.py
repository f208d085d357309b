"""Images as PNG, for viewers that know no NetCDF."""

from __future__ import annotations

from pathlib import Path

import xarray as xr
from matplotlib.image import imsave

__all__ = ["write_images"]


def write_images(folder: Path, data: xr.Dataset, each_sample: bool) -> None:
    """`mean.png`, and `sample_NNN.png` with `each_sample`; white is the largest attenuation."""
    images = {"mean": data["image_mean"]}
    if each_sample:
        images |= {f"sample_{k:03d}": image for k, image in enumerate(data["image"])}
    top = float(data["image_mean"].max())
    for name, image in images.items():
        imsave(folder / f"{name}.png", image.values, cmap="gray", vmin=0, vmax=top, origin="lower")

"""Restored pictures as PNG files."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from lmaps_science.problems.restoration.pictures import write_picture

__all__ = ["write_pictures"]


def write_pictures(folder: Path, data: xr.Dataset, each_sample: bool) -> None:
    """`mean.png`, and `sample_NNN.png` with `each_sample`."""
    write_picture(folder / "mean.png", data["image_mean"].values)
    if each_sample:
        for k, image in enumerate(data["image"].values):
            write_picture(folder / f"sample_{k:03d}.png", image)

"""Pictures for a page: as small as they can be, inside of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from lmaps_science.plots import shades
from lmaps_science.report.runs import Run

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Album", "Picture"]

LARGE, SMALL, WIDE = 384, 44, 1500  # pixels at most: an image, in the table, a figure
LOSSLESS = 128  # up to this size, the artefacts of compression would be as large as pixels
TRUTH = "truth"


@dataclass(frozen=True)
class Picture:
    """A picture inside a page.

    Attributes:
        source: its content as a data URI.
        width, height: in pixels.
    """

    source: str
    width: int
    height: int


@dataclass
class Album:
    """The mean images of all observations; a call takes those of one run, sorted by observation.

    Those of one observation, by several methods, and its truth are drawn on one scale.

    Attributes:
        large: by observation, then by method, or "truth".
        small: the same for the table.
    """

    large: dict[str, dict[str, Picture]] = field(default_factory=dict)
    small: dict[str, dict[str, Picture]] = field(default_factory=dict)
    _name: str = ""
    _kind: str | None = None
    _images: dict[str, xr.DataArray] = field(default_factory=dict)

    def __call__(self, run: Run, data: xr.Dataset) -> None:
        """Take the mean image of a result, and its truth where that is known."""
        if run.name != self._name:
            self.finish()
            self._name, self._kind = run.name, data.attrs.get("kind")
        if "truth" in data:
            self._images = {TRUTH: data["truth"], **self._images}
        name = next(
            (str(n) for n in data if str(n).endswith("_mean") and "sample" not in data[n].dims),
            None,
        )
        if name is not None:
            self._images[run.method] = data[name]

    def finish(self) -> None:
        """Draw what was taken last."""
        if self._images:
            drawn = _draw(self._images, self._kind)
            self.large[self._name] = {k: _picture(image, LARGE) for k, image in drawn.items()}
            self.small[self._name] = {k: _picture(image, SMALL) for k, image in drawn.items()}
        self._images = {}

    @property
    def bytes(self) -> int:
        """The size of all of them."""
        albums = (self.large, self.small)
        return sum(len(p.source) for a in albums for found in a.values() for p in found.values())


def _draw(images: Mapping[str, xr.DataArray], kind: str | None) -> dict[str, Image]:
    from matplotlib import colormaps
    from PIL import Image as pillow

    shown = shades(list(images.values()), kind)
    width = shown.high - shown.low
    drawn = {}
    for name, values in zip(images, shown.values, strict=True):
        level = (values - shown.low) / (width if width > 0 else 1.0)
        colours = colormaps[shown.colours](np.ma.masked_invalid(level), bytes=True)
        drawn[name] = pillow.fromarray(np.ascontiguousarray(colours[..., :3]))
    return drawn


def _picture(image: Image, most: int) -> Picture:
    from PIL import Image as pillow

    if max(image.size) > most:
        image = image.copy()
        image.thumbnail((most, most), pillow.Resampling.LANCZOS)
    exact = SMALL < max(image.size) <= LOSSLESS
    return Picture(_uri(image, 75 if most == SMALL else 88, exact), *image.size)


def figure(path: Path) -> Picture | None:
    """A figure of a run, smaller; None where there is none that can be read."""
    from PIL import Image as pillow

    try:
        with pillow.open(path, formats=["PNG"]) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, pillow.DecompressionBombError):
        return None
    image.thumbnail((WIDE, WIDE * 2), pillow.Resampling.LANCZOS)
    return Picture(_uri(image, 80), *image.size)


def _uri(image: Image, quality: int, lossless: bool = False) -> str:
    content = io.BytesIO()
    image.save(content, "WEBP", quality=quality, lossless=lossless, method=4)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode("ascii")

"""Pictures in and out: files that Pillow reads, as RGB in [0, 1]."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lmaps_science.io import DataError
from lmaps_science.io.files import atomic_write, require_memory

__all__ = ["read_picture", "write_picture"]

_GREY16 = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def read_picture(path: str | Path) -> NDArray[np.float32]:
    """The picture in a PNG, JPEG, TIFF, WebP or BMP file: (3, H, W), values in [0, 1].

    It is turned as its EXIF data say. Grey pictures get three equal channels, 16 bits keep their
    precision where Pillow does (grey ones), and an alpha channel must be opaque.

    Raises:
        DataError: no such file, none that Pillow reads, transparency, CMYK or floating-point
            values, or more pixels than memory.
    """
    path = Path(path).expanduser()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                shown = f"a picture of {file.width} x {file.height} pixels"
                require_memory(path, shown, 40 * file.width * file.height)
                return _values(ImageOps.exif_transpose(file), path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: {error} Reduce the picture first.") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is no picture that can be read ({error}): give a PNG, JPEG or TIFF file."
        ) from error


def write_picture(path: Path, image: NDArray[np.floating]) -> None:
    """Write (3, H, W) in [0, 1] as an 8-bit RGB file, atomically; values outside are clipped."""
    values = np.round(255 * np.clip(np.moveaxis(image, 0, -1), 0, 1)).astype(np.uint8)
    with atomic_write(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG")


def _values(picture: Image.Image, path: Path) -> NDArray[np.float32]:
    mode = picture.mode
    if mode in _GREY16:
        grey = np.asarray(picture, dtype=np.float32) / np.float32(65535)
        return np.repeat(grey[None], 3, axis=0)
    if mode in ("CMYK", "F", "LAB", "HSV"):
        raise DataError(
            f"{path} has values of mode {mode}: convert it to RGB of 8 bits first, since how is a "
            "choice (a colour profile, a range)."
        )
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if np.asarray(picture)[..., 3].min() < 255:
            raise DataError(
                f"{path} is transparent in places: there is no picture behind them. Put it on a "
                "background first, or give the transparency as degradation.file of an inpainting."
            )
    values = np.asarray(picture.convert("RGB"), dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(np.moveaxis(values, -1, 0))

"""Pictures in and out: files that Pillow reads, as RGB in [0, 1]."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lmaps_science.io import DataError
from lmaps_science.io.files import atomic_write, require_file, require_free

__all__ = ["read_picture", "write_picture"]

_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000")
_GREY16 = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_SAMPLES, _SIGN, _SIGNED = 277, 339, 2  # TIFF: numbers a pixel, and whether they have a sign


def read_picture(path: str | Path) -> NDArray[np.float32]:
    """The picture in a PNG, JPEG, TIFF, WebP or BMP file: (3, H, W), values in [0, 1].

    GIF, PPM and JPEG 2000 are read, too. It is turned as its EXIF data say. Grey pictures get three
    equal channels, 16 bits keep their precision where Pillow does (grey ones), and an alpha channel
    must be opaque.

    Raises:
        DataError: no such file, none that Pillow reads, several pictures in one, transparency, CMYK
            or floating-point values, numbers of no known range, or more pixels than memory.
    """
    path = require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Of these alone: for others, such as PostScript, Pillow starts programs.
            with Image.open(path, formats=_FORMATS) as file:
                _check_single(file, path)
                shown = f"a picture of {file.width} x {file.height} pixels"
                require_free(path, shown, 40 * file.width * file.height)
                return _values(ImageOps.exif_transpose(file), path)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: {error} Reduce the picture first.") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no picture that can be read: {_unknown(path)}") from error
    except (DataError, MemoryError, PermissionError):
        raise
    except Exception as error:  # a parser says anything of a damaged file: it is unusable
        raise DataError(
            f"{path} is no picture that can be read ({error}): copy it again, or save it anew from "
            "where it came, e.g. as PNG."
        ) from error


def write_picture(path: Path, image: NDArray[np.floating]) -> None:
    """Write (3, H, W) in [0, 1] as an 8-bit RGB file, atomically; values outside are clipped."""
    values = np.round(255 * np.clip(np.moveaxis(image, 0, -1), 0, 1)).astype(np.uint8)
    with atomic_write(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG")


def _check_single(file: Image.Image, path: Path) -> None:
    """Refuse files of which Pillow would take a part, and not say so.

    A second picture in a JPEG file is the camera's own copy of the first.
    """
    if file.format != "MPO" and getattr(file, "is_animated", False):
        raise DataError(
            f"{path} holds several pictures (an animation, or pages): save the one that is meant "
            "as a file of its own, e.g. as PNG."
        )
    tags = getattr(file, "tag_v2", {})
    samples, bands = tags.get(_SAMPLES, len(file.getbands())), len(file.getbands())
    if samples != bands:
        raise DataError(
            f"{path} has {samples} numbers a pixel, of which {bands} would be read: it is no RGB "
            "or grey picture. Save the channels that are meant, e.g. as PNG."
        )
    if _SIGNED in tags.get(_SIGN, ()):
        raise DataError(
            f"{path} has numbers with a sign, and which of them are black and white it does not "
            "say. Save it with 8 or 16 bits without one, from 0 to 255 or 65535."
        )


def _unknown(path: Path) -> str:
    """Why Pillow knows no such file, and what to do."""
    with open(path, "rb") as file:
        if file.read(4) in (b"II*\0", b"MM\0*"):
            return (
                "it is a TIFF file, but of a kind that is not (such as floating-point colours, 64 "
                "bits, or complex numbers). Save it with 8 bits, or grey with 16."
            )
    return "give a PNG, JPEG or TIFF file."


def _values(picture: Image.Image, path: Path) -> NDArray[np.float32]:
    mode = picture.mode
    if mode in _GREY16:
        grey = np.asarray(picture, dtype=np.float64) / 65535
        if grey.min() < 0 or grey.max() > 1:
            raise DataError(
                f"{path} has numbers from {65535 * grey.min():.0f} to {65535 * grey.max():.0f}, "
                "and which is white it does not say. Save it with 16 bits, from 0 to 65535."
            )
        return np.repeat(grey[None].astype(np.float32), 3, axis=0)
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
                "background first; to fill the places, save a picture that is white elsewhere and "
                "give it as degradation.file of an inpainting."
            )
    values = np.asarray(picture.convert("RGB"), dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(np.moveaxis(values, -1, 0))

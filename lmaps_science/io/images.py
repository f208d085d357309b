"""Images of the sky: ehtim text files and FITS in, FITS out, as `xarray.DataArray`.

An image has the dimensions ("y", "x") and is in Jy/pixel. Row 0 is north, column 0 is east; the
coordinates are microarcseconds from the centre, y towards north and x towards east, so both
decrease. Known facts are attributes: source, ra_hours, dec_degrees, frequency_hz, mjd.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lmaps_science.io.files import DataError, atomic_write, require_file
from lmaps_science.io.image_formats import read_fits_image, read_text_image

__all__ = [
    "MICROARCSECOND",
    "make_image",
    "pixel_size_rad",
    "read_image",
    "regrid_image",
    "write_fits",
]

MICROARCSECOND = math.pi / 180 / 3600e6  # rad
_SMALLEST_PIXEL = 1e-25  # rad; no instrument comes near
_LARGEST_JY = 1e12  # per pixel; the Sun has 1e10
_MOST_PIXELS = 1 << 15  # along a side


def make_image(values: np.ndarray, pixel_rad: float, **attrs: Any) -> xr.DataArray:
    """Wrap an array (H, W) [Jy/pixel, north up, east left] with its coordinates.

    Args:
        values: (H, W), row 0 north, column 0 east.
        pixel_rad: width of a pixel [rad].
        attrs: source, ra_hours, dec_degrees, frequency_hz, mjd, …

    Raises:
        DataError: not two-dimensional, a pixel width that is not positive, or an image of more than
            1 rad, where the sky is not flat.

    Example:
        >>> image = make_image(np.full((64, 64), 1e-4), pixel_rad=1e-11, source="M87")
        >>> round(float(image.sum()), 4), image.attrs["units"]
        (0.4096, 'Jy/pixel')
    """
    values = np.asarray(values)
    if values.ndim != 2:
        raise DataError(f"an image has the shape (H, W), got {values.shape}.")
    if not (math.isfinite(pixel_rad) and pixel_rad > _SMALLEST_PIXEL):
        raise DataError(f"the pixel width is {pixel_rad} rad; it must be positive.")
    if pixel_rad * max(values.shape) > 1:
        raise DataError(
            f"an image of {values.shape} pixels, each {math.degrees(pixel_rad):.4g} degrees wide, "
            "is larger than 1 rad, where the sky is not flat. Check the unit of the pixel width: "
            "2 microarcseconds are 9.7e-12 rad, or 5.6e-10 degrees."
        )
    axes = {
        name: ((n - 1) / 2 - np.arange(n)) * pixel_rad / MICROARCSECOND
        for name, n in zip("yx", values.shape, strict=True)
    }
    image = xr.DataArray(values, dims=("y", "x"), coords=axes, attrs={"units": "Jy/pixel", **attrs})
    image["y"].attrs = {"units": "uas", "long_name": "relative declination"}
    image["x"].attrs = {"units": "uas", "long_name": "relative right ascension"}
    return image


def pixel_size_rad(image: xr.DataArray) -> float:
    """Width of the square pixels of `image` [rad], from its coordinates.

    Raises:
        DataError: dimensions other than ("y", "x"), coordinates that are missing or do not fall in
            equal steps, or pixels that are not square.

    Example:
        >>> pixel_size_rad(make_image(np.zeros((4, 4)), pixel_rad=1e-11))
        1e-11
    """
    if not isinstance(image, xr.DataArray) or image.dims != ("y", "x"):
        got = getattr(image, "dims", type(image).__name__)
        raise DataError(
            f"an image is an xarray.DataArray with dims ('y', 'x'), got {got}. Wrap an array with "
            "make_image(values, pixel_rad)."
        )
    steps = np.concatenate([-np.diff(image[axis].values) for axis in "yx"])
    if len(steps) == 0 or not np.allclose(steps, steps[0], rtol=1e-6) or steps[0] <= 0:
        raise DataError(
            "the image's coordinates y (north) and x (east), in microarcseconds, must decrease in "
            "equal steps, the same on both axes. make_image sets them."
        )
    return float(steps.mean()) * MICROARCSECOND


def read_image(
    path: str | os.PathLike[str],
    npix: int | None = None,
    fov_uas: float | None = None,
    *,
    max_lost_flux: float = 0.01,
) -> xr.DataArray:
    """Read the Stokes I image of a FITS or ehtim text file; resample it if asked.

    FITS: the first two-dimensional plane; Jy/pixel, or Jy/beam with BMAJ and BMIN.

    Args:
        path: the file; its content, not its name, tells the format.
        npix, fov_uas, max_lost_flux: see `regrid_image`. Without npix and fov_uas: as in the file.

    Raises:
        DataError: no such file, neither format, NaN in it, pixels that are not square, units other
            than Jy/pixel and Jy/beam; or the field of view is smaller than the source.

    Example:
        >>> image = make_image(np.full((64, 64), 1e-4), pixel_rad=1e-11)
        >>> write_fits("model.fits", image)
        >>> read_image("model.fits", npix=32).shape
        (32, 32)
    """
    path = require_file(path)
    with open(path, "rb") as file:
        is_fits = file.read(6) == b"SIMPLE"
    image = _checked(path, *(read_fits_image(path) if is_fits else read_text_image(path)))
    if not np.isfinite(image.values).all():
        raise DataError(f"{path} holds NaN or infinite pixels: replace them before imaging.")
    if np.abs(image.values).max() > _LARGEST_JY:
        raise DataError(
            f"{path} holds pixels beyond {_LARGEST_JY:g} Jy: its numbers or their scale (BSCALE, "
            "BUNIT, beam) are damaged. Write it again in Jy/pixel."
        )
    if npix is None and fov_uas is None:
        return image
    try:
        return regrid_image(image, npix, fov_uas, max_lost_flux=max_lost_flux)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def regrid_image(
    image: xr.DataArray,
    npix: int | None = None,
    fov_uas: float | None = None,
    *,
    max_lost_flux: float = 0.01,
) -> xr.DataArray:
    """Resample to npix x npix pixels over a square field of view, conserving the flux.

    Every new pixel collects the old ones by the area they share, I' = W_y I W_x^T, so the flux
    inside the field of view is exact; outside the old image there is none. The centre stays.

    Args:
        image: an image, see this module.
        npix: number of pixels along each axis; default: keeps the pixel size.
        fov_uas: width of the field of view [microarcsecond]; default: the image's larger width.
        max_lost_flux: largest fraction of the flux that may fall outside.

    Raises:
        DataError: the field of view is smaller than the source (with the fraction of flux that
            would be lost), or npix or fov_uas is not positive.

    Example:
        >>> image = make_image(np.full((64, 64), 1e-4), pixel_rad=1e-11)
        >>> small = regrid_image(image, npix=16)
        >>> small.shape, round(float(small.sum() / image.sum()), 6)
        ((16, 16), 1.0)
    """
    pixel = pixel_size_rad(image)
    fov = max(image.shape) * pixel if fov_uas is None else fov_uas * MICROARCSECOND
    if not (math.isfinite(fov) and fov > 0):
        raise DataError(f"fov_uas is {fov_uas}; it must be positive, e.g. 160.")
    npix = max(round(fov / pixel), 1) if npix is None else npix
    if not 1 <= npix <= _MOST_PIXELS or npix != int(npix):
        raise DataError(
            f"npix is {npix:g}; it must be a positive whole number up to {_MOST_PIXELS}, e.g. 64. "
            "Without npix, fov_uas takes as many pixels as the image has on that width."
        )
    rows, columns = (_overlap(n, pixel, int(npix), fov / npix) for n in image.shape)
    values = rows @ image.values @ columns.T
    total = float(np.abs(image.values).sum())
    lost = 1 - float(rows.sum(0) @ np.abs(image.values) @ columns.sum(0)) / total if total else 0
    if lost > max_lost_flux:
        raise DataError(
            f"a field of view of {fov / MICROARCSECOND:.4g} uas is smaller than the source: "
            f"{100 * lost:.2g} % of the flux lies outside (allowed: {100 * max_lost_flux:.2g} %). "
            "Give a larger one; all of the image is inside with "
            f"image.fov_uas={max(image.shape) * pixel / MICROARCSECOND:.4g}."
        )
    attrs = {key: value for key, value in image.attrs.items() if key != "units"}
    return make_image(values, fov / npix, **attrs)


def write_fits(
    path: str | os.PathLike[str],
    image: xr.DataArray,
    *,
    history: Sequence[str] = (),
    **attrs: Any,
) -> None:
    """Write an image to FITS, atomically; eht-imaging and DS9 open it at the right place and scale.

    Args:
        path: the file to write.
        image: an image, see this module.
        history: lines for the header's HISTORY, e.g. how the image was made.
        attrs: source, ra_hours, dec_degrees, frequency_hz, mjd; default: the image's attributes.

    Raises:
        DataError: not an image, or no such folder.
        OSError: the disk is full.

    Example:
        >>> image = make_image(np.full((64, 64), 1e-4), pixel_rad=1e-11)
        >>> write_fits("model.fits", image, source="M87", frequency_hz=227e9)
    """
    from astropy.io import fits
    from astropy.time import Time

    degrees = math.degrees(pixel_size_rad(image))
    known = {**image.attrs, **attrs}
    header = fits.Header()
    header["OBJECT"] = str(known.get("source", ""))
    header["BUNIT"] = "JY/PIXEL"
    header["STOKES"] = "I"
    header["TELESCOP"] = "VLBI"
    for axis, (kind, n, step) in enumerate(
        (("RA---SIN", image.sizes["x"], -degrees), ("DEC--SIN", image.sizes["y"], degrees)), 1
    ):
        header[f"CTYPE{axis}"], header[f"CUNIT{axis}"] = kind, "deg"
        header[f"CRPIX{axis}"], header[f"CDELT{axis}"] = (n + 1) / 2, step
    # eht-imaging reads OBSRA and OBSDEC, viewers read CRVAL.
    if "ra_hours" in known:
        header["OBSRA"] = header["CRVAL1"] = 15 * float(known["ra_hours"])
    if "dec_degrees" in known:
        header["OBSDEC"] = header["CRVAL2"] = float(known["dec_degrees"])
    header["RADESYS"], header["EQUINOX"] = "ICRS", 2000.0
    if "frequency_hz" in known:
        header["FREQ"] = float(known["frequency_hz"])
    if "mjd" in known:
        header["MJD"] = header["MJD-OBS"] = float(known["mjd"])
        header["DATE-OBS"] = Time(float(known["mjd"]), format="mjd").isot
    for line in history:
        header.add_history(line)
    # FITS counts rows from the south.
    file = fits.PrimaryHDU(np.ascontiguousarray(image.values[::-1], dtype=float), header=header)
    with atomic_write(path) as temporary:
        file.writeto(temporary)


def _overlap(n_old: int, old: float, n_new: int, new: float) -> np.ndarray:
    """(n_new, n_old): the part of each old pixel's width inside each new pixel, centres aligned."""
    old_edges = (np.arange(n_old + 1) - n_old / 2) * old
    new_edges = (np.arange(n_new + 1) - n_new / 2) * new
    upper = np.minimum(new_edges[1:, None], old_edges[None, 1:])
    lower = np.maximum(new_edges[:-1, None], old_edges[None, :-1])
    return np.clip(upper - lower, 0, None) / old


def _checked(
    path: Path, values: np.ndarray, width: float, height: float, attrs: dict[str, Any]
) -> xr.DataArray:
    """The image, whose pixels are square and whose place on the sky is one."""
    ranges = {"ra_hours": 24, "dec_degrees": 90, "frequency_hz": 1e20, "mjd": 1e7}
    wrong = [name for name, most in ranges.items() if not abs(attrs.get(name, 0.0)) <= most]
    if wrong:
        raise DataError(
            f"{path}: {', '.join(wrong)} is out of range (hours to 24, degrees to 90, Hz, days "
            "since 1858). Correct the header, or leave it out."
        )
    if not math.isclose(width, height, rel_tol=1e-6):
        raise DataError(
            f"{path} has pixels of {width / MICROARCSECOND:.6g} x {height / MICROARCSECOND:.6g} "
            "uas; they must be square. Resample the image first."
        )
    try:
        return make_image(values, width, **attrs)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None

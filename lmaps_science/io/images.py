"""Images of the sky: ehtim text files and FITS in, FITS out, as `xarray.DataArray`.

An image has the dimensions ("y", "x") and is in Jy/pixel. Row 0 is north, column 0 is east; the
coordinates are microarcseconds from the centre, y towards north and x towards east, so both
decrease. Known facts are attributes: source, ra_hours, dec_degrees, frequency_hz, mjd.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lmaps_science.io.files import DataError, atomic_write, require_file

__all__ = [
    "MICROARCSECOND",
    "make_image",
    "pixel_size_rad",
    "read_image",
    "regrid_image",
    "write_fits",
]

MICROARCSECOND = math.pi / 180 / 3600e6  # rad
_ARCSECOND = 1e6 * MICROARCSECOND


def make_image(values: np.ndarray, pixel_rad: float, **attrs: Any) -> xr.DataArray:
    """Wrap an array (H, W) [Jy/pixel, north up, east left] with its coordinates.

    Args:
        values: (H, W), row 0 north, column 0 east.
        pixel_rad: width of a pixel [rad].
        attrs: source, ra_hours, dec_degrees, frequency_hz, mjd, …

    Raises:
        DataError: not two-dimensional, or a pixel width that is not positive.
    """
    values = np.asarray(values)
    if values.ndim != 2:
        raise DataError(f"an image has the shape (H, W), got {values.shape}.")
    if not (math.isfinite(pixel_rad) and pixel_rad > 0):
        raise DataError(f"the pixel width is {pixel_rad} rad; it must be positive.")
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
    """
    path = require_file(path)
    with open(path, "rb") as file:
        is_fits = file.read(6) == b"SIMPLE"
    image = _read_fits(path) if is_fits else _read_text(path)
    if not np.isfinite(image.values).all():
        raise DataError(f"{path} holds NaN or infinite pixels: replace them before imaging.")
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
    """
    pixel = pixel_size_rad(image)
    fov = max(image.shape) * pixel if fov_uas is None else fov_uas * MICROARCSECOND
    if not (math.isfinite(fov) and fov > 0):
        raise DataError(f"fov_uas is {fov_uas}; it must be positive, e.g. 160.")
    npix = max(round(fov / pixel), 1) if npix is None else npix
    if npix < 1 or npix != int(npix):
        raise DataError(f"npix is {npix}; it must be a positive whole number, e.g. 64.")
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


# ---------------------------------------------------------------- formats


def _read_text(path: Path) -> xr.DataArray:
    """ehtim's text format: `# KEY: value` lines, then one line of x, y, I, … a pixel."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        found = (re.match(r"#\s*([A-Z]+):\s*(.*)", line) for line in lines)
        header = {match[1]: match[2] for match in found if match}
        shape, width = [], []
        for axis in "YX":
            words = header[f"FOV{axis}"].split()
            shape.append(int(words[0]))
            width.append(float(words[2]) * _ARCSECOND / int(words[0]))
        flux = [float(line.split()[2]) for line in lines if line.strip() and line[0] != "#"]
        values = np.array(flux).reshape(shape)
        attrs = {
            "source": header["SRC"].strip(),
            "ra_hours": _sexagesimal(header["RA"]),
            "dec_degrees": _sexagesimal(header["DEC"]),
            "frequency_hz": 1e9 * float(header["RF"].split()[0]),
            "mjd": float(header["MJD"].split()[0]),
        }
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(
            f"{path} is neither FITS nor an ehtim text image ({type(error).__name__}: {error}). "
            "The text format starts with '# SRC:', '# RA:', … '# FOVY:' and lists x, y, I a pixel."
        ) from error
    _check_square(path, width[1], width[0])
    return make_image(values, width[1], **attrs)


def _sexagesimal(text: str) -> float:
    """'-28 deg 59 m 31.9 s' -> -28.99…; the sign counts for '-0 deg' too."""
    whole, minutes, seconds = (float(word) for word in re.findall(r"[-+]?[\d.]+", text)[:3])
    return math.copysign(abs(whole) + minutes / 60 + seconds / 3600, whole)


def _read_fits(path: Path) -> xr.DataArray:
    from astropy.io import fits

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=False) as hdus:
                plane = next(h for h in hdus if h.is_image and (h.header.get("NAXIS") or 0) >= 2)
                header, values = plane.header, np.array(plane.data, dtype=float)
    except Exception as error:  # astropy raises several types on broken files
        raise DataError(
            f"{path} cannot be read as a FITS image ({type(error).__name__}: {error}). It is "
            "truncated, or holds no image."
        ) from error
    values = values.reshape(-1, *values.shape[-2:])[0]
    step_x, step_y = _fits_steps(path, header)
    _check_square(path, abs(step_x), abs(step_y))
    unit = str(header.get("BUNIT", "JY/PIXEL")).strip().upper()
    if unit == "JY/BEAM":
        if not header.get("BMAJ") or not header.get("BMIN"):
            raise DataError(f"{path} is in Jy/beam without BMAJ and BMIN: add them to its header.")
        beam = math.pi * header["BMAJ"] * header["BMIN"] / (4 * math.log(2))
        values = values * (math.degrees(abs(step_x)) * math.degrees(abs(step_y)) / beam)
    elif unit not in ("JY/PIXEL", "JY/PIX"):
        raise DataError(f"{path} is in {unit!r}; convert it to Jy/pixel or Jy/beam first.")
    # Rows count from the first in the file: turn them so that north is up and east left.
    values = values[::-1] if step_y > 0 else values
    values = values[:, ::-1] if step_x > 0 else values
    attrs: dict[str, Any] = {"source": str(header.get("OBJECT", "")).strip()}
    right_ascension = header.get("OBSRA", header.get("CRVAL1"))
    if right_ascension is not None:
        attrs["ra_hours"] = float(right_ascension) / 15
    declination = header.get("OBSDEC", header.get("CRVAL2"))
    if declination is not None:
        attrs["dec_degrees"] = float(declination)
    third = header.get("CRVAL3") if str(header.get("CTYPE3", "")).startswith("FREQ") else None
    frequency = header.get("FREQ", third)
    if frequency is not None:
        attrs["frequency_hz"] = float(frequency)
    mjd = header.get("MJD", header.get("MJD-OBS"))
    if mjd is not None:
        attrs["mjd"] = float(mjd)
    return make_image(values, abs(step_x), **attrs)


def _fits_steps(path: Path, header: Any) -> tuple[float, float]:
    """Pixel steps along right ascension and declination [rad]."""
    from astropy import units

    steps = []
    for axis in (1, 2):
        step = header.get(f"CDELT{axis}", header.get(f"CD{axis}_{axis}"))
        if not step or header.get(f"CD{axis}_{3 - axis}"):
            raise DataError(
                f"{path} has no pixel size along axis {axis} (CDELT{axis}), or is rotated: "
                "write it with CDELT1 and CDELT2, north up."
            )
        unit = units.Unit(str(header.get(f"CUNIT{axis}", "deg")).strip() or "deg")
        steps.append(float((step * unit).to_value(units.rad)))
    return steps[0], steps[1]


def _check_square(path: Path, width: float, height: float) -> None:
    if not math.isclose(width, height, rel_tol=1e-6):
        raise DataError(
            f"{path} has pixels of {width / MICROARCSECOND:.6g} x {height / MICROARCSECOND:.6g} "
            "uas; they must be square. Resample the image first."
        )

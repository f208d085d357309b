"""The files of images of the sky: FITS, and ehtim's text format; `io.images.read_image` reads both.

Each reader gives the values (H, W) [Jy/pixel, north up, east left], the width and the height of a
pixel [rad], and what else the file says: source, ra_hours, dec_degrees, frequency_hz, mjd.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lmaps_science.io.files import DataError, read_text, require_memory

__all__ = ["read_fits_image", "read_text_image"]

_ARCSECOND = math.pi / 180 / 3600  # rad
_MOST_TEXT = 200_000_000  # bytes; 1000 x 1000 pixels have some 60 MB

_KEYS = [
    "BUNIT",
    "BMAJ",
    "BMIN",
    "OBJECT",
    "OBSRA",
    "OBSDEC",
    "FREQ",
    "MJD",
    "MJD-OBS",
    "CTYPE3",
    "CRVAL1",
    "CRVAL2",
    "CRVAL3",
    "CDELT1",
    "CDELT2",
    "CUNIT1",
    "CUNIT2",
    "CD1_1",
    "CD1_2",
    "CD2_1",
    "CD2_2",
]

FoundImage = tuple[np.ndarray, float, float, dict[str, Any]]


def read_text_image(path: Path) -> FoundImage:
    """ehtim's text format: `# KEY: value` lines, then one line of x, y, I, … a pixel.

    Raises:
        DataError: damaged, or another text.
    """
    advice = "The text format starts with '# SRC:', '# RA:', … '# FOVY:' and lists x, y, I a pixel."
    lines = read_text(path, _MOST_TEXT, "an image in FITS or ehtim's text format").splitlines()
    try:
        found = (re.match(r"#\s*([A-Z]+):\s*(.*)", line) for line in lines)
        header = {match[1]: match[2] for match in found if match}
        shape, width = [], []
        for axis in "YX":
            words = header[f"FOV{axis}"].split()
            shape.append(int(words[0]))
            width.append(float(words[2]) * _ARCSECOND / int(words[0]))
        flux = [float(line.split()[2]) for line in lines if line.strip() and line[0] != "#"]
        if min(shape) < 1 or len(flux) != math.prod(shape):
            raise DataError(
                f"{path} lists {len(flux)} pixels, its header says {shape[0]} x {shape[1]}: it is "
                "truncated or damaged. Copy or write it again."
            )
        values = np.array(flux).reshape(shape)
        attrs = {
            "source": header["SRC"].strip(),
            "ra_hours": _sexagesimal(header["RA"]),
            "dec_degrees": _sexagesimal(header["DEC"]),
            "frequency_hz": 1e9 * float(header["RF"].split()[0]),
            "mjd": float(header["MJD"].split()[0]),
        }
    except DataError:
        raise
    except KeyError as error:  # only of keys that are named above: nothing of the file
        raise DataError(
            f"{path} is neither FITS nor an ehtim text image: it has no line '# {error.args[0]}:'. "
            f"{advice}"
        ) from error
    except (IndexError, ValueError, ArithmeticError) as error:
        raise DataError(
            f"{path} is neither FITS nor an ehtim text image: its header or a line of it cannot be "
            f"read. {advice}"
        ) from error
    return values, width[1], width[0], attrs


def _sexagesimal(text: str) -> float:
    """'-28 deg 59 m 31.9 s' -> -28.99…; the sign counts for '-0 deg' too."""
    whole, minutes, seconds = (float(word) for word in re.findall(r"[-+]?[\d.]+", text)[:3])
    return math.copysign(abs(whole) + minutes / 60 + seconds / 3600, whole)


def read_fits_image(path: Path) -> FoundImage:
    """The first plane of the first image; Jy/pixel, or Jy/beam with BMAJ and BMIN.

    Raises:
        DataError: damaged, no image, or in a unit that cannot become Jy/pixel.
    """
    header, values = _first_plane(path)
    step_x, step_y = _fits_steps(path, header)
    unit = str(header.get("BUNIT", "JY/PIXEL")).strip().upper()
    if unit == "JY/BEAM":
        axes = [_number(path, header, key) for key in ("BMAJ", "BMIN")]
        if not all(axis is not None and axis > 0 for axis in axes):
            raise DataError(f"{path} is in Jy/beam without BMAJ and BMIN: add them to its header.")
        beam = math.pi * math.prod(filter(None, axes)) / (4 * math.log(2))
        if not beam > 0:
            raise DataError(f"{path} has a beam of no area: correct BMAJ and BMIN [degrees].")
        values = values * (math.degrees(abs(step_x)) * math.degrees(abs(step_y)) / beam)
    elif unit not in ("JY/PIXEL", "JY/PIX"):
        raise DataError(f"{path} is in {unit!r}; convert it to Jy/pixel or Jy/beam first.")
    # Rows count from the first in the file: turn them so that north is up and east left.
    values = values[::-1] if step_y > 0 else values
    values = values[:, ::-1] if step_x > 0 else values
    attrs: dict[str, Any] = {"source": str(header.get("OBJECT", "")).strip()}
    third = ("CRVAL3",) if str(header.get("CTYPE3", "")).startswith("FREQ") else ()
    for name, keys in (
        ("ra_hours", ("OBSRA", "CRVAL1")),
        ("dec_degrees", ("OBSDEC", "CRVAL2")),
        ("frequency_hz", ("FREQ", *third)),
        ("mjd", ("MJD", "MJD-OBS")),
    ):
        number = _number(path, header, *keys)
        if number is not None:
            attrs[name] = number / 15 if name == "ra_hours" else number
    return values, abs(step_x), abs(step_y), attrs


def _first_plane(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Header and values of the first plane of the first image of two dimensions or more."""
    from astropy.io import fits

    try:
        with _silence(), fits.open(path, memmap=False) as hdus:
            found = (h for h in hdus if h.is_image and (h.header.get("NAXIS") or 0) >= 2)
            plane = next(found, None)
            if plane is None:
                raise DataError(
                    f"{path} holds no image: none of its parts has two dimensions. uvfits files "
                    "are read with read_uvfits."
                )
            sizes = [int(plane.header[f"NAXIS{k + 1}"]) for k in range(plane.header["NAXIS"])]
            n_bytes = 8 * math.prod(sizes)
            if min(sizes) < 1:
                raise DataError(f"{path} holds an image of {sizes} pixels: an empty one.")
            require_memory(path, f"an image of {' x '.join(map(str, sizes))} pixels", n_bytes)
            values = np.array(plane.data, dtype=float)
            # A card that cannot be parsed shows itself when its value is asked for.
            header = {key: plane.header[key] for key in _KEYS if key in plane.header}
            return header, values.reshape(-1, *values.shape[-2:])[0]
    except DataError:
        raise
    except Exception as error:  # astropy raises a dozen types on broken files
        raise DataError(
            f"{path} cannot be read as a FITS image ({type(error).__name__}): it is truncated or "
            "damaged. Copy or write it again."
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _number(path: Path, header: dict[str, Any], *keys: str) -> float | None:
    """The number under the first of these keys that the header has; None where it has none."""
    key = next((key for key in keys if key in header), None)
    value = None if key is None else header[key]
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{path}: {key} of its header is no number. Correct it, or leave it out.")
    return float(value)


def _fits_steps(path: Path, header: dict[str, Any]) -> tuple[float, float]:
    """Pixel steps along right ascension and declination [rad]."""
    from astropy import units

    steps = []
    for axis in (1, 2):
        step = _number(path, header, f"CDELT{axis}", f"CD{axis}_{axis}")
        if not step or _number(path, header, f"CD{axis}_{3 - axis}"):
            raise DataError(
                f"{path} has no pixel size along axis {axis} (CDELT{axis}), or is rotated: "
                "write it with CDELT1 and CDELT2, north up."
            )
        try:
            unit = units.Unit(str(header.get(f"CUNIT{axis}", "deg")).strip() or "deg")
            steps.append(float((step * unit).to_value(units.rad)))
        except Exception as error:  # units raise several types
            raise DataError(
                f"{path}: CUNIT{axis} of its header is no unit of angle. Write CUNIT{axis} = 'deg'."
            ) from error
    return steps[0], steps[1]

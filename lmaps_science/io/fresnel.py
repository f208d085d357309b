"""Measured scattered fields in the format of the Institut Fresnel's database (`.exp` files).

Lines of seven numbers: transmitter and receiver index from 1, frequency [GHz], real and imaginary
part of the total field and of the incident one. Lines that start with `#` are comments.

Source: Geffrin, Sabouroux and Eyraud 2005, Inverse Problems 21, S117 (set-up and targets).
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import special

from lmaps_science.io.files import DataError, read_text, require_file, require_memory, sha256

__all__ = ["calibrate_fresnel", "read_fresnel"]

SPEED_OF_LIGHT = 299_792_458.0  # m/s
RADIUS = 1.67  # m, from the axis to the horns
# Receiver k stands at k - 0.5 degrees: the measured incident field is symmetric (to 0.1 % at 3 GHz)
# about receiver 180.5, and its phase fits a source opposite of 180.5 to 180.6 at 2 to 10 GHz.
RECEIVER_OFFSET = -0.5

_MOST_BYTES = 200_000_000  # the database's largest file has 20 MB
_MOST_HORNS = 100_000
_LARGEST = 1e15  # of a field in any unit, and of a frequency in GHz
_HEADER = {
    "frequencies": re.compile(r"number of frequencies\s*:\s*(\d{1,9})", re.IGNORECASE),
    "views": re.compile(r"number of views\s*:\s*(\d{1,9})", re.IGNORECASE),
    "receivers": re.compile(r"number of receivers\s*:\s*(\d{1,9})", re.IGNORECASE),
}
_POLARIZATION = re.compile(r"polari[sz]ation\s*:(.*)", re.IGNORECASE)
_NAMED = re.compile(r"\bT[EM]\b", re.IGNORECASE)


class _Line(NamedTuple):
    transmitter: int
    receiver: int
    frequency: float
    total: complex
    incident: complex


def read_fresnel(path: str | os.PathLike[str], *, radius: float = RADIUS) -> xr.Dataset:
    """Read an `.exp` file; return its fields by frequency, transmitter and receiver.

    Args:
        path: the file.
        radius: distance of transmitters and receivers from the axis [m].

    Returns:
        Dataset with the complex `total_field`, `incident_field` and `scattered_field` = total -
        incident, dimensions (frequency [Hz], transmitter [degrees], receiver [degrees]), in the
        file's unit and for fields that vary as exp(-i omega t): the files use exp(+i omega t) and
        are conjugated. `measured` (transmitter, receiver) says which receivers recorded a view; the
        others hold 0. Transmitter k of n stands at 360 (k - 1) / n degrees. The attribute
        `polarization` is the header's: "TM" (E along the cylinders), "TE" (H along them, another
        wave equation), or "unknown" where it names none.

    Raises:
        DataError: no such file; a malformed line or a number that is not finite (with the line); a
            datum twice; fewer data than the header says, as in a truncated file; a header, or
            headers of files put together, that name both polarisations.

    Example:
        >>> fields = read_fresnel("FoamDielExtTM.exp")  # doctest: +SKIP
        >>> fields["scattered_field"].sizes  # doctest: +SKIP
    """
    path = require_file(path)
    promised, polarization, lines = _parse(path)
    keys = np.array([(row.transmitter, row.receiver) for row in lines])
    frequencies, at_frequency = np.unique([row.frequency for row in lines], return_inverse=True)
    transmitters, receivers = np.unique(keys[:, 0]), np.unique(keys[:, 1])
    shape = len(frequencies), len(transmitters), len(receivers)
    place = (
        at_frequency,
        np.searchsorted(transmitters, keys[:, 0]),
        np.searchsorted(receivers, keys[:, 1]),
    )
    # Of damaged numbers nearly each is a new frequency, transmitter and receiver.
    require_memory(path, f"fields of {' x '.join(map(str, shape))}", 56 * math.prod(shape))
    count = np.zeros(shape, dtype=int)
    np.add.at(count, place, 1)
    _check_complete(path, count, transmitters, promised)

    fields = {name: np.zeros(shape, dtype=np.complex128) for name in ("total", "incident")}
    for name, values in fields.items():
        values[place] = np.conj([getattr(row, name) for row in lines])
    fields["scattered"] = fields["total"] - fields["incident"]
    dims = ("frequency", "transmitter", "receiver")
    observation = xr.Dataset(
        {f"{name}_field": (dims, values) for name, values in fields.items()},
        coords={
            "frequency": ("frequency", 1e9 * frequencies, {"units": "Hz"}),
            "transmitter": (
                "transmitter",
                360.0 * (transmitters - 1) / len(transmitters),
                {"units": "degrees"},
            ),
            "receiver": ("receiver", receivers + RECEIVER_OFFSET, {"units": "degrees"}),
        },
        attrs={
            "radius": float(radius),
            "radius_units": "m",
            "time_convention": "exp(-i omega t)",
            "polarization": polarization,
            "file": path.name,
            "sha256": sha256(path),
        },
    )
    observation["measured"] = (dims[1:], count[0] > 0)
    for name in fields:
        observation[f"{name}_field"].attrs["units"] = "unit of the file"
    return observation


def calibrate_fresnel(observation: xr.Dataset, *, within: float = 1.0) -> xr.Dataset:
    """Fields in units of a line source: the horns' gain and phase divided out.

    Each view and frequency is divided by the complex number c that brings the line source's field
    (i/4) H0(k r) nearest to the measured incident field at the receivers within `within` degrees of
    the point opposite the transmitter; `calibration` (frequency, transmitter) holds c. The horns
    are directive: farther out a line source does not describe them, but what goes through the
    middle, where the object is, it does.

    Raises:
        DataError: a view without receivers opposite its transmitter, or without incident field.

    Example:
        >>> fields = calibrate_fresnel(read_fresnel("FoamDielExtTM.exp"))  # doctest: +SKIP
    """
    k = 2 * np.pi * observation["frequency"].values / SPEED_OF_LIGHT
    apart = observation["receiver"].values - observation["transmitter"].values[:, None]
    opposite = np.abs((apart % 360) - 180) <= within
    opposite &= observation["measured"].values
    incident = observation["incident_field"].values
    distance = 2 * observation.attrs["radius"] * np.abs(np.sin(np.deg2rad(apart) / 2))
    model = opposite * 0.25j * special.hankel1(0, k[:, None, None] * np.maximum(distance, 1e-9))
    power = (np.abs(model) ** 2).sum(-1)
    with np.errstate(invalid="ignore"):
        factor = (model.conj() * incident).sum(-1) / power
    bad = np.argwhere(~(np.abs(factor) > 0))
    if len(bad):
        raise DataError(
            f"{observation.attrs.get('file', 'observation')}: view {bad[0][1] + 1} at "
            f"{observation['frequency'].values[bad[0][0]] / 1e9:g} GHz has no incident field within"
            f" {within:g} degrees of the point opposite its transmitter, which calibration needs. "
            "Take a larger angle, e.g. within=3, or leave the view out."
        )
    calibrated = observation.copy()
    for name in ("total_field", "incident_field", "scattered_field"):
        calibrated[name] = observation[name] / factor[..., None]
        calibrated[name].attrs["units"] = "field of a line source, (i/4) H0(k r)"
    calibrated["calibration"] = (("frequency", "transmitter"), factor)
    return calibrated


def _parse(path: Path) -> tuple[dict[str, int], str, list[_Line]]:
    """What the header promises, the polarisation, and the lines of data."""
    promised: dict[str, int] = {}
    named: dict[str, int] = {}  # the polarisations, and the first line that names each
    lines: list[_Line] = []
    try:
        text = read_text(path, _MOST_BYTES, "an .exp file of fields", "latin-1")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.lstrip().startswith("#"):
            for name, pattern in _HEADER.items():
                if match := pattern.search(line[:1000]):
                    promised[name] = int(match[1])
            if match := _POLARIZATION.search(line[:1000]):
                for name in _NAMED.findall(match[1]):
                    named.setdefault(name.upper(), number)
        elif line.strip():
            lines.append(_parse_line(path, number, line))
    if len(named) > 1:
        raise DataError(
            f"{path} names both polarisations, "
            + " and ".join(f"{name} in line {number}" for name, number in named.items())
            + ": their fields obey two wave equations, and nothing in a line of data says whose it "
            "is. Give a file of each, as the database has them: e.g. FoamDielExtTM.exp and "
            "FoamDielExtTE.exp."
        )
    if not lines:
        raise DataError(f"{path} holds no data: expected lines of seven numbers, see the format.")
    return promised, next(iter(named), "unknown"), lines


def _parse_line(path: Path, number: int, line: str) -> _Line:
    words = line[:1000].split()
    try:
        transmitter, receiver = int(words[0]), int(words[1])
        frequency, *parts = (float(word) for word in words[2:])
        whole = 1 <= transmitter <= _MOST_HORNS and 1 <= receiver <= _MOST_HORNS
        well_formed = len(parts) == 4 and whole and frequency > 0
    except (ValueError, IndexError):
        well_formed = False
    if not well_formed:
        raise DataError(
            f"{path}, line {number}: it is not a line of the format: transmitter and receiver "
            "(whole, from 1), frequency [GHz], then the real and imaginary parts of the total and "
            "of the incident field, e.g. 1 61 2 0.1 -0.2 0.3 0.4. A last line that breaks off is a "
            "truncated file: copy or download it again."
        )
    if not (np.abs([frequency, *parts]) < _LARGEST).all():  # false for NaN, too
        raise DataError(
            f"{path}, line {number}: a number that is not finite, or beyond {_LARGEST:g}. Get an "
            "intact copy of the file."
        )
    return _Line(transmitter, receiver, frequency, complex(*parts[:2]), complex(*parts[2:]))


def _check_complete(
    path: Path, count: NDArray[np.integer], transmitters: NDArray, promised: dict[str, int]
) -> None:
    """Each datum once, each pair at every frequency, and as many as the header says."""
    if count.max() > 1:
        f, t, r = np.argwhere(count > 1)[0]
        raise DataError(
            f"{path}: {count[f, t, r]} lines for view {transmitters[t]}, its receiver number "
            f"{r + 1} and frequency number {f + 1}; expected one. Remove the repeated lines."
        )
    found = {
        "frequencies": count.shape[0],
        "views": count.shape[1],
        "receivers": int((count[0] > 0).sum(-1).max()),
    }
    pairs = (count[0] > 0).sum()
    complete = (count == count[:1]).all() and transmitters[-1] == len(transmitters)
    expected = {**found, **promised}
    if not complete or expected != found or pairs != found["views"] * found["receivers"]:
        raise DataError(
            f"{path} is incomplete: {count.sum()} data of {found['frequencies']} frequencies, "
            f"{found['views']} views and up to {found['receivers']} receivers a view; expected "
            f"{np.prod(list(expected.values()))} of {expected['frequencies']} frequencies, "
            f"{expected['views']} views and {expected['receivers']} receivers. A truncated file: "
            "copy or download it again."
        )

"""The Observation: visibilities of one source, and the closure quantities formed from them.

An `xarray.Dataset` over the dimensions vis, cphase, leg3, logcamp, leg4:

    u, v (vis)               baseline in wavelengths, towards east and north
    time (vis)               hours of UTC since 0 h of the day `mjd`
    station1, station2 (vis) station names
    visibility (vis)         complex, Jy: V = sum_p I_p exp(+2 pi i (u x_p + v y_p)),
                             x_p positive to the east, y_p positive to the north
    sigma (vis)              Jy, standard deviation of the real and of the imaginary part, each
    integration (vis)        seconds
    cphase, cphase_sigma     closure phase arg(V_ab V_bc V_ca) and its error, rad
    cphase_index, cphase_conjugate (cphase, leg3)   which visibilities, and whether conjugated
    logcamp, logcamp_sigma   log(|V_0||V_1|/(|V_2||V_3|)) and its error
    logcamp_index (logcamp, leg4)                   which visibilities
    flux ()                  total flux density of the compact source, Jy; absent if unknown
    station, station_position (station, xyz), sefd (station)   the array: names, m, Jy

The closure quantities form a *minimal* set: linearly independent, and as many as the data allow.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from lmaps_science.io.files import DataError

__all__ = ["make_observation"]

_LARGEST_JY = 1e12
_LONGEST = 1e15  # wavelengths
_COLUMNS = ("time", "station1", "station2", "u", "v", "visibility", "sigma", "integration")


def make_observation(
    table: Mapping[str, np.ndarray],
    stations: Mapping[str, np.ndarray],
    *,
    flux: float | None = None,
    systematic: float = 0.0,
    snr_cut: float = 0.0,
    attrs: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Check a table of visibilities, form its closure quantities, return the Observation.

    Errors of the closure quantities are of first order, sigma^2 = sum_k sigma_k^2/|V_k|^2 over
    their legs (Thompson, Moran & Swenson 2017, ch. 10; Blackburn et al. 2020, ApJ 894, 31), so a
    quantity's signal-to-noise ratio is 1/sigma. Among the quantities above `snr_cut`, at each time,
    the minimal set takes those with the first station first (for a full array without a cut: the
    set of eht-imaging's `count="min"`), then the most precise of those still independent.

    Args:
        table: columns time, station1, station2, u, v, visibility, sigma, integration, each (n,).
        stations: name (s,), position (s, 3) [m], sefd (s,) [Jy], in order of preference: the first
            station present at a time is the reference of its closure quantities.
        flux: total compact flux density [Jy], if known.
        systematic: this fraction of |V| is added to sigma, in quadrature.
        snr_cut: drop closure quantities with a signal-to-noise ratio below this.
        attrs: source, frequency_hz, bandwidth_hz, mjd, ra_hours, dec_degrees, …

    Raises:
        DataError: no visibility; not finite; sigma not positive; a baseline twice at one time; no
            closure phase (fewer than three stations at every time), or none above `snr_cut`;
            `systematic` or `snr_cut` out of range.
    """
    table = {name: np.asarray(table[name]) for name in _COLUMNS}
    names = [str(name) for name in stations["name"]]
    _check(table, names)
    if not 0 <= systematic < 1:
        raise DataError(f"systematic is {systematic}; it is a fraction, e.g. 0.02 for 2 %.")
    table["sigma"] = np.hypot(table["sigma"], systematic * np.abs(table["visibility"]))
    if snr_cut < 0:
        raise DataError(f"snr_cut is {snr_cut}; it must be 0 (no cut) or positive, e.g. 3.")
    closures = _closures(table, names, snr_cut)
    dataset = xr.Dataset(
        {
            "u": ("vis", table["u"].astype(float), {"units": "wavelength"}),
            "v": ("vis", table["v"].astype(float), {"units": "wavelength"}),
            "time": ("vis", table["time"].astype(float), {"units": "hour of UTC"}),
            "station1": ("vis", np.array(table["station1"].tolist())),
            "station2": ("vis", np.array(table["station2"].tolist())),
            "visibility": ("vis", table["visibility"].astype(complex), {"units": "Jy"}),
            "sigma": ("vis", table["sigma"].astype(float), {"units": "Jy"}),
            "integration": ("vis", table["integration"].astype(float), {"units": "second"}),
            **closures,
            "station_position": (("station", "xyz"), stations["position"], {"units": "m"}),
            "sefd": ("station", stations["sefd"], {"units": "Jy"}),
        },
        coords={"station": names},
        attrs={**(attrs or {}), "systematic": float(systematic), "snr_cut": float(snr_cut)},
    )
    if flux is not None:
        dataset["flux"] = ((), float(flux), {"units": "Jy"})
    # A variable named like its dimension would become an index, and two observations would be
    # aligned by the values of their closure phases.
    return dataset.drop_indexes(["cphase", "logcamp"])


def _check(table: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
    n = len(table["time"])
    if n == 0:
        raise DataError("the observation holds no visibility.")
    wrong = {name: column.shape for name, column in table.items() if column.shape != (n,)}
    if wrong:
        raise DataError(f"every column of the table must have the shape ({n},), but {wrong}.")

    def where(bad: np.ndarray) -> str:
        k = int(np.flatnonzero(bad)[0])
        first = f"{table['station1'][k]}-{table['station2'][k]} at {float(table['time'][k]):.4f} h"
        return f"{int(bad.sum())} of {n} visibilities (first: {first})"

    finite = np.ones(n, dtype=bool)
    for column in ("time", "u", "v", "visibility"):
        finite &= np.isfinite(table[column])
    if not finite.all():
        raise DataError(
            f"{where(~finite)} are not finite. Flag or drop them: a NaN is never read as a zero."
        )
    sigma = table["sigma"]
    positive = np.isfinite(sigma) & (sigma > 0)
    if not positive.all():
        raise DataError(
            f"sigma is not a positive number for {where(~positive)}. Every visibility needs the "
            "standard deviation of its noise, in Jy; drop those without."
        )
    large = (np.abs(table["visibility"]) > _LARGEST_JY) | (sigma > _LARGEST_JY)
    if large.any():
        raise DataError(
            f"{where(large)} are, or have errors, beyond {_LARGEST_JY:g} Jy, more than the Sun: "
            "their scale or the file is damaged. Calibrate them to Jy."
        )
    far = np.hypot(table["u"], table["v"]) > _LONGEST
    if far.any():
        raise DataError(
            f"{where(far)} lie beyond {_LONGEST:g} wavelengths, far outside of the solar system: "
            "u and v are in wavelengths, not in metres or seconds."
        )
    unknown = {str(name) for side in (1, 2) for name in table[f"station{side}"]} - set(names)
    if unknown:
        raise DataError(f"stations {sorted(unknown)} are not in the list of stations {names}.")


def _closures(
    table: Mapping[str, np.ndarray], names: Sequence[str], snr_cut: float
) -> dict[str, Any]:
    """The variables cphase… and logcamp… of the dataset."""
    visibility = table["visibility"]
    with np.errstate(divide="ignore"):
        variance = (table["sigma"] / np.abs(visibility)) ** 2
    triangles: list[_Closure] = []
    quadrangles: list[_Closure] = []
    for legs in _legs_by_time(table, names):
        present = sorted({station for pair in legs for station in pair})
        n = len(present)
        # The sizes of the minimal sets of n stations, all of whose baselines were observed.
        triangles += _select(*_triangles(present, legs), (n - 1) * (n - 2) // 2, variance, snr_cut)
        quadrangles += _select(*_quadrangles(present, legs), n * (n - 3) // 2, variance, snr_cut)
    if not triangles:
        raise DataError(
            "the observation has no closure phase: at no time do three stations form a triangle"
            + (f" of signal-to-noise ratio {snr_cut:g}: lower snr_cut." if snr_cut > 0 else ".")
        )
    index = np.array([closure.legs for closure in triangles], dtype=np.int64)
    conjugate = np.array([closure.signs for closure in triangles]) < 0
    legs3 = np.where(conjugate, visibility[index].conj(), visibility[index])
    index4 = np.array([closure.legs for closure in quadrangles], dtype=np.int64).reshape(-1, 4)
    logs = np.log(np.abs(visibility[index4]))
    return {
        "cphase": ("cphase", np.angle(legs3.prod(axis=1)), {"units": "rad"}),
        "cphase_sigma": ("cphase", np.sqrt(variance[index].sum(axis=1)), {"units": "rad"}),
        "cphase_index": (("cphase", "leg3"), index),
        "cphase_conjugate": (("cphase", "leg3"), conjugate),
        "logcamp": ("logcamp", logs @ np.array(_RATIO, dtype=float), {"units": "1"}),
        "logcamp_sigma": ("logcamp", np.sqrt(variance[index4].sum(axis=1)), {"units": "1"}),
        "logcamp_index": (("logcamp", "leg4"), index4),
    }


# ---------------------------------------------------------------- minimal sets

_Legs = dict[tuple[int, int], tuple[int, int]]  # (from, to) -> visibility, +1 or -1 (conjugated)
_RATIO = (1, 1, -1, -1)


class _Closure(NamedTuple):
    legs: tuple[int, ...]  # the visibilities
    signs: tuple[int, ...]  # their share in the phase, or in the logarithm of the amplitude


def _legs_by_time(table: Mapping[str, np.ndarray], names: Sequence[str]) -> Iterator[_Legs]:
    order = {name: k for k, name in enumerate(names)}
    first = [order[name] for name in table["station1"]]
    second = [order[name] for name in table["station2"]]
    for time in np.unique(table["time"]):
        legs: _Legs = {}
        for k in np.flatnonzero(table["time"] == time).tolist():
            a, b = first[k], second[k]
            if a == b or (a, b) in legs:
                raise DataError(
                    f"baseline {names[a]}-{names[b]} appears twice at {time:.4f} h, or joins a "
                    "station to itself. Average the data, or keep one of the two."
                )
            legs[a, b], legs[b, a] = (k, 1), (k, -1)
        yield legs


def _triangles(present: list[int], legs: _Legs) -> tuple[list[_Closure], list[_Closure]]:
    """Triangles a-b, b-c, c-a: those with the reference station, and the others."""
    with_reference: list[_Closure] = []
    others: list[_Closure] = []
    for a, b, c in itertools.combinations(present, 3):
        if (a, b) in legs and (b, c) in legs and (c, a) in legs:
            index, signs = zip(legs[a, b], legs[b, c], legs[c, a], strict=True)
            (with_reference if a == present[0] else others).append(_Closure(index, signs))
    return with_reference, others


def _quadrangles(present: list[int], legs: _Legs) -> tuple[list[_Closure], list[_Closure]]:
    """Quadrangles |ab||cd|/(|ad||bc|): an independent set at the reference, and all others."""

    def find(quads: Iterable[tuple[int, int, int, int]]) -> list[_Closure]:
        found = []
        for a, b, c, d in quads:
            pairs = ((a, b), (c, d), (a, d), (b, c))
            if all(pair in legs for pair in pairs):
                found.append(_Closure(tuple(legs[pair][0] for pair in pairs), _RATIO))
        return found

    # The reference and station i meet each earlier station j and j's successor; the last of the
    # earlier stations has the first of them for successor.
    at_reference = (
        (present[0], present[i], present[j], present[j + 1 if j < i - 1 else 1])
        for i in range(3, len(present))
        for j in range(1, i)
    )
    every = (
        turned
        for a, b, c, d in itertools.combinations(present, 4)
        for turned in ((a, b, c, d), (a, c, d, b), (a, d, b, c))
    )
    return find(at_reference), find(every)


def _select(
    preferred: list[_Closure],
    others: list[_Closure],
    full_size: int,
    variance: np.ndarray,
    snr_cut: float,
) -> list[_Closure]:
    """A maximal independent set of the closures with 1/sigma >= snr_cut, preferred ones first."""

    def error(closure: _Closure) -> float:
        return float(np.sqrt(variance[list(closure.legs)].sum()))

    def passing(closures: list[_Closure]) -> list[_Closure]:
        return [c for c in closures if np.isfinite(sigma := error(c)) and sigma * snr_cut <= 1]

    preferred = passing(preferred)
    if len(preferred) == full_size:
        return preferred
    ranked = preferred + sorted(passing(others), key=error)
    column = {k: i for i, k in enumerate(sorted({k for c in ranked for k in c.legs}))}
    rows = np.zeros((len(ranked), len(column)))
    for row, closure in zip(rows, ranked, strict=True):
        row[[column[k] for k in closure.legs]] = closure.signs
    return [ranked[i] for i in _independent_rows(rows)]


def _independent_rows(rows: np.ndarray) -> list[int]:
    """Indices of a maximal set of linearly independent rows, each taken as early as possible."""
    rest, chosen = rows.copy(), []
    for i in range(len(rest)):
        norm = np.linalg.norm(rest[i])
        if norm > 1e-6:  # rows hold 0 and +-1: what is left of a dependent one is rounding
            chosen.append(i)
            direction = rest[i] / norm
            rest[i + 1 :] -= np.outer(rest[i + 1 :] @ direction, direction)
    return chosen

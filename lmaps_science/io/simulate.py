"""Simulated observations: an image seen by an array of telescopes, with its errors."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lmaps_science.io.files import DataError, read_text, suggestion
from lmaps_science.io.images import MICROARCSECOND, pixel_size_rad
from lmaps_science.io.observation import make_observation
from lmaps_science.io.uvfits import read_uvfits

__all__ = ["array_names", "image_visibilities", "read_array", "simulate_observation"]

_SPEED_OF_LIGHT = 299792458.0
_MOST_BYTES, _MOST_STATIONS, _LONGEST_NAME = 1_000_000, 500, 40
_LARGEST = 1e15  # m, Jy
_EFFICIENCY = 0.88  # of two-bit sampling (EHT 2019, paper III)

Stations = dict[str, np.ndarray]
Table = dict[str, np.ndarray]


def simulate_observation(
    image: xr.DataArray,
    *,
    array: str | os.PathLike[str] = "EHT2017",
    coverage: xr.Dataset | str | os.PathLike[str] | None = None,
    source: str | None = None,
    ra_hours: float | None = None,
    dec_degrees: float | None = None,
    mjd: float | None = None,
    frequency_hz: float | None = None,
    bandwidth_hz: float = 1.856e9,
    start_hour: float = 0.0,
    stop_hour: float = 24.0,
    scan_interval_seconds: float = 600.0,
    integration_seconds: float = 300.0,
    elevation_degrees: tuple[float, float] = (10.0, 85.0),
    thermal_noise: bool = True,
    gain_std: float | Mapping[str, float] = 0.0,
    random_phases: bool = True,
    systematic: float = 0.0,
    snr_cut: float = 0.0,
    seed: int = 0,
) -> xr.Dataset:
    """Observe `image` with an array or on the baselines of another observation.

        V_ij = g_i conj(g_j) V(u_ij, v_ij) + n_ij,   g_i = exp(gain_std_i a_i + i phi_i)

    with a_i standard normal and phi_i uniform on the circle, drawn per station and time, and n_ij
    of standard deviation sigma_ij per real component. On an array's own coverage,
    `sigma_ij = sqrt(SEFD_i SEFD_j / (2 bandwidth integration)) / (0.88 sqrt(2))`, the noise of the
    mean of two polarisations; on a given coverage, its sigma. Closure quantities do not depend on
    the gains. The flux of the Observation is the image's.

    The numbers depend on `seed` alone, and each error keeps its own when another is switched off.

    Args:
        image: (y, x) [Jy/pixel], see `io.images`; its attributes supply source, ra_hours,
            dec_degrees, frequency_hz and mjd where they are not given here.
        array: a name from `array_names()`, or a file for `read_array`.
        coverage: instead of `array`: an Observation, or a uvfits file (averaged over its scans).
            Then its times, baselines, noise, source and day hold.
        source, ra_hours, dec_degrees, mjd, frequency_hz, bandwidth_hz: of the observation.
        start_hour, stop_hour: the first scan is at the one, the last before the other [h UTC of the
            day mjd].
        scan_interval_seconds: from one scan to the next; a scan gives one visibility a baseline.
        integration_seconds: averaged in a scan; sets the thermal noise.
        elevation_degrees: a station observes between these (geocentric) elevations.
        thermal_noise: False leaves the visibilities without noise; sigma is still stated.
        gain_std: error of the logarithm of the gain amplitudes, e.g. 0.1; or one per station name.
        random_phases: whether the atmosphere scrambles the stations' phases.
        systematic: this fraction of |V| is added to the stated sigma, in quadrature, as for
            measured data; the visibilities do not change.
        snr_cut: lowest signal-to-noise ratio of a closure quantity.
        seed: of the random numbers.

    Raises:
        DataError: unknown array; a missing coordinate or frequency; the source never seen by three
            stations at once; an option out of its range; a `gain_std` for an unknown station.

    Example:
        >>> from lmaps_science.io import make_image
        >>> place = {"ra_hours": 12.51, "dec_degrees": 12.39, "mjd": 57848, "frequency_hz": 227e9}
        >>> image = make_image(np.full((8, 8), 0.01), pixel_rad=1e-11, source="M87", **place)
        >>> simulate_observation(image, array="EHT2017", seed=1).sizes["station"]
        8
    """
    if coverage is None:
        facts = _facts(image, source, ra_hours, dec_degrees, mjd, frequency_hz, bandwidth_hz)
        stations = read_array(array)
        order = np.argsort(stations["sefd"], kind="stable")
        stations = {name: column[order] for name, column in stations.items()}
        _check_times(start_hour, stop_hour, scan_interval_seconds, integration_seconds)
        n_scans = math.ceil((stop_hour - start_hour) * 3600 / scan_interval_seconds - 1e-9)
        hours = start_hour + np.arange(n_scans) * scan_interval_seconds / 3600
        table = _coverage(stations, facts, hours, elevation_degrees, integration_seconds)
        facts["array"] = Path(array).name
    else:
        table, stations, facts = _as_coverage(coverage)
    names = [str(name) for name in stations["name"]]
    clean = image_visibilities(image, table["u"], table["v"])
    gain_seed, phase_seed, noise_seed = np.random.SeedSequence(seed).spawn(3)
    gains = _gains(table, names, gain_std, random_phases, gain_seed, phase_seed)
    noise = np.random.default_rng(noise_seed).standard_normal((2, len(clean)))
    table["visibility"] = gains * clean
    if thermal_noise:
        table["visibility"] = table["visibility"] + table["sigma"] * (noise[0] + 1j * noise[1])
    facts.update(
        thermal_noise=bool(thermal_noise),
        gain_std=dict(gain_std) if isinstance(gain_std, Mapping) else float(gain_std),
        random_phases=bool(random_phases),
        seed=int(seed),
    )
    flux = float(image.sum())
    return make_observation(
        table, stations, flux=flux, systematic=systematic, snr_cut=snr_cut, attrs=facts
    )


def image_visibilities(image: xr.DataArray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Visibilities of an image, `V = P(u, v) sum_p I_p exp(+2 pi i (u x_p + v y_p))` [Jy], (n,).

    P is the transform of ehtim's triangular pixel of twice the pixel's width,
    `sinc^2(u d) sinc^2(v d)` with `sinc t = sin(pi t)/(pi t)`.

    Args:
        image: (y, x) [Jy/pixel], see `io.images`.
        u, v: (n,) [wavelengths].

    Example:
        >>> from lmaps_science.io import make_image
        >>> image = make_image(np.full((4, 4), 0.05), pixel_rad=1e-11)
        >>> image_visibilities(image, np.zeros(1), np.zeros(1)).round(3)  # its flux
        array([0.8+0.j])
    """
    width = pixel_size_rad(image)
    x, y = (image[axis].values * MICROARCSECOND for axis in "xy")
    east = np.exp(2j * np.pi * np.outer(u, x)) * np.sinc(u * width)[:, None] ** 2
    north = np.exp(2j * np.pi * np.outer(v, y)) * np.sinc(v * width)[:, None] ** 2
    # Not by BLAS, whose rounding depends on the number of threads.
    rows = np.einsum("ky,yx->kx", north, image.values.astype(complex), optimize=False)
    return np.einsum("kx,kx->k", rows, east, optimize=False)


# ---------------------------------------------------------------- arrays


def array_names() -> list[str]:
    """Names of the arrays that come with the package.

    Example:
        >>> array_names()
        ['EHT2017', 'EHT2025']
    """
    folder = resources.files("lmaps_science.io") / "arrays"
    return sorted(
        item.name.removesuffix(".txt") for item in folder.iterdir() if ".txt" in item.name
    )


def read_array(array: str | os.PathLike[str]) -> Stations:
    """Stations of an array: name (s,), position (s, 3) [m, geocentric], sefd (s,) [Jy].

    Args:
        array: a name from `array_names()`, or a text file whose lines start with name, x, y, z and
            SEFD (ehtim's array files do); `#` starts a comment.

    Raises:
        DataError: no such array or file; a line that cannot be read; an SEFD that is not positive.

    Example:
        >>> read_array("EHT2017")["name"][:3].tolist()
        ['AA', 'PV', 'LM']
    """
    names = array_names()
    if str(array) in names:
        text = (resources.files("lmaps_science.io") / "arrays" / f"{array}.txt").read_text("utf-8")
    elif Path(array).exists():
        text = read_text(array, _MOST_BYTES, "a text file of stations")
    else:
        raise DataError(
            f"there is no array {str(array)!r}.{suggestion(str(array).upper(), names)} Known: "
            f"{', '.join(names)}; or give a text file with name, x, y, z [m] and SEFD [Jy] on each "
            "line."
        )
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            numbers = [float(word) for word in words[1:5]]
            good = len(numbers) == 4 and numbers[3] > 0 and np.max(np.abs(numbers)) < _LARGEST
            # On the Earth, or around it: a station in its centre has no elevation.
            good = good and bool(np.any(numbers[:3])) and len(words[0]) <= _LONGEST_NAME
        except ValueError:
            good = False
        if not good:
            raise DataError(
                f"{array}, line {number}: it takes a name and four numbers, the last one positive: "
                "name x y z [m] SEFD [Jy], e.g. AA 2225060.8 -5440059.6 -2481681.2 74"
            )
        rows.append((words[0], numbers))
    if len(rows) > _MOST_STATIONS:
        raise DataError(
            f"{array} lists {len(rows)} stations; at most {_MOST_STATIONS} make a simulation."
        )
    if len({name for name, _ in rows}) < max(len(rows), 3):
        raise DataError(f"{array} lists {len(rows)} stations; it takes three or more, each once.")
    columns = np.array([row for _, row in rows])
    return {
        "name": np.array([name for name, _ in rows]),
        "position": columns[:, :3],
        "sefd": columns[:, 3],
    }


# ---------------------------------------------------------------- coverage


def _facts(
    image: xr.DataArray,
    source: str | None,
    ra_hours: float | None,
    dec_degrees: float | None,
    mjd: float | None,
    frequency_hz: float | None,
    bandwidth_hz: float,
) -> dict[str, Any]:
    given: dict[str, Any] = {
        "source": source,
        "ra_hours": ra_hours,
        "dec_degrees": dec_degrees,
        "mjd": mjd,
        "frequency_hz": frequency_hz,
    }
    facts: dict[str, Any] = {
        name: value if value is not None else image.attrs.get(name) for name, value in given.items()
    }
    facts["source"] = facts["source"] or "simulated"
    missing = [name for name, value in facts.items() if value is None]
    if missing:
        raise DataError(
            f"{', '.join(missing)}: neither given nor among the image's attributes. For M87*: "
            "ra_hours=12.513729, dec_degrees=12.391123, mjd=57848, frequency_hz=227.1e9."
        )
    facts["mjd"] = int(facts["mjd"])
    if not (bandwidth_hz > 0 and facts["frequency_hz"] > 0):
        raise DataError("frequency_hz and bandwidth_hz must be positive, e.g. 227.1e9, 1.856e9.")
    return {**facts, "bandwidth_hz": float(bandwidth_hz)}


def _check_times(start: float, stop: float, interval: float, integration: float) -> None:
    if not (stop > start and interval > 0 and 0 < integration <= interval):
        raise DataError(
            f"scans from {start} h to {stop} h, every {interval} s for {integration} s: it takes "
            "start_hour < stop_hour and 0 < integration_seconds <= scan_interval_seconds."
        )


def _coverage(
    stations: Stations,
    facts: Mapping[str, Any],
    hours: np.ndarray,
    elevation_degrees: tuple[float, float],
    integration_seconds: float,
) -> Table:
    """Baselines of the stations that see the source: u, v [wavelengths], time, sigma, ….

    A baseline points from the second station to the first, projected on the sky's east and north
    at the source: u = (r_1 - r_2) . e_east / lambda, v = (r_1 - r_2) . e_north / lambda.
    """
    position = _celestial_positions(stations["position"], facts["mjd"] + hours / 24)  # (t, s, 3)
    ra, dec = math.radians(15 * facts["ra_hours"]), math.radians(facts["dec_degrees"])
    towards = np.array([math.cos(dec) * math.cos(ra), math.cos(dec) * math.sin(ra), math.sin(dec)])
    east = np.array([-math.sin(ra), math.cos(ra), 0.0])
    north = np.cross(towards, east)
    sine = position @ towards / np.linalg.norm(position, axis=-1)
    elevation = np.degrees(np.arcsin(sine))
    up = (elevation >= elevation_degrees[0]) & (elevation <= elevation_degrees[1])
    first, second = np.triu_indices(len(stations["name"]), k=1)
    t, pair = np.nonzero(up[:, first] & up[:, second])
    i, j = first[pair], second[pair]
    baseline = (position[t, i] - position[t, j]) * facts["frequency_hz"] / _SPEED_OF_LIGHT
    sefd = np.sqrt(stations["sefd"][i] * stations["sefd"][j])
    samples = 2 * facts["bandwidth_hz"] * integration_seconds
    return {
        "time": hours[t],
        "station1": stations["name"][i],
        "station2": stations["name"][j],
        "u": baseline @ east,
        "v": baseline @ north,
        "sigma": sefd / np.sqrt(samples) / (_EFFICIENCY * math.sqrt(2)),
        "integration": np.full(len(t), float(integration_seconds)),
    }


def _celestial_positions(position: np.ndarray, mjd: np.ndarray) -> np.ndarray:
    """Stations (s, 3) on the rotating Earth -> (t, s, 3) along the celestial axes.

    The Earth is turned by the mean sidereal time, and precession since J2000 left out, as in
    eht-imaging and in the published EHT data (whose u, v this reproduces to some 1e-5); precession
    would turn the baselines by 0.2 degrees.
    """
    from astropy.time import Time
    from astropy.utils import iers

    # The Earth-rotation tables that come with astropy: a simulation must not need the network.
    with (
        iers.conf.set_temp("auto_download", False),
        iers.conf.set_temp("iers_degraded_accuracy", "ignore"),
    ):
        time = Time(mjd, format="mjd", scale="utc")
        angle = time.sidereal_time("mean", "greenwich").rad[:, None]
    x, y, z = position.T
    cos, sin = np.cos(angle), np.sin(angle)
    turned = (cos * x - sin * y, sin * x + cos * y, np.broadcast_to(z, (len(mjd), len(z))))
    return np.stack(turned, axis=-1)


def _as_coverage(
    coverage: xr.Dataset | str | os.PathLike[str],
) -> tuple[Table, Stations, dict[str, Any]]:
    if not isinstance(coverage, xr.Dataset):
        coverage = read_uvfits(coverage, systematic=0.0, snr_cut=0.0)
    columns = ("time", "station1", "station2", "u", "v", "sigma", "integration")
    missing = [name for name in (*columns, "station", "sefd") if name not in coverage]
    if missing:
        raise DataError(f"the coverage is not an Observation: it lacks {missing}.")
    table = {name: coverage[name].values.copy() for name in columns}
    stations = {
        "name": coverage["station"].values,
        "position": coverage["station_position"].values,
        "sefd": coverage["sefd"].values,
    }
    keep = ("source", "ra_hours", "dec_degrees", "mjd", "frequency_hz", "bandwidth_hz", "file")
    facts = {name: coverage.attrs[name] for name in keep if name in coverage.attrs}
    if "file" in facts:
        facts["coverage"] = facts.pop("file")
    return table, stations, facts


def _gains(
    table: Table,
    names: list[str],
    gain_std: float | Mapping[str, float],
    random_phases: bool,
    gain_seed: np.random.SeedSequence,
    phase_seed: np.random.SeedSequence,
) -> np.ndarray:
    """g_i conj(g_j) of each visibility, (n,)."""
    if isinstance(gain_std, Mapping):
        unknown = sorted(set(gain_std) - set(names))
        if unknown:
            raise DataError(f"gain_std names {unknown}; the stations are {names}.")
        spread = np.array([float(gain_std.get(name, 0.0)) for name in names])
    else:
        spread = np.full(len(names), float(gain_std))
    if not (np.isfinite(spread) & (spread >= 0)).all():
        raise DataError(f"gain_std is {gain_std}; it must not be negative, e.g. 0.1 for 10 %.")
    times, when = np.unique(table["time"], return_inverse=True)
    shape = (len(times), len(names))
    logs = spread * np.random.default_rng(gain_seed).standard_normal(shape)
    phases = np.random.default_rng(phase_seed).uniform(-np.pi, np.pi, shape)
    gains = np.exp(logs + 1j * (phases if random_phases else 0))
    order = {name: k for k, name in enumerate(names)}
    first = np.array([order[name] for name in table["station1"]], dtype=int)
    second = np.array([order[name] for name in table["station2"]], dtype=int)
    return gains[when, first] * gains[when, second].conj()

"""uvfits files, read and written through eht-imaging (ehtim)."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from lmaps_science.io._ehtim import import_ehtim, quiet
from lmaps_science.io.files import DataError, atomic_write, require_file, sha256
from lmaps_science.io.observation import make_observation

__all__ = ["read_uvfits", "write_uvfits"]

# Baselines shorter than this join stations of one site; they see the flux of everything around the
# compact source, and resolve none of it (EHT 2019, paper IV, uses the same 0.1 Gλ).
ZERO_BASELINE_WAVELENGTHS = 1e8

# Scans of the EHT last 3 to 7 minutes, minutes apart; samples of one scan are 60 s apart at most.
_SCAN_GAP = 90.0  # s
_LONGEST_SCAN = 1800.0  # s; over longer, the Earth's rotation smears the visibilities

Table = dict[str, np.ndarray]


def read_uvfits(
    path: str | os.PathLike[str],
    *,
    average_seconds: float | Literal["scan"] | None = "scan",
    systematic: float = 0.02,
    snr_cut: float = 3.0,
    fraction: float = 1.0,
    flux: float | None = None,
    flux_baseline: str | None = None,
    zero_baselines: Literal["rescale", "keep", "drop"] = "rescale",
) -> xr.Dataset:
    """Read the Stokes I visibilities of a uvfits file; return the Observation (`io.observation`).

    The steps, in this order, with the defaults of the EHT's imaging of M87* in 2017:

    1. Flagged data (weight zero, negative or NaN) are dropped. I = (RR + LL)/2, or the one of the
       two that is there.
    2. Coherent average over `average_seconds`: the plain mean of each baseline's visibilities, with
       the error of that mean. The phases must be stable meanwhile, as in the network-calibrated EHT
       files. "scan" averages from gap to gap (90 s or more without data), a number over bins of
       that length counted from 0 h UTC, None does not average.
    3. The first `fraction` of the times is kept (rounded up).
    4. Baselines below 0.1 Gλ (ALMA-APEX, JCMT-SMA) also see emission far outside any image: on M87*
       1.1-1.2 Jy, where the compact source has about 0.6 Jy. Closure amplitudes with such a
       baseline would force the surplus into the image. "rescale" multiplies those visibilities and
       their sigma by flux/total, as EHT paper IV does; without a known `flux` it changes nothing.
       "drop" leaves them out, and so the trivial triangles and quadrangles; "keep" keeps them.
    5. `systematic` · |V| is added to sigma in quadrature. 2 % per visibility is EHT paper III's
       limit on non-closing errors (2° in closure phase, 4 % in closure amplitude).
    6. A minimal set of closure quantities of signal-to-noise ratio `snr_cut` and above is formed.
       Below about 3 their errors are not Gaussian any more (Blackburn et al. 2020, ApJ 894, 31).

    Args:
        path: the file.
        average_seconds: "scan", a number of seconds, or None.
        systematic: fractional systematic noise, e.g. 0.02.
        snr_cut: lowest signal-to-noise ratio of a closure quantity; 0 keeps all.
        fraction: in (0, 1], the part of the times that is kept, from the first on.
        flux: total flux density of the compact source [Jy], known from elsewhere (M87*: 0.6).
        flux_baseline: the baseline that measures the total flux, e.g. "AA-AP" (ALMA-APEX), or
            "shortest". Without `flux`, its median amplitude is the flux; without either, the flux
            is unknown.
        zero_baselines: "rescale", "keep" or "drop".

    Raises:
        ImportError: eht-imaging is missing.
        DataError: no such file; truncated or not a uvfits file; unflagged NaN; a baseline twice at
            one time; nothing left after a cut; no closure phase; an option out of its range.

    Source: EHT Collaboration 2019, ApJL 875, L3 (errors) and L4 (imaging of M87*).

    Example:
        >>> observation = read_uvfits("m87.uvfits", flux=0.6)  # doctest: +SKIP
        >>> observation.sizes["cphase"]  # doctest: +SKIP
    """
    _check_options(average_seconds, fraction, flux, zero_baselines)
    path = require_file(path)
    table, stations, attrs = _read_table(path)
    attrs.update(
        average_seconds=average_seconds or 0.0,
        fraction=float(fraction),
        zero_baselines=zero_baselines,
        file=path.name,
        sha256=sha256(path),
    )
    try:
        if average_seconds is not None:
            table = _average(table, average_seconds)
        times = np.unique(table["time"])
        last = times[math.ceil(fraction * len(times)) - 1]
        table = _rows(table, table["time"] <= last)
        table, flux, scale = _fix_flux(table, flux, flux_baseline, zero_baselines)
        attrs["zero_baseline_scale"] = scale
        return make_observation(
            table, stations, flux=flux, systematic=systematic, snr_cut=snr_cut, attrs=attrs
        )
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def write_uvfits(path: str | os.PathLike[str], observation: xr.Dataset) -> None:
    """Write an Observation's visibilities as uvfits (RR = LL = Stokes I), atomically.

    `read_uvfits` and eht-imaging read it back to the file's single precision. Closure quantities
    and the flux are not part of the format.

    Raises:
        ImportError: eht-imaging is missing.
        DataError: station names longer than the eight letters of the format; no such folder.
        OSError: the disk is full.

    Example:
        >>> write_uvfits("simulated.uvfits", simulate_observation(image))  # doctest: +SKIP
    """
    ehtim = import_ehtim()
    names = [str(name) for name in observation["station"].values]
    long = [name for name in names if len(name) > 8]
    if long:
        raise DataError(f"uvfits station names have at most 8 letters; shorten {long}.")
    array = np.zeros(len(names), dtype=ehtim.const_def.DTARR)
    array["site"] = names
    for axis, column in enumerate("xyz"):
        array[column] = observation["station_position"].values[:, axis]
    array["sefdr"] = array["sefdl"] = observation["sefd"].values
    rows = np.zeros(observation.sizes["vis"], dtype=ehtim.const_def.DTPOL_STOKES)
    for column, name in (("time", "time"), ("tint", "integration"), ("u", "u"), ("v", "v")):
        rows[column] = observation[name].values
    rows["t1"], rows["t2"] = observation["station1"].values, observation["station2"].values
    rows["vis"] = observation["visibility"].values
    for stokes in ("sigma", "qsigma", "usigma", "vsigma"):
        rows[stokes] = observation["sigma"].values
    attrs = observation.attrs
    with quiet(), atomic_write(path) as temporary:
        ehtim.obsdata.Obsdata(
            attrs["ra_hours"],
            attrs["dec_degrees"],
            attrs["frequency_hz"],
            attrs["bandwidth_hz"],
            rows,
            array,
            source=attrs["source"],
            mjd=attrs["mjd"],
        ).save_uvfits(str(temporary))


def _check_options(
    average_seconds: float | str | None,
    fraction: float,
    flux: float | None,
    zero_baselines: str,
) -> None:
    seconds = isinstance(average_seconds, (int, float)) and average_seconds > 0
    if not (seconds or average_seconds in ("scan", None)):
        raise DataError(
            f"average_seconds is {average_seconds!r}; give a positive number, 'scan' or None."
        )
    if not 0 < fraction <= 1:
        raise DataError(f"fraction is {fraction}; it lies in (0, 1], e.g. 0.1 for 10 %.")
    if flux is not None and not (math.isfinite(flux) and flux > 0):
        raise DataError(f"flux is {flux} Jy; it must be positive, e.g. 0.6, or None if unknown.")
    if zero_baselines not in ("rescale", "keep", "drop"):
        raise DataError(
            f"zero_baselines is {zero_baselines!r}; choose 'rescale', 'keep' or 'drop'."
        )


# ---------------------------------------------------------------- the file


def _read_table(path: Path) -> tuple[Table, dict[str, np.ndarray], dict[str, Any]]:
    from astropy.io import fits

    ehtim = import_ehtim()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=False) as hdus:
                _check_complete(path, hdus)
                _check_records(path, hdus)
                with quiet():
                    observed = ehtim.io.load.load_obs_uvfits(hdus)
    except DataError:
        raise
    except Exception as error:  # astropy and ehtim raise a dozen types on broken files
        raise DataError(
            f"{path} cannot be read as uvfits ({type(error).__name__}). It is truncated, damaged "
            "or of another format: compare its size and checksum with the source."
        ) from error
    data, array = observed.data, observed.tarr
    table = {
        "time": data["time"].astype(float),
        "station1": data["t1"].astype(str),
        "station2": data["t2"].astype(str),
        "u": data["u"].astype(float),
        "v": data["v"].astype(float),
        "visibility": data["vis"].astype(complex),
        "sigma": data["sigma"].astype(float),
        "integration": data["tint"].astype(float),
    }
    _check_visibilities(path, table["visibility"])
    stations = {
        "name": array["site"].astype(str),
        "position": np.stack([array["x"], array["y"], array["z"]], axis=1),
        "sefd": array["sefdr"].astype(float),
    }
    attrs = {
        "source": observed.source,
        "frequency_hz": observed.rf,
        "bandwidth_hz": observed.bw,
        "mjd": observed.mjd,
        "ra_hours": observed.ra,
        "dec_degrees": observed.dec,
    }
    return table, stations, attrs


def _check_complete(path: Path, hdus: Any) -> None:
    """Refuse half a file, and other kinds of FITS files."""
    last = hdus[-1].fileinfo()
    if path.stat().st_size < last["datLoc"] + last["datSpan"]:
        raise DataError(
            f"{path} is truncated: its header announces {last['datLoc'] + last['datSpan']} bytes, "
            f"it has {path.stat().st_size}. Copy or download it again."
        )
    # A cut inside a table's header makes astropy leave that table out.
    complete = "AIPS AN" in hdus and "AIPS FQ" in hdus and hdus[0].header.get("GROUPS")
    if not complete:
        raise DataError(
            f"{path} is not a complete uvfits file: it lacks the visibilities (random groups), the "
            "antenna table (AIPS AN) or the frequency table (AIPS FQ). Copy or download it again; "
            "images are read with read_image."
        )


def _check_records(path: Path, hdus: Any) -> None:
    """Refuse what eht-imaging would misread: it takes NaN for zero, and drops repetitions."""
    data = hdus[0].data
    circular = hdus[0].header.get("CRVAL3") != 1  # RR and LL come first, else Stokes I does
    parallel = data["DATA"][..., : 2 if circular else 1, :].reshape(len(data), -1, 3)
    weight = parallel[..., 2]
    used = (weight > 0).any(axis=1)
    if not used.any():
        raise DataError(f"{path}: No unflagged visibility: every weight is zero or negative.")

    code = data["BASELINE"].astype(int)
    antennas = np.sort([code // 256, code % 256], axis=0)
    keys = np.stack([data["DATE"], data["_DATE"], *antennas], axis=1)
    _, first = np.unique(keys[used], axis=0, return_index=True)
    repeated = used.copy()
    repeated[np.flatnonzero(used)[first]] = False

    for bad, what in (
        ((weight == np.inf).any(axis=1), "a weight of infinity: sigma is not a positive number"),
        (
            ((weight > 0) & ~np.isfinite(parallel).all(axis=-1)).any(axis=1),
            "NaN or infinite visibilities that are not flagged",
        ),
        (repeated, "a baseline more than once at one time (average or split them first)"),
    ):
        if bad.any():
            raise DataError(
                f"{path} holds {what}: {bad.sum()} of {len(bad)} records (first: number "
                f"{np.argmax(bad)}). Flag them with a weight of zero."
            )


def _check_visibilities(path: Path, visibility: np.ndarray) -> None:
    """Refuse what no source gives: nothing at all, or no real part on any baseline."""
    real = np.any(visibility.real != 0)
    if not real:
        what = "the real part of every visibility" if visibility.imag.any() else "every visibility"
        raise DataError(
            f"{path}: {what} is zero, which no source gives: a column was lost when the file was "
            "written. Export or download it again."
        )


# ---------------------------------------------------------------- processing


def _rows(table: Table, keep: np.ndarray) -> Table:
    return {name: column[keep] for name, column in table.items()}


def _average(table: Table, seconds: float | Literal["scan"]) -> Table:
    time = table["time"]
    if seconds == "scan":
        instants = np.unique(time)
        scan = np.concatenate([[0], np.cumsum(np.diff(instants) > _SCAN_GAP / 3600)])
        label = scan[np.searchsorted(instants, time)]
        first = np.searchsorted(scan, np.arange(scan[-1] + 1))
        last = np.searchsorted(scan, np.arange(scan[-1] + 1), side="right") - 1
        centres = (instants[first] + instants[last]) / 2
        longest = 3600 * float((instants[last] - instants[first]).max())
        if longest > _LONGEST_SCAN:
            raise DataError(
                f"the data run on for {longest / 60:.0f} minutes without a gap, too long for one "
                "average: give average_seconds as a number, e.g. 300."
            )
    else:
        # Times are stored to some milliseconds: round, lest one falls short of its bin's edge.
        label = np.floor(np.round(time * 3600, 1) / seconds).astype(int)
        bins, label = np.unique(label, return_inverse=True)
        centres = (bins + 0.5) * seconds / 3600
    names, code = np.unique([table["station1"], table["station2"]], return_inverse=True)
    code1, code2 = code.reshape(2, -1)
    key = (label * len(names) + code1) * len(names) + code2
    _, where, group = np.unique(key, return_index=True, return_inverse=True)
    count = np.bincount(group)

    def total(column: np.ndarray) -> np.ndarray:
        return np.bincount(group, weights=column)

    visibility = table["visibility"]
    return {
        "time": centres[label[where]],
        "station1": table["station1"][where],
        "station2": table["station2"][where],
        "u": total(table["u"]) / count,
        "v": total(table["v"]) / count,
        "visibility": (total(visibility.real) + 1j * total(visibility.imag)) / count,
        "sigma": np.sqrt(total(table["sigma"] ** 2)) / count,
        "integration": total(table["integration"]),
    }


def _fix_flux(
    table: Table,
    flux: float | None,
    flux_baseline: str | None,
    zero_baselines: str,
) -> tuple[Table, float | None, float]:
    """The table with its zero baselines treated, the flux, and the factor they were scaled by."""
    length = np.hypot(table["u"], table["v"])
    zero = length < ZERO_BASELINE_WAVELENGTHS
    amplitude = np.abs(table["visibility"])
    total = float(np.median(amplitude[zero])) if zero.any() else None
    if flux_baseline is not None:
        total = float(np.median(amplitude[_on_baseline(table, flux_baseline, length)]))
        flux = total if flux is None else flux
    scale = 1.0
    if zero_baselines == "rescale" and flux is not None and total is not None:
        if total == 0:
            raise DataError(
                "most visibilities of the zero baselines are 0 Jy: they measure no flux, to which "
                "they could be scaled. Flag them, or set zero_baselines to 'drop'."
            )
        scale = flux / total
        table = dict(table)
        for name in ("visibility", "sigma"):
            table[name] = np.where(zero, scale * table[name], table[name])
    elif zero_baselines == "drop":
        table = _rows(table, ~zero)
    return table, flux, scale


def _on_baseline(table: Table, baseline: str, length: np.ndarray) -> np.ndarray:
    first, second = table["station1"], table["station2"]
    pair = [str(first[np.argmin(length)]), str(second[np.argmin(length)])]
    if baseline != "shortest":
        pair = baseline.split("-")
        if len(pair) != 2:
            raise DataError(
                f"flux_baseline is {baseline!r}; write two station names, e.g. 'AA-AP', or "
                "'shortest'."
            )
    chosen = ((first == pair[0]) & (second == pair[1])) | ((first == pair[1]) & (second == pair[0]))
    if not chosen.any():
        have = sorted({f"{a}-{b}" for a, b in zip(first, second, strict=True)})
        raise DataError(f"no baseline {baseline!r}; there are {', '.join(have)}.")
    return chosen

"""uvfits files: averaging, closure quantities, and everything a file can have wrong."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lmaps_science.io import (
    DataError,
    make_observation,
    read_netcdf,
    read_uvfits,
    sha256,
    write_netcdf,
    write_uvfits,
)
from lmaps_science.io._ehtim import import_ehtim, quiet

GOLDEN = Path(__file__).parents[1] / "golden"
UVFITS = GOLDEN / "black_hole_obs.uvfits"
RAW = {"average_seconds": None, "systematic": 0.0, "snr_cut": 0.0}


@pytest.fixture(scope="module")
def observation():
    return read_uvfits(UVFITS, **RAW)


@pytest.fixture(scope="module")
def m87(data_dir):
    return {
        band: data_dir / "eht" / f"SR1_M87_2017_095_{band}_hops_netcal_StokesI.uvfits"
        for band in ("lo", "hi")
    }


def load_with_ehtim(path, seconds=0.0):
    ehtim = import_ehtim()
    with quiet():
        obs = ehtim.obsdata.load_uvfits(str(path))
        return obs.avg_coherent(seconds) if seconds else obs


def ehtim_closures(obs):
    with quiet():
        phases = obs.c_phases(count="min", ang_unit="rad")
        amplitudes = obs.c_amplitudes(count="min", ctype="logcamp", debias=False)
    return phases, amplitudes


def wrapped(angle):
    return np.angle(np.exp(1j * np.asarray(angle)))


def rank(observation, name, signed):
    """Rank of the closures' matrix over the visibilities, and the number of closures."""
    index = observation[f"{name}_index"].values
    signs = np.ones_like(index, dtype=float)
    if signed:
        signs[observation[f"{name}_conjugate"].values] = -1
    else:
        signs[:, 2:] = -1
    rows = np.zeros((len(index), observation.sizes["vis"]))
    np.put_along_axis(rows, index, signs, axis=1)
    return np.linalg.matrix_rank(rows), len(rows)


def most_closures(observation):
    """What the visibilities of each time allow: baselines less the rank of the stations' errors."""
    most = np.zeros(2, dtype=int)
    names = list(observation["station"].values)
    for time in np.unique(observation["time"]):
        at = observation.isel(vis=np.flatnonzero(observation["time"] == time))
        incidence = np.zeros((at.sizes["vis"], len(names)))
        for row, a, b in zip(incidence, at.station1.values, at.station2.values, strict=True):
            row[names.index(a)], row[names.index(b)] = 1, -1
        most += len(incidence) - np.array(
            [np.linalg.matrix_rank(incidence), np.linalg.matrix_rank(np.abs(incidence))]
        )
    return tuple(most)


# ---------------------------------------------------------------- reading


def test_index_tables_are_the_reference_ones(observation):
    golden = np.load(GOLDEN / "black_hole.npz")
    np.testing.assert_array_equal(observation["cphase_index"], golden["cp_index"])
    np.testing.assert_array_equal(observation["cphase_conjugate"], golden["cp_conjugate"] == 1)
    np.testing.assert_array_equal(observation["logcamp_index"], golden["camp_index"])
    np.testing.assert_array_equal(observation["station1"], golden["t1"].astype(str))
    np.testing.assert_array_equal(observation["station2"], golden["t2"].astype(str))
    for ours, theirs in (("u", "u"), ("v", "v"), ("time", "time"), ("sigma", "sigma_jy")):
        np.testing.assert_allclose(observation[ours], golden[theirs], rtol=1e-6)
    assert (observation.sizes["cphase"], observation.sizes["logcamp"]) == (158, 127)


def test_facts_of_the_file(observation):
    attrs = observation.attrs
    assert (attrs["source"], attrs["mjd"]) == ("M87", 57848)
    assert (attrs["frequency_hz"], attrs["bandwidth_hz"]) == (227070703125.0, 1.856e9)
    assert attrs["ra_hours"] == pytest.approx(12.513729)
    assert attrs["dec_degrees"] == pytest.approx(12.391123)
    assert (attrs["file"], attrs["sha256"]) == (UVFITS.name, sha256(UVFITS))
    assert "flux" not in observation  # nobody said what it is
    np.testing.assert_allclose(
        observation["station_position"].sel(station="AA"), [2225060.8, -5440059.6, -2481681.2]
    )


def test_closures_are_ehtims(observation):
    phases, amplitudes = ehtim_closures(load_with_ehtim(UVFITS))
    assert np.abs(wrapped(observation["cphase"] - phases["cphase"])).max() < 1e-9
    np.testing.assert_allclose(observation["cphase_sigma"], phases["sigmacp"], rtol=1e-9)
    np.testing.assert_allclose(observation["logcamp"], amplitudes["camp"], atol=1e-9)
    np.testing.assert_allclose(observation["logcamp_sigma"], amplitudes["sigmaca"], rtol=1e-9)


@pytest.mark.parametrize("band", ["lo", "hi"])
@pytest.mark.parametrize("seconds", [None, 600.0])
def test_measured_data_agree_with_ehtim(m87, band, seconds):
    ours = read_uvfits(m87[band], **{**RAW, "average_seconds": seconds})
    theirs = load_with_ehtim(m87[band], seconds or 0.0)
    counts = {("lo", None): 6453, ("hi", None): 6458, ("lo", 600.0): 271, ("hi", 600.0): 271}
    assert ours.sizes["vis"] == len(theirs.data) == counts[band, seconds]
    order = np.lexsort((theirs.data["t2"], theirs.data["t1"], np.round(theirs.data["time"], 6)))
    mine = np.lexsort((ours["station2"], ours["station1"], np.round(ours["time"], 6)))
    for name, column in (("visibility", "vis"), ("sigma", "sigma"), ("u", "u"), ("v", "v")):
        np.testing.assert_allclose(ours[name].values[mine], theirs.data[column][order], rtol=1e-6)
    np.testing.assert_allclose(ours["time"].values[mine], theirs.data["time"][order], atol=1e-5)
    if seconds:
        phases, amplitudes = ehtim_closures(theirs)
        assert (len(phases), len(amplitudes)) == (158, 127)
        assert (ours.sizes["cphase"], ours.sizes["logcamp"]) == (158, 127)
        np.testing.assert_allclose(
            np.sort(ours["cphase_sigma"]), np.sort(phases["sigmacp"]), rtol=1e-6
        )
        np.testing.assert_allclose(
            np.sort(ours["logcamp"]), np.sort(amplitudes["camp"]), rtol=1e-6, atol=1e-9
        )


def test_scan_average_of_measured_data(m87):
    everything = read_uvfits(m87["lo"], systematic=0.0, snr_cut=0.0)
    assert len(np.unique(everything["time"])) == 18  # scans of 5 April 2017
    assert everything.sizes["vis"] == 168
    # All baselines of a scan share one time, so none of its closures is lost.
    assert (everything.sizes["cphase"], everything.sizes["logcamp"]) == (100, 82)
    assert most_closures(everything) == (100, 82)
    default = read_uvfits(m87["lo"])
    assert [default.sizes[name] for name in ("vis", "cphase", "logcamp")] == [168, 92, 74]
    assert max(default["cphase_sigma"].max(), default["logcamp_sigma"].max()) <= 1 / 3
    assert (default.attrs["average_seconds"], default.attrs["snr_cut"]) == ("scan", 3.0)


def test_both_bands_measure_the_same_closure_phases(m87):
    low, high = (read_uvfits(m87[band]) for band in ("lo", "hi"))

    def triangles(obs):
        out = {}
        for phase, sigma, index in zip(
            obs["cphase"].values,
            obs["cphase_sigma"].values,
            obs["cphase_index"].values,
            strict=True,
        ):
            one, two = obs["station1"].values[index], obs["station2"].values[index]
            key = (round(float(obs["time"][index[0]]), 2), *sorted({*one, *two}))
            out[key] = phase, sigma
        return out

    low, high = triangles(low), triangles(high)
    shared = sorted(set(low) & set(high))
    assert len(shared) > 80
    difference = wrapped([low[k][0] - high[k][0] for k in shared])
    error = np.hypot([low[k][1] for k in shared], [high[k][1] for k in shared])
    assert np.abs(np.median(difference / error)) < 0.3
    assert 0.5 < np.sqrt(np.mean((difference / error) ** 2)) < 1.2


def test_continuous_data_are_no_scan(tmp_path, observation):
    step = np.unique(observation["time"], return_inverse=True)[1].reshape(-1)
    close = observation.assign(time=("vis", step * 80 / 3600))  # 31 times, every 80 s
    write_uvfits(tmp_path / "close.uvfits", close)
    with pytest.raises(DataError, match="40 minutes without a gap"):
        read_uvfits(tmp_path / "close.uvfits")
    binned = read_uvfits(tmp_path / "close.uvfits", average_seconds=600)
    assert len(np.unique(binned["time"])) == 5


# ---------------------------------------------------------------- options


def test_systematic_noise_adds_in_quadrature(observation):
    with_noise = read_uvfits(UVFITS, **{**RAW, "systematic": 0.02})
    expected = np.hypot(observation["sigma"], 0.02 * np.abs(observation["visibility"]))
    np.testing.assert_allclose(with_noise["sigma"], expected)
    # EHT paper III: 2 % a visibility are 2 degrees in closure phase, 4 % in closure amplitude.
    assert np.degrees(with_noise["cphase_sigma"].min()) > np.degrees(0.02 * np.sqrt(3)) > 1.98
    assert with_noise["logcamp_sigma"].min() > 0.04


def test_snr_cut_leaves_a_maximal_set_of_good_closures(observation):
    cut = read_uvfits(UVFITS, **{**RAW, "snr_cut": 5.0})
    assert max(cut["cphase_sigma"].max(), cut["logcamp_sigma"].max()) <= 0.2
    for name, signed in (("cphase", True), ("logcamp", False)):
        independent, number = rank(cut, name, signed)
        assert independent == number
        kept = (observation[f"{name}_sigma"] <= 0.2).sum()
        # More than the survivors of the reference set: others replace what the cut took from it.
        assert kept <= number < observation.sizes[name]
    with pytest.raises(DataError, match="lower snr_cut"):
        read_uvfits(UVFITS, snr_cut=1e9)


@pytest.mark.parametrize(("fraction", "n_times"), [(0.03, 1), (0.1, 4), (0.5, 16), (1.0, 31)])
def test_fraction_keeps_the_first_times(observation, fraction, n_times):
    part = read_uvfits(UVFITS, **RAW, fraction=fraction)
    times = np.unique(observation["time"])
    np.testing.assert_array_equal(np.unique(part["time"]), times[:n_times])
    n = part.sizes["cphase"]
    np.testing.assert_array_equal(part["cphase_index"], observation["cphase_index"][:n])


def test_flux_from_a_baseline(observation):
    amplitude = np.abs(observation["visibility"])
    alma_apex = (observation["station1"] == "AA") & (observation["station2"] == "AP")
    for baseline in ("AA-AP", "AP-AA"):
        measured = read_uvfits(UVFITS, **RAW, flux_baseline=baseline)
        assert float(measured["flux"]) == pytest.approx(float(np.median(amplitude[alma_apex])))
        np.testing.assert_array_equal(measured["visibility"], observation["visibility"])
    assert float(measured["flux"]) == pytest.approx(1.13, abs=0.01)  # extended flux included
    shortest = read_uvfits(UVFITS, **RAW, flux_baseline="shortest")  # JCMT-SMA
    assert float(shortest["flux"]) == pytest.approx(1.13, abs=0.01)
    with pytest.raises(DataError, match="no baseline 'AA-XX'; there are AA-AP"):
        read_uvfits(UVFITS, **RAW, flux_baseline="AA-XX")
    with pytest.raises(DataError, match="two station names"):
        read_uvfits(UVFITS, **RAW, flux_baseline="ALMA")


def test_known_flux_rescales_the_zero_baselines(observation):
    compact = read_uvfits(UVFITS, **RAW, flux=0.6, flux_baseline="AA-AP")
    assert float(compact["flux"]) == 0.6
    scale = compact.attrs["zero_baseline_scale"]
    assert scale == pytest.approx(0.6 / 1.13, rel=0.01)
    zero = np.hypot(observation["u"], observation["v"]) < 1e8
    factor = np.where(zero, scale, 1.0)
    np.testing.assert_allclose(compact["visibility"], observation["visibility"] * factor)
    np.testing.assert_allclose(compact["sigma"], observation["sigma"] * factor)
    np.testing.assert_allclose(compact["cphase"], observation["cphase"])
    kept = read_uvfits(UVFITS, **RAW, flux=0.6, zero_baselines="keep")
    np.testing.assert_array_equal(kept["visibility"], observation["visibility"])
    assert (float(kept["flux"]), kept.attrs["zero_baseline_scale"]) == (0.6, 1.0)


def test_zero_baselines_dropped_without_losing_closures():
    dropped = read_uvfits(UVFITS, **RAW, zero_baselines="drop")
    assert np.hypot(dropped["u"], dropped["v"]).min() > 1e8
    counts = (dropped.sizes["cphase"], dropped.sizes["logcamp"])
    assert counts == most_closures(dropped)
    assert counts == (rank(dropped, "cphase", True)[0], rank(dropped, "logcamp", False)[0])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"average_seconds": 0}, "average_seconds"),
        ({"average_seconds": "scans"}, "'scan' or None"),
        ({"systematic": -0.1}, "systematic"),
        ({"systematic": 2.0}, "0.02 for 2 %"),
        ({"snr_cut": -1.0}, "snr_cut"),
        ({"fraction": 0.0}, "fraction"),
        ({"fraction": 1.5}, "fraction"),
        ({"flux": -1.0}, "flux"),
        ({"zero_baselines": "flag"}, "'rescale', 'keep' or 'drop'"),
    ],
)
def test_options_out_of_range(options, reason):
    with pytest.raises(DataError, match=reason):
        read_uvfits(UVFITS, **options)


# ---------------------------------------------------------------- bad files


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_uvfits(tmp_path / "none.uvfits")


def test_truncated_file_at_any_length(tmp_path):
    whole = UVFITS.read_bytes()
    path = tmp_path / "cut.uvfits"
    # Inside every header and table, on the block edges, and just before the end.
    sizes = [1, 80, 2000, 2880, 5760, 8640, 9000, 20_000, 31_680, 34_560, 35_000, 37_440, 40_000]
    for size in [s for s in sizes if s < len(whole)] + [len(whole) - 2880, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut\.uvfits"):
            read_uvfits(path, **RAW)


def test_other_formats_under_the_name_of_uvfits(tmp_path):
    (tmp_path / "notes.uvfits").write_text("# SRC: M87\nthese are not visibilities\n" * 200)
    with pytest.raises(DataError, match="of another format"):
        read_uvfits(tmp_path / "notes.uvfits")
    (tmp_path / "empty.uvfits").touch()
    with pytest.raises(DataError, match="is empty"):
        read_uvfits(tmp_path / "empty.uvfits")
    with pytest.raises(DataError, match="read_image"):
        read_uvfits(GOLDEN / "black_hole_ref.fits")


def edited(tmp_path, edit):
    """A copy of the golden file after edit(data), data of shape (n, 1, 1, 1, 1, 4, 3)."""
    from astropy.io import fits

    with fits.open(UVFITS, memmap=False) as hdus:
        edit(hdus[0].data["DATA"])
        hdus.writeto(tmp_path / "edited.uvfits", overwrite=True)
    return tmp_path / "edited.uvfits"


def test_flagged_visibilities_are_dropped(tmp_path, observation):
    def flag(data):
        data[5, ..., 2] = 0.0
        data[6, ..., 2] = -1.0
        data[7, ..., 2] = np.nan
        data[5:8, ..., :2] = np.nan  # what is flagged may hold anything

    flagged = read_uvfits(edited(tmp_path, flag), **RAW)
    assert flagged.sizes["vis"] == observation.sizes["vis"] - 3


def test_one_polarisation_suffices(tmp_path, observation):
    def flag(data):
        data[3, ..., 1, 2] = 0.0  # no LL: Stokes I is RR alone

    single = read_uvfits(edited(tmp_path, flag), **RAW)
    assert single.sizes["vis"] == observation.sizes["vis"]
    expected = float(observation["sigma"][3]) * np.sqrt(2)
    assert float(single["sigma"][3]) == pytest.approx(expected, rel=1e-5)


def test_infinite_weights_are_a_sigma_of_zero(tmp_path):
    def exact(data):
        data[5, ..., 2] = np.inf

    with pytest.raises(DataError, match=r"sigma is not a positive .*: 1 of 271 .*number 5"):
        read_uvfits(edited(tmp_path, exact))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_unflagged_nan_is_refused(tmp_path, value):
    def spoil(data):
        data[9, ..., 0, 0] = value

    with pytest.raises(DataError, match=r"not flagged: 1 of 271 .*number 9"):
        read_uvfits(edited(tmp_path, spoil), **RAW)


def test_everything_flagged(tmp_path):
    def flag(data):
        data[..., 2] = 0.0

    with pytest.raises(DataError, match=r"edited.uvfits: No unflagged"):
        read_uvfits(edited(tmp_path, flag), **RAW)


@pytest.mark.parametrize("turned", [False, True], ids=["again", "turned round"])
@pytest.mark.parametrize("at", [1, -1], ids=["next to it", "elsewhere in the file"])
def test_a_baseline_twice_at_one_time(tmp_path, at, turned, observation):
    """eht-imaging keeps one of the two, or both, in silence."""
    from astropy.io import fits

    path = tmp_path / "twice.uvfits"
    with fits.open(UVFITS, memmap=False) as hdus:
        columns = hdus[0].data
        record = {name: columns[name].copy() for name in ("DATE", "_DATE", "BASELINE")}
        for name, column in record.items():
            column[at] = column[0]
            columns[name][:] = column
        if turned:
            columns["BASELINE"][at] = 256 * 2 + 1  # AP-AA, as good as AA-AP
        hdus.writeto(path)
        message = f"a baseline more than once .*: 1 of 271 records .*number {at % 271}"
        with pytest.raises(DataError, match=message):
            read_uvfits(path)
        hdus[0].data["DATA"][at, ..., 2] = 0  # flagged, it does no harm
        hdus.writeto(path, overwrite=True)
    assert read_uvfits(path, **RAW).sizes["vis"] == observation.sizes["vis"] - 1


def test_two_stations_have_no_closure_phase(tmp_path, observation):
    wanted = (observation["station1"] == "AA") & (observation["station2"] == "LM")

    def flag(data):
        data[~wanted.values, ..., 2] = 0.0

    with pytest.raises(DataError, match="no closure phase: at no time do three stations"):
        read_uvfits(edited(tmp_path, flag), **RAW)


def test_three_stations_have_phases_and_no_amplitudes(tmp_path, observation):
    wanted = observation["station1"].isin(["AA", "LM"]) & observation["station2"].isin(["LM", "PV"])

    def flag(data):
        far = (observation["station1"] == "AA") & (observation["station2"] == "PV")
        data[~(wanted | far).values, ..., 2] = 0.0

    three = read_uvfits(edited(tmp_path, flag), **RAW)
    assert three.sizes["cphase"] > 0
    assert three["logcamp_index"].shape == (0, 4)


# ---------------------------------------------------------------- tables


def as_table(observation):
    names = ("time", "station1", "station2", "u", "v", "visibility", "sigma", "integration")
    stations = {
        "name": observation["station"].values,
        "position": observation["station_position"].values,
        "sefd": observation["sefd"].values,
    }
    return {name: observation[name].values.copy() for name in names}, stations


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("sigma", 0.0, "sigma is not a positive number for 1 of 271 .*AA-AP"),
        ("sigma", -1.0, "sigma is not a positive"),
        ("sigma", np.nan, "sigma is not a positive"),
        ("visibility", np.nan, "1 of 271 visibilities .*not finite"),
        ("u", np.inf, "not finite"),
        ("station1", "XX", r"\['XX'\] are not in the list"),
        ("station2", "AA", "joins a station to itself"),
        ("station2", "PV", "AA-PV appears twice"),
    ],
)
def test_bad_rows_are_named(observation, column, value, reason):
    table, stations = as_table(observation)
    table[column][0] = value
    with pytest.raises(DataError, match=reason):
        make_observation(table, stations)


def test_systematic_noise_does_not_make_up_for_a_missing_sigma(observation):
    table, stations = as_table(observation)
    table["sigma"][0] = 0.0
    with pytest.raises(DataError, match="sigma is not a positive number for 1 of 271"):
        make_observation(table, stations, systematic=0.02)


def test_bad_tables(observation):
    table, stations = as_table(observation)
    with pytest.raises(DataError, match="no visibility"):
        make_observation({name: column[:0] for name, column in table.items()}, stations)
    with pytest.raises(DataError, match="must have the shape"):
        make_observation({**table, "u": table["u"][1:]}, stations)


def test_incomplete_scans_keep_all_their_closures(observation):
    table, stations = as_table(observation)
    keep = np.random.default_rng(1).uniform(size=len(table["u"])) > 0.25
    table = {name: column[keep] for name, column in table.items()}
    sparse = make_observation(table, stations)
    # Triangles may be fewer than the cycles of a sparse graph; amplitudes need not be either.
    phases, amplitudes = most_closures(sparse)
    assert rank(sparse, "cphase", True) == (sparse.sizes["cphase"],) * 2
    assert rank(sparse, "logcamp", False) == (sparse.sizes["logcamp"],) * 2
    assert 0.95 * phases <= sparse.sizes["cphase"] <= phases
    assert 0.8 * amplitudes <= sparse.sizes["logcamp"] <= amplitudes


# ---------------------------------------------------------------- writing


def test_uvfits_round_trip(tmp_path, observation):
    write_uvfits(tmp_path / "copy.uvfits", observation)
    back = read_uvfits(tmp_path / "copy.uvfits", **RAW)
    for name in ("station1", "station2", "cphase_index", "logcamp_index", "station"):
        np.testing.assert_array_equal(back[name], observation[name])
    for name in ("u", "v", "visibility", "sigma", "integration", "logcamp_sigma"):
        np.testing.assert_allclose(back[name], observation[name], rtol=1e-6)
    assert np.abs(wrapped(back["cphase"] - observation["cphase"])).max() < 1e-5
    for name in ("source", "mjd", "frequency_hz", "bandwidth_hz"):
        assert back.attrs[name] == observation.attrs[name]
    assert [p.name for p in tmp_path.iterdir()] == ["copy.uvfits"]


def test_uvfits_station_names_must_fit(tmp_path, observation):
    names = list(observation["station"].values)
    names[0] = "ATACAMA-LARGE"
    with pytest.raises(DataError, match="at most 8 letters"):
        write_uvfits(tmp_path / "copy.uvfits", observation.assign_coords(station=names))


def test_netcdf_round_trip(tmp_path, observation):
    write_netcdf(tmp_path / "observation.nc", observation)
    back = read_netcdf(tmp_path / "observation.nc")
    for name in observation.variables:
        np.testing.assert_array_equal(back[name], observation[name])
        assert back[name].dtype == observation[name].dtype
    assert back.attrs == observation.attrs


# ---------------------------------------------------------------- ehtim


def test_missing_ehtim_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ehtim", None)
    with pytest.raises(ImportError, match=r"pip install .*lmaps-science\[eht\]"):
        read_uvfits(UVFITS)


def test_reading_is_silent_and_leaves_matplotlib_alone():
    code = (
        "import matplotlib; before = dict(matplotlib.rcParams)\n"
        "from lmaps_science.io import read_uvfits\n"
        "import sys; assert 'ehtim' not in sys.modules\n"
        f"read_uvfits({str(UVFITS)!r})\n"
        "assert dict(matplotlib.rcParams) == before\n"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")

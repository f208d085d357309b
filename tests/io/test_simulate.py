"""Simulated observations: Fourier convention, coverage, noise, gains, reproducibility."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lmaps_science.io import (
    DataError,
    array_names,
    image_visibilities,
    make_image,
    read_array,
    read_uvfits,
    simulate_observation,
    write_uvfits,
)
from lmaps_science.io._ehtim import import_ehtim, quiet
from lmaps_science.io.images import MICROARCSECOND
from lmaps_science.io.simulate import _coverage

ROOT = Path(__file__).parents[2]
UVFITS = ROOT / "tests" / "golden" / "black_hole_obs.uvfits"
RAW = {"average_seconds": None, "systematic": 0.0, "snr_cut": 0.0}
M87 = {
    "source": "M87",
    "ra_hours": 12.513728717168174,
    "dec_degrees": 12.39112323919932,
    "mjd": 57848,
    "frequency_hz": 227070703125.0,
}


@pytest.fixture(scope="module")
def image():
    """An asymmetric ring of 42 microarcseconds and 0.6 Jy."""
    at = make_image(np.zeros((24, 24)), 5 * MICROARCSECOND)
    radius, angle = np.hypot(at["x"], at["y"]), np.arctan2(at["y"] - 3, at["x"] + 2)
    ring = np.exp(-((radius - 21) ** 2) / 50) * (1 + 0.7 * np.sin(angle - 0.4))
    values = (0.6 * ring / ring.sum()).transpose("y", "x").values
    return make_image(values, 5 * MICROARCSECOND, **M87)


@pytest.fixture(scope="module")
def coverage():
    return read_uvfits(UVFITS, **RAW)


def row_of(table):
    """(time to 4 s, station, station) -> row of the table."""
    columns = (np.asarray(table[name]).tolist() for name in ("time", "station1", "station2"))
    keys = zip(*columns, strict=True)
    return {(round(time, 3), one, two): k for k, (time, one, two) in enumerate(keys)}


# ---------------------------------------------------------------- the Fourier transform


def test_visibilities_are_ehtims(image, coverage):
    ehtim = import_ehtim()
    with quiet():
        obs = ehtim.obsdata.load_uvfits(str(UVFITS))
        theirs = ehtim.image.Image(
            image.values,
            5 * MICROARCSECOND,
            obs.ra,
            obs.dec,
            rf=obs.rf,
            source=obs.source,
            mjd=obs.mjd,
        )
        clean = theirs.observe_same_nonoise(obs, ttype="direct")
    ours = image_visibilities(image, obs.data["u"], obs.data["v"])
    np.testing.assert_allclose(ours, clean.data["vis"], atol=1e-10)
    assert np.abs(ours.imag).max() > 0.01  # the image is asymmetric: a wrong sign would show


def test_golden_visibilities():
    golden = np.load(ROOT / "tests" / "golden" / "black_hole.npz")
    for model, expected in zip(golden["x_model"][:, 0], golden["vis"][:, 0, :, 0], strict=True):
        image = make_image((model.astype(float) + 1) / 2, float(golden["psize_rad"]))
        got = image_visibilities(image, golden["u"], golden["v"])
        np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_zero_baseline_measures_the_flux(image):
    np.testing.assert_allclose(image_visibilities(image, np.zeros(1), np.zeros(1)), 0.6)


# ---------------------------------------------------------------- coverage


def test_coverage_is_that_of_the_published_data(data_dir):
    path = data_dir / "eht" / "SR1_M87_2017_095_lo_hops_netcal_StokesI.uvfits"
    measured = read_uvfits(path, **RAW)
    stations = {
        "name": measured["station"].values,
        "position": measured["station_position"].values,
        "sefd": np.ones(measured.sizes["station"]),
    }
    hours = np.unique(measured["time"])[::20]
    table = _coverage(stations, measured.attrs, hours, (-90, 90), 10.0)
    row = row_of(table)
    checked = 0
    for (time, one, two), k in row_of(measured).items():
        if time not in np.round(hours, 3):
            continue
        flipped = (time, one, two) not in row
        i = row[(time, two, one) if flipped else (time, one, two)]
        expected = np.array([measured["u"].values[k], measured["v"].values[k]])
        got = np.array([table["u"][i], table["v"][i]]) * (-1 if flipped else 1)
        assert np.hypot(*(got - expected)) < 1e-4 * np.hypot(*expected)
        checked += 1
    assert checked > 200


def test_coverage_and_noise_are_ehtims(image):
    ehtim = import_ehtim()
    array_file = ROOT / "lmaps_science" / "io" / "arrays" / "EHT2017.txt"
    with quiet():
        array = ehtim.array.load_txt(str(array_file))
        theirs = array.obsdata(
            M87["ra_hours"],
            M87["dec_degrees"],
            M87["frequency_hz"],
            1.856e9,
            tint=300,
            tadv=1800,
            tstart=0.0,
            tstop=8.0,
            mjd=M87["mjd"],
            tau=0.0,
        )
    ours = simulate_observation(image, scan_interval_seconds=1800, stop_hour=8.0)
    expected = {(round(float(r["time"]), 3), str(r["t1"]), str(r["t2"])): r for r in theirs.data}
    found = 0
    for key, k in row_of(ours).items():
        row = expected.get(key)
        if row is None:
            continue
        found += 1
        error = np.hypot(row["u"] - ours["u"].values[k], row["v"] - ours["v"].values[k])
        assert error < 1e-5 * np.hypot(row["u"], row["v"])
        assert ours["sigma"].values[k] == pytest.approx(row["sigma"], rel=1e-6)
    assert found == ours.sizes["vis"] == len(expected)


def test_thermal_noise_is_that_of_the_measured_data(data_dir, image):
    """ALMA-LMT, the best-known long baseline: the measured noise of 10 s is 2.3 mJy."""
    path = data_dir / "eht" / "SR1_M87_2017_095_lo_hops_netcal_StokesI.uvfits"
    measured = read_uvfits(path, **RAW)
    simulated = simulate_observation(image, integration_seconds=10.0)

    def median(obs):
        pair = obs["station1"].isin(["AA", "LM"]) & obs["station2"].isin(["AA", "LM"])
        return float(obs["sigma"][pair].median())

    assert median(simulated) == pytest.approx(median(measured), rel=0.1)


def test_every_array_observes_m87(image):
    assert array_names() == ["EHT2017", "EHT2025"]
    sizes = {}
    for name in array_names():
        seen = simulate_observation(image, array=name, scan_interval_seconds=3600)
        sizes[name] = seen.sizes["cphase"]
        assert (seen.attrs["array"], seen.attrs["source"]) == (name, "M87")
        assert "SP" not in seen["station1"].values  # M87* never rises at the South Pole
        assert list(seen["sefd"].values) == sorted(seen["sefd"].values)
        assert float(seen["flux"]) == pytest.approx(0.6)
    assert sizes["EHT2025"] > 1.5 * sizes["EHT2017"]


def test_array_from_a_file(tmp_path, image):
    text = "\n".join(
        f"{name} {x} {y} {z} {sefd} {sefd} 1 0 0"  # ehtim's files have more columns
        for name, (x, y, z), sefd in zip(*read_array("EHT2017").values(), strict=True)
        if name in ("AA", "LM", "PV", "AZ")
    )
    (tmp_path / "mine.txt").write_text("#NAME X Y Z SEFDR SEFDL\n" + text)
    seen = simulate_observation(image, array=tmp_path / "mine.txt", scan_interval_seconds=3600)
    assert set(seen["station"].values) == {"AA", "LM", "PV", "AZ"}
    assert seen.attrs["array"] == "mine.txt"


# ---------------------------------------------------------------- errors


def test_closures_do_not_depend_on_gains(image, coverage):
    options = {"coverage": coverage, "thermal_noise": False}
    clean = simulate_observation(image, **options, random_phases=False)
    gained = simulate_observation(image, **options, gain_std=0.2, seed=3)
    np.testing.assert_allclose(
        clean["visibility"], image_visibilities(image, coverage["u"], coverage["v"]), rtol=1e-12
    )
    ratio = np.abs(gained["visibility"] / clean["visibility"])
    assert 0.1 < float(np.log(ratio).std()) < 0.5
    assert np.abs(np.angle(gained["visibility"] / clean["visibility"])).max() > 2
    difference = np.angle(np.exp(1j * (gained["cphase"].values - clean["cphase"].values)))
    assert np.abs(difference).max() < 1e-9
    np.testing.assert_allclose(gained["logcamp"], clean["logcamp"], atol=1e-9)


def test_gains_belong_to_stations(image, coverage):
    options = {"coverage": coverage, "thermal_noise": False, "random_phases": False}
    clean = simulate_observation(image, **options)
    one = simulate_observation(image, **options, gain_std={"LM": 0.6})
    ratio = np.abs((one["visibility"] / clean["visibility"]).values)
    with_lmt = ((one["station1"] == "LM") | (one["station2"] == "LM")).values
    np.testing.assert_allclose(ratio[~with_lmt], 1.0)
    assert np.log(ratio[with_lmt]).std() > 0.3
    for time in np.unique(one["time"]):
        same = ratio[with_lmt & (one["time"] == time).values]
        np.testing.assert_allclose(same, same[:1].repeat(len(same)))
    with pytest.raises(DataError, match=r"gain_std names \['XX'\]"):
        simulate_observation(image, coverage=coverage, gain_std={"XX": 0.1})
    with pytest.raises(DataError, match="must not be negative"):
        simulate_observation(image, coverage=coverage, gain_std=-0.1)


def test_noise_has_the_stated_sigma(image, coverage):
    clean = simulate_observation(image, coverage=coverage, thermal_noise=False, random_phases=False)
    deviations = np.concatenate(
        [
            (
                simulate_observation(image, coverage=coverage, random_phases=False, seed=seed)[
                    "visibility"
                ]
                - clean["visibility"]
            ).values
            / coverage["sigma"].values
            for seed in range(5)
        ]
    )
    n = len(deviations)
    for part in (deviations.real, deviations.imag):
        assert abs(part.mean()) < 4 / np.sqrt(n)
        assert part.std() == pytest.approx(1, abs=4 / np.sqrt(2 * n))
    assert abs(np.mean(deviations.real * deviations.imag)) < 4 / np.sqrt(n)


def test_systematic_errors_widen_the_stated_sigma_alone(image, coverage):
    plain = simulate_observation(image, coverage=coverage, seed=2)
    wider = simulate_observation(image, coverage=coverage, seed=2, systematic=0.05)
    np.testing.assert_array_equal(wider["visibility"], plain["visibility"])
    np.testing.assert_array_equal(wider["cphase"], plain["cphase"])
    expected = np.hypot(plain["sigma"], 0.05 * np.abs(plain["visibility"]))
    np.testing.assert_allclose(wider["sigma"], expected, rtol=1e-12)
    legs = (wider["sigma"] / np.abs(wider["visibility"])).values[wider["cphase_index"].values]
    np.testing.assert_allclose(wider["cphase_sigma"], np.sqrt((legs**2).sum(axis=1)), rtol=1e-12)
    assert (plain.attrs["systematic"], wider.attrs["systematic"]) == (0.0, 0.05)
    # The cut goes by the errors as they are in the end: 0.05 a leg is more than 1/20 in a phase.
    with pytest.raises(DataError, match="lower snr_cut"):
        simulate_observation(image, coverage=coverage, systematic=0.05, snr_cut=20.0)


def test_each_error_keeps_its_numbers_when_another_is_off(image, coverage):
    def simulate(**options):
        return simulate_observation(image, coverage=coverage, seed=5, **options)["visibility"]

    both = simulate(gain_std=0.1)
    gains = simulate(gain_std=0.1, thermal_noise=False)
    noise = simulate(random_phases=False)
    clean = simulate(random_phases=False, thermal_noise=False)
    np.testing.assert_allclose(both - gains, noise - clean, atol=1e-14)
    assert (
        both != simulate_observation(image, coverage=coverage, gain_std=0.1)["visibility"]
    ).all()


def test_same_bits_in_every_process():
    code = (
        "import hashlib, numpy as np\n"
        "from lmaps_science.io import make_image, simulate_observation\n"
        "values = np.random.default_rng(0).uniform(size=(16, 16))\n"
        f"image = make_image(values, 4e-11, **{M87!r})\n"
        "obs = simulate_observation(image, gain_std=0.1, seed=0, scan_interval_seconds=3600)\n"
        "digest = hashlib.sha256()\n"
        "for name in sorted(obs.variables):\n"
        "    digest.update(np.ascontiguousarray(obs[name].values).tobytes())\n"
        "print(digest.hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        ).stdout
        for seed, threads in (("0", "1"), ("1", "2"), ("12345", "1"))
    }
    assert len(digests) == 1


# ---------------------------------------------------------------- files


def test_simulation_through_a_uvfits_file(tmp_path, image):
    simulated = simulate_observation(image, gain_std=0.1, scan_interval_seconds=1800)
    write_uvfits(tmp_path / "simulated.uvfits", simulated)
    back = read_uvfits(tmp_path / "simulated.uvfits", **RAW)
    # eht-imaging sorts the visibilities of a time by name; the closures keep their order.
    ours, read = (row_of(obs) for obs in (simulated, back))
    assert set(ours) == set(read)
    for key, k in ours.items():
        at, again = simulated["visibility"].values[k], back["visibility"].values[read[key]]
        assert again == pytest.approx(at, rel=1e-6)
    np.testing.assert_array_equal(back["station"], simulated["station"])
    for name in ("sefd", "station_position", "logcamp", "cphase_sigma", "logcamp_sigma"):
        np.testing.assert_allclose(back[name], simulated[name], rtol=1e-5, atol=1e-5)
    difference = np.exp(1j * (back["cphase"] - simulated["cphase"]))
    assert np.abs(np.angle(difference)).max() < 1e-5
    ehtim = import_ehtim()
    with quiet():
        theirs = ehtim.obsdata.load_uvfits(str(tmp_path / "simulated.uvfits"))
        phases = theirs.c_phases(count="min", ang_unit="rad")
    assert (len(theirs.data), theirs.source) == (simulated.sizes["vis"], "M87")
    np.testing.assert_allclose(phases["sigmacp"], simulated["cphase_sigma"], rtol=1e-4)
    again = simulate_observation(image, coverage=tmp_path / "simulated.uvfits", gain_std=0.1)
    np.testing.assert_allclose(again["u"], back["u"])
    assert again.attrs["coverage"] == "simulated.uvfits"


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"array": "EHT2071"}, "Did you mean 'EHT2017'"),
        ({"array": "eht2025"}, "Did you mean 'EHT2025'"),
        ({"array": "VLBA"}, "Known: EHT2017, EHT2025"),
        ({"stop_hour": 0.0}, "start_hour < stop_hour"),
        ({"integration_seconds": 700.0}, "integration_seconds <= scan_interval"),
        ({"bandwidth_hz": 0.0}, "must be positive"),
        ({"systematic": -0.1}, "0.02 for 2 %"),
        ({"systematic": 1.0, "thermal_noise": False}, "0.02 for 2 %"),
        ({"dec_degrees": 89.9, "elevation_degrees": (80, 90)}, "holds no visibility"),
        ({"coverage": xr.Dataset()}, "not an Observation"),
    ],
)
def test_refusals(image, options, reason):
    with pytest.raises(DataError, match=reason):
        simulate_observation(image, **options)


def test_what_the_image_does_not_say_must_be_given(image):
    bare = make_image(image.values, 1e-11)
    with pytest.raises(DataError, match="ra_hours, dec_degrees, mjd, frequency_hz: neither given"):
        simulate_observation(bare)


def test_unreadable_arrays(tmp_path):
    path = tmp_path / "mine.txt"
    for text, reason in (
        ("AA 1 2 3", "line 1: it takes a name and four numbers"),
        ("AA 1 2 3 -5", "line 1: it takes a name and four numbers"),
        ("# none\nAA 1 2 north 5", "line 2: it takes a name and four numbers"),
        ("AA 1 2 3 4\nAA 1 2 3 4\nBB 1 2 3 4", "three or more, each once"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=reason):
            read_array(path)

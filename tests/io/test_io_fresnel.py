"""Fresnel files: what is read, its conventions, calibration, and every way a file can be broken."""

import numpy as np
import pytest
import torch
from scipy import special

from lmaps_science.io import DataError, calibrate_fresnel, read_fresnel
from lmaps_science.physics.lippmann_schwinger import FullWaveScattering
from lmaps_science.physics.scattering import ScatteringGeometry

HEADER = """# Institut Fresnel
# Number of frequencies : 2 (2 --> 3 GHz, step 1 GHz)
# Number of views : 2
# Number of receivers : 5 per view.
"""
GAIN = {2.0: 3.0 - 1.0j, 3.0: -2.0 + 0.5j}  # of the horns, by frequency in GHz


def line_source(receiver, transmitter, frequency):
    """Field at receiver k, which stands at k - 0.5 degrees, of one at 180 (t - 1) degrees."""
    angle = np.deg2rad(receiver - 0.5 - 180.0 * (transmitter - 1))
    k = 2 * np.pi * frequency * 1e9 / 299_792_458.0
    return 0.25j * special.hankel1(0, k * 2 * 1.67 * abs(np.sin(angle / 2)))


def written_lines():
    lines = []
    for transmitter, first in ((1, 179), (2, 358)):
        for receiver in ((first - 1 + i) % 360 + 1 for i in range(5)):
            for frequency in (2.0, 3.0):
                incident = GAIN[frequency] * line_source(receiver, transmitter, frequency)
                total = incident + (0.1 + 0.2j) * GAIN[frequency]
                parts = [np.conj(total), np.conj(incident)]  # the files use exp(+i omega t)
                numbers = " ".join(f"{p.real:.9e} {p.imag:.9e}" for p in parts)
                lines.append(f"  {transmitter} {receiver:4d} {frequency:6.1f} {numbers}\n")
    return lines


@pytest.fixture
def write(tmp_path):
    def write(lines=None, header=HEADER):
        path = tmp_path / "target.exp"
        path.write_text(header + "".join(written_lines() if lines is None else lines))
        return path

    return write


def test_dimensions_coordinates_and_units(write):
    observation = read_fresnel(write())
    assert dict(observation.sizes) == {"frequency": 2, "transmitter": 2, "receiver": 10}
    np.testing.assert_allclose(observation["frequency"], [2e9, 3e9])
    np.testing.assert_allclose(observation["transmitter"], [0.0, 180.0])
    np.testing.assert_allclose(observation["receiver"][:2], [0.5, 1.5])
    assert observation["receiver"].attrs["units"] == "degrees"
    assert observation.attrs["radius"] == 1.67
    assert observation["measured"].values.sum(1).tolist() == [5, 5]
    missing = observation["total_field"].values[:, ~observation["measured"].values]
    assert (missing == 0).all()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("# Polarization : TM (E //)", "TM"),
        ("# Polarization : TE (H //)", "TE"),
        ("# polarisation: te", "TE"),
        ("# Object : TE", "unknown"),
    ],
)
def test_the_header_s_polarization_is_kept(write, line, found):
    assert read_fresnel(write(header=f"{HEADER}{line}\n")).attrs["polarization"] == found


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (
            "# Polarization : TM (E //)\n# Polarization : TE (H //)\n",
            r"TM in line \d+ and TE in line",
        ),
        ("# Polarization : TE, TM\n", r"TE in line (\d+) and TM in line \1:"),
    ],
)
def test_both_polarizations_in_one_header_are_refused(write, text, where):
    with pytest.raises(DataError, match=rf"both polarisations, {where}.*Give a file of each"):
        read_fresnel(write(header=HEADER + text))


def test_files_of_both_polarizations_put_together_are_refused(write):
    """Not for their repeated lines, which are no mistake of the data's."""
    header = HEADER + "# Polarization : TM (E //)\n"
    both = [*written_lines(), header.replace("TM", "TE"), *written_lines()]
    with pytest.raises(DataError, match=r"names both polarisations, TM in line 5 and TE in line"):
        read_fresnel(write(both, header))


def test_fields_are_conjugated_and_calibration_divides_the_horns_out(write):
    observation = read_fresnel(write())
    field = observation["scattered_field"].values[:, observation["measured"].values]
    gains = np.array(list(GAIN.values()))[:, None]
    np.testing.assert_allclose(field, (0.1 + 0.2j) * gains * np.ones((1, 10)), rtol=1e-7)
    calibrated = calibrate_fresnel(observation)
    np.testing.assert_allclose(calibrated["calibration"], gains * np.ones((1, 2)), rtol=1e-7)
    field = calibrated["scattered_field"].values[:, observation["measured"].values]
    np.testing.assert_allclose(field, 0.1 + 0.2j, rtol=1e-6)
    assert "line source" in calibrated["scattered_field"].attrs["units"]


def test_geometry_of_an_observation(write):
    geometry = ScatteringGeometry.from_observation(read_fresnel(write()), 3e9, 32, 0.2)
    assert geometry.wavelength == pytest.approx(0.0999308, rel=1e-6)
    assert geometry.data_shape == (2, 10)
    np.testing.assert_allclose(geometry.direct()[0, 3], line_source(180, 1, 3.0), rtol=1e-9)
    with pytest.raises(ValueError, match="expected one of 2e"):
        ScatteringGeometry.from_observation(read_fresnel(write()), 5e9, 32, 0.2)


@pytest.mark.parametrize(
    "broken",
    [
        "  1  179  2.0  1.0  2.0  3.0\n",
        "  1 x 2.0 1 2 3 4\n",
        "  1 179 2.0 1 2 3 4 5\n",
        " 0 9 2 1 1 1 1\n",
    ],
)
def test_a_malformed_line_is_named_by_its_number(write, broken):
    lines = written_lines()
    lines[6] = broken
    with pytest.raises(DataError, match=r"target\.exp, line 11: .*is not a line of the format"):
        read_fresnel(write(lines))


@pytest.mark.parametrize("word", ["nan", "inf"])
def test_a_number_that_is_not_finite_is_refused(write, word):
    lines = written_lines()
    lines[3] = f" 1 180 3.0 0.1 {word} 0.3 0.4\n"
    with pytest.raises(DataError, match="line 8: a number that is not finite"):
        read_fresnel(write(lines))


def test_truncated_files_are_refused(write):
    lines = written_lines()
    with pytest.raises(DataError, match=r"incomplete: 10 data of 2 frequencies, 1 views.*20 of 2"):
        read_fresnel(write(lines[:10]))
    with pytest.raises(DataError, match="incomplete: 19 data"):
        read_fresnel(write(lines[:-1], header=""))
    with pytest.raises(DataError, match=r"line 24: .*truncated"):
        read_fresnel(write([*lines[:-1], lines[-1][:30]]))
    with pytest.raises(DataError, match="holds no data"):
        read_fresnel(write([]))


def test_repeated_lines_are_refused(write):
    lines = written_lines()
    with pytest.raises(DataError, match="2 lines for view 1"):
        read_fresnel(write([*lines, lines[0]]))


def test_calibration_needs_receivers_opposite_the_transmitter(write):
    observation = read_fresnel(write())
    with pytest.raises(DataError, match=r"view 1 at 2 GHz has no incident field within 0\.1"):
        calibrate_fresnel(observation, within=0.1)


# ---------------------------------------------------------------- measured files


@pytest.fixture(scope="module")
def foam(data_dir):
    return calibrate_fresnel(read_fresnel(data_dir / "fresnel" / "FoamDielIntTM.exp"))


def test_measured_file(foam):
    assert dict(foam.sizes) == {"frequency": 9, "transmitter": 8, "receiver": 360}
    assert (foam["measured"].values.sum(1) == 241).all()
    # Every view has the same arc of receivers about its transmitter, with a gap of 120 degrees.
    apart = (foam["receiver"].values - foam["transmitter"].values[:, None]) % 360
    for view, measured in zip(apart, foam["measured"].values, strict=True):
        assert (view[measured].min(), view[measured].max()) == (60.5, 300.5)


def test_measured_incident_field_is_symmetric_about_the_point_opposite(foam):
    """Receivers at index - 0.5 degrees, seen from the field itself."""
    field = foam["incident_field"].sel(transmitter=0.0)
    apart = np.arange(0.5, 40)
    left, right = (field.sel(receiver=180 + sign * apart).values for sign in (-1, 1))
    for a, b in zip(left[:3], right[:3], strict=True):  # 2, 3, 4 GHz
        assert np.linalg.norm(a - b) < 0.08 * np.linalg.norm(a)


def test_full_wave_predicts_the_measured_field_of_the_published_target(foam):
    """Foam of eps_r 1.45, 80 mm, at the axis; plastic of eps_r 3, 31 mm, 5 mm off it."""
    geometry = ScatteringGeometry.from_observation(foam, 3e9, 64, 0.12)
    image = torch.maximum(
        geometry.disc((0, 0), 0.04, 0.45), geometry.disc((-0.005, 0), 0.0155, 2.0)
    )
    predicted = FullWaveScattering(geometry, dtype=torch.float64)(image)[0].numpy()
    measured = foam["scattered_field"].sel(frequency=3e9).values
    assert np.linalg.norm(predicted - measured) < 0.12 * np.linalg.norm(measured)

from pathlib import Path

import numpy as np
import pytest
import torch

from lmaps_science.io import (
    make_observation,
    pixel_size_rad,
    read_image,
    read_netcdf,
    read_uvfits,
    regrid_image,
    simulate_observation,
    write_netcdf,
)
from lmaps_science.io.images import MICROARCSECOND
from lmaps_science.physics.closure_misfit import ClosureMisfit
from lmaps_science.physics.interferometry import ClosureQuantities
from lmaps_science.problems.black_hole.baselines import regularised_maximum_likelihood
from lmaps_science.problems.black_hole.rings import ring_statistics

pytest.importorskip("ehtim")
GOLDEN = Path(__file__).parents[2] / "golden"
FOV = 160.0
THREE = ("AA", "LM", "PV")


@pytest.fixture(scope="module")
def truth():
    return read_image(GOLDEN / "black_hole_ref.fits")


@pytest.fixture(scope="module")
def observation(truth):
    """The reference ring, on the baselines of M87*, with thermal noise and unknown gains."""
    coverage = read_uvfits(GOLDEN / "black_hole_obs.uvfits", systematic=0.0, snr_cut=0.0)
    return simulate_observation(truth, coverage=coverage, gain_std=0.2, snr_cut=3.0)


def chi2(observation, image):
    npix, fov = len(image.x), len(image.x) * pixel_size_rad(image)
    operator = ClosureQuantities.from_observation(observation, npix, fov, dtype=torch.float64)
    misfit = ClosureMisfit.from_observation(operator, observation)
    return misfit.chi2(torch.as_tensor(image.values.copy())[None, None])


def aligned_correlation(a, b):
    """Largest correlation over all shifts: closure quantities do not know the position."""
    a, b = a - a.mean(), b - b.mean()
    shifts = np.fft.ifft2(np.fft.fft2(a) * np.fft.fft2(b).conj()).real
    return shifts.max() / np.sqrt((a**2).sum() * (b**2).sum())


def test_the_data_are_fitted_and_the_ring_appears(observation, truth, tmp_path, capfd):
    image = regularised_maximum_likelihood(observation, npix=32, fov_uas=FOV)
    fit = chi2(observation, image)
    assert 0.7 < fit["cphase"] < 1.3
    assert 0.7 < fit["logcamp"] < 1.3
    reference = regrid_image(truth, 32, FOV)
    assert aligned_correlation(image.values, reference.values) > 0.9

    assert capfd.readouterr().out == ""
    assert (image.values > 0).all()
    assert float(image.sum()) == pytest.approx(float(truth.sum()), rel=0.05)
    assert image.dims == ("y", "x")
    assert pixel_size_rad(image) == pytest.approx(FOV / 32 * MICROARCSECOND)
    assert image.attrs["units"] == "Jy/pixel"
    assert image.attrs["source"] == "M87"
    assert image.attrs["chi2_cphase"] == pytest.approx(float(fit["cphase"]), rel=0.1)
    write_netcdf(tmp_path / "image.nc", image.to_dataset(name="image"))
    assert read_netcdf(tmp_path / "image.nc")["image"].attrs["regularisers"]["simple"] == 100.0


def test_measured_data_show_a_ring_brighter_in_the_south(data_dir):
    file = data_dir / "eht" / "SR1_M87_2017_095_lo_hops_netcal_StokesI.uvfits"
    if not file.exists():
        pytest.skip(f"{file} does not exist")
    observation = read_uvfits(file, flux=0.6)
    image = regularised_maximum_likelihood(observation, npix=32, fov_uas=128.0)
    fit = chi2(observation, image)
    assert 0.7 < fit["cphase"] < 1.3
    assert 0.6 < fit["logcamp"] < 1.3
    ring = ring_statistics(image.values[None], 128.0 / 32)
    assert 32 < ring["diameter"] < 48  # EHT 2019, paper IV: 39 +- 2 for eht-imaging's images
    assert 120 < ring["orientation"] < 210
    assert ring["central_brightness"] < 0.5


def test_what_closures_do_not_tell_must_be_given(observation):
    unknown = observation.drop_vars("flux")
    with pytest.raises(ValueError, match=r"flux=0\.6"):
        regularised_maximum_likelihood(unknown, 16, FOV)
    image = regularised_maximum_likelihood(
        unknown, 16, FOV, flux=0.3, rounds=1, iterations=5, regularisers={"flux": 1e4}
    )
    assert image.attrs["regularisers"] == {"flux": 1e4}


def test_three_stations_have_phases_alone(truth):
    options = {"scan_interval_seconds": 1800.0, "stop_hour": 12.0}
    full = simulate_observation(truth, **options)
    keep = (full["station1"].isin(THREE) & full["station2"].isin(THREE)).values
    columns = ("time", "station1", "station2", "u", "v", "visibility", "sigma", "integration")
    array = {
        "name": full["station"].values,
        "position": full["station_position"].values,
        "sefd": full["sefd"].values,
    }
    table = {name: full[name].values[keep] for name in columns}
    three = make_observation(table, array, flux=0.6, attrs=full.attrs)
    assert three.sizes["logcamp"] == 0
    image = regularised_maximum_likelihood(three, 16, FOV, rounds=1, iterations=5)
    assert image.attrs["data_terms"] == {"cphase": 1.0}
    with pytest.raises(ValueError, match="choose one or more of cphase, each"):
        regularised_maximum_likelihood(three, 16, FOV, data_terms={"logcamp": 1.0})


@pytest.mark.parametrize(
    "wrong",
    [
        {"npix": 2},
        {"fov_uas": 0.0},
        {"prior_fwhm_uas": -1.0},
        {"rounds": 0},
        {"iterations": 0},
        {"blur": -1.0},
        {"data_terms": {"amp": 1.0}},
        {"data_terms": {}},
        {"regularisers": {"entropy": 1.0}},
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(observation, wrong):
    with pytest.raises(ValueError, match=r"needs|choose one or more of"):
        regularised_maximum_likelihood(observation, **wrong)

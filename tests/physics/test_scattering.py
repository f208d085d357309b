"""The Born approximation: parity, compression, geometry, and what is refused."""

import warnings

import numpy as np
import pytest
import torch
from instances_scattering import random_data, random_images, small_geometry
from registries import load_golden
from scipy import special

from lmaps_science.arrays import norm
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine
from lmaps_science.physics.scattering import BornScattering, ScatteringGeometry


@pytest.fixture(scope="module")
def golden():
    return load_golden("inverse_scattering")


def relative(a, b) -> float:
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b)))


def test_green_functions_and_data_of_the_small_setup(golden):
    angles = np.linspace(0, 359, 3), np.linspace(0, 359, 12)
    geometry = ScatteringGeometry(24, 0.18, 6 * 0.18 / 24, *angles, 1.6, 1.6)
    incident = geometry.incident().reshape(3, 24, 24).transpose(1, 2, 0)
    np.testing.assert_allclose(incident, golden["small_uinc"], rtol=1e-11)
    sensor = geometry.sensor_green()[::4].reshape(3, 24, 24).transpose(1, 2, 0)
    np.testing.assert_allclose(sensor, golden["small_sensor_green"], rtol=1e-11)
    operator = BornScattering(geometry, conjugate_incident=True, dtype=torch.float64)
    images = (torch.as_tensor(golden["small_x_model"]).double() + 1) / 2
    assert relative(operator(images), golden["small_y"]) < 1e-12


@pytest.mark.parametrize("n_receivers", [60, 180])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_data_loss_and_gradient_of_the_benchmark(golden, n_receivers, dtype, bound):
    geometry = ScatteringGeometry.benchmark(n_receivers)
    operator = BornScattering(geometry, conjugate_incident=True, dtype=dtype)
    model_space = operator @ Affine(0.5, 1.0, operator.image_shape)
    x = torch.as_tensor(golden[f"nr{n_receivers}_x_model"]).to(dtype)
    assert relative(model_space(x), golden[f"nr{n_receivers}_y"]) < bound

    reference = model_space(torch.zeros_like(x))
    gradient, value = GaussianMisfit(model_space, reference, 1.0).gradient(x)  # sum |.|^2
    assert float(value) == pytest.approx(
        float(golden[f"nr{n_receivers}_loss_against_y_of_zero"][0]), rel=bound
    )
    stored = golden[f"nr{n_receivers}_grad_against_y_of_zero"]  # in float32
    assert relative(gradient, stored) < max(bound, 5e-8)


def test_compression_keeps_its_bound_and_can_be_switched_off():
    geometry = ScatteringGeometry.benchmark(360, npix=48)
    exact = BornScattering(geometry, tolerance=None, dtype=torch.float64)
    assert (exact.receivers.rank, exact.receivers.compression_error) == (720, 0.0)
    x = random_images(48, 2)
    previous = exact.receivers.rank
    for tolerance in (1e-12, 1e-8, 1e-4):
        operator = BornScattering(geometry, tolerance=tolerance, dtype=torch.float64)
        assert operator.receivers.compression_error <= tolerance
        assert operator.receivers.rank < previous
        previous = operator.receivers.rank
        receivers, weights = operator.receivers, operator.receivers.expansion.T
        waves = receivers.join(receivers.sums(torch.eye(receivers.rank, dtype=torch.float64)))
        green = weights @ waves.to(weights.dtype) / geometry.pixel_size**2
        centre = geometry.wavenumber**2 / 4 * abs(special.hankel1(0, geometry.wavenumber * 1.6))
        error = (green - torch.as_tensor(geometry.sensor_green())).abs().max() / centre
        assert error <= 1.01 * operator.receivers.compression_error + 1e-13
        assert (norm(operator(x) - exact(x)) <= tolerance * norm(exact(x))).all()


def test_few_receivers_are_not_compressed():
    operator = BornScattering(ScatteringGeometry.benchmark(60))
    assert (operator.receivers.rank, operator.receivers.compression_error) == (120, 0.0)


def test_moving_up_in_precision_computes_the_tables_anew():
    geometry = small_geometry()
    x = random_images(9)
    moved = BornScattering(geometry).to(dtype=torch.float64)
    torch.testing.assert_close(moved(x), BornScattering(geometry, dtype=torch.float64)(x))


def test_the_two_conventions_of_the_incident_field_mirror_a_plane_wave():
    """Far away, conj(u_t) is the wave of a source on the other side, up to a phase."""
    receivers = np.arange(0, 360, 40)
    here = ScatteringGeometry(16, 1.0, 0.5, [20.0], receivers, 1e6, 5.0)
    there = ScatteringGeometry(16, 1.0, 0.5, [200.0], receivers, 1e6, 5.0)
    x = random_images(16)
    a = BornScattering(here, conjugate_incident=True, dtype=torch.float64)(x)
    b = BornScattering(there, dtype=torch.float64)(x)
    ratio = a / b
    assert (ratio / ratio[0, 0, 0] - 1).abs().max() < 1e-4


def test_masked_data_are_zero_and_do_not_count():
    mask = np.random.default_rng(0).random((3, 7)) < 0.5
    masked = BornScattering(small_geometry(mask=mask), dtype=torch.float64)
    full = BornScattering(small_geometry(), dtype=torch.float64)
    x = random_images(9, 2)
    torch.testing.assert_close(masked(x), full(x) * torch.as_tensor(mask))
    y = random_data(full, 2)
    torch.testing.assert_close(masked.adjoint(y), full.adjoint(y * torch.as_tensor(mask)))


def test_disc_has_its_area_and_place():
    geometry = small_geometry(40)
    image = geometry.disc((0.2, -0.1), 0.15, 2.0)
    x, y = (torch.as_tensor(c) for c in geometry.coordinates())
    total = float(image.sum())
    assert total * geometry.pixel_size**2 == pytest.approx(2 * np.pi * 0.15**2, rel=2e-3)
    assert float((image[0, 0] * x).sum()) / total == pytest.approx(0.2, abs=1e-3)
    assert float((image[0, 0] * y).sum()) / total == pytest.approx(-0.1, abs=1e-3)


def test_objects_outside_the_square_are_refused():
    with pytest.raises(ValueError, match="not inside the imaged square"):
        small_geometry().disc((0.4, 0.0), 0.2, 1.0)


def test_too_few_pixels_per_wavelength_warn_with_the_number():
    angles = [0.0, 90.0], [0.0, 90.0, 180.0]
    with pytest.warns(UserWarning, match=r"3\.20 pixels per wavelength.*npix >= 20"):
        ScatteringGeometry(16, 1.0, 0.2, *angles, 2.0, 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ScatteringGeometry(20, 1.0, 0.2, *angles, 2.0, 2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"receiver_radius": 0.7}, "receivers at radius 0.7 m stand inside the imaged square"),
        ({"transmitter_radius": 0.1}, "transmitters at radius"),
        ({"wavelength": -1.0}, "wavelength > 0"),
        ({"npix": 1}, "npix >= 2"),
        ({"receiver_angles": [0.0, np.nan]}, "receiver_angles must be finite"),
        ({"transmitter_angles": []}, "transmitter_angles must be finite"),
        ({"mask": np.ones((3, 2))}, "expected .transmitters, receivers. = .2, 3."),
        ({"mask": np.zeros((2, 3))}, "at least one True"),
    ],
)
def test_refuses(change, message):
    options = {
        "npix": 16,
        "side": 1.0,
        "wavelength": 0.5,
        "transmitter_angles": [0.0, 90.0],
        "receiver_angles": [0.0, 90.0, 180.0],
        "transmitter_radius": 2.0,
        "receiver_radius": 2.0,
    }
    with pytest.raises(ValueError, match=message):
        ScatteringGeometry(**{**options, **change})


def test_refuses_a_tolerance_out_of_range_and_nan_data():
    with pytest.raises(ValueError, match="tolerance"):
        BornScattering(small_geometry(), tolerance=2.0)
    operator = BornScattering(small_geometry(), dtype=torch.float64)
    y = torch.zeros(1, 3, 7, dtype=torch.complex128)
    y[0, 1, 2] = torch.nan
    with pytest.raises(ValueError, match="non-finite"):
        GaussianMisfit(operator, y, 1.0)

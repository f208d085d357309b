"""Full-wave scattering: the analytic cylinder, the gradient, its Born limit, and the solver."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from instances_scattering import random_data, random_images, small_geometry
from scipy import special

from lmaps_science.arrays import inner, norm
from lmaps_science.linalg import bicgstab
from lmaps_science.operators import Affine
from lmaps_science.physics.lippmann_schwinger import FullWaveScattering, NotConverged
from lmaps_science.physics.scattering import BornScattering, ScatteringGeometry

# Most tests have few pixels, where exact algebra is tested, not the accuracy of the fields.
pytestmark = pytest.mark.filterwarnings("ignore:FullWaveScattering")


def cylinder(k, radius, eps_r, source, at):
    """Field of a line source at (source, 0) and a dielectric cylinder at the origin.

    Inside the cylinder the total field, outside of it the scattered one: the series of cylindrical
    waves whose coefficients make the field and its radial derivative continuous.
    """
    n = np.arange(-45, 46)
    x, x1, index = k * radius, k * radius * np.sqrt(eps_r), np.sqrt(eps_r)
    jn, hn, jn1 = special.jv(n, x), special.hankel1(n, x), special.jv(n, x1)
    djn, dhn, djn1 = special.jvp(n, x), special.h1vp(n, x), index * special.jvp(n, x1)
    rho, phi = np.hypot(*at), np.arctan2(at[1], at[0])
    waves = 0.25j * special.hankel1(n, k * source) * np.exp(1j * np.multiply.outer(phi, n))
    determinant = djn1 * hn - jn1 * dhn
    inside = (djn * hn - dhn * jn) / determinant * special.jv(n, index * k * rho[..., None])
    if (rho < radius).all():
        return (waves * inside).sum(-1)
    outside = (djn * jn1 - djn1 * jn) / determinant * special.hankel1(n, k * rho[..., None])
    return (waves * outside).sum(-1)


def sharpened(image):
    """f - Laplacian(f) / 24, pixels as unit: takes back the second moment of a pixel's square.

    The share of its pixels that a disc covers is the disc smoothed over a pixel: sums over the
    pixels see it with an error of (h^2 / 24) Laplacian, this with one of fourth order.
    """
    around = sum(image.roll(shift, axis) for shift in (1, -1) for axis in (-2, -1))
    return image - (around - 4 * image) / 24


def errors(eps_r, radius, per_wavelength, prepare=sharpened):
    """Relative errors of the field inside a disc and of the data; the wavelength is 1 outside."""
    side = 2.5 * radius
    npix = 2 * round(side * np.sqrt(eps_r) * per_wavelength / 2)
    angles = np.arange(0, 360, 10)
    geometry = ScatteringGeometry(npix, side, 1.0, [0.0], angles, 4.0, 3.0)
    operator = FullWaveScattering(geometry, tolerance=1e-8, dtype=torch.float64)
    image = prepare(geometry.disc((0.0, 0.0), radius, eps_r - 1))
    k, at = geometry.wavenumber, np.stack(geometry.coordinates())
    inside = np.hypot(*at) < radius - geometry.pixel_size
    field = operator.fields(image)[0, 0].numpy()[inside]
    exact = cylinder(k, radius, eps_r, 4.0, at[:, inside])
    data = operator(image)[0, 0].numpy()
    exact_data = cylinder(k, radius, eps_r, 4.0, geometry.receivers().T)
    return tuple(
        np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in ((field, exact), (data, exact_data))
    )


CYLINDERS = [(1.5, 0.6), (2.0, 0.5), (3.0, 0.3), (3.0, 0.5)]


@pytest.mark.parametrize(("eps_r", "radius"), CYLINDERS)
def test_dielectric_cylinder_at_ten_pixels_per_wavelength_and_converging(eps_r, radius):
    """Pixels are counted per wavelength inside the cylinder."""
    coarse, fine = errors(eps_r, radius, 10), errors(eps_r, radius, 20)
    assert max(coarse) < 0.006
    assert max(fine) < 0.002


@pytest.mark.parametrize(("eps_r", "radius"), CYLINDERS)
def test_shares_of_area_are_right_to_a_little_more_than_one_percent(eps_r, radius):
    """What a disc drawn by `ScatteringGeometry.disc` is worth as it is."""
    coarse = errors(eps_r, radius, 10, prepare=lambda image: image)
    fine = errors(eps_r, radius, 30, prepare=lambda image: image)
    assert max(coarse) < 0.0125
    assert max(fine) < max(coarse) / 5


def test_the_born_approximation_is_its_first_term():
    geometry = small_geometry()
    full = FullWaveScattering(geometry, tolerance=1e-12, dtype=torch.float64)
    born = BornScattering(geometry, dtype=torch.float64)
    x = random_images(9)
    gaps = [float(norm(full(s * x) - born(s * x)) / norm(born(s * x))) for s in (1e-2, 1e-3)]
    assert gaps[1] < 1e-2
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.1)  # the next term is of second order
    y = random_data(born)
    torch.testing.assert_close(full.vjp(0 * x, y), born.adjoint(y), rtol=1e-9, atol=1e-12)


def test_reciprocity():
    """Source and receiver change places, the datum stays."""
    angles = np.array([10.0, 75.0, 200.0])
    geometry = ScatteringGeometry(12, 1.0, 0.5, angles, angles, 1.2, 1.2)
    operator = FullWaveScattering(geometry, tolerance=1e-11, dtype=torch.float64)
    y = operator(random_images(12))
    torch.testing.assert_close(y, y.mT, rtol=1e-8, atol=1e-12)


def test_gradient_is_that_of_finite_differences():
    geometry = small_geometry(npix=4)
    operator = FullWaveScattering(geometry, tolerance=1e-13, dtype=torch.float64)
    x = 2 * random_images(4)  # eps_r up to 3
    options = {"eps": 1e-5, "rtol": 1e-6, "atol": 1e-8}
    assert torch.autograd.gradcheck(operator, x.requires_grad_(), **options)


def test_gradient_through_a_composition_and_with_a_mask():
    mask = np.ones((3, 7), bool)
    mask[0, 1:3] = False
    full = FullWaveScattering(small_geometry(mask=mask), tolerance=1e-12, dtype=torch.float64)
    operator = full @ Affine(0.5, 1.0, full.image_shape)
    x = random_images(9).requires_grad_()
    y, pull = operator.pullback(x.detach())
    assert (y[0, 0, 1:3] == 0).all()
    v = random_data(full)
    (slope,) = torch.autograd.grad(inner(v, operator(x)).real.sum(), x)
    torch.testing.assert_close(pull(v), slope)


def test_single_precision_follows_double():
    full = FullWaveScattering(small_geometry(32, 40), tolerance=1e-6, dtype=torch.float64)
    x = 0.5 * random_images(32)
    y = full(x)
    assert norm(full.to(dtype=torch.float32)(x.float()) - y) < 3e-5 * norm(y)


def test_a_solver_that_does_not_converge_says_so_with_its_residual():
    operator = FullWaveScattering(small_geometry(32), iterations=2)
    with pytest.raises(
        RuntimeError, match=r"3 of 3 .* in 2 iterations.* residual \d.*, wanted 1e-05"
    ):
        operator(3 * random_images(32).float())
    with pytest.raises(RuntimeError, match="residual nan"):
        operator(torch.full((1, 1, 32, 32), torch.nan))


def test_it_says_which_images_failed_and_survives_a_trip_between_processes():
    operator = FullWaveScattering(small_geometry(32), iterations=2)
    images = torch.cat([3 * random_images(32)[:1], torch.zeros(1, 1, 32, 32)]).float()
    with pytest.raises(NotConverged) as failure:
        operator(images)
    again = pickle.loads(pickle.dumps(failure.value))
    assert str(again) == str(failure.value)
    assert again.images.tolist() == [True, False]


@pytest.mark.filterwarnings("default")
def test_too_few_pixels_in_the_medium_warn_with_the_number():
    geometry = ScatteringGeometry(48, 1.0, 0.25, [0.0], [90.0, 180.0], 2.0, 2.0)
    operator = FullWaveScattering(geometry)
    with pytest.warns(UserWarning, match=r"12\.0 pixels.*media up to eps_r 2\.25"):
        operator(geometry.disc((0.0, 0.0), 0.1, 1.3).float())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        operator(geometry.disc((0.0, 0.0), 0.1, 1.2).float())


def test_refuses_bad_options():
    with pytest.raises(ValueError, match="tolerance"):
        FullWaveScattering(small_geometry(), tolerance=0.0)
    with pytest.raises(ValueError, match="iterations"):
        FullWaveScattering(small_geometry(), iterations=0)


# ---------------------------------------------------------------- the linear solver


def systems(batch=4, size=20):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch, size, size, generator=generator, dtype=torch.complex128)
    growth = torch.arange(batch)[:, None, None] * 0.15  # from the unit matrix to a hard one
    matrices = torch.eye(size) + growth * noise
    return matrices, torch.randn(batch, size, generator=generator, dtype=torch.complex128)


def test_bicgstab_solves_complex_systems_whose_samples_do_not_mix():
    matrices, b = systems()
    x, residual = bicgstab(lambda x: (matrices @ x[..., None])[..., 0], b, tolerance=1e-11)
    torch.testing.assert_close(x, torch.linalg.solve(matrices, b), rtol=1e-7, atol=1e-7)
    assert (residual <= 1.1e-11).all()
    alone, _ = bicgstab(lambda x: (matrices[2:3] @ x[..., None])[..., 0], b[2:3], tolerance=1e-11)
    torch.testing.assert_close(alone[0], x[2], rtol=1e-9, atol=1e-9)


def test_bicgstab_reports_the_true_residual_and_survives_breakdown():
    turn = torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]], dtype=torch.float64)  # <r, A r> = 0
    b = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    x, residual = bicgstab(lambda x: (turn @ x[..., None])[..., 0], b, iterations=5)
    true = norm(b - (turn @ x[..., None])[..., 0]) / norm(b)
    torch.testing.assert_close(residual, true)
    assert torch.isfinite(x).all()
    x, residual = bicgstab(lambda x: x, torch.zeros(2, 3))
    assert (x == 0).all()
    assert (residual == 0).all()

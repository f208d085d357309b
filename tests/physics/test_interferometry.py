import itertools

import numpy as np
import pytest
import torch
from registries import (
    PAIRS,
    STATIONS,
    a_positive_image,
    load_golden,
    small_closures,
    small_visibilities,
)

from lmaps_science.arrays import norm
from lmaps_science.operators import Affine
from lmaps_science.physics.interferometry import ClosureQuantities, ClosureSet, Visibilities


@pytest.fixture(scope="module")
def golden():
    return load_golden("black_hole")


def golden_operator(golden, **options):
    pixel_size = float(golden["psize_rad"])
    return Visibilities(golden["u"], golden["v"], 64, pixel_size, **options)


def golden_closures(golden):
    return ClosureSet(golden["cp_index"], golden["cp_conjugate"], golden["camp_index"])


def golden_images(golden, dtype):
    return Affine(0.5, 1.0, (1, 64, 64))(torch.as_tensor(golden["x_model"]).to(dtype))


@pytest.mark.parametrize("npix", [7, 8])
def test_visibilities_are_the_written_sum(npix):
    operator = small_visibilities(npix=npix)
    image = a_positive_image(operator.image_shape)
    centres = ((npix - 1) / 2 - np.arange(npix)) * operator.pixel_size
    x, y = np.meshgrid(centres, centres)  # columns from east to west, rows from north to south
    for k, (u, v) in enumerate(zip(operator.u, operator.v, strict=True)):
        pulse = 1.0
        for w in 2 * np.pi * np.array([u, v]):
            size = operator.pixel_size
            pulse *= 4 / (size * w) ** 2 * np.sin(size * w / 2) ** 2
        expected = pulse * (image[0, 0].numpy() * np.exp(2j * np.pi * (u * x + v * y))).sum()
        assert abs(complex(operator(image)[0, k]) - expected) < 1e-12 * image.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden_visibilities(golden, dtype):
    vis = golden_operator(golden, dtype=dtype)(golden_images(golden, dtype))
    expected = torch.as_tensor(golden["vis"])[:, 0, :, 0].to(vis.dtype)
    assert (norm(vis - expected) <= 1e-6 * norm(expected)).all()


def first_order_errors(closures, vis, sigma):
    """s^2 = sum_k sigma_k^2 / |V_k|^2 over the legs: what `io.make_observation` computes."""
    variance = (sigma / vis.abs()) ** 2
    legs = closures.phase_index, closures.amplitude_index
    return tuple(variance[:, index].sum(-1).sqrt() for index in legs)


def test_golden_closures_and_their_errors(golden):
    """The reference is float32: phases and logarithms agree to its absolute rounding."""
    vis = golden_operator(golden, dtype=torch.float64)(golden_images(golden, torch.float64))
    closures = golden_closures(golden)
    forward = torch.as_tensor(golden["forward"])[:, 0, :, 0].double()
    n = [int(golden[f"{name}_dim"]) for name in ("amp", "cphase", "logcamp")]
    amp, _, phase, phase_sigma, log_amp, log_amp_sigma, flux = forward.split(
        [n[0], n[0], n[1], n[1], n[2], n[2], 1], dim=1
    )
    torch.testing.assert_close(vis.abs(), amp, rtol=1e-5, atol=0)
    assert ((closures.phases(vis) - phase) / 2).sin().abs().max() < 1e-6
    torch.testing.assert_close(closures.log_amplitudes(vis), log_amp, rtol=1e-5, atol=2e-6)
    predicted = first_order_errors(closures, vis, torch.as_tensor(golden["sigma"]))
    torch.testing.assert_close(predicted[0], phase_sigma, rtol=1e-5, atol=0)
    torch.testing.assert_close(predicted[1], log_amp_sigma, rtol=1e-5, atol=0)
    torch.testing.assert_close(golden_images(golden, torch.float64).sum((1, 2, 3)), flux[:, 0])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-11)])
@pytest.mark.parametrize("npix", [64, 65])
def test_nufft_agrees_with_the_sum(golden, dtype, tolerance, npix):
    pytest.importorskip("finufft")
    u, v, size = golden["u"], golden["v"], float(golden["psize_rad"])
    exact, fast = (Visibilities(u, v, npix, size, m, dtype) for m in ("dft", "nufft"))
    image = torch.rand(2, 1, npix, npix, dtype=dtype)
    vis = exact(image)
    assert (norm(fast(image) - vis) <= tolerance * norm(vis)).all()
    back = exact.adjoint(vis)
    assert (norm(fast.adjoint(vis) - back) <= tolerance * norm(back)).all()
    leaf = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(fast(leaf), leaf, vis)
    assert gradient.dtype == dtype
    assert (norm(gradient - back) <= tolerance * norm(back)).all()


def test_tables_do_not_lose_precision_when_moved(golden):
    image = golden_images(golden, torch.float64)
    there_and_back = golden_operator(golden).to(dtype=torch.float64)
    torch.testing.assert_close(
        there_and_back(image), golden_operator(golden, dtype=torch.float64)(image), rtol=0, atol=0
    )


def test_closures_ignore_station_gains():
    closures, operator = small_closures(), small_visibilities()
    vis = operator(a_positive_image(operator.image_shape))
    rng = np.random.default_rng(0)
    gains = rng.uniform(0.2, 5, len(STATIONS)) * np.exp(1j * rng.uniform(0, 6, len(STATIONS)))
    corrupted = vis * torch.as_tensor([gains[i] * np.conj(gains[j]) for i, j in PAIRS])
    assert not torch.allclose(vis, corrupted)
    rotation = (closures.phases(vis) - closures.phases(corrupted)).cos()
    torch.testing.assert_close(rotation, torch.ones_like(rotation))
    torch.testing.assert_close(closures.log_amplitudes(vis), closures.log_amplitudes(corrupted))


def test_closures_ignore_translation_and_total_flux():
    quantities = ClosureQuantities(small_visibilities(), small_closures())
    image = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    image[..., 2:6, 3:7] = torch.rand(4, 4)
    moved = 3 * image.roll((1, -2), (-2, -1))
    n = quantities.n_phases + quantities.n_amplitudes
    torch.testing.assert_close(quantities(moved)[:, :n], quantities(image)[:, :n])
    torch.testing.assert_close(quantities(moved)[:, n], 3 * image.sum((1, 2, 3)))


def test_a_point_source_has_trivial_closures():
    quantities = ClosureQuantities(small_visibilities(), small_closures())
    image = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    image[..., 2, 7] = 0.6
    out = quantities(image)[0]
    assert out[: quantities.n_phases].abs().max() < 1e-12


def test_first_order_errors_match_simulated_noise():
    closures, operator = small_closures(), small_visibilities()
    vis = operator(a_positive_image(operator.image_shape))
    sigma = 0.01 * vis.abs().min()
    noise = torch.randn(20000, vis.shape[1], 2, dtype=torch.float64) * sigma
    noisy = vis + torch.view_as_complex(noise)  # sigma is that of each component, as in VLBI
    expected = first_order_errors(closures, vis, sigma)
    for draw, deviation in zip(
        (closures.phases(noisy), closures.log_amplitudes(noisy)), expected, strict=True
    ):
        torch.testing.assert_close(draw.std(0), deviation[0], rtol=0.05, atol=0)


def test_blank_images_have_finite_closures_and_derivatives():
    quantities = ClosureQuantities(small_visibilities(), small_closures())
    blank = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    out, pull = quantities.pullback(blank)
    assert (out == 0).all()
    assert torch.isfinite(pull(torch.ones_like(out))).all()


def test_samples_do_not_depend_on_the_batch_to_the_last_bit(golden):
    """At an image size that is a multiple of the vector width, in single precision."""
    quantities = ClosureQuantities(golden_operator(golden), golden_closures(golden))
    images = torch.rand(5, 1, 64, 64)
    out, pull = quantities.pullback(images)
    v = torch.randn_like(out)
    gradient = pull(v)
    for i in range(5):
        alone, pull_alone = quantities.pullback(images[i : i + 1])
        assert torch.equal(alone[0], out[i])
        assert torch.equal(pull_alone(v[i : i + 1])[0], gradient[i])


def test_closed_form_derivative_equals_autograd():
    quantities = ClosureQuantities(small_visibilities(), small_closures())
    image = a_positive_image(quantities.image_shape).requires_grad_()
    out = quantities(image)
    v = torch.randn_like(out)
    torch.testing.assert_close(
        quantities.vjp(image.detach(), v), torch.autograd.grad(out, image, v)[0]
    )


def test_from_observation_reads_the_dataset():
    xr = pytest.importorskip("xarray")
    reference, closures = small_visibilities(), small_closures()
    tables = closures.phase_index, closures.phase_sign < 0, closures.amplitude_index
    observation = xr.Dataset(
        {
            "u": ("vis", reference.u),
            "v": ("vis", reference.v),
            "cphase_index": (("cphase", "leg3"), tables[0].numpy()),
            "cphase_conjugate": (("cphase", "leg3"), tables[1].numpy()),
            "logcamp_index": (("logcamp", "leg4"), tables[2].numpy()),
        }
    )
    fov = 9 * reference.pixel_size
    operator = ClosureQuantities.from_observation(observation, 9, fov, dtype=torch.float64)
    image = a_positive_image(operator.image_shape)
    torch.testing.assert_close(operator(image), ClosureQuantities(reference, closures)(image))


def test_errors_name_the_cause():
    with pytest.raises(ValueError, match=r"two\s+equal, non-empty vectors"):
        Visibilities([1.0, 2.0], [1.0], 8, 1e-11)
    with pytest.raises(ValueError, match=r"fringes per pixel.*radians"):
        Visibilities([1e9], [1e9], 8, 2.5)
    with pytest.raises(ValueError, match="finite"):
        Visibilities([np.nan], [1e9], 8, 1e-11)
    with pytest.raises(ValueError, match="expected 'dft' or 'nufft'"):
        Visibilities([1e9], [1e9], 8, 1e-11, method="fft")
    with pytest.raises(ValueError, match="phase_conjugate has shape"):
        ClosureSet([[0, 1, 2]], [[False] * 3] * 2, [])
    with pytest.raises(ValueError, match="span 0 to 99, expected 0 to 9"):
        ClosureQuantities(small_visibilities(), ClosureSet([[0, 1, 99]], [[False] * 3], []))


def test_triangles_are_complete():
    assert len(small_closures().phase_index) == len(list(itertools.combinations(range(5), 3)))

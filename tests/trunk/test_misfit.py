import pytest
import torch
from registries import (
    MISFITS,
    closure_misfit,
    closure_quantities,
    dense_svd,
    load_golden,
    squares_of_affine,
)

from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine, Operator
from lmaps_science.physics.closure_misfit import ClosureMisfit
from lmaps_science.physics.interferometry import ClosureQuantities, ClosureSet, Visibilities

ALL = pytest.mark.parametrize("make", MISFITS, ids=lambda make: make.__name__)


def draw(misfit, batch=3):
    generator = torch.Generator().manual_seed(5)
    shape = (batch, *misfit.operator.image_shape)
    return torch.rand(shape, generator=generator, dtype=torch.float64)


@ALL
def test_gradient_is_the_derivative_of_the_value(make):
    misfit = make()
    x = draw(misfit).requires_grad_()
    gradient, values = misfit.gradient(x.detach())
    torch.testing.assert_close(values, misfit(x).detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(misfit(x).sum(), x)[0])
    assert torch.autograd.gradcheck(misfit, (x[:1].detach().requires_grad_(),))


@ALL
def test_data_go_out_and_come_back(make):
    """Of each image its own, too; the misfit of noise-free data is the one of their images."""
    misfit = make()
    x = draw(misfit)
    torch.testing.assert_close(misfit.with_data(misfit.data)(x), misfit(x))
    expected = misfit.expected(x)
    torch.testing.assert_close(misfit.of_expected(expected), misfit(x))
    of_each = misfit.with_data(expected)
    assert of_each.data.shape == expected.shape == (3, *misfit.data.shape[1:])
    torch.testing.assert_close(of_each(x), torch.zeros_like(misfit(x)), atol=1e-12, rtol=0)
    generator = torch.Generator().manual_seed(1)
    drawn = misfit.simulate(x, generator)
    assert drawn.shape == expected.shape
    assert (misfit.with_data(drawn)(x) > 0).all()
    again = misfit.simulate(x, generator.manual_seed(1))
    torch.testing.assert_close(again, drawn, rtol=0, atol=0)


@ALL
def test_samples_of_a_batch_do_not_mix(make):
    misfit = make()
    x = draw(misfit)
    gradient, values = misfit.gradient(x)
    for i in range(len(x)):
        alone = misfit.gradient(x[i : i + 1])
        torch.testing.assert_close(alone[0][0], gradient[i], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(alone[1][0], values[i])


@ALL
def test_float32_follows_float64(make):
    misfit = make()
    x = draw(misfit)
    gradient, values = misfit.gradient(x)
    single, single_values = misfit.to(dtype=torch.float32).gradient(x.float())
    assert single.dtype == single_values.dtype == torch.float32
    torch.testing.assert_close(single_values.double(), values, rtol=1e-5, atol=1e-5)
    assert (single.double() - gradient).norm() <= 1e-5 * gradient.norm()
    assert repr(misfit)
    assert misfit.objective_scale > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden_loss_and_gradient(dtype):
    golden = load_golden("black_hole")
    closures = ClosureSet(golden["cp_index"], golden["cp_conjugate"], golden["camp_index"])
    pixel_size = float(golden["psize_rad"])
    visibilities = Visibilities(golden["u"], golden["v"], 64, pixel_size, dtype=dtype)
    n_cp, n_ca, n_amp = (int(golden[f"{n}_dim"]) for n in ("cphase", "logcamp", "amp"))
    y = golden["y"][0, 0, 2 * n_amp :, 0]
    start = 2 * n_cp
    misfit = ClosureMisfit(
        ClosureQuantities(visibilities, closures),
        y[:n_cp],
        y[n_cp:start],
        y[start : start + n_ca],
        y[start + n_ca : -1],
        flux=float(y[-1]),
    )
    x = torch.as_tensor(golden["x_model"]).to(dtype)
    affine = Affine(0.5, 1.0, (1, 64, 64))
    gradient, values = (misfit @ affine).gradient(x)
    expected = torch.as_tensor(golden["loss"]).to(dtype)
    torch.testing.assert_close(misfit.objective_scale * values, expected, rtol=1e-5, atol=0)
    expected = torch.as_tensor(golden["grad"]).to(dtype).reshape(gradient.shape)
    assert (4 * gradient - expected).norm() <= 1e-5 * expected.norm()
    chi2 = misfit.chi2(affine(x))
    for name, reference in (("cphase", "raw_chi2_cphase"), ("logcamp", "raw_chi2_logcamp")):
        expected = torch.as_tensor(golden[reference]).to(dtype)
        torch.testing.assert_close(chi2[name], expected, rtol=1e-5, atol=0)


def test_misfit_is_the_weighted_sum_of_its_chi2():
    misfit = closure_misfit(weights=(0.5, 2.0, 1.0), flux_sigma=0.3)
    x = draw(misfit)
    chi2, n_cp, n_ca = misfit.chi2(x), misfit.cphase.shape[1], misfit.logcamp.shape[1]
    total = 0.5 * n_cp * chi2["cphase"] + 2 * n_ca * chi2["logcamp"] + chi2["flux"]
    torch.testing.assert_close(misfit(x), 0.5 * total)
    assert set(closure_misfit(flux=False).chi2(x)) == {"cphase", "logcamp"}


def test_gaussian_misfit_is_the_log_density():
    operator = dense_svd()
    x = torch.rand(2, 1, 6, 5, dtype=torch.float64)
    y = torch.rand(1, 9, dtype=torch.float64)
    density = torch.distributions.Normal(operator(x), 0.3)
    difference = GaussianMisfit(operator, y, 0.3)(x) + density.log_prob(y).sum(1)
    torch.testing.assert_close(difference[0], difference[1])
    assert GaussianMisfit(operator, y, 0.3).objective_scale == pytest.approx(0.09)


def test_complex_gaussian_misfit_is_the_log_density():
    """Of complex noise with E|n|^2 = sigma^2: p(n) = exp(-|n|^2 / sigma^2) / (pi sigma^2)."""
    operator, generator = squares_of_affine(), torch.Generator().manual_seed(0)
    x = torch.rand(2, 1, 6, 5, generator=generator, dtype=torch.float64)
    y = torch.randn(1, 1, 6, 5, generator=generator, dtype=torch.complex128)
    misfit = GaussianMisfit(operator, y, 0.3)
    torch.testing.assert_close(misfit(x), ((y - operator(x)).abs() ** 2).sum((1, 2, 3)) / 0.3**2)
    noise = torch.randn(10_000, generator=generator, dtype=torch.complex128)  # E|n|^2 = 1
    assert noise.real.var() == pytest.approx(0.5, rel=0.1)
    assert misfit.objective_scale == pytest.approx(0.3**2 / 2)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1)])
def test_one_number_is_one_noise_level_whatever_its_shape(shape):
    operator = Affine(2.0, 0.0, (1, 6, 5))
    y = torch.ones(1, 1, 6, 5, dtype=torch.float64)
    one = GaussianMisfit(operator, y, torch.full(shape, 0.3, dtype=y.dtype))
    assert one.common_variance is not None
    assert one.common_variance.flatten().tolist() == pytest.approx([0.09])


class Clipped(Operator):
    """Twice the contrast, what is outside of [0, 1] cut off; a third is never seen."""

    image_shape = data_shape = (1, 6, 5)

    def _forward(self, x):
        y = (2 * x - 0.5).clamp(0, 1)
        return torch.cat([0 * y[:, :, :2], y[:, :, 2:]], 2)


def test_clipped_data_have_noise_and_count_where_images_can_change_them():
    misfit = GaussianMisfit(Clipped(), torch.zeros(1, 1, 6, 5, dtype=torch.float64), 0.1)
    seen = torch.zeros(1, 1, 6, 5, dtype=torch.bool)
    seen[:, :, 2:] = True
    assert torch.equal(misfit.sampled(), seen)
    assert misfit.noise_floor().tolist() == [10.0]
    noise = misfit.simulate(torch.full((1, 1, 6, 5), -3.0, dtype=torch.float64))
    assert torch.equal(noise != 0, seen)


def test_blank_images_have_finite_values_and_gradients():
    misfit = closure_misfit()
    gradient, values = misfit.gradient(torch.zeros(1, 1, 9, 9, dtype=torch.float64))
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(values).all()


def test_gaussian_errors_name_the_cause():
    operator, y = dense_svd(), torch.zeros(1, 9, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"y has shape \(9,\), expected \(B, 9\).*batch axis"):
        GaussianMisfit(operator, y[0], 1.0)
    with pytest.raises(ValueError, match="y holds 9 non-finite"):
        GaussianMisfit(operator, y * torch.nan, 1.0)
    with pytest.raises(ValueError, match="sigma must be > 0"):
        GaussianMisfit(operator, y, 0.0)
    with pytest.raises(ValueError, match=r"sigma of shape \(4,\) does not fit y of shape \(1, 9\)"):
        GaussianMisfit(operator, y, torch.ones(4))
    with pytest.raises(ValueError, match="sigma holds 1 non-finite"):
        GaussianMisfit(operator, y, float("nan"))


def test_closure_errors_name_the_cause():
    operator = closure_quantities()
    n_cp, n_ca = operator.n_phases, operator.n_amplitudes
    good = [torch.ones(n) for n in (n_cp, n_cp, n_ca, n_ca)]
    for position, name in enumerate(("cphase", "cphase_sigma", "logcamp", "logcamp_sigma")):
        bad = list(good)
        bad[position] = torch.full_like(good[position], torch.nan)
        with pytest.raises(ValueError, match=f"ClosureMisfit: {name} holds"):
            ClosureMisfit(operator, *bad)
    with pytest.raises(ValueError, match="cphase_sigma must be > 0"):
        ClosureMisfit(operator, good[0], 0 * good[1], *good[2:])
    with pytest.raises(ValueError, match="no closure phase and no closure amplitude"):
        ClosureMisfit(operator, [], [], [], [])
    with pytest.raises(ValueError, match="expected one for each"):
        ClosureMisfit(operator, good[0][1:], *good[1:])
    with pytest.raises(ValueError, match="Build both from one observation"):
        ClosureMisfit(operator, good[0][1:], good[1][1:], *good[2:])


def test_from_observation_reads_closures_and_scales_the_flux():
    xr = pytest.importorskip("xarray")
    reference = closure_misfit()
    names = ("cphase", "cphase_sigma", "logcamp", "logcamp_sigma")
    columns = {name: (name.removesuffix("_sigma"), getattr(reference, name)[0]) for name in names}
    observation = xr.Dataset(columns | {"flux": 0.005 * float(reference.flux)})
    misfit = ClosureMisfit.from_observation(reference.operator, observation, multiplier=0.005)
    torch.testing.assert_close(misfit(draw(misfit)), reference(draw(misfit)))
    without = ClosureMisfit.from_observation(reference.operator, observation.drop_vars("flux"))
    assert without.flux is None

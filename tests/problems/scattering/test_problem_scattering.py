"""Inverse scattering end to end: cards, data, priors, solvers, metrics and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from lmaps_science import load_problem, plot_reconstruction, plot_samples, sample
from lmaps_science.arrays import inner, norm
from lmaps_science.cards.load import load_card
from lmaps_science.io import DataError, read_netcdf, write_netcdf
from lmaps_science.local_map import ConjugateGradient, GradientSteps, LocalProblem
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.physics.multi_frequency import Clamp, LinearMultiFrequency, MultiFrequency
from lmaps_science.physics.scattering import BornScattering, ScatteringGeometry
from lmaps_science.priors import DiagonalCovariance, GaussianPrior, TotalVariationPrior
from lmaps_science.priors.total_variation import total_variation, tv_prox
from lmaps_science.problems.scattering.baselines import (
    filtered_back_propagation,
    fista_tv,
    tikhonov,
)
from lmaps_science.problems.scattering.discs import Disc, fit_discs, render_discs
from lmaps_science.solvers import LMAPS, ExactSVD, FrequencyHopping

SMALL = {"image.npix": 20, "observation.receivers": 40, "observation.transmitters": 12}
FULL = {
    "image.npix": 20,
    "observation.receivers": 20,
    "observation.transmitters": 4,
    "observation.frequencies_ghz": [1.0, 2.0],
}
LINEAR, FULL_WAVE, FRESNEL = (f"scattering/{n}" for n in ("linear_360", "full_wave", "fresnel"))


def load(card=LINEAR, data=None, dtype=torch.float32, **overrides):
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    base = SMALL if card == LINEAR else FULL
    return load_problem(card, data, "gaussian", {**base, **changes}, dtype=dtype)


@pytest.fixture(scope="module")
def linear():
    return load()


@pytest.fixture(scope="module")
def full_wave():
    return load(FULL_WAVE)


# ---------------------------------------------------------------- cards and data


@pytest.mark.parametrize(("receivers", "kappa2"), [(360, 5000), (180, 10000), (60, 30000)])
def test_the_benchmark_s_cards(receivers, kappa2):
    card = load_card(f"scattering/linear_{receivers}")
    assert card.solver("paper") == LMAPS(200, 0.0, kappa2, local=GradientSteps(50, 1.0))
    assert card.observation.receivers == receivers
    assert card.observation.noise == 1e-4


def test_a_linear_problem_is_the_benchmark_s_operator(linear):
    geometry = ScatteringGeometry(
        20, 0.18, 0.054, np.linspace(0, 359, 12), np.linspace(0, 359, 40), 1.6, 1.6
    )
    operator = BornScattering(geometry, conjugate_incident=True)
    z = torch.rand(2, 1, 20, 20) * 2 - 1
    y = operator((z + 1) / 2)
    assert norm(linear.misfit.operator(z) - y).max() < 1e-5 * norm(y).min()
    assert {"linear", "gaussian"} <= linear.provides
    assert not {"svd", "multi-frequency"} & linear.provides


@pytest.mark.parametrize("card", [LINEAR, FULL_WAVE])
def test_the_truth_explains_its_data_to_the_noise(card):
    """The real numbers of the residual have the stated variance, at every frequency."""
    problem = load(card, observation__missing_receivers=0.2)
    misfit = problem.physical
    truth = torch.as_tensor(problem.truth.values)[None, None]
    seen = torch.as_tensor(problem.observation["measured"].values)
    squares = (misfit.operator(truth) - misfit.y).abs().square() / misfit.sigma**2
    mean = squares[..., seen].mean()
    count = int(seen.sum()) * problem.observation.sizes["frequency"]
    assert abs(float(mean) - 1) < 5 / count**0.5
    assert (misfit.y[..., ~seen] == 0).all()


def test_a_limited_aperture_and_missing_receivers_are_a_mask():
    problem = load(observation__aperture=90.0, observation__missing_transmitters=0.3)
    mask = problem.observation["measured"].values
    angles = problem.observation["receiver"].values
    assert not mask[:, (angles > 45) & (angles < 315)].any()
    rows = mask.any(1)
    assert 0 < rows.sum() < 12
    assert mask[rows][:, (angles <= 45) | (angles >= 315)].all()


def test_a_misstated_noise_changes_the_misfit_alone(linear):
    doubled = load(sigma_factor=2.0)
    z = torch.zeros(1, 1, 20, 20)
    torch.testing.assert_close(4 * doubled.misfit(z), linear.misfit(z))


def test_images_as_data(tmp_path):
    image = np.zeros((20, 20))
    image[5:9, 7:12] = 0.7
    np.save(tmp_path / "image.npy", image)
    problem = load(data=tmp_path / "image.npy")
    np.testing.assert_allclose(problem.truth, image, rtol=1e-6)
    assert problem.evaluate(image[None])["psnr"][0] > 100


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.ones((20, 21)), r"shape \(20, 21\).*expected a real"),
        (np.full((20, 20), np.nan), "finite contrast"),
        (np.zeros((20, 20)), "nothing that scatters"),
        (2 * np.ones((20, 20)), r"contrast is from 2 to 2, expected 0 to image.max_contrast = 1"),
    ],
)
def test_wrong_images_are_refused(tmp_path, image, message):
    np.save(tmp_path / "image.npy", image)
    with pytest.raises(DataError, match=message):
        load(data=tmp_path / "image.npy")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"observation__image": "phantom:x"}, "phantom:K"),
        ({"observation__image": "target:Foam"}, "target:Foam is not among"),
        ({"observation__receiver": 3}, "Did you mean 'receivers'"),
        ({"observation__missing_receivers": 0.999}, "no receiver is left"),
        ({"observation__frequencies_ghz": []}, "frequencies_ghz is empty"),
        ({"observation__radius": 0.1}, "stand inside the imaged square"),
        ({"physics__kind": "bron"}, "physics.kind"),
        ({"physics__svd": True, "observation__frequencies_ghz": [5, 6]}, "svd is for one freq"),
    ],
)
def test_wrong_settings_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        load(**overrides)


def test_an_object_outside_the_image_is_refused():
    disc = {"name": "rod", "centre_mm": [80.0, 0.0], "diameter_mm": 31.0, "permittivity": 1.5}
    with pytest.raises(DataError, match=r"target 'rod': .*not inside the imaged square"):
        load(targets={"far": [disc]}, observation__image="target:far")


@pytest.mark.filterwarnings("default")
def test_too_few_pixels_per_wavelength_warn():
    with pytest.warns(UserWarning, match=r"3\.\d+ pixels per wavelength"):
        load(observation__frequencies_ghz=[10.0])


def test_a_prior_of_another_size_is_refused():
    prior = GaussianPrior(torch.zeros(1, 16, 16), DiagonalCovariance(torch.ones(1, 16, 16)))
    with pytest.raises(DataError, match=r"set image\.npix=16"):
        load_problem(LINEAR, prior=prior, overrides=SMALL)


def test_measured_data_must_be_given():
    with pytest.raises(DataError, match="give a file of measured fields"):
        load_problem(FRESNEL)


# ---------------------------------------------------------------- sampling


def test_exact_solvers_agree_on_the_local_problem():
    problem = load(physics__svd=True, dtype=torch.float64)
    denoised = torch.linspace(-1, 1, 400, dtype=torch.float64).reshape(1, 1, 20, 20)
    scale = problem.misfit.objective_scale
    local = LocalProblem(denoised, problem.misfit, 0.5, 1.0, 1 / scale)
    a, b = ExactSVD()(local), ConjugateGradient(3000, 1e-9)(local)
    # the decomposition leaves out what is below a thousandth of the largest singular value
    assert norm(a - b) < 0.02 * norm(b - denoised)
    slope = local.gradient(b)[0]
    assert norm(slope) < 1e-6 * norm(local.gradient(denoised)[0])


def test_exact_svd_refuses_what_it_cannot_solve():
    problem = load(physics__svd=True)
    with pytest.raises(ValueError, match="take ConjugateGradient"):
        sample(problem, LMAPS(2, 0.0, 1.0, local=ExactSVD()), 1, progress=False)
    with pytest.raises(ValueError, match="needs a problem that is svd"):
        sample(load(), LMAPS(2, local=ExactSVD()), 1, progress=False)


def test_a_linear_run_is_scored_drawn_and_kept(linear, tmp_path):
    solver = dataclasses.replace(linear.solver, levels=8)
    data = linear.analyse(sample(linear, solver, 2, progress=False))
    assert data["psnr"].values.min() > 20
    assert data["relative_misfit"].values.max() < 0.1
    assert data["image"].dims == ("sample", "y", "x")
    assert data["x"].attrs["units"] == "mm"
    assert data.attrs["metrics_of_born"]["psnr"] > 20
    write_netcdf(tmp_path / "result.nc", data)
    back = read_netcdf(tmp_path / "result.nc")
    titles = [a.get_title().split("\n")[0] for a in plot_reconstruction(back).axes if a.images]
    assert titles == [
        "truth",
        "Born and total variation",
        "mean of 2 samples",
        "error × 5",
        "standard deviation × 5",
    ]
    assert len([a for a in plot_samples(back).axes if a.images]) == 2


def test_hopping_uses_the_frequencies_one_after_the_other(full_wave):
    seen = []

    class Spy(MultiFrequency):
        def _pullback(self, x):
            seen.append(len(self.operators))
            return super()._pullback(x)

    spy = Spy(full_wave.misfit.operator.operators)
    misfit = GaussianMisfit(spy, full_wave.misfit.y, full_wave.misfit.sigma)
    problem = dataclasses.replace(full_wave, misfit=misfit)
    sample(problem, FrequencyHopping(4, sigma_max=1.0, hop_until=0.8), 1, progress=False)
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}
    with pytest.raises(ValueError, match=r"hop_until in \[0, 1\]"):
        FrequencyHopping(hop_until=1.5)


def test_hopping_needs_several_frequencies(linear):
    with pytest.raises(ValueError, match="multi-frequency"):
        sample(linear, FrequencyHopping(2), 1, progress=False)


def test_multi_frequency_products():
    geometries = [
        ScatteringGeometry(9, 1.0, w, [10, 130], [0.0, 50, 170], 1.5, 1.1) for w in (0.9, 0.6)
    ]
    born = LinearMultiFrequency([BornScattering(g, dtype=torch.float64) for g in geometries])
    x = torch.rand(2, 1, 9, 9, dtype=torch.float64)
    v = torch.randn(2, 2, 2, 3, dtype=torch.complex128)
    y = born(x)
    torch.testing.assert_close(y[:, 1], born.operators[1](x))
    torch.testing.assert_close(inner(v, y).real, inner(born.adjoint(v), x))
    part = MultiFrequency(born.operators).lowest(1)
    assert part.data_shape == (1, 2, 3)
    torch.testing.assert_close(part.pullback(x)[1](v[:, :1]), born.operators[0].adjoint(v[:, 0]))
    with pytest.raises(ValueError, match="equal image and data shape"):
        MultiFrequency([])


def test_clamp_has_the_derivative_of_its_value():
    clamp = Clamp(-0.5, 1.0, (1, 3, 3))
    x = torch.tensor([-2.0, -0.4, 0.3, 0.9, 3.0, 0, 0, 0, 0]).reshape(1, 1, 3, 3)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(leaf.clamp(-0.5, 1.0).sum(), leaf)
    torch.testing.assert_close(clamp.vjp(x, torch.ones_like(x)), slope)
    with pytest.raises(ValueError, match="low < high"):
        Clamp(1.0, 0.0, (1, 3, 3))


# ---------------------------------------------------------------- total variation, classics


def test_the_proximal_map_of_a_step_has_a_closed_form():
    """Each half of a step moves towards the other by w times its border over its area."""
    x = torch.zeros(1, 1, 6, 8, dtype=torch.float64)
    x[..., 4:] = 1.0
    z, _ = tv_prox(x, 0.4, iterations=500)
    torch.testing.assert_close(z[0, 0, 0, 0], torch.tensor(0.1, dtype=torch.float64))
    torch.testing.assert_close(z[0, 0, 3, 7], torch.tensor(0.9, dtype=torch.float64))
    assert float(total_variation(z)) == pytest.approx(0.8 * 6)
    flat, _ = tv_prox(x, 100.0, iterations=500)
    torch.testing.assert_close(flat, torch.full_like(x, 0.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(tv_prox(x, 0.0)[0], x)


def test_the_proximal_map_keeps_its_limits_and_treats_samples_alone():
    x = 3 * torch.randn(3, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.1, 0.5, 2.0])
    z, _ = tv_prox(x, weights, limits=(0.0, 1.0))
    assert (z.min(), z.max()) == (0.0, 1.0)
    torch.testing.assert_close(z[1:2], tv_prox(x[1:2], 0.5, limits=(0.0, 1.0))[0])


def test_the_prior_denoises_piecewise_constant_images():
    truth = torch.full((1, 1, 24, 24), -1.0)
    truth[..., 6:18, 6:18] = 0.6
    noisy = truth + 0.3 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    prior = TotalVariationPrior((1, 24, 24), weight=4.0)
    denoised = prior(noisy, 0.3)
    assert (denoised - truth).square().mean() < 0.1 * (noisy - truth).square().mean()
    assert denoised.min() >= -1
    with pytest.raises(ValueError, match="weight > 0"):
        TotalVariationPrior((1, 8, 8), weight=0.0)


def test_classical_reconstructions(linear):
    misfit, truth = linear.physical, torch.as_tensor(linear.truth.values)[None, None]
    geometry = misfit.operator.geometry
    error = {
        "back": norm(filtered_back_propagation(misfit, geometry) - truth),
        "tikhonov": norm(tikhonov(misfit, 1e-3) - truth),
        "tv": norm(fista_tv(misfit, 1e-3) - truth),
    }
    size = norm(truth)
    assert error["tv"] < error["tikhonov"] < error["back"] < 0.8 * size
    assert error["tv"] < 0.2 * size


def test_tikhonov_solves_its_equations():
    problem = load(dtype=torch.float64)
    misfit, operator = problem.physical, problem.physical.operator
    x = tikhonov(misfit, 0.01, iterations=500, tolerance=1e-12)
    slope = misfit.gradient(x)[0]
    largest = operator.norm(1000, 1e-12) ** 2 / float(misfit.variance)
    torch.testing.assert_close(
        -slope, 0.01 * largest * x, rtol=5e-3, atol=5e-3 * float(slope.max())
    )
    with pytest.raises(ValueError, match="linear operator"):
        tikhonov(load(FULL_WAVE).physical)
    with pytest.raises(ValueError, match="weight > 0"):
        tikhonov(misfit, 0.0)
    with pytest.raises(ValueError, match="limits"):
        fista_tv(misfit, limits=(1.0, 0.0))


# ---------------------------------------------------------------- discs


def test_discs_are_measured_to_a_fraction_of_a_pixel():
    axis = (np.arange(48) - 24) * 3.125
    x, y = np.meshgrid(axis, axis)
    true = (Disc(1.0, -2.0, 40.0, 0.45), Disc(-6.0, 0.5, 15.5, 2.0))
    image = render_discs(true, x, y, 3.0)
    image += np.random.default_rng(0).normal(0, 0.02, image.shape)
    start = (Disc(0.0, 0.0, 40.0, 1.0), Disc(-5.0, 0.0, 15.0, 1.0))
    found = fit_discs(image, x, y, start)
    for a, b in zip(found, true, strict=True):
        assert np.hypot(a.x - b.x, a.y - b.y) < 0.3
        assert a.radius == pytest.approx(b.radius, abs=0.2)
        assert a.value == pytest.approx(b.value, abs=0.02)
    assert fit_discs(np.full((48, 48), np.nan), x, y, start) is None


def test_a_simulated_target_is_recovered_where_born_fails():
    """The pipeline of the measured files, with a known answer."""
    foam = {"name": "foam", "centre_mm": [0.0, 0.0], "diameter_mm": 70.0, "permittivity": 1.5}
    rod = {"name": "rod", "centre_mm": [-6.0, 0.0], "diameter_mm": 32.0, "permittivity": 2.5}
    overrides = {
        **FULL,
        "image": {"npix": 24, "side": 0.1, "max_contrast": 2.0},
        "observation.receivers": 36,
        "observation.transmitters": 6,
        "observation.frequencies_ghz": [3.0, 6.0],
        "observation.image": "target:simulated",
        "observation.relative_noise": 0.02,
        "targets": {"simulated": [foam, rod]},
        "prior": {"kind": "total_variation", "weight": 30.0},
    }
    problem = load_problem(FULL_WAVE, overrides=overrides)
    assert "multi-frequency" in problem.provides
    exact = problem.evaluate(problem.truth.values[None])
    assert exact["foam_diameter"][0] == pytest.approx(70, abs=0.5)
    assert exact["rod_permittivity"][0] == pytest.approx(2.5, abs=0.05)
    assert exact["foam_rod_distance"][0] == pytest.approx(6.0, abs=0.2)
    solver = FrequencyHopping(8, sigma_max=1.0, sigma_min=0.05)
    data = problem.analyse(sample(problem, solver, 1, progress=False))
    assert data["psnr"].values[0] > data.attrs["metrics_of_born"]["psnr"] + 6
    assert data["foam_permittivity"].values[0] == pytest.approx(1.5, abs=0.05)
    assert data["foam_diameter"].values[0] == pytest.approx(70, abs=2)
    assert data["rod_permittivity"].values[0] == pytest.approx(2.5, abs=0.15)
    assert data["rod_diameter"].values[0] == pytest.approx(32, abs=2)


def test_measured_fields(data_dir):
    file = data_dir / "fresnel" / "FoamDielExtTM.exp"
    overrides = {"image.npix": 32, "observation.frequencies_ghz": [3.0]}
    problem = load_problem(FRESNEL, file, overrides=overrides)
    assert problem.truth is None
    assert problem.observation.sizes["frequency"] == 1
    assert problem.targets["plastic"] == Disc(-55.5, 0.0, 15.5, 2.0)
    seen = problem.observation["measured"].values
    rms = np.sqrt((np.abs(problem.observation["scattered_field"].values[0][seen]) ** 2).mean())
    assert float(problem.physical.sigma) == pytest.approx(
        problem.card.observation.relative_noise * rms, rel=1e-5
    )
    assert problem.evaluate(np.zeros((1, 32, 32)))["relative_misfit"][0] == pytest.approx(1)
    with pytest.raises(DataError, match=r"has no data at 3\.5 GHz: .*2, 3, 4"):
        load_problem(FRESNEL, file, overrides={"observation.frequencies_ghz": [3.5]})
    with pytest.raises(DataError, match=r"target 'plastic'.*image\.side"):
        load_problem(FRESNEL, file, overrides={"image.side": 0.12})

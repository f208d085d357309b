"""Inverse scattering end to end: cards, data, priors, solvers, metrics and what is refused."""

import dataclasses
from itertools import combinations

import numpy as np
import pytest
import torch
import xarray as xr

from lmaps_science import load_problem, plot_reconstruction, plot_samples, sample, stack
from lmaps_science.arrays import inner, norm
from lmaps_science.cards.load import load_card
from lmaps_science.io import DataError, read_netcdf, write_netcdf
from lmaps_science.local_map import LBFGS, ConjugateGradient, GradientSteps, LocalProblem
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.noise import SampleNoise
from lmaps_science.physics.lippmann_schwinger import NotConverged
from lmaps_science.physics.multi_frequency import Clamp, LinearMultiFrequency, MultiFrequency
from lmaps_science.physics.scattering import BornScattering, ScatteringGeometry
from lmaps_science.priors import (
    Denoiser,
    DiagonalCovariance,
    GaussianPrior,
    TotalVariationPrior,
    from_function,
)
from lmaps_science.priors.total_variation import total_variation, tv_prox
from lmaps_science.problems.scattering.baselines import (
    filtered_back_propagation,
    fista_tv,
    tikhonov,
)
from lmaps_science.problems.scattering.checks import edge_share, image_checks, saturated_share
from lmaps_science.problems.scattering.discs import Disc, fit_discs, render_discs
from lmaps_science.solvers import DDRM, LMAPS, ExactSVD, FrequencyHopping

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
        "error",
        "standard deviation",
    ]
    assert len([a for a in plot_samples(back).axes if a.images]) == 2


def test_figures_name_their_axes_and_share_the_scale_of_the_error(linear):
    data = linear.analyse(sample(linear, dataclasses.replace(linear.solver, levels=3), 3))
    figure = plot_reconstruction(data)
    panels = {a.get_title().split("\n")[0]: a for a in figure.axes if a.images}
    assert {a.get_xlabel() for a in panels.values()} == {"x (mm)"}
    assert panels["truth"].get_ylabel() == "y (mm)"
    error, spread = panels["error"].images[0], panels["standard deviation"].images[0]
    assert error.get_clim() == spread.get_clim() == (0, pytest.approx(error.get_array().max()))
    np.testing.assert_allclose(spread.get_array(), data["image_std"], rtol=1e-6)
    labels = [sub.get_supxlabel() for sub in figure.subfigs]
    assert any(label.startswith(data.attrs["verdict"]) for label in labels)
    samples = [a for a in plot_samples(data).axes if a.images]
    assert [a.get_ylabel() for a in samples] == ["y (mm)", "", ""]

    unknown = data.drop_vars("truth")  # without a truth the spread has its own scale
    (spread,) = (
        a.images[0]
        for a in plot_reconstruction(unknown).axes
        if a.images and a.get_title() == "standard deviation"
    )
    assert spread.get_clim() == (0, pytest.approx(float(data["image_std"].max())))
    one = linear.analyse(sample(linear, dataclasses.replace(linear.solver, levels=3), 1))
    assert not any("deviation" in a.get_title() for a in plot_reconstruction(one).axes)


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


def test_hopping_takes_noise_of_any_shape_and_asks_the_conditional():
    """One number, or one for each datum; and `conditional=True` is no empty word."""
    problem = load(FULL_WAVE, **FULL)
    y, alone = problem.misfit.y, float(problem.misfit.sigma.flatten()[0])
    solver, found = FrequencyHopping(3, sigma_max=1.0, hop_until=1.0), []
    for sigma in (alone, torch.full(y.shape[1:], alone)):
        misfit = GaussianMisfit(problem.misfit.operator, y, sigma)
        changed = dataclasses.replace(problem, misfit=misfit)
        found.append(sample(changed, solver, 1, progress=False).samples)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)
    blank = from_function(lambda x, sigma: 0 * x - 1, problem.image_shape)
    told = dataclasses.replace(changed, conditional=blank)
    other = sample(told, dataclasses.replace(solver, conditional=True), 1, progress=False)
    assert np.abs(other.samples - found[0]).max() > 1e-3


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


def test_filtered_back_propagation_has_no_frame(linear):
    """What the adjoint has on the border is no edge of the object."""
    geometry = linear.physical.operator.geometry
    image = filtered_back_propagation(linear.physical, geometry)[0, 0]
    frame = torch.ones(image.shape, dtype=torch.bool)
    frame[2:-2, 2:-2] = False
    assert image[frame].abs().mean() < 0.1 * image.max()
    assert linear.evaluate(image[None].numpy())["relative_misfit"][0] < 0.3


def test_filtered_back_propagation_where_receivers_are_near():
    """There is no room for a wider square between them."""
    near = load(observation__radius=0.14)
    image = filtered_back_propagation(near.physical, near.physical.operator.geometry)
    assert image.shape == (1, 1, 20, 20)
    assert near.evaluate(image[0].numpy())["relative_misfit"][0] < 1
    full = load(FULL_WAVE)
    with pytest.raises(ValueError, match="Born approximation of one frequency"):
        filtered_back_propagation(full.born_misfit, near.physical.operator.geometry)


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


def test_files_of_the_other_polarization_are_refused(data_dir, tmp_path):
    text = (data_dir / "fresnel" / "FoamDielExtTM.exp").read_text(encoding="latin-1")
    assert "TM (E //)" in text
    file = tmp_path / "FoamDielExtTE.exp"
    file.write_text(text.replace("TM (E //)", "TE (H //)"), encoding="latin-1")
    with pytest.raises(DataError, match=r"FoamDielExtTE\.exp: its header says polarisation TE"):
        load_problem(FRESNEL, file)


def test_a_file_that_names_no_polarization_is_taken_for_tm_and_says_so(data_dir, tmp_path):
    text = (data_dir / "fresnel" / "FoamDielExtTM.exp").read_text(encoding="latin-1")
    file = tmp_path / "FoamDielExtTM.exp"
    file.write_text(text.replace("Polarization : TM (E //)", "-"), encoding="latin-1")
    overrides = {"image.npix": 16, "observation.frequencies_ghz": [2.0]}
    with pytest.warns(UserWarning, match="no polarisation, and TM .* '# Polarization : TM'"):
        load_problem(FRESNEL, file, overrides=overrides)


def test_a_file_without_listed_discs_says_how_to_list_them(data_dir, tmp_path):
    file = tmp_path / "Rod.exp"
    file.write_bytes((data_dir / "fresnel" / "FoamDielExtTM.exp").read_bytes())
    overrides = {"image.npix": 16, "observation.frequencies_ghz": [2.0]}
    with pytest.warns(UserWarning, match=r"lists no discs for 'Rod'.*--set 'targets\.Rod=") as said:
        problem = load_problem(FRESNEL, file, overrides=overrides)
    assert set(problem.evaluate(np.zeros((1, 16, 16)))) == {"relative_misfit", "chi2"}
    key, _, value = str(said[0].message).split("--set '")[1].rstrip("'").partition("=")
    listed = load_problem(FRESNEL, file, overrides={**overrides, key: value})
    assert listed.targets == {"rod": Disc(0.0, 0.0, 15.0, 2.0)}


# ---------------------------------------------------------------- runs that lose their way

TWIN = [
    {"name": "foam", "centre_mm": [0.0, 0.0], "diameter_mm": 80.0, "permittivity": 1.45},
    {"name": "plastic", "centre_mm": [-55.5, 0.0], "diameter_mm": 31.0, "permittivity": 3.0},
]


@pytest.fixture(scope="module")
def twin():
    """Eighteen views on a wide square: the first image, made of noise, scatters too much."""
    observation = {
        "kind": "simulation",
        "image": "target:twin",
        "transmitters": 18,
        "receivers": 36,
        "radius": 1.67,
        "frequencies_ghz": [2.0, 3.0],
        "noise": 0.0,
        "relative_noise": 0.03,
    }
    image = {"npix": 20, "side": 0.1875, "max_contrast": 2.5}
    overrides = {"observation": observation, "image": image, "targets": {"twin": TWIN}}
    return load_problem(FRESNEL, overrides=overrides)


@pytest.mark.parametrize("seed", [0, 1])
def test_hopping_leaves_images_behind_that_are_worse_than_none(twin, seed):
    solver = FrequencyHopping(4, sigma_max=1.0, sigma_min=0.3, local=LBFGS(6))
    result = sample(twin, solver, 1, seed, progress=False)
    nothing = 0.5 * (twin.misfit.y.abs().square() / twin.misfit.variance).sum()
    assert result.misfit[0, 0] == pytest.approx(float(nothing), rel=1e-5)  # the empty image
    assert result.misfit[1:, 0].max() < 0.3 * float(nothing)


def test_hopping_starts_anew_where_fields_do_not_converge(twin):
    """Here those of images above 1 do: one sample of the batch."""

    class Fragile(MultiFrequency):
        def _check(self, x):
            failed = x.flatten(1).max(1).values > 1.0
            if bool(failed.any()):
                raise NotConverged("fields did not converge", failed)

        def _forward(self, x):
            self._check(x)
            return super()._forward(x)

        def _pullback(self, x):
            self._check(x)
            return super()._pullback(x)

    class Split(Denoiser):
        """Sample 0 is bright, the others are nearly empty."""

        image_shape, value_range = (1, 20, 20), (-1.0, 1.0)

        def _denoise(self, x, sigma):
            bright = torch.full_like(x, -0.9)
            bright[x.flatten(1).mean(1) > 0] = 1.5
            return bright

    operators = twin.misfit.operator.operators
    misfit = GaussianMisfit(Fragile(operators), twin.misfit.y, twin.misfit.sigma)
    problem = dataclasses.replace(twin, prior=Split(), misfit=misfit)
    solver = FrequencyHopping(2, sigma_max=1.0, sigma_min=0.5, local=GradientSteps(1, 1e-9))
    seen = []
    state = solver.init(problem, SampleNoise(0, (0, 1)))
    state = dataclasses.replace(
        state, x=torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1) + 0 * state.x
    )
    for i in (0, 1):
        after = solver.step(i, state, problem, SampleNoise(0, (0, 1)))
        seen.append(after.estimate.flatten(1).max(1).values)
    for estimate in seen:
        assert estimate[0] == pytest.approx(-1.0, abs=1e-3)
        assert estimate[1] == pytest.approx(-0.9, abs=1e-3)

    class Hopeless(Fragile):
        def _check(self, x):
            raise NotConverged("fields did not converge", torch.ones(len(x), dtype=torch.bool))

    misfit = GaussianMisfit(Hopeless(operators), twin.misfit.y, twin.misfit.sigma)
    with pytest.raises(NotConverged):
        solver.step(0, state, dataclasses.replace(problem, misfit=misfit), SampleNoise(0, (0, 1)))


# ---------------------------------------------------------------- verdicts


def verdict_of(problem, *images):
    """Verdict and reasons on images that some run might have given."""
    solver = LMAPS(1, sigma_max=1.0, local=GradientSteps(1, 1e-12))
    result = sample(problem, solver, len(images), progress=False)
    samples = np.stack([np.asarray(image, np.float32)[None] for image in images])
    data = problem.analyse(dataclasses.replace(result, samples=samples))
    return data.attrs["verdict"], " ".join(data.attrs["verdict_reasons"])


def test_the_truth_lacks_pixels_alone_and_a_saturated_image_does_not_fit(twin):
    word, why = verdict_of(twin, twin.truth.values)  # 6 pixels a wavelength in the plastic
    assert word == "doubtful"
    assert why.startswith("pixel, in wavelengths")
    assert why.count("above") == 1
    word, why = verdict_of(twin, np.full((20, 20), 2.5))
    assert word == "does not fit"
    for part in ("share of the signal left", "at the largest contrast", "image.max_contrast"):
        assert part in why


def test_an_image_whose_fields_do_not_converge_does_not_fit(twin):
    """It is said, and does not lose the samples that are good."""

    class Fragile(MultiFrequency):
        def _forward(self, x):
            if float(x.max()) > 2.1:
                raise NotConverged("fields did not converge", torch.ones(len(x), dtype=torch.bool))
            return super()._forward(x)

    fragile = Fragile(twin.physical.operator.operators)
    physical = GaussianMisfit(fragile, twin.physical.y, twin.physical.sigma)
    problem = dataclasses.replace(twin, physical=physical)
    dense = twin.truth.values + 0.5
    scores = problem.evaluate(np.stack([twin.truth.values, dense]))
    assert np.isnan(scores["relative_misfit"]).tolist() == [False, True]
    assert np.isfinite(scores["psnr"][1])
    assert verdict_of(problem, twin.truth.values)[0] == "doubtful"
    assert verdict_of(problem, dense)[0] == "does not fit"


def test_no_object_and_its_born_image_do_not_fit(twin):
    word, why = verdict_of(twin, np.zeros((20, 20)))
    assert word == "does not fit"
    assert "the run has failed" in why
    assert verdict_of(twin, twin.born())[0] == "does not fit"


def test_a_linear_result_is_good(linear):
    data = linear.analyse(sample(linear, linear.solver, 2, progress=False))
    assert data.attrs["verdict"] == "good", data.attrs["verdict_reasons"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sigma_factor": 0.5}, "the noise is larger than stated"),
        ({"image__npix": 16, "observation__frequencies_ghz": [8.0]}, "raise image.npix"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*pixels per wavelength")
def test_what_makes_the_truth_doubtful(change, reason):
    problem = load(**change)
    word, why = verdict_of(problem, problem.truth.values)
    assert word == "doubtful"
    assert reason in why


def test_an_object_on_the_edge_and_a_mean_of_unlike_samples_are_doubtful(twin):
    truth = twin.truth.values
    edge = truth.copy()
    edge[8:14, 0] = 2.5
    assert edge_share(edge) == pytest.approx(1.0)
    assert edge_share(truth) < 0.05
    speck = truth.copy()
    speck[5, 0] = 2.5
    assert edge_share(speck) < 0.25
    (check,) = (c for c in image_checks(verdict_data(edge), 30.0) if "edge" in c.what)
    assert check.level == 1
    assert "raise image.side" in str(check)
    assert saturated_share(truth, 2.5) == 0
    assert saturated_share(truth, 2.0) > 0.05
    assert saturated_share(0 * truth, 2.5) == 0


def verdict_data(image):
    data = xr.Dataset({"image": (("sample", "y", "x"), image[None])})
    return data.assign_attrs(best=0, max_contrast=2.5, physics="full_wave")


# ---------------------------------------------------------------- observations in a batch


def five(card, **changes):
    """Observations of five objects with noise of their own, in double precision."""
    base = {"image__npix": 16, "observation__receivers": 24, "observation__transmitters": 4}
    changes = {**base, "observation__noise": 1e-2, **changes}
    return [
        load(
            card,
            dtype=torch.float64,
            observation__image=f"phantom:{k}",
            observation__seed=k,
            **changes,
        )
        for k in range(5)
    ]


CG = LMAPS(
    4, kappa=3.0, sigma_max=5.0, local=ConjugateGradient(500, 1e-12)
)  # short of that it magnifies rounding
STACKS = {
    "linear": (LINEAR, {}, CG),
    "unequal_noise": (LINEAR, {"observation__relative_noise": 0.05}, CG),
    "tikhonov_by_svd": (LINEAR, {"physics__svd": True}, LMAPS(4, local=ExactSVD())),
    "svd_unequal_noise": (
        LINEAR,
        {"physics__svd": True, "observation__relative_noise": 0.05},
        LMAPS(4, local=ExactSVD()),
    ),
    "ddrm": (LINEAR, {"physics__svd": True}, DDRM(4)),
    "ddrm_unequal_noise": (
        LINEAR,
        {"physics__svd": True, "observation__relative_noise": 0.05},
        DDRM(4),
    ),
    "full_wave": (
        FULL_WAVE,
        {
            "observation__frequencies_ghz": [1.0, 2.0],
            "observation__relative_noise": 0.05,
            "physics__tolerance": 1e-12,
        },
        FrequencyHopping(3, sigma_max=1.0, local=LBFGS(3, tolerance=0.0)),
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_an_observation_does_not_depend_on_its_company(name):
    card, changes, solver = STACKS[name]
    problems = five(card, **changes)
    joined = stack(problems)
    assert joined.observations == 5
    whole = sample(joined, solver, 3, seed=2, batch_size=15, progress=False)
    for size in (1, 2, 4):
        parts = sample(joined, solver, 3, seed=2, batch_size=size, progress=False)
        np.testing.assert_allclose(parts.samples, whole.samples, rtol=0, atol=1e-9)
        np.testing.assert_allclose(parts.misfit, whole.misfit, rtol=1e-6, atol=1e-9)
    for problem, part in zip(problems, whole.split(), strict=True):
        alone = sample(problem, solver, 3, seed=2, progress=False)
        np.testing.assert_allclose(part.samples, alone.samples, rtol=0, atol=1e-9)
        np.testing.assert_allclose(part.misfit, alone.misfit, rtol=1e-6, atol=1e-9)
        assert part.facts["observation"] == alone.facts["observation"]
    means = whole.samples.reshape(5, 3, -1).mean(1)
    assert min(np.abs(a - b).max() for a, b in combinations(means, 2)) > 1e-3


@pytest.mark.parametrize(
    ("card", "change", "reason"),
    [
        (LINEAR, {"observation__receivers": 30}, r"shapes \(12, 40\) and \(12, 30\)|40|30"),
        (LINEAR, {"observation__radius": 2.0}, r"operators are the same: .*radius"),
        (LINEAR, {"image__npix": 24}, r"problem 1 differs from problem 0: prior"),
        (FULL_WAVE, {"observation__frequencies_ghz": [1.0, 3.0]}, r"wavelength"),
        (FULL_WAVE, {"observation__frequencies_ghz": [1.0]}, r"different frequencies"),
    ],
)
def test_observations_that_cannot_share_a_batch_are_refused(card, change, reason):
    with pytest.raises(ValueError, match=f"stack: .*({reason})"):
        stack([load(card), load(card, **change)])

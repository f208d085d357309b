"""LMAPS with draws in place of maxima, against the exact posteriors of Gaussian priors."""

from dataclasses import replace

import pytest
import torch
from registries import closure_misfit, dense_gaussian, gaussian_real, inverse_problem
from test_solvers_linear import EXACT, check_moments, complex_misfit, real_equations, well_posed

from lmaps_science.cards.methods import build_solver
from lmaps_science.local_map import LBFGS, ConjugateGradient
from lmaps_science.misfit import GaussianMisfit, Misfit
from lmaps_science.noise import SampleNoise
from lmaps_science.operators import Affine, Operator
from lmaps_science.sampling import InverseProblem, State, sample
from lmaps_science.solvers import (
    LMAPS,
    ExactSVD,
    FrequencyHopping,
    Langevin,
    Metropolis,
    PerturbAndMAP,
)
from lmaps_science.solvers.local_posterior import LocalPosterior

SHAPE = (1, 6, 5)
UNIT = torch.eye(30, dtype=torch.float64)


def one_level(solver, problem, batch=4000, level=6):
    """Draws of one level, all from one noisy image, and that image."""
    generator = torch.Generator().manual_seed(3)
    x = 1.5 * torch.randn(1, *SHAPE, generator=generator, dtype=torch.float64)
    state = State(x=x.expand(batch, *SHAPE), estimate=torch.zeros_like(x))
    noise = SampleNoise(5, tuple(range(batch)))
    return solver.step(level, state, problem, noise).estimate, x


def check_draws(draws, mean, covariance):
    """Mean and covariance within the scatter of so many draws."""
    centred = draws.flatten(1) - mean.flatten()
    error = centred.mean(0) * len(draws) ** 0.5 / covariance.diagonal().sqrt()
    assert error.abs().max() < 4.5
    whitened = centred @ torch.linalg.cholesky(torch.linalg.inv(covariance))
    spread = whitened.T @ whitened / len(draws)
    assert spread.diagonal().mean() == pytest.approx(1, abs=0.02)
    assert (spread - UNIT).abs().max() < 0.15


@pytest.mark.parametrize("make", [gaussian_real, complex_misfit], ids=lambda make: make.__name__)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_one_level_draws_from_the_round_local_posterior(make, temperature):
    """N(z; m, kappa sigma^2 I) p(y | z), all variances times the temperature."""
    problem = InverseProblem(dense_gaussian(), make(), Affine(0.5, 1.0, SHAPE))
    solver = LMAPS(
        12, local=PerturbAndMAP(EXACT), kappa=2.0, temperature=temperature, sigma_max=10.0
    )
    draws, x = one_level(solver, problem)
    sigma = float(solver.sigmas[6])
    matrix, b = real_equations(problem.misfit)
    covariance = torch.linalg.inv(UNIT / (2.0 * sigma**2) + matrix.T @ matrix)
    start = problem.prior(x, sigma).flatten()
    mean = start + covariance @ matrix.T @ (b - matrix @ start)
    check_draws(draws, mean, temperature * covariance)


@pytest.mark.parametrize("make", [gaussian_real, complex_misfit], ids=lambda make: make.__name__)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_one_level_with_the_priors_covariance_draws_given_noisy_image_and_data(make, temperature):
    """The precisions of prior, noisy image and data add up: p(x_0 | x_sigma, y), exactly."""
    problem = InverseProblem(dense_gaussian(), make(), Affine(0.5, 1.0, SHAPE))
    solver = LMAPS(
        12,
        local=PerturbAndMAP(EXACT),
        covariance="prior",
        temperature=temperature,
        sigma_max=10.0,
    )
    draws, x = one_level(solver, problem)
    sigma = float(solver.sigmas[6])
    matrix, b = real_equations(problem.misfit)
    known = torch.linalg.inv(problem.prior.covariance.dense())
    covariance = torch.linalg.inv(known + UNIT / sigma**2 + matrix.T @ matrix)
    right = known @ problem.prior.mean.flatten() + x.flatten() / sigma**2 + matrix.T @ b
    check_draws(draws, covariance @ right, temperature * covariance)


def test_a_long_metropolis_chain_draws_in_the_priors_coordinates():
    problem = InverseProblem(dense_gaussian(), gaussian_real(), Affine(0.5, 1.0, SHAPE))
    options = {"covariance": "prior", "sigma_max": 10.0}
    chain, _ = one_level(LMAPS(12, local=Metropolis(200, 10), **options), problem, batch=1500)
    exact, _ = one_level(LMAPS(12, local=PerturbAndMAP(EXACT), **options), problem, batch=1500)
    error = (chain.mean(0) - exact.mean(0)).abs() / exact.std(0)
    assert error.max() < 4.5 * (2 / 1500) ** 0.5
    assert (chain.var(0) / exact.var(0)).mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("levels", [4, 12])
def test_the_whole_chain_draws_from_the_posterior_of_a_gaussian_prior(levels):
    """With the true covariance every level is exact, however few there are."""
    problem, mean, covariance = well_posed()
    solver = LMAPS(
        levels,
        local=PerturbAndMAP(EXACT),
        covariance="prior",
        sigma_max=200.0,
        sigma_min=0.05,
    )
    result = sample(problem, solver, 1500, progress=False)
    check_moments(result.estimates, mean, covariance, ratio=(0.97, 1.03))
    centred = result.estimates.flatten(1) - mean.flatten()
    whitened = centred @ torch.linalg.cholesky(torch.linalg.inv(covariance))
    assert (whitened.T @ whitened / 1500 - UNIT).abs().max() < 0.2


def test_the_temperature_of_a_chain_is_that_of_its_spread():
    """Maxima alone spread by what the renoising leaves; the more, the warmer the draws."""
    problem, mean, covariance = well_posed()
    settings = {"covariance": "prior", "sigma_max": 50.0, "sigma_min": 0.05}
    spread = []
    for options in (
        {"local": EXACT},
        {"local": PerturbAndMAP(EXACT), "temperature": 0.25},
        {"local": PerturbAndMAP(EXACT)},
    ):
        draws = sample(problem, LMAPS(15, **settings, **options), 300, progress=False).estimates
        spread.append(float((draws.flatten(1).var(0) / covariance.diagonal()).mean()))
        error = (draws.flatten(1).mean(0) - mean.flatten()) / covariance.diagonal().sqrt()
        assert error.abs().max() < 4.5 / 300**0.5
    assert spread[0] < spread[1] < spread[2] == pytest.approx(1, abs=0.06)


def test_draws_of_the_jacobians_subspace_are_exact_where_it_holds_all():
    """As many products as pixels, of a linear denoiser: the prior's covariance again."""
    problem = InverseProblem(dense_gaussian(), gaussian_real(), Affine(0.5, 1.0, SHAPE))
    options = {"local": PerturbAndMAP(EXACT), "sigma_max": 10.0}
    found, _ = one_level(LMAPS(12, covariance="jacobian", products=30, **options), problem, 1500)
    exact, _ = one_level(LMAPS(12, covariance="prior", **options), problem, 1500)
    error = (found.mean(0) - exact.mean(0)).abs() / exact.std(0)
    assert error.max() < 4.5 * (2 / 1500) ** 0.5
    assert (found.var(0) / exact.var(0)).mean() == pytest.approx(1, abs=0.05)


# ---------------------------------------------------------------- nonlinear, and not Gaussian


def test_closure_data_get_noise_as_they_are_weighed():
    misfit = closure_misfit()
    misfit.weights = (4.0, 1.0, 0.0)
    generator = torch.Generator().manual_seed(0)
    batch = 3000

    def normal(like):
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    perturbed = misfit.perturbed(batch, normal, 0.5)
    for name, weight in zip(("cphase", "logcamp"), misfit.weights, strict=False):
        drawn, sigma = getattr(perturbed, name), getattr(misfit, f"{name}_sigma")
        assert drawn.shape == (batch, sigma.shape[1])
        deviation = (drawn - getattr(misfit, name)) / (0.5 * sigma / weight**0.5)
        assert deviation.var(0).mean() == pytest.approx(1, abs=0.05)
        assert (deviation.mean(0).abs() < 4.5 / batch**0.5).all()
        torch.testing.assert_close(getattr(perturbed, f"{name}_sigma"), sigma, rtol=0, atol=0)
    if misfit.flux is not None:  # of weight 0
        torch.testing.assert_close(perturbed.flux, misfit.flux, rtol=0, atol=0)


def test_draws_of_closure_data_have_the_local_curvature():
    """A narrow local posterior is Gaussian: its covariance is that of Laplace's approximation."""
    misfit = closure_misfit()
    shape = (1, *misfit.operator.image_shape)
    x = 0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    misfit = misfit.with_data(misfit.expected(x))
    misfit.cphase_sigma, misfit.logcamp_sigma = misfit.cphase_sigma / 20, misfit.logcamp_sigma / 20
    radius, batch = 0.02, 400
    target = LocalPosterior(x.expand(batch, *shape[1:]), misfit, radius, 1.0)
    generator = torch.Generator().manual_seed(2)

    def normal(like, draw):
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    draws = PerturbAndMAP(LBFGS(60, tolerance=1e-9))(target, 0.0, normal)
    with torch.enable_grad():
        curvature = torch.autograd.functional.hessian(lambda z: misfit(z).sum(), x)
    d = x.numel()
    precision = curvature.reshape(d, d) + torch.eye(d, dtype=torch.float64) / radius**2
    values, vectors = torch.linalg.eigh(torch.linalg.inv(precision))
    assert values[0] < 0.3 * radius**2  # the data do say something
    along = ((draws - x).flatten(1) @ vectors).var(0) / values
    assert along.mean() == pytest.approx(1, abs=0.05)
    assert along[:3].mean() == pytest.approx(1, abs=0.25)  # what the data know best


# ---------------------------------------------------------------- refusals


class Counts(Misfit):
    """Of data whose noise nobody has written."""

    def __init__(self, operator: Operator):
        self.operator = operator

    def _loss(self, predicted):
        return predicted.square().flatten(1).sum(1), 2 * predicted


def test_a_misfit_without_noise_to_add_is_refused():
    problem = inverse_problem(Counts(gaussian_real().operator))
    with pytest.raises(ValueError, match=r"LMAPS needs a problem that is perturbable"):
        sample(problem, LMAPS(3, local=PerturbAndMAP(LBFGS())), progress=False)
    assert sample(problem, LMAPS(3, local=Metropolis(10)), progress=False).samples.shape[0] == 1


def test_closures_are_refused_by_the_default_inner_solver_alone():
    problem = inverse_problem(closure_misfit())
    with pytest.raises(ValueError, match=r"needs a problem that is gaussian and linear"):
        sample(problem, LMAPS(3, local=PerturbAndMAP()), progress=False)
    assert sample(problem, LMAPS(3, local=PerturbAndMAP(LBFGS())), progress=False).counts


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temperature": 0.5}, r"that of draws.*local=PerturbAndMAP\(\)"),
        ({"local": PerturbAndMAP(), "temperature": 0.0}, "temperature > 0"),
        ({"local": PerturbAndMAP(), "kappa2": 3.0}, "kappa instead of kappa2"),
        ({"local": PerturbAndMAP(), "kappa1": 0.0, "kappa2": 3.0}, "kappa instead of kappa2"),
        ({"local": PerturbAndMAP(ExactSVD()), "covariance": "jacobian"}, "singular vectors"),
    ],
)
def test_options_that_contradict_draws_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        LMAPS(4, **options)


def test_frequency_hopping_takes_no_draws():
    with pytest.raises(ValueError, match="FrequencyHopping needs a local solver"):
        FrequencyHopping(4, local=Metropolis())


def test_cards_reach_draws():
    spec = {"method": "lmaps", "levels": 9, "temperature": 0.5}
    spec["local"] = {"method": "perturb_and_map", "local": {"method": "conjugate_gradient"}}
    expected = LMAPS(9, local=PerturbAndMAP(ConjugateGradient()), temperature=0.5)
    assert build_solver(spec) == expected
    plain = build_solver({"method": "lmaps", "levels": 9, "local": "conjugate_gradient"})
    assert plain == replace(expected, local=ConjugateGradient(), temperature=1.0)
    with pytest.raises(ValueError, match=r"local.method: there is no 'dps'.*LBFGS.*Langevin"):
        build_solver({"method": "lmaps", "local": "dps"})
    assert isinstance(
        Langevin(), type(build_solver({"method": "lmaps", "local": "langevin"}).local)
    )


def test_noise_is_drawn_for_stacked_data_of_each_observation():
    operator = gaussian_real().operator
    y = torch.stack([torch.zeros(9), torch.full((9,), 50.0)]).double()
    misfit = GaussianMisfit(operator, y, torch.tensor([[0.1], [10.0]], dtype=torch.float64))
    rows = torch.tensor([0] * 500 + [1] * 500)
    generator = torch.Generator().manual_seed(0)
    drawn = misfit.select(rows).perturbed(
        1000, lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype), 1.0
    )
    assert drawn.y[:500].std() == pytest.approx(0.1, rel=0.1)
    assert (drawn.y[500:] - 50).std() == pytest.approx(10, rel=0.1)

"""The toys, their exact posteriors, and how far methods are from them."""

from dataclasses import replace

import pytest
import torch

from lmaps_science.diagnostics import method_score, sample_std, score_errors, score_mean
from lmaps_science.local_map import ConjugateGradient
from lmaps_science.priors import DiagonalCovariance, GaussianPrior
from lmaps_science.priors.mixture import MixtureDenoiser, mixture_posterior
from lmaps_science.sampling import InverseProblem, sample
from lmaps_science.solvers import DAPS, DPS, LMAPS, PerturbAndMAP, PiGDM
from lmaps_science.toys import (
    MixtureDDIM,
    between_modes,
    component_shares,
    inpainting,
    mixture,
)

TOYS = pytest.mark.parametrize("make", [inpainting, mixture], ids=lambda make: make.__name__)
ENDS = {"sigma_max": 10.0, "sigma_min": 0.02}


def draws_of(problem, solver, n=200):
    return sample(problem, solver, n, progress=False).estimates


# ---------------------------------------------------------------- the exact posterior


def grid(toy, half=6.0, n=600):
    """Images on a fine grid, and the area of a cell."""
    axis = torch.linspace(-half, half, n, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis).reshape(-1, 1, 1, 2)
    return x, float(axis[1] - axis[0]) ** 2


@TOYS
def test_the_posterior_is_prior_times_likelihood(make):
    toy = make()
    x, cell = grid(toy)
    joint = toy.problem.prior.log_prob(x) - toy.problem.misfit(x)
    normalised = (joint - joint.logsumexp(0)).exp()
    found = toy.posterior.log_prob(x).exp() * cell
    torch.testing.assert_close(found, normalised, rtol=1e-6, atol=1e-12)
    mean, covariance = toy.posterior.moments()
    flat = x.flatten(1)
    torch.testing.assert_close((normalised[:, None] * flat).sum(0), mean.flatten())
    away = flat - mean.flatten()
    torch.testing.assert_close((normalised[:, None] * away).T @ away, covariance)


def test_its_denoiser_is_the_mean_of_the_clean_image_given_the_noisy_one_and_the_data():
    toy, sigma = inpainting(), torch.tensor([0.7, 2.0], dtype=torch.float64)
    x = torch.tensor([[0.3, -0.2], [1.5, -2.0]], dtype=torch.float64).reshape(2, 1, 1, 2)
    clean, _ = grid(toy)
    for k in range(2):
        away = (clean - x[k]).square().sum((1, 2, 3))
        weights = (toy.posterior.log_prob(clean) - away / (2 * sigma[k] ** 2)).softmax(0)
        expected = (weights[:, None] * clean.flatten(1)).sum(0)
        torch.testing.assert_close(toy.posterior(x, sigma)[k].flatten(), expected)


def test_its_score_is_the_gradient_of_its_density():
    toy = mixture(pixels=3)
    x = torch.randn(4, 1, 1, 3, generator=torch.Generator().manual_seed(0)).double()
    x.requires_grad_()
    slope = torch.autograd.grad(toy.posterior.log_prob(x, 0.6).sum(), x)[0]
    torch.testing.assert_close(toy.posterior.score(x.detach(), 0.6), slope)


def test_the_local_map_is_the_highest_peak_and_not_the_heaviest_component():
    eye = torch.eye(2, dtype=torch.float64)
    narrow = MixtureDenoiser(
        torch.tensor([0.7, 0.3]).double(),
        torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).double().reshape(2, 1, 1, 2),
        torch.stack([eye, 0.01 * eye]),
    )
    x = torch.zeros(1, 1, 1, 2).double()
    found = narrow.posterior(x, 1e3).local_map()
    torch.testing.assert_close(found, torch.full((1, 2), -1.0).double(), rtol=0, atol=1e-3)


def test_what_is_no_mixture_is_refused():
    toy = inpainting()
    with pytest.raises(ValueError, match=r"matrix \(m, 2\).*got \(1, 3\)"):
        mixture_posterior(toy.problem.prior, torch.ones(1, 3).double(), torch.ones(1).double(), 1.0)
    with pytest.raises(ValueError, match="must be positive"):
        MixtureDenoiser(torch.ones(1), torch.zeros(1, 1, 1, 2), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match=r"covariances\s+\(K, d, d\)"):
        MixtureDenoiser(torch.ones(2), torch.zeros(2, 1, 1, 2), torch.eye(2)[None])


# ---------------------------------------------------------------- appendix A of LMAPS


@TOYS
def test_draws_are_exact_in_ddim_and_the_mean_is_in_the_limit(make):
    toy = make()
    mean, covariance = toy.posterior.moments()
    for solver in (MixtureDDIM("draw", 20, rho=1.0), MixtureDDIM("mean", 100)):
        draws = draws_of(toy.problem, solver, 400).flatten(1)
        std = covariance.diagonal().sqrt()
        assert ((draws.mean(0) - mean.flatten()) / std).abs().max() < 4.5 / 400**0.5
        torch.testing.assert_close(draws.T.cov(), covariance, rtol=0.2, atol=0.02)


def test_the_local_map_in_ddim_leaves_nothing_between_and_favours_the_heavier_mode():
    """Inside a component, a Gaussian, it is the mean, and the spread stays."""
    toy = inpainting()
    draws = draws_of(toy.problem, MixtureDDIM("map", 50), 200)
    assert not bool(between_modes(draws, toy.posterior).any())
    assert float(component_shares(draws, toy.posterior)[0]) > 0.8  # its weight is 0.71
    heavy = draws[toy.posterior.distance(draws).argmin(1) == 0].flatten(1)
    assert (heavy.var(0) > 0.5 * 0.3**2).all()


def test_ddim_asks_for_the_exact_posterior():
    with pytest.raises(ValueError, match="needs the exact posterior"):
        draws_of(replace(inpainting().problem, conditional=None), MixtureDDIM(), 1)
    with pytest.raises(ValueError, match="MixtureDDIM needs"):
        MixtureDDIM("median")


def test_few_exact_draws_lie_between_the_modes():
    toy = inpainting()
    exact = toy.posterior.sample(20000, torch.Generator().manual_seed(0))
    assert 0.005 < float(between_modes(exact, toy.posterior).double().mean()) <= 0.0125
    assert bool(between_modes(torch.zeros(1, 1, 1, 2).double(), toy.posterior))
    shares = component_shares(exact, toy.posterior)
    torch.testing.assert_close(shares.double(), toy.posterior.weights, rtol=0, atol=0.015)


@TOYS
def test_local_map_sampling_leaves_fewest_samples_between_modes(make):
    """Figure 3 of LMAPS, as a count: of 400 samples, an exact sampler has 1 % outside all modes."""
    toy = make()
    solvers = {
        "lmaps": LMAPS(40, local=ConjugateGradient(), **ENDS),
        "dps": DPS(100),
        "daps": DAPS(40, 2, local=PerturbAndMAP(), **ENDS),
    }
    shares = {
        name: float(
            between_modes(draws_of(toy.problem, solver, 400), toy.posterior).double().mean()
        )
        for name, solver in solvers.items()
    }
    assert shares["lmaps"] < 0.005 < min(shares["dps"], shares["daps"])


# ---------------------------------------------------------------- scores


def white(n=2):
    """A white prior and one of two pixels measured: problem and exact posterior."""
    toy = inpainting()
    zero = torch.zeros(1, 1, n, dtype=torch.float64)
    prior = GaussianPrior(zero, DiagonalCovariance(torch.ones_like(zero)))
    problem = InverseProblem(prior, toy.problem.misfit, toy.problem.decode)
    matrix = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    mean, covariance = prior.posterior(matrix, toy.problem.misfit.y, 1.0)
    return problem, MixtureDenoiser(torch.ones(1).double(), mean, covariance[None])


def test_a_method_that_is_exact_has_the_exact_score():
    """PiGDM, with the width of a white prior; the noise of its step cancels."""
    problem, exact = white()
    errors = score_errors(problem, PiGDM(40), exact, 50)
    assert float(errors["method"].max()) < 1e-6
    assert float(errors["unconditional"].max()) > 0.05
    assert (errors["sigma"].diff("sigma") < 0).all()


def test_the_exact_estimate_has_the_exact_score():
    toy = inpainting()
    errors = score_errors(toy.problem, MixtureDDIM("mean", 20), toy.posterior, 50, read="estimate")
    assert float(errors["method"].max()) < 1e-9
    step = method_score(toy.problem, MixtureDDIM("mean", 20), toy.posterior.sample(3), 19)
    assert step.shape == (3, 1, 1, 2)


def test_the_score_of_dps_is_that_of_proposition_1():
    """s - zeta' grad R / (1 - shrink) / sigma^2, by autograd."""
    problem, _ = white()
    solver, level = DPS(20, zeta=0.3, scale_free=False), 8
    sigma, after = (float(s) for s in solver.sigmas[level : level + 2])
    x = (sigma * torch.randn(3, 1, 1, 2, generator=torch.Generator().manual_seed(0))).double()
    got = method_score(problem, solver, x, level)
    x.requires_grad_()
    residual = (problem.misfit.y - problem.misfit.operator(problem.prior(x, sigma))).norm(dim=1)
    slope = torch.autograd.grad(residual.sum(), x)[0]
    zeta = 0.3 * ((1 + sigma**2) * (1 + after**2)) ** 0.5
    unconditional = (problem.prior(x, sigma) - x) / sigma**2
    expected = unconditional - zeta * slope / (sigma**2 - after**2)
    torch.testing.assert_close(got, expected.detach())


def test_the_three_observations_of_dps():
    """Section 3: a large score error, a large mean of the score, a low diversity."""
    toy = inpainting()
    errors = score_errors(toy.problem, DPS(60), toy.posterior, 100)
    assert float(errors["method"].mean()) > 3 * float(errors["unconditional"].mean())
    exact = score_mean(toy.problem, MixtureDDIM("mean", 60), 400, read="estimate")
    assert exact < 3 / 400**0.5
    assert score_mean(toy.problem, DPS(60), 400) > 2 * exact
    std = toy.posterior.moments()[1].diagonal().sqrt()
    assert (sample_std(toy.problem, DPS(60), 100).flatten() < 0.8 * std).all()
    good = sample_std(toy.problem, MixtureDDIM("draw", 20, rho=1.0), 100).flatten()
    torch.testing.assert_close(good, std, rtol=0.15, atol=0.0)

"""DMAP, DSG, FreeDoM and LGD: their equations by autograd, and what theory says of each."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from registries import gaussian_real, linear_problem

from lmaps_science.arrays import norm
from lmaps_science.cards.methods import build_solver
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.noise import SampleNoise
from lmaps_science.operators import Affine
from lmaps_science.priors import DiagonalCovariance, GaussianPrior, TotalVariationPrior
from lmaps_science.sampling import InverseProblem, NonFiniteError, sample
from lmaps_science.solvers import DMAP, DPS, DSG, LGD, FreeDoM
from lmaps_science.toys import Matrix, component_shares, inpainting

SHAPE, LEVEL = (1, 6, 5), 7


def run(problem, solver, n=2, seed=0):
    return sample(problem, solver, n, seed, progress=False)


def residual_slope(problem, x, sigma):
    """grad_x ||y - H(D(x))||, by autograd."""
    x = x.detach().requires_grad_()
    residual = norm(problem.misfit.y - problem.misfit.operator(problem.prior(x, sigma)))
    return torch.autograd.grad(residual.sum(), x)[0]


def a_step(solver, level=LEVEL):
    """Problem, images at that level, the solver's next ones, mu, s, the noise, both levels."""
    problem, noise = linear_problem(), SampleNoise(0, (0, 1))
    state = solver.init(problem, noise)
    with torch.no_grad():
        for i in range(level):
            state = solver.step(i, state, problem, noise)
        got = solver.step(level, state, problem, noise).x
    sigma, after = (float(s) for s in solver.sigmas[level : level + 2])
    denoised = problem.prior(state.x, sigma)
    mean = denoised + (after / sigma) ** 2 * (state.x - denoised)
    spread = after * (1 - (after / sigma) ** 2) ** 0.5
    return problem, state.x, got, mean, spread, (sigma, after)


def length(x):
    return norm(x)[:, None, None, None]


@pytest.mark.parametrize("steps", [1, 3])
def test_the_dmap_step_is_the_papers(steps):
    """K times x - zeta grad R, then the sphere; the first gradient at x_i, the others at x'."""
    solver = DMAP(15, zeta=0.3, scale_free=False, steps=steps)
    problem, x, got, mean, spread, (sigma, after) = a_step(solver)
    # On the variance-preserving states: zeta / (alpha of the gradient, alpha of the image)
    zetas = [0.3 * ((1 + at**2) * (1 + after**2)) ** 0.5 for at in (sigma, after, after)]
    current = mean + spread * SampleNoise(0, (0, 1)).normal(mean, 1, LEVEL)
    slope = residual_slope(problem, x, sigma)
    for k in range(steps):
        slope = slope if k == 0 else residual_slope(problem, current, after)
        current = current - zetas[k] * slope
        current = mean + 30**0.5 * spread * (current - mean) / length(current - mean)
    torch.testing.assert_close(got, current)


def test_the_dsg_step_is_the_papers():
    problem, x, got, mean, spread, (sigma, _) = a_step(DSG(15, zeta=0.4))
    slope = residual_slope(problem, x, sigma)
    fresh = spread * SampleNoise(0, (0, 1)).normal(mean, 1, LEVEL)
    steepest = -(30**0.5) * spread * slope / length(slope)
    mixed = fresh + 0.4 * (steepest - fresh)
    torch.testing.assert_close(got, mean + 30**0.5 * spread * mixed / length(mixed))


@pytest.mark.parametrize("solver", [DMAP(15), DSG(15)], ids=str)
def test_steps_end_where_the_prior_concentrates(solver):
    _, _, got, mean, spread, _ = a_step(solver)
    torch.testing.assert_close(norm(got - mean), torch.full((2,), 30**0.5 * spread).double())


def test_freedom_without_repeats_is_dps_but_for_the_noise():
    """Inside its window it goes back by the level's noise and takes the step again."""
    solver = FreeDoM(15, repeats=1)
    problem, x, got, mean, spread, (sigma, after) = a_step(solver)
    noise = SampleNoise(0, (0, 1))
    unguided = mean + spread * noise.normal(mean, 1, LEVEL, 0)
    dps = DPS(15, zeta=solver.zeta)
    state = replace(solver.init(problem, noise), x=x)
    pulled = dps.step(LEVEL, state, problem, noise).x - spread * noise.normal(x, 1, LEVEL) - mean
    torch.testing.assert_close(got - unguided, pulled)
    twice = replace(solver, repeats=2, window=(sigma, sigma + 1e-9))
    back = got + (sigma**2 - after**2) ** 0.5 * noise.normal(x, 2, LEVEL, 1)
    again = twice.step(LEVEL, state, problem, noise).x
    denoised = problem.prior(back, sigma)
    mean = denoised + (after / sigma) ** 2 * (back - denoised)
    moved = again - mean - spread * noise.normal(mean, 1, LEVEL, 1)
    slope = residual_slope(problem, back, sigma)
    cosine = -(moved * slope).sum((1, 2, 3)) / (norm(moved) * norm(slope))
    torch.testing.assert_close(cosine, torch.ones(2).double())


def test_lgd_follows_the_log_of_the_mean_likelihood():
    """mu - (sigma^2 - sigma'^2) grad -log mean_k exp(-L(D + r n_k)), by autograd."""
    solver = LGD(15, draws=3, weight=1e-3, prior_std=0.7)  # so short that no bound takes hold
    problem, x, got, mean, spread, (sigma, after) = a_step(solver)
    noise, radius = SampleNoise(0, (0, 1)), (1 / (1 / sigma**2 + 1 / 0.7**2)) ** 0.5
    x = x.detach().requires_grad_()
    denoised = problem.prior(x, sigma)
    numbers = noise.normal(x.detach()[:, None].expand(-1, 3, *SHAPE), 2, LEVEL)
    each = [problem.misfit(denoised + radius * numbers[:, k]) for k in range(3)]
    value = -torch.stack(each).neg().logsumexp(0)
    slope = torch.autograd.grad(value.sum(), x)[0]
    expected = mean + spread * noise.normal(x, 1, LEVEL) - 1e-3 * (sigma**2 - after**2) * slope
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("solver", "calls"),
    [
        (DMAP(10, steps=2), 19),  # the last level has none after it
        (DMAP(10, steps=3), 28),
        (DSG(10), 10),
        (LGD(10, draws=5), 10),
        (FreeDoM(10, repeats=3, window=(0.0, 1e9)), 30),
        (DPS(20), 20),
    ],
    ids=str,
)
def test_the_cost_is_what_the_docstring_says(solver, calls):
    counts = run(linear_problem(), solver).counts
    assert counts["denoiser_calls"] == counts["denoiser_vjps"] == calls


# ---------------------------------------------------------------- where the slope vanishes


@pytest.mark.parametrize("limits", [(-1.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize(
    "solver",
    [DPS(30), DPS(30, zeta=0.2, scale_free=False), DMAP(15), DSG(30), FreeDoM(15), LGD(30)],
    ids=str,
)
def test_no_slope_is_no_step_and_no_nan(solver, limits):
    """Total variation with limits: at high noise all pixels are clipped, D'(x) = 0."""
    prior = TotalVariationPrior(SHAPE, 2.0, limits, iterations=5)
    problem = InverseProblem(prior, gaussian_real(), Affine(0.5, 1.0, SHAPE))
    for dtype in (torch.float32, torch.float64):
        moved = problem.to(dtype=dtype)
        first = moved.like(1).requires_grad_()
        far = moved.prior(first + 1e3, 100.0)
        assert float(torch.autograd.grad(far.sum(), first)[0].abs().max()) == 0
        assert np.isfinite(run(moved, solver, 2).samples).all()


def test_a_slope_too_small_to_square_is_followed_no_farther_than_allowed():
    """Its square underflows: the quotient must not become infinite."""
    flat = GaussianPrior(
        torch.zeros(SHAPE).double(), DiagonalCovariance(torch.full(SHAPE, 1e-280).double())
    )
    problem = InverseProblem(flat, gaussian_real(), Affine(0.5, 1.0, SHAPE))
    assert np.isfinite(run(problem, DPS(20)).samples).all()


class Shifted(GaussianMisfit):
    """Less a constant, as a log likelihood with its own may be."""

    def _loss(self, predicted):
        value, slope = super()._loss(predicted)
        return value - 1000, slope


@pytest.mark.parametrize(
    "solver", [DPS(9), DPS(9, scale_free=False), DMAP(9), DSG(9), FreeDoM(9), LGD(9)], ids=str
)
def test_a_misfit_below_zero_is_refused(solver):
    """Its square root is what is followed: nothing would be, or far too much."""
    problem = linear_problem()
    problem = replace(problem, misfit=Shifted(problem.misfit.operator, problem.misfit.y, 0.3))
    with pytest.raises(NonFiniteError, match=r"where it is negative.*smallest value is about 0"):
        run(problem, solver)


# ---------------------------------------------------------------- the exact posterior


def white_problem(sigma_y=0.5):
    """Two of four pixels measured, a white prior: mean and variance of the posterior."""
    matrix = torch.eye(4, dtype=torch.float64)[:2]
    prior = GaussianPrior(
        torch.zeros(1, 2, 2).double(), DiagonalCovariance(torch.ones(1, 2, 2).double())
    )
    y = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    misfit = GaussianMisfit(Matrix(matrix, (1, 2, 2)), y, sigma_y)
    problem = InverseProblem(prior, misfit, Affine(1.0, 0.0, (1, 2, 2)))
    return problem, *prior.posterior(matrix, y, sigma_y)


def test_lgd_tends_to_the_posterior_of_a_white_prior():
    problem, mean, covariance = white_problem()
    draws = run(problem, LGD(100, draws=60, longest=3.0), 150).estimates.flatten(1)
    std = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - mean.flatten()) / std).abs().max() < 4.5 / 150**0.5 + 0.1
    torch.testing.assert_close(draws.var(0), std**2, rtol=0.35, atol=0.0)


@pytest.mark.parametrize("solver", [DPS(100), DMAP(50), DSG(100, zeta=0.3)], ids=str)
def test_followers_of_the_residual_find_the_mean_of_seen_pixels_and_lose_their_spread(solver):
    """The bias of their docstrings: they fit the noise. What is not seen follows the prior."""
    problem, mean, covariance = white_problem()
    draws = run(problem, solver, 150).estimates.flatten(1)
    std = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - mean.flatten()) / std).abs()[:2].max() < 1.0
    assert (draws.std(0) / std)[:2].max() < 0.8


@pytest.mark.parametrize("solver", [LGD(100, draws=40, longest=3.0)], ids=str)
def test_modes_of_a_mixture_have_their_weights(solver):
    toy = inpainting()
    shares = component_shares(run(toy.problem, solver, 200).estimates, toy.posterior)
    error = (0.71 * 0.29 / 200) ** 0.5
    assert float(shares[0]) == pytest.approx(float(toy.posterior.weights[0]), abs=4 * error)


def test_maximising_loses_a_mode():
    """Figure 8 of the paper, of DPS; DMAP more so: the lighter mode has too few samples."""
    toy = inpainting()
    light = float(toy.posterior.weights.min())
    for solver in (DPS(100), DMAP(50)):
        found = component_shares(run(toy.problem, solver, 200).estimates, toy.posterior)
        assert float(found.min()) < 0.6 * light


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("solver", "wrong"),
    [
        (DMAP, {"steps": 0}),
        (DMAP, {"zeta": 0.0}),
        (DSG, {"zeta": 1.5}),
        (FreeDoM, {"repeats": 0}),
        (FreeDoM, {"window": (2.0, 1.0)}),
        (LGD, {"draws": 0}),
        (LGD, {"longest": 0.0}),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(solver, wrong):
    with pytest.raises(ValueError, match=f"{solver.__name__} needs"):
        solver(**wrong)


@pytest.mark.parametrize("cls", [DMAP, DSG, FreeDoM, LGD])
def test_cards_reach_every_solver(cls):
    where = f"{cls.__module__}:{cls.__name__}"
    assert build_solver({"method": where, "levels": 9}) == replace(cls(), levels=9)

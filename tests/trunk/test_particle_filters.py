"""FPS-SMC and MCG-diff: exact posteriors, with the bias that each is known for, and refusals."""

from dataclasses import replace

import pytest
import torch
from registries import DenseSVD, dense_svd, inverse_problem

from lmaps_science.cards.methods import build_solver
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.noise import SampleNoise
from lmaps_science.operators import Affine
from lmaps_science.priors import DiagonalCovariance, GaussianPrior
from lmaps_science.sampling import InverseProblem, sample
from lmaps_science.solvers import FPSSMC, MCGDiff
from lmaps_science.solvers.particles import fuse, resample
from lmaps_science.toys import component_shares, inpainting

BOTH = pytest.mark.parametrize("cls", [MCGDiff, FPSSMC], ids=lambda cls: cls.__name__)


class Stream:
    """Noise for many samples at once, from one generator: an image's numbers are nobody's own."""

    def __init__(self, samples, generator):
        self.samples, self.generator = range(samples), generator

    def normal(self, like, *key):
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype)

    def of_particles(self, each):
        return Stream(len(self.samples) * each, self.generator)


def draws(problem, solver, n, seed=0):
    """Estimates of `n` samples, what `sample` gives but for the origin of the random numbers."""
    noise = Stream(n, torch.Generator().manual_seed(seed))
    problem = problem.prepare(solver)
    with torch.no_grad():
        state = solver.init(problem, noise)
        for i in range(solver.levels):
            state = solver.step(i, state, problem, noise)
    return state.estimate


def gaussian_problem(noise, y=(0.9, -0.4)):
    """Four pixels of different widths, two data of all of them, and the exact posterior."""
    matrix = torch.tensor([[1.0, 0.5, -0.5, 0.2], [0.3, -0.8, 0.4, 1.0]], dtype=torch.float64)
    variance = torch.tensor([1.0, 0.5, 0.3, 0.8], dtype=torch.float64).reshape(1, 1, 4)
    mean = torch.tensor([0.2, -0.1, 0.0, 0.3], dtype=torch.float64).reshape(1, 1, 4)
    prior = GaussianPrior(mean, DiagonalCovariance(variance))
    data = torch.tensor([y], dtype=torch.float64)
    misfit = GaussianMisfit(DenseSVD(matrix, (1, 1, 4)), data, noise)
    problem = InverseProblem(prior, misfit, Affine(1.0, 0.0, (1, 1, 4)))
    return problem, *prior.posterior(matrix, data, noise)


def two_modes(noise, y):
    """Modes at (1, 1) and (-1, -1), the first pixel measured; the exact posterior."""
    toy = inpainting(y=y, sigma_y=noise)
    return toy.problem, toy.posterior


def off(found, mean, covariance):
    """Errors of the mean in standard deviations, and of the whitened covariance from I."""
    away = found.flatten(1) - mean.flatten()
    whitened = away @ torch.linalg.cholesky(torch.linalg.inv(covariance))
    spread = torch.cov(whitened.T) - torch.eye(len(covariance))
    return float(whitened.mean(0).abs().max()), float(spread.abs().max())


# ---------------------------------------------------------------- exact posteriors


@pytest.mark.parametrize("noise", [0.5, 0.004])
def test_mcg_diff_tends_to_the_posterior_of_a_gaussian(noise):
    problem, mean, covariance = gaussian_problem(noise)
    errors = off(draws(problem, MCGDiff(200, 32), 1000), mean, covariance)
    assert errors[0] < 4 / 1000**0.5
    assert errors[1] < 0.2  # 0.39 and 0.23 with 50 levels


def test_fps_smc_tends_to_the_posterior_where_there_is_no_noise():
    problem, mean, covariance = gaussian_problem(0.004)
    errors = off(draws(problem, FPSSMC(200, 32), 1000), mean, covariance)
    assert errors[0] < 4 / 1000**0.5
    assert errors[1] < 0.25


def test_fps_smc_counts_noisy_data_several_times():
    problem, _, covariance = gaussian_problem(0.5)
    found = draws(problem, FPSSMC(200, 32), 1000)
    seen = problem.misfit.operator(found).flatten(1)
    matrix = problem.misfit.operator(torch.eye(4).double().reshape(4, 1, 1, 4)).T
    assert float(torch.cov(seen.T).trace() / (matrix @ covariance @ matrix.T).trace()) < 0.6


@pytest.mark.parametrize(("noise", "y"), [(1.0, 0.5), (0.01, 0.02)])
def test_mcg_diff_keeps_the_weights_of_modes(noise, y):
    problem, exact = two_modes(noise, y)
    found = draws(problem, MCGDiff(100, 32), 1000)
    error = component_shares(found, exact) - exact.weights
    assert float(error.abs().max()) < 4 * 0.5 / 1000**0.5
    assert off(found, *exact.moments())[0] < 4 / 1000**0.5


def test_fps_smc_and_the_weights_of_modes():
    """About kept without noise; with noise the heavier mode gets more, as data count again."""
    problem, exact = two_modes(0.01, 0.02)
    shares = component_shares(draws(problem, FPSSMC(100, 32), 1000), exact)
    assert float((shares - exact.weights).abs().max()) < 0.1
    problem, exact = two_modes(1.0, 0.5)
    shares = component_shares(draws(problem, FPSSMC(100, 32), 1000), exact)
    assert float((shares - exact.weights)[0]) > 0.15


def test_one_particle_loses_the_weights_of_modes():
    """There is nothing to weigh: the unseen pixel is the prior's, whatever the datum says."""
    problem, exact = two_modes(0.01, 0.02)
    shares = component_shares(draws(problem, MCGDiff(60, 1), 1000), exact)
    assert float((shares - 0.5).abs().max()) < 0.07 < float((shares - exact.weights).abs().max())


@BOTH
def test_without_data_samples_follow_the_prior(cls):
    problem, _, _ = gaussian_problem(1e6)
    covariance = torch.diag(torch.tensor([1.0, 0.5, 0.3, 0.8]).double())
    errors = off(draws(problem, cls(200, 4), 1000), problem.prior.mean, covariance)
    assert errors[0] < 4 / 1000**0.5
    assert errors[1] < 0.25


# ---------------------------------------------------------------- resampling, products


def test_particles_are_drawn_by_their_weights():
    weights = torch.tensor([[0.1, 0.5, 0.0, 0.4]]).double()
    uniform = torch.linspace(0, 1, 4002, dtype=torch.float64)[1:-1]
    chosen = resample(weights.log().expand(4000, 4), uniform)
    counts = torch.stack([(chosen == k).sum(1) for k in range(4)], 1).double()
    torch.testing.assert_close(counts.mean(0), 4 * weights[0], rtol=0, atol=1e-2)
    assert ((counts - 4 * weights).abs() < 1).all()  # systematic
    first = torch.stack([(chosen[:, 0] == k).double().mean() for k in range(4)])
    torch.testing.assert_close(first, weights[0], rtol=0, atol=1e-3)


def test_a_product_of_normal_distributions():
    move = fuse(
        *(torch.tensor(v).double() for v in ([1.0, 2.0], 2.0, [3.0, 9.0], [1.0, torch.inf]))
    )
    torch.testing.assert_close(move.mean, torch.tensor([1 + 4 / 5 * 2, 2.0]).double())
    torch.testing.assert_close(move.deviation**2, torch.tensor([4 / 5, 4.0]).double())
    torch.testing.assert_close(move.log_weight, torch.tensor([-0.5 * 4 / 5, 0.0]).double())


# ---------------------------------------------------------------- what users meet


@BOTH
def test_calls_are_those_of_all_particles(cls):
    problem, _, _ = gaussian_problem(0.5)
    found = sample(problem, cls(10, 5), 2, progress=False)
    assert found.counts["denoiser_calls"] == 50
    assert len(found.samples) == 2


@BOTH
def test_particles_have_numbers_of_their_own_and_a_sample_its_path(cls):
    problem, _, _ = gaussian_problem(0.5)
    solver = cls(10, 3)
    state = solver.init(problem.prepare(solver), SampleNoise(0, (0, 1)))
    apart = torch.cdist(state.x.flatten(1), state.x.flatten(1))
    assert apart[~torch.eye(6, dtype=bool)].min() > 1e-3
    for path in state.extra.values():
        assert (path[:3] == path[0]).all()
        assert (path[3] != path[0]).any()


@BOTH
def test_what_cannot_be_filtered_is_refused(cls):
    with pytest.raises(ValueError, match="needs particles >= 1, got 0"):
        cls(particles=0)
    with pytest.raises(ValueError, match="levels >= 1"):
        cls(levels=0)
    sigma = torch.linspace(0.1, 0.4, 9, dtype=torch.float64)
    uneven = inverse_problem(GaussianMisfit(dense_svd(), torch.zeros(1, 9).double(), sigma))
    with pytest.raises(ValueError, match=r"one noise level for all data"):
        sample(uneven, cls(5, 2), progress=False)


def test_cards_reach_both():
    assert build_solver({"method": "mcg_diff", "particles": 4}) == MCGDiff(particles=4)
    assert build_solver({"method": "FPS-SMC", "levels": 9}) == replace(FPSSMC(), levels=9)

"""Local MAP with the denoiser's own covariance, against the exact posterior of Gaussian priors."""

import pytest
import torch
from registries import (
    dense_gaussian,
    gaussian_complex_nonlinear,
    gaussian_mixture,
    gaussian_real,
    inverse_problem,
    lmaps_jacobian,
    lmaps_jacobian_exact,
    network,
)
from test_solvers_linear import complex_misfit, real_equations

from lmaps_science.local_map import LBFGS, ConjugateGradient, LocalProblem
from lmaps_science.sampling import sample
from lmaps_science.solvers import LMAPS, ExactSVD, FrequencyHopping
from lmaps_science.solvers.local_jacobian import JacobianProblem, KrylovProblem

SHAPE = (1, 6, 5)


def images(batch=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, *SHAPE), generator=generator, dtype=torch.float64)


def local(kind, prior, misfit, sigma, kappa=1.0, kappa1=0.8, **options):
    m, pull = prior.pullback(images(), sigma)
    kappa2 = kappa * kappa1**2 / misfit.objective_scale
    return kind(m, misfit, sigma, kappa1, kappa2, pull=pull, **options)


@pytest.mark.parametrize("make", [gaussian_real, complex_misfit], ids=lambda make: make.__name__)
@pytest.mark.parametrize("sigma", [0.1, 1.0, 30.0])
def test_linear_problems_get_the_exact_mean_given_noisy_image_and_data(make, sigma):
    """For a Gaussian prior: the precisions of prior, noisy image and data add up."""
    prior, misfit = dense_gaussian(), make()
    problem = local(JacobianProblem, prior, misfit, sigma)
    z = problem.image(ConjugateGradient(200, 1e-13)(problem))
    matrix, b = real_equations(misfit)
    unit = torch.eye(30, dtype=torch.float64)
    known = torch.linalg.inv(prior.covariance.dense())
    right = known @ prior.mean.flatten() + images().flatten(1) / sigma**2 + matrix.T @ b
    expected = torch.linalg.solve(known + unit / sigma**2 + matrix.T @ matrix, right.T).T
    torch.testing.assert_close(z, expected.reshape(z.shape), rtol=1e-6, atol=1e-6)


def test_one_level_from_far_above_is_the_posterior_mean():
    problem = inverse_problem(gaussian_real())
    solver = LMAPS(1, covariance="jacobian", local=ConjugateGradient(200, 1e-13), sigma_max=1e5)
    result = sample(problem, solver, 2, progress=False)
    operator = gaussian_real().operator
    matrix = operator.left @ (operator.singular_values[:, None] * operator.right)
    mean, _ = problem.prior.posterior(matrix, problem.misfit.y, 0.3)
    torch.testing.assert_close(result.estimates, mean.expand(2, *SHAPE), rtol=0, atol=1e-4)
    assert result.counts["denoiser_vjps"] > 1


def dense_problem(prior, misfit, sigma, kappa):
    """The minimiser with the full matrix kappa sigma^2 J, by L-BFGS in its own coordinates."""
    m, pull = prior.pullback(images(), sigma)
    unit = torch.eye(30, dtype=torch.float64).reshape(30, 1, *SHAPE)
    rows = [pull(e.expand(3, *SHAPE)).flatten(1) for e in unit]
    jacobian = torch.stack(rows, 1)
    values, vectors = torch.linalg.eigh(0.5 * (jacobian + jacobian.mT))
    root = (vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.mT

    class Dense(LocalProblem):
        def root(self, x):
            return (root @ x.flatten(1)[:, :, None]).reshape(x.shape)

        def image(self, w):
            return self.denoised + self.root(w - self.denoised)

    problem = Dense(m, misfit, sigma, 0.8, kappa * 0.8**2 / misfit.objective_scale)
    return problem.image(LBFGS(400, tolerance=0)(problem))


@pytest.mark.parametrize("kappa", [1.0, 0.3])
@pytest.mark.parametrize("prior", [dense_gaussian, gaussian_mixture], ids=lambda f: f.__name__)
def test_a_full_subspace_is_exact_also_for_nonlinear_operators(prior, kappa):
    misfit, sigma = gaussian_complex_nonlinear(), 0.5
    problem = local(KrylovProblem, prior(), misfit, sigma, kappa, products=30)
    z = problem.image(LBFGS(400, tolerance=0)(problem))
    torch.testing.assert_close(z, dense_problem(prior(), misfit, sigma, kappa), rtol=0, atol=1e-4)


def test_more_products_come_closer_to_the_exact_solution():
    prior, misfit, sigma = dense_gaussian(), gaussian_real(), 0.5
    exact = local(JacobianProblem, prior, misfit, sigma)
    goal, errors = exact.image(ConjugateGradient(200, 1e-13)(exact)), []
    for products in (1, 4, 30):
        problem = local(KrylovProblem, prior, misfit, sigma, products=products)
        errors.append(float((problem.image(LBFGS(400, tolerance=0)(problem)) - goal).norm()))
    assert errors[2] < 0.02 * errors[0]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("kappa", [1.0, 0.3])
def test_the_objective_is_that_of_the_jacobian(kappa):
    """A population chooses by it; the full subspace has round coordinates, and the same J."""
    prior, misfit, sigma = dense_gaussian(), gaussian_real(), 0.5
    exact = local(JacobianProblem, prior, misfit, sigma, kappa)
    round_ = local(KrylovProblem, prior, misfit, sigma, kappa, products=30)
    values = exact(ConjugateGradient(200, 1e-13)(exact))
    torch.testing.assert_close(values, round_(LBFGS(800, tolerance=0)(round_)), rtol=1e-5, atol=0)


def test_the_subspace_is_orthonormal_and_no_larger_than_it_is():
    """A mixture's Jacobian has few distinct eigenvalues: beyond them there is only rounding."""
    problem = local(
        KrylovProblem, gaussian_mixture(), gaussian_complex_nonlinear(), 1.0, products=12
    )
    basis, change, outside = problem._subspace
    gram = torch.stack([torch.stack([(p * q).flatten(1).sum(1) for p in basis]) for q in basis])
    lengths = gram.diagonal(dim1=0, dim2=1)
    assert ((lengths - 1).abs().minimum(lengths) < 1e-8).all()  # 1, or 0 where nothing is new
    torch.testing.assert_close(gram, torch.diag_embed(lengths).movedim(0, 2), rtol=0, atol=1e-6)
    assert 0 < int(lengths.sum(1).max()) < 12
    assert torch.isfinite(change).all()
    # In all other directions J is s^2 / (s^2 + sigma^2), the smallest of its eigenvalues.
    expected = torch.full((3,), (0.4**2 / (0.4**2 + 1)) ** 0.5, dtype=torch.float64)
    torch.testing.assert_close(outside, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("make", [lmaps_jacobian, lmaps_jacobian_exact], ids=lambda f: f.__name__)
def test_networks_serve_too(make):
    problem = inverse_problem(gaussian_real(), network)
    result = sample(problem, make(), 2, progress=False)
    assert result.misfit[-1].max() < 0.1 * float(problem.misfit(problem.like(1)))
    assert result.counts["denoiser_vjps"] > 12


@pytest.mark.parametrize(
    "wrong", [{"kappa1": 0.0, "kappa2": 1.0}, {"local": ExactSVD()}, {"products": 0}], ids=str
)
def test_what_it_cannot_use_is_refused(wrong):
    with pytest.raises(ValueError, match=r"covariance='jacobian'.* needs kappa1 > 0"):
        LMAPS(covariance="jacobian", **wrong)


def test_frequency_hopping_has_no_use_for_it():
    with pytest.raises(ValueError, match="FrequencyHopping needs"):
        FrequencyHopping(covariance="jacobian")

"""The variational mode-seeking loss and its solver, against closed forms and finite differences."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from registries import (
    DenseSVD,
    dense_gaussian,
    dense_svd,
    gaussian_complex_nonlinear,
    gaussian_mixture,
    gaussian_real,
    inverse_problem,
)

from lmaps_science.arrays import norm
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.noise import SampleNoise
from lmaps_science.operators import Affine, SVDOperator
from lmaps_science.priors import GaussianMixturePrior, from_function
from lmaps_science.sampling import InverseProblem, State, sample
from lmaps_science.solvers import VMLMAP
from lmaps_science.solvers.vml_loss import bracket, vml_loss

SHAPE = (1, 6, 5)
MODEL_SPACE = Affine(0.5, 1.0, SHAPE)


def images(batch=2, seed=1, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, *shape), generator=generator, dtype=torch.float64)


def minimum(loss, x):
    """The minimiser of each image's loss, from `x`."""
    x = x.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [x], max_iter=500, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        total = loss(x).sum()
        total.backward()
        return total

    optimiser.step(closure)
    return x.detach()


class Mask(SVDOperator):
    """Every third pixel is not seen."""

    image_shape, data_shape = SHAPE, (20,)

    def __init__(self):
        self.seen = torch.arange(30) % 3 != 0
        self.singular_values = torch.ones(20, dtype=torch.float64)

    def _Vt(self, x):
        return x.flatten(1)[:, self.seen]

    def _V(self, c):
        return c.new_zeros(len(c), 30).index_copy(1, self.seen.nonzero()[:, 0], c).view(-1, *SHAPE)

    _Ut = _U = lambda self, c: c


def mask_problem(sigma_y, prior=dense_gaussian, operator=None):
    operator = Mask() if operator is None else operator
    generator = torch.Generator().manual_seed(3)
    truth = prior(SHAPE).sample(1, generator)
    noise = torch.randn((1, *operator.data_shape), generator=generator, dtype=torch.float64)
    misfit = GaussianMisfit(operator, operator(truth) + sigma_y * noise, sigma_y)
    return InverseProblem(prior(SHAPE), misfit, MODEL_SPACE)


def matrix_of(operator):
    unit = torch.eye(30, dtype=torch.float64).reshape(30, *SHAPE)
    return operator(unit).T


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("sigma", [0.05, 0.7, 5.0])
@pytest.mark.parametrize("prior", [dense_gaussian, gaussian_mixture], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "misfit", [gaussian_real, gaussian_complex_nonlinear], ids=lambda f: f.__name__
)
def test_the_gradient_is_that_of_the_loss(misfit, prior, sigma):
    prior, misfit, x, step = prior(SHAPE), misfit(), images(), 1e-5
    inside, _, _, pull = bracket(prior, misfit, x, sigma)
    gradient = -pull(inside)
    for seed in range(3):
        direction = images(seed=seed + 10)
        up, down = (
            vml_loss(prior, misfit, x + s * direction, sigma, traces=False) for s in (step, -step)
        )
        expected = (gradient * direction).flatten(1).sum(1)
        torch.testing.assert_close((up - down) / (2 * step), expected, rtol=1e-5, atol=1e-4)


def test_the_loss_is_the_divergence_from_the_posterior():
    """KL(p(x0 | x) || p(x0 | y)) of two Gaussians, in closed form, up to one constant."""
    prior, misfit, sigma = dense_gaussian(), gaussian_real(), 0.6
    matrix = matrix_of(misfit.operator)
    mean, covariance = prior.posterior(matrix, misfit.y, float(misfit.sigma))
    known, unit = prior.covariance.dense(), torch.eye(30, dtype=torch.float64)
    local = sigma**2 * known @ torch.linalg.inv(known + sigma**2 * unit)
    precision = torch.linalg.inv(covariance)

    def divergence(x):
        away = (prior(x, sigma) - mean).flatten(1)
        trace = (precision @ local).trace()
        return 0.5 * ((away @ precision * away).sum(1) + trace - torch.logdet(precision @ local))

    x = images(4)
    difference = vml_loss(prior, misfit, x, sigma) - divergence(x)
    torch.testing.assert_close(difference, difference[:1].expand(4), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("traces", [False, True])
@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
def test_for_a_gaussian_the_denoised_minimiser_is_the_mode_at_every_sigma(sigma, traces):
    prior, misfit = dense_gaussian(), gaussian_real()
    mode, _ = prior.posterior(matrix_of(misfit.operator), misfit.y, float(misfit.sigma))
    best = minimum(lambda x: vml_loss(prior, misfit, x, sigma, traces), prior.mean[None])
    torch.testing.assert_close(prior(best, sigma), mode, rtol=0, atol=1e-4)


def crossed_mixture():
    """Two components, and one datum, the sum of two pixels, that leaves both possible."""
    means = torch.tensor([[[[0.8, -0.4]]], [[[-0.5, 0.6]]]], dtype=torch.float64)
    weights = torch.tensor([0.4, 0.6], dtype=torch.float64)
    scales = torch.tensor([0.35, 0.45], dtype=torch.float64)
    prior = GaussianMixturePrior(weights, means, scales)
    operator = DenseSVD(torch.tensor([[1.0, 1.0]], dtype=torch.float64), (1, 1, 2))
    return prior, GaussianMisfit(operator, torch.tensor([[0.3]], dtype=torch.float64), 0.3)


@pytest.mark.parametrize("traces", [False, True])
def test_for_a_mixture_the_minimiser_tends_to_the_mode(traces):
    prior, misfit = crossed_mixture()
    errors = []
    x = mode = minimum(lambda x: misfit(x) - prior.log_prob(x), prior.means)  # both modes
    for sigma in (0.3, 0.1, 0.03, 0.01):
        start = mode + 0.3 * sigma  # not the answer
        x = minimum(lambda x, s=sigma: vml_loss(prior, misfit, x, s, traces), start)
        errors.append(float(norm(x - mode).max()))
    assert errors[-1] < 1e-3
    assert all(b < 0.25 * a for a, b in pairwise(errors)), errors


def test_the_traces_need_a_linear_operator():
    prior, misfit = dense_gaussian(), gaussian_complex_nonlinear()
    with pytest.raises(ValueError, match="linear"):
        vml_loss(prior, misfit, images(), 1.0)


# ---------------------------------------------------------------- the solver


def level(problem, solver, x, i=0):
    """The denoised image of the last step of a level."""
    prepared = problem.prepare(solver)
    state = State(x=x, estimate=torch.zeros_like(x))
    return solver.step(i, state, prepared, SampleNoise(0, tuple(range(len(x))))).estimate


@pytest.mark.parametrize("sigma_y", [0.01, 0.05, 0.2, 1e-9])
def test_on_masks_the_preconditioner_changes_nothing(sigma_y):
    problem, x = mask_problem(sigma_y), images()
    for sigma in (10.0, 0.3):
        solver = VMLMAP(1, steps=7, preconditioned=False, sigma_max=sigma, sigma_min=0.01)
        plain = level(problem, solver, sigma * x)
        other = level(problem, replace(solver, preconditioned=True), sigma * x)
        torch.testing.assert_close(other, plain, rtol=0, atol=1e-9)


@pytest.mark.parametrize("sigma_y", [0.01, 0.05, 0.2, 1e-9])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_any_noise_and_any_unit_of_the_data_is_stable(sigma_y, preconditioned):
    """One rate serves all: the misfit comes down to the noise, where the data were precise."""
    for unit in (1.0, 100.0):
        problem = mask_problem(sigma_y * unit, operator=unit_mask(unit))
        solver = VMLMAP(10, steps=30, preconditioned=preconditioned, sigma_max=10.0, sigma_min=0.03)
        result = sample(problem, solver, 4, progress=False)
        residual = problem.misfit.operator(result.estimates) - problem.misfit.y
        rms = float(residual.square().mean().sqrt()) / unit
        assert rms < 0.05 + 1.5 * sigma_y
        if sigma_y < 0.1:
            assert rms < 1e-3 + 1.5 * sigma_y


def unit_mask(unit):
    mask = Mask()
    return DenseSVD(unit * matrix_of(mask), SHAPE)


def ill_conditioned(sigma_y):
    generator = torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64))[0]
    weights = torch.logspace(0, -2, 12, dtype=torch.float64)
    operator = DenseSVD(weights[:, None] * basis[:12], SHAPE)
    return mask_problem(sigma_y, operator=operator)


def test_the_preconditioner_reaches_what_the_data_see_weakly():
    """Singular values over two decades: plain steps have hardly begun where it has arrived."""
    problem, x = ill_conditioned(1e-3), images()
    misfit = problem.misfit
    mode, _ = problem.prior.posterior(matrix_of(misfit.operator), misfit.y, 1e-3)
    errors = {}
    for preconditioned in (False, True):
        solver = VMLMAP(1, 200, 1.0, preconditioned, sigma_max=1.0, sigma_min=0.5)
        away = misfit.operator.Vt(level(problem, solver, x) - mode)
        errors[preconditioned] = float(norm(away).max())
    assert errors[True] < 0.2 * errors[False]


def test_it_is_preconditioned_where_that_can_be():
    problem, x = ill_conditioned(1e-3), images()
    solver = VMLMAP(1, steps=5, sigma_max=1.0, sigma_min=0.5)
    chosen = level(problem, solver, x)
    torch.testing.assert_close(chosen, level(problem, replace(solver, preconditioned=True), x))
    plain = replace(solver, preconditioned=False)
    assert not torch.allclose(chosen, level(problem, plain, x))
    # Other data than of one noise level, and operators without singular vectors
    misfit = problem.misfit
    sigma = torch.linspace(1e-3, 2e-3, 12, dtype=torch.float64)
    uneven = replace(problem, misfit=GaussianMisfit(misfit.operator, misfit.y, sigma))
    torch.testing.assert_close(level(uneven, solver, x), level(uneven, plain, x))
    other = inverse_problem(gaussian_complex_nonlinear())
    torch.testing.assert_close(level(other, solver, x), level(other, plain, x))


@pytest.mark.parametrize("sigma_y", [0.05, 0.2])
def test_the_solver_ends_at_the_mode(sigma_y):
    problem = mask_problem(sigma_y)
    misfit = problem.misfit
    mode, _ = problem.prior.posterior(matrix_of(misfit.operator), misfit.y, sigma_y)
    solver = VMLMAP(12, steps=400, rate=1.9, sigma_max=10.0, sigma_min=0.3)
    result = sample(problem, solver, 3, progress=False)
    np.testing.assert_allclose(result.estimates, mode.expand(3, *SHAPE), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("sigma_y", "reached"),
    [(0.2, (0, 0.02)), (0.05, (0, 0.2)), (0.01, (0.4, 0.8)), (1e-9, (0.4, 0.9))],
)
def test_how_far_from_the_mode_the_papers_steps_end(sigma_y, reached):
    """In units of the posterior's spread: the more precise the data, the slower what they miss."""
    problem = mask_problem(sigma_y)
    misfit = problem.misfit
    mode, covariance = problem.prior.posterior(matrix_of(misfit.operator), misfit.y, sigma_y)
    result = sample(problem, VMLMAP(20, steps=50, sigma_max=10.0), 3, progress=False)
    away = (result.estimates - mode).square().mean() / covariance.diagonal().mean()
    assert reached[0] <= float(away.sqrt()) <= reached[1]


def test_the_solver_ends_at_modes_of_a_mixture():
    prior, misfit = crossed_mixture()
    modes = minimum(lambda x: misfit(x) - prior.log_prob(x), prior.means).flatten(1)
    problem = InverseProblem(prior, misfit, Affine(1.0, 0.0, (1, 1, 2)))
    found = sample(problem, VMLMAP(sigma_max=10.0), 20, progress=False).estimates.flatten(1)
    away = (found[:, None] - modes).norm(dim=2)
    assert float(away.amin(1).max()) < 0.06  # their components spread by 0.35 and 0.45
    assert set(away.argmin(1).tolist()) == {0, 1}


def test_nonlinear_operators_descend_at_every_level():
    """Their curvature is measured; the paper's loss of the nonlinear operator comes down."""
    prior, misfit = gaussian_mixture(), gaussian_complex_nonlinear()
    seen = []

    def remembering(x, sigma):
        seen.append(x.detach())
        return prior(x, sigma.flatten())

    problem = inverse_problem(misfit, lambda shape: from_function(remembering, shape))
    for sigma in (0.1, 1.0, 10.0):
        seen.clear()
        solver = VMLMAP(1, 100, sigma_max=sigma, sigma_min=0.01)
        level(problem, solver, sigma * images(4))
        values = torch.stack([vml_loss(prior, misfit, x, sigma, traces=False) for x in seen])
        assert (values[-1] < values[0]).all()
        if sigma != 1.0:  # there x lies between modes, J exceeds 1, and first steps may be too long
            assert (values[1:] < values[:-1]).all()


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"rate": 2.0}, {"rate": 0.0}, {"levels": 0}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="needs"):
        VMLMAP(**wrong)


def test_a_step_costs_one_call_and_one_product():
    problem = inverse_problem(GaussianMisfit(dense_svd(), gaussian_real().y, 0.3))
    counts = sample(problem, VMLMAP(3, steps=5), progress=False).counts
    assert counts["denoiser_calls"] == 3 * 6
    assert counts["denoiser_vjps"] == 3 * 5

"""SITCOM, DCDP, ReSample, DMPlug and MAP-GA: their equations, their ends, their known biases."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from registries import (
    MISFITS,
    DenseSVD,
    a_positive_image,
    dense_gaussian,
    dense_svd,
    gaussian_complex_nonlinear,
    gaussian_real,
    inverse_problem,
    linear_problem,
)

from lmaps_science.arrays import norm
from lmaps_science.cards.methods import build_solver
from lmaps_science.local_map import (
    LBFGS,
    Adam,
    BarzilaiBorwein,
    ConjugateGradient,
    GradientSolver,
    GradientSteps,
)
from lmaps_science.misfit import GaussianMisfit, Misfit
from lmaps_science.noise import VP, Constant, SampleNoise
from lmaps_science.operators import Affine
from lmaps_science.priors import DenseCovariance, DiagonalCovariance, GaussianPrior
from lmaps_science.sampling import InverseProblem, State, sample
from lmaps_science.solvers import DCDP, MAPGA, SITCOM, DMPlug, ReSample
from lmaps_science.solvers.consistency import fit
from lmaps_science.solvers.guidance import flow, flow_grid, through
from lmaps_science.toys import Matrix, between_modes, component_shares, inpainting

SHAPE = (1, 6, 5)
NOISE = SampleNoise(0, (0, 1))
FITTING = [SITCOM(), DCDP(), ReSample(), DMPlug()]
ALL = [*FITTING, MAPGA(sigma_max=10.0)]


def run(problem, solver, n=2, seed=0):
    return sample(problem, solver, n, seed, progress=False)


def images(batch=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, *SHAPE), generator=generator, dtype=torch.float64)


def matrix_of(operator):
    unit = torch.eye(30, dtype=torch.float64).reshape(30, *SHAPE)
    return operator(unit).T


def a_step(solver, problem, x, i):
    with torch.no_grad():
        state = State(x=x, estimate=torch.zeros_like(x), extra=solver.init(problem, NOISE).extra)
        return solver.step(i, state, problem.prepare(solver), NOISE)


def differences(function, x, size=1e-5):
    """The gradient by x of a function (B, ...) -> (B,), by central differences."""
    slope = torch.zeros_like(x)
    for k in range(x[0].numel()):
        step = torch.zeros_like(x[0]).flatten()
        step[k] = size
        step = step.reshape(x[0].shape)
        slope.flatten(1)[:, k] = (function(x + step) - function(x - step)) / (2 * size)
    return slope


# ---------------------------------------------------------------- when to stop


@pytest.mark.parametrize("make", MISFITS, ids=lambda make: make.__name__)
def test_the_noise_floor_is_the_mean_misfit_of_the_truth(make):
    misfit = make()
    truth = a_positive_image(misfit.operator.image_shape).double()
    truth = truth.expand(misfit.observations, *truth.shape[1:])
    generator = torch.Generator().manual_seed(3)
    draws = []
    for _ in range(200):
        data = misfit.simulate(truth, generator)
        draws.append(misfit.with_data(data)(truth))
    losses = torch.stack(draws)
    floor = misfit.noise_floor()
    assert floor.shape in ((1,), (misfit.observations,))
    error = losses.std(0) / 200**0.5
    assert ((losses.mean(0) - floor).abs() < 4.5 * error + 1e-3 * floor).all()


def test_unsampled_data_do_not_count():
    matrix = torch.eye(30, dtype=torch.float64)
    matrix[::3] = 0
    y = torch.zeros(1, 30, dtype=torch.float64)
    assert GaussianMisfit(Matrix(matrix, SHAPE), y, 0.3).noise_floor().tolist() == [10.0]


@pytest.mark.parametrize(
    "local", [Adam(5), BarzilaiBorwein(5), LBFGS(5), GradientSteps(5)], ids=str
)
def test_a_descent_shows_what_is_not_finite_and_stays_where_nothing_is_left(local):
    """The latter in images so large that the first step of a slope of 0 would overflow."""
    start = torch.zeros(2, 1, 500, 400)

    def broken(x):
        return torch.full_like(x, torch.nan), x.flatten(1).sum(1)

    def flat(x):
        return torch.zeros_like(x), torch.zeros(len(x))

    assert local.minimise(broken, start).isnan().all()
    assert torch.equal(local.minimise(flat, start), start)


@pytest.mark.parametrize(
    "local", [GradientSteps(1500, 5e-3), Adam(1500, 3e-3), BarzilaiBorwein(60), LBFGS(60)], ids=str
)
def test_a_descent_stops_at_its_goal_and_not_before(local):
    """Short steps end just below it, long ones below; the path to it stays above."""
    misfit, seen = gaussian_real(), []

    class Watched(type(local)):
        def minimise(self, gradient, start):
            def watched(u):
                slope, value = gradient(u)
                seen.append((misfit(u), norm(slope)))
                return slope, value

            return super().minimise(watched, start)

    watched = Watched(**vars(local))
    goal = torch.tensor([4.5, 9.0], dtype=torch.float64)
    found = fit(misfit, watched, images(), goal)
    assert (misfit(found) <= goal).all()
    if isinstance(local, (GradientSteps, Adam)):
        assert (misfit(found) > 0.8 * goal).all()
    for loss, slope in seen:
        assert ((slope > 0) == (loss > goal)).all()


@pytest.mark.parametrize(
    "local", [GradientSteps(20, 2e-3), Adam(20), BarzilaiBorwein(20), LBFGS(20)], ids=str
)
def test_who_has_arrived_stays_whatever_the_others_do(local):
    misfit, x = gaussian_real(), images(3)
    goal = misfit(x) + torch.tensor([1.0, -1e3, 1.0], dtype=torch.float64)
    found = fit(misfit, local, x, goal)
    assert torch.equal(found[[0, 2]], x[[0, 2]])
    assert float(norm(found[1:2] - x[1:2])) > 0.01
    alone = fit(misfit, local, x[1:2], goal[1:2])
    torch.testing.assert_close(found[1:2], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", FITTING, ids=lambda solver: type(solver).__name__)
def test_solvers_end_where_the_noise_explains_the_rest(solver):
    """Without asking for the truth; 0 never stops."""
    problem = linear_problem()
    floor = float(problem.misfit.noise_floor())
    ends = {}
    for discrepancy in (0.0, 1.0):
        result = run(problem, replace(solver, discrepancy=discrepancy), 6)
        ends[discrepancy] = result.misfit[-1]
    assert (ends[1.0] <= floor * (1 + 1e-9)).all()
    assert ends[0.0].mean() < 0.3 * ends[1.0].mean()


@pytest.mark.parametrize("solver", [SITCOM(8), DCDP(8), DMPlug(8)], ids=str)
def test_states_tell_who_has_got_there(solver):
    problem, told = linear_problem(), []
    name = "stopped" if isinstance(solver, DMPlug) else "explained"
    floor = problem.misfit.noise_floor()

    def look(i, state):
        told.append(bool((state.extra[name] == (problem.misfit(state.estimate) <= floor)).all()))

    sample(problem, solver, 3, progress=False, callback=look)
    assert len(told) == 8
    assert all(told)


def test_a_misfit_without_stated_noise_is_refused_unless_nothing_stops_there():
    class Silent(GaussianMisfit):
        noise_floor = Misfit.noise_floor

    problem = inverse_problem(Silent(dense_svd(), gaussian_real().y, 0.3))
    for solver in FITTING:
        with pytest.raises(ValueError, match=f"{type(solver).__name__} needs .* of stated noise"):
            run(problem, solver)
    for solver in (SITCOM(3, discrepancy=0.0), DMPlug(3, stop="variance"), MAPGA(3)):
        assert np.isfinite(run(problem, solver).samples).all()
    with pytest.raises(NotImplementedError, match=r"Silent must define noise_floor\(\)"):
        problem.misfit.noise_floor()


# ---------------------------------------------------------------- the equations


@pytest.mark.parametrize(
    "make", [gaussian_real, gaussian_complex_nonlinear], ids=lambda make: make.__name__
)
@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradient_through_a_chain_is_that_of_finite_differences(make, steps):
    misfit, prior = make(), dense_gaussian()
    chain = DMPlug(steps=steps).chain
    x = 3 * images()

    def end(x):
        return flow(prior, x, chain)

    z, slope, loss = through(misfit, end, x)
    torch.testing.assert_close(z, end(x))
    torch.testing.assert_close(loss, misfit(end(x)))
    expected = differences(lambda x: misfit(end(x)), x, 1e-3)
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ode_steps", [1, 3])
def test_map_ga_climbs_the_posterior_at_the_end_of_the_flow(ode_steps):
    """Its step against differences of -log p_tau(F(x)) + L(F(x)), whose density is known here."""
    problem, tau, rate, sigma = linear_problem(), 0.3, 1e-3, 2.0
    local = GradientSteps(1, rate)
    solver = MAPGA(1, ode_steps, local, tau, sigma_max=sigma, sigma_min=0.1)
    x, alpha = 2 * images(), (1 + sigma**2) ** -0.5
    grid, unit = flow_grid(sigma, ode_steps), problem.misfit.objective_scale

    def loss(u):
        z = flow(problem.prior, u / alpha, grid)
        return unit * (problem.misfit(z) - problem.prior.log_prob(z, tau))

    expected = alpha * x - rate * differences(loss, alpha * x)
    got = a_step(solver, problem, x, 0).estimate
    torch.testing.assert_close(got, flow(problem.prior, expected / alpha, grid), atol=1e-8, rtol=0)


@pytest.mark.parametrize("proximity", [0.0, 0.3])
def test_the_sitcom_step_is_the_papers(proximity):
    """Adam from the noisy image on the squared residual of the denoised one; full renoising."""
    problem = linear_problem()
    solver = SITCOM(10, Adam(7, 0.02), proximity, discrepancy=0.0)
    sigma, after = (float(s) for s in VP(10).sigmas[6:8])
    x, alpha = sigma * images(), (1 + sigma**2) ** -0.5
    got = a_step(solver, problem, x, 6)
    u = (alpha * x).clone().requires_grad_()
    adam = torch.optim.Adam([u], lr=0.02)
    for _ in range(7):
        residual = problem.misfit.y - problem.misfit.operator(problem.prior(u / alpha, sigma))
        away = (u - alpha * x).square().sum()
        adam.zero_grad()
        (0.5 * residual.square().sum() + 0.5 * proximity * away).backward()
        adam.step()
    denoised = problem.prior(u.detach() / alpha, sigma)
    torch.testing.assert_close(got.estimate, denoised, rtol=0, atol=1e-6)
    torch.testing.assert_close(got.x - got.estimate, after * NOISE.normal(x, 1, 6))


def test_a_dcdp_round_purifies_fits_and_adds_noise():
    problem = linear_problem()
    solver = DCDP(6, ode_steps=3, local=GradientSteps(5, 0.01), discrepancy=0.0)
    sigma, after = (float(s) for s in solver.sigmas[2:4])
    x = sigma * images()
    got = a_step(solver, problem, x, 2)
    z = flow(problem.prior, x, flow_grid(sigma, 3))
    for _ in range(5):
        z = z - 0.01 * problem.misfit.objective_scale * problem.misfit.gradient(z)[0]
    torch.testing.assert_close(got.estimate, z)
    torch.testing.assert_close(got.x - z, after * NOISE.normal(x, 1, 2))


def test_resampling_has_the_papers_mean_and_variance():
    """Proposition 1, on the variance-preserving scale; DDIM between the optimised levels."""
    problem = linear_problem()
    solver = ReSample(10, every=3, gamma=0.7, local=GradientSteps(5, 0.01), discrepancy=0.0)
    for i in range(9):
        sigma, after = (float(s) for s in VP(10).sigmas[i : i + 2])
        x = sigma * images()
        got = a_step(solver, problem, x, i)
        denoised = problem.prior(x, sigma)
        ddim = denoised + after * (x - denoised) / sigma
        if i % 3:
            torch.testing.assert_close(got.x, ddim)
            continue
        before, abar = 1 / (1 + sigma**2), 1 / (1 + after**2)
        variance = 0.7 * (1 - abar) / before * (1 - before / abar)
        total = variance + 1 - abar
        z = got.estimate
        mean = (variance * abar**0.5 * z + (1 - abar) * abar**0.5 * ddim) / total
        spread = (variance * (1 - abar) / total) ** 0.5
        drawn = mean + spread * NOISE.normal(x, 1, i)
        torch.testing.assert_close(abar**0.5 * got.x, drawn)
        assert (problem.misfit(z) < problem.misfit(denoised)).all()


def test_seeds_move_only_where_the_data_see_them():
    """A Gaussian prior: the chain is affine, its null space with the operator keeps the seed."""
    problem, solver = linear_problem(), DMPlug(3)
    state = solver.init(problem, NOISE)
    after = a_step(solver, problem, state.x, 0)
    zero = flow(problem.prior, torch.zeros(1, *SHAPE).double(), solver.chain)
    unit = 100 * torch.eye(30, dtype=torch.float64).reshape(30, *SHAPE)
    chain = (flow(problem.prior, unit, solver.chain) - zero).flatten(1).T / 100
    seen = matrix_of(problem.misfit.operator) @ chain
    moved = (after.x - state.x).flatten(1)
    assert norm(moved).min() > 1
    projected = moved @ torch.linalg.pinv(seen) @ seen
    assert norm(moved - projected).max() < 1e-6 * norm(moved).max()
    torch.testing.assert_close(after.estimate, flow(problem.prior, after.x, solver.chain))


def test_the_chain_is_ddims():
    assert DMPlug(steps=3).chain[-1] == 0
    times = [1.0, 0.667, 0.334]
    expected = [np.expm1(9.95 * t**2 + 0.1 * t) ** 0.5 for t in times]
    np.testing.assert_allclose(DMPlug(steps=3).chain[:3], expected, rtol=1e-6)
    assert len(DMPlug(steps=1).chain) == 2


def test_the_flow_converges_to_the_probability_flow():
    """x0 = m + C^1/2 (C + sigma^2)^-1/2 (x - m) for a Gaussian; the error falls as 1 / steps."""
    variance = torch.linspace(0.1, 2, 30, dtype=torch.float64).reshape(SHAPE)
    prior = GaussianPrior(torch.zeros(SHAPE).double(), DiagonalCovariance(variance))
    x, sigma, errors = 2 * images(), 2.0, []
    exact = x * (variance / (variance + sigma**2)).sqrt()
    for steps in (200, 400):
        sigmas = [*np.linspace(sigma, 0, steps + 1)]
        errors.append(float(norm(flow(prior, x, sigmas) - exact).max()))
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.1)
    torch.testing.assert_close(flow(prior, x, flow_grid(sigma, 1)), prior(x, sigma))


def test_adam_is_torchs():
    misfit, x = gaussian_real(), images()
    solver = Adam(30, 0.05, (0.8, 0.9))
    z = x.clone().requires_grad_()
    adam = torch.optim.Adam([z], lr=0.05, betas=(0.8, 0.9))
    for _ in range(30):
        adam.zero_grad()
        misfit(z).sum().backward()
        adam.step()
    torch.testing.assert_close(solver.minimise(misfit.gradient, x), z.detach(), rtol=0, atol=1e-6)


# ---------------------------------------------------------------- the moving variance


def test_the_image_of_least_moving_variance_is_kept():
    """Images that settle and then wander off again."""
    solver = DMPlug(12, stop="variance", window=3, patience=2)
    state = solver.init(linear_problem(), NOISE)
    jumps = torch.tensor([8.0, 4, 2, 1, 0.5, 0.25, 1, 2, 4, 8, 16, 32], dtype=torch.float64)
    path = jumps.cumsum(0)
    ends = []
    for i in range(12):
        found = path[i] * torch.ones_like(state.estimate)
        state = solver._watched(i, state, state.x, found)
        ends.append(bool(state.extra["stopped"].all()))
    # Of three images running, those up to number 5 are closest: 0.5 and 0.25 apart.
    assert float(state.estimate.mean()) == float(path[5])
    assert ends == [False] * 7 + [True] * 5


def test_who_has_stopped_by_variance_is_left_alone():
    problem = linear_problem()
    solver = DMPlug(40, stop="variance", window=2, patience=1)
    stopped, seen = [], []

    def look(i, state):
        stopped.append(state.extra["stopped"].clone())
        seen.append((state.x, state.estimate))

    counts = sample(problem, solver, 3, progress=False, callback=look).counts
    assert stopped[-1].all()
    first = [int(torch.stack(stopped)[:, k].nonzero()[0]) for k in range(3)]
    for k, start in enumerate(first):
        for x, estimate in seen[start:]:
            assert torch.equal(x[k], seen[start][0][k])
            assert torch.equal(estimate[k], seen[start][1][k])
    rounds = max(first) + 1
    assert rounds < 40
    assert counts["denoiser_calls"] <= rounds * 3 * (10 + 1)  # and none thereafter


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize("ode_steps", [1, 3])
@pytest.mark.parametrize("tau", [0.05, 0.3])
def test_map_ga_ends_at_the_mode_of_the_smoothed_prior(ode_steps, tau):
    problem = linear_problem()
    covariance = problem.prior.covariance.dense() + tau**2 * torch.eye(30, dtype=torch.float64)
    smooth = GaussianPrior(problem.prior.mean, DenseCovariance(covariance, SHAPE))
    misfit = problem.misfit
    mode, _ = smooth.posterior(matrix_of(misfit.operator), misfit.y, 0.3)
    solver = MAPGA(10, ode_steps, BarzilaiBorwein(80), tau, sigma_max=5.0)
    found = run(problem, solver, 3).estimates
    torch.testing.assert_close(found, mode.expand(3, *SHAPE), rtol=0, atol=5e-3)


def test_map_ga_ends_at_modes_of_a_mixture():
    toy = inpainting()
    found = run(toy.problem, MAPGA(30, local=BarzilaiBorwein(30), sigma_max=10.0), 60).estimates
    nearest = toy.posterior.distance(found).amin(1)
    assert nearest.max() < 0.05  # squared, in units of a component's spread
    assert component_shares(found, toy.posterior).min() > 0.1


def white_problem(sigma_y=0.5):
    """Two of four pixels measured, a white prior: mean and variance of the posterior."""
    matrix = torch.eye(4, dtype=torch.float64)[:2]
    shape = (1, 2, 2)
    prior = GaussianPrior(
        torch.zeros(shape).double(), DiagonalCovariance(torch.ones(shape).double())
    )
    y = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    misfit = GaussianMisfit(Matrix(matrix, shape), y, sigma_y)
    problem = InverseProblem(prior, misfit, Affine(1.0, 0.0, shape))
    return problem, *prior.posterior(matrix, y, sigma_y)


@pytest.mark.parametrize("solver", ALL, ids=lambda solver: type(solver).__name__)
def test_optimisers_lose_spread(solver):
    """The bias of their docstrings, beside means that are right to a deviation."""
    problem, mean, covariance = white_problem()
    draws = run(problem, solver, 200).estimates.flatten(1)
    std = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - mean.flatten()) / std).abs().max() < 1.0
    assert (draws.std(0) / std).mean() < 0.85


@pytest.mark.parametrize(
    ("solver", "between", "light"),
    [
        (SITCOM(), (0.0, 0.05), (0.0, 0.05)),
        (DCDP(), (0.0, 0.25), (0.0, 0.25)),
        (ReSample(), (0.0, 0.1), (0.0, 0.4)),
        (DMPlug(), (0.25, 0.65), (0.05, 0.5)),  # its short chain cannot tell the modes apart
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_becomes_of_two_modes(solver, between, light):
    """Shares of samples between them, and at the lighter one, which fits the data less well.

    It has a weight of 0.29, and explains the datum a little worse than noise does on average:
    who asks for the latter at every level leaves it.
    """
    toy = inpainting()
    found = run(toy.problem, solver, 100).estimates
    share = float(between_modes(found, toy.posterior).double().mean())
    assert between[0] <= share <= between[1]
    assert light[0] <= float(component_shares(found, toy.posterior).min()) <= light[1]


# ---------------------------------------------------------------- scale, cost, options


@pytest.mark.parametrize("solver", ALL, ids=lambda solver: type(solver).__name__)
def test_defaults_need_no_unit(solver):
    """The data in another unit: the same samples."""
    operator, y = dense_svd(), torch.ones(1, 9, dtype=torch.float64)
    tall = DenseSVD(1e4 * matrix_of(operator), SHAPE)
    plain = run(inverse_problem(GaussianMisfit(operator, y, 0.3)), solver)
    scaled = run(inverse_problem(GaussianMisfit(tall, 1e4 * y, 3e3)), solver)
    np.testing.assert_allclose(plain.samples, scaled.samples, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("solver", "calls", "vjps"),
    [
        (SITCOM(6, Adam(5), discrepancy=0.0), 6 * 6, 6 * 5),
        (DCDP(6, ode_steps=4), 24, 0),
        (ReSample(10), 10, 0),
        (DMPlug(6, 3, Adam(5), discrepancy=0.0), 6 * 3 * 6, 6 * 3 * 5),
        (MAPGA(6, 2, BarzilaiBorwein(5)), 6 * (2 * 6 + 5), 6 * 2 * 5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_cost_is_what_the_docstring_says(solver, calls, vjps):
    counts = run(linear_problem(), solver).counts
    assert (counts["denoiser_calls"], counts["denoiser_vjps"]) == (calls, vjps)


@pytest.mark.parametrize(
    ("solver", "wrong"),
    [
        (SITCOM, {"discrepancy": -1.0}),
        (SITCOM, {"proximity": -1.0}),
        (SITCOM, {"local": ConjugateGradient()}),
        (SITCOM, {"levels": 0}),
        (DCDP, {"ode_steps": 0}),
        (DCDP, {"discrepancy": float("nan")}),
        (ReSample, {"every": 0}),
        (ReSample, {"gamma": 0.0}),
        (DMPlug, {"stop": "never"}),
        (DMPlug, {"steps": 0}),
        (DMPlug, {"window": 1}),
        (DMPlug, {"levels": 0}),
        (MAPGA, {"smoothing": 0.0}),
        (MAPGA, {"local": LBFGS()}),
        (MAPGA, {"local": ConjugateGradient()}),
        (Adam, {"steps": 0}),
        (Adam, {"betas": (0.9, 1.0)}),
        (Constant, {"levels": 3, "sigma": 0.0}),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(solver, wrong):
    with pytest.raises(ValueError, match="needs"):
        solver(**wrong)


@pytest.mark.parametrize("cls", [SITCOM, DCDP, ReSample, DMPlug, MAPGA])
def test_cards_reach_every_solver(cls):
    where = f"{cls.__module__}:{cls.__name__}"
    local = {"method": "gradient_steps", "steps": 7}
    built = build_solver({"method": where, "levels": 9, "local": local})
    assert built == replace(cls(), levels=9, local=GradientSteps(7))
    with pytest.raises(ValueError, match="there is no 'conjugate_gradient'"):
        build_solver({"method": where, "local": "conjugate_gradient"})
    assert isinstance(built.local, GradientSolver)


def test_the_history_of_rounds_at_one_noise_level_is_drawn_by_round():
    from matplotlib.figure import Figure

    from lmaps_science.plots import history

    axis = Figure().subplots()
    result = run(linear_problem(), DMPlug(6, discrepancy=0.0, local=LBFGS(3)))
    history(axis, result.to_xarray(), 0)
    assert axis.get_xlabel() == "round"
    assert axis.lines[-1].get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
    history(axis := Figure().subplots(), run(linear_problem(), DCDP(6)).to_xarray(), 0)
    assert axis.get_xlabel() == "noise level σ"

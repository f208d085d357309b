import pickle
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import xarray as xr
from registries import (
    closure_problem,
    dense_gaussian,
    dense_svd,
    gaussian_complex_nonlinear,
    gaussian_real,
    inverse_problem,
    linear_problem,
    lmaps,
    lmaps_conjugate_gradient,
    red_diff,
)

from lmaps_science.io import DataError, read_netcdf
from lmaps_science.local_map import LBFGS, BarzilaiBorwein, ConjugateGradient, GradientSteps
from lmaps_science.metering import Meter
from lmaps_science.misfit import GaussianMisfit, Misfit
from lmaps_science.operators import Affine, LinearOperator, Operator
from lmaps_science.priors import (
    DiagonalCovariance,
    GaussianPrior,
    StationaryCovariance,
    from_function,
)
from lmaps_science.sampling import InverseProblem, NonFiniteError, State, sample
from lmaps_science.sampling.progress import Progress, duration
from lmaps_science.solvers import DAPS, DDRM, DPS, LMAPS, Metropolis

SHAPE = (1, 6, 5)


def run(problem, solver, n=1, seed=0, **options):
    return sample(problem, solver, n, seed, progress=False, **options)


class Interrupted(Exception):
    pass


def interrupt_at(level):
    def callback(i, state):
        if i == level:
            raise Interrupted

    return callback


# ---------------------------------------------------------------- theory: Gaussian prior and data


class NoNoise:
    """Stands for the expectation: every draw is zero."""

    def __init__(self, batch: int):
        self.samples = tuple(range(batch))

    def normal(self, like, *key):
        return torch.zeros_like(like)


@dataclass(frozen=True)
class ExactCovariance:
    """Local MAP with Sigma = s^2 sigma^2 / (s^2 + sigma^2) I: exact for the prior N(mu, s^2 I)."""

    scale: float
    requires = ConjugateGradient.requires

    def __call__(self, problem):
        s2, unit = self.scale**2, problem.misfit.objective_scale
        kappa2 = s2 / (s2 + problem.sigma**2) / unit
        return ConjugateGradient(100, 1e-13)(replace(problem, kappa1=1.0, kappa2=kappa2))


def push_forward(problem, solver):
    """Mean (d,) and covariance (d, d) of the result, of which the start is an affine function."""
    d = problem.like(1).numel()
    start = torch.cat([torch.zeros(1, d), torch.eye(d)]).double().reshape(-1, *SHAPE)
    noise = NoNoise(d + 1)
    state = State(x=float(solver.sigmas[0]) * start, estimate=start)
    for i in range(solver.levels):
        state = solver.step(i, state, problem, noise)
    result = state.estimate.flatten(1)
    linear = result[1:] - result[0]
    return result[0], linear.T @ linear


def isotropic_problem(scale=0.6, noise=0.5):
    operator = dense_svd()
    mean = torch.linspace(-1, 1, 30, dtype=torch.float64).reshape(SHAPE)
    prior = GaussianPrior(mean, DiagonalCovariance(torch.full_like(mean, scale**2)))
    y = operator(torch.ones(1, *SHAPE, dtype=torch.float64))
    return InverseProblem(prior, GaussianMisfit(operator, y, noise), Affine(0.5, 1.0, SHAPE))


def exact_posterior(problem):
    operator = problem.misfit.operator
    matrix = operator.left @ (operator.singular_values[:, None] * operator.right)
    mean, covariance = problem.prior.posterior(
        matrix, problem.misfit.y, float(problem.misfit.sigma)
    )
    return mean[0].flatten(), covariance


def off(a, b):
    return float((a - b).norm() / b.norm())


def test_deterministic_lmaps_with_the_exact_covariance_samples_the_posterior():
    """Local MAP = E[x0 | x, y] then, and the transition is a step of the posterior's flow."""
    problem = isotropic_problem()
    mean, covariance = exact_posterior(problem)
    errors = []
    for levels in (50, 100, 200):
        solver = LMAPS(levels, rho=0.0, local=ExactCovariance(0.6), sigma_max=300, sigma_min=1e-3)
        got_mean, got_covariance = push_forward(problem, solver)
        assert off(got_mean, mean) < 0.6 / 300  # what is left of the start's wrong mean
        errors.append(off(got_covariance, covariance))
    assert errors[-1] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)  # Euler: first order
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("rho", [0.5, 1.0])
def test_lmaps_with_fresh_noise_has_the_posterior_mean(rho):
    problem = isotropic_problem()
    solver = LMAPS(30, rho=rho, local=ExactCovariance(0.6), sigma_max=300, sigma_min=1e-2)
    assert off(push_forward(problem, solver)[0], exact_posterior(problem)[0]) < 1e-4


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_lmaps_with_the_covariance_of_a_correlated_prior_has_the_exact_posterior_mean(rho):
    operator = dense_svd()
    y = operator(torch.ones(1, *SHAPE, dtype=torch.float64))
    problem = inverse_problem(GaussianMisfit(operator, y, 0.5))
    local = ConjugateGradient(100, 1e-13)
    solver = LMAPS(40, rho=rho, local=local, sigma_max=300, sigma_min=1e-3, covariance="prior")
    assert off(push_forward(problem, solver)[0], exact_posterior(problem)[0]) < 1e-3


def test_lmaps_with_an_isotropic_covariance_finds_the_map_of_a_correlated_prior():
    operator = dense_svd()
    y = operator(torch.ones(1, *SHAPE, dtype=torch.float64))
    problem = inverse_problem(GaussianMisfit(operator, y, 0.5))
    errors = []
    for levels in (100, 200, 400):  # kappa = kappa2 sigma_y^2 / kappa1^2 = 1: right as sigma -> 0
        local = ConjugateGradient(60, 1e-10)
        solver = LMAPS(levels, kappa1=1.0, kappa2=4.0, local=local, sigma_min=0.02)
        errors.append(off(push_forward(problem, solver)[0], exact_posterior(problem)[0]))
    assert errors[-1] < 0.04
    assert errors[0] > 1.5 * errors[1] > 1.5**2 * errors[2]


def test_without_information_samples_follow_the_prior():
    problem = inverse_problem(GaussianMisfit(dense_svd(), torch.zeros(1, 9).double(), 1e6))
    local = ConjugateGradient()
    solver = LMAPS(400, 1.0, 1e-12, rho=0.0, local=local, sigma_max=300, sigma_min=1e-3)
    mean, covariance = push_forward(problem, solver)
    prior = problem.prior
    assert off(mean, prior.mean.flatten()) < 0.01
    assert off(covariance, prior.covariance.dense()) < 0.02


# ---------------------------------------------------------------- samples, batches, checkpoints


@pytest.mark.parametrize("make", [linear_problem, closure_problem])
def test_a_sample_does_not_depend_on_its_company(make):
    problem, solver = make(), lmaps()
    whole = run(problem, solver, 5, seed=3)
    for size in (1, 2, 4):
        parts = run(problem, solver, 5, seed=3, batch_size=size)
        np.testing.assert_allclose(parts.samples, whole.samples, rtol=0, atol=1e-9)
        np.testing.assert_allclose(parts.misfit, whole.misfit, rtol=1e-6, atol=1e-9)
    alone = run(problem, solver, 1, seed=3)
    np.testing.assert_allclose(alone.samples[0], whole.samples[0], rtol=0, atol=1e-9)


def test_float32_samples_do_not_depend_on_their_company():
    problem = linear_problem().to(dtype=torch.float32)
    whole = run(problem, lmaps_conjugate_gradient(), 4)
    parts = run(problem, lmaps_conjugate_gradient(), 4, batch_size=1)
    assert whole.samples.dtype == np.float32
    np.testing.assert_allclose(parts.samples, whole.samples, rtol=0, atol=1e-5)


def test_seeds_give_different_samples_and_the_same_again():
    problem, solver = linear_problem(), lmaps()
    zero, again, one = (run(problem, solver, 2, seed=seed) for seed in (0, 0, 1))
    assert (zero.samples == again.samples).all()
    assert np.abs(zero.samples - one.samples).max() > 1e-3
    assert np.abs(zero.samples[0] - zero.samples[1]).max() > 1e-3


@pytest.mark.parametrize("solver", [lmaps(), red_diff()], ids=["lmaps", "with_extra_state"])
@pytest.mark.parametrize("level", [0, 4, 11])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, solver, level):
    problem, file = linear_problem(), tmp_path / "run.pt"
    options = {"batch_size": 2, "trajectory": True, "checkpoint_every": 3}
    whole = run(problem, solver, 4, **options)
    with pytest.raises(Interrupted):
        run(problem, solver, 4, checkpoint=file, callback=interrupt_at(level), **options)
    assert file.exists() == (level >= 3)
    resumed = run(problem, solver, 4, checkpoint=file, **options)
    assert (resumed.samples == whole.samples).all()
    assert (resumed.misfit == whole.misfit).all()
    assert (resumed.trajectory == whole.trajectory).all()
    assert resumed.counts == whole.counts
    assert file.exists()  # until the caller has the result in safety


def test_a_finished_run_returns_at_once_until_its_checkpoint_is_removed(tmp_path):
    problem, solver, file = linear_problem(), red_diff(), tmp_path / "run.pt"
    options = {"batch_size": 2, "trajectory": True, "checkpoint": file}
    levels = []
    first = run(problem, solver, 3, **options)
    before = file.read_bytes()
    again = run(problem, solver, 3, callback=lambda i, state: levels.append(i), **options)
    assert levels == []
    assert file.read_bytes() == before
    assert again.counts == first.counts
    for name in ("samples", "misfit", "trajectory"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))


def test_the_time_before_an_interruption_counts(tmp_path, monkeypatch):
    """A clock on which every level takes a second, and the pause between the runs a thousand."""
    problem, solver, file = linear_problem(), lmaps(), tmp_path / "run.pt"
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def callback(i, state):
        now[0] += 1.0
        if i == 5 and now[0] < 100:
            raise Interrupted

    options = {"checkpoint": file, "checkpoint_every": 5, "callback": callback}
    with pytest.raises(Interrupted):
        run(problem, solver, **options)
    now[0] += 1000.0
    assert run(problem, solver, **options).seconds == 12.0  # the sixth level was done twice
    now[0] += 1000.0
    assert run(problem, solver, **options).seconds == 12.0


def test_a_run_resumes_after_its_last_level_and_between_batches(tmp_path):
    problem, solver, file = linear_problem(), lmaps(), tmp_path / "run.pt"
    whole, levels = run(problem, solver, 4, batch_size=2), []

    def callback(i, state):
        levels.append(i)
        if len(levels) == 17:  # the second batch, level 4
            raise Interrupted

    options = {"batch_size": 2, "checkpoint": file, "checkpoint_every": 5}
    with pytest.raises(Interrupted):
        run(problem, solver, 4, callback=callback, **options)
    levels = []
    resumed = run(problem, solver, 4, callback=lambda i, state: levels.append(i), **options)
    assert levels == list(range(12))  # the first batch was done, the second before its first save
    assert (resumed.samples == whole.samples).all()
    assert resumed.counts == whole.counts


@pytest.mark.parametrize(
    "change",
    [
        "solver",
        "seed",
        "n_samples",
        "batch_size",
        "trajectory",
        "autocast",
        "dtype",
        "data",
        "noise",
        "key",
        "conditional",
        "prior",
        "mean",
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change):
    problem, solver, file = linear_problem(), lmaps(), tmp_path / "run.pt"
    with pytest.raises(Interrupted):
        run(problem, solver, 2, checkpoint=file, checkpoint_every=1, callback=interrupt_at(5))
    n, seed, options = 2, 0, {}
    if change == "solver":
        solver = replace(solver, kappa2=11.0)
    elif change == "seed":
        seed = 1
    elif change == "n_samples":
        n = 3
    elif change in ("batch_size", "trajectory"):
        options = {change: 1}
    elif change == "autocast":
        options = {change: torch.bfloat16}
    elif change == "dtype":
        problem = problem.to(dtype=torch.float32)
    elif change == "mean":  # as two networks of one architecture: their names are the same
        prior = dense_gaussian()
        prior.mean = prior.mean + 0.1
        problem = replace(problem, prior=prior)
    elif change == "data":
        misfit = gaussian_real()
        misfit.y = misfit.y + 0.1
        problem = inverse_problem(misfit)
    elif change == "noise":  # no more than other noise of the same level
        misfit = gaussian_real()
        misfit.y = misfit.y * (1 + 1e-9)
        problem = inverse_problem(misfit)
    elif change == "key":
        problem = problem.with_key(7)
    elif change == "conditional":
        problem = replace(problem, conditional=problem.prior)
    elif change == "prior":
        prior = dense_gaussian()
        prior.value_range = (-2.0, 2.0)
        problem = replace(problem, prior=prior)
    with pytest.raises(ValueError, match="holds another run"):
        run(problem, solver, n, seed, checkpoint=file, **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"CDF", "no PyTorch file.*its own checkpoint"),
        (b"PK\x03\x04", "damaged"),
    ],
)
def test_other_files_are_no_checkpoints_and_stay(tmp_path, content, message):
    file = tmp_path / "run.pt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        run(linear_problem(), lmaps(), checkpoint=file)
    assert file.read_bytes() == content
    torch.save({"epoch": 3}, file)
    with pytest.raises(ValueError, match="holds another run"):
        run(linear_problem(), lmaps(), checkpoint=file)


def test_a_checkpoint_without_a_folder_is_refused_before_anything_runs(tmp_path):
    calls = []
    with pytest.raises(DataError, match="mkdir -p"):
        run(
            linear_problem(),
            lmaps(),
            checkpoint=tmp_path / "none" / "run.pt",
            callback=lambda i, state: calls.append(i),
        )
    assert not calls


# ---------------------------------------------------------------- counts, history, errors


COUNTED = {  # solver: denoiser calls and VJPs, operator calls and VJPs, of each noise level
    LMAPS(7, local=GradientSteps(5, 1e-4)): (1, 0, 5, 5),
    LMAPS(7, local=BarzilaiBorwein(6)): (1, 0, 6, 6),
    LMAPS(7, local=LBFGS(8, tolerance=0.0)): (1, 0, 8, 8),
    DPS(7): (1, 1, 1, 1),
    # V^T and U are calls, V and U^T vector-Jacobian products: 3 and 1 a level, and once to prepare
    # H(0) and U^T y, to begin V^T and V.
    DDRM(7): (1, 0, 3, 1),
    DAPS(7, ode_steps=3, local=Metropolis(5, leaps=2)): (3, 0, 6, 6),
}


@pytest.mark.parametrize("solver", COUNTED, ids=lambda s: type(getattr(s, "local", s)).__name__)
@pytest.mark.parametrize("batch_size", [None, 1])
def test_counts_are_exact(solver, batch_size):
    result = run(linear_problem(), solver, 2, batch_size=batch_size)
    names = ("denoiser_calls", "denoiser_vjps", "operator_calls", "operator_vjps")
    expected = dict(zip(names, (7 * n for n in COUNTED[solver]), strict=True))
    if isinstance(solver, DDRM):
        expected["operator_calls"] += 2
        expected["operator_vjps"] += 2
    assert result.counts == expected


def test_products_with_the_jacobian_of_an_affine_operator_count():
    problem = linear_problem()
    affine = Affine(0.5, 1.0, problem.image_shape)
    problem = replace(problem, misfit=problem.misfit @ affine, decode=affine)
    result = run(problem, LMAPS(7, local=ConjugateGradient(4, tolerance=0.0)))
    assert result.counts["operator_calls"] == result.counts["operator_vjps"] == 7 * (1 + 4)


def test_counting_leaves_the_problem_alone():
    problem = linear_problem()
    operator, prior = problem.misfit.operator, problem.prior
    run(problem, lmaps())
    assert problem.misfit.operator is operator
    assert problem.prior is prior
    assert type(operator).__name__ == "DenseSVD"
    assert operator._meter is None


@pytest.mark.parametrize("make", [linear_problem, closure_problem])
def test_problems_pickle_with_their_counters(make):
    meter = Meter()
    problem = pickle.loads(pickle.dumps(make().metered(meter)))
    problem.prior(problem.like(1), 1.0)
    problem.misfit(problem.like(1))
    counted = problem.prior._meter.counts
    assert counted["denoiser_calls"] == problem.misfit.operator._meter.counts["operator_calls"] == 1
    assert meter.counts["denoiser_calls"] == 0  # the pickled one has its own
    result = run(problem, lmaps(), 2)
    np.testing.assert_array_equal(result.samples, run(make(), lmaps(), 2).samples)


def test_a_denoiser_that_has_seen_the_data_is_counted_and_checked():
    class Conditional(LMAPS):
        def step(self, i, state, problem, noise):
            estimate = problem.conditional(state.x, float(self.sigmas[i]))
            return State(x=estimate + float(self.sigmas[i + 1]) * noise.normal(estimate, 1, i),
                         estimate=estimate)  # fmt: skip

    problem = replace(linear_problem(), conditional=dense_gaussian())
    result = run(problem, Conditional(5), 2)
    assert result.counts["denoiser_calls"] == 5
    with pytest.raises(ValueError, match="conditional must share one image shape"):
        replace(problem, conditional=dense_gaussian((1, 4, 4)))


def test_physical_images_are_what_decode_makes_of_the_estimates():
    class Halves(Operator):
        """A decoder: more pixels than the latent image has."""

        image_shape, data_shape = SHAPE, (1, 12, 5)

        def _forward(self, x):
            return torch.tanh(torch.cat([x, -x], dim=2))

    misfit = GaussianMisfit(Halves(), torch.zeros(1, 1, 12, 5, dtype=torch.float64), 0.1)
    problem = InverseProblem(dense_gaussian(), misfit, Halves())
    result = run(problem, LMAPS(6, local=LBFGS(10)), 2)
    assert result.samples.shape == (2, 1, 12, 5)
    np.testing.assert_array_equal(result.samples, Halves()(result.estimates).numpy())


# ---------------------------------------------------------------- an operator of one's own


class Wrong(LinearOperator):
    image_shape, data_shape = SHAPE, (6,)


@pytest.mark.parametrize(
    ("forward", "got"),
    [
        (lambda x: x.sum(), r"\(\)"),
        (lambda x: x[0].sum(dim=(0, 2)), r"\(6,\)"),
        (lambda x: x.sum(dim=(1, 2)), r"\(1, 5\)"),
        (lambda x: x.sum(dim=(1, 3)).numpy(), "ndarray"),
    ],
)
def test_output_of_the_wrong_shape_is_refused_at_the_first_call(forward, got):
    operator = type("Mine", (Wrong,), {"_forward": lambda self, x: forward(x)})()
    with pytest.raises(ValueError, match=f"Mine: its _forward gave {got} for 1 image"):
        operator(torch.zeros(1, *SHAPE))


@pytest.mark.parametrize(
    ("forward", "adjoint"),
    [
        (lambda x: x.sum(dim=(1, 3)) ** 2, None),
        (lambda x: x.sum(dim=(1, 3)) + 1.0, None),
        (lambda x: x.sum(dim=(1, 3)), lambda y: 2 * y[:, None, :, None].expand(-1, *SHAPE)),
    ],
    ids=["square", "constant", "adjoint"],
)
def test_a_linear_operator_that_is_not_linear_is_refused(forward, adjoint):
    methods = {"_forward": lambda self, x: forward(x)}
    if adjoint is not None:
        methods["_adjoint"] = lambda self, y: adjoint(y)
    operator = type("Mine", (Wrong,), methods)()
    misfit = GaussianMisfit(operator, torch.zeros(1, 6, dtype=torch.float64), 0.1)
    with pytest.raises(ValueError, match="Mine is a LinearOperator, but not linear"):
        InverseProblem(dense_gaussian(), misfit, Affine(0.5, 1.0, SHAPE))


def test_the_class_of_a_solver_is_no_solver():
    with pytest.raises(TypeError, match=r"the class LMAPS: write LMAPS\(\)"):
        run(linear_problem(), LMAPS)


def test_history_of_misfits_and_estimates():
    problem, seen = linear_problem(), []
    result = run(
        problem,
        lmaps(),
        3,
        batch_size=2,
        trajectory=True,
        callback=lambda i, s: seen.append((i, s)),
    )
    assert result.trajectory.shape == (12, 3, *SHAPE)
    assert result.misfit.shape == (12, 3)
    assert result.sigmas.shape == (12,)
    last = torch.as_tensor(result.trajectory[-1])
    assert torch.equal(last, result.estimates)
    np.testing.assert_allclose(problem.misfit(last), result.misfit[-1], rtol=1e-9)
    np.testing.assert_allclose(result.samples, (result.trajectory[-1] + 1) / 2)
    assert [i for i, _ in seen] == [*range(12), *range(12)]
    assert isinstance(seen[0][1], State)
    assert run(problem, lmaps(), 3).trajectory is None


def test_mean_and_standard_deviation():
    result = run(linear_problem(), lmaps(), 3)
    np.testing.assert_allclose(result.mean, result.samples.mean(0))
    np.testing.assert_allclose(result.std, result.samples.std(0, ddof=1))
    assert (run(linear_problem(), lmaps(), 1).std == 0).all()
    assert len(result) == 3


def test_non_finite_numbers_name_solver_level_and_noise():
    solver = LMAPS(7, local=GradientSteps(300, 1e4), sigma_max=10.0)
    with pytest.raises(NonFiniteError, match=r"LMAPS: sample\(s\) \[0, 1\].* level 0 \(sigma = 10"):
        run(linear_problem(), solver, 2)


class BrokenMisfit(Misfit):
    """Not a number for positive images."""

    def __init__(self, operator):
        self.operator = operator

    def _loss(self, predicted):
        value = predicted.flatten(1).sum(1)
        return torch.where(value > 0, torch.nan, value), torch.zeros_like(predicted)


def test_the_sample_that_failed_is_named():
    problem = replace(linear_problem(), misfit=BrokenMisfit(Affine(1.0, 0.0, SHAPE)))
    with pytest.raises(NonFiniteError) as error:
        run(problem, LMAPS(1, local=GradientSteps(1)), 6)
    named = {int(k) for k in str(error.value).split("[")[1].split("]")[0].split(",")}
    assert named < set(range(6))


def test_what_a_problem_lacks_is_named_before_anything_runs():
    calls = []
    with pytest.raises(ValueError, match="LMAPS needs a problem that is gaussian and linear"):
        run(closure_problem(), lmaps_conjugate_gradient(), callback=lambda i, s: calls.append(i))
    assert not calls


@pytest.mark.parametrize(
    "wrong", [{"n": 0}, {"n": -1}, {"batch_size": 0}, {"batch_size": -2}, {"checkpoint_every": 0}]
)
def test_wrong_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        run(linear_problem(), lmaps(), **wrong)


def test_parts_of_a_problem_must_fit():
    with pytest.raises(ValueError, match="must share one image shape"):
        inverse_problem(gaussian_real(), prior=lambda shape: dense_gaussian((1, 5, 6)))


def test_problems_move_with_all_their_parts():
    problem = linear_problem()
    moved = problem.to(dtype=torch.float32)
    for part in (moved.prior.mean, moved.prior.covariance.vectors, moved.misfit.y, moved.like(1)):
        assert part.dtype == torch.float32
    assert problem.prior.mean.dtype == problem.prior.covariance.vectors.dtype == torch.float64
    x = moved.like(2) + 0.3
    torch.testing.assert_close(
        moved.prior(x, 0.5).double(), problem.prior(x.double(), 0.5), rtol=1e-5, atol=1e-5
    )


def test_what_problems_provide():
    nonlinear = inverse_problem(gaussian_complex_nonlinear())
    assert nonlinear.provides == {
        "differentiable",
        "gaussian",
        "covariance",
        "noise",
        "perturbable",
    }
    assert linear_problem().provides == nonlinear.provides | {"linear", "svd"}
    assert closure_problem().provides == nonlinear.provides - {"gaussian"}
    prior = from_function(lambda x, sigma: x, (1, 6, 5))
    bare = replace(linear_problem(), prior=prior)
    assert "covariance" not in bare.provides
    with pytest.raises(ValueError, match="equipped with its prior's covariance"):
        sample(bare, LMAPS(3, covariance="prior"), progress=False)


def test_autocast_is_for_the_denoiser_alone():
    operator = dense_svd().to(dtype=torch.float32)
    misfit = GaussianMisfit(operator, torch.ones(1, 9), 0.3)
    flat = torch.zeros(SHAPE)
    # Its Fourier transforms know no reduced precision, the operator's matrix product does.
    prior = GaussianPrior(flat, StationaryCovariance(torch.ones(SHAPE)))
    problem = InverseProblem(prior, misfit, Affine(0.5, 1.0, SHAPE))
    plain, reduced = (run(problem, lmaps(), 2, autocast=t) for t in (None, torch.bfloat16))
    assert (plain.samples == reduced.samples).all()
    dense = replace(problem, prior=dense_gaussian().to(dtype=torch.float32))
    plain, reduced = (run(dense, lmaps(), 2, autocast=t) for t in (None, torch.bfloat16))
    assert reduced.samples.dtype == np.float32
    assert 0 < np.abs(plain.samples - reduced.samples).max() < 0.2


# ---------------------------------------------------------------- results


def template():
    axes = {"y": 3.0 - np.arange(6), "x": 2.0 - np.arange(5)}
    return xr.DataArray(
        np.zeros((6, 5)), dims=("y", "x"), coords=axes, name="sky", attrs={"units": "Jy/pixel"}
    )


def test_results_have_names_units_and_provenance(tmp_path):
    problem = replace(linear_problem(), template=template(), facts={"file": "a.uvfits"})
    result = run(problem, lmaps(), 3, seed=5, trajectory=True)
    data = result.to_xarray()
    assert data["sky"].dims == ("sample", "y", "x")
    assert data["sky_mean"].dims == data["sky_std"].dims == ("y", "x")
    assert data["misfit"].dims == ("level", "sample")
    assert data["trajectory"].dims == ("level", "sample", "y", "x")
    assert data["sky"].attrs["units"] == "Jy/pixel"
    np.testing.assert_array_equal(data["sky"].x, template().x)
    np.testing.assert_array_equal(data["sigma"], result.sigmas)
    assert data.attrs["seed"] == 5
    assert data.attrs["file"] == "a.uvfits"
    assert data.attrs["solver"] == repr(lmaps())
    assert data.attrs["denoiser_calls"] == 12
    assert data.attrs["wall_seconds"] >= 0

    path = result.save(tmp_path / "result.nc")
    back = read_netcdf(path)
    for name in data.variables:
        np.testing.assert_array_equal(back[name].values, data[name].values)
    assert {str(k): v for k, v in data.attrs.items()} == back.attrs


def test_results_without_a_template_count_pixels():
    data = run(linear_problem(), lmaps(), 2).to_xarray()
    assert data["image"].dims == ("sample", "channel", "y", "x")
    assert data["image"].shape == (2, *SHAPE)
    assert "trajectory" not in data


def test_results_introduce_themselves():
    result = run(linear_problem(), lmaps(), 2)
    assert "2 sample(s) of 1x6x5" in repr(result)
    assert "12 denoiser calls" in repr(result)
    assert "LMAPS" in repr(result)
    assert "<" in result._repr_html_()


# ---------------------------------------------------------------- interruptions, progress


@pytest.mark.parametrize("level", [1, 5])
def test_an_interrupt_keeps_the_levels_that_are_done(tmp_path, monkeypatch, level):
    """Before the first checkpoint, too; the level under way is not counted twice."""
    problem, solver, file, levels = linear_problem(), lmaps(), tmp_path / "run.pt", []
    whole, step = run(problem, solver, 2), LMAPS.step

    def interrupted(self, i, *arguments):
        state = step(self, i, *arguments)
        if i == level:
            raise KeyboardInterrupt
        return state

    with monkeypatch.context() as patched:
        patched.setattr(LMAPS, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(problem, solver, 2, checkpoint=file)
    resumed = run(problem, solver, 2, checkpoint=file, callback=lambda i, s: levels.append(i))
    assert levels == list(range(level, 12))
    assert (resumed.samples == whole.samples).all()
    assert resumed.counts == whole.counts


@pytest.mark.parametrize("level", [0, 2])
def test_an_interrupt_keeps_the_batches_that_are_done(tmp_path, monkeypatch, level):
    """With checkpoints by time alone, and in the first level of a batch, too."""
    problem, solver, file, levels = linear_problem(), lmaps(), tmp_path / "run.pt", []
    options = {"batch_size": 1, "checkpoint_every": None}
    whole, step, done = run(problem, solver, 3, **options), LMAPS.step, []

    def interrupted(self, i, *arguments):
        if len(done) == 24 + level:  # in the last of three batches
            raise KeyboardInterrupt
        done.append(i)
        return step(self, i, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(LMAPS, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(problem, solver, 3, checkpoint=file, **options)
    options["callback"] = lambda i, state: levels.append(i)
    resumed = run(problem, solver, 3, checkpoint=file, **options)
    assert levels == list(range(level, 12))
    assert (resumed.samples == whole.samples).all()
    assert resumed.counts == whole.counts


def test_a_checkpoint_may_have_any_name(tmp_path):
    options = {"checkpoint": tmp_path / "state", "checkpoint_every": 1}
    first = run(linear_problem(), lmaps(), **options)
    assert (run(linear_problem(), lmaps(), **options).samples == first.samples).all()


def test_a_trajectory_of_latents_has_axes_of_its_own():
    found = run(linear_problem(), lmaps(), 2, trajectory=True)
    latents = np.zeros((*found.trajectory.shape[:2], 4, 3, 2))
    data = replace(found, trajectory=latents).to_xarray()
    assert data["trajectory"].dims[2:] == ("latent_channel", "latent_row", "latent_column")
    assert found.to_xarray()["trajectory"].dims[2:] == found.to_xarray()["image"].dims[1:]


def test_checkpoints_are_written_by_time_too(tmp_path, monkeypatch):
    """A clock on which every level takes 20 s: after two of them there is a checkpoint."""
    now, seen, file = [0.0], [], tmp_path / "run.pt"
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def callback(i, state):
        seen.append(file.exists())
        now[0] += 20.0

    run(linear_problem(), lmaps(), checkpoint=file, checkpoint_every=100, callback=callback)
    assert seen == [False, False] + 10 * [True]


def test_progress_in_logs(monkeypatch, capsys, tmp_path):
    """What the first level cost and the rest will; then a line a minute; and where it goes on."""
    now, file = [0.0], tmp_path / "run.pt"
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def callback(i, state):
        now[0] += 25.0
        if i == 9 and now[0] < 1000:
            now[0] = 1000.0
            raise Interrupted

    options = {"checkpoint": file, "callback": callback, "checkpoint_every": 9}
    with pytest.raises(Interrupted):
        sample(linear_problem(), lmaps(), **options)
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert said.out == ""
    assert lines[0].startswith("LMAPS: level 1 of 12, sigma ")
    assert lines[0].endswith("; 25 s each, about 4 min 35 s to go")
    assert [line.split()[2] for line in lines] == ["1", "4", "7"]
    assert lines[1].endswith("; 25 s each, about 3 min 20 s to go")
    sample(linear_problem(), lmaps(), **options)
    assert capsys.readouterr().err.startswith("LMAPS: resuming at level 9 of 12\n")
    sample(linear_problem(), lmaps(), progress=False)
    assert capsys.readouterr().err == ""


def test_progress_goes_to_the_log_of_a_program_that_keeps_one(monkeypatch, capsys, caplog):
    monkeypatch.setattr(Progress, "FIRST", 0.0)
    with caplog.at_level("WARNING", "lmaps_science"):
        sample(linear_problem(), lmaps())
    assert capsys.readouterr().err.startswith("LMAPS: level 1 of 12")
    assert not caplog.records
    with caplog.at_level("INFO", "lmaps_science"):
        sample(linear_problem(), lmaps())
    assert capsys.readouterr().err == ""
    assert caplog.messages[0].startswith("LMAPS: level 1 of 12")
    assert {record.name for record in caplog.records} == {"lmaps_science"}


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    sample(linear_problem(), lmaps(), 1)
    said = capsys.readouterr().err
    assert "12/12" in said
    assert "to go" not in said
    assert "\x1b[3" not in said  # no colours


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0123, "0.012 s"), (99, "99 s"), (125, "2 min 5 s"), (3599, "60 min"), (7500, "2 h 5 min")],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


def test_a_class_is_no_solver():
    with pytest.raises(TypeError, match=r"got the class LMAPS: write LMAPS\(\)"):
        sample(linear_problem(), LMAPS)


def test_a_dtype_may_stand_in_the_place_of_the_device():
    moved = linear_problem().to(torch.float32)
    assert moved.like(1).dtype == moved.prior.mean.dtype == torch.float32
    with pytest.raises(TypeError, match="two dtypes"):
        moved.to(torch.float64, torch.float64)

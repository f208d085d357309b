import math
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
import torch
from registries import (
    PRIORS,
    PROBLEMS,
    SOLVERS,
    DenseSVD,
    dense_gaussian,
    dense_svd,
    gaussian_real,
    inverse_problem,
    linear_problem,
    problem_for,
)

from lmaps_science.arrays import norm
from lmaps_science.local_map import LBFGS, ConjugateGradient
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.noise import VP, SampleNoise
from lmaps_science.operators import Affine, Scaling
from lmaps_science.priors import DiagonalCovariance, GaussianMixturePrior, GaussianPrior
from lmaps_science.sampling import InverseProblem, State, sample
from lmaps_science.solvers import (
    DAPS,
    DCDP,
    DDNM,
    DDRM,
    DPS,
    LMAPS,
    MAPGA,
    SITCOM,
    VMLMAP,
    AnnealedLangevin,
    DiffPIR,
    DMPlug,
    Langevin,
    Metropolis,
    PerturbAndMAP,
    PiGDM,
    PnPDM,
    REDDiff,
    ReSample,
    ScoreMRI,
)
from lmaps_science.solvers.local_posterior import LocalPosterior

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ALL = pytest.mark.parametrize("make", SOLVERS, ids=lambda make: make.__name__)
PROBLEM = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda make: make.__name__)


def run(problem, solver, n=2, seed=0, **options):
    return sample(problem, solver, n, seed, progress=False, **options)


def fitting(make_problem, make_solver):
    problem, solver = make_problem(), make_solver()
    if solver.requires - problem.provides:
        pytest.skip(f"needs {set(solver.requires)}")
    return problem, solver


# ---------------------------------------------------------------- what every solver owes the loop


@ALL
@PROBLEM
def test_the_data_are_fitted(make, problem):
    problem, solver = fitting(problem, make)
    result = run(problem, solver, 3)
    middle = problem.prior(1e-9 * problem.like(1), 100.0)  # about the prior's mean
    assert np.isfinite(result.samples).all()
    assert result.misfit[-1].mean() < float(problem.misfit(middle))


@ALL
@PROBLEM
@pytest.mark.parametrize("device", DEVICES)
def test_samples_do_not_depend_on_their_company(make, problem, device):
    problem, solver = fitting(problem, make)
    problem = problem.to(device=device)
    whole = run(problem, solver, 3, seed=1)
    parts = run(problem, solver, 3, seed=1, batch_size=1)
    np.testing.assert_allclose(parts.samples, whole.samples, rtol=0, atol=1e-6)
    again = run(problem, solver, 3, seed=1)
    assert (again.samples == whole.samples).all()
    assert (run(problem, solver, 3, seed=2).samples != whole.samples).any()


@ALL
@PROBLEM
@pytest.mark.parametrize("device", DEVICES)
def test_single_precision(make, problem, device):
    problem, solver = fitting(problem, make)
    result = run(problem.to(device=device, dtype=torch.float32), solver)
    assert result.samples.dtype == np.float32
    assert np.isfinite(result.samples).all()
    assert result.estimates.device.type == device


@ALL
def test_steps_are_pure(make):
    solver = make()
    problem, noise = problem_for(solver).prepare(solver), SampleNoise(0, (0, 1))
    with torch.no_grad():
        state = solver.init(problem, noise)
        before = {k: v.clone() for k, v in _tensors(state).items()}
        first, second = (solver.step(0, state, problem, noise) for _ in range(2))
        third = solver.step(1, first, problem, noise)
    assert all(torch.equal(before[k], v) for k, v in _tensors(state).items())
    for name, value in _tensors(first).items():
        assert torch.equal(value, _tensors(second)[name])
        assert not value.requires_grad
    assert not torch.equal(third.x, first.x)
    assert third.estimate.shape == (2, *problem.image_shape)
    assert third.x.shape == first.x.shape == state.x.shape
    if not hasattr(solver, "particles"):
        assert third.x.shape == third.estimate.shape


def _tensors(state: State):
    return {"x": state.x, "estimate": state.estimate, **state.extra}


class Recorder:
    """Noise that remembers its keys."""

    def __init__(self, samples):
        self.noise, self.samples, self.keys = SampleNoise(0, samples), samples, []

    def normal(self, like, *key):
        self.keys.append(key)
        return self.noise.normal(like, *key)

    def of_particles(self, each):
        many = Recorder(self.samples * each)
        many.noise, many.keys = self.noise.of_particles(each), self.keys
        return many


@ALL
def test_no_random_number_is_used_twice(make):
    solver, noise = make(), Recorder((0,))
    problem = problem_for(solver).prepare(solver)
    with torch.no_grad():
        state = solver.init(problem, noise)
        for i in range(4):
            state = solver.step(i, state, problem, noise)
    assert len(noise.keys) == len(set(noise.keys)) > 0


@ALL
def test_schedules_fall_to_zero(make):
    sigmas = make().sigmas
    assert sigmas.ndim == 1
    assert (sigmas.diff() <= 0).all()
    assert (sigmas[:-1] > 0).all()
    assert sigmas[-1] == 0


@ALL
def test_an_interrupted_run_goes_on_to_the_same_bits(make, tmp_path):
    solver, file = make(), tmp_path / "run.pt"
    problem = problem_for(solver)

    def interrupt(i, state):
        if i == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(problem, solver, checkpoint=file, checkpoint_every=3, callback=interrupt)
    resumed, whole = run(problem, solver, checkpoint=file), run(problem, solver)
    assert (resumed.samples == whole.samples).all()
    assert resumed.counts == whole.counts


@ALL
def test_solvers_are_frozen_and_know_their_options(make):
    solver = make()
    with pytest.raises(FrozenInstanceError):
        solver.levels = 3
    with pytest.raises(TypeError, match="unexpected keyword argument 'kapa1'"):
        type(solver)(kapa1=1.0)
    method = getattr(solver, "solver", solver)  # a population holds one
    assert replace(method, levels=3).sigmas.shape == (4,)
    assert all(f"{field.name}=" in repr(solver) for field in fields(solver))
    assert hash(solver) == hash(make())


@ALL
def test_what_a_problem_lacks_is_refused(make):
    solver = make()
    for problem in (make_problem() for make_problem in PROBLEMS):
        if lacking := sorted(solver.requires - problem.provides):
            name = type(solver).__name__
            with pytest.raises(ValueError, match=f"{name} needs a problem that is .*{lacking[0]}"):
                run(problem, solver)


@ALL
@pytest.mark.parametrize("prior", PRIORS, ids=lambda make: make.__name__)
def test_any_prior_will_do(make, prior):
    solver = make()
    misfit = problem_for(solver).misfit
    assert np.isfinite(run(inverse_problem(misfit, prior), solver, 1).samples).all()


@pytest.mark.parametrize(
    ("solver", "wrong"),
    [
        (LMAPS, {"kappa1": -1.0}),
        (LMAPS, {"kappa2": 0.0}),
        (LMAPS, {"rho": 1.5}),
        (LMAPS, {"levels": 0}),
        (LMAPS, {"kappa": math.inf}),
        (LMAPS, {"kappa1": math.inf}),
        (LMAPS, {"kappa2": math.inf}),
        (DAPS, {"radius": math.inf}),
        (DPS, {"zeta": math.nan}),
        (DPS, {"zeta": 0.0}),
        (DPS, {"levels": 0}),
        (DAPS, {"ode_steps": 0}),
        (DAPS, {"radius": 0.0}),
        (DAPS, {"temperature": -1.0}),
        (Langevin, {"learning_rate": 0.0}),
        (Metropolis, {"steps": 5, "leaps": 6}),
        (DiffPIR, {"regularisation": 0.0}),
        (DiffPIR, {"zeta": -0.1}),
        (REDDiff, {"learning_rate": 0.0}),
        (REDDiff, {"betas": (0.9, 1.0)}),
        (REDDiff, {"time_min": 0.0}),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(solver, wrong):
    with pytest.raises(ValueError, match="needs"):
        solver(**wrong)


# ---------------------------------------------------------------- closed forms


def easy_problem(noise=0.2, levels=None):
    """As many data as pixels: the posterior is narrow, and its mean is near every method's goal."""
    generator = torch.Generator().manual_seed(6)
    matrix = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64))[0]
    weights = torch.linspace(0.5, 2, 30, dtype=torch.float64)
    operator = DenseSVD(weights[:, None] * matrix, (1, 6, 5))
    prior = dense_gaussian()
    truth = prior.sample(1, generator)
    y = operator(truth) + noise * torch.randn(1, 30, generator=generator, dtype=torch.float64)
    problem = InverseProblem(prior, GaussianMisfit(operator, y, noise), Affine(0.5, 1.0, (1, 6, 5)))
    mean, covariance = prior.posterior(weights[:, None] * matrix, y, noise)
    return problem, mean, covariance


GOOD = {  # solver: largest error of the mean of 8 samples, in posterior standard deviations
    "lmaps": (LMAPS(50, 1.0, 25.0, local=ConjugateGradient()), 0.5),
    "lmaps_jacobian": (LMAPS(20, covariance="jacobian", local=ConjugateGradient()), 0.4),
    "lmaps_krylov": (LMAPS(20, covariance="jacobian", local=LBFGS()), 0.5),
    "diffpir": (DiffPIR(100, regularisation=1.0, zeta=0.5), 0.5),
    "dps": (DPS(300), 1.0),
    "daps": (DAPS(60, ode_steps=1, sigma_min=0.02), 0.6),
    "red_diff": (REDDiff(500, regularisation=0.1, learning_rate=0.05), 1.3),
    "annealed_langevin": (AnnealedLangevin(100, rate=0.3, sigma_max=5.0), 0.6),
    "ddnm": (DDNM(20), 0.8),
    "ddrm": (DDRM(), 0.6),
    "pigdm": (PiGDM(), 0.6),
    "pnp_dm": (PnPDM(60, 5, PerturbAndMAP(), rho_max=3.0), 0.5),
    "score_mri": (ScoreMRI(100), 1.0),
    "sitcom": (SITCOM(), 0.6),
    "dcdp": (DCDP(), 0.6),
    "resample": (ReSample(), 0.6),
    "dmplug": (DMPlug(), 0.8),
    "map_ga": (MAPGA(sigma_max=10.0, sigma_min=0.03), 0.05),
    "vml_map": (VMLMAP(15, 50, preconditioned=False, sigma_max=10.0), 0.3),
    "vml_map_preconditioned": (VMLMAP(15, 50, preconditioned=True, sigma_max=10.0), 0.3),
}


@pytest.mark.parametrize("name", GOOD)
def test_baselines_find_the_posterior_mean_of_a_well_posed_problem(name):
    solver, bound = GOOD[name]
    problem, mean, covariance = easy_problem()
    result = run(problem, solver, 8)
    error = result.estimates.mean(0, keepdim=True) - mean
    spread = covariance.diagonal().sum().sqrt()
    assert float(norm(error)[0]) < bound * spread
    assert (np.abs(result.misfit[-1] - 15) < 15).all()  # 30 data: half a chi2 of 30


def test_daps_is_exact_when_its_local_posterior_is():
    """One level: N(0, s^2) seen at a noise level above s, r^2 = Cov[x0 | x]."""
    s, sigma = 0.5, 10.0
    shape = (1, 6, 5)
    zero = torch.zeros(shape, dtype=torch.float64)
    prior = GaussianPrior(zero, DiagonalCovariance(torch.full_like(zero, s**2)))
    operator, y = dense_svd(), torch.ones(1, 9, dtype=torch.float64)
    problem = InverseProblem(prior, GaussianMisfit(operator, y, 2.0), Affine(0.5, 1.0, shape))
    radius = s / (s**2 + sigma**2) ** 0.5
    solver = DAPS(1, 1, radius, Metropolis(200, 5), sigma_max=sigma)
    matrix = operator.left @ (operator.singular_values[:, None] * operator.right)
    mean, covariance = prior.posterior(matrix, y, 2.0)
    draws = run(problem, solver, 400).estimates
    error = (draws.mean(0) - mean[0]).flatten() / covariance.diagonal().sqrt()
    assert error.abs().max() < 5 / 400**0.5
    ratio = draws.flatten(1).var(0) / covariance.diagonal()
    assert ratio.min() > 0.7
    assert ratio.max() < 1.4
    assert ratio.mean() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "local", [Langevin(400, 2e-3, 1.0), Metropolis(300, 1), Metropolis(200)], ids=str
)
def test_local_samplers_draw_from_the_local_posterior(local):
    """A quadratic misfit: the local posterior is N(m + K (y - A m), (1/r^2 + A^T A/s^2)^-1)."""
    misfit, batch = gaussian_real(), 500
    mean = torch.full((batch, 1, 6, 5), 0.2, dtype=torch.float64)
    target = LocalPosterior(mean, misfit, radius=0.4, temperature=2.0)
    generator = torch.Generator().manual_seed(0)

    def normal(like, draw):
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    draws = local(target, 0.0, normal).flatten(1)
    operator = dense_svd()
    matrix = operator.left @ (operator.singular_values[:, None] * operator.right)
    precision = torch.eye(30).double() / 0.4**2 + matrix.T @ matrix / (2.0 * 0.3**2)
    covariance = torch.linalg.inv(precision)
    pull = matrix.T @ (misfit.y - mean[:1].flatten(1) @ matrix.T)[0] / (2.0 * 0.3**2)
    expected = mean[0].flatten() + covariance @ pull
    error = (draws.mean(0) - expected) / covariance.diagonal().sqrt()
    assert error.abs().max() < 5 / batch**0.5
    whitened = (draws - expected) @ torch.linalg.cholesky(precision)
    spread = whitened.T @ whitened / batch
    assert spread.diagonal().mean() == pytest.approx(1, abs=0.1)
    assert (spread - torch.eye(30)).abs().max() < 0.4


def test_metropolis_needs_no_scale():
    """Images and data in other units: the same chain."""

    def normal(like, draw):
        generator = torch.Generator().manual_seed(draw)
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    operator, y = dense_svd(), torch.ones(1, 9, dtype=torch.float64)
    mean = torch.full((2, 1, 6, 5), 0.2, dtype=torch.float64)
    small = LocalPosterior(mean, GaussianMisfit(operator, y, 0.3), 0.4, 1.0)
    big = LocalPosterior(
        100 * mean, GaussianMisfit(operator @ Scaling(0.01, (1, 6, 5)), y, 0.3), 40.0, 1.0
    )
    local = Metropolis(30)
    torch.testing.assert_close(local(big, 0.0, normal) / 100, local(small, 0.0, normal))


def test_scale_free_dps_needs_no_unit():
    """The data in another unit: the same samples."""
    operator, y = dense_svd(), torch.ones(1, 9, dtype=torch.float64)
    matrix = operator.left @ (operator.singular_values[:, None] * operator.right)
    tall = DenseSVD(1e4 * matrix, (1, 6, 5))
    plain = run(inverse_problem(GaussianMisfit(operator, y, 0.3)), DPS(50))
    scaled = run(inverse_problem(GaussianMisfit(tall, 1e4 * y, 3e3)), DPS(50))
    np.testing.assert_allclose(plain.samples, scaled.samples, rtol=1e-6, atol=1e-6)


def test_the_dps_step_is_the_papers():
    """x' = ancestral step - zeta / (alpha alpha') grad ||y - H(D(x))||, by autograd."""
    problem, solver = linear_problem(), DPS(10, zeta=0.3, scale_free=False)
    noise = SampleNoise(0, (0, 1))
    state = solver.init(problem, noise)
    got = solver.step(4, state, problem, noise).x
    unguided = replace(solver, zeta=1e-300).step(4, state, problem, noise).x
    sigma, after = (float(s) for s in VP(10).sigmas[4:6])
    x = state.x.requires_grad_()
    residual = norm(problem.misfit.y - problem.misfit.operator(problem.prior(x, sigma)))
    gradient = torch.autograd.grad(residual.sum(), x)[0]
    scale = ((1 + sigma**2) * (1 + after**2)) ** 0.5
    torch.testing.assert_close(got, unguided - 0.3 * scale * gradient)


@pytest.mark.parametrize("solver", [DPS(400, zeta=1e-12), LMAPS(100, 1.0, 1e-12)], ids=str)
def test_without_guidance_samples_follow_the_prior(solver):
    problem = inverse_problem(GaussianMisfit(dense_svd(), torch.zeros(1, 9).double(), 1e6))
    draws = run(problem, solver, 200).estimates.flatten(1)
    variance = problem.prior.covariance.dense().diagonal()
    error = (draws.mean(0) - problem.prior.mean.flatten()) / variance.sqrt()
    assert error.abs().max() < 0.35
    if isinstance(solver, DPS):  # ancestral sampling; fresh noise on a mean loses spread
        assert (draws.var(0) / variance).mean() == pytest.approx(1, abs=0.15)


def test_diffpir_is_local_map_sampling():
    """DiffPIR(lambda, zeta) = LMAPS with Sigma = sigma^2 / lambda and rho^2 = zeta."""
    problem = linear_problem()
    local = ConjugateGradient(60, 1e-12)
    diffpir = DiffPIR(10, regularisation=4.0, zeta=0.3, local=local)
    unit = problem.misfit.objective_scale
    lmaps = LMAPS(10, 1.0, 1 / (4.0 * unit), 0.3**0.5, local)
    noise = SampleNoise(0, (0, 1))
    state = diffpir.init(problem, noise)
    sigmas = diffpir.sigmas
    twin = replace_schedule(lmaps, sigmas)
    for i in range(10):
        ours, theirs = (s.step(i, state, problem, noise) for s in (twin, diffpir))
        torch.testing.assert_close(ours.x, theirs.x)
        state = theirs


def replace_schedule(solver, sigmas):
    class Rescheduled(type(solver)):
        pass

    Rescheduled.sigmas = property(lambda self: sigmas)
    return Rescheduled(**{f.name: getattr(solver, f.name) for f in fields(solver)})


def test_red_diff_takes_adams_steps():
    problem, solver = linear_problem(), REDDiff(50, regularisation=0.7)
    noise = SampleNoise(0, (0, 1))
    state = solver.init(problem, noise)
    mu = state.x.clone().requires_grad_()
    adam = torch.optim.Adam([mu], lr=0.1, betas=(0.9, 0.99))
    unit = problem.misfit.objective_scale
    for i in range(5):
        sigma, epsilon = float(solver.sigmas[i]), noise.normal(mu, 1, i)
        x = mu.detach() + sigma * epsilon
        guess = (x - problem.prior(x, sigma)) / sigma
        loss = unit * problem.misfit(mu).sum() + (0.7 * sigma * (guess - epsilon) * mu).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            state = solver.step(i, state, problem, noise)
        torch.testing.assert_close(state.x, mu.detach(), rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------- a mixture: modes and means


def mixture_problem():
    """Two components, of which the data (the sum of all pixels) prefer the first a little."""
    means = torch.stack([torch.ones(1, 4, 4), -torch.ones(1, 4, 4)]).double()
    prior = GaussianMixturePrior(torch.ones(2).double(), means, torch.full((2,), 0.1).double())
    operator = DenseSVD(torch.full((1, 16), 0.25, dtype=torch.float64), (1, 4, 4))
    y = torch.full((1, 1), 0.1, dtype=torch.float64)  # 4 and -4 are what the components predict
    misfit = GaussianMisfit(operator, y, 2.0)
    return InverseProblem(prior, misfit, Affine(0.5, 1.0, (1, 4, 4)))


@pytest.mark.parametrize(
    "solver",
    [
        LMAPS(60, 1.0, 0.25, local=ConjugateGradient(), sigma_max=20.0, sigma_min=0.02),
        DAPS(60, 3, local=Metropolis(20), sigma_max=20.0, sigma_min=0.02),
    ],
    ids=["lmaps", "daps"],
)
def test_samples_of_a_mixture_sit_on_its_components(solver):
    """Appendix A: the posterior mean lies between the components, where there is no image."""
    problem = mixture_problem()
    levels = run(problem, solver, 60).estimates.flatten(1).mean(1)
    assert ((levels.abs() - 1).abs() < 0.3).all()
    share = float((levels > 0).double().mean())
    assert 0.2 < share < 0.8  # both components are found


def test_local_map_seeks_modes_where_langevin_keeps_the_spread():
    """Within a component: LMAPS loses spread, DAPS keeps that of the posterior (0.1 a pixel)."""
    problem = mixture_problem()
    spreads = {}
    for name, solver in {
        "lmaps": LMAPS(60, 1.0, 0.25, local=ConjugateGradient(), sigma_max=20.0, sigma_min=0.02),
        "daps": DAPS(60, 3, local=Metropolis(20), sigma_max=20.0, sigma_min=0.02),
    }.items():
        draws = run(problem, solver, 60).estimates.flatten(1)
        centred = draws - draws.mean(1, keepdim=True).sign()
        spreads[name] = float(centred.square().mean().sqrt())
    assert spreads["lmaps"] < 0.9 * spreads["daps"]
    assert spreads["daps"] == pytest.approx(0.1, rel=0.4)

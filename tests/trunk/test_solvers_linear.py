"""Solvers of linear problems with Gaussian noise, against what theory says of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from registries import (
    SOLVERS,
    DenseSVD,
    dense_gaussian,
    dense_svd,
    gaussian_real,
    inverse_problem,
)

from lmaps_science.arrays import as_channels, as_complex, norm
from lmaps_science.cards.methods import build_solver
from lmaps_science.local_map import ConjugateGradient
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.noise import SampleNoise
from lmaps_science.operators import Affine, LinearOperator, Scaling, SVDOperator
from lmaps_science.priors import DiagonalCovariance, GaussianPrior, from_function
from lmaps_science.sampling import InverseProblem, State, sample
from lmaps_science.solvers import (
    DAPS,
    DDNM,
    DDRM,
    LMAPS,
    AnnealedLangevin,
    PerturbAndMAP,
    PiGDM,
    PnPDM,
    ScoreMRI,
)
from lmaps_science.solvers.local_posterior import LocalPosterior

SHAPE = (1, 6, 5)
EXACT = ConjugateGradient(100, 1e-12)
MODEL_SPACE = Affine(0.5, 1.0, SHAPE)


def run(problem, solver, n=2, seed=0):
    return sample(problem, solver, n, seed, progress=False)


class ComplexMatrix(LinearOperator):
    """Complex data of real images: the adjoint is the real part of A^H y."""

    image_shape = SHAPE

    def __init__(self, matrix):
        self.matrix, self.data_shape = matrix, (len(matrix),)

    def _forward(self, x):
        return x.flatten(1).to(self.matrix.dtype) @ self.matrix.T

    def _adjoint(self, y):
        return (y @ self.matrix.conj()).real.reshape(-1, *SHAPE)


class MaskedFourier(SVDOperator):
    """Some Fourier coefficients of a complex image: A = M F, whose singular vectors are complex."""

    image_shape, data_shape = (2, 4, 4), (16,)

    def __init__(self):
        self.singular_values = (torch.arange(16) % 4 != 3).double()
        self.singular_values[:5] *= 0.3

    def _Vt(self, x):
        return torch.fft.fft2(as_complex(x), norm="ortho").flatten(1)

    def _V(self, c):
        return as_channels(torch.fft.ifft2(c.reshape(-1, 4, 4), norm="ortho"))

    def _Ut(self, y):
        return y

    def _U(self, c):
        return c


def complex_misfit(seed=7, noise=0.4):
    """Complex data, a noise level for each, and an offset: H(x) = A (x + 1) / 2."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(8, 30, generator=generator, dtype=torch.complex128)
    sigma = torch.linspace(0.5 * noise, 1.5 * noise, 8, dtype=torch.float64)
    y = torch.randn(1, 8, generator=generator, dtype=torch.complex128)
    return GaussianMisfit(ComplexMatrix(matrix), y, sigma) @ MODEL_SPACE


def real_equations(misfit):
    """The same misfit with whitened real data: L(x) = |b - A x|^2 / 2, A (m, 30), b (m,)."""
    zero = torch.zeros(1, *SHAPE, dtype=torch.float64)
    offset = misfit.operator(zero)
    unit = torch.eye(30, dtype=torch.float64).reshape(30, *SHAPE)
    deviation = misfit.variance.sqrt()
    columns = ((misfit.operator(unit) - offset) / deviation).T
    b = ((misfit.y - offset) / deviation)[0]
    if columns.is_complex():
        columns, b = torch.cat([columns.real, columns.imag]), torch.cat([b.real, b.imag])
    return columns, b


def check_moments(draws, mean, covariance, bias=0.0, ratio=(0.9, 1.1)):
    """Mean within 4.5 standard errors and a bias; mean ratio of the variances within ``ratio``."""
    std = covariance.diagonal().sqrt()
    error = (draws.flatten(1).mean(0) - mean.flatten()) / std
    assert error.abs().max() < bias + 4.5 / len(draws) ** 0.5
    assert ratio[0] < (draws.flatten(1).var(0) / std**2).mean() < ratio[1]


def normal(generator):
    return lambda like, draw: torch.randn(like.shape, generator=generator, dtype=like.dtype)


# ---------------------------------------------------------------- draws from the local posterior


@pytest.mark.parametrize("make", [complex_misfit, gaussian_real], ids=lambda make: make.__name__)
def test_perturb_and_map_draws_exactly(make):
    misfit, radius, temperature, batch = make(), 0.7, 2.0, 2000
    mean = torch.full((batch, *SHAPE), 0.2, dtype=torch.float64)
    target = LocalPosterior(mean, misfit, radius, temperature)
    draws = PerturbAndMAP(EXACT)(target, 0.0, normal(torch.Generator().manual_seed(0)))
    matrix, b = real_equations(misfit)
    precision = torch.eye(30).double() / radius**2 + matrix.T @ matrix / temperature
    start = mean[0].flatten()
    expected = start + torch.linalg.solve(precision, matrix.T @ (b - matrix @ start)) / temperature
    centred = draws.flatten(1) - expected
    error = centred.mean(0) * batch**0.5 / torch.linalg.inv(precision).diagonal().sqrt()
    assert error.abs().max() < 4.5
    whitened = centred @ torch.linalg.cholesky(precision)
    spread = whitened.T @ whitened / batch
    assert spread.diagonal().mean() == pytest.approx(1, abs=0.03)
    assert (spread - torch.eye(30)).abs().max() < 0.2


def test_what_precise_data_do_not_see_is_drawn_in_full():
    """Where the system is too stiff for its tolerance: the null space keeps the variance r^2."""
    operator = dense_svd().to(dtype=torch.float32)
    misfit = GaussianMisfit(operator, torch.ones(1, 9), 1e-4)
    mean = torch.zeros(400, *SHAPE)
    target = LocalPosterior(mean, misfit, radius=10.0, temperature=1.0)
    draws = PerturbAndMAP()(target, 0.0, normal(torch.Generator().manual_seed(0)))
    unseen = draws - operator.V(operator.Vt(draws))
    variance = float(norm(unseen).square().mean()) / (30 - 9)
    assert variance == pytest.approx(100, rel=0.05)
    assert float(norm(operator(draws) - 1).max()) < 0.1


# ---------------------------------------------------------------- samplers of the posterior


def well_posed(prior=None, noise=0.3, affine=MODEL_SPACE):
    """As many data as pixels, a prior, and the mean and the covariance of the posterior."""
    generator = torch.Generator().manual_seed(6)
    matrix = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64))[0]
    matrix = torch.linspace(0.5, 2, 30, dtype=torch.float64)[:, None] * matrix
    prior = dense_gaussian() if prior is None else prior
    physical = affine(prior.sample(1, generator))
    operator = DenseSVD(matrix, SHAPE)
    y = operator(physical) + noise * torch.randn(1, 30, generator=generator, dtype=torch.float64)
    problem = InverseProblem(prior, GaussianMisfit(operator, y, noise) @ affine, affine)
    whole, b = real_equations(problem.misfit)
    return problem, *prior.posterior(whole, b[None], 1.0)


def white_prior():
    zero = torch.zeros(SHAPE, dtype=torch.float64)
    return GaussianPrior(zero, DiagonalCovariance(torch.ones_like(zero)))


def test_pnp_dm_tends_to_the_posterior():
    problem, mean, covariance = well_posed()
    solver = PnPDM(60, 5, PerturbAndMAP(), rho_max=3.0)
    draws = run(problem, solver, 60).estimates
    check_moments(draws, mean, covariance, bias=0.1, ratio=(0.9, 1.15))


def test_pnp_dm_at_a_fixed_coupling_sees_noisier_data():
    """Noise sigma^2 I + rho^2 A A^T: the prior weighs more, and the spread is wider."""
    problem, _, _ = well_posed()
    solver = PnPDM(20, 20, PerturbAndMAP(), rho_max=0.401, rho_min=0.4)
    draws = run(problem, solver, 60).estimates
    matrix, b = real_equations(problem.misfit)
    root = torch.linalg.cholesky(torch.eye(30).double() + 0.4**2 * matrix @ matrix.T)
    seen, data = (torch.linalg.solve_triangular(root, v, upper=False) for v in (matrix, b[:, None]))
    expected = problem.prior.posterior(seen, data.T, 1.0)
    check_moments(draws, *expected)


def test_annealed_langevin_tends_to_the_posterior():
    problem, mean, covariance = well_posed()
    solver = AnnealedLangevin(150, 3, 0.3, sigma_max=4.0, sigma_min=0.02)
    draws = run(problem, solver, 60).estimates
    check_moments(draws, mean, covariance, bias=0.2, ratio=(0.9, 1.25))


def test_pigdm_is_exact_for_a_white_prior():
    problem, mean, covariance = well_posed(white_prior())
    draws = run(problem, PiGDM(150), 80).estimates
    check_moments(draws, mean, covariance, ratio=(0.85, 1.05))


def test_pigdm_follows_the_score_of_the_likelihood():
    """estimate = D + sigma^2 grad_x log N(y; H(D(x)), r^2 A A^T + Sigma_y), by autograd."""
    problem = InverseProblem(dense_gaussian(), complex_misfit(), MODEL_SPACE)
    solver, noise = PiGDM(20, prior_std=0.6, local=EXACT), SampleNoise(0, (0, 1))
    state = solver.init(problem, noise)
    sigma = float(solver.sigmas[9])
    got = solver.step(9, state, problem, noise).estimate
    matrix, b = real_equations(problem.misfit)
    r2 = 1 / (1 / 0.6**2 + 1 / sigma**2)
    inverse = torch.linalg.inv(torch.eye(len(b)).double() + r2 * matrix @ matrix.T)
    x = state.x.requires_grad_()
    denoised = problem.prior(x, sigma)
    residual = b - denoised.flatten(1) @ matrix.T
    score = torch.autograd.grad(-0.5 * (residual * (residual @ inverse)).sum(), x)[0]
    torch.testing.assert_close(got, denoised.detach() + sigma**2 * score)


@pytest.mark.parametrize(
    "solver",
    [
        AnnealedLangevin(100, rate=0.3, sigma_max=5.0, sigma_min=0.05),
        PiGDM(100),
        PnPDM(10, 20, PerturbAndMAP()),
    ],
    ids=lambda solver: type(solver).__name__,
)
def test_data_that_say_nothing_leave_the_prior(solver):
    misfit = GaussianMisfit(dense_svd(), torch.zeros(1, 9).double(), 1e6)
    problem = inverse_problem(misfit)
    draws = run(problem, solver, 60).estimates
    covariance = problem.prior.covariance.dense()
    check_moments(draws, problem.prior.mean, covariance, ratio=(0.8, 1.2))


# ---------------------------------------------------------------- the data in place of the noise


@pytest.mark.parametrize("level", [0, 6, 13, 18])
@pytest.mark.parametrize("solver", [DDNM(20), DDRM(20), DDRM(20, eta=0.5, eta_data=0.7)], ids=str)
@pytest.mark.parametrize(
    "operator", [dense_svd() @ Scaling(-0.2, SHAPE), MaskedFourier()], ids=["real", "complex"]
)
def test_the_noise_of_every_level_is_white(operator, solver, level):
    """An oracle denoiser, x with the level's noise, many data: x' has the next level's noise."""
    batch, generator = 1500, torch.Generator().manual_seed(level)
    truth = torch.randn(1, *operator.image_shape, generator=generator, dtype=torch.float64)
    oracle = from_function(lambda x, sigma: truth.expand(x.shape), operator.image_shape)
    clean = operator(truth).expand(batch, -1)
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    problem = InverseProblem(
        oracle,
        GaussianMisfit(operator, clean + 0.2 * noise, 0.2),
        Affine(1.0, 0.0, truth.shape[1:]),
    ).prepare(solver)
    random = SampleNoise(3, tuple(range(batch)))
    sigma, after = (float(s) for s in solver.sigmas[level : level + 2])
    x = truth + sigma * torch.randn((batch, *truth.shape[1:]), generator=generator).double()
    x = solver.step(level, State(x=x, estimate=x), problem, random).x
    error = (x - truth).flatten(1) / after
    assert error.mean(0).abs().max() < 4.5 / batch**0.5
    covariance = error.T @ error / batch
    assert covariance.diagonal().mean() == pytest.approx(1, abs=0.03)
    assert (covariance - torch.eye(len(covariance))).abs().max() < 0.2


def test_ddrm_starts_with_the_noise_of_its_first_level():
    batch, operator = 1500, dense_svd()
    noise = torch.randn(batch, 9, generator=torch.Generator().manual_seed(0)).double()
    misfit = GaussianMisfit(operator, 200.0 * noise, 200.0)  # some s above 200 / 152, some below
    solver, random = DDRM(20), SampleNoise(0, tuple(range(batch)))
    problem = inverse_problem(misfit).prepare(solver)
    x = solver.init(problem, random).x.flatten(1) / solver.sigmas[0]
    covariance = x.T @ x / batch
    assert covariance.diagonal().mean() == pytest.approx(1, abs=0.03)
    assert (covariance - torch.eye(30)).abs().max() < 0.2


def test_exact_data_are_met():
    """DDNM and DDRM down to the last level's noise, Score-MRI to rounding where A A^T = c I."""
    rows = torch.linalg.qr(torch.randn(30, 9, generator=torch.Generator().manual_seed(2)).double())
    operator = DenseSVD(3.0 * rows[0].T, SHAPE)
    y = operator(dense_gaussian().sample(1, torch.Generator().manual_seed(0)))
    problem = InverseProblem(dense_gaussian(), GaussianMisfit(operator, y, 1e-5), MODEL_SPACE)
    for solver, largest in ((DDNM(50), 0.05), (DDRM(20), 0.05), (ScoreMRI(100), 1e-9)):
        draws = run(problem, solver, 20).estimates
        assert float((operator(draws) - y).abs().max()) < 3.0 * largest, solver


def test_score_mri_leaves_to_the_prior_what_the_data_do_not_see():
    """A white prior: the null space is independent of the data."""
    operator = dense_svd()
    misfit = GaussianMisfit(operator, torch.ones(1, 9, dtype=torch.float64), 0.1)
    problem = InverseProblem(white_prior(), misfit, MODEL_SPACE)
    draws = run(problem, ScoreMRI(250, sigma_max=5.0), 60).estimates
    unseen = (draws - operator.V(operator.Vt(draws))).flatten(1)
    assert float(unseen.mean(0).norm()) < 1.5 * (21 / 60) ** 0.5
    assert float(unseen.square().sum(1).mean()) / 21 == pytest.approx(1, abs=0.15)


# ---------------------------------------------------------------- what all of them share


@pytest.mark.parametrize("make", SOLVERS, ids=lambda make: make.__name__)
def test_an_offset_is_part_of_the_data(make):
    """H(x) = A (x + 1) / 2 and y, or A x / 2 and y - A 1 / 2: the same samples."""
    plain, solver = dense_svd(), make()
    if "multi-frequency" in solver.requires:
        pytest.skip("these data are of one frequency")
    if "encoder" in solver.requires:
        pytest.skip("these images are no latents")
    y = torch.linspace(-2, 2, 9, dtype=torch.float64)[None]
    offset = plain(torch.full((1, *SHAPE), 0.5, dtype=torch.float64))
    affine = GaussianMisfit(plain, y, 0.3) @ MODEL_SPACE
    linear = GaussianMisfit(plain @ Scaling(0.5, SHAPE), y - offset, 0.3)
    a, b = (run(inverse_problem(misfit), solver).samples for misfit in (affine, linear))
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("solver", [DDNM(), DDRM()], ids=lambda solver: type(solver).__name__)
def test_spectral_methods_refuse_uneven_noise(solver):
    sigma = torch.linspace(0.1, 0.4, 9, dtype=torch.float64)
    problem = inverse_problem(GaussianMisfit(dense_svd(), torch.zeros(1, 9).double(), sigma))
    with pytest.raises(ValueError, match=r"one noise level for all data.*0\.1 to 0\.4.*PiGDM"):
        run(problem, solver)


def test_a_part_says_what_its_solver_needs():
    assert PnPDM().requires == {"differentiable"}
    exact = {"linear", "gaussian"}
    draw = exact | {"perturbable"}
    assert PnPDM(local=PerturbAndMAP()).requires == DAPS(local=PerturbAndMAP()).requires == draw
    assert LMAPS(local=PerturbAndMAP()).requires == draw
    assert PiGDM().requires == exact


@pytest.mark.parametrize(
    ("solver", "wrong"),
    [
        (AnnealedLangevin, {"rate": 1.0}),
        (AnnealedLangevin, {"steps": 0}),
        (DDNM, {"levels": 0}),
        (DDRM, {"eta": 1.5}),
        (DDRM, {"eta_data": -0.5}),
        (PiGDM, {"prior_std": 0.0}),
        (PnPDM, {"prior_steps": 0}),
        (PnPDM, {"rho_min": 0.0}),
        (ScoreMRI, {"consistency": 2.0}),
        (ScoreMRI, {"snr": 0.0}),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(solver, wrong):
    with pytest.raises(ValueError, match="needs"):
        solver(**wrong)


@pytest.mark.parametrize("cls", [AnnealedLangevin, DDNM, DDRM, PiGDM, PnPDM, ScoreMRI])
def test_cards_reach_every_solver(cls):
    snake = {"AnnealedLangevin": "annealed_langevin", "PnPDM": "pnp_dm", "ScoreMRI": "score_mri"}
    assert build_solver({"method": snake.get(cls.__name__, cls.__name__.lower())}) == cls()


def test_cards_reach_the_exact_draw():
    spec = {"method": "perturb_and_map", "local": {"method": "conjugate_gradient"}}
    for cls, name in ((PnPDM, "pnp_dm"), (DAPS, "daps")):
        built = build_solver({"method": name, "levels": 9, "local": spec})
        assert built == replace(cls(local=PerturbAndMAP()), levels=9)
    with pytest.raises(ValueError, match="local"):
        build_solver({"method": "pnp_dm", "local": "conjugate_gradient"})

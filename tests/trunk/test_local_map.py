import itertools

import pytest
import torch
from registries import (
    a_positive_image,
    closures_on_model_space,
    dense_svd,
    gaussian_complex_nonlinear,
    gaussian_real,
    load_golden,
)

from lmaps_science.cards.load import load_card
from lmaps_science.local_map import (
    LBFGS,
    BarzilaiBorwein,
    ConjugateGradient,
    GradientSteps,
    LocalProblem,
)
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine
from lmaps_science.physics.closure_misfit import ClosureMisfit
from lmaps_science.physics.interferometry import ClosureQuantities, ClosureSet, Visibilities
from lmaps_science.priors import GaussianPrior, StationaryCovariance
from lmaps_science.sampling import InverseProblem, sample
from lmaps_science.solvers import LMAPS

# Each has the means to reach the minimum of a small quadratic; the last entry is the tolerance.
SOLVERS = {
    "barzilai_borwein": (BarzilaiBorwein(steps=300), 1e-5),
    "conjugate_gradient": (ConjugateGradient(iterations=60, tolerance=1e-12), 1e-9),
    "gradient_steps": (GradientSteps(steps=4000, learning_rate=0.004), 1e-5),
    "lbfgs": (LBFGS(iterations=200, tolerance=0), 1e-5),
}
ALL = pytest.mark.parametrize("name", SOLVERS)


def local_problem(misfit, sigma=0.7, kappa1=0.5, kappa2=2.0, batch=3) -> LocalProblem:
    generator = torch.Generator().manual_seed(2)
    shape = (batch, *misfit.operator.image_shape)
    denoised = torch.rand(shape, generator=generator, dtype=torch.float64)
    return LocalProblem(denoised, misfit, sigma, kappa1, kappa2)


def closed_form(problem: LocalProblem) -> torch.Tensor:
    """Paper 1, eq. 15: m + S A^T (A S A^T + sigma_y^2)^-1 (y - A m), S = kappa sigma^2."""
    a = dense_svd()
    matrix = a.left @ (a.singular_values[:, None] * a.right)
    misfit = problem.misfit
    noise = float(misfit.sigma) ** 2
    kappa = problem.kappa2 * noise / problem.kappa1**2
    s = kappa * problem.sigma**2
    gram = s * matrix @ matrix.T + noise * torch.eye(len(matrix), dtype=torch.float64)
    m = problem.denoised.flatten(1)
    step = torch.linalg.solve(gram, (misfit.y - m @ matrix.T).T).T
    return (m + s * step @ matrix).reshape(problem.denoised.shape)


@ALL
def test_solvers_reach_the_closed_form(name):
    solver, tolerance = SOLVERS[name]
    problem = local_problem(gaussian_real())
    torch.testing.assert_close(
        solver(problem), closed_form(problem), rtol=tolerance, atol=tolerance
    )


@ALL
@pytest.mark.parametrize("sigma", [1e-3, 100.0])
def test_small_noise_trusts_the_prior_and_large_noise_the_data(name, sigma):
    solver, _ = SOLVERS[name]
    problem = local_problem(gaussian_real(), sigma=sigma)
    z = solver(problem)
    if sigma < 1:
        torch.testing.assert_close(z, problem.denoised, rtol=0, atol=2e-3)
    elif name != "gradient_steps":  # plain steps creep along the flat directions
        assert (problem.misfit(z) < 1e-2 * problem.misfit(problem.denoised)).all()


@ALL
def test_samples_do_not_depend_on_their_company(name):
    solver, _ = SOLVERS[name]
    misfits = [gaussian_real()]
    if "linear" not in solver.requires:
        misfits += [gaussian_complex_nonlinear(), closures_on_model_space()]
    short = {  # long runs on nonlinear misfits amplify rounding
        "gradient_steps": GradientSteps(20, 1e-3),
        "barzilai_borwein": BarzilaiBorwein(10),
        "lbfgs": LBFGS(20),
    }
    solver = short.get(name, solver)
    for misfit in misfits:
        problem = local_problem(misfit)
        whole = solver(problem)
        for k in range(3):
            alone = LocalProblem(problem.denoised[[k]], misfit, 0.7, 0.5, 2.0)
            torch.testing.assert_close(solver(alone)[0], whole[k], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "make", [gaussian_real, gaussian_complex_nonlinear, closures_on_model_space]
)
def test_gradient_and_value_belong_together(make):
    problem = local_problem(make())
    slope, value = problem.gradient(problem.denoised + 0.1)
    torch.testing.assert_close(value, problem(problem.denoised + 0.1))
    leaf = (problem.denoised + 0.1).requires_grad_()
    torch.testing.assert_close(slope, torch.autograd.grad(problem(leaf).sum(), leaf)[0])


def test_objective_is_the_published_one():
    """w_p 1/2 |z - m|^2 + w_d kappa2 1/2 |y - H z|^2 for Gaussian noise, whatever sigma_y."""
    operator = dense_svd()
    y = operator(a_positive_image(operator.image_shape)) + 0.1
    for noise in (0.3, 3.0):
        problem = local_problem(GaussianMisfit(operator, y, noise))
        z = problem.denoised + 0.2
        wp = 0.5**2 / (0.5**2 + 0.7**2)
        residual = (y - operator(z)).square().sum(1)
        expected = wp * 0.5 * 0.04 * z[0].numel() + (1 - wp) * 2.0 * 0.5 * residual
        torch.testing.assert_close(problem(z), expected)
        assert problem.prior_weight == pytest.approx(wp)


def test_without_a_trust_region_only_the_data_count():
    problem = local_problem(gaussian_real(), kappa1=0.0)
    assert problem.prior_weight == 0
    z = LBFGS(iterations=200, tolerance=0)(problem)
    assert (problem.misfit(z) < 1e-8).all()  # more unknowns than data
    exact = ConjugateGradient(tolerance=1e-12)(problem)
    torch.testing.assert_close(exact, problem.denoised + projected(problem), rtol=1e-6, atol=1e-6)


def projected(problem: LocalProblem) -> torch.Tensor:
    """The smallest step that satisfies the data."""
    operator = dense_svd()
    missing = problem.misfit.y - operator(problem.denoised)
    return operator.V(operator.Ut(missing) / operator.singular_values)


def test_conjugate_gradient_takes_affine_operators():
    assert ConjugateGradient().requires == {"linear", "gaussian"}
    on_model_space = gaussian_real() @ Affine(0.5, 1.0, (1, 6, 5))  # affine: linear in its steps
    problem = local_problem(on_model_space)
    z = ConjugateGradient(tolerance=1e-12)(problem)
    assert problem.gradient(z)[0].abs().max() < 1e-9


NAN, INF = float("nan"), float("inf")
OUT_OF_RANGE = [
    (GradientSteps, {"steps": (0, -1), "learning_rate": (0.0, -1.0, NAN, INF)}),
    (BarzilaiBorwein, {"steps": (0, -1), "first_step": (0.0, -1.0, NAN, INF)}),
    (LBFGS, {"iterations": (0, -1), "memory": (0, -1), "tolerance": (-1e-3, 1.0, NAN)}),
    (ConjugateGradient, {"iterations": (0, -1), "tolerance": (-1e-3, 1.0, NAN)}),
]


@pytest.mark.parametrize(
    ("solver", "option", "wrong"),
    [(s, option, w) for s, options in OUT_OF_RANGE for option in options for w in options[option]],
)
def test_options_out_of_range_are_refused(solver, option, wrong):
    with pytest.raises(ValueError, match=rf"{solver.__name__} needs .*{option}.*{option}={wrong}"):
        solver(**{option: wrong})


def test_lbfgs_of_one_evaluation_would_stay_where_it_is():
    with pytest.raises(ValueError, match="the first evaluates the start"):
        LBFGS(iterations=1)


# ---------------------------------------------------------------- black-hole imaging


@pytest.fixture(scope="module")
def benchmark_problem():
    """271 visibilities of M87*, 64 x 64 pixels, data of the first of two test images."""
    golden = load_golden("black_hole")
    closures = ClosureSet(golden["cp_index"], golden["cp_conjugate"], golden["camp_index"])
    visibilities = Visibilities(golden["u"], golden["v"], 64, float(golden["psize_rad"]))
    n_cp, n_ca, n_amp = (int(golden[f"{n}_dim"]) for n in ("cphase", "logcamp", "amp"))
    y = golden["y"][0, 0, 2 * n_amp :, 0]
    cut = [n_cp, 2 * n_cp, 2 * n_cp + n_ca, 2 * n_cp + 2 * n_ca]
    parts = [torch.as_tensor(part.copy()) for part in (y[: cut[0]], *_between(y, cut))]
    misfit = ClosureMisfit(
        ClosureQuantities(visibilities, closures), *parts, flux=float(y[-1])
    ) @ Affine(0.5, 1.0, (1, 64, 64))
    return misfit, torch.as_tensor(golden["x_model"]).float()


def _between(y, cut):
    return (y[a:b] for a, b in itertools.pairwise(cut))


@pytest.mark.parametrize("sigma", [30.0, 1.0, 0.1])
@pytest.mark.parametrize("preset", ["inversebench_3", "inversebench_100"])
def test_lbfgs_needs_a_tenth_of_the_papers_evaluations(benchmark_problem, preset, sigma):
    misfit, images = benchmark_problem
    paper = load_card(f"black_hole/{preset}").solver("paper")
    blurred = torch.nn.functional.avg_pool2d(images, 9, 1, 4, count_include_pad=False)
    problem = LocalProblem(blurred, misfit, sigma, paper.kappa1, paper.kappa2)
    reference = problem(paper.local(problem))
    quick = problem(LBFGS(iterations=paper.local.steps // 10, tolerance=0)(problem))
    assert (quick <= reference).all()
    assert (quick < problem(blurred)).all()  # the paper's steps are too long at some noise levels


def test_kappa_scales_the_covariance_of_the_local_problem():
    problem = InverseProblem(
        GaussianPrior(torch.zeros(1, 6, 5), StationaryCovariance(torch.ones(1, 6, 5))),
        GaussianMisfit(dense_svd(), torch.ones(1, 9, dtype=torch.float64), 0.3),
        Affine(1.0, 0.0, (1, 6, 5)),
    ).to(dtype=torch.float64)
    options = {"levels": 3, "local": ConjugateGradient(40, 1e-12)}
    by_kappa = sample(problem, LMAPS(kappa=2.5, **options), progress=False)
    by_weight = sample(problem, LMAPS(kappa2=2.5 / 0.09, **options), progress=False)
    torch.testing.assert_close(by_kappa.estimates, by_weight.estimates)
    with pytest.raises(ValueError, match="kappa2 or kappa but not both"):
        LMAPS(kappa=2.0, kappa2=1.0)

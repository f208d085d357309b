"""Analytic priors are exact: Tweedie's formula, densities, sampling, posteriors."""

import math

import pytest
import torch
from scipy import fft

from lmaps_science.priors import (
    DenseCovariance,
    DiagonalCovariance,
    GaussianMixturePrior,
    GaussianPrior,
    LowRankCovariance,
    MirroredCovariance,
    StationaryCovariance,
)

SHAPE = (2, 3, 4)
PIXELS = math.prod(SHAPE)


def rand(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def diagonal():
    return GaussianPrior(rand(*SHAPE), DiagonalCovariance(rand(*SHAPE, seed=1) ** 2 + 0.1))


def stationary():
    spectrum = torch.fft.fft2(rand(*SHAPE, seed=2)).abs() ** 2  # of a real image: symmetric
    return GaussianPrior(rand(*SHAPE), StationaryCovariance(spectrum / 10 + 0.05))


def mirrored():
    return GaussianPrior(rand(*SHAPE), MirroredCovariance(rand(*SHAPE, seed=2) ** 2 + 0.1))


def dense():
    factor = rand(PIXELS, PIXELS, seed=3) / 4
    return GaussianPrior(rand(*SHAPE), DenseCovariance(factor @ factor.T, SHAPE))


def mixture():
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    scales = torch.tensor([0.3, 0.1, 0.6], dtype=torch.float64)
    return GaussianMixturePrior(weights, rand(3, *SHAPE, seed=4), scales)


GAUSSIANS = [diagonal, stationary, mirrored, dense]
PRIORS = [*GAUSSIANS, mixture]


@pytest.mark.parametrize("sigma", [0.01, 0.5, 30.0])
@pytest.mark.parametrize("make", PRIORS)
def test_denoiser_is_tweedies_formula(make, sigma):
    """D(x, sigma) = x + sigma^2 grad log p(x; sigma), the gradient by autograd in float64."""
    prior = make()
    x = (prior.sample(3) + sigma * rand(3, *SHAPE, seed=5)).requires_grad_()
    (score,) = torch.autograd.grad(prior.log_prob(x, sigma).sum(), x)
    torch.testing.assert_close(prior(x, sigma), x + sigma**2 * score, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("make", PRIORS)
def test_jacobian_is_symmetric_and_positive(make):
    prior = make()
    x = prior.sample(1) + 0.4 * rand(1, *SHAPE, seed=6)
    jacobian = torch.autograd.functional.jacobian(lambda z: prior(z, 0.4), x)
    jacobian = jacobian.reshape(PIXELS, PIXELS)
    torch.testing.assert_close(jacobian, jacobian.T)
    assert torch.linalg.eigvalsh(jacobian).min() > -1e-12


@pytest.mark.parametrize("make", PRIORS)
def test_samples_are_independent_of_the_batch(make):
    prior, sigma = make(), torch.tensor([0.1, 1.0, 9.0], dtype=torch.float64)
    x = rand(3, *SHAPE, seed=7)
    torch.testing.assert_close(prior(x, sigma)[1:2], prior(x[1:2], 1.0))
    torch.testing.assert_close(prior.log_prob(x, sigma)[1:2], prior.log_prob(x[1:2], 1.0))


@pytest.mark.parametrize("make", PRIORS)
def test_precision_moves_with_to(make):
    prior = make()
    x = rand(2, *SHAPE, seed=8)
    single = prior.to(dtype=torch.float32)(x.float(), 0.5)
    assert single.dtype == torch.float32
    assert prior(x, 0.5).dtype == torch.float64
    torch.testing.assert_close(single.double(), prior(x, 0.5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", GAUSSIANS)
def test_gaussian_agrees_with_its_matrix(make):
    prior = make()
    cov = prior.covariance.dense()
    x = rand(2, *SHAPE, seed=9)
    reference = torch.distributions.MultivariateNormal(
        prior.mean.flatten(), cov + 0.25 * torch.eye(PIXELS, dtype=torch.float64)
    )
    torch.testing.assert_close(prior.log_prob(x, 0.5), reference.log_prob(x.flatten(1)))
    root = prior.covariance.apply(
        torch.eye(PIXELS, dtype=torch.float64).reshape(-1, *SHAPE),
        prior.covariance.eigenvalues.sqrt(),
    ).flatten(1)
    torch.testing.assert_close(root @ root.T, cov)


@pytest.mark.parametrize("make", PRIORS)
def test_sample_moments(make):
    prior, n = make(), 40_000
    draws = prior.sample(n, torch.Generator().manual_seed(0)).flatten(1)
    if isinstance(prior, GaussianPrior):
        mean, cov = prior.mean.flatten(), prior.covariance.dense()
    else:
        means = prior.means.flatten(1)
        mean = prior.weights @ means
        spread = (means - mean).T @ (prior.weights[:, None] * (means - mean))
        cov = spread + (prior.weights @ prior.scales**2) * torch.eye(PIXELS, dtype=mean.dtype)
    deviation = cov.diagonal().sqrt()
    assert ((draws.mean(0) - mean).abs() < 5 * deviation / math.sqrt(n)).all()
    # The standard error of a covariance is at most sqrt(3/n) s_i s_j for these priors.
    bound = 5 * math.sqrt(3 / n) * deviation[:, None] * deviation
    assert ((draws.T.cov() - cov).abs() < bound).all()


def test_stationary_spectrum_averages_to_the_pixel_variance():
    covariance = stationary().covariance
    variance = covariance.dense().diagonal().reshape(SHAPE)
    expected = covariance.eigenvalues.mean(dim=(1, 2))
    torch.testing.assert_close(variance, expected[:, None, None].expand(SHAPE))


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 3), (7, 8)])
def test_mirrored_eigenbasis_is_the_cosine_transform(size):
    covariance = MirroredCovariance(torch.ones(2, *size).double())
    x = rand(3, 2, *size)
    expected = torch.as_tensor(fft.dctn(x.numpy(), axes=(-2, -1), norm="ortho"))
    torch.testing.assert_close(covariance.analyse(x), expected)
    torch.testing.assert_close(covariance.synthesise(expected), x)


def test_mirrored_borders_are_no_neighbours():
    frequency = torch.arange(32).double() / 64
    covariance = MirroredCovariance((1e-4 / (frequency**2 + 0.05**2))[None, None])
    first, middle, last = covariance.dense()[0, [1, 16, 31]]
    assert first > 5 * middle > 5 * last


@pytest.mark.parametrize("make", GAUSSIANS)
def test_gaussian_posterior_in_information_form(make):
    prior, matrix, y = make(), rand(5, PIXELS, seed=10), rand(2, 5, seed=11)
    mean, cov = prior.posterior(matrix, y, 0.2)
    precision = torch.linalg.inv(prior.covariance.dense()) + matrix.T @ matrix / 0.04
    torch.testing.assert_close(cov, torch.linalg.inv(precision))
    rhs = torch.linalg.inv(prior.covariance.dense()) @ prior.mean.flatten() + y @ matrix / 0.04
    torch.testing.assert_close(mean.flatten(1), torch.linalg.solve(precision, rhs.T).T)


def test_the_denoiser_is_the_posterior_of_denoising():
    prior, x = dense(), rand(2, *SHAPE, seed=12)
    mean, _ = prior.posterior(torch.eye(PIXELS, dtype=torch.float64), x.flatten(1), 0.3)
    torch.testing.assert_close(prior(x, 0.3), mean)


# -- Mixture --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [1e-8, 1e-3, 1e3, 1e8])
def test_mixture_is_stable_at_every_noise_level(sigma):
    prior = mixture().to(dtype=torch.float32)
    x = prior.means[:2] + sigma * rand(2, *SHAPE).float()
    denoised = prior(x, sigma)
    assert denoised.isfinite().all()
    assert prior.log_prob(x, sigma).isfinite().all()
    if sigma < 1e-2:
        torch.testing.assert_close(denoised, x, atol=1e-2, rtol=0)
    if sigma > 1e6:  # nothing but the prior mean is left
        mean = torch.einsum("k,kchw->chw", prior.weights, prior.means)
        torch.testing.assert_close(denoised, mean.expand_as(x), atol=1e-2, rtol=0)


def test_mixture_posterior_density():
    """Bayes: p(x0 | x) = p(x0) N(x; x0, sigma^2) / p(x), at points where all are evaluated."""
    prior, sigma = mixture(), 0.5
    x0, x = rand(4, *SHAPE, seed=13), rand(4, *SHAPE, seed=14)
    posterior = prior.posterior(x, sigma)
    distance = (x0[:, None] - posterior.means).square().sum(dim=(2, 3, 4))
    log_normal = -0.5 * (
        distance / posterior.variances + PIXELS * (2 * math.pi * posterior.variances).log()
    )
    density = (posterior.log_weights + log_normal).logsumexp(1)
    likelihood = -0.5 * (
        (x - x0).square().sum(dim=(1, 2, 3)) / sigma**2 + PIXELS * math.log(2 * math.pi * sigma**2)
    )
    expected = prior.log_prob(x0) + likelihood - prior.log_prob(x, sigma)
    torch.testing.assert_close(density, expected)


def two_modes():
    means = torch.tensor([-1.0, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    scales = torch.full((2,), 0.1, dtype=torch.float64)
    return GaussianMixturePrior(torch.tensor([0.4, 0.6], dtype=torch.float64), means, scales)


def test_mean_averages_modes_and_local_map_chooses_one():
    posterior = two_modes().posterior(torch.zeros(1, 1, 1, 1, dtype=torch.float64), 3.0)
    assert posterior.mean().item() == pytest.approx(0.2, abs=0.01)
    assert posterior.local_map().item() == pytest.approx(1.0, abs=0.01)


def test_local_map_prefers_the_sharper_of_two_equal_components():
    prior = GaussianMixturePrior(
        torch.tensor([0.5, 0.5]),
        torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1),
        torch.tensor([2.0, 0.1]),
    )
    posterior = prior.posterior(torch.zeros(1, 1, 1, 1), 50.0)
    assert posterior.local_map().item() == pytest.approx(1.0, abs=0.01)


def test_posterior_samples_follow_the_posterior():
    x = torch.full((20_000, 1, 1, 1), 0.3, dtype=torch.float64)
    posterior = two_modes().posterior(x, 2.0)
    draws = posterior.sample(torch.Generator().manual_seed(0)).flatten()
    assert draws.mean().item() == pytest.approx(posterior.mean()[0].item(), abs=0.04)
    assert draws[draws > 0].std().item() == pytest.approx(0.1, rel=0.05)


# -- Refusals -------------------------------------------------------------------------------------


def test_singular_covariance_has_no_density_without_noise():
    prior = GaussianPrior(torch.zeros(1, 2, 2), DiagonalCovariance(torch.zeros(1, 2, 2)))
    assert prior.log_prob(torch.zeros(1, 1, 2, 2), 1.0).isfinite().all()
    with pytest.raises(ValueError, match="singular"):
        prior.log_prob(torch.zeros(1, 1, 2, 2))
    points = GaussianMixturePrior(torch.ones(1), torch.zeros(1, 1, 2, 2), torch.zeros(1))
    with pytest.raises(ValueError, match="scale 0"):
        points.log_prob(torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiagonalCovariance(-torch.ones(1, 2, 2)), "not negative"),
        (lambda: DiagonalCovariance(torch.ones(2, 2)), r"\(C, H, W\)"),
        (lambda: StationaryCovariance(rand(1, 4, 4).abs()), "symmetric power spectrum"),
        (lambda: DenseCovariance(rand(4, 4), (1, 2, 2)), "symmetric matrix"),
        (lambda: DenseCovariance(torch.eye(3), (1, 2, 2)), r"\(4, 4\)"),
        (lambda: DenseCovariance(-torch.eye(4), (1, 2, 2)), "not negative"),
        (
            lambda: GaussianPrior(torch.zeros(1, 2, 3), DiagonalCovariance(torch.ones(1, 2, 2))),
            "differ in shape",
        ),
        (lambda: diagonal().posterior(rand(5, 3), rand(1, 5), 0.1), r"matrix \(m, 24\)"),
        (
            lambda: GaussianMixturePrior(torch.ones(2), torch.zeros(3, 1, 2, 2), torch.ones(2)),
            r"weights \(K,\)",
        ),
        (
            lambda: GaussianMixturePrior(-torch.ones(1), torch.zeros(1, 1, 2, 2), torch.ones(1)),
            "positive",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_principal_components_recover_a_low_rank_covariance():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(rand(PIXELS, 3, seed=5))[0].T
    variances = torch.tensor([4.0, 1.0, 0.25]).double()
    weights = torch.randn(40_000, 3, generator=generator, dtype=torch.float64)
    images = 0.7 + ((weights * variances.sqrt()) @ basis).reshape(-1, *SHAPE)
    found = LowRankCovariance.from_images(images, rank=4)
    torch.testing.assert_close(found.eigenvalues[:3], variances, rtol=0.05, atol=0)
    assert found.eigenvalues[3:].max() < 1e-10
    expected = basis.T @ (variances[:, None] * basis)
    torch.testing.assert_close(found.dense(), expected, rtol=0, atol=0.1)
    x = rand(2, *SHAPE, seed=6)
    applied = found.apply(x, found.eigenvalues).flatten(1)
    torch.testing.assert_close(applied, x.flatten(1) @ found.dense())


@pytest.mark.parametrize("rank", [0, 10, 50])
def test_principal_components_refuse_too_high_a_rank(rank):
    with pytest.raises(ValueError, match="rank"):
        LowRankCovariance.from_images(rand(10, *SHAPE), rank)


def test_what_principal_components_leave_over_is_spread_evenly():
    images = 0.5 * torch.randn(40_000, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
    found = LowRankCovariance.from_images(images, rank=4)
    assert float(found.eigenvalues[-1]) == pytest.approx(0.25, rel=0.02)
    assert float(found.dense().trace()) == pytest.approx(0.25 * PIXELS, rel=0.01)
    x = rand(2, *SHAPE, seed=6)
    root = found.apply(found.apply(x, found.eigenvalues.sqrt()), found.eigenvalues.sqrt())
    torch.testing.assert_close(root.flatten(1), x.flatten(1) @ found.dense())

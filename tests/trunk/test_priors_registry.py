"""What every denoiser has in common, over all of the registry's priors."""

import pytest
import torch
from registries import PRIORS, piecewise_constant

from lmaps_science.priors.total_variation import total_variation

SHAPE = (1, 6, 5)
ALL = pytest.mark.parametrize("make", PRIORS, ids=lambda make: make.__name__)
SIGMAS = torch.tensor([0.05, 0.4, 3.0], dtype=torch.float64)


def noisy(batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *SHAPE, generator=generator, dtype=torch.float64)


def jacobian(prior, x, sigma):
    return torch.autograd.functional.jacobian(lambda z: prior(z, sigma), x).reshape(30, 30)


@ALL
def test_each_sample_has_its_own_noise_level(make):
    prior, x = make(SHAPE), noisy()
    together = prior(x, SIGMAS)
    for k, sigma in enumerate(SIGMAS):
        torch.testing.assert_close(together[k : k + 1], prior(x[k : k + 1], float(sigma)))


@ALL
def test_precision_follows_the_image(make):
    prior, x = make(SHAPE), noisy()
    single = prior.to(dtype=torch.float32)(x.float(), 0.4)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), prior(x, 0.4), rtol=1e-4, atol=1e-4)


@ALL
def test_without_noise_nothing_is_to_be_done(make):
    """As the noise vanishes so does the correction, within the range where it has one."""
    prior, x = make(SHAPE), noisy().clamp(-1, 1)
    corrections = [(prior(x, sigma) - x).norm() for sigma in (1e-2, 1e-3)]
    assert corrections[1] < 0.02 * corrections[0]


@ALL
def test_the_derivative_is_finite_for_flat_images(make):
    x = torch.zeros(1, *SHAPE, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(make(SHAPE)(x, 3.0).sum(), x)
    assert torch.isfinite(slope).all()


@ALL
def test_the_jacobian_is_symmetric_and_positive(make):
    """Means and proximal maps are gradients of convex functions; iterated ones, approximately."""
    prior = make(SHAPE)
    matrix = jacobian(prior, noisy(1, seed=1), 0.4)
    size = matrix.abs().max()
    assert (matrix - matrix.T).abs().max() < 1e-2 * size
    assert torch.linalg.eigvalsh(matrix).min() > -1e-2 * size


def test_the_denoiser_of_total_variation_is_a_mode_not_a_mean():
    """What it cannot have: the denoiser of a mean, whose Jacobian times sigma^2 is a covariance.

    The most probable image consists of flat regions, and a pixel moves with the whole of its own:
    the Jacobian has no full rank, where that of a mean is positive definite. Tweedie's formula
    would need the density of noisy images, of which no closed form is known.
    """
    prior = piecewise_constant(SHAPE)
    x = noisy(1, seed=1)
    eigenvalues = torch.linalg.eigvalsh(jacobian(prior, x, 0.8))
    assert (eigenvalues < 1e-2).sum() > 10  # of 30
    assert not hasattr(prior, "log_prob")
    # What it has instead: no image within the limits is more probable.
    best = prior(x, 0.4)

    def objective(z):
        return 0.5 * (z - x).square().sum() + 0.4**2 * prior.weight * total_variation(z)[0]

    for seed in range(20):
        other = (best + 0.01 * noisy(1, seed=seed)).clamp(*prior.value_range)
        assert objective(other) > objective(best)

"""Our solvers as DeepInverse's reconstructors, with our priors and with its denoisers."""

import numpy as np
import pytest
import torch
from registries import SOLVERS, dense_gaussian, dense_svd, smooth_covariance

from lmaps_science.integrations.deepinv import (
    as_reconstructor,
    from_deepinv,
    from_deepinv_denoiser,
    to_deepinv,
)
from lmaps_science.io import DataError
from lmaps_science.local_map import ConjugateGradient
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine
from lmaps_science.priors import Denoiser, DiagonalCovariance, GaussianPrior
from lmaps_science.sampling import InverseProblem, sample
from lmaps_science.solvers import DDRM, DPS, LMAPS

try:
    import deepinv
except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another PyTorch
    pytest.skip(
        f"needs DeepInverse and a torchvision built for this PyTorch: "
        f"pip install 'lmaps-science[deepinv]' ({error})",
        allow_module_level=True,
    )
SHAPE = (1, 6, 5)
QUICK = LMAPS(levels=12, kappa1=1.0, local=ConjugateGradient(), sigma_max=10.0)


def inpainting(sigma=0.05):
    mask = (torch.arange(30).reshape(SHAPE) % 3 > 0).double()
    noise = deepinv.physics.GaussianNoise(sigma)
    return deepinv.physics.Inpainting(SHAPE, mask=mask, noise_model=noise).double()


def images(n=3):
    """Draws of the prior, mapped to [0, 1] by (x + 1) / 2."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((n, 30), generator=generator, dtype=torch.float64)
    root = torch.linalg.cholesky(0.3 * smooth_covariance(SHAPE))
    return (dense_gaussian().mean + (noise @ root.T).reshape(n, *SHAPE) + 1) / 2


@pytest.mark.parametrize(
    "make", [make for make in SOLVERS if "multi-frequency" not in make().requires]
)
def test_any_solver_is_a_reconstructor(make):
    """Of each item of a batch, the image that `sample` gives for it alone."""
    solver, physics, prior = make(), inpainting(), dense_gaussian()
    model = as_reconstructor(solver, prior)
    assert isinstance(model, torch.nn.Module)
    y = physics(images(2))
    found = model(y, physics)
    assert (found.shape, found.dtype, found.device) == ((2, *SHAPE), y.dtype, y.device)
    assert not found.requires_grad
    decode = Affine(0.5, 1.0, SHAPE)
    for k in range(2):
        misfit = GaussianMisfit(from_deepinv(physics), y[k : k + 1], 0.05) @ decode
        alone = sample(InverseProblem(prior, misfit, decode), solver, progress=False).samples
        np.testing.assert_allclose(found[k].numpy(), alone[0], rtol=1e-6, atol=1e-6)


def test_mean_of_samples_and_batch_size():
    physics, prior = inpainting(), dense_gaussian()
    y = physics(images(3))
    model = as_reconstructor(QUICK, prior, n_samples=4, seed=2)
    found = model(y, physics)
    decode = Affine(0.5, 1.0, SHAPE)
    misfit = GaussianMisfit(from_deepinv(physics), y[1:2], 0.05) @ decode
    result = sample(InverseProblem(prior, misfit, decode), QUICK, 4, 2, progress=False)
    np.testing.assert_allclose(found[1].numpy(), result.mean, rtol=1e-6, atol=1e-6)
    parts = as_reconstructor(QUICK, prior, n_samples=4, seed=2, batch_size=5)(y, physics)
    torch.testing.assert_close(parts, found)
    other = as_reconstructor(QUICK, prior, n_samples=4, seed=3)(y, physics)
    assert not torch.allclose(other, found, atol=1e-4)


class Counting(Denoiser):
    """The prior, and the batches it has met."""

    value_range = (-1.0, 1.0)

    def __init__(self, prior):
        self.inner, self.image_shape, self.batches = prior, prior.image_shape, []

    def _denoise(self, x, sigma):
        self.batches.append(len(x))
        return self.inner(x, sigma)


def test_one_network_batch_serves_all_items():
    physics = inpainting()
    counts = []
    for n in (1, 4):
        prior = Counting(dense_gaussian())
        as_reconstructor(QUICK, prior)(physics(images(n)), physics)
        assert set(prior.batches) == {n}
        counts.append(len(prior.batches))
    assert counts[0] == counts[1]


def test_operators_with_parameters_for_each_item():
    """Another mask and another noise level for each: as each alone."""
    masks = (torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(1)) < 0.7).double()
    sigmas = torch.tensor([0.02, 0.1, 0.3], dtype=torch.float64)
    physics = deepinv.physics.Inpainting(SHAPE, mask=masks).double()
    physics.noise_model = deepinv.physics.GaussianNoise(sigmas)
    truth = images(3)
    y = physics.A(truth) + 0.01
    model = as_reconstructor(QUICK, dense_gaussian(), n_samples=2)
    found = model(y, physics)
    for k in range(3):
        one = deepinv.physics.Inpainting(SHAPE, mask=masks[k]).double()
        one.noise_model = deepinv.physics.GaussianNoise(sigmas[k])
        alone = model(y[k : k + 1], one)
        torch.testing.assert_close(found[k : k + 1], alone, rtol=1e-5, atol=1e-5)


def test_operators_of_ours_come_back_whole():
    """Through `to_deepinv`: the sample that our own problem gives, nonlinear ones included."""
    operator, prior, decode = dense_svd(), dense_gaussian(), Affine(0.5, 1.0, SHAPE)
    physics = to_deepinv(operator, sigma=0.05)
    y = operator(images(1))
    found = as_reconstructor(QUICK, prior)(y, physics)
    problem = InverseProblem(prior, GaussianMisfit(operator, y, 0.05) @ decode, decode)
    expected = sample(problem, QUICK, progress=False).samples
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)

    squared = deepinv.physics.Physics(A=lambda x, **unused: x**2)
    truth = images(2) + 1
    model = as_reconstructor(LMAPS(levels=30, sigma_max=10.0), prior, sigma=0.02)
    fitted = model(squared.A(truth), squared)
    assert float((fitted**2 - truth**2).abs().mean()) < 0.05 * float((truth**2).mean())


# ---------------------------------------------------------------- their denoisers


class GaussianDenoiser(deepinv.models.Denoiser):
    """The exact denoiser of images in [0, 1] of mean 0.5 and of one variance."""

    def __init__(self, variance=0.04):
        super().__init__()
        self.register_buffer("variance", torch.tensor(variance))

    def forward(self, x, sigma, **unused):
        sigma = self._handle_sigma(sigma, batch_size=len(x), ndim=x.ndim, device=x.device)
        weight = self.variance / (self.variance + sigma**2)
        return 0.5 + weight.to(x.dtype) * (x - 0.5)


def test_their_denoisers_are_priors():
    """Of variance v in [0, 1], the Gaussian of variance 4 v in [-1, 1]."""
    prior = from_deepinv_denoiser(GaussianDenoiser(), SHAPE)
    ours = GaussianPrior(torch.zeros(SHAPE), DiagonalCovariance(torch.full(SHAPE, 0.16)))
    x = torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.1, 3.0])
    torch.testing.assert_close(prior(x, sigma), ours(x, sigma))
    assert prior.to(torch.float64)(x.double(), 0.3).dtype == torch.float64
    with pytest.raises(DataError, match=r"must be \(C, H, W\)"):
        from_deepinv_denoiser(GaussianDenoiser(), (6, 5))


def test_their_denoisers_reconstruct_and_their_shape_is_found():
    physics = inpainting().float()
    y = physics(images(2).float())
    ours = GaussianPrior(torch.zeros(SHAPE), DiagonalCovariance(torch.full(SHAPE, 0.16)))
    for solver in (QUICK, DPS(levels=40), DDRM(levels=12)):
        model = as_reconstructor(solver, GaussianDenoiser())
        expected = as_reconstructor(solver, ours)(y, physics)
        torch.testing.assert_close(model(y, physics), expected, rtol=1e-3, atol=1e-4)
    assert not model.prior.training
    network = deepinv.models.DnCNN(1, 1, depth=3, nf=8, pretrained=None)
    assert as_reconstructor(DPS(levels=3), network)(y, physics).shape == y.shape
    double = as_reconstructor(QUICK, GaussianDenoiser())(y.double(), inpainting())
    assert double.dtype == torch.float64


# ---------------------------------------------------------------- errors


def test_noise_level():
    y = inpainting().A(images(1))
    silent, prior = deepinv.physics.Inpainting(SHAPE, mask=1.0).double(), dense_gaussian()
    with pytest.raises(DataError, match=r"has ZeroNoise, which gives no .* sigma=0.01"):
        as_reconstructor(QUICK, prior)(y, silent)
    silent.noise_model = deepinv.physics.PoissonNoise()
    with pytest.raises(DataError, match="has PoissonNoise"):
        as_reconstructor(QUICK, prior)(y, silent)
    silent.noise_model = deepinv.physics.GaussianNoise(0.0)
    with pytest.raises(DataError, match="noise level > 0"):
        as_reconstructor(QUICK, prior)(y, silent)
    known = deepinv.physics.GaussianNoise(0.05)
    given = as_reconstructor(QUICK, prior, sigma=0.05)(y, silent)
    silent.noise_model = known
    torch.testing.assert_close(as_reconstructor(QUICK, prior)(y, silent), given)


def test_what_does_not_fit_is_refused():
    physics = inpainting()
    y = physics(images(1))
    with pytest.raises(DataError, match=r"of images \(1, 6, 5\), the prior of images \(1, 5, 5\)"):
        as_reconstructor(QUICK, dense_gaussian((1, 5, 5)))(y, physics)
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        as_reconstructor(QUICK, dense_gaussian(), n_samples=0)
    blur = deepinv.physics.Blur(torch.ones(1, 1, 3, 3) / 9, padding="circular").double()
    with pytest.raises(ValueError, match="needs a problem that is svd"):
        as_reconstructor(DDRM(levels=3), dense_gaussian(), sigma=0.05)(y, blur)
    curved = deepinv.physics.Physics(A=lambda x, **unused: x**2)
    with pytest.raises(DataError, match=r"give the prior as from_deepinv_denoiser"):
        as_reconstructor(QUICK, GaussianDenoiser(), sigma=0.1)(y, curved)


# ---------------------------------------------------------------- the benchmark's protocol


class Images(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, k):
        return self.images[k]


def test_the_benchmark_runs_it():
    """What `deepinv_bench.run_benchmark(model, name)` does with a model, on a set of our own.

    It sets the device, takes the text of the model as its identity, and lets `deepinv.test` measure
    and score image by image; only its downloads (images, networks of metrics) are left out.
    """
    model = as_reconstructor(QUICK, dense_gaussian(), n_samples=8)
    assert isinstance(model, (deepinv.models.Reconstructor, torch.nn.Module))
    model.to("cpu")
    model.device = "cpu"
    assert "LMAPS(levels=12" in str(model)
    assert str(model) != str(as_reconstructor(QUICK, dense_gaussian(), n_samples=1))
    truth = images(6).float()
    physics = inpainting().float()
    results = deepinv.test(
        model,
        torch.utils.data.DataLoader(Images(truth)),
        physics,
        online_measurements=True,
        device="cpu",
        metrics=[deepinv.loss.metric.PSNR()],
        compare_no_learning=True,
        verbose=False,
        show_progress_bar=False,
    )
    assert {"PSNR", "PSNR_std"} <= set(results)
    assert results["PSNR"] > results["PSNR no learning"] + 5

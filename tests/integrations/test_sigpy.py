"""Operators as SigPy's, and SigPy's as ours."""

import numpy as np
import pytest
import torch
from registries import OPERATORS, dense_gaussian, dense_svd

from lmaps_science.arrays import as_channels
from lmaps_science.integrations.sigpy import from_linop, to_linop
from lmaps_science.io import DataError
from lmaps_science.local_map import ConjugateGradient
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine, LinearOperator
from lmaps_science.physics.mri import MultiCoilMRI
from lmaps_science.priors import DiagonalCovariance, GaussianPrior
from lmaps_science.sampling import InverseProblem, sample
from lmaps_science.solvers import DPS, LMAPS

sigpy = pytest.importorskip("sigpy", reason="needs SigPy: pip install 'lmaps-science[mri]'")
sigpy.mri = pytest.importorskip("sigpy.mri")
LINEAR = [make for make in OPERATORS if isinstance(make(), LinearOperator)]
COMPLEX_IMAGES = [make for make in LINEAR if make().image_shape[0] == 2]


def dot_test(linop, tolerance=1e-12):
    """<v, A x> = <A^H v, x>, Hermitian, over complex arrays."""
    rng = np.random.default_rng(0)
    x, v = (
        rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        for shape in (linop.ishape, linop.oshape)
    )
    y = linop(x)
    apart = abs(np.vdot(v, y) - np.vdot(linop.H(v), x))
    assert apart <= tolerance * np.linalg.norm(v) * np.linalg.norm(y)


@pytest.mark.parametrize("make", LINEAR)
def test_linops_are_the_operator_and_its_hermitian_adjoint(make):
    operator = make()
    linop = to_linop(operator)
    assert tuple(linop.ishape) == operator.image_shape
    dot_test(linop)
    x = np.random.default_rng(1).standard_normal(operator.image_shape)
    y = operator(torch.as_tensor(x)[None])
    np.testing.assert_allclose(linop(x), y[0].numpy(), rtol=1e-12, atol=1e-12)
    back = operator.adjoint(y)[0].numpy()
    found = linop.H(y[0].numpy())
    np.testing.assert_allclose(found.real, back, rtol=1e-9, atol=1e-9 * abs(back).max())


@pytest.mark.parametrize("make", COMPLEX_IMAGES)
def test_complex_images(make):
    operator = make()
    linop = to_linop(operator, complex_image=True)
    assert tuple(linop.ishape) == operator.image_shape[1:]
    dot_test(linop)
    assert linop.H.H(np.ones(linop.ishape)).shape == operator.data_shape


def test_others_are_refused():
    with pytest.raises(DataError, match="to_linop takes linear operators"):
        to_linop(Affine(0.5, 1.0, (1, 6, 5)))
    with pytest.raises(DataError, match=r"takes arrays of shape \(2, 3, 4\), expected \(H, W\)"):
        from_linop(sigpy.linop.Identity((2, 3, 4)))

    class Doubled(sigpy.linop.Identity):
        def _adjoint_linop(self):
            return 2 * sigpy.linop.Identity(self.oshape)

    with pytest.raises(DataError, match="from_linop: the adjoint is not that of the operator"):
        from_linop(Doubled((6, 5)))


@pytest.mark.parametrize("make", [*COMPLEX_IMAGES, dense_svd])
def test_there_and_back_is_the_same(make):
    operator = make()
    is_complex = operator.image_shape[0] == 2
    linop = to_linop(operator, complex_image=is_complex)
    again = from_linop(linop, complex_image=is_complex)
    assert again.image_shape == operator.image_shape
    x = torch.randn((3, *operator.image_shape), dtype=torch.float64)
    y = operator(x)
    torch.testing.assert_close(again(x), y)
    torch.testing.assert_close(again.adjoint(y), operator.adjoint(y))


def maps_and_mask(n=16, coils=3):
    """Smooth maps with a sum of squares of 1, and every other line with a full centre."""
    y, x = np.meshgrid(*2 * [np.linspace(-1, 1, n)], indexing="ij")
    angles = 2 * np.pi * np.arange(coils) / coils
    maps = np.stack(
        [np.exp(-((x - np.cos(a)) ** 2) - (y - np.sin(a)) ** 2 + 1j * a * x) for a in angles]
    )
    maps /= np.sqrt((abs(maps) ** 2).sum(0))
    mask = np.zeros((n, n))
    mask[:, ::2] = mask[:, n // 2 - 2 : n // 2 + 2] = 1
    return maps.astype(np.complex64), mask


def phantom(n=16):
    image = np.zeros((n, n), np.complex64)
    image[3:12, 4:10], image[6:9, 6:14] = 1, 0.5 + 0.5j
    return image


def test_sense_is_our_mri_operator_and_gradients_pass_through():
    maps, _ = maps_and_mask()
    theirs = from_linop(sigpy.mri.linop.Sense(maps))
    ours = MultiCoilMRI(torch.as_tensor(maps), torch.ones(16, 16))
    x = torch.randn((2, 2, 16, 16), generator=torch.Generator().manual_seed(2))
    assert theirs(x).dtype == torch.complex64
    torch.testing.assert_close(theirs(x), ours(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(theirs.adjoint(ours(x)), ours.adjoint(ours(x)), rtol=1e-4, atol=1e-5)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(theirs(x).abs().square().sum() / 2, x)
    torch.testing.assert_close(gradient, ours.normal(x.detach()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("solver", "fraction"),
    [
        (LMAPS(levels=20, kappa1=1.0, local=ConjugateGradient(), sigma_max=10.0), 1e-3),
        (DPS(levels=200), 0.2),
    ],
    ids=["LMAPS", "DPS"],
)
def test_our_solvers_run_with_sense(solver, fraction):
    """A batch of two: the samples that our own operator gives, which fit the data."""
    maps, mask = maps_and_mask()
    image = as_channels(torch.as_tensor(phantom())[None])
    found = []
    for operator in (
        from_linop(sigpy.mri.linop.Sense(maps, weights=mask)),
        MultiCoilMRI(torch.as_tensor(maps), torch.as_tensor(mask)),
    ):
        y = operator(image)
        variance = torch.full((2, 16, 16), 0.3)
        prior = GaussianPrior(torch.zeros(2, 16, 16), DiagonalCovariance(variance))
        decode = Affine(1.0, 0.0, (2, 16, 16))
        misfit = GaussianMisfit(operator, y, 0.01) @ decode
        problem = InverseProblem(prior, misfit, decode)
        found.append(sample(problem, solver, 2, progress=False))
    np.testing.assert_allclose(found[0].samples, found[1].samples, atol=2e-3)
    assert not np.allclose(*found[0].samples, atol=1e-3)
    assert (found[0].misfit[-1] < fraction * float(misfit(torch.zeros(1, 2, 16, 16)))).all()


def test_their_apps_run_with_ours():
    """Least squares and total variation give what they give with SigPy's own operator."""
    maps, mask = maps_and_mask()
    ours = to_linop(MultiCoilMRI(torch.as_tensor(maps), torch.as_tensor(mask)), complex_image=True)
    theirs = sigpy.mri.linop.Sense(maps, weights=mask)
    y = theirs(phantom()).astype(np.complex64)
    quiet = {"show_pbar": False}
    squares = sigpy.app.LinearLeastSquares(ours, y, lamda=1e-3, max_iter=100, **quiet).run()
    recon = sigpy.mri.app.SenseRecon(y, maps, lamda=1e-3, weights=mask, max_iter=100, **quiet).run()
    np.testing.assert_allclose(squares, recon, atol=1e-4)
    assert np.linalg.norm(squares - phantom()) < 0.05 * np.linalg.norm(phantom())

    gradient = sigpy.linop.FiniteDifference(ours.ishape)
    flat = sigpy.app.LinearLeastSquares(
        ours, y, G=gradient, proxg=sigpy.prox.L1Reg(gradient.oshape, 1e-3), max_iter=300, **quiet
    ).run()
    known = sigpy.mri.app.TotalVariationRecon(y, maps, 1e-3, weights=mask, max_iter=300, **quiet)
    np.testing.assert_allclose(flat, known.run(), atol=2e-3)


def test_real_images():
    """(C, H, W) and (H, W) that are real on our side, with complex data."""
    linop = sigpy.linop.FFT((6, 5))
    operator = from_linop(linop, complex_image=False)
    assert operator.image_shape == (1, 6, 5)
    x = torch.randn((2, 1, 6, 5), dtype=torch.float64)
    y = operator(x)
    assert y.is_complex()
    # (SigPy's transform computes in single precision)
    torch.testing.assert_close(operator.adjoint(y), x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(operator.adjoint(1j * y), torch.zeros_like(x), rtol=0, atol=1e-5)
    assert from_linop(sigpy.linop.Identity((3, 6, 5)), complex_image=False).image_shape == (3, 6, 5)
    prior = dense_gaussian()
    misfit = GaussianMisfit(operator, operator(prior.mean[None].double()), 0.05)
    decode = Affine(1.0, 0.0, (1, 6, 5))
    solver = LMAPS(levels=12, kappa1=1.0, local=ConjugateGradient(), sigma_max=10.0)
    samples = sample(InverseProblem(prior, misfit @ decode, decode), solver, progress=False).samples
    np.testing.assert_allclose(samples[0], prior.mean.reshape(1, 6, 5).numpy(), atol=0.2)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sigpy", None)
    with pytest.raises(ImportError, match=r"pip install 'lmaps-science\[mri\]'"):
        to_linop(dense_svd())
    with pytest.raises(ImportError, match="from_linop needs SigPy"):
        from_linop(None)

"""Classical reconstructions: what they minimise, that they reach it, and what they refuse."""

import numpy as np
import pytest
import torch

from lmaps_science import load_problem
from lmaps_science.arrays import norm
from lmaps_science.metrics import magnitudes, psnr
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine
from lmaps_science.physics.mri import MultiCoilMRI
from lmaps_science.physics.sampling import line_mask
from lmaps_science.problems.mri.baselines import sense_reconstruction

sigpy = pytest.importorskip("sigpy", reason="SENSE takes the extra mri")
birdcage_maps = pytest.importorskip("sigpy.mri").birdcage_maps


def scan(shape: tuple[int, int], noise: float = 0.02, dtype=torch.float32):
    """The misfit of three-fold undersampled k-space of a phantom, and the phantom."""
    maps = birdcage_maps((4, *shape), dtype=np.complex128)
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    operator = MultiCoilMRI(maps, line_mask(shape, 3, axis=-2)).to(dtype=dtype)
    image = sigpy.shepp_logan(shape) * np.exp(1j * np.linspace(-1, 1, shape[1]))
    truth = torch.as_tensor(np.stack([image.real, image.imag])[None]).to(dtype)
    generator = torch.Generator().manual_seed(0)
    y = operator(truth)
    y = y + noise * operator.mask * torch.randn(y.shape, generator=generator, dtype=y.dtype)
    return GaussianMisfit(operator, y, noise), truth


@pytest.fixture(scope="module")
def phantom():
    return scan((64, 56))


def objective(misfit, image, regulariser, weight):
    """Half the squared residual, and lambda R."""
    x = torch.complex(image[0, 0], image[0, 1]).numpy()
    if regulariser == "tv":
        penalty = sum(np.abs(x - np.roll(x, 1, axis)).sum() for axis in (0, 1))
    else:
        penalty = np.abs(sigpy.fwt(x, wave_name="db4")).sum()
    residual = misfit.operator(image) - misfit.y
    return float(residual.abs().square().sum() / 2 + weight * penalty)


def test_l2_solves_the_normal_equations():
    misfit, _ = scan((16, 14), dtype=torch.float64)
    operator, weight = misfit.operator, 0.05
    units = torch.eye(2 * 16 * 14, dtype=torch.float64).reshape(-1, 2, 16, 14)
    normal = operator.normal(units).flatten(1)
    right = operator.adjoint(misfit.y).flatten()
    expected = torch.linalg.solve(normal + weight * torch.eye(len(normal)), right)
    found = sense_reconstruction(misfit, "l2", weight, tolerance=1e-8)
    torch.testing.assert_close(found.flatten(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("regulariser", ["wavelet", "tv"])
def test_the_objective_reaches_its_minimum(phantom, regulariser):
    misfit, truth = phantom
    weight = 0.01
    found = sense_reconstruction(misfit, regulariser, weight)
    value = objective(misfit, found, regulariser, weight)
    lowest = objective(misfit, exact(misfit, regulariser, weight), regulariser, weight)
    assert lowest <= value < 1.0005 * lowest
    # and no image around it is better
    generator = torch.Generator().manual_seed(1)
    away = torch.randn(truth.shape, generator=generator)
    for other in (truth, 0 * truth, 0.99 * found, 1.01 * found, found + 0.01 * away):
        assert objective(misfit, other, regulariser, weight) > lowest


def exact(misfit, regulariser, weight, iterations=1500):
    return sense_reconstruction(misfit, regulariser, weight, iterations, tolerance=0)


def test_total_variation_is_that_of_sigpy(phantom):
    """SigPy's primal-dual method, of many more iterations, comes to the same objective."""
    misfit, weight = phantom[0], 0.01
    operator = misfit.operator
    arguments = misfit.y[0].numpy(), operator.maps.numpy(), weight
    options = {"max_iter": 2000, "sigma": 0.1, "tau": 1 / (0.1 * 9.01), "show_pbar": False}
    mask = operator.mask.numpy().astype(np.float32)
    app = sigpy.mri.app.TotalVariationRecon(*arguments, mask, **options)
    image = torch.as_tensor(app.run())
    theirs = torch.stack([image.real, image.imag])[None]
    ours = sense_reconstruction(misfit, "tv", weight)
    values = [objective(misfit, x, "tv", weight) for x in (ours, theirs)]
    assert values[0] == pytest.approx(values[1], rel=1e-3)
    assert float(norm(ours - theirs) / norm(theirs)) < 5e-3


def settled(misfit, regulariser):
    """How far the default is from ten times as many iterations, relative."""
    made = []
    found = sense_reconstruction(misfit, regulariser, 0.01, callback=lambda k, _: made.append(k))
    ten = made[-1] * 10 if made else 1000
    longer = sense_reconstruction(misfit, regulariser, 0.01, ten, tolerance=0)
    return float(norm(found - longer) / norm(longer))


@pytest.mark.parametrize("regulariser", ["l2", "wavelet", "tv"])
def test_ten_times_as_many_iterations_change_nothing(phantom, regulariser):
    assert settled(phantom[0], regulariser) < 1e-3


@pytest.mark.parametrize("regulariser", ["l2", "tv"])
def test_nor_do_they_on_the_measured_slice(data_dir, regulariser):
    path = data_dir / "mri" / "brain_8ch_kspace.npy"
    problem = load_problem("mri/brain_raw", path, prior="gaussian", overrides={"noise.coils": 4})
    assert settled(problem.misfit, regulariser) < 1e-3


@pytest.mark.parametrize("regulariser", ["l2", "tv"])
def test_too_few_iterations_are_told(phantom, regulariser):
    with pytest.warns(UserWarning, match="after 10 iterations the image still moves"):
        sense_reconstruction(phantom[0], regulariser, 0.01, 10)


def test_maps_of_any_norm_give_the_same_image(phantom):
    misfit, _ = phantom
    operator = misfit.operator
    half = GaussianMisfit(MultiCoilMRI(operator.maps / 2, operator.mask), misfit.y, 0.02)
    expected = exact(misfit, "tv", 0.01)
    found = exact(half, "tv", 0.005) / 2
    assert float(norm(found - expected) / norm(expected)) < 1e-3


@pytest.mark.parametrize(("regulariser", "gain"), [("l2", 0.0), ("wavelet", 2.0), ("tv", 4.0)])
def test_it_beats_the_zero_filled_image(phantom, regulariser, gain):
    misfit, truth = phantom
    zero_filled = misfit.operator.adjoint(misfit.y)
    found = sense_reconstruction(misfit, regulariser, 0.01)
    scores = [float(psnr(*magnitudes(x, truth))) for x in (found, zero_filled)]
    assert scores[0] > scores[1] + gain


def test_each_image_of_a_batch_by_itself(phantom):
    misfit, _ = phantom
    both = GaussianMisfit(misfit.operator, torch.cat([misfit.y, 0.5 * misfit.y]), 0.02)
    found = exact(both, "tv", 0.01, 5)
    assert found.shape == (2, 2, 64, 56)
    torch.testing.assert_close(found[:1], exact(misfit, "tv", 0.01, 5))
    halved = GaussianMisfit(misfit.operator, 0.5 * misfit.y, 0.02)
    torch.testing.assert_close(found[1:], exact(halved, "tv", 0.01, 5))


@pytest.mark.parametrize("regulariser", ["l2", "wavelet", "tv"])
def test_global_random_numbers_are_left_alone(phantom, regulariser):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    sense_reconstruction(phantom[0], regulariser, iterations=1, tolerance=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("l1",), "'l1'.*expected 'l2', 'wavelet' or 'tv'"),
        (("tv", -0.1), "a weight >= 0"),
        (("tv", float("nan")), "a weight >= 0"),
        (("tv", 0.1, 0), "at least one iteration"),
    ],
)
def test_wrong_options_are_refused(phantom, arguments, message):
    with pytest.raises(ValueError, match=message):
        sense_reconstruction(phantom[0], *arguments)


def test_other_operators_are_refused(phantom):
    misfit, _ = phantom
    maps, mask = misfit.operator.maps, misfit.operator.mask
    masks = MultiCoilMRI(maps, torch.stack([mask, mask]))
    for operator in (masks, misfit.operator @ Affine(2.0, 0.0, (2, 64, 56))):
        with pytest.raises(ValueError, match=r"maps \(coils, H, W\) and a mask \(H, W\)"):
            sense_reconstruction(GaussianMisfit(operator, misfit.y.expand(2, -1, -1, -1), 0.02))

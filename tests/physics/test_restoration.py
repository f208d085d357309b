"""Degradations of pictures against their definitions, SciPy and Pillow."""

import io

import numpy as np
import pytest
import torch
from instances_restoration import RESTORATION, lopsided
from matplotlib.cbook import get_sample_data
from PIL import Image
from scipy import ndimage

from lmaps_science.arrays import difference, inner
from lmaps_science.operators import Scaling, SVDOperator
from lmaps_science.physics.blur import (
    Blur,
    CircularBlur,
    gaussian_kernel,
    motion_kernel,
    separable_blur,
    uniform_kernel,
)
from lmaps_science.physics.camera import CameraBlur, Clipping, PhaseRetrieval, Quantization
from lmaps_science.physics.jpeg import JPEG, SmoothJPEG, quantization_tables
from lmaps_science.physics.restoration import Inpainting, Separable, pixel_mask, reducing
from lmaps_science.surrogate import Surrogate

F64 = torch.float64


def draw(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=F64)


def hopper(height, width):
    """A real photograph, bytes (height, width, 3)."""
    with get_sample_data("grace_hopper.jpg") as file:
        return np.asarray(Image.open(file).convert("RGB"))[100 : 100 + height, 100 : 100 + width]


# ---------------------------------------------------------------- singular vectors


@pytest.mark.parametrize("make", RESTORATION, ids=lambda make: make.__name__)
def test_singular_vectors_are_orthonormal_and_make_the_operator(make):
    operator = make()
    if not isinstance(operator, SVDOperator):
        pytest.skip("no SVD")
    values = operator.singular_values
    coefficients = draw((2, len(values))) - 0.5
    torch.testing.assert_close(operator.Ut(operator.U(coefficients)), coefficients)
    torch.testing.assert_close(operator.Vt(operator.V(coefficients)), coefficients)
    x, y = draw((2, *operator.image_shape)), draw((2, *operator.data_shape), 1)
    torch.testing.assert_close(operator(x), operator.U(values * operator.Vt(x)))
    torch.testing.assert_close(operator.adjoint(y), operator.V(values * operator.Ut(y)))
    torch.testing.assert_close(
        inner(operator.V(coefficients), x), inner(coefficients, operator.Vt(x))
    )
    assert operator.norm() == pytest.approx(float(values.max()), rel=1e-9)


# ---------------------------------------------------------------- lost pixels


def test_masks_hide_what_they_say():
    random = pixel_mask("random", (40, 50), 0.7, seed=1)
    assert random.sum() == 600
    assert (random != pixel_mask("random", (40, 50), 0.7, seed=2)).any()
    box, expand = pixel_mask("box", (8, 12)), pixel_mask("expand", (8, 12))
    assert (box != expand).all()
    rows, columns = np.nonzero(expand)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 5, 3, 8)
    assert expand.sum() == 4 * 6
    half = pixel_mask("half", (4, 7))
    assert half[:, :4].all()
    assert not half[:, 4:].any()
    grid = pixel_mask("grid", (8, 8))
    assert grid.sum() == 4
    assert grid[0, 4]


def test_inpainting_keeps_pixels_and_no_noise_where_there_are_none():
    from lmaps_science.misfit import GaussianMisfit

    mask = pixel_mask("random", (6, 5), 0.5)
    operator = Inpainting(mask, (3, 6, 5))
    x = draw((1, 3, 6, 5)).float()
    y = operator(x)
    assert (y[..., ~torch.as_tensor(mask)] == 0).all()
    torch.testing.assert_close(y[..., torch.as_tensor(mask)], x[..., torch.as_tensor(mask)])
    noisy = GaussianMisfit(operator, y, 0.1).simulate(x)
    assert ((noisy != 0) == torch.as_tensor(mask)).all()


# ---------------------------------------------------------------- reduction


@pytest.mark.parametrize("factor", [2, 4])
def test_averages_are_means_of_blocks(factor):
    x = draw((2, 3, 8, 12))
    rows, columns = (reducing(n, factor, "average") for n in (8, 12))
    y = Separable(rows, columns, 3, dtype=F64)(x)
    torch.testing.assert_close(y, torch.nn.functional.avg_pool2d(x, factor))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_bicubic_reduction_is_pillows(factor):
    x = draw((48, 64)).numpy().astype(np.float32)
    size = (64 // factor, 48 // factor)
    expected = np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BICUBIC))
    rows, columns = (reducing(n, factor, "bicubic") for n in x.shape)
    y = Separable(rows, columns, 1, dtype=F64)(torch.as_tensor(x, dtype=F64)[None, None])
    np.testing.assert_allclose(y[0, 0], expected, atol=2e-6)
    torch.testing.assert_close(rows.sum(1), torch.ones(48 // factor, dtype=F64))


@pytest.mark.parametrize("smallest", [0.0, 0.2])
def test_singular_vectors_wait_until_they_are_needed_and_keep_their_precision(smallest):
    operator, other = (
        separable_blur(gaussian_kernel(7, 1.5), (1, 9, 8), smallest=smallest, dtype=F64)
        for _ in range(2)
    )
    assert "vectors" not in vars(other @ Scaling(2.0, (1, 9, 8))) | vars(other)
    values = operator.singular_values
    assert difference(operator, other, "operator") is None
    back = operator.to(dtype=torch.float32).to(dtype=F64)
    torch.testing.assert_close(back.singular_values, values, rtol=0, atol=0)
    x = draw((2, 1, 9, 8))
    torch.testing.assert_close(back(x), operator(x), rtol=0, atol=0)
    assert difference(operator, separable_blur(gaussian_kernel(7, 1.4), (1, 9, 8)), "operator")


# ---------------------------------------------------------------- blur


def test_circular_blur_is_a_periodic_convolution():
    x = draw((2, 3, 6, 7))
    y = CircularBlur(lopsided(), (3, 6, 7), dtype=F64)(x)
    expected = ndimage.convolve(x.numpy(), lopsided()[None, None], mode="wrap")
    np.testing.assert_allclose(y, expected, atol=1e-12)


def test_mirrored_blur_is_a_mirrored_convolution():
    x = draw((2, 3, 6, 7))
    y = Blur(lopsided(), (3, 6, 7), dtype=F64)(x)
    expected = ndimage.convolve(x.numpy(), lopsided()[None, None], mode="mirror")
    np.testing.assert_allclose(y, expected, atol=1e-12)


def test_separable_blur_is_the_blur_with_the_outer_product():
    kernel = gaussian_kernel(7, 1.5)
    x = draw((2, 3, 9, 8))
    y = separable_blur(kernel, (3, 9, 8), dtype=F64)(x)
    plain = Blur(np.outer(kernel, kernel), (3, 9, 8), dtype=F64)
    torch.testing.assert_close(y, plain(x))


def test_small_singular_values_are_left_out():
    kernel = uniform_kernel(9)
    whole = separable_blur(kernel, (1, 24, 24), dtype=F64)
    cut = separable_blur(kernel, (1, 24, 24), smallest=0.2, dtype=F64)
    values = whole.singular_values
    assert len(cut.singular_values) == int((values > 0.2 * values.max()).sum()) < len(values)
    x = draw((1, 1, 24, 24))
    assert float((cut(x) - whole(x)).abs().max()) > 1e-3
    circular = CircularBlur(np.outer(kernel, kernel), (1, 24, 24), smallest=0.2, dtype=F64)
    kept = circular.singular_values
    assert ((kept == 0) | (kept > 0.2 * kept.max())).all()
    assert (kept == 0).any()


def test_kernels_have_sum_one_and_a_path_fills_them():
    for kernel in (uniform_kernel(9), gaussian_kernel(61, 3), motion_kernel(61)):
        assert kernel.sum() == pytest.approx(1)
        assert (kernel >= 0).all()
    kernel = motion_kernel(61, 0.5, seed=2)
    rows, columns = np.nonzero(kernel > 1e-6)
    assert max(np.ptp(rows), np.ptp(columns)) > 25
    assert (kernel != motion_kernel(61, 0.5, seed=3)).any()
    straight = motion_kernel(61, 0.0, seed=2)
    assert np.count_nonzero(straight) < 200
    assert ndimage.center_of_mass(kernel) == pytest.approx((30, 30), abs=0.5)


# ---------------------------------------------------------------- cameras


def test_clipping_is_the_papers_on_another_scale():
    x = 2 * draw((1, 3, 4, 5)) - 0.5
    expected = (torch.clip(2 * (2 * x - 1), -1, 1) + 1) / 2
    torch.testing.assert_close(Clipping((3, 4, 5))(x), expected)
    leaking = Clipping((3, 4, 5), leak=0.1)(x)
    torch.testing.assert_close(leaking, expected + 0.1 * ((4 * x - 1) / 2 - expected))


def test_a_leak_tells_a_clipped_guess_of_data_that_are_not():
    camera, guess = Clipping((1, 1, 3)), torch.tensor([[[[-0.2, 0.5, 0.9]]]], dtype=F64)
    seen = Surrogate(camera, Clipping((1, 1, 3), leak=0.02))
    residual = torch.tensor([[[[-0.3, 0.1, 0.4]]]], dtype=F64)
    torch.testing.assert_close(seen(guess), camera(guess))
    slope = residual * torch.tensor([0.04, 2.0, 0.04], dtype=F64)
    torch.testing.assert_close(seen.vjp(guess, residual), slope)
    assert camera.vjp(guess, residual)[..., [0, 2]].eq(0).all()


def test_camera_blur_keeps_grey_and_smears_highlights_more_than_a_linear_one():
    kernel = np.outer(uniform_kernel(5), uniform_kernel(5))
    camera, plain = CameraBlur(kernel, (1, 15, 15), dtype=F64), Blur(kernel, (1, 15, 15), dtype=F64)
    for level in (0.01, 0.2, 0.9):
        grey = torch.full((1, 1, 15, 15), level, dtype=F64)
        torch.testing.assert_close(camera(grey), grey)
    spot = torch.zeros(1, 1, 15, 15, dtype=F64)
    spot[..., 7, 7] = 1
    assert float(camera(spot)[0, 0, 7, 6]) > 4 * float(plain(spot)[0, 0, 7, 6])


def test_phase_retrieval_measures_magnitudes_of_the_padded_picture():
    x = draw((1, 2, 8, 8))
    operator = PhaseRetrieval((2, 8, 8))
    y = operator(x)
    assert y.shape == (1, 2, 12, 12)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    np.testing.assert_allclose(y, np.abs(np.fft.fft2(padded)) / 12, atol=1e-12)
    torch.testing.assert_close(operator(x.flip(-2, -1)), y)


def test_quantisation_rounds_to_its_levels_and_says_that_it_has_no_gradient():
    operator = Quantization((1, 1, 5), 2)
    x = torch.tensor([[[[-0.3, 0.1, 0.4, 0.6, 1.2]]]])
    torch.testing.assert_close(operator(x), torch.tensor([[[[0, 0, 1 / 3, 2 / 3, 1]]]]))
    with pytest.raises(ValueError, match="not differentiable"):
        operator.vjp(x, x)
    surrogate = Surrogate(operator, Scaling(1.0, (1, 1, 5)))
    torch.testing.assert_close(surrogate.vjp(x, x), x)


# ---------------------------------------------------------------- JPEG


@pytest.mark.parametrize("quality", [5, 10, 30, 50, 75, 95])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("size", [(64, 96), (61, 83)])
def test_jpeg_is_pillows(quality, subsampling, size):
    pixels = hopper(*size)
    buffer = io.BytesIO()
    code = {"4:2:0": 2, "4:4:4": 0}[subsampling]
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=code)
    expected = np.asarray(Image.open(buffer)).astype(int)
    x = torch.as_tensor(pixels.copy()).permute(2, 0, 1)[None] / 255
    y = JPEG((3, *size), quality, subsampling)(x)
    got = (255 * y[0]).round().int().permute(1, 2, 0).numpy()
    assert (abs(got - expected) <= 1).mean() >= 0.95


def test_grey_jpeg_and_the_tables_are_pillows():
    pixels = hopper(40, 50)[..., 0].copy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=20)
    read = Image.open(buffer)
    np.testing.assert_array_equal(
        np.array(read.quantization[0]), quantization_tables(20)[0].ravel()
    )
    y = JPEG((1, 40, 50), 20)(torch.as_tensor(pixels)[None, None] / 255)
    got = (255 * y[0, 0]).round().int().numpy()
    assert (abs(got - np.asarray(read).astype(int)) <= 1).mean() >= 0.99


def test_smooth_jpeg_gives_the_same_and_has_a_derivative_that_is_about_the_identity():
    x = 0.2 + 0.6 * draw((2, 3, 24, 32)).float()
    exact, smooth = JPEG((3, 24, 32), 50, "4:4:4"), SmoothJPEG((3, 24, 32), 50, "4:4:4")
    torch.testing.assert_close(smooth(x), exact(x))
    inside = (exact(x) > 0.01) & (exact(x) < 0.99)
    v = torch.randn_like(x)
    same = ((smooth.vjp(x, v) - v).abs() < 0.02)[inside].float().mean()
    assert float(same) > 0.8
    with pytest.raises(ValueError, match="not differentiable"):
        exact.vjp(x, v)


def test_jpeg_of_one_image_does_not_depend_on_its_company():
    x = draw((3, 3, 20, 20)).float()
    operator = JPEG((3, 20, 20), 10)
    torch.testing.assert_close(operator(x)[1:2], operator(x[1:2]))


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Inpainting(np.zeros((4, 4)), (1, 4, 4)), "hides every pixel"),
        (lambda: Inpainting(np.ones((4, 5)), (1, 4, 4)), "mask has shape"),
        (lambda: pixel_mask("disc", (4, 4)), "'box', 'random'"),
        (lambda: pixel_mask("box", (4, 4), 1.5), "share 1.5"),
        (lambda: reducing(10, 4, "average"), "divide the size"),
        (lambda: reducing(10, 1, "bicubic"), "2 or more"),
        (lambda: Blur(np.ones((2, 3)), (1, 8, 8)), "even"),
        (lambda: Blur(np.ones((9, 9)), (1, 8, 8)), "larger than the image"),
        (lambda: CircularBlur(np.zeros((3, 3)), (1, 8, 8)), "not 0 everywhere"),
        (lambda: separable_blur(np.full(3, np.nan), (1, 8, 8)), "finite"),
        (lambda: gaussian_kernel(5, 0), "positive"),
        (lambda: motion_kernel(5, 2.0), "0 to 1"),
        (lambda: Clipping((1, 4, 4), 0.5), "1 or more"),
        (lambda: Clipping((1, 4, 4), 2, 1.5), "leak 1.5, expected between 0 and 1"),
        (lambda: PhaseRetrieval((1, 4, 4), -1), "0 or more"),
        (lambda: Quantization((1, 4, 4), 0), "1 to 16"),
        (lambda: JPEG((3, 8, 8), 0), "quality 0"),
        (lambda: JPEG((2, 8, 8), 5), "2 channels"),
        (lambda: JPEG((3, 8, 8), 5, "4:1:1"), "4:1:1"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()

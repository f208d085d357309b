import numpy as np
import pytest
import torch

from lmaps_science import arrays


@pytest.mark.parametrize("shape", [(2, 1, 6, 8), (2, 3, 5, 7), (1, 1, 6, 5)])
def test_centred_fft_is_the_centred_unitary_sum(shape):
    x = torch.randn(shape, dtype=torch.complex128)
    transforms = []
    for n in shape[-2:]:
        k = np.arange(n) - n // 2
        transforms.append(torch.tensor(np.exp(-2j * np.pi * np.outer(k, k) / n) / np.sqrt(n)))
    expected = transforms[0] @ x @ transforms[1].T
    torch.testing.assert_close(arrays.centred_fft2(x), expected)


def test_complex_and_channels_are_inverse():
    x = torch.randn(3, 2, 4, 5)
    z = arrays.as_complex(x)
    assert z.shape == (3, 4, 5)
    assert z.dtype == torch.complex64
    torch.testing.assert_close(arrays.as_channels(z), x)


def test_inner_products_are_per_sample():
    a, b = (torch.randn(3, 2, 4, dtype=torch.complex128) for _ in range(2))
    expected = torch.stack(
        [torch.vdot(p.flatten(), q.flatten()) for p, q in zip(a, b, strict=True)]
    )
    torch.testing.assert_close(arrays.inner(a, b), expected)
    torch.testing.assert_close(arrays.norm(a) ** 2, arrays.inner(a, a).real)
    assert arrays.per_sample(torch.ones(3), a).shape == (3, 1, 1)


def test_shape_errors_name_owner_expected_and_given():
    with pytest.raises(
        ValueError, match=r"FFT: image has shape \(1, 4, 4\), expected \(B, 1, 4, 4\)"
    ):
        arrays.check_images("FFT", torch.zeros(1, 4, 4), (1, 4, 4))
    with pytest.raises(TypeError, match=r"FFT: image must be a torch.Tensor, got ndarray"):
        arrays.check_images("FFT", np.zeros((1, 1, 4, 4)), (1, 4, 4))
    with pytest.raises(TypeError, match="int64"):
        arrays.check_images("FFT", torch.zeros(1, 1, 4, 4, dtype=torch.int64), (1, 4, 4))


def test_finite_and_positive_errors_say_where():
    with pytest.raises(ValueError, match=r"A: y holds 2 non-finite value\(s\) of 4.*\(0, 1\)"):
        arrays.check_finite("A", "y", torch.tensor([[0.0, torch.nan], [torch.inf, 1.0]]))
    with pytest.raises(ValueError, match="A: sigma must be > 0, its smallest value is -1"):
        arrays.check_positive("A", "sigma", torch.tensor([1.0, -1.0]))


def test_move_keeps_the_original_and_pairs_dtypes():
    class Holder(arrays.Movable):
        def __init__(self):
            self.real, self.complex = torch.zeros(2), torch.zeros(2, dtype=torch.complex64)
            self.index, self.nested = torch.zeros(2, dtype=torch.int64), [torch.zeros(1)]
            self.network = torch.nn.Linear(1, 1)

    holder = Holder()
    moved = holder.to(dtype=torch.float64)
    assert moved.real.dtype == moved.nested[0].dtype == moved.network.weight.dtype == torch.float64
    assert moved.complex.dtype == torch.complex128
    assert moved.index.dtype == torch.int64
    assert holder.real.dtype == holder.network.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_moving_takes_real_floating_point_dtypes(dtype):
    with pytest.raises(TypeError, match="real floating-point dtype"):
        arrays.Movable().to(dtype=dtype)

import numpy as np
import pytest
import torch
from instances_mri import small_maps, some_points
from registries import load_golden

from lmaps_science.arrays import (
    as_channels,
    as_complex,
    centred_fft2,
    norm,
)
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine, LinearOperator
from lmaps_science.physics.mri import MultiCoilMRI, NonCartesianMRI
from lmaps_science.physics.sampling import (
    calibration_region,
    line_mask,
)

GOLDEN = load_golden("multi_coil_mri")
ORIENTATIONS = pytest.mark.parametrize(("name", "axis"), [("vertical", -1), ("horizontal", -2)])


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _inverse(x: torch.Tensor) -> torch.Tensor:
    """The inverse of `centred_fft2`: its conjugate."""
    return centred_fft2(x.conj()).conj()


def golden_mask(name: str, axis: int) -> np.ndarray:
    lines = GOLDEN[f"{name}_mask"]
    return lines[None, :] if axis == -1 else lines[:, None]


# ---------------------------------------------------------------- golden parity


@ORIENTATIONS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_forward_matches_the_benchmark(name, axis, dtype, tolerance):
    operator = MultiCoilMRI(GOLDEN["maps"], golden_mask(name, axis)).to(dtype=dtype)
    x = as_channels(torch.as_tensor(GOLDEN["img"])).to(dtype)
    y = operator(x)[0]
    sampled = torch.as_tensor(np.broadcast_to(golden_mask(name, axis), y.shape[1:]).copy())
    expected = torch.as_tensor(GOLDEN[f"{name}_forward"])
    assert norm((y[:, sampled] - expected.reshape(len(y), -1))[None]) <= tolerance * norm(y[None])
    assert (y[:, ~sampled] == 0).all()


@ORIENTATIONS
def test_loss_and_gradient_match_the_benchmark(name, axis):
    mask = golden_mask(name, axis)
    operator = MultiCoilMRI(GOLDEN["maps"], mask)
    y = torch.as_tensor(GOLDEN["kspace"] * mask)[None]
    x = as_channels(torch.as_tensor(GOLDEN["img"]))
    misfit = GaussianMisfit(operator, y, 1.0)
    gradient, value = misfit.gradient(x)
    squares = 2 * misfit.objective_scale  # the benchmark's loss is the sum of squares
    torch.testing.assert_close(squares * value.double(), torch.as_tensor(GOLDEN[f"{name}_loss"]))
    expected = torch.as_tensor(GOLDEN[f"{name}_grad"])
    assert norm(squares * gradient - expected) <= 1e-5 * norm(expected)


@pytest.mark.parametrize("kind", ["random", "equispaced"])
@pytest.mark.parametrize("acceleration", [4, 8])
def test_masks_match_the_benchmark_bit_for_bit(acceleration, kind):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    for seed in range(4):
        mask = line_mask((320, 320), acceleration, kind=kind, seed=seed)
        lines = GOLDEN[f"mask_320_R{acceleration}_seed{seed}_{kind}"].astype(bool)
        assert (mask == lines).all()
        rows = line_mask((320, 7), acceleration, axis=-2, kind=kind, seed=seed)
        assert (rows == lines[:, None]).all()
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002 - not ours to seed


# ---------------------------------------------------------------- the operator


@pytest.mark.parametrize("shape", [(7, 10), (9, 5), (6, 6), (17, 4), (4, 19)])
@pytest.mark.parametrize("kind", ["columns", "rows", "points", "some columns", "some rows", "all"])
def test_forward_is_the_centred_transform_of_the_coil_images(shape, kind):
    maps, x = small_maps((3, *shape)), images(2, 2, *shape)
    mask = {
        "columns": np.arange(shape[1])[None] % 2 == 0,
        "rows": np.arange(shape[0])[:, None] % 3 != 1,
        "points": images(*shape).numpy() > 0,
        "some columns": (images(*shape).numpy() > 0) & (np.arange(shape[1]) % 3 == 0),
        "some rows": (images(*shape).numpy() > 0) & (np.arange(shape[0])[:, None] % 3 == 0),
        "all": np.ones(shape),
    }[kind]
    operator = MultiCoilMRI(maps, mask)
    expected = torch.as_tensor(mask) * centred_fft2(maps * as_complex(x)[:, None])
    torch.testing.assert_close(operator(x), expected)
    torch.testing.assert_close(operator.normal(x), operator.adjoint(expected))
    everywhere = images(2, 3, *shape, 2, seed=1)
    y = torch.view_as_complex(everywhere)
    seen = maps.conj() * _inverse(torch.as_tensor(mask) * y)
    torch.testing.assert_close(operator.adjoint(y), as_channels(seen.sum(1)))


def test_single_precision_is_kept():
    operator = MultiCoilMRI(small_maps((2, 23, 8)), line_mask((23, 8), 2, axis=-2))
    x, single = images(1, 2, 23, 8), operator.to(dtype=torch.float32)
    y = operator(x)
    for one, two in (
        (single(x.float()), y),
        (single.adjoint(y.to(torch.complex64)), operator.adjoint(y)),
        (single.normal(x.float()), operator.normal(x)),
    ):
        assert one.dtype in (torch.float32, torch.complex64)
        assert (one - two).norm() <= 1e-6 * two.norm()


@pytest.mark.parametrize("shape", [(5, 6), (46, 6)])  # 46: lines by a product of matrices
def test_maps_and_masks_for_each_image_of_the_batch(shape):
    x = images(3, 2, *shape)
    maps = small_maps((3, 2, *shape))
    masks = np.stack([line_mask(shape, 2, axis=-2, seed=seed) for seed in range(3)])
    for s, m in ((maps, masks), (maps, masks[0]), (maps[0], masks), (maps, images(3, *shape) > 0)):
        operator = MultiCoilMRI(s, m)
        y, normal = operator(x), operator.normal(x)
        torch.testing.assert_close(normal, operator.adjoint(y), rtol=0, atol=1e-13)
        for i in range(3):
            one = MultiCoilMRI(s[i] if s.ndim == 4 else s, m[i] if m.ndim == 3 else m)
            torch.testing.assert_close(one(x[i : i + 1])[0], y[i])
            torch.testing.assert_close(one.normal(x[i : i + 1])[0], normal[i])
        with pytest.raises(ValueError, match="batch 2 for maps or masks of batch 3"):
            operator(x[:2])
        with pytest.raises(ValueError, match="batch 1 for maps or masks of batch 3"):
            operator.adjoint(y[:1])
    with pytest.raises(ValueError, match="3 images and masks for 2"):
        MultiCoilMRI(maps, masks[:2])


@pytest.mark.parametrize("method", ["__call__", "adjoint", "normal"])
def test_gradients_pass_through(method):
    operator = MultiCoilMRI(small_maps((2, 3, 4)), line_mask((3, 4), 2, axis=-1, seed=1))
    x = images(1, 2, 3, 4).requires_grad_()
    if method == "adjoint":
        x = operator(x).detach().requires_grad_()
    assert torch.autograd.gradcheck(getattr(operator, method), x)
    assert torch.autograd.gradgradcheck(lambda z: getattr(operator, method)(z).abs() ** 2, x)


def test_unit_norm_maps_and_full_sampling_give_the_identity():
    maps = small_maps((4, 8, 9))
    maps = maps / torch.linalg.vector_norm(maps, dim=0)
    operator, x = MultiCoilMRI(maps, np.ones((8, 9))), images(2, 2, 8, 9)
    torch.testing.assert_close(operator.adjoint(operator(x)), x)
    torch.testing.assert_close(operator.normal(x), x)
    assert operator.norm() == pytest.approx(1)
    assert MultiCoilMRI(maps, line_mask((8, 9), 2)).norm() <= 1 + 1e-9


def test_model_space_keeps_it_linear_and_moves():
    operator = MultiCoilMRI(small_maps((2, 5, 6)), line_mask((5, 6), 2))
    model = operator @ Affine(2.0, 0.0, (2, 5, 6))
    assert isinstance(model.linear, LinearOperator)
    x = images(1, 2, 5, 6)
    torch.testing.assert_close(model(x), 2 * operator(x))
    there_and_back = operator.to(dtype=torch.float32).to("cpu", torch.float64)
    assert (there_and_back(x) - operator(x)).norm() <= 1e-6 * operator(x).norm()
    assert operator.to(dtype=torch.float32)(x.float()).dtype == torch.complex64


@pytest.mark.parametrize(
    ("maps", "mask", "message"),
    [
        (small_maps((2, 5, 6)).real, np.ones((5, 6)), "expected a complex one"),
        (small_maps((1, 5, 6))[0], np.ones((5, 6)), r"expected \(coils, H, W\)"),
        (small_maps((2, 5, 6)) * np.nan, np.ones((5, 6)), "non-finite values"),
        (small_maps((2, 5, 6)) * 0, np.ones((5, 6)), "zero everywhere"),
        (small_maps((2, 5, 6)), np.ones((5, 7)), r"\(5, 7\), expected \(5, 6\), \(1, 6\)"),
        (small_maps((2, 5, 6)), np.ones(6), r"1-D mask of lines needs its axis"),
        (small_maps((2, 5, 6)), np.zeros((5, 6)), "no sample"),
        (small_maps((2, 5, 6)), np.full((5, 6), 0.5), "other than 0 and 1"),
    ],
)
def test_unusable_maps_and_masks_are_refused(maps, mask, message):
    with pytest.raises(ValueError, match=message):
        MultiCoilMRI(maps, mask)


# ---------------------------------------------------------------- sampling


def test_line_masks_keep_the_budget_and_the_centre():
    mask = line_mask((230, 180), 8, axis=-2, seed=3)
    lines = mask.all(axis=1)
    assert (mask == lines[:, None]).all()
    assert lines.sum() == 230 // 8
    rows, columns = calibration_region(mask)
    assert (columns.start, columns.stop) == (0, 180)
    assert rows.stop - rows.start >= 9
    assert line_mask((8, 8), 1).all()
    with pytest.raises(ValueError, match="expected 1 to 180"):
        line_mask((230, 180), 0.5)
    with pytest.raises(ValueError, match="fewer than the 4 central"):
        line_mask((100, 100), 50)
    with pytest.raises(ValueError, match="'random' or 'equispaced'"):
        line_mask((8, 8), 2, kind="uniform")
    with pytest.raises(ValueError, match="axis 2"):
        line_mask((8, 8), 2, axis=2)


def test_the_calibration_region_is_the_full_rectangle_around_the_centre():
    mask = np.zeros((20, 21), dtype=bool)
    mask[7:13, 6:16] = True
    mask[0], mask[13, 8] = True, True
    assert calibration_region(mask) == (slice(7, 13), slice(6, 16))
    assert calibration_region(np.ones((4, 5))) == (slice(0, 4), slice(0, 5))
    mask[10, 10] = False
    with pytest.raises(ValueError, match=r"sample \(10, 10\), is not in the mask"):
        calibration_region(mask)
    with pytest.raises(ValueError, match=r"expected \(H, W\)"):
        calibration_region(mask[0])


# ---------------------------------------------------------------- non-Cartesian


def test_non_cartesian_is_the_fourier_sum():
    pytest.importorskip("finufft")
    maps, x = small_maps((3, 7, 10)), images(2, 2, 7, 10)
    trajectory = some_points(40)
    y = NonCartesianMRI(maps, trajectory)(x)
    p = torch.stack(torch.meshgrid(torch.arange(7) - 3, torch.arange(10) - 5, indexing="ij"))
    phase = torch.einsum("md,dhw->mhw", torch.as_tensor(trajectory), p.double())
    wave = torch.exp(-2j * torch.pi * phase) / 70**0.5
    expected = torch.einsum("mhw,bchw->bcm", wave, maps * as_complex(x)[:, None])
    assert norm(y - expected).max() <= 1e-10 * norm(expected).max()


def test_on_the_grid_non_cartesian_is_cartesian():
    pytest.importorskip("finufft")
    maps, x, n = small_maps((2, 6, 9)), images(1, 2, 6, 9), (6, 9)
    grid = np.meshgrid(*((np.arange(m) - m // 2) / m for m in n), indexing="ij")
    y = NonCartesianMRI(maps, np.stack(grid, -1).reshape(-1, 2))(x)
    expected = MultiCoilMRI(maps, np.ones(n))(x).flatten(2)
    assert norm(y - expected).max() <= 1e-10 * norm(expected).max()


def test_non_cartesian_follows_sigpy():
    pytest.importorskip("finufft")
    sigpy = pytest.importorskip("sigpy")
    maps, x = small_maps((2, 24, 20)), images(1, 2, 24, 20)
    trajectory = some_points(600)
    y = NonCartesianMRI(maps, trajectory)(x)[0]
    seen = (maps * as_complex(x)[:, None][0]).numpy()
    expected = sigpy.nufft(seen, trajectory * (24, 20), oversamp=2, width=6)
    assert np.linalg.norm(y.numpy() - expected) <= 1e-3 * np.linalg.norm(expected)


def test_unusable_trajectories_are_refused():
    pytest.importorskip("finufft")
    maps = small_maps((2, 6, 9))
    for trajectory, message in (
        (np.zeros((5, 3)), r"and \(n, 2\)"),
        (np.full((5, 2), 3.0), "cycles per pixel"),
        (np.full((5, 2), np.nan), "cycles per pixel"),
    ):
        with pytest.raises(ValueError, match=message):
            NonCartesianMRI(maps, trajectory)

"""Operators as DeepInverse's physics, and its physics as our operators."""

import copy

import pytest
import torch
from instances_scattering import two_frequencies
from registries import OPERATORS, DenseSVD, Squares, dense_svd

from lmaps_science.integrations.deepinv import from_deepinv, to_deepinv
from lmaps_science.io import DataError
from lmaps_science.operators import LinearOperator, SVDOperator
from lmaps_science.physics.mri import MultiCoilMRI

try:
    import deepinv
except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another PyTorch
    pytest.skip(
        f"needs DeepInverse and a torchvision built for this PyTorch: "
        f"pip install 'lmaps-science[deepinv]' ({error})",
        allow_module_level=True,
    )
LINEAR = [make for make in OPERATORS if isinstance(make(), LinearOperator)]


def draw(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def channels(y):
    return torch.stack([y.real, y.imag], 1) if y.is_complex() else y


@pytest.mark.parametrize("make", OPERATORS)
def test_physics_are_the_operator(make):
    operator = make()
    physics = to_deepinv(operator)
    linear = isinstance(operator, LinearOperator)
    assert isinstance(physics, deepinv.physics.LinearPhysics) == linear
    assert isinstance(physics, deepinv.physics.Physics)
    assert physics.img_size == operator.image_shape
    assert physics.forw.operator is operator  # nothing is copied
    x = torch.rand((2, *operator.image_shape), dtype=torch.float64) * 0.1
    y = operator(x)
    torch.testing.assert_close(physics.A(x), channels(y))
    torch.testing.assert_close(physics(x), channels(y))  # no noise
    v = torch.complex(draw(y.shape), draw(y.shape, 1)) if y.is_complex() else draw(y.shape)
    expected = operator.vjp(x, v)
    torch.testing.assert_close(physics.A_vjp(x, channels(v)), expected)
    x.requires_grad_()
    (found,) = torch.autograd.grad(physics.A(x), x, channels(v))
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8 * scale)


@pytest.mark.parametrize("make", LINEAR)
def test_adjoints_pass_their_own_test_and_are_differentiable(make):
    operator = make()
    physics = to_deepinv(operator)
    x = draw((2, *operator.image_shape))
    assert float(physics.adjointness_test(x)) < 1e-12
    y = physics.A(x).requires_grad_()
    (found,) = torch.autograd.grad(physics.A_adjoint(y), y, x)
    scale = float(y.detach().abs().max())
    torch.testing.assert_close(found, physics.A(x), rtol=1e-9, atol=1e-9 * scale)
    # twice: networks that are trained contain both
    x.requires_grad_()
    loss = physics.A_adjoint(physics.A(x) ** 2).square().sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    assert torch.autograd.grad(gradient.sum(), x)[0].isfinite().all()


def test_gradients_of_the_vector_jacobian_product():
    physics = to_deepinv(Squares())
    x, v = draw((2, 1, 6, 5)).requires_grad_(), draw((2, 2, 1, 6, 5), 1).requires_grad_()
    assert torch.autograd.gradcheck(physics.A, x)
    assert torch.autograd.gradcheck(physics.A_vjp, (x, v))


def test_torch_func_sees_the_adjoint():
    """Composed physics and `adjoint_function` differentiate by it."""
    operator = dense_svd()
    x, v = draw((2, 1, 6, 5)), draw((2, 9), 1)
    physics = to_deepinv(operator)
    torch.testing.assert_close(torch.func.vjp(physics.A, x)[1](v)[0], operator.adjoint(v))
    automatic = deepinv.physics.adjoint_function(physics.A, (2, 1, 6, 5), dtype=torch.float64)
    torch.testing.assert_close(automatic(v), operator.adjoint(v))


def test_noise_is_that_of_our_convention():
    """sigma^2 = E |n|^2, for real and for complex data."""
    maps = torch.ones((1, 64, 64), dtype=torch.complex64)
    scan = to_deepinv(MultiCoilMRI(maps, torch.ones(64, 64)), sigma=0.3)
    x = torch.zeros(4, 2, 64, 64)
    assert float(scan(x).square().sum(1).mean()) == pytest.approx(0.09, rel=0.05)
    real = to_deepinv(dense_svd(), sigma=0.3)
    assert float(real.noise_model.sigma) == pytest.approx(0.3)
    assert isinstance(to_deepinv(dense_svd()).noise_model, deepinv.physics.ZeroNoise)


def test_physics_move_and_copy():
    operator = dense_svd()
    physics = to_deepinv(operator, sigma=0.1)
    x = draw((1, 1, 6, 5))
    y = physics.A(x)
    for other in (physics.clone(), copy.deepcopy(physics)):
        torch.testing.assert_close(other.A(x), y)
    single = physics.clone().float()
    assert single.A(x.float()).dtype == torch.float32
    assert single.A_adjoint(y.float()).dtype == torch.float32
    torch.testing.assert_close(physics.A(x), y)  # the original stays
    again = single.double()
    torch.testing.assert_close(again.A(x), y, rtol=1e-5, atol=1e-5)
    curved = to_deepinv(two_frequencies())
    image = 0.1 * draw((1, 1, 9, 9)).abs()
    expected = curved.A_vjp(image, curved.A(image))
    moved = curved.clone().float()
    found = moved.A_vjp(image.float(), moved.A(image.float()))
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_their_least_squares_run_on_ours():
    """Minimum-norm solution and proximal map, against dense algebra."""
    operator = dense_svd()
    physics = to_deepinv(operator)
    matrix = operator(torch.eye(30, dtype=torch.float64).reshape(30, 1, 6, 5)).T
    y = draw((2, 9), 3)
    found = physics.A_dagger(y, tol=1e-12, max_iter=500).flatten(1)
    torch.testing.assert_close(found, y @ torch.linalg.pinv(matrix).T, rtol=1e-4, atol=1e-5)
    z = draw((2, 1, 6, 5), 4)
    near = physics.prox_l2(z, y, 0.7, tol=1e-12, max_iter=500).flatten(1)
    normal = 0.7 * matrix.T @ matrix + torch.eye(30, dtype=torch.float64)
    expected = torch.linalg.solve(normal, (0.7 * y @ matrix + z.flatten(1)).T).T
    torch.testing.assert_close(near, expected, rtol=1e-6, atol=1e-6)


def test_an_unrolled_network_of_theirs_trains_through_ours():
    maps = torch.randn((3, 8, 8), dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    physics = to_deepinv(
        MultiCoilMRI(maps / 2, (torch.arange(8) % 2 == 0)[None].float()), sigma=0.01
    )
    torch.manual_seed(0)
    denoiser = deepinv.models.DnCNN(2, 2, depth=3, nf=8, pretrained=None)
    model = deepinv.unfolded.unfolded_builder(
        "PGD",
        params_algo={"stepsize": [0.5] * 3, "g_param": 0.05, "lambda": 1.0},
        trainable_params=["stepsize"],
        data_fidelity=deepinv.optim.data_fidelity.L2(),
        prior=deepinv.optim.prior.PnP(denoiser),
        max_iter=3,
    )
    truth = draw((4, 2, 8, 8), 5, torch.float32)
    y = physics(truth)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = (model(y, physics) - truth).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in denoiser.parameters())


def test_mri_is_their_mri():
    maps = torch.randn((3, 8, 6), dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(6) % 2 == 0).float().expand(8, 6)
    theirs = deepinv.physics.MultiCoilMRI(mask=mask, coil_maps=maps)
    ours = to_deepinv(MultiCoilMRI(maps, mask))
    x = draw((2, 2, 8, 6), dtype=torch.float32)
    torch.testing.assert_close(ours.A(x), theirs.A(x), rtol=1e-4, atol=1e-5)
    y = draw((2, 2, 3, 8, 6), 1, torch.float32)
    torch.testing.assert_close(ours.A_adjoint(y), theirs.A_adjoint(y), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- theirs as ours

SHAPE = (3, 8, 8)
KERNEL = torch.tensor([[[[0.1, 0.2, 0.0], [0.1, 0.3, 0.1], [0.0, 0.1, 0.1]]]])
MASK = (torch.arange(64).reshape(1, 8, 8) % 3 > 0).float()


def denoising():
    return deepinv.physics.Denoising()


def inpainting():
    return deepinv.physics.Inpainting(SHAPE, mask=MASK.expand(SHAPE))


def blur():
    return deepinv.physics.Blur(KERNEL, padding="valid")


def blur_fft():
    return deepinv.physics.BlurFFT(SHAPE, filter=KERNEL)


def downsampling():
    return deepinv.physics.Downsampling(SHAPE, filter="bilinear", factor=2, padding="circular")


def compressed_sensing():
    return deepinv.physics.CompressedSensing(20, SHAPE)


def mri():
    return deepinv.physics.MRI(mask=MASK.expand(2, 8, 8))


def multi_coil_mri():
    maps = torch.randn((4, 8, 8), dtype=torch.complex64)
    return deepinv.physics.MultiCoilMRI(mask=MASK.expand(2, 8, 8), coil_maps=maps)


def composed():
    return blur() * inpainting()


PHYSICS = [
    blur,
    blur_fft,
    composed,
    compressed_sensing,
    denoising,
    downsampling,
    inpainting,
    mri,
    multi_coil_mri,
]
WITH_SVD = denoising, inpainting, mri


@pytest.mark.parametrize("make", PHYSICS)
def test_operators_are_the_physics(make):
    torch.manual_seed(0)
    physics = make()
    shape = (2, 8, 8) if "mri" in make.__name__ else SHAPE
    operator = from_deepinv(physics, shape)
    assert operator.image_shape == shape
    assert isinstance(operator, LinearOperator)
    assert isinstance(operator, SVDOperator) == (make in WITH_SVD)
    x = draw((2, *shape), 1, torch.float32)
    y = physics.A(x)
    assert operator.data_shape == tuple(y.shape[1:])
    torch.testing.assert_close(operator(x), y)
    torch.testing.assert_close(operator.adjoint(y), physics.A_adjoint(y))
    by_autograd = from_deepinv(physics, shape, autograd_adjoint=True)
    torch.testing.assert_close(by_autograd.adjoint(y), physics.A_adjoint(y), rtol=1e-4, atol=1e-4)


# (`CompressedSensing` keeps the precision it was made in)
@pytest.mark.parametrize("make", [make for make in PHYSICS if make is not compressed_sensing])
def test_operators_move_without_the_physics(make):
    """To double precision, complex maps included; the physics itself stays."""
    torch.manual_seed(0)
    physics = make()
    shape = (2, 8, 8) if "mri" in make.__name__ else SHAPE
    operator = from_deepinv(physics, shape)
    moved = operator.to(torch.float64)
    x = draw((2, *shape), 1)
    y = moved(x)
    assert y.dtype == torch.float64
    torch.testing.assert_close(y, operator(x.float()).double(), rtol=1e-4, atol=1e-4)
    v = draw(y.shape, 2)
    apart = (v * y).sum() - (moved.adjoint(v) * x).sum()
    assert abs(float(apart)) < 1e-6 * float(y.norm())
    torch.testing.assert_close(physics.A(x.float()), operator(x.float()))


@pytest.mark.parametrize("make", WITH_SVD)
def test_singular_vectors_are_orthonormal_and_give_the_operator(make):
    physics = make()
    shape = (2, 8, 8) if "mri" in make.__name__ else SHAPE
    operator = from_deepinv(physics, shape)
    assert (operator.singular_values > 0).all()
    c = draw((2, len(operator.singular_values)), 1, torch.float32)
    torch.testing.assert_close(operator.Vt(operator.V(c)), c)
    torch.testing.assert_close(operator.Ut(operator.U(c)), c)
    x = draw((2, *shape), 2, torch.float32)
    found = operator.U(operator.singular_values * operator.Vt(x))
    torch.testing.assert_close(found, physics.A(x))


def test_image_shape_is_that_of_the_physics_where_it_says_so():
    assert from_deepinv(inpainting()).image_shape == SHAPE
    assert from_deepinv(mri()).image_shape == (2, 8, 8)
    with pytest.raises(DataError, match=r"Blur does not say .* Give image_shape"):
        from_deepinv(blur())
    with pytest.raises(DataError, match=r"Inpainting fails for images of \(3, 9, 8\): "):
        from_deepinv(inpainting(), (3, 9, 8))


def test_there_and_back_is_the_same():
    for make in OPERATORS:
        operator = make()
        again = from_deepinv(to_deepinv(operator))
        assert isinstance(again, LinearOperator) == isinstance(operator, LinearOperator)
        x = torch.rand((2, *operator.image_shape), dtype=torch.float64) * 0.1
        y = channels(operator(x))
        torch.testing.assert_close(again(x), y)
        torch.testing.assert_close(
            again.vjp(x, y), operator.vjp(x, operator(x)), rtol=1e-8, atol=1e-8
        )


def test_a_nonlinear_physics_is_an_operator():
    physics = deepinv.physics.Physics(A=lambda x, **unused: x**2)
    operator = from_deepinv(physics, SHAPE)
    assert operator.linear is None
    x, v = draw((2, *SHAPE)), draw((2, *SHAPE), 1)
    torch.testing.assert_close(operator.vjp(x, v), 2 * x * v)


def test_a_wrong_adjoint_is_refused_with_the_number():
    physics = deepinv.physics.LinearPhysics(A=lambda x: 2 * x, A_adjoint=lambda y: 2.1 * y)
    with pytest.raises(
        DataError, match=r"Re <v, A x> = \S+ and Re <A\^H v, x> = \S+ for"
    ) as caught:
        from_deepinv(physics, SHAPE)
    assert "the adjoint is not that of the operator" in str(caught.value)
    operator = from_deepinv(physics, SHAPE, autograd_adjoint=True)
    y = draw((2, *SHAPE))
    torch.testing.assert_close(operator.adjoint(y), 2 * y)


def test_data_of_several_tensors_are_refused():
    with pytest.raises(DataError, match="gives data as TensorList, expected one tensor"):
        from_deepinv(denoising().stack(inpainting()), SHAPE)


def masked_each(n=3):
    masks = torch.rand((n, 1, 8, 8), generator=torch.Generator().manual_seed(6)) < 0.5
    return deepinv.physics.Inpainting(SHAPE, mask=masks.float().expand(n, *SHAPE))


def blurred_each(n=3):
    kernels = torch.rand((n, 1, 3, 3), generator=torch.Generator().manual_seed(6))
    return deepinv.physics.Blur(kernels, padding="circular")


@pytest.mark.parametrize("make", [masked_each, blurred_each])
def test_parameters_of_their_own_for_each_image(make):
    physics = make()
    operator = from_deepinv(physics, SHAPE, batch=3)
    assert operator.batch == 3
    x = draw((3, *SHAPE), 1, torch.float32)
    torch.testing.assert_close(operator(x), physics.A(x))
    rows = torch.tensor([2, 0, 0, 1, 2, 2])
    several, images = operator.select(rows), draw((6, *SHAPE), 2, torch.float32)
    found = several(images)
    for k, row in enumerate(rows.tolist()):
        whole = torch.zeros(3, *SHAPE)
        whole[row] = images[k]
        torch.testing.assert_close(found[k], physics.A(whole)[row])
    back = several.adjoint(found)
    apart = (found * several(images)).sum() - (back * images).sum()
    assert abs(float(apart)) < 1e-4 * float(found.square().sum())
    twice = several.select(torch.tensor([1, 4]))
    torch.testing.assert_close(twice(images[[1, 4]]), found[[1, 4]])
    if make is blurred_each:
        with pytest.raises(DataError, match=r"Blur fails for images of .* batch=N"):
            from_deepinv(physics, SHAPE)


def test_dense_matrices_agree():
    """Compressed sensing of theirs as a matrix of ours."""
    torch.manual_seed(1)
    physics = compressed_sensing()
    operator = from_deepinv(physics, SHAPE)
    columns = operator(torch.eye(192).reshape(192, *SHAPE))
    ours = DenseSVD(columns.T.contiguous(), SHAPE)
    x = draw((2, *SHAPE), 2, torch.float32)
    torch.testing.assert_close(ours(x), physics.A(x), rtol=1e-4, atol=1e-4)
    assert operator.norm() == pytest.approx(ours.norm(), rel=1e-2)

import pytest
import torch
from instances_restoration import STAND_INS, WITHOUT_DERIVATIVE
from registries import OPERATORS, FirstDifference, Squares, dense_svd

from lmaps_science.arrays import inner, norm
from lmaps_science.operators import Affine, LinearOperator, Operator

ALL = pytest.mark.parametrize("make", OPERATORS, ids=lambda make: make.__name__)


def draw(operator: Operator, batch: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, *operator.image_shape), generator=generator, dtype=torch.float64)


def draw_like(y: torch.Tensor) -> torch.Tensor:
    return torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(7))


@ALL
def test_samples_of_a_batch_do_not_mix(make):
    operator = make()
    x = draw(operator)
    y = operator(x)
    assert y.shape[1:] == torch.Size(operator.data_shape)
    for i in range(len(x)):
        torch.testing.assert_close(operator(x[i : i + 1])[0], y[i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [*WITHOUT_DERIVATIVE, *STAND_INS], ids=lambda make: make.__name__)
def test_operators_without_a_derivative_say_so_and_do_not_mix_samples(make):
    operator = make()
    x = 0.5 + 0.2 * draw(operator)
    y = operator(x)
    assert y.shape[1:] == torch.Size(operator.data_shape)
    for i in range(len(x)):
        torch.testing.assert_close(operator(x[i : i + 1])[0], y[i], rtol=1e-12, atol=1e-12)
    if make in WITHOUT_DERIVATIVE:
        with pytest.raises(ValueError, match="not differentiable"):
            operator.pullback(x)


@ALL
def test_vjp_is_the_transposed_derivative(make):
    operator = make()
    x, direction = draw(operator), draw(operator, seed=1)
    v, step = draw_like(operator(x)), 1e-5
    change = (operator(x + step * direction) - operator(x - step * direction)) / (2 * step)
    expected = inner(v, change).real
    torch.testing.assert_close(inner(operator.vjp(x, v), direction), expected, rtol=1e-7, atol=1e-9)
    y, pull = operator.pullback(x)
    torch.testing.assert_close(y, operator(x))
    torch.testing.assert_close(pull(v), operator.vjp(x, v))


@ALL
def test_adjoint_dot_product(make):
    operator = make()
    if not isinstance(operator, LinearOperator):
        pytest.skip("not linear")
    x, y = draw(operator), draw_like(operator(draw(operator)))
    left, right = inner(y, operator(x)).real, inner(operator.adjoint(y), x)
    assert ((left - right).abs() <= 1e-12 * norm(y) * norm(operator(x))).all()
    torch.testing.assert_close(operator.normal(x), operator.adjoint(operator(x)))


@ALL
def test_linear_part_is_the_jacobian_of_affine_maps(make):
    operator = make()
    if operator.linear is None:
        pytest.skip("not affine")
    a, b = draw(operator), draw(operator, seed=1)
    torch.testing.assert_close(operator.linear(a - b), operator(a) - operator(b))


@ALL
def test_float32_follows_float64(make):
    operator = make()
    x = draw(operator)
    single = operator.to(dtype=torch.float32)(x.float())
    assert single.dtype in (torch.float32, torch.complex64)
    y = operator(x)
    assert norm(single.to(y.dtype) - y).max() <= 1e-5 * norm(y).max()
    assert repr(operator)


@ALL
def test_wrong_images_are_refused(make):
    operator = make()
    with pytest.raises(ValueError, match="expected"):
        operator(draw(operator)[:, :, 1:])


def test_norm_is_the_largest_singular_value():
    operator = dense_svd()
    generic = LinearOperator.norm(operator, iterations=500, tolerance=1e-9)
    assert generic == pytest.approx(operator.norm(), rel=1e-5)
    n = FirstDifference.image_shape[-1]
    expected = 2 * torch.cos(torch.tensor(torch.pi / (2 * n))).item()
    assert FirstDifference().norm(iterations=500, tolerance=1e-9) == pytest.approx(
        expected, rel=1e-4
    )


def test_affine_maps_back_and_forth():
    affine = Affine(0.5, 1.0, (1, 2, 2))
    x = torch.tensor([[[[-1.0, 0.0], [1.0, 3.0]]]])
    torch.testing.assert_close(affine(x), (x + 1) / 2)
    torch.testing.assert_close(affine.to_model(affine(x)), x)
    with pytest.raises(ValueError, match="scale 0"):
        Affine(0.0, 1.0, (1, 2, 2))


def test_composition_checks_shapes_and_keeps_linearity():
    with pytest.raises(ValueError, match=r"gives \(1, 6, 4\), the left one takes \(1, 6, 5\)"):
        Squares() @ FirstDifference()
    assert (Squares() @ Affine(0.5, 1.0, (1, 6, 5))).linear is None
    model_space = FirstDifference() @ Affine(0.5, 1.0, (1, 6, 5))
    assert not isinstance(model_space, LinearOperator)
    assert isinstance(model_space.linear, LinearOperator)
    assert "FirstDifference" in repr(model_space)
    assert "0.5" in repr(model_space)


def test_precision_mismatch_says_how_to_move():
    operator = dense_svd()
    for dtype in (torch.float32, torch.complex64):  # a complex image takes the real partner
        x = torch.zeros(1, 1, 6, 5, dtype=dtype)
        with pytest.raises(ValueError, match=r"operator\.to\('cpu', torch\.float32\)"):
            operator(x)
    assert (operator.to("cpu", torch.float32)(torch.zeros(1, 1, 6, 5)) == 0).all()


def test_operators_that_override_only_vjp_share_it_with_pullback():
    class StraightThrough(Operator):
        image_shape = data_shape = (1, 2, 2)

        def _forward(self, x):
            return x.round()

        def _vjp(self, x, v):
            return v

    y, pull = StraightThrough().pullback(torch.full((1, 1, 2, 2), 0.7))
    assert (y == 1).all()
    assert (pull(y) == 1).all()

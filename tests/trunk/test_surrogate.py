"""Surrogate gradients, and operators that say that they have none."""

import pytest
import torch
from registries import (
    SOLVERS,
    FirstDifference,
    Rounded,
    Squares,
    a_positive_image,
    dense_gaussian,
    inverse_problem,
    rounded_surrogate,
)

from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine, Operator, Scaling
from lmaps_science.sampling import sample
from lmaps_science.solvers import DAPS, DPS, LMAPS, VMLMAP, REDDiff
from lmaps_science.surrogate import Surrogate

SHAPE = (1, 6, 5)
ALL = pytest.mark.parametrize("make", SOLVERS, ids=lambda make: make.__name__)


def observed(operator: Operator):
    """Data of an image of the prior, rounded."""
    truth = dense_gaussian().sample(1, torch.Generator().manual_seed(0))
    return truth, inverse_problem(GaussianMisfit(operator, Rounded()(truth), 0.5))


def test_the_residual_is_the_operators_and_the_jacobian_the_stand_ins():
    x = torch.randn(3, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    v = torch.randn_like(x)
    operator = rounded_surrogate()
    y, pull = operator.pullback(x)
    for data in (y, operator(x)):
        assert torch.equal(data, (10 * x).round())
    for product in (pull(v), operator.vjp(x, v)):
        assert torch.equal(product, 10 * v)
    misfit = GaussianMisfit(operator, torch.zeros(1, *SHAPE, dtype=torch.float64), 2.0)
    torch.testing.assert_close(misfit.gradient(x)[0], 10 * (10 * x).round() / 4)  # eq. 17
    assert operator.linear is None
    nonlinear = Surrogate(Squares(), Squares() @ Affine(1.0, 0.0, SHAPE))
    complex_v = torch.complex(v, x)
    torch.testing.assert_close(nonlinear.vjp(x, complex_v), Squares().vjp(x, complex_v))


@ALL
def test_operators_without_a_derivative_are_refused(make):
    _, problem = observed(Rounded())
    with pytest.raises(ValueError, match="needs a problem that is"):
        sample(problem, make(), progress=False)
    assert "differentiable" not in problem.provides


@pytest.mark.parametrize("operator", [Rounded(), Rounded() @ Affine(0.5, 1.0, SHAPE)], ids=repr)
def test_their_gradient_is_an_error_and_not_zero(operator):
    x = a_positive_image(SHAPE)
    for call in (lambda: operator.pullback(x), lambda: operator.vjp(x, x)):
        with pytest.raises(ValueError, match=r"not differentiable.*Surrogate\(operator, Scaling"):
            call()
    with pytest.raises(ValueError, match="not differentiable"):
        GaussianMisfit(operator, operator(x), 0.1).gradient(x)


def test_what_autograd_cannot_follow_is_an_error():
    class Signs(Operator):
        image_shape = data_shape = SHAPE

        def _forward(self, x):
            return (x > 0).to(x)

    with pytest.raises(ValueError, match=r"Signs gives data.*Surrogate"):
        Signs().pullback(a_positive_image(SHAPE))


@pytest.mark.parametrize(
    "solver",
    [LMAPS(30, sigma_max=10.0), DPS(200), DAPS(30), REDDiff(300), VMLMAP(15, 20)],
    ids=repr,
)
def test_solvers_fit_data_through_the_surrogate(solver):
    """As well as through the operator without rounding, whose error is at most 0.05 a pixel."""
    truth, problem = observed(rounded_surrogate())
    found = sample(problem, solver, 4, progress=False)
    middle = dense_gaussian().mean
    assert (found.estimates - truth).square().mean() < 0.05 * (middle - truth).square().mean()


def test_surrogates_compose_and_share_a_batch():
    parts = [observed(rounded_surrogate() @ Affine(1.0, 0.0, SHAPE))[1] for _ in range(2)]
    composed = parts[0].misfit.operator
    x, v = a_positive_image(SHAPE), a_positive_image(SHAPE)
    assert torch.equal(composed.vjp(x, v), 10 * v)
    assert "differentiable" in composed.provides
    assert composed.linear is None
    assert Operator.stack([rounded_surrogate(), rounded_surrogate()])(x).shape == (1, *SHAPE)
    assert rounded_surrogate().to(dtype=torch.float32)(x.float()).dtype == torch.float32


def test_calls_are_counted():
    _, problem = observed(rounded_surrogate())
    counts = sample(problem, DPS(5), progress=False).counts
    assert counts["operator_calls"] == counts["operator_vjps"] == 5


@pytest.mark.parametrize(
    ("stand_in", "message"),
    [
        (Scaling(1.0, (1, 5, 6)), "take and give the shapes"),
        (FirstDifference(), "take and give the shapes"),
        (Rounded(), "says that it is not differentiable"),
    ],
    ids=["image", "data", "rounded"],
)
def test_stand_ins_that_do_not_fit_are_refused(stand_in, message):
    with pytest.raises(ValueError, match=message):
        Surrogate(Rounded(), stand_in)

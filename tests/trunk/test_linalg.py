import pytest
import torch

from lmaps_science.linalg import conjugate_gradient, lbfgs


class Counted:
    """A function, and how often it was called."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, x):
        self.calls += 1
        return self.function(x)


def systems(batch: int = 4, size: int = 12):
    """Positive definite (B, d, d) of growing condition, and right-hand sides (B, 2, d/2)."""
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(batch, size, size, generator=generator, dtype=torch.float64))[0]
    decay = torch.linspace(0, 1, size, dtype=torch.float64)
    values = torch.stack([10.0 ** (-k * decay) for k in range(batch)])
    b = torch.randn(batch, 2, size // 2, generator=generator, dtype=torch.float64)
    return q @ (values[:, :, None] * q.mT), b


def product(matrices):
    return lambda x: torch.einsum("bij,bj->bi", matrices, x.flatten(1)).reshape(x.shape)


def solved(matrices, b):
    return torch.linalg.solve(matrices, b.flatten(1)).reshape(b.shape)


# ---------------------------------------------------------------- conjugate gradients


def test_cg_solves_to_its_tolerance():
    matrices, b = systems()
    x = conjugate_gradient(product(matrices), b, iterations=200, tolerance=1e-12)
    torch.testing.assert_close(x, solved(matrices, b), rtol=1e-8, atol=1e-8)
    loose = conjugate_gradient(product(matrices), b, iterations=200, tolerance=1e-3)
    residual = (product(matrices)(loose) - b).flatten(1).norm(dim=1)
    assert (residual <= 1.001e-3 * b.flatten(1).norm(dim=1)).all()


def test_cg_ends_after_one_product_per_distinct_eigenvalue():
    matrices, b = systems(batch=1)
    one = Counted(product(torch.eye(12, dtype=torch.float64)[None] * 3))
    torch.testing.assert_close(conjugate_gradient(one, b), b / 3)
    assert one.calls == 1
    twelve = Counted(product(systems(batch=2)[0][1:]))
    conjugate_gradient(twelve, b, tolerance=1e-9)
    assert twelve.calls <= 13
    few = Counted(product(matrices))
    conjugate_gradient(few, b, iterations=0)
    assert few.calls == 0


def test_cg_starts_where_it_is_told():
    matrices, b = systems()
    exact = solved(matrices, b)
    counted = Counted(product(matrices))
    torch.testing.assert_close(conjugate_gradient(counted, b, x0=exact), exact, rtol=1e-9, atol=0)
    assert counted.calls == 1  # the residual says that there is nothing to do
    start = torch.ones_like(b)
    x = conjugate_gradient(product(matrices), b, x0=start, iterations=200, tolerance=1e-12)
    torch.testing.assert_close(x, exact, rtol=1e-8, atol=1e-8)
    assert (start == 1).all()


def test_cg_of_a_sample_does_not_depend_on_its_company():
    matrices, b = systems()
    for iterations in (3, 50):  # unfinished, and some samples finished long before others
        whole = conjugate_gradient(product(matrices), b, iterations=iterations)
        for k in range(len(b)):
            alone = conjugate_gradient(product(matrices[[k]]), b[[k]], iterations=iterations)
            torch.testing.assert_close(alone[0], whole[k], rtol=1e-12, atol=1e-12)


def test_cg_gives_the_smallest_solution_of_a_singular_system():
    matrix = torch.diag(torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64))[None]
    b = torch.tensor([[2.0, 3.0, 0.0]], dtype=torch.float64)
    x = conjugate_gradient(product(matrix), b)
    torch.testing.assert_close(x, torch.tensor([[1.0, 3.0, 0.0]], dtype=torch.float64))
    beyond = conjugate_gradient(product(matrix), b + torch.tensor([[0.0, 0.0, 1.0]]))
    assert torch.isfinite(beyond).all()  # no solution exists


def test_cg_of_nothing_is_nothing():
    matrices, b = systems()
    counted = Counted(product(matrices))
    assert (conjugate_gradient(counted, torch.zeros_like(b)) == 0).all()
    assert counted.calls == 0


# ---------------------------------------------------------------- L-BFGS


def quadratic(matrices, b):
    def gradient(x):
        ax = product(matrices)(x)
        return ax - b, (x * (0.5 * ax - b)).flatten(1).sum(1)

    return gradient


def rosenbrock(x):
    a, b = x[:, 0], x[:, 1]
    value = (1 - a) ** 2 + 100 * (b - a**2) ** 2
    by_b = 200 * (b - a**2)
    return torch.stack([-2 * (1 - a) - 2 * a * by_b, by_b], 1), value


STARTS = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [3.0, -2.0], [1.0, 1.0]], dtype=torch.float64)


def test_lbfgs_minimises_quadratics():
    matrices, b = systems(batch=3)
    x = lbfgs(quadratic(matrices, b), torch.zeros_like(b), iterations=200, tolerance=0)
    torch.testing.assert_close(x, solved(matrices, b), rtol=1e-5, atol=1e-5)


def test_lbfgs_minimises_rosenbrock():
    x = lbfgs(rosenbrock, STARTS, iterations=150, tolerance=0)
    torch.testing.assert_close(x, torch.ones_like(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("iterations", [1, 2, 5, 17])
def test_lbfgs_keeps_to_its_evaluations_and_never_goes_up(iterations):
    counted = Counted(rosenbrock)
    x = lbfgs(counted, STARTS, iterations=iterations, tolerance=0, first_step=10.0)
    assert counted.calls <= iterations
    assert (rosenbrock(x)[1] <= rosenbrock(STARTS)[1]).all()
    if iterations == 1:
        assert torch.equal(x, STARTS)


def test_lbfgs_stops_when_little_is_left():
    matrices, b = systems(batch=3)
    loose, tight = (Counted(quadratic(matrices, b)) for _ in range(2))
    lbfgs(loose, torch.zeros_like(b), iterations=200, tolerance=1e-2)
    lbfgs(tight, torch.zeros_like(b), iterations=200, tolerance=1e-8)
    assert loose.calls < tight.calls < 200


@pytest.mark.parametrize("iterations", [4, 60])
def test_lbfgs_of_a_sample_does_not_depend_on_its_company(iterations):
    def run(x):
        return lbfgs(rosenbrock, x, iterations=iterations, memory=4, tolerance=1e-4)

    whole = run(STARTS)
    for k in range(len(STARTS)):
        torch.testing.assert_close(run(STARTS[[k]])[0], whole[k], rtol=1e-10, atol=1e-10)


def test_lbfgs_gets_past_infinite_and_undefined_values():
    def walled(x):  # -log(x) + x: undefined beyond 0, minimum at 1
        return (1 - 1 / x), (x - x.log()).flatten(1).sum(1)

    start = torch.tensor([[5.0], [0.1]], dtype=torch.float64)
    x = lbfgs(walled, start, iterations=60, first_step=20.0, tolerance=0)
    torch.testing.assert_close(x, torch.ones_like(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("at", ["value", "gradient"])
def test_what_is_not_finite_at_the_start_is_not_taken_for_a_minimum(at):
    def broken(x):
        g, f = rosenbrock(x)
        bad = torch.tensor([torch.nan, 0.0, 0.0, 0.0], dtype=x.dtype)
        return (g, f + bad) if at == "value" else (g + bad[:, None], f)

    x = lbfgs(broken, STARTS, iterations=20)
    assert x[0].isnan().all()
    torch.testing.assert_close(x[1:], lbfgs(rosenbrock, STARTS[1:], iterations=20))
    matrices, b = systems(batch=3)
    b[1, 0] = torch.nan
    found = conjugate_gradient(product(matrices), b)
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()


def test_lbfgs_has_the_pairs_of_the_textbook():
    """Algorithm 7.5 with a memory of every sample's own: a rejected step is no pair of it."""

    def textbook(x, memory, iterations):
        (g, f), pairs, t = rosenbrock(x), [], 1.0
        d = -0.5 * g / g.norm()
        for _ in range(iterations - 1):
            g_new, f_new = rosenbrock(x + t * d)
            slope = (g * d).sum()
            if f_new > f + 1e-4 * t * slope:
                best = -slope * t / (2 * ((f_new - f) / t - slope))
                t = min(max(float(best), 0.1 * t), 0.5 * t)
                continue
            s, y = t * d, g_new - g
            if (s * y).sum() > 1e-10 * s.norm() * y.norm():
                pairs = [*pairs, (s, y)][-memory:]
            x, g, f, t = x + t * d, g_new, f_new, 1.0
            q, alphas = g, []
            for s, y in reversed(pairs):
                alphas.append((s * q).sum() / (s * y).sum())
                q = q - alphas[-1] * y
            s, y = pairs[-1]
            q = q * (s * y).sum() / (y * y).sum()
            for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
                q = q + (alpha - (y * q).sum() / (s * y).sum()) * s
            d = -q
        return x

    options = {"iterations": 15, "memory": 3, "tolerance": 0}
    x = lbfgs(rosenbrock, STARTS[:3], first_step=0.5, **options)
    for k in range(3):
        expected = textbook(STARTS[[k]], 3, 15)
        torch.testing.assert_close(x[[k]], expected, rtol=1e-8, atol=1e-8)


def test_lbfgs_leaves_a_minimum_alone():
    start = torch.ones(2, 2, dtype=torch.float64)
    counted = Counted(rosenbrock)
    assert torch.equal(lbfgs(counted, start), start)
    assert counted.calls == 1

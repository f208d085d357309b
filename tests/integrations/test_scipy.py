"""Operators as SciPy's and PyLops', and theirs as ours."""

import numpy as np
import pytest
import scipy.sparse
import torch
from registries import OPERATORS, DenseSVD, dense_gaussian
from scipy.sparse.linalg import LinearOperator as Matrix
from scipy.sparse.linalg import lsqr, svds

from lmaps_science.integrations.scipy import from_scipy, to_scipy
from lmaps_science.io import DataError
from lmaps_science.local_map import ConjugateGradient
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine, LinearOperator, Scaling
from lmaps_science.physics.mri import MultiCoilMRI
from lmaps_science.sampling import InverseProblem, sample
from lmaps_science.solvers import LMAPS

LINEAR = [make for make in OPERATORS if isinstance(make(), LinearOperator)]
NONLINEAR = [make for make in OPERATORS if not isinstance(make(), LinearOperator)]
COMPLEX_IMAGES = [make for make in LINEAR if make().image_shape[0] == 2]


def normal(rng, dtype, *shape):
    values = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        values = values + 1j * rng.standard_normal(shape)
    return values.astype(dtype)


def dot_test(matrix, tolerance=1e-12):
    """<v, A x> = <A^H v, x>, Hermitian, of vectors of the matrix's dtype."""
    rng = np.random.default_rng(0)
    x = normal(rng, matrix.dtype, matrix.shape[1])
    v = normal(rng, matrix.dtype, matrix.shape[0])
    y = matrix.matvec(x)
    apart = abs(np.vdot(v, y) - np.vdot(matrix.rmatvec(v), x))
    assert apart <= tolerance * np.linalg.norm(v) * np.linalg.norm(y)


@pytest.mark.parametrize("make", LINEAR)
def test_matrix_and_transpose_are_those_of_the_operator(make):
    operator, rng = make(), np.random.default_rng(1)
    matrix = to_scipy(operator)
    dot_test(matrix)
    assert matrix.dtype == np.float64
    x = rng.standard_normal((2, *operator.image_shape))
    y = operator(torch.as_tensor(x)).numpy()
    vectors = y.reshape(2, -1).view(np.float64)
    columns = matrix.matmat(x.reshape(2, -1).T)
    np.testing.assert_allclose(columns.T, vectors, rtol=1e-9, atol=1e-9 * abs(vectors).max())
    back = operator.adjoint(torch.as_tensor(y)).numpy().reshape(2, -1)
    found = matrix.rmatmat(vectors.T).T
    np.testing.assert_allclose(found, back, rtol=1e-9, atol=1e-9 * abs(back).max())


@pytest.mark.parametrize("make", COMPLEX_IMAGES)
def test_complex_images_have_a_complex_matrix(make):
    operator = make()
    matrix = to_scipy(operator, complex_image=True)
    dot_test(matrix)
    assert matrix.dtype == np.complex128
    assert matrix.dims == operator.image_shape[1:]
    x = normal(np.random.default_rng(2), matrix.dtype, *matrix.dims)
    channels = torch.as_tensor(np.stack([x.real, x.imag]))[None]
    y = operator(channels)[0].numpy()
    np.testing.assert_allclose(matrix @ x.ravel(), y.ravel(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", NONLINEAR)
def test_nonlinear_operators_are_refused(make):
    with pytest.raises(DataError, match=r"takes linear operators, and .* is not one"):
        to_scipy(make())


def test_operators_without_complex_images_are_refused():
    (real,) = [make() for make in LINEAR if make.__name__ == "dense_svd"]
    with pytest.raises(DataError, match="for images \\(2, H, W\\) and complex data"):
        to_scipy(real, complex_image=True)

    class Channels(LinearOperator):
        """Two channels that are two images."""

        image_shape, data_shape = (2, 3, 4), (2, 3, 4)

        def _forward(self, x):
            return torch.complex(x, torch.zeros_like(x))

    with pytest.raises(DataError, match=r"needs A\(i x\) = i A\(x\), and .* by 1.4 of"):
        to_scipy(Channels(), complex_image=True)


def test_operators_of_a_batch_are_refused_and_one_image_is_not():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn((2, 3, 4, 5), generator=generator, dtype=torch.complex128)
    operator = MultiCoilMRI(maps, torch.ones(4, 5))
    with pytest.raises(DataError, match="for a batch of 2: take one"):
        to_scipy(operator)
    one = operator.select(torch.tensor([1]))
    dot_test(to_scipy(one))
    several = to_scipy(one).matmat(np.eye(40)[:, :3])
    alone = to_scipy(MultiCoilMRI(maps[1], torch.ones(4, 5))).matmat(np.eye(40)[:, :3])
    np.testing.assert_allclose(several, alone, atol=1e-12)


def test_single_precision_stays_single():
    maps = torch.randn((3, 4, 5), dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    operator = MultiCoilMRI(maps, torch.ones(4, 5))
    assert to_scipy(operator).dtype == np.float32
    assert to_scipy(operator, complex_image=True).dtype == np.complex64
    assert to_scipy(operator).matvec(np.ones(40)).dtype == np.float32
    dot_test(to_scipy(operator), 1e-6)


def test_lsqr_and_svds_run_on_ours():
    (operator,) = [make() for make in LINEAR if make.__name__ == "mri_points"]
    matrix = to_scipy(operator)
    dense = matrix @ np.eye(matrix.shape[1])
    x = np.random.default_rng(3).standard_normal(matrix.shape[1])
    y = dense @ x
    found = lsqr(matrix, y, atol=1e-12, btol=1e-12)[0]
    np.testing.assert_allclose(found, np.linalg.lstsq(dense, y)[0], atol=1e-8)
    values = svds(matrix, k=3, return_singular_vectors=False, rng=0)
    exact = np.linalg.svd(dense, compute_uv=False)[:3]
    np.testing.assert_allclose(np.sort(values)[::-1], exact, rtol=1e-10)
    assert operator.norm(2000, 1e-12) == pytest.approx(exact[0], rel=1e-4)


# ---------------------------------------------------------------- theirs as ours


def sparse_matrix(rows=11, columns=30):
    return scipy.sparse.random_array((rows, columns), density=0.3, rng=np.random.default_rng(4))


def test_matrices_of_any_kind_are_the_same_operator():
    sparse = sparse_matrix()
    generator = torch.Generator().manual_seed(5)
    x = torch.randn((3, 1, 6, 5), generator=generator, dtype=torch.float64)
    expected = x.flatten(1) @ torch.as_tensor(sparse.toarray()).T
    kinds = sparse, sparse.tocsr(), sparse.toarray(), scipy.sparse.linalg.aslinearoperator(sparse)
    for matrix in kinds:
        operator = from_scipy(matrix, (1, 6, 5))
        torch.testing.assert_close(operator(x), expected)
        assert operator.data_shape == (11,)
    shaped = from_scipy(sparse_matrix(12), (1, 6, 5), data_shape=(3, 4))
    assert shaped(x).shape == (3, 3, 4)
    assert shaped(x.float()).dtype == torch.float32
    assert shaped.adjoint(shaped(x.float())).dtype == torch.float32


def test_there_and_back_is_the_same():
    for make in LINEAR:
        operator = make()
        again = from_scipy(to_scipy(operator), operator.image_shape)
        x = torch.randn((2, *operator.image_shape), dtype=torch.float64)
        y = operator(x)
        numbers = torch.view_as_real(y.resolve_conj()) if y.is_complex() else y
        torch.testing.assert_close(again(x), numbers.reshape(again(x).shape), rtol=1e-9, atol=1e-9)


def test_gradients_pass_through():
    operator = from_scipy(sparse_matrix(), (1, 6, 5))
    x = torch.randn((2, 1, 6, 5), dtype=torch.float64, requires_grad=True)
    y = torch.randn((2, 11), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(operator, x)
    assert torch.autograd.gradgradcheck(operator, x)
    assert torch.autograd.gradcheck(operator.adjoint, y)


def test_complex_matrices_of_real_and_of_complex_images():
    rng = np.random.default_rng(6)
    matrix = rng.standard_normal((7, 12)) + 1j * rng.standard_normal((7, 12))
    real = from_scipy(matrix, (1, 3, 4))
    x = torch.randn((2, 2, 3, 4), dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(real(x[:, :1]).numpy(), x[:, 0].flatten(1).numpy() @ matrix.T)
    image = torch.complex(x[:, 0], x[:, 1]).flatten(1).numpy()
    found = from_scipy(matrix, (2, 3, 4), complex_image=True)
    np.testing.assert_allclose(found(x).numpy(), image @ matrix.T, rtol=1e-12)
    back = found.adjoint(found(x)).numpy()
    expected = (image @ matrix.T) @ matrix.conj()
    np.testing.assert_allclose(back[:, 0].reshape(2, -1), expected.real, rtol=1e-10)
    np.testing.assert_allclose(back[:, 1].reshape(2, -1), expected.imag, rtol=1e-10)


def test_what_does_not_fit_is_refused():
    sparse = sparse_matrix()
    with pytest.raises(DataError, match=r"does not say what images it takes\. Give their shape"):
        from_scipy(sparse)
    with pytest.raises(DataError, match=r"\(1, 6, 6\) does not fit .* product 30"):
        from_scipy(sparse, (1, 6, 6))
    with pytest.raises(DataError, match=r"\(2, H, W\) with H W = 30"):
        from_scipy(sparse, (1, 6, 5), complex_image=True)
    with pytest.raises(DataError, match=r"data_shape .* has product 12"):
        from_scipy(sparse, (1, 6, 5), data_shape=(3, 4))
    with pytest.raises(DataError, match=r"has no transpose .* rmatvec=adjoint"):
        from_scipy(Matrix(sparse.shape, matvec=lambda x: sparse @ x), (1, 6, 5))
    wrong = Matrix(
        sparse.shape, matvec=lambda x: sparse @ x, rmatvec=lambda y: 1.01 * (sparse.T @ y)
    )
    with pytest.raises(DataError, match=r"the adjoint is not that of the operator: Re <v, A x> ="):
        from_scipy(wrong, (1, 6, 5))


def test_a_solver_runs_with_a_sparse_matrix():
    """The same matrix, dense in PyTorch, gives the same sample."""
    sparse, shape = sparse_matrix(), (1, 6, 5)
    truth = dense_gaussian().mean
    found = []
    for operator in (
        from_scipy(sparse, shape),
        DenseSVD(torch.as_tensor(sparse.toarray()), shape),
    ):
        y = operator(torch.ones_like(truth)[None]) + 0.05
        misfit = GaussianMisfit(operator, y, 0.1) @ Affine(0.5, 1.0, shape)
        problem = InverseProblem(dense_gaussian(), misfit, Affine(0.5, 1.0, shape))
        solver = LMAPS(levels=12, kappa1=1.0, local=ConjugateGradient(), sigma_max=10.0)
        found.append(sample(problem, solver, 2, progress=False).samples)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


# ---------------------------------------------------------------- PyLops


def test_pylops_operators_bring_their_shapes():
    pylops = pytest.importorskip(
        "pylops", reason="needs pylops: pip install 'lmaps-science[pylops]'"
    )
    derivative = pylops.FirstDerivative((6, 5), axis=1, kind="forward")
    operator = from_scipy(derivative)
    assert (operator.image_shape, operator.data_shape) == ((1, 6, 5), (6, 5))
    x = torch.randn((2, 1, 6, 5), dtype=torch.float64)
    torch.testing.assert_close(operator(x)[..., :-1], x[:, 0].diff(dim=-1))
    complexes = from_scipy(
        pylops.signalprocessing.FFT2D((6, 5), dtype=complex, norm="ortho"), complex_image=True
    )
    assert (complexes.image_shape, complexes.data_shape) == ((2, 6, 5), (6, 5))
    image = torch.randn((2, 2, 6, 5), dtype=torch.float64)
    spectrum = torch.fft.fft2(torch.complex(image[:, 0], image[:, 1]), norm="ortho")
    torch.testing.assert_close(complexes(image), spectrum)
    with pytest.raises(DataError, match="does not say what images"):
        from_scipy(pylops.MatrixMult(np.ones((3, 30))))


def test_pylops_solvers_run_on_ours():
    pylops = pytest.importorskip(
        "pylops", reason="needs pylops: pip install 'lmaps-science[pylops]'"
    )
    (ours,) = [make() for make in LINEAR if make.__name__ == "dense_svd"]
    matrix = pylops.aslinearoperator(to_scipy(ours @ Scaling(2.0, ours.image_shape)))
    assert matrix.dims == ours.image_shape
    assert pylops.utils.dottest(matrix, rtol=1e-10)
    y = np.random.default_rng(8).standard_normal(matrix.shape[0])
    found = pylops.cgls(matrix, y, niter=100, tol=1e-14)[0]
    dense = to_scipy(ours) @ np.eye(30) * 2
    np.testing.assert_allclose(found.ravel(), np.linalg.lstsq(dense, y)[0], atol=1e-6)

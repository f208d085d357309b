"""The decomposition of the Born approximation: against LAPACK, exact solves, the cache."""

import numpy as np
import pytest
import torch
from instances_scattering import random_data, random_images, small_geometry

import lmaps_science.physics.born_svd as born_svd
from lmaps_science.arrays import inner, norm
from lmaps_science.operators import Scaling, SVDOperator
from lmaps_science.physics.born_svd import BornSVD, cache_file
from lmaps_science.physics.scattering import BornScattering, ScatteringGeometry


def dense(operator):
    """The real matrix (2 n_data, N^2), real parts above imaginary ones."""
    n = operator.image_shape[-1]
    unit = torch.eye(n * n, dtype=torch.float64).reshape(-1, 1, n, n)
    columns = operator(unit).flatten(1)
    return torch.cat([columns.real, columns.imag], dim=1).T


@pytest.fixture(scope="module", params=["few receivers", "rank deficient", "masked", "physical"])
def pair(request):
    """The operator, and its decomposition."""
    options = {"conjugate_incident": request.param != "physical", "dtype": torch.float64}
    if request.param == "rank deficient":  # 64 receivers, of which fewer than 20 count
        geometry = ScatteringGeometry(8, 1.0, 1.5, [0, 100, 200], np.arange(64) * 5.6, 2.0, 3.0)
    else:
        mask = np.random.default_rng(0).random((3, 7)) < 0.7 if request.param == "masked" else None
        geometry = small_geometry(mask=mask)
    operator = BornScattering(geometry, **options)
    return operator, BornSVD(operator, tolerance=1e-5, cache=None)


def test_singular_values_are_those_of_the_dense_matrix(pair):
    operator, svd = pair
    exact = torch.linalg.svdvals(dense(operator))
    exact = exact[exact > 1e-5 * exact[0]]
    assert len(svd.singular_values) == len(exact)
    torch.testing.assert_close(svd.singular_values, exact, rtol=0.02, atol=0)
    above = exact > 1e-3 * exact[0]
    torch.testing.assert_close(svd.singular_values[above], exact[above], rtol=1e-6, atol=0)
    assert svd.norm() == pytest.approx(float(exact[0]))


def test_singular_vectors_are_orthonormal_and_rebuild_the_operator(pair):
    operator, svd = pair
    unit = torch.eye(len(svd.singular_values), dtype=torch.float64)
    torch.testing.assert_close(svd.Vt(svd.V(unit)), unit, rtol=0, atol=1e-6)
    torch.testing.assert_close(svd.Ut(svd.U(unit)), unit, rtol=0, atol=1e-2)
    x = random_images(operator.image_shape[-1], 2)
    rebuilt = svd.U(svd.singular_values * svd.Vt(x))
    assert (norm(rebuilt - operator(x)) <= 1e-5 * svd.norm() * norm(x)).all()
    y, c = random_data(operator, 2), svd.Vt(x)
    torch.testing.assert_close(inner(svd.Ut(y), c), inner(y, svd.U(c)).real)


def test_single_precision_vectors_are_orthonormal_too():
    """Or the noise of the weakest data is not what the methods that use them are told."""
    geometry = ScatteringGeometry.benchmark(60, npix=24)
    svd = BornSVD(BornScattering(geometry, conjugate_incident=True), cache=None)
    assert svd.singular_values.max() > 900 * svd.singular_values.min()
    unit = torch.eye(len(svd.singular_values))
    torch.testing.assert_close(svd.Vt(svd.V(unit)), unit, rtol=0, atol=1e-6)
    torch.testing.assert_close(svd.Ut(svd.U(unit)), unit, rtol=0, atol=1e-3)


def test_it_stays_a_decomposition_when_scaled(pair):
    operator, svd = pair
    scaled = svd @ Scaling(-0.5, operator.image_shape)
    assert isinstance(scaled, SVDOperator)
    y = operator(random_images(operator.image_shape[-1]))
    explained = scaled.V(scaled.Ut(y) / scaled.singular_values)
    gap = norm(scaled(explained) - y)
    assert (gap < 1e-3 * norm(y)).all()


def test_cache_is_used_again_and_knows_every_parameter(tmp_path, monkeypatch):
    operator = BornScattering(small_geometry(), dtype=torch.float64)
    first = BornSVD(operator, cache=tmp_path)
    monkeypatch.setattr(born_svd, "decompose", None)  # a second computation would fail
    second = BornSVD(operator, cache=tmp_path)
    torch.testing.assert_close(second.right, first.right, rtol=0, atol=0)
    mask = np.ones((3, 7), bool)
    mask[0, 0] = False
    geometries = [
        small_geometry(10),
        small_geometry(9, 8),
        small_geometry(mask=mask),
        ScatteringGeometry(9, 1.0, 6 / 9, [10, 130, 280], np.arange(7) * 360 / 7, 1.5, 1.1),
        ScatteringGeometry(9, 1.0, 0.7, [10, 130, 280], np.arange(7) * 360 / 7 + 2.5, 1.5, 1.1),
        ScatteringGeometry(9, 1.0, 6 / 9, [10, 130, 280], np.arange(7) * 360 / 7 + 2.5, 1.6, 1.1),
        ScatteringGeometry(9, 1.0, 6 / 9, [10, 130, 280], np.arange(7) * 360 / 7 + 2.5, 1.5, 1.2),
        ScatteringGeometry(9, 1.1, 6 / 9, [10, 130, 280], np.arange(7) * 360 / 7 + 2.5, 1.5, 1.1),
        ScatteringGeometry(9, 1.0, 6 / 9, [10, 130, 281], np.arange(7) * 360 / 7 + 2.5, 1.5, 1.1),
    ]
    operators = [BornScattering(geometry, dtype=torch.float64) for geometry in geometries]
    operators += [
        BornScattering(small_geometry()),
        BornScattering(small_geometry(), tolerance=1e-6, dtype=torch.float64),
        BornScattering(small_geometry(), conjugate_incident=True, dtype=torch.float64),
    ]
    files = {cache_file(operator, 1e-3, tmp_path), cache_file(operator, 1e-2, tmp_path)}
    files |= {cache_file(other, 1e-3, tmp_path) for other in operators}
    assert len(files) == 2 + len(operators)
    assert list(tmp_path.iterdir()) == [cache_file(operator, 1e-3, tmp_path)]


def test_refuses_a_tolerance_that_double_precision_cannot_resolve():
    with pytest.raises(ValueError, match="tolerance 1e-09"):
        BornSVD(BornScattering(small_geometry()), tolerance=1e-9, cache=None)

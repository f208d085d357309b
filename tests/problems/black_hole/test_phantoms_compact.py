"""Random compact sources: reproducible, in range, of all families, half of them without a ring."""

import subprocess
import sys

import numpy as np
import pytest

from lmaps_science.problems.black_hole.compact_painters import PAINTERS
from lmaps_science.problems.black_hole.compact_sources import FAMILIES, HOLLOW, CompactSources
from lmaps_science.problems.black_hole.phantoms import BlackHoleImages


@pytest.fixture(scope="module")
def many():
    return CompactSources(seed=4).batch(0, 300)


def test_images_are_normalised_and_finite(many):
    assert many.shape == (300, 1, 64, 64)
    assert many.dtype == np.float32
    assert np.isfinite(many).all()
    assert many.min() >= 0
    np.testing.assert_allclose(many.max(axis=(1, 2, 3)), 1.0, rtol=1e-6)


def test_the_field_contains_the_source(many):
    border = np.concatenate([many[:, 0, [0, -1]], many[:, 0, :, [0, -1]].swapaxes(0, 1)], axis=1)
    assert np.quantile(border.max(axis=(1, 2)), 0.95) < 0.1
    assert many.max() / np.median(many.sum(axis=(1, 2, 3))) < 0.05, "mostly more than a point"


def test_item_depends_on_seed_and_index_alone():
    a, b = CompactSources(seed=1), CompactSources(seed=2)
    np.testing.assert_array_equal(a[7], a.batch(5, 4)[2])
    np.testing.assert_array_equal(a[7], CompactSources(seed=1)[7])
    assert np.abs(a[7] - b[7]).max() > 0.1
    assert np.abs(a[7] - a[8]).max() > 0.1
    assert np.abs(a[7] - BlackHoleImages(seed=1)[7]).max() > 0.1


def test_item_is_the_same_in_another_process():
    code = (
        "from lmaps_science.problems.black_hole.compact_sources import CompactSources;"
        "import hashlib; print(hashlib.sha256(CompactSources(seed=3).batch(9, 9)).hexdigest())"
    )
    run = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert run[0].stdout == run[1].stdout != ""


def test_families_have_their_shares_and_at_most_half_have_a_cavity():
    assert sum(FAMILIES.values()) == pytest.approx(1.0)
    assert sum(FAMILIES[name] for name in HOLLOW) <= 0.5
    assert FAMILIES.keys() == PAINTERS.keys()
    images = CompactSources(seed=0)
    found = [images.family(k) for k in range(2000)]
    for name, share in FAMILIES.items():
        assert found.count(name) / len(found) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("name", PAINTERS)
@pytest.mark.parametrize("fov", [20.0, 160.0, 400.0])
def test_every_painter_is_finite_and_not_negative_in_any_field(name, fov):
    axis = (np.arange(48) - 23.5) * fov / 48
    y, x = np.meshgrid(axis, axis, indexing="ij")
    for seed in range(20):
        image = PAINTERS[name](np.random.default_rng(seed), x, y)
        assert np.isfinite(image).all()
        assert image.min() >= 0
        assert image.max() > 0


def test_size_scales_the_same_scene():
    coarse, fine = CompactSources(32, 160.0, seed=9), CompactSources(64, 160.0, seed=9)
    for k in range(12):
        small = fine[k][0].reshape(32, 2, 32, 2).mean((1, 3))
        assert np.corrcoef(small.ravel(), coarse[k][0].ravel())[0, 1] > 0.85


@pytest.mark.parametrize("bad", [{"npix": 4}, {"fov_uas": 0.0}, {"fov_uas": -10.0}])
def test_refuses(bad):
    with pytest.raises(ValueError, match="Example"):
        CompactSources(**bad)
    with pytest.raises(IndexError):
        CompactSources()[-1]

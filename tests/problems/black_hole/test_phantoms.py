"""Random black-hole images: reproducible, in range, and of all three families."""

import subprocess
import sys

import numpy as np
import pytest

from lmaps_science.problems.black_hole.phantoms import BlackHoleImages


def test_images_are_normalised_and_finite():
    images = BlackHoleImages(seed=4).batch(0, 60)
    assert images.shape == (60, 1, 64, 64)
    assert images.dtype == np.float32
    assert np.isfinite(images).all()
    assert images.min() >= 0
    np.testing.assert_allclose(images.max(axis=(1, 2, 3)), 1.0, rtol=1e-6)


def test_item_depends_on_seed_and_index_alone():
    a, b = BlackHoleImages(seed=1), BlackHoleImages(seed=2)
    np.testing.assert_array_equal(a[7], a.batch(5, 4)[2])
    assert np.abs(a[7] - b[7]).max() > 0.1
    assert np.abs(a[7] - a[8]).max() > 0.1


def test_item_is_the_same_in_another_process():
    code = (
        "from lmaps_science.problems.black_hole.phantoms import BlackHoleImages;"
        "import hashlib; print(hashlib.sha256(BlackHoleImages(seed=3)[11].tobytes()).hexdigest())"
    )
    run = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert run[0].stdout == run[1].stdout != ""


def test_all_families_occur_and_a_share_has_no_ring():
    images = BlackHoleImages(seed=0)
    families = [images.family(k) for k in range(400)]
    assert set(families) == {"disc", "ring", "other"}
    assert 0.2 < families.count("other") / len(families) < 0.4


def test_size_and_field_of_view_scale_the_same_scene():
    coarse, fine = BlackHoleImages(32, 160.0, seed=9), BlackHoleImages(64, 160.0, seed=9)
    for k in range(5):
        small = fine[k][0].reshape(32, 2, 32, 2).mean((1, 3))
        # Not the same to the pixel: hot spots are placed on the pixels of the finer grid.
        assert np.corrcoef(small.ravel(), coarse[k][0].ravel())[0, 1] > 0.85


@pytest.mark.parametrize("bad", [{"npix": 4}, {"fov_uas": 0.0}, {"fov_uas": -10.0}])
def test_refuses(bad):
    with pytest.raises(ValueError, match="Example"):
        BlackHoleImages(**bad)
    with pytest.raises(IndexError):
        BlackHoleImages()[-1]

"""Random nuclei: reproducible, in range, inside the field, and the same scene at any size."""

import numpy as np
import pytest
from scipy import ndimage

from lmaps_science.problems.scattering.phantoms import NucleiImages


@pytest.fixture(scope="module")
def images():
    return NucleiImages(seed=4).batch(0, 80)


def test_images_are_normalised_and_finite(images):
    assert images.shape == (80, 1, 128, 128)
    assert images.dtype == np.float32
    assert np.isfinite(images).all()
    assert images.min() == 0
    peaks = images.max(axis=(1, 2, 3))
    assert peaks.min() >= 0.45 - 1e-6
    assert peaks.max() == pytest.approx(1, abs=1e-6)


def test_nuclei_lie_inside_a_dark_field(images):
    border = np.concatenate([images[:, 0, [0, -1]].ravel(), images[:, 0, :, [0, -1]].ravel()])
    assert border.max() < 0.1
    covered = (images > 0.2).mean(axis=(1, 2, 3))
    assert 0.02 < covered.min() < covered.max() < 0.5
    assert np.median(images) < 0.01


def test_one_to_six_nuclei_alone_or_touching(images):
    parts = np.array([ndimage.label(image[0] > 0.15)[1] for image in images])
    assert parts.min() >= 1
    assert parts.max() <= 6
    assert len(np.unique(parts)) >= 4


def test_nuclei_have_texture(images):
    """Inside, the brightness varies at the scale of a few pixels."""
    inside = ndimage.binary_erosion(images[0, 0] > 0.3 * images[0].max(), iterations=3)
    fine = images[0, 0] - ndimage.gaussian_filter(images[0, 0], 4.0)
    assert fine[inside].std() > 0.02 * images[0, 0][inside].mean()


def test_item_depends_on_seed_and_index_alone():
    a, b = NucleiImages(seed=1), NucleiImages(seed=2)
    np.testing.assert_array_equal(a[7], a.batch(5, 4)[2])
    assert np.abs(a[7] - b[7]).max() > 0.1
    assert np.abs(a[7] - a[8]).max() > 0.1


@pytest.mark.parametrize("npix", [64, 256])
def test_another_size_shows_the_same_scene(npix):
    for k in range(5):
        sized, reference = NucleiImages(npix, seed=9)[k][0], NucleiImages(seed=9)[k][0]
        fine, coarse = (sized, reference) if npix > 128 else (reference, sized)
        n = len(coarse)
        small = fine.reshape(n, 2, n, 2).mean((1, 3))
        assert np.corrcoef(small.ravel(), coarse.ravel())[0, 1] > 0.99


def test_refuses():
    with pytest.raises(ValueError, match="Example"):
        NucleiImages(npix=8)
    with pytest.raises(IndexError):
        NucleiImages()[-1]

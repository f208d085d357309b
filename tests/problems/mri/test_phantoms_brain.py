"""Slices of heads: reproducible, complex, of the stated scale, from any anatomy."""

import importlib.util

import numpy as np
import pytest
import torch

from lmaps_science.problems.mri.phantoms import Anatomy, BrainSlices


@pytest.fixture(scope="module")
def anatomy():
    """Nested ellipsoids of 180 mm, and a photograph of noise."""
    axes = torch.linspace(-1, 1, 60)
    z, y, x = torch.meshgrid(axes, axes, axes, indexing="ij")
    radius = (z**2 + (y / 0.9) ** 2 + (x / 0.8) ** 2).sqrt()
    head = (radius < 0.95) * (0.4 + 0.4 * torch.cos(9 * radius))
    grey, white = ((radius < 0.8) & (radius > 0.6)).float(), (radius <= 0.6).float()
    generator = torch.Generator().manual_seed(0)
    return Anatomy(
        head=head,
        brain=head * (radius < 0.8),
        fat=((radius > 0.85) & (radius < 0.95)).float(),
        tissues=torch.stack([grey, white, (radius < 0.2).float()]),
        photographs=(torch.rand(150, 200, generator=generator),),
        voxel_mm={"head": 3.0, "brain": 3.0, "fat": 3.0, "tissues": 3.0},
    )


def test_items_depend_on_seed_and_index_alone(anatomy):
    slices = BrainSlices(48, 0, anatomy)
    batch = slices.batch(3, 3)
    assert batch.shape == (3, 2, 48, 48)
    assert batch.dtype == np.float32
    for k in range(3):
        np.testing.assert_array_equal(batch[k], BrainSlices(48, 0, anatomy)[3 + k])
    assert not np.allclose(batch[0], BrainSlices(48, 1, anatomy)[3])


def test_items_are_what_they_were(anatomy):
    """Published tables name them by seed and index: only another seed may change an image."""
    item, whole = BrainSlices(32, 2, anatomy)[1], BrainSlices(32, 2, anatomy, whole=True)[1]
    np.testing.assert_allclose(item[:, 16, 16], [0.18467419, 0.31299523], rtol=1e-3)
    np.testing.assert_allclose(whole[:, 16, 16], [-0.00345648, 0.00078161], rtol=1e-2)
    assert np.abs(item).mean() == pytest.approx(0.21942523, rel=1e-4)
    assert np.abs(whole).mean() == pytest.approx(0.06367757, rel=1e-4)


def test_images_are_complex_and_of_unit_scale(anatomy):
    images = BrainSlices(64, 0, anatomy).batch(0, 40)
    magnitude = np.hypot(images[:, 0], images[:, 1])
    assert np.isfinite(images).all()
    # The 99th percentile of the slice is 1; of a crop it is less where the crop misses the tissue.
    assert 0.8 < np.median(np.percentile(magnitude, 99, axis=(1, 2))) < 1.5
    power = (images**2).mean(axis=(0, 2, 3))
    assert power[0] == pytest.approx(power[1], rel=0.3)
    assert (magnitude < 0.02).mean() > 0.1, "air"


def test_whole_heads_lie_within_the_field_of_view(anatomy):
    images = BrainSlices(64, 0, anatomy, whole=True).batch(0, 20)
    magnitude = np.hypot(images[:, 0], images[:, 1])
    edge = np.concatenate([magnitude[:, [0, -1]].ravel(), magnitude[:, :, [0, -1]].ravel()])
    assert edge.max() < 0.05
    assert (magnitude.max((1, 2)) > 0.5).all()


def test_the_phase_of_fat_differs_from_that_of_water(anatomy):
    """The phase is smooth but between scalp and brain, where it jumps in 6 of 10 heads."""
    jumps = []
    for item in BrainSlices(64, 0, anatomy, whole=True).batch(0, 40):
        image = item[0] + 1j * item[1]
        turned = image[:, 1:] * image[:, :-1].conj()
        jumps.append(np.abs(np.angle(turned[np.abs(turned) > 0.02])).max())
    assert 0.15 < np.mean(np.array(jumps) > 0.8) < 0.5, "half of the items are heads"


def test_refuses_what_it_cannot_draw(anatomy):
    with pytest.raises(ValueError, match="npix >= 16, got 8"):
        BrainSlices(8, 0, anatomy)
    with pytest.raises(IndexError, match="no end"):
        BrainSlices(32, 0, anatomy)[-1]


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    Anatomy.installed.cache_clear()
    with pytest.raises(ImportError, match=r"nilearn: pip install 'lmaps-science\[brain\]'"):
        BrainSlices()

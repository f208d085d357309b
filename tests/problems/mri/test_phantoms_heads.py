"""The wider set of heads: reproducible, in the contrasts of MR sequences, from any specimen."""

import importlib.metadata

import numpy as np
import pytest
import torch

from lmaps_science.cards.registry import recipes
from lmaps_science.problems.mri.contrasts import (
    TISSUES,
    head_contrast,
    random_sequence,
    sequence_signal,
    tissue_contrast,
)
from lmaps_science.problems.mri.heads import Heads, Specimen, Specimens, _places, _second_head
from lmaps_science.problems.mri.volumes import brain_share, denoised, filled, scalp_fat

LEVELS = (0.15, 0.43, 0.64)  # fluid, grey and white matter


def shells(voxels: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """A head that ends at the neck, and radii: scalp, bone, fluid, grey and white matter."""
    axes = torch.linspace(-1, 1, voxels)
    z, y, x = torch.meshgrid(axes, axes, axes, indexing="ij")
    radius = (z**2 + (y / 0.9) ** 2 + (x / 0.8) ** 2).sqrt()
    head = torch.zeros_like(radius)
    for outer, value in ((0.95, 0.8), (0.82, 0.05), (0.72, 0.43), (0.6, 0.64), (0.15, 0.15)):
        head[radius < outer] = value
    return head, radius


@pytest.fixture(scope="module")
def sources():
    """Nested ellipsoids of 180 mm, with a scalp and without, and a photograph of noise."""
    head, radius = shells()
    maps = torch.stack([(radius < 0.75).float(), ((radius > 0.82) & (radius < 0.95)).float()])
    grey, white = ((radius < 0.72) & (radius > 0.6)).float(), (radius <= 0.6).float()
    size = torch.tensor([180.0, 180.0, 180.0])
    return Specimens(
        specimens=(
            Specimen(head, maps, LEVELS, size, 0.5),
            Specimen.stripped(head * (radius < 0.75), LEVELS, 3.0, 0.2),
        ),
        tissues=torch.stack([grey, white, (radius < 0.15).float()]),
        photographs=(torch.rand(150, 200, generator=torch.Generator().manual_seed(0)),),
    )


def test_items_depend_on_seed_and_index_alone(sources):
    heads = Heads(48, 0, sources)
    batch = heads.batch(3, 3)
    assert batch.shape == (3, 2, 48, 48)
    assert batch.dtype == np.float32
    for k in range(3):
        np.testing.assert_array_equal(batch[k], Heads(48, 0, sources)[3 + k])
    assert not np.allclose(batch[0], Heads(48, 1, sources)[3])


def test_images_are_complex_and_of_unit_scale(sources):
    images = Heads(64, 0, sources).batch(0, 60)
    magnitude = np.hypot(images[:, 0], images[:, 1])
    assert np.isfinite(images).all()
    assert 0.8 < np.median(np.percentile(magnitude, 99, axis=(1, 2))) < 1.5
    power = (images**2).mean(axis=(0, 2, 3))
    assert power[0] == pytest.approx(power[1], rel=0.3)
    assert (magnitude < 0.02).mean() > 0.1, "air"


def test_shares_choose_what_is_drawn(sources):
    """Photographs of noise hold no air, slices of heads do."""
    only = Heads(32, 0, sources, tissues=0.0, photographs=1e6).batch(0, 5)
    never = Heads(32, 0, sources, tissues=0.0, photographs=0.0).batch(0, 5)
    air = [(np.hypot(b[:, 0], b[:, 1]) < 0.02).mean() for b in (only, never)]
    assert air[0] < 0.05
    assert air[1] > 0.15


def test_signal_equations_have_their_limits():
    tissue = np.array([[0.8, 1.0, 0.1]])
    assert sequence_signal(tissue, 100.0, 0.0, 0.0) == pytest.approx(0.8)
    assert sequence_signal(tissue, 1.0, 0.0, 0.1) == pytest.approx(0.8 * (1 - np.e**-1) / np.e)
    assert sequence_signal(tissue, 100.0, np.log(2), 0.0) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("times", "order"),
    [
        ((0.5, 0.0, 0.01), ["white", "grey", "fluid"]),
        ((4.0, 0.0, 0.1), ["fluid", "grey", "white"]),
        ((9.0, 2.4, 0.11), ["grey", "white", "fluid"]),
    ],
    ids=["T1", "T2", "FLAIR"],
)
def test_tissues_are_as_bright_as_in_their_sequence(times, order):
    signals = dict(
        zip(TISSUES, sequence_signal(np.array(list(TISSUES.values())), *times), strict=True)
    )
    brightest_first = sorted(order, key=lambda tissue: -signals[tissue])
    assert brightest_first == order


def test_a_head_is_a_mixture_of_its_tissues():
    signals = torch.tensor([0.9, 0.5, 0.3, 0.2, 0.8])  # fluid, grey, white, muscle, fat
    contrast = head_contrast(signals, LEVELS)
    intensity = torch.tensor([[0.15, 0.43, 0.64, 0.4, 0.8, 0.0]])
    brain = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    fat = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0, 0.0]])
    found = contrast(torch.stack([intensity, brain, fat]))
    torch.testing.assert_close(found, torch.tensor([[0.9, 0.5, 0.3, 0.2, 0.8, 0.0]]))
    fractions = torch.eye(3)[:, None]  # grey, white, fluid
    torch.testing.assert_close(tissue_contrast(signals)(fractions), torch.tensor([[0.5, 0.3, 0.9]]))


def test_sequences_are_of_unit_scale_and_differ():
    drawn = torch.stack([random_sequence(np.random.default_rng(k)) for k in range(50)])
    torch.testing.assert_close(drawn.amax(1), torch.ones(50))
    bright_fluid = (drawn[:, 0] > drawn[:, 2]).float().mean()
    assert 0.2 < bright_fluid < 0.6, "T2 and proton density"


def test_finds_the_brain_and_the_fat_of_a_head():
    head, radius = shells(160)
    head, radius = head[:120], radius[:120]  # open at the neck
    inside = radius < 0.95
    assert (filled(head) == inside).float().mean() > 0.99
    brain, fat = brain_share(head, *LEVELS[1:]), scalp_fat(head, filled(head))
    for found, truth in ((brain > 0.5, radius < 0.72), (fat > 0.5, inside & (radius > 0.82))):
        overlap = 2 * (found & truth).sum() / (found.sum() + truth.sum())
        assert overlap > 0.95


def test_denoising_keeps_edges():
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(20, 20, 20)
    truth[10:] = 1.0
    noisy = truth + 0.02 * torch.randn(truth.shape, generator=generator)
    found = denoised(noisy, 0.1)
    assert (found - truth).std() < 0.4 * (noisy - truth).std()


def test_planes_are_bent_but_hardly_fold():
    folded = []
    for k in range(20):
        rows, columns, depth = _places(np.random.default_rng(k), 64, 2.0)
        across = torch.stack([rows.diff(dim=0)[:, :-1], columns.diff(dim=1)[:-1]])
        folded.append((across < 0).float().mean())
        assert depth.std() > 0
    assert np.mean(folded) < 0.01


def test_the_recipe_takes_the_weights_of_brain():
    assert recipes()["heads"].config == recipes()["brain"].config


def test_refuses_what_it_cannot_draw(sources):
    with pytest.raises(ValueError, match="npix >= 16, got 8"):
        Heads(8, 0, sources)
    with pytest.raises(IndexError, match="no end"):
        Heads(32, 0, sources)[-1]


def test_missing_packages_are_named(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(ImportError, match=r"pycortex: pip install 'lmaps-science\[heads\]'"):
        _second_head()
    monkeypatch.setattr(importlib.metadata, "files", lambda name: [])
    with pytest.raises(FileNotFoundError, match="lacks the anatomy"):
        _second_head()

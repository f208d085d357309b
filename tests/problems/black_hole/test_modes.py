"""Samples that explain the data in different ways are told apart, and ranked."""

import numpy as np
import pytest

from lmaps_science.problems.black_hole.modes import find_modes

Y, X = np.mgrid[-15.5:16, -15.5:16]


def ring(radius=8.0, x=0.0, y=0.0):
    return np.exp(-0.5 * ((np.hypot(X - x, Y - y) - radius) / 1.5) ** 2)


def blob(x=0.0, y=0.0):
    return np.exp(-0.5 * ((X - x) ** 2 + (Y - y) ** 2) / 9.0)


def test_modes_are_ranked_by_frequency_whatever_position_scale_and_order():
    images = np.stack([blob(3), ring(), 5 * ring(8.3, 2, -3), blob(-2, 1), ring(7.8, -4)])
    misfit = np.array([1.0, 9.0, 5.0, 2.0, 7.0])
    modes = find_modes(images, misfit, blur_pixels=3.0)
    np.testing.assert_array_equal(modes.labels, [1, 0, 0, 1, 0])
    assert modes.best == 2
    order = np.array([4, 0, 2, 1, 3])
    again = find_modes(images[order], misfit[order], blur_pixels=3.0)
    np.testing.assert_array_equal(again.labels, modes.labels[order])
    assert order[again.best] == modes.best


def test_among_equally_frequent_modes_the_better_fit_comes_first():
    modes = find_modes(np.stack([ring(), blob()]), np.array([2.0, 1.0]), blur_pixels=3.0)
    np.testing.assert_array_equal(modes.labels, [1, 0])
    assert modes.best == 1


def test_one_sample_is_one_mode():
    modes = find_modes(ring()[None], np.array([3.0]), blur_pixels=3.0)
    np.testing.assert_array_equal(modes.labels, [0])
    assert modes.best == 0


@pytest.mark.parametrize("misfit", [np.array([1.0]), np.array([1.0, np.nan])])
def test_refuses_misfits_that_do_not_fit(misfit):
    with pytest.raises(ValueError, match="one finite misfit"):
        find_modes(np.stack([ring(), blob()]), misfit, blur_pixels=3.0)

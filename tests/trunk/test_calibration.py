"""Coverage, ranks and the factor on the spread, against what theory says of Gaussian draws."""

import numpy as np
import pytest
from scipy import stats

from lmaps_science.metrics import calibration, interval_factor, object_pixels, spread_factor

LEVELS = (0.5, 0.68, 0.9, 0.95)


def exchangeable(images=20, n=8, pixels=1000, seed=0, spread=1.0, draw="normal"):
    """Truths and samples from one distribution of each pixel, samples' spread times `spread`."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(images, 1, pixels))
    width = rng.uniform(0.1, 3.0, size=(images, 1, pixels))
    numbers = getattr(rng, draw)
    errors = numbers(size=(images, n + 1, pixels)) * width
    return (centre + errors[:, :1])[:, 0], centre + spread * errors[:, 1:]


@pytest.mark.parametrize("n", [3, 4, 8, 30])
def test_intervals_of_gaussian_draws_hold_what_they_say(n):
    """Nominal and empirical shares agree within the binomial error, for any number of samples."""
    truths, samples = exchangeable(n=n)
    found = calibration(truths, samples, levels=LEVELS)
    for level, share in zip(LEVELS, found["coverage"].values, strict=True):
        assert share == pytest.approx(level, abs=4 * (level * (1 - level) / truths.size) ** 0.5)
    assert found["coverage"].dims == ("level",)
    assert found["coverage_of_each"].dims == ("level", "observation")
    assert found["pixels"].values.tolist() == [1000] * 20


def test_the_interval_is_students():
    """An independent route: the ratio follows t with n - 1 degrees of freedom."""
    for n, level in ((3, 0.9), (8, 0.5), (50, 0.95)):
        factor = interval_factor(n, level) / (1 + 1 / n) ** 0.5
        assert stats.t.cdf(factor, n - 1) - stats.t.cdf(-factor, n - 1) == pytest.approx(level)
    assert interval_factor(100_000, 0.9) == pytest.approx(stats.norm.ppf(0.95), rel=1e-4)


def test_normal_quantiles_would_hold_less():
    truths, samples = exchangeable(n=8)
    naive = np.abs(truths - samples.mean(1)) <= 1.6449 * samples.std(1, ddof=1)
    assert naive.mean() == pytest.approx(0.835, abs=0.01)


def test_standard_errors_are_those_over_observations():
    truths, samples = exchangeable()
    found = calibration(truths, samples)
    each = found["coverage_of_each"].values
    np.testing.assert_allclose(found["coverage_error"], each.std(1, ddof=1) / 20**0.5)
    binomial = (0.9 * 0.1 / truths.size) ** 0.5
    assert found["coverage_error"].sel(level=0.9) == pytest.approx(binomial, rel=0.6)
    alone = calibration(truths[:1], samples[:1])
    assert np.isnan(alone["coverage_error"]).all()


@pytest.mark.parametrize("draw", ["normal", "standard_exponential", "standard_cauchy"])
def test_ranks_are_flat_whatever_the_distribution(draw):
    truths, samples = exchangeable(n=9, draw=draw)
    density = calibration(truths, samples, bins=10)["rank_density"].values
    share = 4 * (0.1 * 0.9 / truths.size) ** 0.5 * 10
    np.testing.assert_allclose(density, 1, atol=share)


def test_ranks_tell_too_little_spread_from_too_much():
    narrow = calibration(*exchangeable(spread=0.5))["rank_density"].values
    wide = calibration(*exchangeable(spread=2.0))["rank_density"].values
    assert min(narrow[0], narrow[-1]) > 1.5
    assert narrow[4:6].max() < 0.8
    assert max(wide[0], wide[-1]) < 0.6
    assert wide[4:6].min() > 1.2


def test_ranks_of_few_samples_and_of_ties_are_spread_over_what_they_may_be():
    """3 samples make 4 ranks, each 2.5 of 10 bins; a truth equal to all samples is of any rank."""
    samples = np.array([[0.0], [1.0], [2.0]])
    density = calibration([np.array([0.5])], [samples], bins=4)["rank_density"].values
    np.testing.assert_allclose(density, [0, 4, 0, 0])
    density = calibration([np.array([0.5])], [samples], bins=10)["rank_density"].values
    np.testing.assert_allclose(density, [0, 0, 2, 4, 4, 0, 0, 0, 0, 0])
    equal = calibration([np.zeros(5)], [np.zeros((4, 5))])
    np.testing.assert_allclose(equal["rank_density"], 1)
    np.testing.assert_allclose(equal["coverage"], 1)


def test_errors_grow_with_the_spread_where_it_is_right():
    truths, samples = exchangeable(n=30)
    found = calibration(truths, samples, bins=5)
    assert (np.diff(found["spread"]) > 0).all()
    np.testing.assert_allclose(found["error"] / found["spread"], 1, rtol=0.08)
    half = calibration(truths, samples, bins=5, factor=0.5)
    np.testing.assert_allclose(half["spread"], 0.5 * found["spread"])
    np.testing.assert_allclose(half["error"], found["error"])


def test_only_pixels_that_count_do():
    truths, samples = exchangeable()
    wrong = truths.copy()
    wrong[:, ::2] += 1e6
    masks = np.tile(np.arange(1000) % 2 == 1, (20, 1))
    found = calibration(wrong, samples, where=masks)
    expected = calibration(truths[:, 1::2], samples[:, :, 1::2])
    np.testing.assert_array_equal(found["coverage"], expected["coverage"])
    assert found["pixels"].values.tolist() == [500] * 20


def test_observations_may_differ_in_shape_and_samples():
    a, b = exchangeable(1, 5, 12), exchangeable(1, 8, 20)
    truths = [a[0][0].reshape(3, 4), b[0][0]]
    samples = [a[1][0].reshape(5, 3, 4), b[1][0]]
    found = calibration(truths, samples)
    assert found.attrs["samples"] == [5, 8]
    assert found["pixels"].values.tolist() == [12, 20]


# ---------------------------------------------------------------- the factor


@pytest.mark.parametrize("spread", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("level", [0.68, 0.9])
def test_the_factor_undoes_a_wrong_spread(spread, level):
    """Of Gaussian errors it is known, their mean's part included; new draws hold the level."""
    truths, samples = exchangeable(seed=1, spread=spread)
    factor = spread_factor(truths, samples, level)
    expected = ((1 + spread**2 / 8) / (1 + 1 / 8)) ** 0.5 / spread
    assert factor == pytest.approx(expected, rel=0.03)
    new = exchangeable(seed=2, spread=spread)
    found = calibration(*new, levels=(level,), factor=factor)["coverage"]
    assert float(found[0]) == pytest.approx(level, abs=0.012)


@pytest.mark.parametrize("draw", ["standard_exponential", "standard_cauchy"])
def test_the_factor_holds_for_any_distribution(draw):
    factor = spread_factor(*exchangeable(seed=1, draw=draw))
    new = exchangeable(seed=2, draw=draw)
    found = calibration(*new, levels=(0.9,), factor=factor)["coverage"]
    assert float(found[0]) == pytest.approx(0.9, abs=0.012)


def test_the_factor_is_the_smallest_that_holds_the_level():
    truths, samples = exchangeable(5, 6, 40)
    factor = spread_factor(truths, samples, 0.8)

    def share(f):
        return float(calibration(truths, samples, levels=(0.8,), factor=f)["coverage"][0])

    assert share(factor * (1 + 1e-9)) >= 0.8 > share(factor * (1 - 1e-6))


def test_each_observation_weighs_the_same_however_many_pixels_count():
    truths, samples = exchangeable(2, 8, 1000)
    samples[1] = truths[1] + 0.25 * (samples[1] - truths[1])  # another error
    whole = spread_factor(truths, samples)
    few = [np.ones(1000, bool), np.arange(1000) < 500]
    assert spread_factor(truths, samples, where=few) == pytest.approx(whole, rel=0.1)


def test_samples_that_are_equal_and_wrong_have_no_factor():
    truths, samples = exchangeable(3, 4, 10)
    samples[:] = samples[:, :1]
    with pytest.raises(ValueError, match="do not differ at all where they are wrong"):
        spread_factor(truths, samples)


def test_the_object_is_where_the_mean_is_above_a_twentieth_of_its_peak():
    samples = np.array([[10.0, 0.4, 0.6, -2.0], [10.0, 0.5, 0.6, -2.0]])
    assert object_pixels(samples).tolist() == [True, False, True, True]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("truths", "samples", "options", "told"),
    [
        ([], [], {}, "0 truths"),
        (np.zeros((2, 4)), np.zeros((1, 5, 4)), {}, "2 truths, 1 sets"),
        (np.zeros((1, 4)), np.zeros((1, 5, 3)), {}, r"shape \(4,\), samples of \(5, 3\)"),
        (np.zeros((1, 4)), np.zeros((1, 4)), {}, r"samples are \(n, \*truth.shape\)"),
        (np.zeros((1, 4)), np.zeros((1, 2, 4)), {}, "has 2 samples"),
        (np.full((1, 4), np.nan), np.zeros((1, 5, 4)), {}, "not finite"),
        (np.zeros((1, 4)), np.full((1, 5, 4), np.inf), {}, "not finite"),
        (np.zeros((1, 4)), np.zeros((1, 5, 4)), {"where": np.zeros((1, 4))}, "no pixel"),
        (np.zeros((1, 4)), np.zeros((1, 5, 4)), {"where": np.ones((1, 3))}, r"mask of \(3,\)"),
        (np.zeros((1, 4)), np.zeros((1, 5, 4)), {"levels": (1.0,)}, "level between 0 and 1"),
        (np.zeros((1, 4)), np.zeros((1, 5, 4)), {"factor": 0.0}, "factor > 0"),
        (np.zeros((1, 4)), np.zeros((1, 5, 4)), {"bins": 1}, "bins >= 2"),
        (np.zeros((1, 4), complex), np.zeros((1, 5, 4)), {}, "is complex; give magnitudes"),
    ],
)
def test_what_cannot_be_compared_is_refused(truths, samples, options, told):
    with pytest.raises(ValueError, match=told):
        calibration(truths, samples, **options)

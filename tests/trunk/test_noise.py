import math

import numpy as np
import pytest
import torch
from registries import load_golden

from lmaps_science.noise import EDM, VE, VP, SampleNoise, vp_alpha

# SampleNoise(0, (2,)), key (1, 3): results of a seed must survive new versions of this package.
PINNED = [0.2409022539513414, 0.5557024261568443, 0.8210749982918211, -1.168044869284683]

SCHEDULES = {"edm": EDM, "ve": VE, "vp": VP}


@pytest.fixture(scope="module")
def golden():
    return load_golden("schedules")


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_match_an_independent_implementation(golden, name):
    sigmas = SCHEDULES[name](20).sigmas
    assert sigmas.dtype == torch.float64
    assert len(sigmas) == 21
    np.testing.assert_allclose(sigmas[:-1], golden[f"{name}_sigma"][:-1], rtol=1e-12)
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_step_factors_follow_from_the_noise_levels(golden):
    """The benchmark's factors: 2 s^2 sigma dsigma, the variance that a reverse step may add."""
    edm, ve, _vp = (golden[f"{name}_sigma"] for name in SCHEDULES)
    np.testing.assert_allclose(golden["edm_factor"], -2 * edm[:-1] * np.diff(edm), rtol=1e-12)
    np.testing.assert_allclose(golden["ve_factor"], -np.diff(ve**2), rtol=1e-10, atol=1e-15)
    times = np.linspace(1, 1e-3, 20)  # VP: beta(t) dt, whose last step ends elsewhere
    beta = 0.1 + 19.9 * times[:-1]
    np.testing.assert_allclose(golden["vp_factor"][:-1], -beta * np.diff(times), rtol=1e-12)
    np.testing.assert_allclose(golden["vp_scaling_factor"], 1 + golden["vp_factor"] / 2, rtol=1e-12)


def test_vp_alpha_is_the_scale_of_the_state(golden):
    sigma = torch.as_tensor(golden["vp_sigma"])
    np.testing.assert_allclose(vp_alpha(sigma), golden["vp_scaling"], rtol=1e-12)
    alpha = vp_alpha(sigma)
    torch.testing.assert_close(alpha**2 + (alpha * sigma) ** 2, torch.ones_like(sigma))


def test_vp_noise_level_grows_as_its_differential_equation():
    """d log alpha / dt = -beta(t) / 2, with beta(t) = 0.1 + 19.9 t."""
    sigmas = VP(2001).sigmas[:-1]
    times = torch.linspace(1.0, 1e-3, 2001, dtype=torch.float64)
    slope = vp_alpha(sigmas).log().diff() / times.diff()
    middle = (times[1:] + times[:-1]) / 2
    torch.testing.assert_close(slope, -(0.1 + 19.9 * middle) / 2, rtol=1e-8, atol=0)


def test_schedules_take_their_ends_and_a_single_level():
    sigmas = EDM(7, sigma_max=50.0, sigma_min=0.3, power=3.0).sigmas
    assert math.isclose(float(sigmas[0]), 50)
    assert math.isclose(float(sigmas[-2]), 0.3)
    steps = (sigmas[:-1] ** (1 / 3)).diff()
    torch.testing.assert_close(steps, steps[:1].expand(6))
    ratio = VE(5).sigmas[1:-1] / VE(5).sigmas[:-2]
    torch.testing.assert_close(ratio, ratio[:1].expand(4))
    for name, schedule in SCHEDULES.items():
        single = schedule(1).sigmas
        assert single.tolist() == [float(schedule(9).sigmas[0]), 0.0], name


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_refuse_what_they_cannot_make(name):
    with pytest.raises(ValueError, match=rf"levels=0.*Example: {name.upper()}\(50\)"):
        SCHEDULES[name](0)
    lowest = "time_min" if name == "vp" else "sigma_min"
    for wrong in (0.0, -1.0, 1e3, math.nan):
        with pytest.raises(ValueError, match="Example"):
            SCHEDULES[name](10, **{lowest: wrong})


# ---------------------------------------------------------------- random numbers


def test_numbers_of_a_sample_do_not_depend_on_its_company():
    like = torch.empty(5, 1, 4, 3, dtype=torch.float64)
    whole = SampleNoise(3, (0, 1, 2, 3, 4)).normal(like, 1, 7)
    for k in range(5):
        assert torch.equal(SampleNoise(3, (k,)).normal(like[:1], 1, 7)[0], whole[k])
    assert torch.equal(SampleNoise(3, (4, 1)).normal(like[:2], 1, 7), whole[[4, 1]])


def test_same_key_same_numbers_and_nothing_else_is_touched():
    noise, like = SampleNoise(0, (0,)), torch.empty(1, 8)
    state = torch.random.get_rng_state()
    first = noise.normal(like, 1, 2)
    torch.manual_seed(5)
    assert torch.equal(noise.normal(like, 1, 2), first)
    torch.random.set_rng_state(state)
    noise.normal(like, 3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_numbers_are_the_same_in_every_process():
    numbers = SampleNoise(0, (2,)).normal(torch.empty(1, 4, dtype=torch.float64), 1, 3)[0]
    expected = torch.tensor(PINNED, dtype=torch.float64)
    torch.testing.assert_close(numbers, expected, rtol=1e-12, atol=0)


def test_every_seed_sample_and_key_has_its_own_numbers():
    like = torch.empty(1, 4000, dtype=torch.float64)
    draws = [
        SampleNoise(seed, (sample,)).normal(like, *key)[0]
        for seed in (0, 1, 2**40)
        for sample in (0, 1)
        for key in ((), (0,), (1,), (0, 0), (0, 1), (1, 0))
    ]
    draws = torch.stack(draws)  # seed 2**40 is two words of 32 bits, a short key ends in zeros
    correlation = draws @ draws.T / draws.shape[1] - torch.eye(len(draws), dtype=draws.dtype)
    assert correlation.abs().max() < 6 / math.sqrt(draws.shape[1])
    assert abs(draws.mean()) < 5 / math.sqrt(draws.numel())


def test_seed_zero_is_a_seed_like_any_other():
    like = torch.empty(1, 10)
    zero = SampleNoise(0, (0,)).normal(like, 0)
    assert torch.equal(SampleNoise(np.int64(0), (0,)).normal(like, 0), zero)
    assert not torch.equal(SampleNoise(1, (0,)).normal(like, 0), zero)


def test_noise_takes_shape_and_dtype():
    for dtype in (torch.float32, torch.float64):
        numbers = SampleNoise(0, (0, 1)).normal(torch.empty(2, 3, 4, dtype=dtype), 0)
        assert numbers.shape == (2, 3, 4)
        assert numbers.dtype == dtype
    assert SampleNoise(0, (0, 1)).normal(torch.empty(2), 0).shape == (2,)


@pytest.mark.parametrize("seed", [-1, 1.5, None, True])
def test_wrong_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=r"Example: SampleNoise\(0, \(0, 1\)\)"):
        SampleNoise(seed, (0,))


def test_wrong_batches_are_refused():
    with pytest.raises(ValueError, match="2 samples was asked for noise of batch 3"):
        SampleNoise(0, (0, 1)).normal(torch.empty(3, 2), 0)
    with pytest.raises(ValueError, match="sample indices >= 0"):
        SampleNoise(0, (-1,))

"""The ring test: what is a ring, what the evidence says, and the search for the other kind."""

import dataclasses

import numpy as np
import pytest
import torch

from lmaps_science import load_problem, sample
from lmaps_science.problems.black_hole.problem import SINGLE_RUNS
from lmaps_science.problems.black_hole.ring_test import Group, has_ring, ring_test, search, starts
from lmaps_science.solvers import LMAPS, REDDiff

PIXEL, BEAM = 2.5, 25.0
AXIS = (31.5 - np.arange(64)) * PIXEL
RADIUS = np.hypot(AXIS[:, None], AXIS)
RING = np.exp(-4 * np.log(2) * ((RADIUS - 20) / 8) ** 2)
BLOB = np.exp(-4 * np.log(2) * (RADIUS / 20) ** 2)
COUNTS, LIMITS = {"cphase": 100, "logcamp": 50}, {"cphase": 1.9, "logcamp": 2.1}


def group(name, *ring_cphase_logcamp):
    ring, cphase, logcamp = (np.array(column) for column in zip(*ring_cphase_logcamp, strict=True))
    images = np.zeros((len(ring), 4, 4))
    return Group(name, images, {"cphase": cphase, "logcamp": logcamp}, ring.astype(bool))


def test_a_bright_knot_in_a_faint_ring_is_no_ring():
    knot = np.exp(-4 * np.log(2) * (np.hypot(AXIS[:, None], AXIS - 20) / 15) ** 2)
    images = np.stack([RING, BLOB, RING + 12 * knot, RING + 2 * knot])
    assert has_ring(images, PIXEL, BEAM).tolist() == [True, False, False, True]
    assert has_ring(images[:0], PIXEL, BEAM).shape == (0,)


@pytest.mark.parametrize(
    ("without", "finding"), [(1.3, "undecided"), (1.5, "ring"), (0.5, "no ring")]
)
def test_the_better_kind_is_found_where_it_is_better_by_far(without, finding):
    test = ring_test(
        [group("sample", (1, 1.0, 1.0), (1, 1.8, 1.0), (0, without, 1.0))], COUNTS, LIMITS
    )
    assert test["finding"] == finding
    assert (test["samples"], test["with_ring"]) == (3, 2)
    assert test["log_ratio"] == pytest.approx(0.5 * 100 * (without - 1))
    assert (test["best_ring"]["image"], test["best_without"]["image"]) == ("sample 0", "sample 2")
    share, fits, meaning = test["text"]
    # Beta(3, 2): its quantiles at 2.5 and 97.5 %
    assert "2 of 3 samples have a ring (of any number 19 to 93 %" in share
    assert f"sample 2, chi2 {without:.2f} (phases), 1.00 (log amplitudes)" in fits
    assert f"ring test: {finding}:" in meaning


def test_nothing_is_said_of_the_other_kind_unless_it_was_looked_for():
    samples = group("sample", (1, 1.0, 1.0), (1, 1.1, 1.0))
    assert ring_test([samples], COUNTS, LIMITS)["finding"] == "not tested"
    looked = [samples, group("search image", (1, 1.2, 1.0))]
    test = ring_test(looked, COUNTS, LIMITS)
    assert test["finding"] == "ring"
    assert test["best_without"] is None
    assert test["log_ratio"] is None
    assert "none without was found" in test["text"][1]
    assert "1 of 1 search images" in test["text"][0]
    found = ring_test([samples, group("search image", (0, 1.05, 1.0))], COUNTS, LIMITS)
    assert found["finding"] == "undecided"
    assert found["best_without"]["image"] == "search image 0"
    none = ring_test(
        [group("sample", (0, 1.0, 1.0)), group("search image", (0, 1, 1))], COUNTS, LIMITS
    )
    assert none["finding"] == "no ring"


def test_images_that_do_not_fit_say_nothing():
    test = ring_test([group("sample", (1, 3.0, 1.0), (0, 9.0, 1.0))], COUNTS, LIMITS)
    assert test["finding"] == "no fit"


# ---------------------------------------------------------------- the search


def test_starts_have_the_size_and_place_of_the_image_and_their_kind():
    image = np.roll(RING, (3, -5), (0, 1))
    ring, disc = starts(image, ring=True), starts(image, ring=False)
    assert has_ring(np.stack([ring, disc]), PIXEL, BEAM).tolist() == [True, False]
    rows, columns = np.indices(image.shape)
    for start in (ring, disc):
        assert start.max() == pytest.approx(1, abs=0.05)
        light = start / start.sum()
        assert (light * rows).sum() == pytest.approx(31.5 + 3, abs=0.3)
        assert (light * columns).sum() == pytest.approx(31.5 - 5, abs=0.3)
    # half of a Gaussian's light is inside of its half-light radius, 20 uas as the ring's
    inside = np.hypot(rows - 34.5, columns - 26.5) * PIXEL < 20.5
    assert disc[inside].sum() / disc.sum() == pytest.approx(0.5, abs=0.05)


@pytest.fixture(scope="module")
def problem():
    overrides = {
        "image.npix": 16,
        "preset": "single",
        "solver.levels": 12,
        "solver.local.iterations": 5,
    }
    return load_problem("black_hole/simulated", prior="gaussian", overrides=overrides)


def test_the_search_fits_the_data_and_keeps_its_random_numbers(problem):
    start = torch.zeros(1, 1, 16, 16)
    before = problem.misfit(start)
    found = search(problem, problem.solver, start, seed=3)
    assert found.shape == (4, 1, 16, 16)
    assert (problem.misfit(found) < 0.1 * before).all()
    assert len(found.unique(dim=0)) == 4
    torch.testing.assert_close(search(problem, problem.solver, start, seed=3), found)
    assert not torch.equal(search(problem, problem.solver, start, seed=4), found)


def test_solvers_that_cannot_start_in_between_do_not(problem):
    start = torch.zeros(1, 1, 16, 16)
    assert search(problem, REDDiff(4), start, 0) is None
    assert search(problem, LMAPS(4, sigma_min=1.0), start, 0) is None


def test_a_result_keeps_both_images_and_the_evidence(problem):
    result = sample(problem, problem.solver, 3, progress=False)
    data = problem.analyse(result)
    test = data.attrs["ring_test"]
    assert data["ring_test_image"].shape == (2, 16, 16)
    assert test["samples"] == 3
    assert set(test["text"]) <= set(data.attrs["notes"])
    for k, key in enumerate(("best_ring", "best_without")):
        kept, best = data["ring_test_image"].values[k], test[key]
        if best is None:
            assert np.isnan(kept).all()
            continue
        chi2 = problem.evaluate(kept[None])
        assert chi2["chi2_cphase"][0] == pytest.approx(best["chi2_cphase"], rel=1e-3)
    assert len(data["search_image"]) == 4  # three samples of noise-like images are of one kind
    assert data["search_image"].sum(("y", "x")).values == pytest.approx(0.6, rel=1e-4)
    # Another solver than the card's is not known to the result: nothing is looked for.
    other = dataclasses.replace(result, facts={**result.facts, "solver": "another"})
    assert "search_image" not in problem.analyse(other)


def test_single_runs_speak_beside_a_population():
    """What the selection has dropped counts: it may explain the data as well."""
    small = {"levels": 12, "local.iterations": 5}
    overrides = {f"solver.solver.{key}": value for key, value in small.items()}
    overrides |= {"image.npix": 16, "solver.particles": 2}
    problem = load_problem("black_hole/simulated", prior="gaussian", overrides=overrides)
    data = problem.analyse(sample(problem, problem.solver, 2, progress=False))
    single = sample(problem, problem.solver.solver, SINGLE_RUNS, progress=False)
    expected = problem.scale_to_flux(single.samples[:, 0])
    np.testing.assert_allclose(data["search_image"].values[:SINGLE_RUNS], expected, atol=1e-6)
    assert len(data["search_image"]) > SINGLE_RUNS  # and those from a start of the other kind
    quick = dataclasses.replace(problem, further_runs=False)
    scored = quick.analyse(sample(quick, quick.solver, 2, progress=False))
    assert "search_image" not in scored
    np.testing.assert_array_equal(scored["image"], data["image"])

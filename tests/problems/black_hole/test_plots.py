"""Figures: complete, oriented like the sky, and without pyplot's global state."""

import numpy as np
import pytest
import xarray as xr

from lmaps_science import load_problem, plot_reconstruction, plot_samples, plot_uv, sample
from lmaps_science.io import read_netcdf, write_netcdf
from lmaps_science.metrics import blur

OVERRIDES = {"image.npix": 16, "preset": "single", "solver.levels": 3, "solver.local.iterations": 3}


@pytest.fixture(scope="module")
def problem():
    return load_problem("black_hole/simulated", prior="gaussian", overrides=OVERRIDES)


@pytest.fixture(scope="module")
def result(problem):
    return sample(problem, problem.solver, 3, progress=False)


@pytest.fixture(scope="module")
def data(problem, result):
    """Three samples of one mode; a copy for each test, see `as_one_mode`."""
    return as_one_mode(problem.analyse(result))


def as_one_mode(data):
    """Two levels tell the samples' modes apart or not, by chance: here they are one."""
    mean, std = data["image"].mean("sample"), data["image"].std("sample")
    best = int(data["misfit"].values[-1].argmin())
    changed = data.assign(mode=("sample", [0, 0, 0]), image_mean=mean, image_std=std)
    return changed.assign_attrs(best=best)


def panels(figure):
    return [axis for axis in figure.axes if axis.images]


def titles(figure):
    return [axis.get_title() for axis in panels(figure)]


def test_a_reconstruction_shows_truth_samples_and_spread(data, tmp_path):
    figure = plot_reconstruction(data, path=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    best, inside = data.attrs["best"], int((data["mode"] == 0).sum())
    of = "3 samples" if inside == 3 else f"mode 0 ({inside} of 3 samples)"
    drawn = [title for title in titles(figure) if " a ring: " not in title]
    assert drawn == [
        "truth",
        f"mean of {of}\n(blurred to the beam)",
        f"mean of {of}\n(sharpness: the prior's)",
        f"sample {best}, best of mode 0\n(sharpness: the prior's)",
        "standard deviation",
        "|error| of the mean",
    ]
    assert figure._repr_png_()[:4] == b"\x89PNG"


def test_east_is_left_and_north_is_up(data):
    for axis in panels(plot_reconstruction(data)):
        left, right = axis.get_xlim()
        bottom, top = axis.get_ylim()
        assert (left, right, bottom, top) == pytest.approx((80, -80, -80, 80))


def test_images_are_in_millijansky(data):
    shown = panels(plot_reconstruction(data))[0].images[0].get_array()
    np.testing.assert_allclose(shown, 1e3 * data["truth"].values)


def test_one_measured_sample(problem, data):
    single = data.drop_vars("truth").isel(sample=[1])
    figure = plot_reconstruction(single, path=None)
    shown = [title for title in titles(figure) if " a ring: " not in title]
    assert shown == ["sample 0\n(blurred to the beam)", "sample 0\n(sharpness: the prior's)"]
    assert len(panels(plot_samples(single))) == 1


def test_results_are_drawn_from_their_file(data, tmp_path):
    write_netcdf(tmp_path / "result.nc", data)
    again = plot_reconstruction(read_netcdf(tmp_path / "result.nc"))
    assert titles(again) == titles(plot_reconstruction(data))


def test_a_result_without_its_problem_is_drawn_plainly(problem, result, tmp_path):
    assert len(panels(plot_samples(result, problem))) == 3
    assert len(panels(plot_samples(result, path=tmp_path / "samples.png"))) == 3
    titles = [axis.get_title() for axis in panels(plot_reconstruction(result))]
    assert titles == ["sample 0", "sample 1", "mean of 3 samples", "standard deviation"]


def test_samples_are_drawn_mode_by_mode(data, tmp_path):
    labelled = data.assign(mode=("sample", np.array([1, 0, 1])))
    figure = plot_samples(labelled, path=tmp_path / "samples.pdf", most=2)
    assert [title.splitlines()[0] for title in titles(figure)] == [
        "mode 0: sample 1",
        "mode 1: sample 0",
    ]
    assert (tmp_path / "samples.pdf").read_bytes()[:4] == b"%PDF"


def test_coverage(problem, tmp_path):
    figure = plot_uv(problem.observation, tmp_path / "uv.png")
    left, right = figure.axes
    assert left.get_xlim()[0] > left.get_xlim()[1]
    assert right.get_yscale() == "log"


def test_no_closure_amplitudes(data):
    """Three stations have none: the panel says so."""
    none = data.drop_dims("logcamp")
    none["logcamp_residual"] = (("sample", "logcamp"), np.zeros((3, 0)))
    none["logcamp_baseline"] = ("logcamp", np.zeros(0))
    assert isinstance(none, xr.Dataset)
    text = [axis.get_title() for axis in plot_reconstruction(none).axes]
    assert "log closure amplitudes: none" in text


def test_global_state_is_left_alone(data):
    from matplotlib import pyplot, rcParams

    before = dict(rcParams)
    plot_samples(data)
    assert pyplot.get_fignums() == []
    assert dict(rcParams) == before


def panel(figure, title):
    return next(axis for axis in panels(figure) if title in axis.get_title())


def test_the_best_of_all_is_shown_where_it_is_of_another_mode(data):
    other = int(data["misfit"].values[-1].argmin())
    best = (other + 1) % 3
    mode = np.zeros(3, int)
    mode[other] = 1
    figure = plot_reconstruction(data.assign(mode=("sample", mode)).assign_attrs(best=best))
    first_lines = [title.splitlines()[0] for title in titles(figure)]
    assert f"sample {other}, best of all (mode 1)" in first_lines
    assert f"sample {best}, best of mode 0" in first_lines


def test_a_mode_of_one_sample_has_no_deviation(data):
    best = int(data["misfit"].values[-1].argmin())
    mode = np.array([1, 1, 2])
    mode[best] = 0
    figure = plot_reconstruction(
        data.assign(mode=("sample", mode), image_std=np.nan * data["image_std"])
    )
    assert not [title for title in titles(figure) if "deviation" in title or "mean" in title]


def test_error_and_deviation_share_their_scale(data):
    figure = plot_reconstruction(data)
    limits = [panel(figure, name).images[0].get_clim() for name in ("deviation", "error")]
    assert limits[0] == limits[1]
    error = panel(figure, "error").images[0].get_array()
    assert limits[0][1] >= error.max() > 0
    perfect = data.assign(image_mean=data["truth"])
    assert panel(plot_reconstruction(perfect), "error").images[0].get_array().max() < 1e-3


def test_images_have_the_beam_beside_them(data):
    figure = plot_reconstruction(data)
    for title in ("blurred", "sharpness"):
        (circle,) = panel(figure, title).patches
        assert 2 * circle.radius == pytest.approx(data.attrs["resolution_uas"])
    (circle,) = panel(plot_reconstruction(data, blur_uas=15), "blurred").patches
    assert 2 * circle.radius == pytest.approx(15)


def test_what_the_data_resolve_comes_before_what_the_prior_adds(data):
    figure = plot_reconstruction(data)
    blurred, sharp = (panel(figure, title) for title in ("blurred", "sharpness"))
    assert panels(figure).index(blurred) < panels(figure).index(sharp)
    images = [axis.images[0].get_array() for axis in (blurred, sharp)]
    pixel = float(data["x"][0] - data["x"][1])
    expected = blur(1e3 * data["image_mean"].values[None], data.attrs["resolution_uas"] / pixel)
    np.testing.assert_allclose(images[0], expected[0, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(images[1], 1e3 * data["image_mean"].values)


def test_the_best_image_of_the_other_kind_is_shown(data):
    """Of a ring where the best sample has none, and the other way round; none where none is."""
    axis = (7.5 - np.arange(16)) * 10
    radius = np.hypot(axis[:, None], axis)
    ring, disc = np.exp(-(((radius - 35) / 12) ** 2)), np.exp(-((radius / 20) ** 2))
    found = {"image": "sample 1", "group": 0, "index": 1, "chi2": 1.0}
    pair = {"best_ring": found, "best_without": {**found, "image": "sample 2"}, "text": []}
    for best, said in (
        (ring, "best without a ring: sample 2"),
        (disc, "best with a ring: sample 1"),
    ):
        changed = data.assign(
            image=data["image"].copy(data=np.stack([best] * 3)),
            ring_test_image=(("ring_test", "y", "x"), np.stack([ring, disc])),
        )
        shown = titles(plot_reconstruction(changed.assign_attrs(ring_test=pair)))
        assert f"{said}\n(blurred to the beam)" in shown
        none = {**pair, "best_ring": None}
        shown = titles(plot_reconstruction(changed.assign_attrs(ring_test=none)))
        assert not [title for title in shown if " a ring: " in title]


def test_negative_brightness_is_seen(data):
    positive = data.assign(image=abs(data["image"]))
    assert panel(plot_reconstruction(positive), "best").images[0].get_clim()[0] == 0
    negative = data.assign(image=data["image"] - 0.5 * data["image"].max())
    for axis in (panel(plot_reconstruction(negative), "best"), panels(plot_samples(negative))[0]):
        low, high = axis.images[0].get_clim()
        assert low == -high
        assert low < 0


def test_a_classical_image_is_shown_where_there_is_one(data):
    figure = plot_reconstruction(data.assign(baseline=data["truth"]))
    assert titles(figure)[:2] == ["truth", "classical (RML)"]


@pytest.mark.parametrize("word", ["good", "doubtful", "does not fit"])
def test_the_verdict_is_below(data, word):
    attrs = {"verdict": word, "verdict_reasons": ["chi2 3"] * 3, "notes": ["two samples"]}
    figure = plot_reconstruction(data.assign_attrs(attrs))
    (text,) = [part.get_supxlabel() for part in figure.subfigs if part.get_supxlabel()]
    assert text == f"{word}: chi2 3; chi2 3; 1 more in summary.txt\ntwo samples"

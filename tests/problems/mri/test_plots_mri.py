"""Figures of MRI: which panels there are, what they show, and drawing them from their file."""

import numpy as np
import pytest

from lmaps_science import load_problem, plot_reconstruction, plot_samples, sample
from lmaps_science.io import read_netcdf, write_netcdf

pytest.importorskip("sigpy", reason="simulated coils take the extra mri")
SMALL = {"kspace.npix": 48, "kspace.coils": 4, "solver.levels": 3, "maps.source": "file"}


@pytest.fixture(scope="module")
def problem():
    return load_problem("mri/simulated", prior="gaussian", overrides=SMALL)


@pytest.fixture(scope="module")
def result(problem):
    return sample(problem, problem.solver, 3, progress=False)


@pytest.fixture(scope="module")
def data(problem, result):
    return problem.analyse(result)


def titles(figure):
    return [axis.get_title() for axis in figure.axes if axis.get_title()]


def shown(figure, title):
    """The values of the picture below a title."""
    axis = next(a for a in figure.axes if a.get_title().startswith(title))
    return np.asarray(axis.get_images()[0].get_array())


def axes_of(figure, title):
    return next(a for a in figure.axes if a.get_title().startswith(title))


def test_a_reconstruction_shows_reference_baselines_error_and_spread(data, tmp_path):
    figure = plot_reconstruction(data, path=tmp_path / "a.png")
    of = ("zero_filled", "total_variation", "mean")
    scores = [data.attrs[f"metrics_of_{name}"]["psnr"] for name in of]
    assert titles(figure)[:6] == [
        "reference",
        f"zero-filled\n{scores[0]:.1f} dB",
        f"total variation\n{scores[1]:.1f} dB",
        f"mean of 3 samples\n{scores[2]:.1f} dB",
        "|error|",
        "standard deviation",
    ]
    assert "sampled k-space, 25 %" in titles(figure)
    for title, name in (("reference", "truth"), ("mean", "image_mean"), ("total", of[1])):
        np.testing.assert_allclose(shown(figure, title), np.hypot(*data[name].values))
    np.testing.assert_array_equal(shown(figure, "sampled"), data["mask"])
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_error_and_spread_share_a_scale_of_their_own(data):
    error = np.abs(np.hypot(*data["image_mean"].values) - np.hypot(*data["truth"].values))
    figure = plot_reconstruction(data, error_scale=3)
    np.testing.assert_allclose(shown(figure, "|error|"), error, rtol=1e-6)
    np.testing.assert_allclose(shown(figure, "standard"), data["magnitude_std"], rtol=1e-6)
    top = np.percentile(np.hypot(*data["truth"].values), 99.9)
    limits = [axes_of(figure, t).get_images()[0].get_clim()[1] for t in ("|error|", "standard")]
    np.testing.assert_allclose(limits, top / 3, rtol=1e-6)
    labels = [a.get_xlabel() for a in figure.axes]
    assert "|error| and standard deviation, same unit" in labels
    assert "|x|, in units of its 99th percentile" in labels
    faint = data.copy()
    faint["magnitude_std"], faint["image_mean"] = data["magnitude_std"] / 50, data["truth"]
    limit = axes_of(plot_reconstruction(faint), "standard").get_images()[0].get_clim()[1]
    assert np.percentile(faint["magnitude_std"], 99.9) <= limit < top / 2


def test_axes_are_in_mm_where_the_file_tells(data):
    axis = axes_of(plot_reconstruction(data), "reference")
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("x (pixel)", "y (pixel)")
    scaled = data.assign_coords({a: (a, 2.0 * data[a].values, {"units": "mm"}) for a in "xy"})
    axis = axes_of(plot_reconstruction(scaled), "reference")
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("x (mm)", "y (mm)")
    assert axis.get_images()[0].get_extent() == [-49.0, 47.0, 47.0, -49.0]


def test_the_verdict_is_below(data):
    (part,) = [f for f in plot_reconstruction(data).subfigs if f.get_supxlabel()]
    assert part.get_supxlabel().startswith(data.attrs["verdict"])


def test_one_measured_sample_has_neither_error_nor_spread(problem, data):
    one = data.isel(sample=[0]).drop_vars(["truth", "total_variation"])
    one.attrs = {
        **{k: v for k, v in data.attrs.items() if not k.startswith("metrics")},
        "best": 0,
        "metrics_of_mean": {"held_out_error": 0.271},
        "metrics_of_zero_filled": {},
    }
    names = titles(plot_reconstruction(one))
    assert names[:2] == ["zero-filled", "one sample\nheld-out error 0.27"]
    assert not [n for n in names if n.startswith(("|error|", "standard", "reference"))]


def test_results_are_drawn_from_their_file_and_with_their_problem(problem, result, data, tmp_path):
    write_netcdf(tmp_path / "result.nc", data)
    again = plot_reconstruction(read_netcdf(tmp_path / "result.nc"))
    assert titles(again) == titles(plot_reconstruction(data))
    assert titles(plot_reconstruction(result, problem)) == titles(again)


def test_samples_are_drawn_side_by_side(data, tmp_path):
    figure = plot_samples(data, path=tmp_path / "b.pdf", most=2)
    assert titles(figure) == [f"sample {k}, PSNR {float(data['psnr'][k]):.1f} dB" for k in (0, 1)]
    np.testing.assert_allclose(shown(figure, "sample 1"), np.hypot(*data["image"].values[1]))
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")

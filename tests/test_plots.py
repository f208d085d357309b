"""Figures: complete, oriented like the sky, and without pyplot's global state."""

import numpy as np
import pytest
import xarray as xr

from lmaps_science import load_problem, plot_reconstruction, plot_samples, plot_uv, sample
from lmaps_science.io import read_netcdf, write_netcdf

OVERRIDES = {"image.npix": 16, "solver.levels": 3, "solver.local.iterations": 3}


@pytest.fixture(scope="module")
def problem():
    return load_problem("black_hole/simulated", prior="gaussian", overrides=OVERRIDES)


@pytest.fixture(scope="module")
def result(problem):
    return sample(problem, problem.solver, 3, progress=False)


@pytest.fixture(scope="module")
def data(problem, result):
    return problem.analyse(result)


def panels(figure):
    return [axis for axis in figure.axes if axis.images]


def titles(figure):
    return [axis.get_title() for axis in panels(figure)]


def test_a_reconstruction_shows_truth_samples_and_spread(data, tmp_path):
    figure = plot_reconstruction(data, path=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    best, inside = data.attrs["best"], int((data["mode"] == 0).sum())
    of = "3 samples" if inside == 3 else f"mode 0 ({inside} of 3 samples)"
    assert titles(figure) == [
        "truth",
        f"sample {best}, the best fit",
        f"mean of {of}",
        "mean, blurred to 15 µas",
        "standard deviation",
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
    assert titles(figure) == ["sample 0, the best fit", "blurred to 15 µas"]
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

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


def test_a_reconstruction_shows_reference_error_and_spread(data, tmp_path):
    figure = plot_reconstruction(data, path=tmp_path / "a.png")
    scores = [data.attrs[f"metrics_of_{of}"]["psnr"] for of in ("zero_filled", "mean")]
    assert titles(figure)[:3] == [
        "reference",
        f"zero-filled\n{scores[0]:.1f} dB",
        f"mean of 3 samples\n{scores[1]:.1f} dB",
    ]
    assert "sampled k-space, 25 %" in titles(figure)
    reference, mean = np.hypot(*data["truth"].values), np.hypot(*data["image_mean"].values)
    np.testing.assert_allclose(shown(figure, "reference"), reference)
    np.testing.assert_allclose(shown(figure, "mean"), mean)
    np.testing.assert_array_equal(shown(figure, "sampled"), data["mask"])
    assert (tmp_path / "a.png").stat().st_size > 5_000


def test_errors_are_scaled_to_show(data):
    error = np.abs(np.hypot(*data["image_mean"].values) - np.hypot(*data["truth"].values))
    figure = plot_reconstruction(data, error_scale=3)
    np.testing.assert_allclose(shown(figure, "error × 3"), 3 * error, rtol=1e-6)
    spread = 3 * data["magnitude_std"]
    np.testing.assert_allclose(shown(figure, "standard deviation × 3"), spread, rtol=1e-6)
    faint = data.copy()
    faint["magnitude_std"], faint["image_mean"] = data["magnitude_std"] / 50, data["truth"]
    figure = plot_reconstruction(faint)
    factor = float(titles(figure)[3].removeprefix("error × "))
    assert factor > 2
    top = np.percentile(np.hypot(*data["truth"].values), 99.9)
    assert np.percentile(shown(figure, "standard deviation"), 99.9) <= top


def test_one_measured_sample_has_neither_error_nor_spread(problem, data):
    one = data.isel(sample=[0]).drop_vars("truth")
    one.attrs = {
        **{k: v for k, v in data.attrs.items() if not k.startswith("metrics")},
        "best": 0,
        "metrics_of_mean": {"held_out_error": 0.271},
        "metrics_of_zero_filled": {},
    }
    names = titles(plot_reconstruction(one))
    assert names[:2] == ["zero-filled", "one sample\nheld-out error 0.27"]
    assert not [n for n in names if n.startswith(("error", "standard", "reference"))]


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

"""Result folders of strangers: any summary, attributes and checkpoint give a result or our error.

Nothing outside of the folder is touched, and nobody waits. What is drawn is the same in every run.
"""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmaps_science import load_problem, reconstruct, sample
from lmaps_science.io import DataError, read_netcdf
from lmaps_science.io.folders import results_folder
from lmaps_science.io.results import require_result
from lmaps_science.runner import describe

SMALL = {
    "image.npix": 16,
    "solver.levels": 3,
    "observation.receivers": 24,
    "observation.transmitters": 4,
}
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["../out.txt", "/etc/passwd", "..", ".", "", "\0", "x" * 5000, "result.nc"]),
)
VALUES = st.recursive(
    PLAIN,
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=8), v, max_size=3),
    max_leaves=8,
)


def examples(n):
    return settings(
        max_examples=n,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def problem():
    return load_problem("scattering/linear_60", None, "gaussian", SMALL)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "out"
    reconstruct(problem(), out, 2, progress=False)
    return out / "result.nc"


def refused_or(work):
    """The complaint of `work`, or ""; within 2 s of the processor."""
    start, complaint = time.process_time(), ""
    try:
        work()
    except DataError as error:
        complaint = str(error)
        assert 20 < len(complaint) < 3000
    assert time.process_time() - start < 2
    return complaint


# ---------------------------------------------------------------- summaries


@examples(150)
@given(
    st.one_of(st.binary(max_size=50), VALUES.map(json.dumps), VALUES.map(lambda v: {"files": v}))
)
def _any_summary(folder, content):
    out, outside = folder / "out", folder / "out.txt"
    out.mkdir(exist_ok=True)
    outside.write_text("mine")
    text = json.dumps(content) if isinstance(content, dict) else content
    (out / "summary.json").write_bytes(text if isinstance(text, bytes) else text.encode())

    def write():
        with results_folder(out, force=True) as staging:
            (staging / "result.nc").write_text("new")

    assert refused_or(write) == ""
    assert outside.read_text() == "mine"
    assert (out / "result.nc").read_text() == "new"
    assert {p.name for p in folder.iterdir()} == {"out", "out.txt"}


def test_any_summary(tmp_path):
    _any_summary(tmp_path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"files": ' + "[" * 100_000, '{"files": [1e400]}']
)
def test_deep_summaries(text, tmp_path):
    (tmp_path / "summary.json").write_text(text)
    with results_folder(tmp_path, force=True) as staging:
        (staging / "result.nc").write_text("new")
    assert (tmp_path / "result.nc").read_text() == "new"


def test_links_are_replaced_and_not_followed(tmp_path):
    """What they point to stays, be they named in the summary, or in the place of results."""
    (tmp_path / "target").write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("result.nc", "old.fits", "summary.txt"):
        (out / name).symlink_to(tmp_path / "target")
    (out / "dangling.nc").symlink_to(tmp_path / "made.nc")
    (out / "summary.json").write_text(json.dumps({"files": ["result.nc", "old.fits"]}))
    with results_folder(out, force=True) as staging:
        for name in ("result.nc", "dangling.nc", "summary.txt", "summary.json"):
            (staging / name).write_text("new")
    assert (tmp_path / "target").read_text() == "mine"
    assert not (tmp_path / "made.nc").exists()
    assert (out / "result.nc").read_text() == "new"
    assert not any(path.is_symlink() for path in out.iterdir())
    assert {p.name for p in out.iterdir()} == {
        "result.nc", "dangling.nc", "summary.txt", "summary.json",
    }  # fmt: skip


# ---------------------------------------------------------------- results


def test_any_attributes_of_a_result(result):
    stored = read_netcdf(result)
    names = [*stored.attrs, "metrics_of_mean", "notes", "commit", "wall_seconds", "prior_check"]

    @examples(200)
    @given(st.dictionaries(st.sampled_from(names), VALUES, min_size=1, max_size=3))
    def check(changes):
        changed = stored.copy()
        changed.attrs = {**stored.attrs, **changes}

        def look():
            require_result(changed)
            assert describe(changed)

        refused_or(look)

    check()


def test_metrics_of_the_mean_that_are_no_numbers(result):
    changed = read_netcdf(result)
    for value in (None, "x", [1], 10**400, {}):
        changed.attrs["metrics_of_mean"] = {"psnr": value}
        require_result(changed)
        row = next(line for line in describe(changed).splitlines() if line.startswith("psnr"))
        assert row.split()[-2] == ("none" if value is None else "?")


@pytest.mark.parametrize("modes", [[0, 10**9], [-5, 0], [0.5, 1], ["a", "b"], [[0, 1]]])
def test_modes_that_there_cannot_be(modes, result):
    """10^9 modes would be as many columns."""
    changed = read_netcdf(result)
    values = np.array(modes)
    changed["mode"] = (("other", "sample") if values.ndim == 2 else "sample", values)
    said = refused_or(lambda: require_result(changed) or describe(changed))
    assert "mode" in said


# ---------------------------------------------------------------- checkpoints


def stored_checkpoint(folder):
    def stop(level, state):
        if level == 1:
            raise KeyboardInterrupt

    file, made = folder / "run.pt", problem()
    options = {"checkpoint": file, "batch_size": 1, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        sample(made, made.solver, 2, callback=stop, **options)
    return file, lambda: sample(made, made.solver, 2, **options)


CHANGES = {
    "no counts": lambda c: c.pop("counts"),
    "counts of text": lambda c: c.update(counts={"denoiser_calls": "many"}),
    "a list of counts": lambda c: c.update(counts=[1]),
    "seconds of text": lambda c: c.update(seconds="long"),
    "batches of a list": lambda c: c.update(batches=[1]),
    "a batch of text": lambda c: c["batches"].update({0: "x"}),
    "no misfits": lambda c: c["batches"][0].pop("misfits"),
    "misfits of numbers": lambda c: c["batches"][0].update(misfits=(1.0, 2.0)),
    "misfits of another batch": lambda c: c["batches"][0].update(misfits=(torch.ones(3),) * 2),
    "too many levels": lambda c: c["batches"][0].update(misfits=(torch.ones(1),) * 99),
    "estimates of text": lambda c: c["batches"][0].update(estimates=("x",)),
    "no state": lambda c: c["batches"][0].pop("state"),
    "a state of text": lambda c: c["batches"][0].update(state="x"),
    "no x": lambda c: c["batches"][0]["state"].pop("x"),
    "more in the state": lambda c: c["batches"][0]["state"].update(y=1),
    "x of text": lambda c: c["batches"][0]["state"].update(x="x"),
    "x of another size": lambda c: c["batches"][0]["state"].update(x=torch.ones(1, 1, 8, 8)),
    "x of another precision": lambda c: c["batches"][0]["state"].update(
        x=torch.ones(1, 1, 16, 16, dtype=torch.float64)
    ),
    "extra of text": lambda c: c["batches"][0]["state"].update(extra="x"),
    "extra of numbers": lambda c: c["batches"][0]["state"].update(extra={"a": 1}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_checkpoints_of_the_right_run_with_other_contents(name, tmp_path):
    file, resume = stored_checkpoint(tmp_path)
    content = torch.load(file, weights_only=True)
    CHANGES[name](content)
    torch.save(content, file)
    before = file.read_bytes()
    assert "is damaged" in refused_or(resume)
    assert file.read_bytes() == before


def test_damaged_checkpoints(tmp_path):
    file, resume = stored_checkpoint(tmp_path)
    raw, expected = file.read_bytes(), resume().samples

    @examples(60)
    @given(st.data())
    def check(data):
        content = bytearray(raw)
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        if data.draw(st.booleans()):
            del content[data.draw(st.integers(1, len(raw) - 1)) :]
        file.write_bytes(bytes(content))
        complaint = ""
        try:
            assert resume().samples.shape == expected.shape
        except (ValueError, FloatingPointError) as error:  # another run's, or a number became NaN
            complaint = str(error)
        assert complaint == "" or len(complaint) > 20

    check()
    assert {p.name for p in Path(tmp_path).iterdir()} == {"run.pt"}

"""Tables of many results: what is counted, averaged and compared, in three formats."""

import csv
import io

import numpy as np
import pytest
from report_results import fail, made, write

from lmaps_science.io import DataError
from lmaps_science.report import find_runs, observations_table, read_outcomes, summary_text
from lmaps_science.report.scores import average, deviation
from lmaps_science.report.statistics import differences, estimate, summarise
from lmaps_science.report.tables import number


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_every_folder_is_counted_and_named(tmp_path):
    write(tmp_path / "slice_10", made())
    write(tmp_path / "slice_2", made(1))
    fail(tmp_path / "slice_3")
    (tmp_path / "slice_4").mkdir()
    (tmp_path / "slice_5").mkdir()
    (tmp_path / "slice_5" / "checkpoint-0123456789ab.pt").touch()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.txt").touch()
    (tmp_path / "checkpoint-0123456789ab.pt").touch()  # of the batch
    runs = find_runs([tmp_path])
    assert [run.name for run in runs.all] == [
        "slice_2",
        "slice_3",
        "slice_4",
        "slice_5",
        "slice_10",
    ]
    assert runs.of("failed")[0].failure["error"] == "the file is truncated. Copy it again."
    told = runs.describe()
    assert "5 observations: 2 finished, 1 failed (slice_3), 2 unfinished (slice_4, slice_5)" in told
    assert "ignored, no results: notes" in told
    assert f"not at its end: {tmp_path.name}" in told


def test_methods_are_the_folders_of_batches(tmp_path):
    for method in ("dps", "lmaps"):
        write(tmp_path / method / "a", made())
    apart = find_runs([tmp_path / "lmaps", tmp_path / "dps"])
    assert find_runs([tmp_path]).methods == ["dps", "lmaps"]
    assert apart.methods == ["lmaps", "dps"]
    assert [run.method for run in find_runs([tmp_path / "dps" / "a"]).all] == ["dps"]
    write(tmp_path / "other" / "dps" / "a", made())
    with pytest.raises(DataError, match="have one name"):
        find_runs([tmp_path / "dps", tmp_path / "other" / "dps"])
    write(tmp_path / "b", made())
    with pytest.raises(DataError, match=r"holds observations .* and folders of observations"):
        find_runs([tmp_path])


def test_folders_without_results_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        find_runs([tmp_path / "none"])
    with pytest.raises(DataError, match="holds no results"):
        find_runs([tmp_path])


def test_a_damaged_result_is_a_failure_and_hides_no_other(tmp_path):
    write(tmp_path / "a", made())
    write(tmp_path / "b", made())
    (tmp_path / "b" / "result.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "failure.json").write_text("[")
    outcomes = read_outcomes(find_runs([tmp_path]))
    assert [outcome.verdict for outcome in outcomes] == ["good", "failed", "failed"]
    assert "result.nc" in outcomes[1].run.failure["error"]
    assert "cannot be read" in outcomes[2].run.failure["error"]
    assert "1 finished, 2 failed (b, c)" in outcomes.runs.describe()


def test_several_kinds_and_other_data_of_one_name_are_refused(tmp_path):
    write(tmp_path / "x" / "a", made())
    write(tmp_path / "x" / "b", made(kind="mri"))
    with pytest.raises(DataError, match=r"several kinds: black_hole \(a\), mri \(b\)"):
        read_outcomes(find_runs([tmp_path / "x"]))
    for method, digest in (("lmaps", "11"), ("dps", "22")):
        inputs = {"data": "a", "files": {"data": {"path": "a", "sha256": digest}}}
        write(tmp_path / "y" / method / "a", made(inputs=inputs))
    with pytest.raises(DataError, match="are of different data"):
        read_outcomes(find_runs([tmp_path / "y"]))


def test_the_three_scores_of_a_result(tmp_path):
    write(tmp_path / "a", made(psnr=(20.0, 22.0), angle=(350.0, 20.0)))
    (outcome,) = read_outcomes(find_runs([tmp_path]))
    psnr, angle = outcome.scores["psnr"], outcome.scores["angle"]
    assert (psnr.samples, psnr.best, psnr.mean) == (21.0, 22.0, 23.0)
    assert psnr.spread == pytest.approx(np.sqrt(2))
    assert angle.samples == pytest.approx(5.0)  # not 185
    assert np.isnan(angle.mean)


def test_angles_go_round():
    assert average([350.0, 10.0], "degree") == 0.0
    assert average([350.0, 10.0], "1") == 180.0
    assert deviation([350.0, 10.0], "degree") == pytest.approx(10.0, rel=0.01)
    assert np.isnan(average([np.nan], "1"))
    assert np.isnan(deviation([1.0], "1"))
    around = estimate([350.0, 355.0, 0.0, 5.0, 10.0, 2.0, 358.0], "degree")
    assert around.low > 350
    assert around.high < 10


def test_bootstrap_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        found = estimate(rng.normal(3.0, 2.0, 40))
        held += found.low <= 3.0 <= found.high
    assert 178 <= held <= 199  # 190 are expected, give or take 3; the bootstrap's are short
    again = [
        estimate(rng.normal(size=12).tolist(), seed=1) for rng in map(np.random.default_rng, (5, 5))
    ]
    assert again[0] == again[1]
    assert again[0].error == pytest.approx(again[0].deviation / np.sqrt(12))


def test_what_has_no_interval():
    alone, none, same = estimate([2.0]), estimate([np.nan]), estimate([2.0, 2.0, np.nan])
    assert (alone.n, alone.mean) == (1, 2.0)
    assert np.isnan([alone.low, alone.deviation, none.mean]).all()
    assert (same.n, same.low, same.high, same.deviation) == (2, 2.0, 2.0, 0.0)


def two_methods(folder):
    """Five observations; the second method is 1, 2, 3, 4 dB better, and failed once."""
    for k in range(5):
        write(folder / "a" / f"o{k}", made(k, psnr=(20.0 + k, 20.0 + k), angle=(355.0, 355.0)))
        if k < 4:
            psnr = 20.0 + k + (k + 1)
            write(folder / "b" / f"o{k}", made(k, psnr=(psnr, psnr), angle=(5.0, 5.0)))
    fail(folder / "b" / "o4")
    return read_outcomes(find_runs([folder]))


def test_differences_are_those_of_the_same_observations(tmp_path):
    outcomes = two_methods(tmp_path)
    psnr, angle = differences(outcomes)
    assert (psnr.metric, psnr.method) == ("psnr", "b - a")
    found = psnr.of["samples"]
    assert (found.n, found.mean) == (4, 2.5)
    assert found.error == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 2)
    assert angle.of["samples"].mean == pytest.approx(10.0)  # not -350
    (other, _) = differences(outcomes, "b")
    assert (other.method, other.of["best"].mean) == ("a - b", -2.5)
    with pytest.raises(DataError, match="no method 'c'"):
        differences(outcomes, "c")
    means = {row.method: row.of["samples"] for row in summarise(outcomes) if row.metric == "psnr"}
    assert (means["a"].n, means["b"].n) == (5, 4)


def test_the_csv_table_has_a_row_for_every_run_and_no_zero_for_what_is_missing(tmp_path):
    rows = rows_of(observations_table(two_methods(tmp_path), "csv"))
    assert len(rows) == 10
    assert float(rows[0]["psnr_mean_image [dB]"]) == 23.0
    (lost,) = (row for row in rows if row["state"] == "failed")
    assert (lost["observation"], lost["method"], lost["psnr_samples [dB]"]) == ("o4", "b", "")
    assert rows[0]["angle_mean_image [degree]"] == ""


def test_markdown_and_latex_are_escaped(tmp_path):
    name = "a_b & <i>|50%$#{}~^"
    write(tmp_path / name, made())
    outcomes = read_outcomes(find_runs([tmp_path]))
    markdown = observations_table(outcomes, "markdown")
    assert "a_b &amp; &lt;i>\\|50%$#{}~^" in markdown
    assert "    23.00 |" in markdown
    latex = observations_table(outcomes, "latex")
    assert r"a\_b \& <i>|50\%\$\#\{\}\textasciitilde{}\textasciicircum{}" in latex
    assert r"$23.00$ & ---" in latex
    assert latex.count(r"\\") == 2


def test_summaries_say_which_score_is_which_and_of_how_many(tmp_path):
    outcomes = two_methods(tmp_path)
    text = summary_text(outcomes)
    assert "samples |" in text
    assert "mean image |" in text
    assert "b - a" in text
    assert "standard error" in text
    assert "few observations, 4 here" in text
    latex = summary_text(outcomes, "latex")
    assert r"\begin{tabular}" in latex
    assert r"$2.500 \pm 0.65" in latex
    assert all(line.startswith("%") for line in latex.splitlines() if "bootstrap" in line)
    rows = rows_of(summary_text(outcomes, "csv"))
    (row,) = (
        r for r in rows if (r["method"], r["metric"], r["of"]) == ("b - a", "psnr", "samples")
    )
    assert (float(row["mean"]), row["n"], row["unit"]) == (2.5, "4", "dB")


@pytest.mark.parametrize(
    ("value", "text"),
    [(23.0, "23.00"), (12345.6, "12346"), (1234.4, "1234"), (0.0, "0.000"), (np.nan, "none")],
)
def test_numbers(value, text):
    assert number(value) == text

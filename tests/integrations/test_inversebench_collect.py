"""`lmaps collect` on folders of InverseBench's results."""

from inversebench_items import inversebench, write_run  # noqa: F401
from typer.testing import CliRunner

from lmaps_science import cli
from lmaps_science.integrations.inversebench.results import benchmark_tables, read_results


def collect(*arguments):
    return CliRunner().invoke(cli.app, ["collect", *map(str, arguments)])


def test_both_tables_are_printed_and_nothing_else_is_written(tmp_path):
    folders = [write_run(tmp_path, "scattering", algorithm=name) for name in ("DPS", "Other")]
    outcome = collect(*folders)
    assert outcome.exit_code == 0, outcome.output
    scores = {name: read_results(f) for name, f in zip(("DPS", "Other"), folders, strict=True)}
    assert outcome.stdout.strip() == benchmark_tables(scores).strip()
    assert "| DPS" in outcome.stdout
    refused = collect(folders[0], "--table", tmp_path / "t.csv")
    assert refused.exit_code == 1
    assert "printed alone" in refused.stderr
    assert not (tmp_path / "t.csv").exists()

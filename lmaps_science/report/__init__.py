"""Many results at once: one dataset of all, tables with intervals, a page to look at."""

from lmaps_science.report.collect import collect, join
from lmaps_science.report.page import write_report
from lmaps_science.report.runs import Run, find_runs
from lmaps_science.report.scores import Outcome, read_outcomes
from lmaps_science.report.tables import observations_table, summary_table

__all__ = [
    "Outcome",
    "Run",
    "collect",
    "find_runs",
    "join",
    "observations_table",
    "read_outcomes",
    "summary_table",
    "write_report",
]

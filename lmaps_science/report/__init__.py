"""Many results at once: one dataset of all, tables with intervals, a page to look at."""

from lmaps_science.report.collect import collect, join, join_folders, write_volume
from lmaps_science.report.page import write_report
from lmaps_science.report.runs import Run, Runs, find_runs
from lmaps_science.report.scores import OF, Outcome, Outcomes, read_outcomes
from lmaps_science.report.tables import FORMATS, observations_table, summary_text

__all__ = [
    "FORMATS",
    "OF",
    "Outcome",
    "Outcomes",
    "Run",
    "Runs",
    "collect",
    "find_runs",
    "join",
    "join_folders",
    "observations_table",
    "read_outcomes",
    "summary_text",
    "write_report",
    "write_volume",
]

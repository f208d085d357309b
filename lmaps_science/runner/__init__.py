"""Runs from a problem to a folder of results: one, or many."""

from lmaps_science.runner.calibrate import calibrate
from lmaps_science.runner.many import BatchReport, reconstruct_many
from lmaps_science.runner.one import checkpoint_name, reconstruct
from lmaps_science.runner.rerun import Rerun, rerun
from lmaps_science.runner.results import describe, metrics_table, write_results
from lmaps_science.runner.signals import Sigterm, Terminated

__all__ = [
    "BatchReport",
    "Rerun",
    "Sigterm",
    "Terminated",
    "calibrate",
    "checkpoint_name",
    "describe",
    "metrics_table",
    "reconstruct",
    "reconstruct_many",
    "rerun",
    "write_results",
]

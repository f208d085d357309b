"""The slices of a volume, put together again when all of them are done."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

from lmaps_science.io.files import DataError
from lmaps_science.io.folders import RESULT
from lmaps_science.io.results import open_netcdf, read_netcdf, write_netcdf
from lmaps_science.report import join, write_volume
from lmaps_science.runner.plan import Batch, Observation
from lmaps_science.sampling.progress import say

__all__ = ["join_volumes"]


def join_volumes(
    batch: Batch, observations: Sequence[Observation], done: Iterable[str], tell: bool
) -> list[Path]:
    """Write the slices of each volume that is complete as one dataset, and in the field's format.

    A volume is complete when all of its slices that the batch wants have results, whichever part
    or worker made them; the last one joins them.

    Args:
        batch: with its card.
        observations: of the whole batch.
        done: names of those that were done just now: the volumes of others are as they were.
        tell: say what was written.

    Returns:
        The files: `NAME.nc` in the folder of the batch, and what the field writes. Files of these
        names that are no volume of ours are refused: they stay, and a note says so.
    """
    new, written = set(done), []
    for volume in {o.volume: None for o in observations if o.volume}:
        slices = [o for o in observations if o.volume == volume]
        files = [batch.folder(observation) / RESULT for observation in slices]
        target = Path(batch.out) / f"{volume}.nc"
        if not all(file.is_file() for file in files):
            continue
        there = target.exists()
        newest = max(file.stat().st_mtime for file in files)
        if there and target.stat().st_mtime > newest and not any(o.name in new for o in slices):
            continue
        read = open_netcdf if importlib.util.find_spec("dask") else read_netcdf
        try:
            if there and "provenance" not in read(target):
                raise DataError(
                    f"{target} is no volume of results and stays: move it, and run the same "
                    "command again."
                )
            joined = join([read(file) for file in files], next(iter(slices[0].each)))
            write_netcdf(target, joined)
            written.append(target)
            # Beside a volume of ours, its other formats are ours, too.
            written += write_volume(batch.out, joined, name=volume, force=there)
        except (DataError, ImportError) as error:
            if tell:
                say(f"note: {volume}: {error}")
    if tell and written:
        say(f"written: {', '.join(map(str, written))}")
    return written

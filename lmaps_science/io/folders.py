"""Where results go: all files of a run or none, and never over what somebody else left there."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lmaps_science.io.files import DataError, make_folder

__all__ = ["RESULT", "SUMMARY", "new_file", "results_folder"]

RESULT = "result.nc"
SUMMARY = "summary.json"  # its list `files` says which files are its run's

_MOST_BYTES = 100_000_000  # of a summary: the metrics of a million samples


def new_file(path: str | os.PathLike[str], force: bool = False) -> Path:
    """`path` as a Path; raise DataError where something is there, unless `force` replaces it."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise DataError(f"{path} is a folder: give the name of a file to write.")
    if path.exists() and not force:
        raise DataError(f"{path} exists: give another name, or replace it with --force.")
    return path


@contextmanager
def results_folder(
    out: str | os.PathLike[str],
    megabytes: float = 8.0,
    *,
    expected: Iterable[str] = (),
    force: bool = False,
) -> Iterator[Path]:
    """A new folder inside `out` whose files move up to `out` once the block has succeeded.

    When it fails, no file of it remains, nor any folder that was made here and holds nothing else.
    What a run that was killed has left of its own is cleared away.

    Args:
        out: made if missing.
        megabytes: what the results will take at most; checked first, since a run can take hours.
        expected: names of files that will be written, to be refused first, too.
        force: replace the results in `out`: files of the same names, and those that its
            summary.json lists as its run's. Others stay.

    Raises:
        DataError: `out` cannot be written to, or holds results or files of the same names.
        OSError: the disk is full, before or while the results are written.
    """
    if not os.fspath(out):
        raise DataError("the folder for the results has no name: give one, e.g. --out demo")
    out = Path(out).expanduser()
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    make_folder(out)
    staging = None
    try:
        _check_free(out, expected, force)
        _clear_leftovers(out)
        staging = _staging(out)
        free = shutil.disk_usage(out).free / 1e6
        if free < megabytes:
            raise _disk_full(out, f"{free:.1f} MB are free, the results take {megabytes:.1f} MB")
        yield staging
        _check_free(out, [file.name for file in staging.iterdir()], force)
        _replace(out, staging)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and str(staging) in str(error):
            raise _disk_full(out, "the results could not be written") from error
        raise
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()


def _check_free(out: Path, names: Iterable[str], force: bool) -> None:
    there = {name for name in names if (out / name).exists()}
    folders = [name for name in sorted(there) if (out / name).is_dir()]
    if folders:
        raise DataError(f"{out / folders[0]} is a folder, in the place of a result: move it away.")
    there |= {file.name for file in _files_of_run(out)}
    if there and not force:
        shown = ", ".join(sorted(there)[:3]) + (", ..." if len(there) > 3 else "")
        raise DataError(
            f"{out} holds results already ({shown}): choose another folder, or replace them with "
            "--force (in Python, force=True)."
        )


def _files_of_run(folder: Path) -> list[Path]:
    """The files in a folder that the run wrote whose summary is there."""
    summary = folder / SUMMARY
    try:
        if summary.stat().st_size > _MOST_BYTES:
            return []
        names = json.loads(summary.read_text("utf-8"))["files"]
        found = [folder / name for name in names if Path(name).name == name]
        return [file for file in found if file.is_file()]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []  # no summary, or not one of ours


def _replace(out: Path, staging: Path) -> None:
    """The summary comes last: until then the old one lists what is there of the old run.

    The result comes first: where a run is killed between the two, it says whose the others are.
    """
    new = sorted(staging.iterdir(), key=lambda f: (f.name != RESULT, f.name == SUMMARY, f.name))
    names = {file.name for file in new}
    stale = [file for file in _files_of_run(out) if file.name not in names]
    for file in new:
        if file.name == SUMMARY:
            for old in stale:
                old.unlink(missing_ok=True)
        os.replace(file, out / file.name)


def _staging(out: Path) -> Path:
    try:
        prefix = f".writing-{socket.gethostname()}-{os.getpid()}-"
        return Path(tempfile.mkdtemp(prefix=prefix, dir=out))
    except OSError as error:
        raise DataError(f"cannot write to {out}: {error.strerror}. Choose another one.") from error


def _clear_leftovers(out: Path) -> None:
    """Folders of processes of this machine that were killed; of other machines, who knows."""
    for left in out.glob(".writing-*"):
        found = re.fullmatch(r"\.writing-(.+)-(\d+)-\w+", left.name)
        if found and found[1] == socket.gethostname() and not _lives(int(found[2])):
            shutil.rmtree(left, ignore_errors=True)


def _lives(process: int) -> bool:
    if os.name == "nt":  # there, signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _disk_full(out: Path, what: str) -> OSError:
    reason = f"the disk is full: {what}. Free some space under {out}, or choose another folder"
    return OSError(errno.ENOSPC, reason)

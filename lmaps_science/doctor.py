"""What is installed here, and whether it works: the rows of `lmaps doctor`."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, entry_points, metadata, requires, version
from pathlib import Path
from typing import Literal

import torch
from packaging.requirements import InvalidRequirement, Requirement

from lmaps_science.cards.kind import CHECKSUMS, Kind, SelfTest
from lmaps_science.cards.load import load_card, load_problem
from lmaps_science.cards.registry import PROBLEMS, SOLVERS, kinds
from lmaps_science.io.files import DataError, free_memory, names, sha256
from lmaps_science.manifests import cache_folder
from lmaps_science.runner.results import commit
from lmaps_science.sampling import sample

__all__ = ["Row", "as_table", "examine"]

PACKAGE = "lmaps-science"
_LITTLE_MEMORY, _LITTLE_DISK = 2e9, 1e9


@dataclass(frozen=True)
class Row:
    """One thing that was looked at; a note is what one may not need."""

    what: str
    status: Literal["ok", "note", "FAIL"]
    text: str


def examine(self_tests: bool = True) -> list[Row]:
    """Everything, each part whatever becomes of the others.

    Args:
        self_tests: reconstruct what each kind's `SelfTest` says, some 10 s in all.
    """
    parts = [_versions, _devices, _threads, _room, _extras, _data, _entries, _weights]
    rows: list[Row] = []
    for part in [*parts, *([_self_tests] if self_tests else [])]:
        try:
            rows += part()
        except Exception as error:  # one part that breaks must not hide the others
            rows.append(Row(part.__name__.strip("_"), "FAIL", _told(error)))
    return rows


def as_table(rows: list[Row]) -> str:
    """A line for each, and one that counts them."""
    width = max(len(row.what) for row in rows)
    lines = [f"{row.status:<4}  {row.what:<{width}}  {row.text}" for row in rows]
    fails, notes = (sum(row.status == s for row in rows) for s in ("FAIL", "note"))
    return "\n".join([*lines, "", f"{fails} failed, {notes} notes, {len(rows)} rows"])


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


# ---------------------------------------------------------------- versions and extras


def _versions() -> Iterator[Row]:
    yield Row("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    try:
        own = version(PACKAGE)
    except PackageNotFoundError:
        text = "not installed, run from its source tree: nothing of the rest is known by metadata"
        yield Row(PACKAGE, "note", f"{text}; pip install {PACKAGE}")
        return
    here = Path(__file__).resolve().parent
    told = commit().get("commit", "")[:12]
    yield Row(PACKAGE, "ok", f"{own}{f', commit {told}' if told else ''}, in {here}")
    for requirement in _requirements():
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            problem = _lacking(requirement)
            found = problem or version(requirement.name)
            yield Row(requirement.name, "FAIL" if problem else "ok", found)


def _extras() -> Iterator[Row]:
    found: dict[str, list[Requirement]] = {}
    for requirement in _requirements():
        for extra in _extras_of(requirement):
            found.setdefault(extra, []).append(requirement)
    for extra in sorted(found):
        needed = list(_with_nested(extra, found, ()))
        lacking = [text for text in map(_lacking, needed) if text]
        what = f"extra {extra}"
        if lacking:
            advice = f"pip install '{PACKAGE}[{extra}]'"
            yield Row(what, "note", f"{names(sorted(set(lacking)))}: {advice}")
        else:
            have = {f"{r.name} {version(r.name)}" for r in needed}
            yield Row(what, "ok", names(sorted(have), most=12))


def _requirements() -> list[Requirement]:
    """What our own metadata say that we need, with extras or without."""
    try:
        texts = requires(PACKAGE) or []
    except PackageNotFoundError:
        return []
    found = []
    for text in texts:
        with contextlib.suppress(InvalidRequirement):
            found.append(Requirement(text))
    return found


def _extras_of(requirement: Requirement) -> list[str]:
    """The extras that bring this requirement here."""
    marker = requirement.marker
    if marker is None or marker.evaluate({"extra": ""}):
        return []
    every = metadata(PACKAGE).get_all("Provides-Extra") or []
    return [extra for extra in every if marker.evaluate({"extra": extra})]


def _with_nested(
    extra: str, found: dict[str, list[Requirement]], above: tuple[str, ...]
) -> Iterator[Requirement]:
    """The requirements of an extra, those of extras that it names included."""
    for requirement in found.get(extra, []):
        if requirement.name.replace("_", "-").lower() != PACKAGE:
            yield requirement
            continue
        for other in requirement.extras - {*above, extra}:
            yield from _with_nested(other, found, (*above, extra))


def _lacking(requirement: Requirement) -> str:
    """What is wrong with a package that is needed; "" where nothing is."""
    try:
        have = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(have, prereleases=True):
        return ""
    return f"{requirement.name} is {have}, needed is {requirement.specifier}"


# ---------------------------------------------------------------- the machine


def _devices() -> Iterator[Row]:
    capability = torch.backends.cpu.get_cpu_capability()
    yield Row("cpu", "ok", f"{_processor()}, {_cores():g} cores usable, {capability}")
    if not torch.cuda.is_available():
        built = f"PyTorch {torch.__version__} is " + (
            f"built for CUDA {torch.version.cuda}, but finds no device"
            if torch.version.cuda
            else "built without CUDA"
        )
        yield Row("cuda", "note", f"none: {built}; everything runs on the CPU")
    for k in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        yield _cuda(k)
    if torch.backends.mps.is_available():
        yield Row("mps", "ok", "available")


def _cuda(k: int) -> Row:
    what = f"cuda:{k}"
    try:
        facts = torch.cuda.get_device_properties(k)
        free, _ = torch.cuda.mem_get_info(k)
        x = torch.ones(64, 64, device=what)
        works = float((x @ x).sum()) == 64**3  # kernels are built for its capability, or not
    except RuntimeError as error:
        return Row(what, "FAIL", _told(error))
    text = (
        f"{facts.name}, capability {facts.major}.{facts.minor}, {facts.total_memory / 1e9:.1f} GB, "
        f"{free / 1e9:.1f} GB free"
    )
    return Row(what, "ok" if works else "FAIL", text if works else f"{text}: it multiplies wrongly")


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> float:
    """Cores that this process may use: its affinity, and the share of its container."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        cores = min(cores, float(quota) / float(period))
    return cores


def _threads() -> Iterator[Row]:
    threads, cores = torch.get_num_threads(), _cores()
    setting = os.environ.get("OMP_NUM_THREADS")
    text = f"{threads}; OMP_NUM_THREADS is {'not set' if setting is None else repr(setting)}"
    if threads > cores:
        text += f": more than the {cores:g} cores there are, which is slow: set it to {cores:.0f}"
    yield Row("threads", "note" if threads > cores else "ok", text)


def _room() -> Iterator[Row]:
    free = free_memory()
    known = "not known" if free == float("inf") else f"{free / 1e9:.1f} GB free"
    yield Row("memory", "note" if free < _LITTLE_MEMORY else "ok", known)
    for what, place in (("disk here", Path.cwd()), ("disk of cache", cache_folder())):
        there = next(p for p in (place, *place.parents) if p.exists())
        left = shutil.disk_usage(there).free
        writable = os.access(there, os.W_OK)
        text = f"{left / 1e9:.1f} GB free, {place}{'' if writable else ': not writable'}"
        yield Row(what, "ok" if writable and left > _LITTLE_DISK else "note", text)


def _data() -> Iterator[Row]:
    folder = os.environ.get("LMAPS_DATA")
    if folder is None:
        yield Row("LMAPS_DATA", "ok", "not set: public data are downloaded to the cache")
    elif Path(folder).expanduser().is_dir():
        yield Row("LMAPS_DATA", "ok", folder)
    else:
        yield Row("LMAPS_DATA", "FAIL", f"{folder}: there is no such folder")


# ---------------------------------------------------------------- what is registered and shipped


def _entries() -> Iterator[Row]:
    for group, what in ((PROBLEMS, "kinds"), (SOLVERS, "solvers")):
        entries, broken = list(entry_points(group=group)), []
        for entry in entries:
            try:
                entry.load()
            except Exception as error:
                broken.append(Row(f"{what}: {entry.name}", "FAIL", _told(error)))
        yield from broken
        text = names(sorted(entry.name for entry in entries), most=30)
        none = f"none: reinstall {PACKAGE}"
        yield Row(what, "ok" if entries else "FAIL", text if entries else none)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kinds.cache_clear()
        for kind in kinds().values():
            yield from _cards(kind)
    yield from (Row("kinds", "FAIL", " ".join(str(w.message).split())) for w in caught)


def _cards(kind: Kind) -> Iterator[Row]:
    found = sorted(kind.cards.glob("*.yaml"))
    for path in found:
        try:
            load_card(f"{kind.name}/{path.stem}")
        except Exception as error:
            yield Row(f"card {kind.name}/{path.stem}", "FAIL", _told(error))
    yield Row(f"cards of {kind.name}", "ok" if found else "note", f"{len(found)} in {kind.cards}")


def _weights() -> Iterator[Row]:
    for kind in kinds().values():
        listed = kind.checksums
        cards = "\n".join(path.read_text("utf-8") for path in kind.cards.glob("*.yaml"))
        there = {path.name: path for path in kind.cards.glob("*.safetensors")}
        for name in sorted({*listed, *there}):
            what = f"weights {name}"
            if name not in there and name not in cards:
                yield Row(what, "note", "in the repository, not in the wheel: no card uses it")
            elif name not in there:
                yield Row(what, "FAIL", f"missing in {kind.cards}: reinstall the package")
            elif name not in listed:
                yield Row(what, "note", f"not in {CHECKSUMS} beside it, so it was not verified")
            elif (have := sha256(there[name])) != listed[name]:
                text = f"its SHA-256 is {have}, expected {listed[name]}: reinstall the package"
                yield Row(what, "FAIL", text)
            else:
                yield Row(what, "ok", f"sha256 {have[:16]}…")


# ---------------------------------------------------------------- self-tests


def _self_tests() -> Iterator[Row]:
    found = {kind.name: kind.self_test for kind in kinds().values() if kind.self_test}
    for name, test in found.items():
        yield _tried(f"self-test {name}", partial(_self_test, name, test))


def _tried(what: str, test: Callable[[], tuple[bool, str]]) -> Row:
    try:
        good, text = test()
    except ImportError as error:  # of an extra: the rows above say which
        return Row(what, "note", f"not run: {' '.join(str(error).split())}")
    except Exception as error:
        return Row(what, "FAIL", _told(error))
    return Row(what, "ok" if good else "FAIL", text)


def _self_test(kind: str, test: SelfTest) -> tuple[bool, str]:
    """Whether a reconstruction on the CPU comes to what it should."""
    start = time.monotonic()
    problem = load_problem(
        f"{kind}/{test.card}", overrides=test.overrides, preset=test.preset, device="cpu"
    )
    data = problem.analyse(sample(problem, problem.solver, 1, test.seed, progress=False))
    if test.metric not in data:
        raise DataError(f"there is no metric {test.metric!r} in its result")
    value, unit = float(data[test.metric][0]), data[test.metric].attrs.get("units", "")
    text = (
        f"{test.metric} {value:.2f} {unit}, expected {test.expected:g} ± {test.tolerance:g}; "
        f"{time.monotonic() - start:.1f} s"
    )
    return abs(value - test.expected) <= test.tolerance, text

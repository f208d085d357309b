"""The configurations that this package brings, and which of them suits an operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lmaps_science.cards.registry import plain
from lmaps_science.io.yaml_text import read_yaml

__all__ = ["Configuration", "configurations", "tuned"]

FOLDER = Path(__file__).parent / "conf" / "algorithm"
OWN = (
    "_target_",
    "_convert_",
    "method",
    "tuned",
    "fast",
    "noise",
    "batch_size",
)  # not the solver's

# How the benchmark's problem of a configuration is asked for.
SCATTERING = "problem=inv-scatter pretrain=inv-scatter problem.model.numRec={}"
KSPACE = (
    "problem=multi-coil-mri-knee-lmdb pretrain=mri-knee-mvue problem.model.acceleration_ratio={} "
    "problem.data.simulated_kspace={}"
)
BLACK_HOLE = (
    "problem=blackhole pretrain=blackhole problem.model.observation_time_ratio={} "
    "+problem.model.ttype=direct"
)
PROBLEMS = {
    **{f"scattering_{n}": SCATTERING.format(n) for n in (360, 180, 60)},
    **{
        f"mri_{r}_{data}": KSPACE.format(r, str(data == "sim").lower())
        for r in (4, 8)
        for data in ("raw", "sim")
    },
    **{f"blackhole_{n}": BLACK_HOLE.format(n / 100) for n in (100, 10, 3)},
}


@dataclass(frozen=True)
class Configuration:
    """A configuration of the group `algorithm`.

    Attributes:
        name: of its file, without suffix.
        about: its comment: what it is, and on what it was tuned.
        command: the command line that uses it, in the benchmark's folder.
    """

    name: str
    about: str
    command: str


@lru_cache(maxsize=1)
def configurations() -> tuple[Configuration, ...]:
    """All of them, by name."""
    found = []
    for file in sorted(FOLDER.glob("*.yaml")):
        lines = file.read_text("utf-8").splitlines()
        about = " ".join(line[1:].strip() for line in lines if line.startswith("#"))
        found.append(Configuration(file.stem, about, _command(file.stem)))
    return tuple(found)


def tuned(method: str, settings: str) -> Mapping[str, Any] | None:
    """Options of a solver for a setting such as `scattering_360`; None: none were tuned."""
    name = plain(method)
    stem = "lmaps" if name == "lmaps" else f"lmaps_{name}"
    for end in (settings, settings.split("_")[0]):
        file = FOLDER / f"{stem}_{end}.yaml"
        if file.is_file():
            content = read_yaml(file, "a configuration")["method"]
            return {key: value for key, value in content.items() if key not in OWN}
    return None


def _command(name: str) -> str:
    shown = next((key for key in PROBLEMS if key in name), None)
    if shown is None:  # of all settings of a problem, or of all problems: the first
        shown = next((key for key in PROBLEMS if key.split("_")[0] in name), "scattering_360")
    return f"python main.py {PROBLEMS[shown]} algorithm={name}"

"""What InverseBench's program saves of a run: `config.yaml`, and `result_{id}.pt` for each item."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmaps_science.cards.benchmark import SavedResult
from lmaps_science.io.files import DataError, names
from lmaps_science.io.id_lists import parse_ids
from lmaps_science.io.pytorch import read_tensors
from lmaps_science.io.yaml_text import read_yaml

__all__ = ["SavedRun", "digest", "is_saved_run", "read_saved"]

_FILE = re.compile(r"result_(\d{1,9})\.pt")
_PARTS = ("recon", "target", "observation")


def is_saved_run(folder: Path) -> bool:
    """Whether a folder holds results of the program."""
    return folder.is_dir() and any(_FILE.fullmatch(path.name) for path in folder.iterdir())


@dataclass(frozen=True)
class SavedRun:
    """A folder of results of one algorithm on one problem.

    Attributes:
        folder: with `config.yaml` and `result_{id}.pt`.
        settings: the contents of `config.yaml`.
        items: the ids of the items that there are, sorted.
    """

    folder: Path
    settings: Mapping[str, Any]
    items: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path) -> SavedRun:
        """The run in a folder.

        Raises:
            DataError: no result in it, or no `config.yaml` that the program wrote.
        """
        found = [_FILE.fullmatch(path.name) for path in folder.iterdir()] if folder.is_dir() else []
        items = sorted(int(match[1]) for match in found if match)
        if not items:
            raise DataError(
                f"{folder} holds no result_*.pt: give the folder in which InverseBench's program "
                "saved its results, <exp_dir>/<algorithm>/<exp_name>."
            )
        path = folder / "config.yaml"
        if not path.is_file():
            raise DataError(
                f"{path}: no such file. The program saves it beside its results; it says which "
                "problem they are of. Copy the whole folder."
            )
        settings = read_yaml(path, "the settings of a run of InverseBench")
        for name in ("problem", "algorithm"):
            if not isinstance(settings, Mapping) or not isinstance(settings.get(name), Mapping):
                raise DataError(f"{path} has no section {name}: it is of another program.")
        return cls(folder, settings, tuple(items))

    @property
    def problem(self) -> Mapping[str, Any]:
        """The section `problem` of the settings."""
        found: Mapping[str, Any] = self.settings["problem"]
        return found

    @property
    def algorithm(self) -> str:
        """The name of the algorithm."""
        return str(self.settings["algorithm"].get("name", "?"))

    @property
    def operator(self) -> str:
        """The name of the class of its forward operator."""
        model = self.problem.get("model")
        target = str(model.get("_target_", "")) if isinstance(model, Mapping) else ""
        return target.rpartition(".")[2]

    @property
    def base(self) -> Path:
        """The folder in which the program ran, to which paths of its settings are relative.

        Found from where the results lie, `<exp_dir>/<algorithm>/<exp_name>`; for results that were
        moved, the working directory.
        """
        folder = self.folder.resolve()
        parts = Path(str(self.problem.get("exp_dir", ""))).parts
        parts = (*parts, self.algorithm, str(self.settings.get("exp_name", "")))
        same = folder.parts[-len(parts) :] == parts
        return Path(*folder.parts[: -len(parts)]) if same else Path.cwd()

    @property
    def wanted(self) -> list[int] | None:
        """The ids that the run was asked for; None: all of the data set."""
        data = self.problem.get("data")
        ids = data.get("id_list") if isinstance(data, Mapping) else None
        return parse_ids(ids, f"{self.folder / 'config.yaml'}: problem.data.id_list")

    @property
    def missing(self) -> list[int]:
        """Those of them without a result."""
        return [item for item in self.wanted or () if item not in self.items]

    def entry(self, item: int) -> int:
        """Which entry of the data set is behind an id.

        That under the id; but the program's data set of black holes ignores `id_list`: the k-th of
        the list is entry k.
        """
        data, wanted = self.problem.get("data"), self.wanted
        target = str(data.get("_target_", "")) if isinstance(data, Mapping) else ""
        if target.rpartition(".")[2] == "BlackHole" and wanted and item in wanted:
            return wanted.index(item)
        return item

    def __iter__(self) -> Iterator[SavedResult]:
        """The results, read one by one.

        Raises:
            DataError: a file that is damaged, or holds something else.
        """
        return (self.read(item) for item in self.items)

    def read(self, item: int) -> SavedResult:
        """The result of one item; DataError as above."""
        found = read_saved(self.folder / f"result_{item}.pt")
        return replace(found, item=item, entry=self.entry(item))


def digest(observation: Tensor) -> str:
    """Twelve digits that tell observations apart."""
    values = np.ascontiguousarray(observation.resolve_conj().cpu().numpy())
    return hashlib.sha256(values.tobytes()).hexdigest()[:12]


def read_saved(path: Path) -> SavedResult:
    """The result in a file `result_{id}.pt`.

    Raises:
        DataError: no such file; one that is damaged, or holds something else.
    """
    match = _FILE.fullmatch(path.name)
    item = int(match[1]) if match else 0
    content = read_tensors(path, f"Remove it and run that item again, problem.data.id_list={item}.")
    lacking = [
        n
        for n in _PARTS
        if not isinstance(content, Mapping) or not isinstance(content.get(n), Tensor)
    ]
    if lacking:
        raise DataError(
            f"{path} lacks the tensor(s) {names(lacking)}: it is no result of InverseBench's "
            "program."
        )
    recon, target, observation = (content[name].detach() for name in _PARTS)
    if target.ndim == 3:
        target = target[None]
    if recon.ndim != 4 or target.shape != (1, *recon.shape[1:]) or recon.is_complex():
        raise DataError(
            f"{path}: recon has shape {tuple(recon.shape)} and target {tuple(target.shape)}; "
            "expected (samples, C, H, W) and (1, C, H, W), real."
        )
    broken = [n for n in ("target", "observation") if not bool(torch.isfinite(content[n]).all())]
    if broken:
        raise DataError(f"{path}: {names(broken)} holds values that are not finite.")
    return SavedResult(item, item, recon, target, observation)

"""How a published benchmark scores the results of any method, for one kind of problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

from lmaps_science.metrics import psnr, ssim

if TYPE_CHECKING:
    from lmaps_science.cards.problem import Problem

__all__ = ["BenchmarkScores", "Metric", "SavedResult", "Scores", "benchmark_psnr", "benchmark_ssim"]


@dataclass(frozen=True)
class Metric:
    """What a number of a table says.

    Attributes:
        long_name: in words.
        units: "1" where there is none.
        higher_is_better: False for misfits and errors.
    """

    long_name: str
    units: str = "1"
    higher_is_better: bool = True


@dataclass(frozen=True)
class SavedResult:
    """One item as the benchmark's program saved it, in physical units.

    Attributes:
        item: its number, that of the file.
        entry: which entry of the data set it is.
        recon: (n, C, H, W), the samples.
        target: (1, C, H, W), the truth.
        observation: the data, packed as the program does.
    """

    item: int
    entry: int
    recon: Tensor
    target: Tensor
    observation: Tensor


class Scores(NamedTuple):
    """Scores of one item: the benchmark's own numbers, and the corrected ones, (n,) each."""

    benchmark: Mapping[str, float]
    corrected: Mapping[str, np.ndarray]


class BenchmarkScores(ABC):
    """The metrics of the InverseBench benchmark (Zheng et al. 2025) for one kind of problem.

    A field writes a subclass and names it in its `Kind`. What cannot be computed, for want of
    files that results do not hold, is NaN, and `notes` says so.

    Attributes:
        operator: the name of the program's class of forward operators that it is for.
        benchmark: the program's own metrics, by its names for them.
        corrected: ours.
        notes: what to keep in mind, filled while scoring.
    """

    operator: ClassVar[str]
    benchmark: ClassVar[Mapping[str, Metric]]
    corrected: ClassVar[Mapping[str, Metric]]

    def __init__(self, settings: Mapping[str, Any], base: Path, data: Path | None = None):
        """Prepare for the results of one run.

        Args:
            settings: the section `problem` of the run's config.yaml.
            base: the folder in which the program ran, to which its paths are relative.
            data: the folder of the files that scores need beside the results, where it is not the
                one that the settings name.

        Raises:
            DataError: settings that make no problem.
        """
        self.settings, self.base, self.data = settings, base, data
        self.notes: list[str] = []

    @abstractmethod
    def score(self, saved: SavedResult) -> Scores:
        """Both sets of scores of one item."""

    @staticmethod
    @abstractmethod
    def of_result(data: xr.Dataset) -> Scores:
        """The same scores of a result of this package (`result.nc`) whose truth is known."""

    @staticmethod
    def unpacked(saved: SavedResult, problem: Problem) -> tuple[Tensor, np.ndarray]:
        """The observation, like the problem's `misfit.data`, and the truth in its units.

        With any axes, so long as there are as many numbers in the same order.
        """
        return saved.observation, saved.target.numpy()

    def section(self, name: str) -> Mapping[str, Any]:
        """A section of the settings; empty where there is none."""
        found = self.settings.get(name)
        return found if isinstance(found, Mapping) else {}

    def root(self, section: str) -> Path:
        """The folder of data: the one given, else `root` in a section of the settings."""
        named = str(self.section(section).get("root") or "")
        return self.data if self.data is not None else self.base / Path(named).expanduser()

    def note(self, text: str) -> None:
        """Remember what to keep in mind, once."""
        if text not in self.notes:
            self.notes.append(text)


def benchmark_psnr(predicted: Tensor, target: Tensor, data_range: float | Tensor = 1.0) -> Tensor:
    """PSNR in dB as the benchmark has it: 1e-8 is added to the relative squared error, (B,)."""
    return psnr(predicted, target, data_range, epsilon=1e-8)


def benchmark_ssim(predicted: Tensor, target: Tensor, data_range: float | Tensor = 1.0) -> Tensor:
    """SSIM as the benchmark has it, (B,): images of 384 pixels and more are first averaged.

    Over blocks of round(min(H, W) / 256) pixels; smaller images as they are. NaN where an image is
    smaller than the window of 11 pixels.
    """
    if min(predicted.shape[-2:]) < 11:
        return predicted.new_full((len(predicted),), float("nan"))
    block = max(1, round(min(predicted.shape[-2:]) / 256))
    if block > 1:
        predicted, target = (F.avg_pool2d(x, block) for x in (predicted, target))
    return ssim(predicted, target, data_range)

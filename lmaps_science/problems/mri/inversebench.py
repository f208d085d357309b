"""How the InverseBench benchmark scores multi-coil MRI, and how they should be scored."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lmaps_science import metrics
from lmaps_science.arrays import norm
from lmaps_science.cards.benchmark import (
    BenchmarkScores,
    Metric,
    SavedResult,
    Scores,
    benchmark_psnr,
    benchmark_ssim,
)
from lmaps_science.cards.problem import Problem
from lmaps_science.io import DataError, open_kspace, read_npy
from lmaps_science.io.kspace.hdf5 import open_map_file
from lmaps_science.io.kspace.slices import CROP
from lmaps_science.physics.mri import MultiCoilMRI
from lmaps_science.physics.sampling import line_mask

__all__ = ["MRIScores"]

BATCH = 32  # images that the program scores at once, where there are several samples


class MRIScores(BenchmarkScores):
    """Both score magnitudes, relative to the largest of the target, and clip predictions to it.

    Of several samples the program scores whole batches of 32 alone and divides by their number, so
    that two samples get 0.0; its data misfit is that of all samples together. The corrected ones
    are averages over the samples. The data misfit needs coil maps, which results do not hold: they
    are read from the data set.
    """

    operator = "MultiCoilMRI"
    benchmark: ClassVar[Mapping[str, Metric]] = {
        "psnr": Metric("peak signal-to-noise ratio of magnitudes", "dB"),
        "ssim": Metric("structural similarity of magnitudes"),
        "data misfit": Metric("|y - A x|", "1", False),
    }
    corrected: ClassVar[Mapping[str, Metric]] = {
        "psnr": Metric("peak signal-to-noise ratio of magnitudes", "dB"),
        "ssim": Metric("structural similarity of magnitudes"),
        "data_misfit": Metric("|y - A x|", "1", False),
        "relative_misfit": Metric("|y - A x| / |y|", "1", False),
    }

    def score(self, saved: SavedResult) -> Scores:
        """Of images whose unit is the 99th percentile of the fully sampled one."""
        y = torch.view_as_complex(saved.observation.double().contiguous())
        maps = self._maps(saved.entry, tuple(y.shape[1:]))
        fit = None
        if maps is not None:
            operator = MultiCoilMRI(maps, self._mask((y.shape[-2], y.shape[-1])))
            misfit = norm(operator(saved.recon.double()) - y)
            fit = misfit.numpy(), (misfit / norm(y)).numpy()
        return _scores(saved.recon.double(), saved.target.double(), fit)

    @staticmethod
    def of_result(data: xr.Dataset) -> Scores:
        """The same of a `result.nc`."""
        recon, truth = (torch.as_tensor(data[n].values).double() for n in ("image", "truth"))
        return _scores(recon, truth[None], (data["data_misfit"].values, None))

    @staticmethod
    def unpacked(saved: SavedResult, problem: Problem) -> tuple[Tensor, np.ndarray]:
        """Complex k-space, and the image, both in units of its 99th percentile."""
        kspace = torch.view_as_complex(saved.observation.double().contiguous())
        return kspace, saved.target.numpy()

    def _mask(self, shape: tuple[int, int]) -> np.ndarray:
        """Which samples were kept, (H, W)."""
        model = self.section("model")
        columns = model.get("orientation", "vertical") == "vertical"
        if model.get("mask_fname"):
            lines = np.array(read_npy(self.base / str(model["mask_fname"]))) != 0
            return np.broadcast_to(lines[None] if columns else lines[:, None], shape)
        kept = float(model.get("acceleration_ratio", 8)), -1 if columns else -2
        kind, seed = str(model.get("pattern", "random")), int(model.get("mask_seed", 0))
        return line_mask(shape, *kept, kind, seed)

    def _maps(self, entry: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """Coil maps (coils, H, W) as the data set has them; None, and a note, where it is not."""
        root = self.root("data")
        try:
            path, index, options = self._slice(root, entry, (shape[-2], shape[-1]))
            with open_kspace(path, **options) as file:
                found = file[index]
        except (DataError, IndexError, OSError) as error:
            self.note(
                "the data misfit needs the coil maps of the data set, which results do not hold: "
                f"give its folder as data ({error})"
            )
            return None
        if "maps" not in found or found["maps"].shape != shape:
            self.note(
                f"{root} holds no coil maps of shape {shape}, as the observation has: there is no "
                "data misfit."
            )
            return None
        return np.asarray(found["maps"].values, np.complex128)

    def _slice(
        self, root: Path, entry: int, size: tuple[int, int]
    ) -> tuple[Path, int, dict[str, Any]]:
        """Where an entry of the data set is: file, slice, and how to open it.

        A folder of LMDB databases has it under its number. Else the folder holds HDF5 files of maps
        (`s_maps`), of which the program numbers the slices from the first to the last but ten, file
        by file (of brains those of T2 alone, and no more files after 500 slices), and k-space is in
        a folder without `_sens_maps_espirit` in its name.
        """
        if (root / "kspace").is_dir() or not root.is_dir():
            return root, entry, {"shape": size}
        first, last = self.section("data").get("slice_range", (5, -5))
        before = 0
        for path in sorted(root.iterdir()):
            brain = "brain" in str(path)
            if brain and "T2" not in str(path):
                continue
            with closing(open_map_file(path)) as maps:
                count = max(0, maps.length + int(last) - int(first))
            if entry < before + count:
                kspace = Path(str(path).replace("_sens_maps_espirit", ""))
                return kspace, int(first) + entry - before, {"maps": path, "crop": size == CROP}
            before += count
            if brain and before > 500:
                break
        raise DataError(f"{root} has {before} slices in all, and no entry {entry}")


def _scores(
    recon: Tensor, target: Tensor, fit: tuple[np.ndarray, np.ndarray | None] | None
) -> Scores:
    """Of images (n, 2, H, W) and the truth (1, 2, H, W); `fit` are the misfits of the samples."""
    pair = metrics.magnitudes(recon, target)
    found = {"psnr": metrics.psnr(*pair)}
    if min(recon.shape[-2:]) >= 11:
        found["ssim"] = metrics.ssim(*pair)
    corrected = {name: value.numpy() for name, value in found.items()}
    own = {"psnr": benchmark_psnr(*pair).numpy(), "ssim": benchmark_ssim(*pair).numpy()}
    benchmark = {name: _as_the_program(values) for name, values in own.items()}
    if fit is not None:
        misfit, relative = fit
        benchmark["data misfit"] = float(np.sqrt(np.square(misfit).sum()))
        corrected["data_misfit"] = misfit
        if relative is not None:
            corrected["relative_misfit"] = relative
    return Scores(benchmark, corrected)


def _as_the_program(values: np.ndarray) -> float:
    """The mean of one sample; of several, the sum of the means of whole batches over n."""
    n = len(values)
    if n == 1:
        return float(values[0])
    whole = [values[k * BATCH : (k + 1) * BATCH].mean() for k in range(n // BATCH)]
    return float(sum(whole)) / n

"""How the InverseBench benchmark scores inverse scattering, and how they should be scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr

from lmaps_science import metrics
from lmaps_science.cards.benchmark import (
    BenchmarkScores,
    Metric,
    SavedResult,
    Scores,
    benchmark_psnr,
    benchmark_ssim,
)
from lmaps_science.io import DataError
from lmaps_science.physics.scattering import BornScattering, ScatteringGeometry

__all__ = ["ScatteringScores"]


class ScatteringScores(BenchmarkScores):
    """Both work on the contrast clipped to [0, 1], and average over the samples.

    The corrected ones add no constant to the squared error, and say how well the saved observation
    is explained, which the program does not report for this problem.
    """

    operator = "InverseScatter"
    benchmark: ClassVar[Mapping[str, Metric]] = {
        "psnr": Metric("peak signal-to-noise ratio", "dB"),
        "ssim": Metric("structural similarity"),
    }
    corrected: ClassVar[Mapping[str, Metric]] = {
        "psnr": Metric("peak signal-to-noise ratio", "dB"),
        "ssim": Metric("structural similarity"),
        "relative_misfit": Metric("data misfit |y - A x| / |y|", "1", False),
        "chi2": Metric("|y - A x|^2 / sigma^2 per measured number", "1", False),
    }

    def __init__(self, settings: Mapping[str, Any], base: Path, data: Path | None = None):
        super().__init__(settings, base, data)
        model = settings.get("model") or {}
        try:
            self._sigma = float(model.get("sigma_noise", 0.0))
            self._physics = _operator(model)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise DataError(f"problem.model makes no scattering problem: {error}") from error

    def score(self, saved: SavedResult) -> Scores:
        """Of images in units of the contrast."""
        recon, target = saved.recon.clip(0, 1), saved.target.clip(0, 1)
        with torch.no_grad():
            predicted = self._physics(saved.recon.double())
        observed = saved.observation.reshape(1, *predicted.shape[1:]).to(predicted)
        fit = {"relative_misfit": metrics.relative_misfit(predicted, observed)}
        if self._sigma > 0:
            residual = (predicted - observed).abs().square().flatten(1)
            fit["chi2"] = residual.mean(1) / self._sigma**2
        else:
            self.note("the data are stated to have no noise: there is no chi2.")
        return _image_scores(recon, target, {name: v.numpy() for name, v in fit.items()})

    @staticmethod
    def of_result(data: xr.Dataset) -> Scores:
        """The same of a `result.nc`: images relative to its largest contrast."""
        largest = float(data.attrs["max_contrast"])
        recon, truth = (
            torch.as_tensor(data[name].values / largest).clip(0, 1) for name in ("image", "truth")
        )
        fit = {name: data[name].values for name in ("relative_misfit", "chi2")}
        return _image_scores(recon[:, None], truth[None, None], fit)


def _image_scores(
    recon: torch.Tensor, target: torch.Tensor, fit: Mapping[str, np.ndarray]
) -> Scores:
    """Of images (n, 1, H, W) and the truth (1, 1, H, W), clipped to [0, 1]."""
    benchmark = {
        "psnr": float(benchmark_psnr(recon, target).mean()),
        "ssim": float(benchmark_ssim(recon, target).mean()),
    }
    corrected = {"psnr": metrics.psnr(recon, target).numpy(), **fit}
    if min(recon.shape[-2:]) >= 11:
        corrected["ssim"] = metrics.ssim(recon, target).numpy()
    return Scores(benchmark, corrected)


def _operator(model: Mapping[str, Any]) -> BornScattering:
    """The benchmark's operator on images of the contrast, in double precision."""
    npix, side = int(model.get("Nx", 128)), float(model.get("Lx", 0.18))
    if npix != int(model.get("Ny", 128)) or side != float(model.get("Ly", 0.18)):
        raise ValueError("its grid is not square")
    transmitters, receivers = (
        np.linspace(0, 359, int(model.get(name, default)))
        for name, default in (("numTrans", 60), ("numRec", 360))
    )
    radius = float(model.get("sensorRadius", 1.6))
    wavelength = float(model.get("wave", 6)) * side / npix
    geometry = ScatteringGeometry(npix, side, wavelength, transmitters, receivers, radius, radius)
    return BornScattering(geometry, conjugate_incident=True, dtype=torch.float64)

"""How the InverseBench benchmark scores inverse scattering, and how they should be scored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

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
        model = self.section("model")
        try:
            self._sigma = float(model.get("sigma_noise", 0.0))
            self._geometry = _Geometry.of(model)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise DataError(f"problem.model makes no scattering problem: {error}") from error
        self._physics: BornScattering | None = None

    def score(self, saved: SavedResult) -> Scores:
        """Of images in units of the contrast.

        Raises:
            DataError: data or images of another geometry.
        """
        recon, target = saved.recon.clip(0, 1), saved.target.clip(0, 1)
        geometry, observed = self._geometry, saved.observation
        measured = geometry.transmitters, geometry.receivers
        if observed.numel() != math.prod(measured) or recon.shape[-1] != geometry.npix:
            raise DataError(
                f"{observed.numel()} data of an image of {recon.shape[-1]} pixels are not those of "
                f"{measured[0]} transmitters, {measured[1]} receivers and {geometry.npix} pixels, "
                "which problem.model has."
            )
        if self._physics is None:  # after the check: its tables are as large as the settings say
            self._physics = geometry.operator()
        with torch.no_grad():
            predicted = self._physics(saved.recon.double())
        observed = observed.reshape(1, *measured).to(predicted)
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


class _Geometry(NamedTuple):
    """The benchmark's settings of a scattering problem; lengths in metres."""

    npix: int
    side: float
    wavelength: float
    transmitters: int
    receivers: int
    radius: float

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> _Geometry:
        """From the section `problem.model`, with the program's defaults."""
        npix, side = int(model.get("Nx", 128)), float(model.get("Lx", 0.18))
        if npix != int(model.get("Ny", 128)) or side != float(model.get("Ly", 0.18)):
            raise ValueError("its grid is not square")
        counts = int(model.get("numTrans", 60)), int(model.get("numRec", 360))
        if npix < 2 or min(counts) < 1:
            raise ValueError("it has no pixels, transmitters or receivers")
        wavelength = float(model.get("wave", 6)) * side / npix
        return cls(npix, side, wavelength, *counts, float(model.get("sensorRadius", 1.6)))

    def operator(self) -> BornScattering:
        """The benchmark's operator on images of the contrast, in double precision."""
        transmitters, receivers = (
            np.linspace(0, 359, count) for count in (self.transmitters, self.receivers)
        )
        lengths = self.npix, self.side, self.wavelength
        geometry = ScatteringGeometry(*lengths, transmitters, receivers, self.radius, self.radius)
        return BornScattering(geometry, conjugate_incident=True, dtype=torch.float64)

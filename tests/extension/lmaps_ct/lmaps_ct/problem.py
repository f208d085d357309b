"""Computed tomography: what a reconstructed attenuation is worth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from lmaps_science import metrics
from lmaps_science.cards.problem import Problem
from lmaps_science.cards.verdict import Check
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.sampling import Result

from .baselines import filtered_back_projection

__all__ = ["CTProblem"]


@dataclass(frozen=True, repr=False, kw_only=True)
class CTProblem(Problem):
    """An image of the attenuation (1/cm) from projections.

    Attributes:
        physical: the misfit on images of the attenuation.
    """

    physical: GaussianMisfit

    def evaluate(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics of images (n, H, W), each (n,).

        relative_misfit: |y - A x| / |y|; chi2: the mean square residual in units of its noise.
        With a known truth: psnr [dB] and ssim, relative to its largest attenuation.
        """
        y, sigma = self.physical.y, self.physical.sigma
        x = torch.as_tensor(np.ascontiguousarray(images))[:, None].to(y)
        with torch.no_grad():
            predicted = self.physical.operator(x)
        values = {
            "relative_misfit": metrics.relative_misfit(predicted, y),
            "chi2": metrics.chi2(predicted, y, sigma),
        }
        if self.truth is not None:
            top = float(self.truth.max())
            values["psnr"] = metrics.psnr(images, self.truth.values[None], top)
            if min(x.shape[-2:]) >= 11:
                values["ssim"] = metrics.ssim(images, self.truth.values[None], top)
        return {name: value.cpu().numpy().astype(float) for name, value in values.items()}

    def filtered_back_projection(self) -> np.ndarray:
        """The classical image (H, W), in 1/cm."""
        width, pixel = (np.diff(axis)[0] for axis in (self.observation["bin"], self.image["x"]))
        image = filtered_back_projection(self.physical.y, self.physical.operator, width, pixel)
        return image[0, 0].cpu().numpy()

    @property
    def classical(self) -> Mapping[str, Callable[[], xr.DataArray]]:
        """Filtered back-projection, for `--prior-check fbp`."""
        return {"fbp": lambda: self.image.copy(data=self.filtered_back_projection())}

    def dataset(self, result: Result) -> xr.Dataset:
        """Samples of the attenuation, their metrics, the classical image and the sinogram."""
        data = result.to_xarray()
        fbp = self.filtered_back_projection()
        data["fbp"] = self.image.copy(data=fbp)
        data["sinogram"] = self.observation["sinogram"]
        self.score(data, result.samples[:, 0], mean=result.mean[0], fbp=fbp)
        return data

    def checks(self, data: xr.Dataset) -> Iterable[Check]:
        """The residual of the mean image, in units of the photons' noise."""
        reason = "check observation.photons and the axis of rotation, or give the prior less weight"
        yield Check("chi2 of the mean", data.attrs["metrics_of_mean"]["chi2"], 1.5, 3.0, reason)

    def describe(self) -> Mapping[str, str]:
        """Data, image and truth."""
        o, axis = self.observation, self.image["x"].values
        return {
            "data": f"{o.attrs['file']}: {o.sizes['angle']} angles, {o.sizes['bin']} bins, "
            f"{o.attrs['photons']:.3g} photons a bin",
            "image": f"{len(axis)} x {len(axis)} pixels of {10 * (axis[1] - axis[0]):.3g} mm",
        }

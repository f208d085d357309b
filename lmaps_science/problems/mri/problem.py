"""Multi-coil MRI: what a reconstruction from undersampled k-space is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr

from lmaps_science import metrics
from lmaps_science.arrays import centred_fft2
from lmaps_science.cards.problem import Problem
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.physics.mri import MultiCoilMRI
from lmaps_science.sampling import Result

__all__ = ["MRIProblem", "as_channels", "image_template"]


@dataclass(frozen=True, repr=False, kw_only=True)
class MRIProblem(Problem):
    """A complex image from k-space; its unit is the 99th percentile of the image it is scaled by.

    Attributes:
        zero_filled: the image of the acquired samples alone, sum_c conj(S_c) F^-1 y_c.
    """

    zero_filled: xr.DataArray

    def evaluate(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics of images (n, 2, H, W), each (n,).

        chi2: |y - A x|^2 / sigma^2, a sample and coil; data_misfit: |y - A x| (Euclidean, as the
        benchmark has it). Where acquired samples were not used, held_out_error: the relative error
        |y - F S x| / |y| of the prediction of those. With a reference: psnr [dB] and ssim of the
        magnitudes, the range being the reference's largest.
        """
        misfit, maps = self._gaussian, self._operator.maps
        x = torch.as_tensor(np.ascontiguousarray(images)).to(misfit.operator.like)
        seen, kept_back = (
            torch.as_tensor(self.observation[name].values, device=x.device)
            for name in ("mask", "held_out")
        )
        kspace = torch.as_tensor(self.observation["kspace"].values).to(maps)
        squares = torch.empty(len(x), 2).to(x)
        for k, image in enumerate(x):
            residual = centred_fft2(maps * torch.complex(image[0], image[1])) - kspace
            energy = residual.abs().square().sum(0)
            squares[k] = torch.stack([(energy * seen).sum(), (energy * kept_back).sum()])
        samples = seen.sum() * len(maps)
        values = {
            "chi2": squares[:, 0] / misfit.sigma**2 / samples,
            "data_misfit": squares[:, 0].sqrt(),
        }
        if kept_back.any():
            energy = (kspace.abs().square().sum(0) * kept_back).sum()
            values["held_out_error"] = (squares[:, 1] / energy).sqrt()
        if self.truth is not None:
            pair = metrics.magnitudes(x.cpu(), self.truth.values[None])
            values |= {"psnr": metrics.psnr(*pair), "ssim": metrics.ssim(*pair)}
        return {name: value.cpu().double().numpy() for name, value in values.items()}

    def dataset(self, result: Result) -> xr.Dataset:
        """Samples, their complex mean, the spread of their magnitude, and each one's metrics.

        Images are 0 where all coil maps are: of that place the data say nothing.
        `metrics_of_mean` scores the mean, `metrics_of_zero_filled` the image without any prior.
        The dataset is self-contained: `plots` draws it without the problem.
        """
        seen = (self._operator.maps != 0).any(-3).reshape(self.image_shape[1:]).cpu().numpy()
        result = replace(result, samples=result.samples * seen)
        data = result.to_xarray()
        magnitude = np.hypot(result.samples[:, 0], result.samples[:, 1])
        spread = magnitude.std(0, ddof=1) if len(result) > 1 else 0 * magnitude[0]
        data["magnitude_std"] = (("y", "x"), spread, {"units": "relative"})
        data["mask"] = self.observation["mask"]
        data["zero_filled"] = self.zero_filled
        zero_filled = self.zero_filled.values
        self.score(data, result.samples, mean=result.mean, zero_filled=zero_filled)
        rows = self.describe()
        parts = [f"{name} {rows[name]}" for name in ("maps", "noise", "scale")]
        data.attrs["data"] = "; ".join([rows["data"], *parts])
        return data

    def describe(self) -> Mapping[str, str]:
        """Data, maps, noise, scale and reference."""
        mask, facts = self.observation["mask"].values, self.facts
        kept = f"{100 * mask.mean():.0f} % of {mask.shape[0]} x {mask.shape[1]}"
        coils, sigma = self._gaussian.y.shape[1], float(self._gaussian.sigma)
        file = self.observation.attrs.get("file", "?")
        return {
            "data": f"{file}: {coils} coil{'s' * (coils > 1)}, {kept} k-space",
            "maps": str(facts.get("maps_from", "?")),
            "noise": f"sigma {sigma:.3g}, {facts.get('noise_from', '?')}",
            "scale": f"99th percentile 1, by {facts.get('scaled_by', '?')}",
            "truth": "unknown" if self.truth is None else "the fully sampled image",
        }

    @property
    def _gaussian(self) -> GaussianMisfit:
        assert isinstance(self.misfit, GaussianMisfit)
        return self.misfit

    @property
    def _operator(self) -> MultiCoilMRI:
        assert isinstance(self.misfit.operator, MultiCoilMRI)
        return self.misfit.operator


def as_channels(image: np.ndarray) -> np.ndarray:
    """Complex (H, W) -> float32 (2, H, W), real and imaginary part."""
    return np.stack([image.real, image.imag]).astype(np.float32)


def image_template(shape: tuple[int, ...], coords: Mapping[str, Any]) -> xr.DataArray:
    """Zeros (part, y, x), with the coordinates of the file where it has them, else pixels."""
    axes = {
        axis: coords.get(axis, (axis, np.arange(n) - n // 2, {"units": "pixel"}))
        for axis, n in zip("yx", shape, strict=True)
    }
    return xr.DataArray(
        np.zeros((2, *shape), np.float32),
        dims=("part", "y", "x"),
        coords={"part": ["real", "imaginary"], **axes},
        name="image",
        attrs={"units": "relative", "long_name": "transverse magnetisation, 99th percentile 1"},
    )

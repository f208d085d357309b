"""Restoration: what a restored photograph is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lmaps_science import metrics
from lmaps_science.cards.problem import Problem
from lmaps_science.cards.verdict import Check
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.problems.restoration.perceptual import lpips_distance
from lmaps_science.sampling import Result

__all__ = ["RestorationProblem", "template"]


@dataclass(frozen=True, repr=False, kw_only=True)
class RestorationProblem(Problem):
    """A photograph, RGB with values in [0, 1], from degraded data.

    Attributes:
        physical: the misfit on such photographs.
        lpips: whether the perceptual distance is among the metrics.
    """

    physical: GaussianMisfit
    lpips: bool = False

    def evaluate(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics of images (n, 3, H, W), each (n,).

        chi2: |y - H(x)|^2 / sigma^2 for each number that was measured, 1 where the noise is as
        stated. With a known truth: psnr [dB] and ssim of images clipped to [0, 1]. Where the data
        do not tell a picture from the same turned by 180 degrees, of the better of both. With
        `lpips` also lpips, see `perceptual.lpips_distance`.
        """
        misfit = self.physical
        x = torch.as_tensor(np.ascontiguousarray(images)).to(misfit.like)
        with torch.no_grad():
            squares = [(misfit.operator(i[None]) - misfit.y).square().sum() for i in x]
        values = {"chi2": torch.stack(squares) / misfit.sigma**2 / self.count}
        if self.truth is not None:
            clipped, truth = x.clamp(0, 1).cpu(), self.truth.values[None]
            ways = [clipped, clipped.flip(-2, -1)] if self.turns else [clipped]
            scores = torch.stack([metrics.psnr(way, truth) for way in ways])
            best = scores.argmax(0)
            values["psnr"] = scores.amax(0)
            if min(x.shape[-2:]) >= 11:
                ssim = torch.stack([metrics.ssim(way, truth) for way in ways])
                values["ssim"] = ssim.gather(0, best[None])[0]
            if self.lpips:
                shown = torch.where(best[:, None, None, None] == 0, ways[0], ways[-1])
                distance = lpips_distance(shown.numpy(), self.truth.values)
                values["lpips"] = torch.as_tensor(distance)
        return {name: value.cpu().double().numpy() for name, value in values.items()}

    @property
    def turns(self) -> bool:
        """Whether the data are the same of a picture turned by 180 degrees."""
        return self.observation.attrs["degradation"] == "phase_retrieval"

    @cached_property
    def count(self) -> int:
        """How many numbers were measured: those that some picture changes."""
        return max(int(self.physical.gaussian().sampled().sum()), 1)

    def with_data(self, data: Tensor) -> RestorationProblem:
        """The same problem with other data (1, ...), like `misfit.data`."""
        observation = self.observation.copy()
        observation["data"] = self.observation["data"].copy(data=data[0].cpu().numpy())
        return self._changed(
            misfit=self.misfit.with_data(data),
            physical=self.physical.with_data(data),
            observation=observation,
        )

    def dataset(self, result: Result) -> xr.Dataset:
        """Samples, their mean and deviation, each one's metrics, and the data as a picture.

        Where the data leave the orientation open, samples are turned to that of the best one.
        """
        if self.turns:
            best = int(result.misfit[-1].argmin())
            result = replace(result, samples=alike(result.samples, result.samples[best]))
        data = result.to_xarray()
        data["data"] = self.observation["data"]
        self.score(data, result.samples, mean=result.mean)
        data.attrs["degradation"] = self.observation.attrs["degradation"]
        if self.turns:
            note = "the data do not tell the picture from the same turned by 180 degrees"
            data.attrs["notes"] = [note]
        return data

    def checks(self, data: xr.Dataset) -> list[Check]:
        """Fit to the data."""
        best = float(data["chi2"][int(data["misfit"].values[-1].argmin())])
        return [
            Check(
                "chi2 per number of the best sample",
                best,
                1.5,
                4.0,
                "the picture does not explain the data to the noise that is assumed; more levels "
                "may help, or the noise is larger than picture.sigma, or the degradation another",
            ),
            Check(
                "inverse chi2 of the best sample",
                1 / max(best, 1e-12),
                3.0,
                reason="the noise fits, too: picture.sigma is larger than the noise there is",
            ),
        ]

    def describe(self) -> Mapping[str, str]:
        """Data, degradation and truth."""
        height, width = self.image.shape[1:]
        shape = self.observation["data"].shape
        return {
            "data": f"{self.observation.attrs['file']}: {self.observation.attrs['degradation']}, "
            f"{shape[1]} x {shape[2]}, noise {self.facts['noise_sigma']:g}",
            "image": f"{height} x {width} pixels, RGB",
            "truth": "unknown" if self.truth is None else "known",
        }


def alike(samples: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Each of the samples (n, C, H, W), turned by 180 degrees where that is nearer to the other."""
    turned = samples[..., ::-1, ::-1]
    errors = [((images - reference) ** 2).sum((1, 2, 3)) for images in (samples, turned)]
    return np.where((errors[1] < errors[0])[:, None, None, None], turned, samples)


def template(shape: tuple[int, ...]) -> xr.DataArray:
    """Zeros (channel, y, x), rows from above."""
    return xr.DataArray(
        np.zeros(shape, np.float32),
        dims=("channel", "y", "x"),
        coords={
            "channel": list("RGB"),
            **{
                name: (name, np.arange(n), {"units": "pixel"})
                for name, n in zip("yx", shape[1:], strict=True)
            },
        },
        name="image",
        attrs={"units": "1", "long_name": "sRGB value, black 0 and white 1"},
    )

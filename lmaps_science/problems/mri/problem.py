"""Multi-coil MRI: what a reconstruction from undersampled k-space is worth."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lmaps_science import metrics
from lmaps_science.cards.problem import Problem
from lmaps_science.cards.verdict import Check
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.physics import coils
from lmaps_science.physics.mri import MultiCoilMRI
from lmaps_science.physics.sampling import calibration_region
from lmaps_science.problems.mri.baselines import sense_reconstruction
from lmaps_science.sampling import Result

__all__ = ["MRIProblem", "as_channels", "comparable", "image_template"]

# The classical image beside the samples: total variation, of a weight that served heads at noise
# 0.02 (problems/mri/README.md), to about 0.1 % of its minimiser: a few seconds for 8 coils of 200 x
# 200, and nothing for scans of more samples than `LARGEST`.
TOTAL_VARIATION: dict[str, Any] = {
    "regulariser": "tv",
    "weight": 0.003,
    "iterations": 600,
    "tolerance": 3e-4,
}
LARGEST = 1_000_000
MAP_LINES = 8  # of maps from seven the errors at the rim are 0.07 to 0.25, see the README


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
        acquired = MultiCoilMRI(maps, seen | kept_back)
        kspace = torch.as_tensor(self.observation["kspace"].values).to(maps)
        squares = torch.empty(len(x), 2).to(x)
        for k, image in enumerate(x):
            energy = (acquired(image[None])[0] - kspace).abs().square().sum(0)
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
            values["psnr"] = metrics.psnr(*pair)
            if min(x.shape[-2:]) >= 11:  # the window of SSIM
                values["ssim"] = metrics.ssim(*pair)
        return {name: value.cpu().double().numpy() for name, value in values.items()}

    def with_data(self, data: Tensor) -> MRIProblem:
        """The same problem with other k-space (1, coils, H, W), and nothing held out."""
        kspace = self.observation["kspace"].copy(data=data[0].cpu().numpy())
        nothing = xr.zeros_like(self.observation["held_out"])
        observation = self.observation.assign(kspace=kspace, held_out=nothing)
        acquired = data[0].cpu().numpy() * self.observation["mask"].values
        zero_filled = coils.mvue(acquired, self._operator.maps.cpu().numpy())
        return self._changed(
            misfit=self.misfit.with_data(data),
            observation=observation,
            zero_filled=self.zero_filled.copy(data=as_channels(zero_filled)),
        )

    def dataset(self, result: Result) -> xr.Dataset:
        """Samples, their complex mean, the spread of their magnitude, and each one's metrics.

        Images are 0 where all coil maps are: of that place the data say nothing.
        `metrics_of_mean` scores the mean, `metrics_of_zero_filled` the image without any prior,
        `metrics_of_total_variation` the classical one, `total_variation`; where that was left out
        the attribute of this name says why. The dataset is self-contained: `plots` draws it
        without the problem.
        """
        seen = self._seen
        result = replace(result, samples=result.samples * seen)
        data = result.to_xarray()
        magnitude = np.hypot(result.samples[:, 0], result.samples[:, 1])
        spread = magnitude.std(0, ddof=1) if len(result) > 1 else 0 * magnitude[0]
        data["magnitude_std"] = (("y", "x"), spread, {"units": "relative"})
        data["mask"] = self.observation["mask"]
        data["zero_filled"] = self.zero_filled
        others = {"mean": result.mean, "zero_filled": self.zero_filled.values}
        classical = self._total_variation()
        if isinstance(classical, str):
            data.attrs["total_variation"] = classical
        else:
            others["total_variation"] = classical * seen
            data["total_variation"] = self.image.copy(data=others["total_variation"])
            data["total_variation"].attrs["weight"] = TOTAL_VARIATION["weight"]
        self.score(data, result.samples, **others)
        rows = self.describe()
        parts = [f"{name} {rows[name]}" for name in ("maps", "noise", "scale")]
        data.attrs["data"] = "; ".join([rows["data"], *parts])
        return data

    def scores(self, result: Result) -> dict[str, np.ndarray]:
        """The metrics of the samples, which are 0 where all coil maps are."""
        return self.evaluate(result.samples * self._seen)

    def checks(self, data: xr.Dataset) -> Iterator[Check]:
        """The fit to the acquired samples, the prediction of others, and the coil maps.

        Limits: results that can be believed have a chi2 of 0.7 to 1.3, total variation included;
        noise that is stated five times too small or too large makes it 20 or 0.05.
        """
        of_mean, noise = data.attrs["metrics_of_mean"], self.facts.get("noise_from", "stated")
        fits = {
            "mean image": of_mean["chi2"],
            "best sample": data["chi2"].values[data.attrs["best"]],
        }
        for which, chi2 in fits.items():
            yield Check(
                f"chi2 of the acquired samples ({which})",
                float(chi2),
                1.5,
                3.0,
                f"under-fitted, or the noise level ({noise}) is too small, or coil maps are wrong",
            )
            yield Check(
                f"1/chi2 of the acquired samples ({which})",
                1 / float(chi2) if chi2 > 0 else float("inf"),
                2.0,
                5.0,
                f"over-fitted, or the noise level ({noise}) is too large",
            )
        wanted = self.card.model_dump()["sampling"]["hold_out"]
        if wanted and self.observation["held_out"].values.any():
            yield from self._predictions(data)
        yield Check(
            "share of the image without coil maps",
            float(1 - self._seen.mean()),
            0.75,
            0.97,
            "most of the image is blank: check that k-space is centred, or give maps",
        )
        if str(self.facts.get("maps_from", "")).startswith("estimated"):
            lines = min(
                c.stop - c.start for c in calibration_region(self.observation["mask"].values)
            )
            yield Check(
                "missing central lines for the coil maps",
                max(MAP_LINES - lines, 0),
                0,
                reason=f"those from {lines} lines, fewer than {MAP_LINES}, can be wrong: sample "
                "more of the centre, or give maps",
            )

    def _predictions(self, data: xr.Dataset) -> Iterator[Check]:
        """Of samples that were acquired and kept back."""
        kept_back = self.observation["kspace"].values[:, self.observation["held_out"].values]
        error = data.attrs["metrics_of_mean"]["held_out_error"]
        floor = float(self._gaussian.sigma) / float(np.sqrt(np.mean(np.abs(kept_back) ** 2)))
        yield Check(
            "held-out error over that of the noise alone",
            error / floor,
            2.0,
            4.0,
            "samples that were kept back are foretold badly: the image misses structure, or shows "
            "what is not there",
        )
        classical = data.attrs.get("metrics_of_total_variation")
        if classical:
            yield Check(
                "held-out error over that of total variation",
                error / classical["held_out_error"],
                1.1,
                reason="the classical method foretells the samples that were kept back better: "
                "the prior does not suit this scan",
            )

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

    def _total_variation(self) -> np.ndarray | str:
        """The classical image (2, H, W), or why there is none."""
        if self._gaussian.y.numel() > LARGEST:
            return f"left out: a scan of more than {LARGEST:,} samples takes too long"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            image = sense_reconstruction(self._gaussian, **TOTAL_VARIATION)
        if caught:
            return f"left out: not converged after {TOTAL_VARIATION['iterations']} iterations"
        return image[0].cpu().float().numpy()

    @property
    def _seen(self) -> np.ndarray:
        """Where any coil map is not 0, (H, W)."""
        found: np.ndarray = (self._operator.maps != 0).any(-3).cpu().numpy()
        return found.reshape(self.image_shape[1:])

    @property
    def _gaussian(self) -> GaussianMisfit:
        assert isinstance(self.misfit, GaussianMisfit)
        return self.misfit

    @property
    def _operator(self) -> MultiCoilMRI:
        assert isinstance(self.misfit.operator, MultiCoilMRI)
        return self.misfit.operator


def comparable(data: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray | None]:
    """Magnitudes of the samples (sample, y, x) and of the truth: the phase is seldom looked at."""

    def magnitude(image: xr.DataArray) -> xr.DataArray:
        real, imaginary = image.sel(part="real", drop=True), image.sel(part="imaginary", drop=True)
        return real.copy(data=np.hypot(real.values, imaginary.values))

    truth = data.get("truth")
    return magnitude(data["image"]), None if truth is None else magnitude(truth)


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

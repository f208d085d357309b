"""Inverse scattering: what a reconstructed permittivity is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lmaps_science import metrics
from lmaps_science.cards.problem import Problem
from lmaps_science.cards.verdict import Check
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.physics.lippmann_schwinger import NotConverged
from lmaps_science.problems.scattering.baselines import fista_tv
from lmaps_science.problems.scattering.checks import fit_checks, image_checks
from lmaps_science.problems.scattering.data import SPEED_OF_LIGHT
from lmaps_science.problems.scattering.discs import Disc, fit_discs
from lmaps_science.sampling import Result

__all__ = ["ScatteringProblem", "image_template"]

UNITS = {"psnr": "dB", "diameter": "mm", "distance": "mm"}


@dataclass(frozen=True, repr=False, kw_only=True)
class ScatteringProblem(Problem):
    """An image of the permittivity contrast eps_r - 1 from scattered fields.

    Attributes:
        physical: the misfit on images of the contrast.
        born_misfit: the same data with the Born approximation.
        max_contrast: the largest that the image can hold; scores are relative to it.
        targets: the object's discs by name, where it is known to consist of discs (in mm).
    """

    physical: GaussianMisfit
    born_misfit: GaussianMisfit
    max_contrast: float = 1.0
    targets: Mapping[str, Disc] | None = None

    def evaluate(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics of images (n, H, W), each (n,).

        relative_misfit: |y - H(x)| / |y|. chi2: |y - H(x)|^2 / sigma^2 per measured number, 1 where
        the noise is as stated. With a known truth: psnr [dB] and ssim of images clipped
        to [0, max_contrast], relative to that range. For a target of known discs, from a fit of
        discs with blurred edges to the image: NAME_permittivity, NAME_diameter [mm], and of two
        A_B_distance [mm] of the centres; NaN where the fit fails. relative_misfit and chi2 are NaN
        where the fields do not converge.
        """
        misfit = self.physical
        x = torch.as_tensor(np.ascontiguousarray(images))[:, None].to(misfit.operator.like)
        with torch.no_grad():
            predicted = torch.cat([self._predicted(image[None]) for image in x])
        values = {
            "relative_misfit": metrics.relative_misfit(predicted, misfit.y).cpu().numpy(),
            "chi2": self._chi2(predicted),
        }
        if self.truth is not None:
            clipped = x.clamp(0, self.max_contrast).cpu() / self.max_contrast
            truth = self.truth.values[None] / self.max_contrast
            values["psnr"] = metrics.psnr(clipped, truth).numpy()
            if min(x.shape[-2:]) >= 11:
                values["ssim"] = metrics.ssim(clipped, truth).numpy()
        if self.targets:
            fits = [self._discs(image) for image in images]
            values |= {key: np.array([fit[key] for fit in fits]) for key in fits[0]}
        return {name: np.asarray(value, float) for name, value in values.items()}

    def with_data(self, data: Tensor) -> ScatteringProblem:
        """The same problem with other fields (1, ...), like `misfit.data`."""

        def changed(misfit: GaussianMisfit) -> GaussianMisfit:
            return misfit.with_data(data.reshape(len(data), *misfit.y.shape[1:]))

        physical, born = changed(self.physical), changed(self.born_misfit)
        return self._changed(
            misfit=self.misfit.with_data(data), physical=physical, born_misfit=born
        )

    def _predicted(self, x: Tensor) -> Tensor:
        """The data of one image; NaN where its fields do not converge."""
        try:
            return self.physical.operator(x)
        except NotConverged:  # no reason to lose the others, after a long run
            return torch.full_like(self.physical.y, torch.nan)

    def _chi2(self, predicted: Tensor) -> np.ndarray:
        """Squared residuals (n,) in units of the noise, per measured number."""
        count = int(self.observation["measured"].sum()) * self.observation.sizes["frequency"]
        squares = ((predicted - self.physical.y).abs() / self.physical.sigma).square()
        return np.asarray(squares.flatten(1).sum(1).double().cpu()) / count

    def _discs(self, image: np.ndarray) -> dict[str, float]:
        """Permittivities, diameters and distances of the discs fitted to an image."""
        assert self.targets
        x, y = np.meshgrid(*(self.image[axis].values for axis in "xy"))
        found = fit_discs(np.asarray(image, float), x, y, tuple(self.targets.values()))
        nothing = Disc(np.nan, np.nan, np.nan, np.nan)
        discs = dict(zip(self.targets, found or [nothing] * len(self.targets), strict=True))
        values = {}
        for name, disc in discs.items():
            values[f"{name}_permittivity"] = 1 + disc.value
            values[f"{name}_diameter"] = 2 * disc.radius
        for (a, p), (b, q) in combinations(discs.items(), 2):
            values[f"{a}_{b}_distance"] = float(np.hypot(p.x - q.x, p.y - q.y))
        return values

    def born(self) -> np.ndarray:
        """The image (H, W) of the Born approximation and total variation: FISTA, no sampling."""
        limits = (0.0, self.max_contrast)
        with torch.no_grad():
            image: Tensor = fista_tv(self.born_misfit, 1e-4, limits=limits, iterations=100)
        return image[0, 0].cpu().numpy()

    def dataset(self, result: Result) -> xr.Dataset:
        """Samples of the contrast, their mean and deviation, each one's metrics, and Born's image.

        `metrics_of_mean` scores the mean, `metrics_of_born` the image of the Born approximation.
        The dataset is self-contained: `plots` draws it without the problem.
        """
        data = result.to_xarray()
        born = self.born()
        data["born"] = self.image.copy(data=born)
        self.score(data, result.samples[:, 0], mean=result.mean[0], born=born)
        discs = {name: vars(disc) for name, disc in (self.targets or {}).items()}
        data.attrs |= {"max_contrast": self.max_contrast, "targets": discs}
        return data

    def checks(self, data: xr.Dataset) -> list[Check]:
        """Fit to the data, and whether the grid can hold the object."""
        nothing = float(self._chi2(torch.zeros_like(self.physical.y))[0])
        return [*fit_checks(data, nothing), *image_checks(data, self._pixels_per_wavelength())]

    def _pixels_per_wavelength(self) -> float:
        """In free space, at the highest frequency."""
        x = self.image["x"].values
        return 1e3 * SPEED_OF_LIGHT / float(self.observation["frequency"].max()) / (x[1] - x[0])

    def describe(self) -> Mapping[str, str]:
        """Data, image, physics and truth."""
        o, facts = self.observation, self.facts
        frequencies = ", ".join(f"{f / 1e9:.3g}" for f in o["frequency"].values)
        axis = self.image["x"].values
        return {
            "data": f"{o.attrs.get('file', '?')}: {o.sizes['transmitter']} transmitters, "
            f"{o.sizes['receiver']} receivers, {frequencies} GHz, "
            f"{int(o['measured'].values.sum()) * o.sizes['frequency']} numbers",
            "image": f"{len(axis)} x {len(axis)} pixels of {axis[1] - axis[0]:.3g} mm; contrast up "
            f"to {self.max_contrast:g}",
            "physics": str(facts.get("physics", "?")),
            "truth": "known" if self.truth is not None
            else "its discs are known" if self.targets else "unknown",
        }  # fmt: skip

    @staticmethod
    def unit(metric: str) -> str:
        """The unit of a metric."""
        return next((unit for part, unit in UNITS.items() if part in metric), "1")


def image_template(npix: int, side: float) -> xr.DataArray:
    """Zeros (y, x) with the pixels' coordinates in mm; `side` in metres."""
    axis = (np.arange(npix) - npix // 2) * (1e3 * side / npix)
    return xr.DataArray(
        np.zeros((npix, npix), np.float32),
        dims=("y", "x"),
        coords={name: (name, axis, {"units": "mm"}) for name in "yx"},
        name="image",
        attrs={"units": "1", "long_name": "permittivity contrast eps_r - 1"},
    )

"""How the InverseBench benchmark scores black-hole images, and how they should be scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import xarray as xr
from scipy.ndimage import gaussian_filter
from torch import Tensor

from lmaps_science import metrics
from lmaps_science.cards.benchmark import (
    BenchmarkScores,
    Metric,
    SavedResult,
    Scores,
    benchmark_psnr,
)
from lmaps_science.cards.problem import Problem
from lmaps_science.io import DataError, pixel_size_rad, read_image, read_uvfits
from lmaps_science.io._ehtim import import_ehtim, quiet
from lmaps_science.io.images import MICROARCSECOND
from lmaps_science.problems.black_hole.metrics import image_scores
from lmaps_science.problems.black_hole.problem import BlackHoleProblem

__all__ = ["BlackHoleScores"]

WIDTHS = (10, 15, 20)  # of the beam, microarcseconds


class BlackHoleScores(BenchmarkScores):
    """Closures from the observation, and images after the best shift.

    The program takes each metric's best of the samples, reports 1 / chi2 where chi2 is below 1, and
    calls f = 10, 15, 20 what is blurred to 0, 10, 15 microarcseconds; its grid of shifts misses
    zero. The corrected ones are averages over the samples of the raw chi2 and of PSNR at the stated
    widths, of images scaled to the true flux. They need the measurement (`obs.uvfits`, `gt.fits`),
    which results do not hold, and eht-imaging.
    """

    operator = "BlackHoleImaging"
    benchmark: ClassVar[Mapping[str, Metric]] = {
        "cp_chi2": Metric("chi2 of closure phases, or its inverse", "1", False),
        "camp_chi2": Metric("chi2 of log closure amplitudes, or its inverse", "1", False),
        "psnr": Metric("peak signal-to-noise ratio after the best shift", "dB"),
        **{
            f"blur_psnr (f={w})": Metric(
                f"PSNR as the program names it; in truth at {w - 5 if w > 10 else 0} uas", "dB"
            )
            for w in WIDTHS
        },
    }
    corrected: ClassVar[Mapping[str, Metric]] = {
        "chi2_cphase": Metric("reduced chi2 of closure phases", "1", False),
        "chi2_logcamp": Metric("reduced chi2 of log closure amplitudes", "1", False),
        "psnr": Metric("peak signal-to-noise ratio after the best shift", "dB"),
        **{f"blur_psnr_{w}": Metric(f"PSNR of images blurred to {w} uas", "dB") for w in WIDTHS},
        "nxcorr": Metric("normalised cross-correlation"),
    }

    def __init__(self, settings: Mapping[str, Any], base: Path, data: Path | None = None):
        super().__init__(settings, base, data)
        model = self.section("model")
        self._npix = int(model.get("imsize", 64))
        ratio = float(model.get("observation_time_ratio", 1.0))
        root = self.root("model")
        self._closures: _Closures | None = None
        self._pixel_uas = float("nan")
        try:
            image = read_image(root / "gt.fits")
            side = pixel_size_rad(image) * image.sizes["x"]
            self._pixel_uas = side / self._npix / MICROARCSECOND
            self._closures = _Closures.of(root / "obs.uvfits", ratio, self._npix, side)
        except DataError as error:
            self.note(
                "chi2 and blurred images need the measurement, which results do not hold: give the "
                f"folder with obs.uvfits and gt.fits as data ({error})"
            )

    def score(self, saved: SavedResult) -> Scores:
        """Of images in units of the reference's peak."""
        benchmark: dict[str, float] = {}
        corrected: dict[str, np.ndarray] = {}
        if self._closures is not None:
            observed = saved.observation[0, 0, :, 0]
            for name, value in self._closures.chi2(saved.recon, observed).items():
                corrected[f"chi2_{name}"] = value
            theirs = self._closures.chi2(_scaled(saved.recon, observed[-1]), observed, single=True)
            for ours, name in (("cphase", "cp_chi2"), ("logcamp", "camp_chi2")):
                benchmark[name] = float(_inverted(theirs[ours]).min())
        benchmark |= self._benchmark_psnrs(saved.recon, saved.target)
        images, truth = saved.recon[:, 0].numpy(), saved.target[0, 0].numpy()
        return Scores(benchmark, corrected | _against(truth, images, self._pixel_uas))

    @staticmethod
    def of_result(data: xr.Dataset) -> Scores:
        """The same of a `result.nc`; images relative to the true peak."""
        truth, pixel = data["truth"].values, abs(float(data["x"][1] - data["x"][0]))
        images = data["image"].values / truth.max()
        corrected = {n: data[n].values for n in ("chi2_cphase", "chi2_logcamp") if n in data}
        benchmark = {
            name: float(_inverted(corrected[ours]).min())
            for name, ours in (("cp_chi2", "chi2_cphase"), ("camp_chi2", "chi2_logcamp"))
            if ours in corrected
        }
        recon, target = (
            torch.as_tensor(x).float()[:, None] for x in (images, truth[None] / truth.max())
        )
        benchmark |= _program_psnrs(recon, target, pixel)
        return Scores(benchmark, corrected | _against(truth, images, pixel))

    @staticmethod
    def unpacked(saved: SavedResult, problem: Problem) -> tuple[Tensor, np.ndarray]:
        """Closure quantities, which follow the amplitudes, and the image with the known flux.

        Raises:
            ValueError: another problem, or numbers of other baselines.
        """
        packed, n = saved.observation.flatten(), problem.misfit.data.shape[1]
        if not isinstance(problem, BlackHoleProblem):
            raise ValueError(f"{problem.name} is no problem of closure quantities")
        end = len(packed) - (problem.closures.flux is None)
        if end - n != 2 * problem.observation.sizes["vis"]:
            raise ValueError(f"{len(packed)} numbers do not come from these baselines")
        target, flux = saved.target.numpy(), problem.flux
        return packed[end - n : end], target if flux is None else target * (flux / target.sum())

    def _benchmark_psnrs(self, recon: Tensor, target: Tensor) -> dict[str, float]:
        if np.isfinite(self._pixel_uas):
            return _program_psnrs(recon, target, self._pixel_uas)
        return {"psnr": _program_psnrs(recon, target, 1.0)["psnr"]}


def _program_psnrs(recon: Tensor, target: Tensor, pixel_uas: float) -> dict[str, float]:
    """Each the best of the samples, under the program's names for them."""
    aligned = metrics.align(recon.clip(0, 1), target.clip(0, 1), "inversebench").clip(0, 1)
    found = {"psnr": benchmark_psnr(aligned, target.clip(0, 1).to(aligned))}
    for name, width in zip(WIDTHS, (0, *WIDTHS), strict=False):
        pair = (_blurred(x, width / pixel_uas) for x in (aligned, target))
        found[f"blur_psnr (f={name})"] = benchmark_psnr(*pair)
    return {name: float(values.max()) for name, values in found.items()}


def _blurred(images: Tensor, fwhm: float) -> Tensor:
    """(n, 1, H, W) convolved with a Gaussian of `fwhm` pixels, edges mirrored, as ehtim does."""
    sigma = fwhm / np.sqrt(8 * np.log(2))
    found = [gaussian_filter(image, sigma) for image in images[:, 0].clip(0, 1).numpy()]
    return torch.as_tensor(np.stack(found)[:, None].astype(np.float32)).clip(0, 1)


def _inverted(chi2: np.ndarray) -> np.ndarray:
    """1 / chi2 where it is below 1, which the program takes for over-fitting."""
    return np.where(chi2 < 1, 1 / chi2, chi2)


def _scaled(images: Tensor, flux: Tensor) -> Tensor:
    return images * (flux / images.flatten(1).sum(1))[:, None, None, None]


def _against(truth: np.ndarray, images: np.ndarray, pixel_uas: float) -> dict[str, np.ndarray]:
    """Corrected scores of images (n, H, W), scaled to the flux of the truth.

    An image whose total flux is not positive cannot be scaled so, and is scored as it is: it counts
    as the failure that it is.
    """
    total = images.sum((1, 2))
    factor = np.where(total > 0, truth.sum() / truth.max() / np.where(total > 0, total, 1), 1)
    blurred = bool(np.isfinite(pixel_uas))
    scores = image_scores(truth, images * factor[:, None, None], pixel_uas if blurred else 1.0)
    return {n: v.numpy() for n, v in scores.items() if blurred or not n.startswith("blur")}


class _Closures(NamedTuple):
    """Matrices from images (N^2) to the visibilities of closures, (3 or 4, n, N^2), of ehtim.

    Its minimal sets of closures, in its order: those of the saved observation.
    """

    n_visibilities: int
    phases: np.ndarray
    amplitudes: np.ndarray

    @classmethod
    def of(cls, path: Path, ratio: float, npix: int, side: float) -> _Closures:
        """Those of the first `ratio` of the times (rounded down) in a uvfits file; side in rad."""
        read_uvfits(path, average_seconds=None, snr_cut=0, zero_baselines="keep")  # is it whole?
        ehtim = import_ehtim()
        with quiet():
            obs = ehtim.obsdata.load_uvfits(str(path))
            times = np.unique(obs.data["time"])
            first = times[: int(len(times) * ratio)]
            obs.data = obs.data[np.isin(obs.data["time"], first)]
            grid = ehtim.image.make_square(obs, npix, side)
            utilities = ehtim.imaging.imager_utils
            phases = utilities.chisqdata_cphase(obs, grid, mask=[])[2]
            amplitudes = utilities.chisqdata_logcamp(obs, grid, mask=[])[2]
        return cls(len(obs.data), np.stack(phases), np.stack(amplitudes))

    def chi2(self, images: Tensor, observed: Tensor, single: bool = False) -> dict[str, np.ndarray]:
        """Reduced chi2 of images (n, 1, H, W) against an observation packed as the program does.

        Args:
            images: in any unit.
            observed: amplitudes, their errors, closure phases, errors, log amplitudes, errors,
                flux, one after the other.
            single: in single precision, as the program computes.
        """
        counts = self.n_visibilities, self.phases.shape[1], self.amplitudes.shape[1]
        lengths = [n for n in counts for _ in range(2)] + [1]
        if len(observed) != sum(lengths):
            raise DataError(
                f"the observation has {len(observed)} numbers, and the measurement makes "
                f"{sum(lengths)}: obs.uvfits or observation_time_ratio is not that of the run."
            )
        real = torch.float32 if single else torch.float64
        _, _, phase, phase_sigma, amplitude, amplitude_sigma, _ = observed.to(real).split(lengths)
        x = images.to(real.to_complex()).flatten(1)[:, None]
        legs = [
            torch.as_tensor(np.stack(list(m))).to(x)[:, None]
            for m in (self.phases, self.amplitudes)
        ]
        a, b, c = ((leg * x).sum(-1) for leg in legs[0])
        d, e, f, g = ((leg * x).sum(-1).abs().log() for leg in legs[1])
        turned = 1 - torch.cos(phase - torch.angle(a * b * c))
        chi2 = {
            "cphase": 2 * (turned / phase_sigma.square()).mean(1),
            "logcamp": ((d + e - f - g - amplitude) / amplitude_sigma).square().mean(1),
        }
        return {name: value.numpy() for name, value in chi2.items()}

"""Black-hole imaging: what a reconstruction from closure quantities is worth, in physical units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import torch
import xarray as xr

from lmaps_science import metrics
from lmaps_science.cards.problem import Problem
from lmaps_science.cards.verdict import Check
from lmaps_science.io import DataError, pixel_size_rad
from lmaps_science.io.images import MICROARCSECOND
from lmaps_science.operators import Affine
from lmaps_science.physics.closure_misfit import ClosureMisfit
from lmaps_science.problems.black_hole.checks import (
    acceptable,
    comparison,
    flux_checks,
    image_checks,
    remarks,
)
from lmaps_science.problems.black_hole.metrics import at_beam, image_scores, rescale_to_flux
from lmaps_science.problems.black_hole.modes import Modes, aligned, find_modes
from lmaps_science.problems.black_hole.ring_test import (
    ENOUGH,
    Group,
    has_ring,
    ring_test,
    search,
    starts,
)
from lmaps_science.problems.black_hole.rings import ring_statistics
from lmaps_science.sampling import Result, sample
from lmaps_science.solvers.population import Population

__all__ = ["BlackHoleProblem"]

RING = ("diameter", "width", "orientation", "asymmetry", "central_brightness")
COUNTED = ("cphase", "logcamp")
SINGLE_RUNS = 8  # beside a population, for the ring test
UNITS = {"psnr": "dB", "diameter": "uas", "width": "uas", "orientation": "degree"}


@dataclass(frozen=True, repr=False, kw_only=True)
class BlackHoleProblem(Problem):
    """Imaging from closure quantities; images come out in Jy/pixel where the flux is known.

    Attributes:
        closures: the misfit on physical images; without its flux term, in any unit of flux.
        metrics_mode: "exact", or "inversebench" for the benchmark's own definitions.
        closures_alone: the data are other closure quantities than those of the observation.
    """

    main_metric = "blur_psnr_15"  # at the array's resolution

    closures: ClosureMisfit
    metrics_mode: str = "exact"
    closures_alone: bool = False

    @property
    def flux(self) -> float | None:
        """Total flux density of the compact source in Jy, where it is known."""
        return float(self.observation["flux"]) if "flux" in self.observation else None

    @property
    def pixel_uas(self) -> float:
        """Width of a pixel in microarcseconds."""
        return pixel_size_rad(self.image) / MICROARCSECOND

    @property
    def resolution_uas(self) -> float:
        """Nominal resolution in microarcseconds: 1 / the longest baseline."""
        return float(1 / self._baselines().max() / MICROARCSECOND)

    def scale_to_flux(self, images: np.ndarray) -> np.ndarray:
        """Images (n, H, W) in Jy/pixel; as they are when the flux is not known."""
        return images if self.flux is None else rescale_to_flux(images, self.flux).numpy()

    def evaluate(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics of images (n, H, W), each (n,); with `metrics_mode="exact"` their unit is free.

        chi2_cphase, chi2_logcamp: reduced chi2 (raw). With a known truth, for images scaled to its
        flux, in units of its peak: psnr after the best shift, blur_psnr_F at F microarcseconds,
        nxcorr. Else ring_diameter, ring_width (microarcseconds), ring_orientation (degrees east of
        north), ring_asymmetry and ring_central_brightness, NaN where there is no ring.
        """
        chi2 = self.closures.chi2(self._physical(images))
        values = {f"chi2_{name}": value for name, value in chi2.items() if name != "flux"}
        if self.truth is None:
            ring = ring_statistics(images, self.pixel_uas)
            values |= {f"ring_{name}": ring[name] for name in RING}
        else:
            values |= self._against(self.truth.values, images)
        return {name: value.cpu().double().numpy() for name, value in values.items()}

    def with_data(self, data: torch.Tensor) -> BlackHoleProblem:
        """The same problem with other closure quantities (1, n), like `misfit.data`."""
        closures = self.closures.with_data(data)
        return self._changed(
            misfit=self.misfit.with_data(data), closures=closures, closures_alone=True
        )

    def _against(self, truth: np.ndarray, images: np.ndarray) -> dict[str, torch.Tensor]:
        mode, flux = self.metrics_mode, (truth[None] / truth.max()).sum()
        # The benchmark scores images as they come out: their unit is meant to be the true peak.
        scaled = images if mode == "inversebench" else rescale_to_flux(images, flux)
        return image_scores(truth, scaled, self.pixel_uas, mode)

    def residuals(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(observed - model) / sigma of closure phases (n, n_cp) and log amplitudes (n, n_ca).

        Phases as 2 sin(difference / 2), whose mean square is their chi2.
        """
        misfit = self.closures
        with torch.no_grad():
            model = misfit.operator(self._physical(images))
        theta, logs, _ = model.split([misfit.cphase.shape[1], misfit.logcamp.shape[1], 1], dim=1)
        difference = torch.remainder(misfit.cphase - theta + torch.pi, 2 * torch.pi) - torch.pi
        phases = 2 * (difference / 2).sin() / misfit.cphase_sigma
        amplitudes = (misfit.logcamp - logs) / misfit.logcamp_sigma
        return phases.cpu().numpy(), amplitudes.cpu().numpy()

    def dataset(self, result: Result) -> xr.Dataset:
        """Samples, mean and standard deviation [Jy/pixel], each sample's metrics and residuals.

        Closure data can have several explanations: `mode` tells which one a sample is, 0 being the
        most frequent (see `modes`), and the attribute `best` which sample of mode 0
        fits best. Mean and deviation (NaN for one sample) are those of mode 0, whose samples are
        shifted onto that one because closure quantities do not tell the position; the metrics of
        that mean are in the attribute `metrics_of_mean`, what to keep in mind in `notes`. The
        dataset is self-contained: `plots` draws it without the problem.
        """
        relative = result.samples[:, 0]
        images = self.scale_to_flux(relative)
        modes = self.modes(result)
        inside = self._aligned(images, modes.best)[modes.labels == 0]
        mean = inside.mean(axis=0)
        data = result.to_xarray()
        data["image"].values = images
        data["image_mean"].values = mean
        # One sample has no spread, which is not a spread of 0.
        data["image_std"].values = (
            inside.std(axis=0, ddof=1) if len(inside) > 1 else np.full_like(mean, np.nan)
        )
        unit = "relative" if self.flux is None else "Jy/pixel"
        for name in ("image", "image_mean", "image_std"):
            data[name].attrs["units"] = unit
        data["mode"] = ("sample", modes.labels, {"long_name": "explanation, 0: most frequent"})
        data.attrs["best"] = modes.best
        self.score(data, relative, mean=mean * (relative.sum() / images.sum()))
        residuals = dict(zip(("cphase", "logcamp"), self.residuals(images), strict=True))
        baselines, times = self._baselines() / 1e9, self.observation["time"].values
        for name, values in residuals.items():
            legs = self.observation[f"{name}_index"].values
            longest = baselines[legs].max(axis=1, initial=0.0)
            data[f"{name}_residual"] = (("sample", name), values, {"units": "sigma"})
            data[f"{name}_baseline"] = (name, longest, {"units": "Gwavelength"})
            data[f"{name}_time"] = (name, times[legs[:, 0]], {"units": "hour of UTC"})
        for name in "uv":
            data[name] = ("vis", self.observation[name].values, {"units": "wavelength"})
        data.attrs["resolution_uas"] = self.resolution_uas
        more = self._looked_for(result, modes.best)
        if len(more):
            data["search_image"] = (("search", "y", "x"), more, {"units": unit})
        self._put_ring_test(data)
        return data

    def compare(self, data: xr.Dataset, second: xr.Dataset, name: str) -> None:
        """See `Problem.compare`; with the rings of both means, and the ring test of all samples."""
        super().compare(data, second, name)
        found = data.attrs["prior_check"]
        means = np.stack([data[key].values for key in ("image_mean", "image_mean_second")])
        rings = ring_statistics(means, self.pixel_uas)
        for k, which in enumerate(("first", "second")):
            found[f"ring_of_{which}"] = {key: float(rings[key][k]) for key in RING}
        found["text"] += comparison(found)
        self._put_ring_test(data)

    def agreement(self, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
        """Of images (H, W) of the same flux, blurred to the nominal resolution and aligned.

        Their `correlation_at_beam`, see `metrics.nxcorr`, and `difference_at_beam`, the norm of
        their difference over the geometric mean of theirs.
        """
        a, b = at_beam(self.scale_to_flux(np.stack([first, second])), self._beam_pixels)
        a, b = a / a.sum(), b / b.sum()
        correlation = float(metrics.nxcorr(b[None], a[None]))
        difference = super().agreement(a, b)["difference"]
        return {"correlation_at_beam": correlation, "difference_at_beam": difference}

    @property
    def classical(self) -> Mapping[str, Callable[[], xr.DataArray]]:
        """Regularised maximum likelihood, which takes visibilities."""
        return {} if self.closures_alone else {"rml": self.baseline}

    @property
    def _beam_pixels(self) -> float:
        return self.resolution_uas / self.pixel_uas

    def _group(self, name: str, images: np.ndarray) -> Group:
        """Images (n, H, W), how they fit, and whether they have a ring."""
        chi2 = self.closures.chi2(self._physical(images))
        values = {key: chi2[key].cpu().double().numpy() for key in COUNTED if key in chi2}
        return Group(name, images, values, has_ring(images, self.pixel_uas, self.resolution_uas))

    def _looked_for(self, result: Result, best: int) -> np.ndarray:
        """Images (n, H, W) of the kind, with or without a ring, of which samples are too few.

        By the solver of the card alone: a result does not hold that of another run, nor do the
        benchmark's tables need it. Of a population, which keeps the best, single runs are among
        them: without, the other kind would stand for what the selection left.
        """
        images = result.samples[:, 0]
        none = images[:0]
        solver = self.solver
        wanted = self.further_runs and result.facts.get("solver") == repr(solver)
        if not wanted or self.metrics_mode == "inversebench" or not isinstance(self.decode, Affine):
            return none
        ring = has_ring(images, self.pixel_uas, self.resolution_uas)
        few = [kind for kind in (True, False) if (ring == kind).sum() < ENOUGH]
        found, seed = [none], int(result.facts.get("seed", 0))
        one = solver.solver if isinstance(solver, Population) else solver
        if few and isinstance(solver, Population):
            runs = sample(self, one, SINGLE_RUNS, seed, progress=False).samples[:, 0]
            found.append(self.scale_to_flux(runs))
        for kind in few:
            start = torch.as_tensor(starts(images[best], kind))[None, None]
            start = self.decode.to_model(start)
            estimates = search(self, one, start, seed)
            if estimates is not None and len(estimates):
                more = self.decode(estimates)[:, 0].cpu().numpy()
                found.append(self.scale_to_flux(more))
        return np.concatenate(found)

    def _put_ring_test(self, data: xr.Dataset) -> None:
        """The attributes `ring_test` and `notes`, and the two images that it compares."""
        names = {
            "image": "sample",
            "search_image": "search image",
            "image_second": "second prior's sample",
        }
        groups = [self._group(name, data[key].values) for key, name in names.items() if key in data]
        counts = {name: data.sizes[name] for name in COUNTED if data.sizes[name]}
        test = ring_test(groups, counts, {name: acceptable(n) for name, n in counts.items()})
        none = np.full(data["image_mean"].shape, np.nan, data["image_mean"].dtype)
        pair = [test["best_ring"], test["best_without"]]
        images = [groups[one["group"]].images[one["index"]] if one else none for one in pair]
        attrs = {**data["image"].attrs, "long_name": "best with a ring, best without"}
        data["ring_test_image"] = (("ring_test", "y", "x"), np.stack(images), attrs)
        data.attrs["ring_test"] = test
        data.attrs["notes"] = remarks(data, self.pixel_uas)

    def checks(self, data: xr.Dataset) -> Iterable[Check]:
        """The flux of a measured source; fit, residuals, negative and outer flux, modes."""
        if self.truth is None and self.flux is not None:  # first, since it may be the cause
            yield from flux_checks(self.observation, self.flux)
        yield from image_checks(data)

    def baseline(self) -> xr.DataArray:
        """The classical image of these data, by regularised maximum likelihood (some 20 s).

        Put into a result, it is drawn beside the samples: `data["baseline"] = problem.baseline()`.

        Raises:
            ImportError: eht-imaging is missing.
            DataError: the data are closure quantities alone (`with_data`).
        """
        if self.closures_alone:
            raise DataError(
                "regularised maximum likelihood takes visibilities, and these data are closure "
                "quantities alone: leave rml out."
            )
        from lmaps_science.problems.black_hole.baselines import regularised_maximum_likelihood

        npix = self.image_shape[-1]
        image = regularised_maximum_likelihood(
            self.observation, npix, npix * self.pixel_uas, flux=self.flux or 1.0
        )
        return image if self.flux is not None else image.assign_attrs(units="relative")

    def modes(self, result: Result) -> Modes:
        """The explanations of the data that the samples found; see `modes`.

        Samples belong together when they look alike at 0.4 times the nominal resolution, about what
        the prior adds to it.
        """
        blur = 0.4 * self.resolution_uas / self.pixel_uas
        return find_modes(result.samples[:, 0], result.misfit[-1], blur_pixels=blur)

    def _aligned(self, images: np.ndarray, reference: int) -> np.ndarray:
        return images if len(images) == 1 else aligned(images, images[reference])

    def describe(self) -> Mapping[str, str]:
        """Data, source and image."""
        o, facts = self.observation, self.observation.attrs
        stations = len(set(o["station1"].values) | set(o["station2"].values))
        flux = "flux unknown" if self.flux is None else f"{self.flux:.3g} Jy"
        source = f"{facts.get('source', '?')}, {_day(facts.get('mjd'))}"
        return {
            "source": f"{source}, {facts.get('frequency_hz', float('nan')) / 1e9:.1f} GHz, {flux}",
            "data": f"{facts.get('file', 'simulated')}, {source}: {o.sizes['vis']} visibilities of "
            f"{stations} stations, {o.sizes['cphase']} closure phases, {o.sizes['logcamp']} log "
            "amplitudes",
            "image": f"{self.image_shape[-1]} x {self.image_shape[-2]} pixels of "
            f"{self.pixel_uas:.3g} uas; nominal resolution {self.resolution_uas:.3g} uas",
        }

    def _repr_html_(self) -> str:
        table = super()._repr_html_()
        return f"<div style='display:flex;gap:2em'><div>{table}</div>{self._uv()}</div>"

    def _uv(self) -> str:
        """The (u, v) coverage as a small drawing; u runs to the left, as east does."""
        u, v = (self.observation[name].values / self._baselines().max() for name in "uv")
        dots = "".join(
            f"<circle cx='{90 - 80 * s * a:.1f}' cy='{90 - 80 * s * b:.1f}' r='1.2'/>"
            for a, b in zip(u, v, strict=True)
            for s in (1, -1)
        )
        longest = self._baselines().max() / 1e9
        return (
            "<svg width='180' height='200' viewBox='0 0 180 200' style='flex-shrink:0' "
            "fill='currentColor'>"
            "<circle cx='90' cy='90' r='80' fill='none' stroke='currentColor' opacity='.3'/>"
            f"{dots}<text x='90' y='192' text-anchor='middle' font-size='11'>"
            f"(u, v) to {longest:.1f} Gλ</text></svg>"
        )

    def _baselines(self) -> np.ndarray:
        return np.hypot(self.observation["u"].values, self.observation["v"].values)

    def _physical(self, images: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(images))[:, None].to(
            self.closures.operator.like
        )

    @staticmethod
    def unit(metric: str) -> str:
        """The unit of a metric."""
        return next((unit for part, unit in UNITS.items() if part in metric), "1")


def _day(mjd: float | None) -> str:
    """The date of a modified Julian day, e.g. "5 April 2017 (MJD 57848)"."""
    if mjd is None:
        return "day unknown"
    day = date(1858, 11, 17) + timedelta(days=int(mjd))
    return f"{day.day} {day:%B %Y} (MJD {int(mjd)})"

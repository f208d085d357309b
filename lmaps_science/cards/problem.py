"""A problem ready to be sampled: what a card describes, built."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import xarray as xr
from torch import Tensor

from lmaps_science.cards.calibration import put_intervals
from lmaps_science.cards.schema import Card
from lmaps_science.cards.verdict import Check, judge
from lmaps_science.sampling import InverseProblem, Result, Solver

__all__ = ["Problem"]

ProblemType = TypeVar("ProblemType", bound="Problem")


@dataclass(frozen=True, repr=False, kw_only=True)
class Problem(InverseProblem, ABC):
    """An inverse problem with its card, its data and, in simulations, the truth.

    A field writes `evaluate`, `dataset`, `describe` and `checks`; the rest is common to all.

    Attributes:
        name: of the card.
        card: the validated card, overrides included.
        observation: the data, with units and coordinates.
        truth: the true image, where it is known.
        main_metric: the one of `evaluate` by which methods are compared and tuned where the truth
            is known; larger is better.
        further_runs: whether `analyse` may run the solver again, as black holes' ring test does in
            search of other images that fit; what compares scores does without.

    Example:
        >>> from lmaps_science import load_problem
        >>> changes = {"prior.kind": "gaussian", "image.npix": 16, "observation.receivers": 24}
        >>> problem = load_problem("scattering/linear_60", overrides=changes)
        >>> problem.name, problem.main_metric, problem.truth.shape
        ('scattering/linear_60', 'psnr', (16, 16))
    """

    main_metric: ClassVar[str] = "psnr"

    name: str
    card: Card
    observation: xr.Dataset
    truth: xr.DataArray | None = None
    further_runs: bool = True

    @property
    def solver(self) -> Solver:
        """The solver of the card's preset in use."""
        return self.card.solver()

    @property
    def solvers(self) -> dict[str, Solver]:
        """The solvers of all presets."""
        return {name: self.card.solver(name) for name in self.card.presets}

    @property
    def image(self) -> xr.DataArray:
        """An image of zeros, with the dimensions, coordinates and units of reconstructions.

        Raises:
            ValueError: the problem has no template.
        """
        if self.template is None:
            raise ValueError(f"{type(self).__name__}: template is missing: it holds the pixels.")
        return self.template

    # ---------------------------------------------------------------- what a field writes

    @abstractmethod
    def evaluate(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics of images (n, ...) in physical units, shaped like the template, each (n,)."""

    @abstractmethod
    def dataset(self, result: Result) -> xr.Dataset:
        """The samples in physical units, their metrics, and what the figures need."""

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """What the data are, a row each; one is "data"."""

    def checks(self, data: xr.Dataset) -> Iterable[Check]:
        """What tells whether a result, `data` of `dataset`, explains the data."""
        return ()

    def scores(self, result: Result) -> dict[str, np.ndarray]:
        """The metrics of the samples, each (n,), as `dataset` has them, and nothing else."""
        return self.evaluate(result.samples.reshape(len(result), *self.image.shape))

    @property
    def classical(self) -> Mapping[str, Callable[[], xr.DataArray]]:
        """The field's methods without a prior that is trained, by name: each makes an image."""
        return {}

    def agreement(self, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
        r"""How far two images of the same data, shaped like the template, agree.

        .. math:: difference = ||a - b|| / \sqrt{||a|| \, ||b||}

        A field that does not know position or scale compares what it knows.
        """
        size = float(np.sqrt(np.linalg.norm(first) * np.linalg.norm(second)))
        return {"difference": float(np.linalg.norm(first - second)) / size if size else np.nan}

    @staticmethod
    def unit(metric: str) -> str:
        """The unit of a metric."""
        return "dB" if "psnr" in metric else "1"

    # ---------------------------------------------------------------- what all have

    def analyse(self, result: Result) -> xr.Dataset:
        """The samples in physical units, their metrics, and the truth where it is known.

        Where a factor on the spread was learned for this very configuration (`lmaps calibrate`),
        calibrated intervals, `interval_90`; the attribute `calibration` tells, or why there are
        none.

        The dataset is self-contained: `plot_reconstruction` draws it without the problem, and
        `write_netcdf` keeps it whole.
        """
        data = self.dataset(result)
        if self.truth is not None:
            data["truth"] = self.truth
        # NetCDF takes str itself, not classes derived from it, as PyTorch's version is.
        data.attrs = {k: str(v) if isinstance(v, str) else v for k, v in data.attrs.items()}
        data.attrs["kind"] = self.card.kind
        data.attrs.setdefault("data", self.describe()["data"])
        data.attrs.setdefault("best", int(result.misfit[-1].argmin()))
        notes, caution = data.attrs.get("notes", []), data.attrs.get("caution")
        if caution and len(result) > 1 and caution not in notes:
            data.attrs["notes"] = [*notes, caution]
        data.attrs["verdict"], data.attrs["verdict_reasons"] = judge(self.checks(data))
        put_intervals(data, self, result)
        return data

    def with_data(self: ProblemType, data: Tensor) -> ProblemType:
        """The same problem with other data, like `misfit.data` (1, ...), scores included.

        A field whose `evaluate` looks elsewhere for the data changes them there, too.
        """
        return self._changed(misfit=self.misfit.with_data(data))

    def compare(self, data: xr.Dataset, second: xr.Dataset, name: str) -> None:
        """Put into a result what came out of the same data with another prior, and how it agrees.

        Sets `image_second` (second_sample, ...), `image_mean_second` and the attribute
        `prior_check`: the `name` of the second prior or method, how many `samples` it gave,
        `agreement` of both means (see `agreement`), `metrics` of both means, and `text`.

        Args:
            data: of `analyse`.
            second: the same of the other prior; of a classical method the image alone, as the only
                sample and as the mean.
            name: of the other prior.
        """
        image = str(self.image.name or "image")
        mean, other = data[f"{image}_mean"], second[f"{image}_mean"]
        data[f"{image}_second"] = (
            second[image].rename(sample="second_sample").drop_vars("second_sample", errors="ignore")
        )
        data[f"{image}_mean_second"] = other
        agreement = self.agreement(mean.values, other.values)
        metrics = {
            which: dict(of.attrs.get("metrics_of_mean") or self._metrics_of(values.values))
            for which, of, values in (("first", data, mean), ("second", second, other))
        }
        n = second.sizes["sample"]
        told = ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in agreement.items())
        found = {"name": name, "samples": n, "agreement": agreement, "metrics": metrics}
        data.attrs["prior_check"] = {
            **found,
            "text": [f"{name}, {n} sample{'s' * (n != 1)}: {told}"],
        }

    def score(self, data: xr.Dataset, samples: np.ndarray, **others: np.ndarray) -> None:
        """Put the metrics of `samples` (n, ...) into `data`, those of other images into its attrs.

        `score(data, samples, mean=image)` sets the variables and the attribute `metrics_of_mean`.
        """
        for name, values in self.evaluate(samples).items():
            data[name] = ("sample", values, {"units": self.unit(name)})
        for other, image in others.items():
            data.attrs[f"metrics_of_{other}"] = self._metrics_of(image)

    def _metrics_of(self, image: np.ndarray) -> dict[str, float]:
        return {name: float(values[0]) for name, values in self.evaluate(image[None]).items()}

    def summary(self) -> Mapping[str, str]:
        """What there is to know at a glance, for `repr` and notebooks."""
        others = [name for name in self.card.presets if name != self.card.preset]
        rows = dict(self.describe())
        truth = rows.pop("truth", "known" if self.truth is not None else "unknown")
        return {
            **rows,
            "prior": repr(self.prior),
            "truth": truth,
            "solver": f"{self.card.preset}: {self.solver!r}",
            "presets": f"also {', '.join(others)}" if others else "this one alone",
        }

    def __repr__(self) -> str:
        rows = self.summary()
        width = max(map(len, rows))
        title = f"{self.name}: {self.card.title}"
        return "\n".join([title, *(f"  {k:<{width}}  {v}" for k, v in rows.items())])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(key)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for key, value in self.summary().items()
        )
        title = html.escape(f"{self.name}: {self.card.title}")
        return f"<b>{title}</b><table>{rows}</table>"

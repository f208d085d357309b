"""Means over observations with intervals, and differences between methods on the same ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lmaps_science.io.files import DataError, suggestion
from lmaps_science.report.scores import ANGLE, OF, Outcome, average, deviation

__all__ = ["FEW", "Estimate", "Row", "differences", "estimate", "metric_names", "summarise"]

RESAMPLES = 9999
FEW = 10  # observations; of fewer, bootstrap intervals are too narrow


@dataclass(frozen=True)
class Estimate:
    """A mean over observations.

    Attributes:
        n: how many have a value.
        mean: of angles, their direction.
        deviation: the standard deviation from observation to observation; NaN of one.
        low, high: 95 % interval of the mean; NaN of one. Of angles, low may be above high: it goes
            through 0 then.
    """

    n: int
    mean: float
    deviation: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return self.deviation / math.sqrt(self.n) if self.n else float("nan")


@dataclass(frozen=True)
class Row:
    """A line of a summary: one metric of one method, or of the difference of two.

    Attributes:
        metric: its name.
        unit: its unit, "1" for none.
        method: the method, or "B - A".
        of: estimates of the mean over the samples, of the best fit and of the mean image.
    """

    metric: str
    unit: str
    method: str
    of: dict[str, Estimate]


def estimate(values: Sequence[float], unit: str = "1", seed: int = 0) -> Estimate:
    """Mean, standard deviation and 95 % bootstrap interval of one value an observation.

    The interval is that of the bias-corrected and accelerated bootstrap (Efron 1987) from 9999
    resamples of the observations, which are taken to be independent. What is not finite is left
    out. Angles (unit "degree") are resampled as differences from their mean direction.
    """
    finite = np.asarray([v for v in values if math.isfinite(v)], dtype=float)
    mean, spread = average(finite, unit), deviation(finite, unit)
    if len(finite) < 2:
        return Estimate(len(finite), mean, spread, float("nan"), float("nan"))
    about = _wrapped(finite - mean) if unit == ANGLE else finite
    low = high = float(about.mean())
    if np.ptp(about) > 1e-12 * max(abs(about).max(), 1e-300):  # else every resample is the same
        interval = stats.bootstrap(
            (about,),
            np.mean,
            n_resamples=RESAMPLES,
            batch=max(2_000_000 // len(about), 1),
            random_state=np.random.default_rng(seed),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    if unit == ANGLE:
        low, high = (low + mean) % 360, (high + mean) % 360
    return Estimate(len(finite), mean, spread, low, high)


def metric_names(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """All metrics and their units, in the order of the first result that has them."""
    return {name: unit for outcome in outcomes for name, unit in outcome.units.items()}


def summarise(outcomes: Sequence[Outcome], seed: int = 0) -> list[Row]:
    """Every metric of every method, over the observations that are finished."""
    methods = list(dict.fromkeys(o.run.method for o in outcomes if o.scores))
    return [
        Row(
            metric,
            unit,
            method,
            {
                of: estimate(
                    [
                        getattr(o.scores[metric], of)
                        for o in outcomes
                        if o.run.method == method and metric in o.scores
                    ],
                    unit,
                    seed,
                )
                for of in OF
            },
        )
        for metric, unit in metric_names(outcomes).items()
        for method in methods
    ]


def differences(
    outcomes: Sequence[Outcome], reference: str | None = None, seed: int = 0
) -> list[Row]:
    """Every metric of every method minus that of the reference, on the observations of both.

    Args:
        outcomes: of `read_outcomes`.
        reference: a method; default: the first.
        seed: of the bootstrap.

    Raises:
        DataError: there is no such method.
    """
    methods = list(dict.fromkeys(o.run.method for o in outcomes))
    reference = methods[0] if reference is None else reference
    if reference not in methods:
        raise DataError(
            f"there is no method {reference!r}.{suggestion(reference, methods)} Known: "
            f"{', '.join(methods)}."
        )
    scores = {(o.run.method, o.run.name): o.scores for o in outcomes}
    names = list(dict.fromkeys(o.run.name for o in outcomes))
    rows = []
    for metric, unit in metric_names(outcomes).items():
        for method in methods:
            both = [(scores.get((method, n), {}), scores.get((reference, n), {})) for n in names]
            pairs = [(a[metric], b[metric]) for a, b in both if metric in a and metric in b]
            if method == reference:
                continue
            of = {
                w: _differences([(getattr(a, w), getattr(b, w)) for a, b in pairs], unit, seed)
                for w in OF
            }
            rows.append(Row(metric, unit, f"{method} - {reference}", of))
    return rows


def _differences(pairs: Sequence[tuple[float, float]], unit: str, seed: int) -> Estimate:
    """Differences of angles are between -180 and 180 degrees, and averaged as numbers."""
    values = np.asarray([a - b for a, b in pairs], dtype=float)
    return estimate(list(_wrapped(values) if unit == ANGLE else values), "1", seed)


def _wrapped(degrees: np.ndarray) -> np.ndarray:
    wrapped: np.ndarray = (degrees + 180) % 360 - 180
    return wrapped

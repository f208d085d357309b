r"""Is the spread of samples the size of their error? Coverage, ranks, and the factor that mends it.

With `n` samples of mean `m` and deviation `s` (n - 1 in its denominator), the central interval of
a level `p` is

.. math:: m \pm t_{n-1}\left(\tfrac{1 + p}{2}\right) s \sqrt{1 + 1/n}

with the quantile `t` of Student's distribution: where samples and truth are drawn from one Gaussian
distribution it holds the truth with probability `p`, for any `n`. (Multiples of `s` taken from the
normal distribution would hold less: 0.84 in place of 0.9 for 8 samples.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["calibration", "interval_factor", "object_pixels", "spread_factor"]

LEVELS = (0.5, 0.68, 0.9, 0.95)
FEWEST = 3  # samples: the deviation of two says next to nothing
FAINTEST = 0.05


def interval_factor(n_samples: int, level: float) -> float:
    """Half the width of a central interval in units of the samples' deviation, see above.

    Raises:
        ValueError: fewer than 3 samples, or a level outside of (0, 1).

    Example:
        >>> round(interval_factor(8, 0.9), 3)
        2.01
    """
    if n_samples < FEWEST or not 0 < level < 1:
        raise ValueError(
            f"an interval needs at least {FEWEST} samples and a level between 0 and 1, got "
            f"{n_samples} samples and level {level}. Example: interval_factor(8, 0.9)."
        )
    quantile = stats.t.ppf((1 + level) / 2, n_samples - 1)
    return float(quantile * np.sqrt(1 + 1 / n_samples))


def object_pixels(samples: np.ndarray) -> np.ndarray:
    """Where the mean of samples (n, ...) is above 5 % of its largest magnitude, booleans (...).

    The pixels by which the package judges spreads: those of the object, as far as the samples
    tell. An empty background, which every method gets right, would make any spread look good; the
    truth has no part in the choice, so that it can be made where the truth is not known.

    Example:
        >>> object_pixels(np.array([[0.0, 1.0, 2.0], [0.02, 1.0, 2.0]]))
        array([False,  True,  True])
    """
    size = np.abs(np.asarray(samples).mean(0))
    found: np.ndarray = size > FAINTEST * size.max(initial=0)
    return found


def calibration(
    truths: Sequence[Any] | np.ndarray,
    samples: Sequence[Any] | np.ndarray,
    *,
    where: Sequence[Any] | np.ndarray | None = None,
    levels: Sequence[float] = LEVELS,
    factor: float = 1.0,
    bins: int = 10,
) -> xr.Dataset:
    """How well the spread of samples tells their error, over observations whose truth is known.

    Pixels of an image go together, so that how far a number can be trusted is told by how it
    differs from observation to observation: the standard errors are those over observations.

    Args:
        truths: N images (...).
        samples: N arrays (n, ...) of the samples of each, n >= 3, in the same units.
        where: N masks (...), the pixels that count; None: all.
        levels: nominal shares of the central intervals.
        factor: on the deviation of the samples, e.g. of `spread_factor`.
        bins: of the rank histogram, and of the levels of spread.

    Returns:
        Dimensions `level`, `observation`, `rank` (a share from 0 to 1) and `spread_bin`:

        * coverage (level), coverage_of_each (level, observation): the share of pixels whose truth
          lies in its interval, averaged over observations, and of each; `coverage_error` (level)
          the standard error of the former, NaN for one observation.
        * rank_density (rank): of the truth among its samples, a flat 1 where they are drawn from
          one distribution, of whatever shape. Rank r of n samples is spread from r / (n + 1) to
          (r + 1) / (n + 1); that of a truth equal to some of its samples over all of theirs.
        * spread, error (spread_bin): of pixels sorted by their spread into groups of equal numbers,
          the root mean square of the spread, times `sqrt(1 + 1/n)`, and of the error of the mean.
        * pixels (observation): how many count.

    Raises:
        ValueError: shapes that do not fit, fewer than 3 samples, values that are not finite, no
            pixel that counts, or levels, a factor or bins out of range.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truths, samples = rng.normal(size=(20, 50)), rng.normal(size=(20, 8, 50))
        >>> calibration(truths, samples)["coverage"].round(2).values
        array([0.51, 0.7 , 0.92, 0.96])
    """
    import xarray as xr

    if not (np.isfinite(factor) and factor > 0 and bins >= 2):
        raise ValueError(f"calibration: needs factor > 0 and bins >= 2, got {factor} and {bins}.")
    pairs = _pairs(truths, samples, where)
    shares = np.empty((len(levels), len(pairs)))
    density, spreads, errors = np.zeros(bins), [], []
    for k, (truth, drawn) in enumerate(pairs):
        for i, level in enumerate(levels):
            shares[i, k] = (_scores(truth, drawn, level) <= factor).mean()
        density += _ranks(truth, drawn, bins)
        spreads.append(factor * drawn.std(0, ddof=1) * np.sqrt(1 + 1 / len(drawn)))
        errors.append(np.abs(truth - drawn.mean(0)))
    spread, error = _by_spread(np.concatenate(spreads), np.concatenate(errors), bins)
    units = {"units": "1"}
    few = len(pairs) < 2
    spare = np.full(len(levels), np.nan)
    standard = spare if few else shares.std(1, ddof=1) / len(pairs) ** 0.5
    return xr.Dataset(
        {
            "coverage": ("level", shares.mean(1), {"long_name": "share inside", **units}),
            "coverage_error": ("level", standard, {"long_name": "standard error", **units}),
            "coverage_of_each": (("level", "observation"), shares, units),
            "rank_density": (
                "rank",
                density / len(pairs) * bins,
                {"long_name": "density", **units},
            ),
            "spread": ("spread_bin", spread, {"long_name": "spread (rms)"}),
            "error": ("spread_bin", error, {"long_name": "error of the mean (rms)"}),
            "pixels": ("observation", [len(truth) for truth, _ in pairs], units),
        },
        coords={
            "level": ("level", list(levels), {"long_name": "nominal share", **units}),
            "rank": ("rank", (np.arange(bins) + 0.5) / bins, {"long_name": "rank", **units}),
        },
        attrs={
            "samples": sorted({len(drawn) for _, drawn in pairs}),
            "factor": float(factor),
            "interval": "mean +- factor t_(n-1)((1 + level) / 2) deviation sqrt(1 + 1/n)",
        },
    )


def spread_factor(
    truths: Sequence[Any] | np.ndarray,
    samples: Sequence[Any] | np.ndarray,
    level: float = 0.9,
    *,
    where: Sequence[Any] | np.ndarray | None = None,
) -> float:
    r"""The factor on the deviation with which intervals hold `level` of the pixels.

    The smallest `f` at which the average over observations of the share of pixels with

    .. math:: |x - m| \le f\, t_{n-1}\left(\tfrac{1 + p}{2}\right) s \sqrt{1 + 1/n}

    is `level`: split conformal prediction with the relative error as its score, each observation
    of equal weight. For a new observation from the same source it holds on average, up to the
    scatter of the N observations; it promises nothing of a single pixel, nor of other levels.

    Args:
        truths, samples, where: as in `calibration`.
        level: nominal share.

    Raises:
        ValueError: as `calibration`; or so many pixels have no spread at all and are wrong, that no
            factor is large enough.

    Source: Papadopoulos et al. 2002, "Inductive confidence machines for regression"; Angelopoulos
    et al. 2022, "Image-to-image regression with distribution-free uncertainty quantification".

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truths, samples = rng.normal(size=(20, 50)), rng.normal(size=(20, 8, 50))
        >>> round(spread_factor(truths, samples, 0.9), 2)  # drawn from one distribution
        0.92
    """
    scores = [_scores(truth, drawn, level) for truth, drawn in _pairs(truths, samples, where)]
    weights = np.concatenate([np.full(len(s), 1 / (len(s) * len(scores))) for s in scores])
    values = np.concatenate(scores)
    order = np.argsort(values)
    share = np.cumsum(weights[order])
    index = min(int(np.searchsorted(share, level - 1e-12)), len(values) - 1)
    found = float(values[order][index])
    if not np.isfinite(found):
        raise ValueError(
            f"no factor makes intervals hold {level:g} of the pixels: the samples do not differ at "
            "all where they are wrong. Take more samples, or a method whose samples differ."
        )
    return found


# ---------------------------------------------------------------- parts


def _pairs(truths: Any, samples: Any, where: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """The truth (p,) and the samples (n, p) of the pixels that count, of each observation."""
    masks = [None] * len(truths) if where is None else where
    if not len(truths) == len(samples) == len(masks) or len(truths) == 0:
        raise ValueError(
            f"calibration: {len(truths)} truths, {len(samples)} sets of samples and {len(masks)} "
            "masks; give one of each for every observation, e.g. calibration([truth], [samples])."
        )
    return [_pair(*one, k) for k, one in enumerate(zip(truths, samples, masks, strict=True))]


def _pair(truth: Any, samples: Any, mask: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    if np.iscomplexobj(truth) or np.iscomplexobj(samples):
        raise ValueError(
            f"calibration: observation {k} is complex; give magnitudes, e.g. np.abs(truth), or "
            "real and imaginary part as two channels."
        )
    x, drawn = np.asarray(truth, float), np.asarray(samples, float)
    counts = np.ones(x.shape, bool) if mask is None else np.asarray(mask, bool)
    if drawn.shape[1:] != x.shape or counts.shape != x.shape or drawn.ndim != x.ndim + 1:
        raise ValueError(
            f"calibration: observation {k} has a truth of shape {x.shape}, samples of "
            f"{drawn.shape} and a mask of {counts.shape}; samples are (n, *truth.shape), a mask is "
            "like the truth."
        )
    if len(drawn) < FEWEST:
        raise ValueError(
            f"calibration: observation {k} has {len(drawn)} samples; their spread takes at least "
            f"{FEWEST}, and is worth something from 8 on."
        )
    x, drawn = x[counts], drawn[:, counts]
    if not x.size or not (np.isfinite(x).all() and np.isfinite(drawn).all()):
        reason = "values that are not finite" if x.size else "no pixel that counts"
        raise ValueError(f"calibration: observation {k} has {reason}: leave it out, or see why.")
    return x, drawn


def _scores(truth: np.ndarray, samples: np.ndarray, level: float) -> np.ndarray:
    """The errors in units of half the interval; 0 for no error, infinite for one without spread."""
    half = interval_factor(len(samples), level) * samples.std(0, ddof=1)
    error = np.abs(truth - samples.mean(0))
    safe = np.where(half > 0, half, 1.0)
    found: np.ndarray = np.where(half > 0, error / safe, np.where(error > 0, np.inf, 0.0))
    return found


def _ranks(truth: np.ndarray, samples: np.ndarray, bins: int) -> np.ndarray:
    """The share of pixels in each bin of the truth's rank, each spread over what it may be."""
    n = len(samples)
    low = (samples < truth).sum(0) / (n + 1)
    high = ((samples <= truth).sum(0) + 1) / (n + 1)
    edges = np.linspace(0, 1, bins + 1)[:, None]
    below = ((edges - low) / (high - low)).clip(0, 1).mean(1)  # the share of mass below each edge
    found: np.ndarray = np.diff(below)
    return found


def _by_spread(spread: np.ndarray, error: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Root mean squares of both in groups of equal numbers, sorted by the spread."""
    groups = np.array_split(np.argsort(spread, kind="stable"), bins)
    rms = [[np.sqrt(np.mean(v[g] ** 2)) if len(g) else np.nan for g in groups]
           for v in (spread, error)]  # fmt: skip
    return np.array(rms[0]), np.array(rms[1])

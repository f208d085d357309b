"""What tells whether an image from closure quantities can be believed, and what to keep in mind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from scipy.stats import beta

from lmaps_science.cards.verdict import Check
from lmaps_science.io import DataError
from lmaps_science.io.uvfits import ZERO_BASELINE_WAVELENGTHS
from lmaps_science.problems.black_hole.rings import measure_rings

__all__ = [
    "Amplitudes",
    "acceptable",
    "check_flux",
    "comparison",
    "drift",
    "flux_checks",
    "image_checks",
    "remarks",
]

NAMES = {"cphase": "closure phases", "logcamp": "log closure amplitudes"}

# ---------------------------------------------------------------- the flux


class Amplitudes(NamedTuple):
    """What calibrated amplitudes say of the flux of a compact source.

    Attributes:
        total: the median on zero baselines [Jy], which see all that is there; None without any.
        brightest: the 95th percentile on all others [Jy], above which no flux of a positive image
            lies: |V(u, v)| <= V(0, 0). Not the maximum: one gain may be wrong.
    """

    total: float | None
    brightest: float

    @classmethod
    def of(cls, observation: xr.Dataset) -> Amplitudes:
        """Those of an observation, before its zero baselines were rescaled to its flux."""
        length = np.hypot(observation["u"].values, observation["v"].values)
        zero = length < ZERO_BASELINE_WAVELENGTHS
        # Noise adds 2 sigma^2 to |V|^2.
        power = np.abs(observation["visibility"].values) ** 2
        amplitude = np.sqrt((power - 2 * observation["sigma"].values ** 2).clip(0))
        scale = float(observation.attrs.get("zero_baseline_scale", 1.0))
        total = float(np.median(amplitude[zero])) / scale if zero.any() else None
        return cls(total, float(np.quantile(amplitude[~zero], 0.95)) if not zero.all() else 0.0)


def check_flux(observation: xr.Dataset, flux: float) -> None:
    """Refuse a flux [Jy] to which zero baselines were rescaled, and which cannot be.

    Then closure amplitudes with such a baseline contradict the others, and images fit them with
    large fluxes of both signs that cancel.

    Raises:
        DataError: it is more than twice what the zero baselines see, or less than half of what
            others do: more than gains of the EHT are off.
    """
    total, brightest = Amplitudes.of(observation)
    if total is None or observation.attrs.get("zero_baselines") != "rescale":
        return
    if brightest <= 2 * flux and flux <= 2 * total:
        return
    raise DataError(
        f"{observation.attrs.get('file', 'the data')}: a source of {flux:g} Jy does not give the "
        f"amplitudes of these data, {brightest:.3g} Jy on long baselines and {total:.3g} Jy on the "
        "shortest, to which the flux is compared: the compact flux lies between the two. Set "
        f"observation.flux to it, e.g. observation.flux={total:.3g} without extended emission; for "
        "amplitudes that are not calibrated, observation.zero_baselines=drop."
    )


def flux_checks(observation: xr.Dataset, flux: float) -> Iterator[Check]:
    """The flux [Jy] of the images against the amplitudes of the data."""
    total, brightest = Amplitudes.of(observation)
    yield Check(
        f"amplitude on long baselines, {brightest:.3g} Jy, over the given flux",
        brightest / flux,
        1.2,
        reason="no positive image has a visibility above its flux; set observation.flux to the "
        "compact flux, or calibrate the amplitudes",
    )
    if total is not None:
        yield Check(
            f"given flux over that of the shortest baselines, {total:.3g} Jy,",
            flux / total,
            1.2,
            reason="the compact source cannot be brighter than all there is; set observation.flux",
        )
        yield Check(
            f"flux of the shortest baselines, {total:.3g} Jy, over the given one",
            total / flux,
            5.0,
            reason="is there so much extended emission? else set observation.flux",
        )


# ---------------------------------------------------------------- the images


def acceptable(n: int) -> float:
    """The reduced chi2 of n closures up to which an image explains them."""
    return 1.5 + round(3 * (2 / n) ** 0.5, 2)  # three standard deviations of a reduced chi2


def image_checks(data: xr.Dataset) -> Iterator[Check]:
    """What `BlackHoleProblem.dataset` tells of its best sample, its mean and its modes."""
    best = int(data.attrs["best"])
    modes = data["mode"].values
    inside = int((modes == 0).sum())
    of_mean = data.attrs["metrics_of_mean"] if inside > 1 else {}
    for name, what in NAMES.items():
        n = data.sizes[name]
        if n == 0:
            continue
        limit = acceptable(n)
        yield Check(
            f"chi2 of {what}, sample {best}",
            float(data[f"chi2_{name}"].values[best]),
            limit,
            limit + 2.5,
            "the image does not explain the data; check observation.flux, image.fov_uas and "
            "observation.systematic, or take more levels",
        )
        if of_mean:
            yield Check(
                f"chi2 of {what}, mean image",
                of_mean[f"chi2_{name}"],
                limit + 0.5,
                reason="the mean of these samples is no explanation of the data; look at each",
            )
    yield from _drifts(data, best)
    yield from _light(data, best, mean=bool(of_mean))
    if len(modes) > inside:
        yield from _modes(data, modes, best)


def _drifts(data: xr.Dataset, best: int) -> Iterator[Check]:
    """Do residuals keep a sign over a part of the baselines, or of the time?"""
    for name, what in NAMES.items():
        residual = data[f"{name}_residual"].values[best]
        if len(residual) < 20:
            continue
        found = {along: drift(residual, data[f"{name}_{along}"].values) for along in DRIFT}
        along = max(found, key=lambda key: found[key])
        yield Check(
            f"drift of the residuals of {what} with {DRIFT[along]}, in standard deviations,",
            found[along],
            5.0,
            reason="the image lacks something, or the data have errors that do not close",
        )


DRIFT = {"baseline": "baseline length", "time": "time"}


def drift(residual: np.ndarray, along: np.ndarray) -> float:
    """The largest mean of a fifth of the residuals, in units of its standard deviation.

    The fifths (of 10 and more) follow each other in `along`; residuals are in units of their own
    root mean square, since their size is the chi2's.
    """
    size = np.sqrt(np.mean(residual**2))
    if size == 0:
        return 0.0
    parts = np.array_split(residual[np.argsort(along, kind="stable")], min(5, len(along) // 10))
    return float(max(abs(part.mean()) * len(part) ** 0.5 for part in parts) / size)


def _light(data: xr.Dataset, best: int, mean: bool) -> Iterator[Check]:
    """Light that cannot be, and light where the image ends."""
    images = [data["image"].values[best]] + ([data["image_mean"].values] if mean else [])
    yield Check(
        "share of negative flux",
        max(float(np.abs(image.clip(None, 0)).sum() / np.abs(image).sum()) for image in images),
        0.1,
        0.3,
        "brightness is positive: fluxes of both signs that cancel fit what no source can give, "
        "e.g. a wrong flux, or the prior knows no positive images",
    )
    yield Check(
        "share of the flux at the edge of the image",
        max(_edge(image) for image in images),
        0.1,
        reason="the source goes on outside; set a larger image.fov_uas",
    )


def _edge(image: np.ndarray) -> float:
    """The share of |flux| in a frame of a twentieth of the image's width."""
    width = max(image.shape[0] // 20, 1)
    light = np.abs(image)
    return float(1 - light[width:-width, width:-width].sum() / light.sum())


def _modes(data: xr.Dataset, modes: np.ndarray, best: int) -> Iterator[Check]:
    first, second = (int((modes == k).sum()) for k in (0, 1))
    # The frequencies of both are unknown: uniform between 0 and 1 before the samples were drawn.
    yield Check(
        f"mode 0 has {first} of {len(modes)} samples, mode 1 {second}: the chance that mode 1 is "
        "the more frequent one,",
        float(beta.cdf(0.5, first + 1, second + 1)),
        0.05,
        reason="take more samples, and look at each mode",
    )
    misfit = data["misfit"].values[-1]
    other = int(misfit.argmin())
    yield Check(
        f"data misfit of sample {best}, the best of mode 0, above that of sample {other}, mode "
        f"{modes[other]},",
        float(misfit[best] - misfit[other]),
        10.0,
        reason="another mode fits much better; look at it",
    )


# ---------------------------------------------------------------- remarks


def remarks(data: xr.Dataset, pixel_uas: float) -> list[str]:
    """What a reader of the images should know, though nothing may be wrong with them."""
    n, best = data.sizes["sample"], int(data.attrs["best"])
    notes = []
    if n == 1:
        notes.append(
            "one sample shows neither the spread nor other explanations of the data: take 8 or more"
        )
    elif n < 8:
        unseen = 1 - 0.05 ** (1 / n)  # missed by all n samples with a probability of 5 %
        notes.append(
            f"{n} samples cannot settle the modes: one of up to {100 * unseen:.0f} % of the "
            "probability may have been missed: take 8 or more"
        )
    if n > 1 and data.attrs.get("caution"):
        notes.append(str(data.attrs["caution"]))
    misfit = data["misfit"].values[-1]
    if (other := int(misfit.argmin())) != best:
        notes.append(
            f"sample {best} is the best of mode 0 (misfit {misfit[best]:.4g}); the best of all is "
            f"sample {other}, mode {int(data['mode'].values[other])} ({misfit[other]:.4g})"
        )
    ring, _ = measure_rings(data["image"].values[[best]], pixel_uas)
    width, beam = float(ring["width"]), float(data.attrs["resolution_uas"])
    if np.isfinite(width):
        whose = "its sharpness is the prior's" if width < beam else "the data resolve it"
        notes.append(
            f"the ring of sample {best} is {width:.1f} uas wide, the beam {beam:.0f} uas: {whose}"
        )
    notes += data.attrs.get("ring_test", {}).get("text", [])
    if "ring_diameter" in data:
        without = np.flatnonzero(np.isnan(data["ring_diameter"].values))
        reasons = measure_rings(data["image"].values[without], pixel_uas)[1] if n else []
        notes += [f"no ring in sample {k}: {why}" for k, why in zip(without, reasons, strict=True)]
    return notes


def comparison(found: Mapping[str, Any]) -> list[str]:
    """Sentences of a prior check, `Problem.compare`'s: rings and chi2 of both means."""
    rings = [_ring(found[f"ring_of_{which}"]) for which in ("first", "second")]
    metrics = found["metrics"]
    chi2 = "; ".join(
        f"of {what} {metrics['first'][key]:.2f}, {metrics['second'][key]:.2f}"
        for key, what in ((f"chi2_{name}", what) for name, what in NAMES.items())
        if key in metrics["first"]
    )
    return [f"rings of the two means: {rings[0]}; {rings[1]}", f"chi2 of the two means: {chi2}"]


def _ring(ring: Mapping[str, float]) -> str:
    if not np.isfinite(ring["diameter"]):
        return "none"
    width = f"{ring['width']:.1f} uas wide, " if np.isfinite(ring["width"]) else ""
    angle = f"{ring['orientation']:.0f} degrees" if np.isfinite(ring["orientation"]) else ""
    return f"{ring['diameter']:.1f} uas across, {width}brightest at {angle or 'no angle'}"

"""Do the data require a ring? The evidence for and against one, among the images that were found.

Samples tell what a prior and a solver make of the data; that all of them have a ring need not be
the data's doing. So the best image with a ring is compared with the best one without: where both
explain the data, these do not decide.

    log ratio = (chi2 without - chi2 with a ring) / 2,  chi2 = sum over all closures ((d - m) / s)^2

is the logarithm of the ratio of their likelihoods, as if the errors of closures were independent.
Where samples of one kind are missing, `search` looks for some from a start of that kind. No test of
this sort proves a ring: an image that no prior here makes may fit without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import beta

from lmaps_science.metrics import blur
from lmaps_science.noise import SampleNoise
from lmaps_science.problems.black_hole.rings import measure_rings
from lmaps_science.sampling import InverseProblem, Solver, State

__all__ = ["Group", "has_ring", "ring_test", "search", "starts"]

# Seen at this part of the beam, about what a prior adds to it; faint surroundings of a bright knot
# are no ring, though its statistics can be measured.
SHARPNESS, FAINTEST = 0.4, 0.15
DECISIVE = 20.0  # of the log ratio: by 10 it has been wrong, in M87* and its like
ENOUGH = 2  # samples of a kind, below which more are looked for
NOISE_LEVELS = (0.7, 0.3)  # from which a search begins, in model space; images span 2
EACH = 2  # images from each of them
FIRST = 1_000_000  # the number of the first: their random numbers are no sample's


class Group(NamedTuple):
    """Images of one origin.

    Attributes:
        name: of one of them, "sample" for sample 0, 1, ...
        images: (n, H, W).
        chi2: reduced chi2 (n,) of each kind of closure.
        ring: (n,), whether they have one.
    """

    name: str
    images: np.ndarray
    chi2: Mapping[str, np.ndarray]
    ring: np.ndarray


def has_ring(images: np.ndarray, pixel_uas: float, beam_uas: float) -> np.ndarray:
    """Whether images (n, H, W) have a ring, (n,): see `measure_rings`.

    Blurred to 0.4 times the beam, and with a peak of 15 % of the brightest one, not 5 %, in every
    direction that counts.
    """
    if len(images) == 0:
        return np.zeros(0, bool)
    seen = blur(images, SHARPNESS * beam_uas / pixel_uas)
    return np.array([not why for why in measure_rings(seen, pixel_uas, faintest=FAINTEST)[1]])


# ---------------------------------------------------------------- the test


def ring_test(
    groups: Sequence[Group], counts: Mapping[str, int], limits: Mapping[str, float]
) -> dict[str, Any]:
    """What images of several origins say of a ring; the first group are the samples.

    Args:
        groups: see `Group`.
        counts: how many closures of each kind there are.
        limits: the reduced chi2 of each kind up to which an image explains the data.

    Returns:
        `finding`: "ring" or "no ring" where the best image of that kind is better by 20 and more in
        the logarithm of the likelihood, or no other one was found though `search` or a second prior
        looked for it; "undecided" where both kinds fit; "no fit" where no image does;
        "not tested". `samples`, `with_ring`: how many there are. `best_ring`, `best_without`: which
        image it is, its chi2, or None. `log_ratio`, or None. `text`: sentences.
    """
    ring, without = (_best(groups, kind, counts) for kind in (True, False))
    ratio = None
    if ring is not None and without is not None:
        ratio = 0.5 * (without["chi2"] - ring["chi2"])
    found = {
        "finding": _finding(ring, without, ratio, limits, looked=len(groups) > 1),
        "samples": len(groups[0].ring),
        "with_ring": int(groups[0].ring.sum()),
        "best_ring": ring,
        "best_without": without,
        "log_ratio": ratio,
    }
    return {**found, "text": _text(found, groups)}


def _best(groups: Sequence[Group], kind: bool, counts: Mapping[str, int]) -> dict[str, Any] | None:
    """The image of a kind that fits best: its group, number and chi2."""
    found: list[dict[str, Any]] = []
    for place, group in enumerate(groups):
        for k in np.flatnonzero(group.ring == kind):
            chi2 = {name: float(values[k]) for name, values in group.chi2.items()}
            found.append(
                {
                    "image": f"{group.name} {k}",
                    "group": place,
                    "index": int(k),
                    "chi2": sum(counts[name] * value for name, value in chi2.items()),
                    **{f"chi2_{name}": value for name, value in chi2.items()},
                }
            )
    return min(found, key=lambda one: float(one["chi2"]), default=None)


def _finding(
    ring: Mapping[str, Any] | None,
    without: Mapping[str, Any] | None,
    ratio: float | None,
    limits: Mapping[str, float],
    looked: bool,
) -> str:
    there = [one for one in (ring, without) if one is not None]
    fitting = [one for one in there if all(one[f"chi2_{n}"] <= limits[n] for n in limits)]
    if not fitting:
        return "no fit"
    if ratio is None:
        return "not tested" if not looked else "ring" if ring else "no ring"
    if abs(ratio) < DECISIVE:
        return "undecided"
    return "ring" if ratio > 0 else "no ring"


def _text(found: Mapping[str, Any], groups: Sequence[Group]) -> list[str]:
    n, k = found["samples"], found["with_ring"]
    low, high = beta.ppf((0.025, 0.975), k + 1, n - k + 1)
    others = "".join(
        f"; {int(g.ring.sum())} of {len(g.ring)} {g.name}s" for g in groups[1:] if len(g.ring)
    )
    share = (
        f"ring test: {k} of {n} samples have a ring (of any number {100 * low:.0f} to "
        f"{100 * high:.0f} % would, with this prior and solver){others}"
    )
    both = [found["best_ring"], found["best_without"]]
    fits = [
        f"best {kind}: {one['image']}, chi2 {_chi2(one)}" if one else f"none {kind} was found"
        for kind, one in zip(("with a ring", "without"), both, strict=True)
    ]
    if found["log_ratio"] is not None:
        fits.append(f"log likelihood ratio {found['log_ratio']:+.1f} (of a ring)")
    meaning = MEANING[found["finding"]]
    if found["log_ratio"] is None and found["finding"] in ALONE:
        meaning = ALONE[found["finding"]]
    return [share, f"ring test: {'; '.join(fits)}", f"ring test: {found['finding']}: {meaning}"]


def _chi2(one: Mapping[str, Any]) -> str:
    names = {"chi2_cphase": "phases", "chi2_logcamp": "log amplitudes"}
    return ", ".join(f"{one[key]:.2f} ({what})" for key, what in names.items() if key in one)


MEANING = {
    "ring": "of the images found, those without a ring fit much worse; that no other image fits is "
    "not shown",
    "no ring": "of the images found, those with a ring fit much worse; that no other image fits is "
    "not shown",
    "undecided": "images with and without a ring fit the data about equally well: these do not "
    "decide, and the share of samples is the prior's word",
    "no fit": "no image found explains the data, so they say nothing of a ring",
    "not tested": "all samples are of one kind, and no other image was looked for: that may be the "
    "prior's doing",
}
ALONE = {
    "ring": "an image without a ring was looked for, and none found; an image that no prior here "
    "makes may fit without one",
    "no ring": "an image with a ring was looked for, and none found; an image that no prior here "
    "makes may fit with one",
}

# ---------------------------------------------------------------- the search


def starts(image: np.ndarray, ring: bool) -> np.ndarray:
    """A ring, or a round Gaussian without one, of the size of `image` (H, W): peak 1.

    Its centre of light and half-light radius are those of the image.
    """
    light = image.clip(0)
    rows, columns = (np.arange(n, dtype=float) for n in image.shape)
    total = light.sum()
    y, x = light.sum(1) @ rows / total, light.sum(0) @ columns / total
    radius = np.hypot(rows[:, None] - y, columns - x)
    order = radius.argsort(axis=None)
    half = np.searchsorted(light.ravel()[order].cumsum(), 0.5 * total)
    size = max(float(radius.ravel()[order][half]), 1.0)
    if ring:
        return np.exp(-4 * np.log(2) * (radius / size - 1) ** 2 / 0.5**2)
    return np.exp(-np.log(2) * (radius / size) ** 2)


def search(
    problem: InverseProblem, solver: Solver, start: torch.Tensor, seed: int
) -> torch.Tensor | None:
    """Images that fit the data, from a start (1, C, H, W) in model space with a little noise.

    The last levels of the solver: a shape that the data contradict changes, others stay. Four
    images, at two noise levels; about 1.5 runs of a sample for the shipped settings.

    Returns:
        Estimates (n, C, H, W) in model space, without those that are not finite; None for a solver
        that keeps more than an image from level to level, or has no such levels.
    """
    sigmas, found = solver.sigmas, []
    with torch.no_grad():
        problem = problem.prepare(solver)
        for place, sigma in enumerate(NOISE_LEVELS):
            first = int((sigmas > sigma).sum())
            samples = tuple(range(FIRST + place * EACH, FIRST + (place + 1) * EACH))
            noise = SampleNoise(seed, samples, problem.keys * EACH)
            if first >= len(sigmas) - 1 or solver.init(problem, noise).extra:
                return None
            z = start.to(problem.like(1)).expand(EACH, *problem.image_shape)
            state = State(x=z + float(sigmas[first]) * noise.normal(z, 2, first), estimate=z)
            for i in range(first, len(sigmas) - 1):
                state = solver.step(i, state, problem, noise)
            found.append(state.estimate)
    images = torch.cat(found)
    return images[torch.isfinite(images).flatten(1).all(1)]

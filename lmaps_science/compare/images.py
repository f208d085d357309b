"""Which images methods are compared on and tuned on, so that none serves for both.

A card's simulated images are numbered. Those below 100,000 are for everyday use, and what the
presets of cards were found on; seed S of `bench` takes the N from 100,000 + 1000 S on, seed S of
`tune` the N from 500,000 + 1000 S on. Where there are so many images and no more, those of `bench`
are the first two thirds and those of `tune` the others, whatever the seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmaps_science.cards.schema import Card
from lmaps_science.io.files import DataError, names

__all__ = ["TEST", "VALIDATION", "check_held_out", "image_series", "numbered_images"]

TEST, VALIDATION = 100_000, 500_000
BLOCK = 1_000  # images of one seed, at the most
MOST_SEED = (VALIDATION - TEST) // BLOCK - 1


def image_series(card: Card, name: str, first: int, images: int, seed: int) -> tuple[str, int, int]:
    """The series of the card's simulated images, and the first and the last number of a seed.

    Args:
        card, name: the card and what it is called.
        first: `TEST` or `VALIDATION`.
        images: how many.
        seed: which, where they have no end.

    Raises:
        DataError: it has none, or not so many.
    """
    found = [key for key, series in type(card).series.items() if series.simulated]
    if not found:
        raise DataError(
            f"{name}: its field simulated no numbered images: give observations whose truth is "
            "known, with --data or --each."
        )
    series = type(card).series[found[0]]
    if series.count is None:
        return found[0], *numbered_images(first, images, seed)
    count = series.count(card, None)
    start, end = (0, 2 * count // 3) if first == TEST else (2 * count // 3, count)
    if not 1 <= images <= end - start:
        raise DataError(
            f"--images {images}: {name} has {count} images, of which {end - start} are for this: "
            f"give 1 to {end - start}."
        )
    return found[0], start, start + images - 1


def numbered_images(first: int, images: int, seed: int) -> tuple[int, int]:
    """The first and the last number of the images of a seed, `first` being `TEST` or `VALIDATION`.

    Raises:
        DataError: there are not so many, or there is no such seed.
    """
    if not 1 <= images <= BLOCK:
        raise DataError(f"--images {images}: give 1 to {BLOCK}.")
    if not 0 <= seed <= MOST_SEED:
        raise DataError(f"--seed {seed}: give 0 to {MOST_SEED}, of {BLOCK} images each.")
    start = first + BLOCK * seed
    return start, start + images - 1


def check_held_out(
    method: str, tuned_on: Mapping[str, Any], kind: str, chosen: Mapping[str, list[int]]
) -> None:
    """Refuse to score a solver on images that it was tuned on.

    Args:
        method: its name.
        tuned_on: as `tune` notes it: `kind`, `series` and the `first` and `last` number.
        kind: of the card.
        chosen: the numbers, by series, of the images to score it on.

    Raises:
        DataError: some are the same.
    """
    if tuned_on.get("kind") != kind:
        return
    first, last = tuned_on.get("first"), tuned_on.get("last")
    if not (isinstance(first, int) and isinstance(last, int)):
        return
    both = [k for k in chosen.get(str(tuned_on.get("series")), []) if first <= k <= last]
    if both:
        raise DataError(
            f"{method} was tuned on {tuned_on['series']} {names(both)}: a comparison on the same "
            "images would favour it. Take others, e.g. leave out --each."
        )

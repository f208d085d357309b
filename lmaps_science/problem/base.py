"""A problem ready to be sampled: what a card describes, built."""

from __future__ import annotations

import html
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from lmaps_science.problem.cards import Card
from lmaps_science.sample import InverseProblem, Result, Solver

__all__ = ["Problem"]


@dataclass(frozen=True, repr=False)
class Problem(InverseProblem):
    """An inverse problem with its card, its data and, in simulations, the truth.

    Attributes:
        name: of the card.
        card: the validated card, overrides included.
        observation: the data, with units and coordinates.
        truth: the true image, where it is known.
    """

    name: str = ""
    card: Card | None = None
    observation: xr.Dataset = field(default_factory=xr.Dataset)
    truth: xr.DataArray | None = None

    @property
    def solver(self) -> Solver:
        """The solver of the card's preset in use."""
        return self.solvers[self._card.preset]

    @property
    def solvers(self) -> dict[str, Solver]:
        """The solvers of all presets."""
        return {name: self._card.solver(name) for name in self._card.presets}

    @abstractmethod
    def evaluate(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics of images (n, H, W) in physical units, each (n,)."""

    @abstractmethod
    def analyse(self, result: Result) -> xr.Dataset:
        """The samples in physical units, their metrics, and the truth where it is known."""

    @abstractmethod
    def summary(self) -> Mapping[str, str]:
        """What there is to know at a glance, for `repr` and notebooks."""

    @property
    def _card(self) -> Card:
        if self.card is None:
            raise ValueError("this problem was made without a card, so it has no presets.")
        return self.card

    @property
    def _title(self) -> str:
        return f"{self.name}: {self.card.title}" if self.card else type(self).__name__

    def __repr__(self) -> str:
        rows = self.summary()
        width = max(map(len, rows))
        return "\n".join([self._title, *(f"  {k:<{width}}  {v}" for k, v in rows.items())])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(key)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for key, value in self.summary().items()
        )
        return f"<b>{html.escape(self._title)}</b><table>{rows}</table>"

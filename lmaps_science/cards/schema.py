"""The schema of problem cards: what the cards of every kind hold, and errors that help.

An unknown key is an error that suggests the nearest known one.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from pydantic import Field, ValidationError, model_validator

from lmaps_science.cards.methods import build_solver
from lmaps_science.cards.sections import Section, prior_facts
from lmaps_science.cards.series import Series
from lmaps_science.io.files import DataError, shown, suggestion
from lmaps_science.priors import Denoiser
from lmaps_science.sampling import Solver

if TYPE_CHECKING:
    from lmaps_science.cards.problem import Problem

__all__ = ["Card", "validate"]

CardType = TypeVar("CardType", bound="Card")


class Card(Section):
    """What the cards of every kind hold.

    Attributes:
        series: by name, what `lmaps batch --each NAME` can run through.
        operator: the sections that say how an image becomes data; conditional weights serve where
            they are the same, but for seeds.
    """

    series: ClassVar[Mapping[str, Series]] = {}
    operator: ClassVar[tuple[str, ...]] = ()

    kind: str = Field(description="Of problem; it decides the rest of the card's keys.")
    title: str = Field(description="One line for lists.")
    description: str = Field(
        default="", description="What the problem is, and what to compare a result with."
    )
    references: tuple[str, ...] = Field(default=(), description="Papers and data releases.")
    presets: dict[str, dict[str, Any]] = Field(
        description="Named solvers: `method` and its options; --preset chooses one."
    )
    preset: str = Field(
        default="default",
        description="The one in use; `--set solver.KEY=VALUE` changes its options.",
    )

    conditional: str | None = Field(
        default=None,
        description="File of conditional weights, of `lmaps prior train-conditional` beside this "
        "card's prior; solvers with `conditional: true` use them.",
    )
    calibration: str | None = Field(
        default=None,
        description="File of factors on the samples' spread, of `lmaps calibrate`; null: the one "
        "beside the card, CARD.calibration.json, where there is one.",
    )

    @model_validator(mode="after")
    def _check_presets(self) -> Card:
        if self.preset not in self.presets:
            raise ValueError(
                f"preset: there is no {shown(self.preset)}.{suggestion(self.preset, self.presets)} "
                f"This card has {', '.join(self.presets)}."
            )
        for name in self.presets:
            self.solver(name)
        return self

    @abstractmethod
    def problem(
        self,
        name: str,
        data: str | Path | None = None,
        prior: Denoiser | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Problem:
        """Read or simulate the data and put everything together; each kind of card its own.

        Args:
            name: of the card, for display and provenance.
            data: the file to work on; for a simulation, the image.
            prior: instead of the card's.
            device, dtype: where and in which precision to compute.

        Raises:
            DataError: the data cannot be read, or do not fit the card.
        """

    def facts(self, name: str, observed: Mapping[str, Any], prior: Denoiser) -> dict[str, Any]:
        """What every result keeps: the card as it was used, what was observed, the prior."""
        return {
            "problem": name,
            "card": self.model_dump(mode="json"),
            "observation": dict(observed),
            "prior": prior_facts(prior),
        }

    def solver(self, preset: str | None = None) -> Solver:
        """The solver of a preset; default: the one in use."""
        name = preset or self.preset
        return build_solver(self.presets[name], f"presets.{name}")


# ---------------------------------------------------------------- validation


def validate(schema: type[CardType], content: Mapping[str, Any], name: str) -> CardType:
    """The card, checked.

    Raises:
        DataError: the first thing that is wrong, with its path in the card.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        # An unknown key often explains a missing one: it comes first.
        fault = min(error.errors(), key=lambda e: e["type"] == "missing")
        path, message = _path(fault["loc"], content), fault["msg"]
        if fault["type"] == "value_error":
            message = message.removeprefix("Value error, ")
        elif fault["type"] == "missing":
            path, message = [*path, str(fault["loc"][-1])], "this key is missing"
        elif fault["type"] == "union_tag_invalid":
            kind, known = (
                str(fault["ctx"]["tag"]),
                re.findall(r"\w+", fault["ctx"]["expected_tags"]),
            )
            path, message = [*path, "kind"], f"there is no {shown(kind)}.{suggestion(kind, known)} "
            message += f"Known: {', '.join(known)}."
        else:
            message = f"{message[0].lower()}{message[1:]}, got {shown(fault['input'])}"
        raise DataError(f"card {name}: {': '.join(filter(None, ['.'.join(path), message]))}") from (
            error
        )


def _path(location: tuple[int | str, ...], content: Any) -> list[str]:
    """The keys of a location; pydantic mixes in the kinds of sections, which are no keys."""
    keys = []
    for part in location:
        if isinstance(content, Mapping) and part in content:
            keys.append(str(part))
            content = content[part]
    return keys

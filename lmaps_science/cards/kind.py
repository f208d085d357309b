"""The one descriptor of a field of science: all that the rest of the package sees of it."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaps_science.io.files import DataError, read_text

if TYPE_CHECKING:
    import typer
    import xarray as xr
    from matplotlib.figure import Figure

    from lmaps_science.cards.benchmark import BenchmarkScores
    from lmaps_science.cards.schema import Card
    from lmaps_science.training import Images, TrainingSettings

__all__ = ["CHECKSUMS", "Kind", "Recipe", "SelfTest"]

CHECKSUMS = "SHA256SUMS"  # of the weights beside it, as `sha256sum *.safetensors` writes it


@dataclass(frozen=True)
class Recipe:
    """How a prior is trained: on what, which network, which settings.

    Attributes:
        images: the training images, from the number of pixels and a seed.
        npix: pixels along each side.
        config: architecture, for `build_network`.
        settings: those of the training.
        validation: images held out, in the same way; None: `images` of another seed.

    Example:
        >>> from lmaps_science.cards.registry import recipes
        >>> recipe = recipes()["nuclei"]
        >>> recipe.npix, recipe.images(64, 0).batch(0, 2).shape
        (128, (2, 1, 64, 64))
    """

    images: Callable[[int, int], Images]
    npix: int
    config: Mapping[str, Any]
    settings: TrainingSettings
    validation: Callable[[int, int], Images] | None = None


@dataclass(frozen=True)
class SelfTest:
    """A reconstruction of a few seconds, one sample, and what it should come to.

    Attributes:
        card: its name within the kind; one that needs no file.
        metric: what is measured.
        expected: its value.
        tolerance: how far rounding, on other machines, may move it.
        overrides: of the card, to make it small.
        preset, seed: of the run.
    """

    card: str
    metric: str
    expected: float
    tolerance: float
    overrides: Mapping[str, Any] = field(default_factory=dict)
    preset: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Kind:
    """A kind of problem, found through the entry points `lmaps_science.problems`.

    The parts are named, `"module:attribute"` relative to `package`, and imported when they are
    first used, so that a list of problems or `lmaps --help` need no PyTorch.

    Args:
        name: what cards call it (`kind: NAME`), and the first part of its cards' names.
        package: where the modules are, usually `__name__`.
        cards: the folder with its cards (`*.yaml`) and weights.
        card: the class of its cards, a `Card`.
        figures: a module with `reconstruction(data)` and `samples(data, most=...)`, which draw what
            `Problem.analyse` gives, a Figure each; it may have `prior_check(data)`, which draws
            what `Problem.compare` adds, and, where small pictures should not be grey,
            `shades(images)`, which gives the `Shades` of images without samples.
        export: `export(folder, data, each_sample)`, which writes files in the field's formats
            beside `result.nc`, or "".
        volume: `volume(folder, data, name)`, which writes results that `report.join` put together
            along a first dimension, such as the slices of a volume, in the field's formats, as
            files of this name, or "".
        recipes: how its priors are trained, a dict of `Recipe` by name, or "".
        commands: a `typer.Typer` whose commands are added to `lmaps`, or "". The module should
            import what is heavy inside of its functions.
        benchmark: how a published benchmark scores results, a class derived from
            `BenchmarkScores`, or "".
        comparable_by: `comparable(data)` of a result, which gives the samples that belong together
            (sample, ...) and the truth, None where it is not known, as they are compared pixel by
            pixel: DataArrays in the same units, at the same place; or "" for all samples as they
            are.
        self_test: what `lmaps doctor` reconstructs.

    Example:
        >>> kind = Kind("sonar", "my_sonar", Path("my_sonar") / "cards", card="card:SonarCard")
        >>> kind.name, kind.figures
        ('sonar', 'figures')
    """

    name: str
    package: str
    cards: Path
    card: str = "card:Card"
    figures: str = "figures"
    export: str = ""
    volume: str = ""
    recipes: str = ""
    commands: str = ""
    benchmark: str = ""
    comparable_by: str = ""
    self_test: SelfTest | None = None

    @property
    def card_class(self) -> type[Card]:
        """The class of its cards."""
        found: type[Card] = self._load(self.card)
        return found

    @property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of its weights by name, those left out of the wheel too; {} without a list."""
        path = self.cards / CHECKSUMS
        text = read_text(path, 1_000_000, "a list of checksums") if path.is_file() else ""
        parts = [line.partition(" ") for line in text.splitlines()]
        return {name.lstrip(" *"): checksum for checksum, _, name in parts}

    def draw(self, data: xr.Dataset, **options: Any) -> Figure:
        """The figure of a reconstruction."""
        figure: Figure = self._load(self.figures).reconstruction(data, **options)
        return figure

    def draw_samples(self, data: xr.Dataset, most: int) -> Figure:
        """Up to `most` samples side by side."""
        figure: Figure = self._load(self.figures).samples(data, most=most)
        return figure

    def draw_prior_check(self, data: xr.Dataset) -> Figure | None:
        """The images of two priors side by side; None where the field draws none of its own."""
        draw = getattr(self._load(self.figures), "prior_check", None)
        figure: Figure | None = None if draw is None else draw(data)
        return figure

    def write(self, folder: Path, data: xr.Dataset, each_sample: bool) -> None:
        """Write files in the field's own formats, where it has any."""
        if self.export:
            self._load(self.export)(folder, data, each_sample)

    def write_volume(self, folder: Path, data: xr.Dataset, name: str) -> None:
        """Write joined results in the field's own formats, where it has any, as `name` + suffix."""
        if self.volume:
            self._load(self.volume)(folder, data, name)

    def comparable(self, data: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray | None]:
        """The samples of a result and its truth, as they are compared pixel by pixel."""
        if self.comparable_by:
            samples, truth = self._load(self.comparable_by)(data)
            return samples, truth
        return data["image"], data.get("truth")

    def shades(self, images: Sequence[xr.DataArray]) -> tuple[Any, ...] | None:
        """How small pictures show images: the parts of `Shades`; None for plainly."""
        own = getattr(self._load(self.figures), "shades", None)
        return None if own is None else tuple(own(images))

    def training_recipes(self) -> dict[str, Recipe]:
        """How its priors are trained, by name; none, and a warning, where they fail to load."""
        return dict(self._load_or_warn(self.recipes) or {})

    def command_group(self) -> typer.Typer | None:
        """Its own commands; None, and a warning, where they fail to load."""
        group: typer.Typer | None = self._load_or_warn(self.commands)
        return group

    def benchmark_scores(self) -> type[BenchmarkScores] | None:
        """How a benchmark scores its results; None, and a warning, where that fails to load."""
        scores: type[BenchmarkScores] | None = self._load_or_warn(self.benchmark)
        return scores

    def _load_or_warn(self, where: str) -> Any:
        """A part that all kinds share a list of, which the mistake of one should not spoil."""
        try:
            return self._load(where) if where else None
        except Exception as error:
            message = f"{self.package}.{where} (kind {self.name!r}) cannot be used: {error!r}"
            warnings.warn(message, stacklevel=3)
            return None

    def _load(self, where: str) -> Any:
        """The module, or the attribute of it, at `where`.

        Raises:
            DataError: there is none; whatever else goes wrong inside the module is passed on.
        """
        module, _, attribute = where.partition(":")
        name = f"{self.package}.{module}"
        try:
            found = importlib.import_module(name)
            return getattr(found, attribute) if attribute else found
        except (ModuleNotFoundError, AttributeError) as error:
            lacking = isinstance(error, AttributeError) and error.name == attribute
            if not lacking and error.name != name:
                raise  # from inside the module
            what = f"{name} has no {attribute!r}" if lacking else f"there is no module {name}"
            raise DataError(
                f"kind {self.name!r} names {where!r}, and {what}: write module:attribute, the "
                f"module relative to {self.package}."
            ) from error

"""What a result says of its own making: read from foreign files, so it is checked, never trusted.

Nothing that a result names is executed, and its files are only fingerprinted and read.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import xarray as xr
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmaps_science.cards.inputs import fingerprint, identity
from lmaps_science.cards.registry import find_kind
from lmaps_science.io.files import DataError, names, shown
from lmaps_science.manifests import find, list_data

__all__ = ["Located", "Provenance", "locate"]

_Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Whole = Annotated[int, Field(strict=True, ge=0)]


class _File(BaseModel):
    path: str
    sha256: _Sha | None = None


class _Inputs(BaseModel):
    card: str
    data: str | None = None
    files: dict[str, _File]
    prior: str | None = None


class Provenance(BaseModel):
    """The attributes of a result that say how it was made, with their types."""

    model_config = ConfigDict(frozen=True)

    kind: str
    problem: str
    card: dict[str, Any]
    inputs: _Inputs
    settings: dict[str, Any]
    identity: str
    solver: str
    seed: _Whole
    dtype: str
    device: str
    lmaps_science_version: str
    torch_version: str
    # Not in results of before they were kept
    numpy_version: str | None = None
    processor: str | None = None
    threads: _Whole | None = None
    batch_size: Annotated[int, Field(strict=True, ge=1)] | None = None
    commit: str | None = None

    @classmethod
    def of(cls, data: xr.Dataset, where: object) -> Provenance:
        """That of a result.

        Raises:
            DataError: it lacks some, has others than ours, or was changed after it was written.
        """
        lacking = [
            k for k, f in cls.model_fields.items() if f.is_required() and k not in data.attrs
        ]
        if lacking:
            raise DataError(
                f"{where} does not say how it was made: it lacks {names(lacking)}. It is of an "
                "older version, or its problem was built by hand: run it again with `lmaps run`."
            )
        try:
            found = cls.model_validate({str(k): v for k, v in data.attrs.items()})
            own = identity(found.settings)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(str(part)[:40] for part in fault["loc"])
            raise DataError(
                f"{where} is not as this package writes results: its attribute {key}: "
                f"{fault['msg']}. Give the result.nc of a run."
            ) from error
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{where}: its settings cannot be read ({error}).") from error
        if own != found.identity:
            raise DataError(
                f"{where} was changed after it was written: its settings have the identity {own}, "
                f"and it says {shown(found.identity)}. Give the file as the run wrote it."
            )
        return found

    @property
    def samples(self) -> Any:
        """How many, as its settings say."""
        return self.settings.get("samples")

    @property
    def key(self) -> int:
        """Of the random numbers of its one observation.

        Raises:
            DataError: it is of several.
        """
        keys = self.settings.get("keys")
        if not isinstance(keys, list) or len(keys) != 1 or type(keys[0]) is not int or keys[0] < 0:
            raise DataError(f"its settings have the keys {shown(keys)}, not one whole number.")
        return keys[0]


# ---------------------------------------------------------------- files


@dataclass(frozen=True)
class Located:
    """The files of a run, where they are now.

    Attributes:
        card: the content of the card, with the files' places.
        data: in place of the data that were given with the command; None: the card's.
        instead: data in place of the card's manifest, where there is no copy of that here.
    """

    card: dict[str, Any]
    data: str | None
    instead: Path | None = None


def locate(made: Provenance, given: Sequence[str | Path]) -> Located:
    """Where the files of a run are, each known by its fingerprint.

    Looked for at the places that are given, or below them, then where the run found them, then
    among the weights that come with the package.

    Args:
        made: the run.
        given: files and folders.

    Raises:
        DataError: files that are missing or have changed, all of them; or a place that was given
            and holds none of them.
    """
    places = [Path(place).expanduser() for place in given]
    for place in places:
        if not place.exists():
            raise DataError(f"{place}: no such file or folder (working directory: {Path.cwd()}).")
    content, files = copy.deepcopy(made.card), made.inputs.files
    weights = find_kind(made.kind, "the result").cards.glob("*.safetensors")
    shipped = {path.name: path for path in weights}
    data, instead, wrong = made.inputs.data, None, []
    used: set[Path] = set()
    for key, file in files.items():
        name = Path(file.path).name
        here = [p for place in places for p in (place, place / name)]
        others = [Path(file.path), *([shipped[name]] if name in shipped else [])]
        if key.rsplit(".", 1)[-1] == "manifest":
            found, problem = _of_manifest(file, here, needed=_needed(content, key, files))
            instead = found or instead
        else:
            found, problem = _same(file, [*here, *others], what=key)
            if found is not None:
                data = _put(content, key, found, data)
        wrong += [problem] if problem else []
        used |= {found} if found is not None else set()
    if wrong:
        raise DataError(
            f"this would be another run: {'; '.join(wrong)}. Give the files as they were: --data "
            "PATH, --prior PATH say where they are now."
        )
    for place in places:
        if not any(place == path or place in path.parents for path in used):
            raise DataError(f"{place} holds no file of this run: leave it out, or give another.")
    return Located(content, data, instead)


def _same(file: _File, candidates: Iterable[Path], what: str) -> tuple[Path | None, str]:
    """The first of the candidates that is this file; or what is wrong."""
    others = {}
    for path in candidates:
        try:
            if not path.exists():
                continue
            sha = fingerprint(path)
        except (OSError, DataError, ValueError) as error:  # unreadable; or what no path can be
            others[path] = f"{_told(path)} cannot be read ({error})"
            continue
        if sha == file.sha256:
            return path, ""
        others[path] = f"{_told(path)} has changed: its SHA-256 is {sha}, was {file.sha256}"
    return None, next(iter(others.values()), f"{_told(file.path)} ({what}) is missing")


def _told(path: Path | str) -> str:
    return shown(str(path), most=300)


def _of_manifest(file: _File, here: Sequence[Path], needed: bool) -> tuple[Path | None, str]:
    """A copy among `here` of public data, where there is none in the usual places."""
    known = list_data().get(file.path)
    if known is None:
        return None, f"this version knows no public data {shown(file.path)}"
    if known.sha256 != file.sha256:
        return None, f"{known.name} has changed: its SHA-256 is {known.sha256}, was {file.sha256}"
    if not needed:
        return None, ""
    at_hand = [path / Path(known.path).name for path in here]
    found, _ = _same(file, [*here, *at_hand], what="") if file.sha256 else (None, "")
    if found is None and find(known.name) is None:
        return None, f"{known.name} is missing (`lmaps data {known.name}` fetches it)"
    return found, ""


def _needed(content: Any, key: str, files: Mapping[str, _File]) -> bool:
    """Whether a section takes its manifest's file: data that are given go before it."""
    *above, _ = key.split(".")
    for name in above:
        content = content.get(name) if isinstance(content, Mapping) else None
    has_file = isinstance(content, Mapping) and content.get("file") is not None
    return not has_file and "data" not in files


def _put(content: dict[str, Any], key: str, path: Path, data: str | None) -> str | None:
    """The file's place, into the card or instead of `data`, which is returned."""
    if key == "data":
        return str(path)
    section: Any = content
    *above, last = key.split(".")
    for name in above:
        section = section.get(name) if isinstance(section, dict) else None
    if not isinstance(section, dict) or last not in section:
        raise DataError(f"the result names a file of {shown(key)}, which its card does not have.")
    section[last] = str(path)
    return data

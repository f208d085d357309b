"""Public data that the problems use: where they are, what they hold, and whether a copy is intact.

Each file of `data_manifests/` describes one collection: source, licence, citation, and its files
with their URL, checksum, shapes and units. `fetch(name)` gives the path of a verified copy.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lmaps_science.io.files import DataError, sha256, suggestion
from lmaps_science.io.yaml_text import read_yaml

__all__ = ["DataFile", "cache_folder", "fetch", "find", "list_data", "shipped_folder"]


def _inside(path: str) -> str:
    """A relative path that stays inside of the folder it is joined to, on any system."""
    parts = path.replace("\\", "/").split("/")
    if "" in parts or ".." in parts or ":" in path or "\0" in path or path.startswith("~"):
        raise ValueError("must be a relative path below a folder of data, e.g. eht/file.uvfits")
    return path


_Inside = Annotated[str, AfterValidator(_inside)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    file: _Inside
    url: Annotated[str, Field(pattern=r"^https?://")] | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    bytes: int | None = None
    what: str
    shape: str
    units: str


class _Collection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    source: str
    licence: str
    citation: str
    folder: _Inside
    notes: str = ""
    files: dict[str, _File]


@dataclass(frozen=True)
class DataFile:
    """One file: `path` is where it belongs, relative to a folder of data such as $LMAPS_DATA.

    `url` is None where the source offers no direct link (then `source` is the page to visit),
    `sha256` where the checksum is not known (then a copy cannot be verified).
    """

    name: str
    path: str
    url: str | None
    sha256: str | None
    bytes: int | None
    what: str
    shape: str
    units: str
    collection: str
    source: str
    licence: str
    citation: str
    notes: str


def list_data() -> dict[str, DataFile]:
    """All files that the manifests describe, by name.

    Example:
        >>> data = list_data()["brain_8ch"]
        >>> data.shape, data.licence
        ('(8 coils, 230, 180) complex64', 'BSD-3-Clause')
    """
    return dict(_read(shipped_folder("data_manifests")))


def find(name: str, folder: str | os.PathLike[str] | None = None) -> Path | None:
    """The path of an intact copy that is already here, or None.

    Looks in `folder` (default: $LMAPS_DATA), in its sub-folder as the manifest has it or directly,
    then in the cache of earlier downloads.

    Raises:
        DataError: no such name, or a copy whose checksum differs.
    """
    data = _data_file(name)
    given = folder or os.environ.get("LMAPS_DATA")
    places = [Path(given).expanduser()] if given else []
    for place in [*places, cache_folder()]:
        for path in (place / data.path, place / Path(data.path).name):
            if path.is_file():
                _verify(path, data)
                return path
    return None


def fetch(name: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """The path of a verified copy, downloaded to the cache when there is none here.

    Args:
        name: one of `list_data()`.
        folder: where to look first; default: $LMAPS_DATA.

    Raises:
        DataError: no such name; no network, or no direct link (the message says where to get the
            file and where to put it); or a checksum that differs from the manifest's.

    Example:
        >>> fetch("brain_8ch")  # downloaded once  # doctest: +SKIP
    """
    here = find(name, folder)
    if here is not None:
        return here
    data = _data_file(name)
    by_hand = (
        f"Get it from {data.source} and put it in a folder of data as {data.path}, with "
        "LMAPS_DATA set to that folder."
    )
    if data.url is None:
        raise DataError(f"{name} ({data.what}) has no direct link. {by_hand}")
    import pooch

    pooch.get_logger().setLevel("WARNING")
    target = cache_folder() / data.path
    try:
        pooch.retrieve(
            data.url,
            known_hash=f"sha256:{data.sha256}" if data.sha256 else None,
            fname=target.name,
            path=target.parent,
        )
    except ValueError as error:  # pooch has removed what it downloaded
        raise DataError(
            f"{name}: what {data.url} gave has another checksum than the manifest ({error}). "
            "The source changed, or the transfer was tampered with; nothing was kept."
        ) from error
    except Exception as error:  # no network, a proxy, a moved file: each its own type
        # `from None`: the hundred lines of the network's own errors would hide what to do
        raise DataError(
            f"{name} could not be downloaded from {data.url} ({type(error).__name__}). {by_hand}"
        ) from None
    return target


def shipped_folder(name: str) -> Path:
    """A folder of files that come with the package: inside it when installed, else beside it."""
    package = Path(__file__).resolve().parent
    inside = package / "shipped" / name
    return inside if inside.is_dir() else package.parent / name


def _data_file(name: str) -> DataFile:
    known = list_data()
    if name not in known:
        raise DataError(
            f"there is no data file {name!r}.{suggestion(name, known)} Known: {', '.join(known)}."
        )
    return known[name]


def cache_folder() -> Path:
    """Where downloads are kept."""
    import pooch

    return Path(pooch.os_cache("lmaps-science"))


def _verify(path: Path, data: DataFile) -> None:
    if data.sha256 is not None and sha256(path) != data.sha256:
        raise DataError(
            f"{path} is not the file that the manifest describes as {data.name}: its SHA-256 is "
            f"{sha256(path)}, expected {data.sha256}. Remove it, or copy it again."
        )


@lru_cache(maxsize=4)
def _read(folder: Path) -> Mapping[str, DataFile]:
    found: dict[str, DataFile] = {}
    for path in sorted(folder.glob("*.yaml")):
        content: Any = read_yaml(path, "a manifest")
        try:
            collection = _Collection.model_validate(content)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part)[:40] for part in fault["loc"]) or "at its top level"
            raise DataError(
                f"{path} is not a manifest: {where}: {fault['msg']}. See those in data_manifests/."
            ) from error
        common = collection.model_dump(exclude={"files", "title", "folder"})
        for name, file in collection.files.items():
            if name in found:
                raise DataError(f"{path}: the name {name} is taken by {found[name].collection}.")
            found[name] = DataFile(
                name=name,
                path=f"{collection.folder}/{file.file}",
                collection=collection.title,
                **common,
                **file.model_dump(exclude={"file"}),
            )
    return found

"""What a reconstruction was made from, and which settings tell one run from another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaps_science.cards.registry import find_kind
from lmaps_science.io.files import DataError, sha256, shown
from lmaps_science.manifests import list_data
from lmaps_science.priors import Denoiser

if TYPE_CHECKING:
    from lmaps_science.cards.schema import Card
    from lmaps_science.sampling import Solver

__all__ = ["differences", "fingerprint", "identity", "made_from", "settings"]

_TEXTS = ("title", "description", "references", "presets", "preset")  # they change no result
_WHOLE = 1 << 30  # bytes; of larger files only both ends are read
_END = 64 << 20
_MOST_FILES = 10_000  # in a folder of data; whoever names all of a disk does not wait for it
_LOCK = "lock.mdb"  # LMDB writes into it whenever somebody reads


def fingerprint(path: str | os.PathLike[str]) -> str:
    """Tells whether a file, or a folder of files, is still the same: 64 hexadecimal digits.

    The SHA-256 of a file up to 1 GiB; of a larger one that of its size and of the 64 MiB at either
    end; of a folder that of the names and fingerprints of all files in it.

    Raises:
        DataError: no such file or folder, or one of more than 10,000 files.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return _of_file(path)
    digest = hashlib.sha256()
    found = list(islice(path.rglob("*"), _MOST_FILES + 1))
    if len(found) > _MOST_FILES:
        raise DataError(
            f"{path} holds more than {_MOST_FILES} files: it is no folder of one data set. Give "
            "the file, or the folder that holds it alone."
        )
    for file in sorted(p for p in found if p.is_file() and p.name != _LOCK):
        digest.update(f"{file.relative_to(path).as_posix()} {_of_file(file)}\n".encode())
    return digest.hexdigest()


def _of_file(path: Path) -> str:
    try:
        known = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}.") from error
    return _digest(path, known.st_size, known.st_mtime_ns)


@lru_cache(maxsize=4096)  # a batch asks once for each slice of a volume
def _digest(path: Path, size: int, modified: int) -> str:
    if size <= _WHOLE:
        return sha256(path) if size else hashlib.sha256().hexdigest()
    digest = hashlib.sha256(f"{size} ".encode())
    with open(path, "rb") as file:
        for start in (0, size - _END):
            file.seek(start)
            digest.update(file.read(_END))
    return digest.hexdigest()


def made_from(
    card: Card, name: str, data: str | Path | None, prior: Denoiser | None = None
) -> dict[str, Any]:
    """All that a problem is made from besides its card: which files, and their fingerprints.

    Args:
        card: with its overrides.
        name: of the card, or its path.
        data: as given with the command.
        prior: given instead of the card's; None for the card's own.

    Returns:
        `card`, `data` (a path as an absolute one), `files`: the path and the fingerprint of each
        file, by the key of the card that names it, or `data`; `prior`, where another was given.
    """
    found: dict[str, Any] = {"card": name, "data": None if data is None else str(data), "files": {}}
    if data is not None and _exists(str(data), True):
        path = Path(data).expanduser().resolve()
        found["data"] = str(path)
        found["files"]["data"] = {"path": str(path), "sha256": fingerprint(path)}
    content = {k: v for k, v in card.model_dump(mode="json").items() if k not in _TEXTS}
    weights = {path.name: path for path in find_kind(card.kind, name).cards.glob("*.safetensors")}
    for key, value in _leaves(content):
        last = key.rsplit(".", 1)[-1]
        if last == "manifest" and value in list_data():
            found["files"][key] = {"path": value, "sha256": list_data()[value].sha256}
        elif value in weights or _exists(value, last.endswith("file")):
            path = weights.get(value, Path(value).expanduser()).resolve()
            found["files"][key] = {"path": str(path), "sha256": fingerprint(path)}
    if prior is not None:
        known = getattr(prior, "metadata", {}).get("sha256")
        if known is None or known != found["files"].get("prior.file", {}).get("sha256"):
            found["prior"] = known or repr(prior)
    return found


def _leaves(content: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a card, and its key."""
    if isinstance(content, str):
        yield key, content
    items = content.items() if isinstance(content, Mapping) else ()
    for name, value in items:
        yield from _leaves(value, f"{key}.{name}" if key else str(name))


def _exists(text: str, folders: bool) -> bool:
    try:
        path = Path(text).expanduser()
        return path.is_file() or (folders and path.is_dir())
    except (OSError, RuntimeError, ValueError):  # too long, or what no path can be
        return False


def settings(
    card: Card,
    inputs: Mapping[str, Any],
    solver: Solver,
    n_samples: int,
    seed: int,
    keys: Sequence[int] = (0,),
) -> dict[str, Any]:
    """All on which a result depends, files by what they hold and not by where they are.

    Two runs of equal settings give the same images, but for rounding, see `sample`.

    Args:
        card: with its overrides.
        inputs: of `made_from`.
        solver: in use.
        n_samples, seed: as in `sample`.
        keys: as in `InverseProblem`.
    """
    content = {k: v for k, v in card.model_dump(mode="json").items() if k not in _TEXTS}
    for key in ("calibration", "conditional"):
        if content[key] is None:
            del content[key]  # as before there was such a key
    files = {key: file["sha256"] for key, file in inputs["files"].items()}
    found = {**_with_files(content, files), "solver": _options(solver)}
    found |= {"data": files.get("data", inputs["data"])}
    found |= {"prior": inputs["prior"]} if "prior" in inputs else {}
    return {**found, "samples": n_samples, "seed": seed, "keys": list(keys)}


def _options(part: Any) -> Any:
    """A solver as a card would have it: its class, and all of its options."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        options = {f.name: _options(getattr(part, f.name)) for f in dataclasses.fields(part)}
        return {"method": type(part).__name__, **options}
    return part if isinstance(part, (str, int, float, bool, type(None))) else repr(part)


def _with_files(content: Any, files: Mapping[str, str], key: str = "") -> Any:
    if isinstance(content, Mapping):
        return {k: _with_files(v, files, f"{key}.{k}" if key else k) for k, v in content.items()}
    return files.get(key, content)


def identity(settings: Mapping[str, Any]) -> str:
    """Of a run: 16 hexadecimal digits of the SHA-256 of its settings."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(before: Mapping[str, Any], now: Mapping[str, Any], key: str = "") -> list[str]:
    """Where two settings differ: 'solver.levels: 25, now 40', a line each."""
    found = []
    for name in [*before, *(name for name in now if name not in before)]:
        path = f"{key}.{name}" if key else str(name)
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, path)
        elif old != new:
            found.append(f"{path}: {shown(old)}, now {shown(new)}")
    return found

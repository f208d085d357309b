"""Files of weights that describe themselves: safetensors with JSON in one entry of the header.

No code of a file is run, and nothing is believed of it: whoever reads one checks what it says.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lmaps_science.io.files import DataError, atomic_write, require_file, require_memory

__all__ = ["WeightsFile", "buffers", "stored"]

_KEY = "lmaps"  # the one entry of the safetensors header that is ours


@dataclass(frozen=True)
class WeightsFile:
    """A kind of file of weights: what its header says, and what errors call it.

    Args:
        format: what the header calls it.
        version: of the format; files of later ones are refused.
        what: it holds, e.g. "autoencoder".
        writer: what writes such files, e.g. "`lmaps prior train`".

    Example:
        >>> kind = WeightsFile("lmaps-example", 1, "example", "nobody")
        >>> path = kind.write("w.safetensors", {"a": torch.ones(2)}, {"scale": 2.0})
        >>> kind.description(path)["scale"], kind.tensors(path)["a"]
        (2.0, tensor([1., 1.]))
    """

    format: str
    version: int
    what: str
    writer: str

    def write(
        self, path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> Path:
        """Write tensors of any shapes and the description `facts`, atomically; return `path`.

        Raises:
            TypeError: facts that JSON cannot hold.
            ValueError: tensors that are not finite.
            DataError: the folder does not exist.
        """
        described = {"format": self.format, "version": self.version, **facts}
        try:
            header = {_KEY: json.dumps(described, allow_nan=False)}
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"the description of weights must be plain JSON data: {error}; convert arrays to "
                "lists and leave out NaN."
            ) from error
        broken = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
        if broken:
            raise ValueError(
                f"weights not finite as {tensors[broken[0]].dtype}: {', '.join(broken[:3])}; "
                "training diverged, or the values need torch.float32."
            )
        with atomic_write(path) as temporary:
            save_file(dict(tensors), temporary, metadata=header)
        return Path(path)

    def description(self, path: str | Path) -> dict[str, Any]:
        """What a file says of itself, without its weights.

        Raises:
            DataError: no such file, a damaged one, one of another kind, or of a newer version.
        """
        path = require_file(path)
        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get(_KEY)
        except (SafetensorError, OSError, ValueError) as error:
            raise DataError(self.damaged(path, "its header cannot be read")) from error
        try:
            facts = json.loads(text or "{}")
            known, version = facts.get("format"), facts.get("version")
        except (ValueError, AttributeError, RecursionError) as error:
            raise DataError(self.damaged(path, "its description is cut or changed")) from error
        if known != self.format:
            raise DataError(
                f"{path} holds no {self.what}, as {self.writer} writes them: it is of another "
                "program, or of another kind."
            )
        if type(version) is not int or version < 1:
            raise DataError(self.damaged(path, "its description is cut or changed"))
        if version > self.version:
            raise DataError(
                f"{path} has format version {version}, this release reads up to {self.version}; "
                "update lmaps-science."
            )
        return dict(facts)

    def tensors(self, path: str | Path) -> dict[str, Tensor]:
        """The weights by name, as they are stored, on the CPU.

        Raises:
            DataError: no such file, a damaged one, or one that is too large for the memory.
        """
        path = require_file(path)
        require_memory(path, "weights", 2 * path.stat().st_size)  # they, and the network
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except Exception as error:  # also of types of numbers that this PyTorch does not have
            raise DataError(self.damaged(path, "its tensors cannot be read")) from error

    def damaged(self, path: Path, reason: str) -> str:
        """The message for a file that cannot be what it should."""
        return (
            f"{path} holds no {self.what} that can be read: it is truncated, damaged or another "
            f"file ({reason}). It has {path.stat().st_size} bytes; fetch it again and compare its "
            "sha256."
        )


def stored(
    state: Mapping[str, Tensor], dtype: torch.dtype, exact: Container[str] = ()
) -> dict[str, Tensor]:
    """A state dict, of any shapes, as it goes into a file: on the CPU, contiguous, in `dtype`.

    Those named `exact` keep their precision, such as the frequencies of a noise embedding.
    """
    return {
        name: v.detach().to("cpu", v.dtype if name in exact else dtype).contiguous()
        for name, v in state.items()
    }


def buffers(network: nn.Module) -> set[str]:
    """The names of what is no parameter among the state of a network."""
    return {name for name, _ in network.named_buffers()}

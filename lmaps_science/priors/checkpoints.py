"""Priors as files: safetensors with their own description, and published `.pt` checkpoints.

No loader here executes code from a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmaps_science.io.files import DataError, require_file, sha256
from lmaps_science.io.pytorch import read_tensors, require_stored
from lmaps_science.priors.covariance import LowRankCovariance
from lmaps_science.priors.networks import NetworkDenoiser, PreconditionedNetwork
from lmaps_science.priors.state_dicts import infer_config, load_weights, normalise
from lmaps_science.priors.weights import WeightsFile, buffers, stored

_FILE = WeightsFile("lmaps-prior", 1, "prior", "save_prior")
_COMPONENTS, _VARIANCES = "covariance.components", "covariance.variances"


def save_prior(
    path: str | Path,
    denoiser: NetworkDenoiser,
    *,
    training: Mapping[str, Any],
    description: str = "",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a network prior to one safetensors file that describes itself.

    The file appears complete or not at all (it is written beside its place, then renamed).

    Args:
        path: target, usually `*.safetensors`; its folder must exist.
        denoiser: prior around a network from `build_network`.
        training: facts of the training (data, steps, loss, licence, seed), JSON-able.
        description: one line for humans.
        dtype: `torch.float32`, or `torch.float16` for half the size (relative error 5e-4 per
            weight).

    Returns:
        `path`.

    Raises:
        TypeError: not a network from `build_network`, or metadata that JSON cannot hold.
        ValueError: another dtype, or weights that do not fit in it.
    """
    network = getattr(denoiser, "network", None)
    if not isinstance(network, PreconditionedNetwork):
        raise TypeError(
            f"save_prior stores networks made by build_network, got {denoiser!r}; a prior that is "
            "a function or an analytic distribution is made anew from its code."
        )
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"save_prior stores torch.float32 or torch.float16, got {dtype}.")
    facts = {
        "config": network.config,
        "image_shape": list(denoiser.image_shape),
        "value_range": list(denoiser.value_range),
        "description": description,
        "training": dict(training),
        "parameters": sum(p.numel() for p in network.parameters()),
    }
    tensors = stored(network.state_dict(), dtype, buffers(network))
    if isinstance(denoiser.covariance, LowRankCovariance):
        tensors |= stored({_COMPONENTS: denoiser.covariance.components}, dtype)
        tensors |= stored({_VARIANCES: denoiser.covariance.eigenvalues}, torch.float32)
    return _FILE.write(path, tensors, facts)


def load_prior(
    path: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    weights: str = "ema",
    value_range: tuple[float, float] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> NetworkDenoiser:
    """Read a prior.

    Args:
        path: a file of `save_prior`, or a `.pt` checkpoint with EDM, InverseBench or
            guided-diffusion names: a state dict, or one under `ema` or `net`.
        config: for `.pt` only: what its weights cannot tell, above all `preconditioning`; see
            `infer_config`. The architecture is read from the weights.
        weights: which weights of a `.pt` to take, `"ema"` or `"net"`.
        value_range: nominal range of model space; default: as stored, else (-1, 1).
        device, dtype: where the network runs, and in which precision.

    Returns:
        The prior; `metadata` holds its description, training facts and the file's `sha256`.

    Raises:
        DataError: missing, truncated, foreign or unsafe files; weights that do not fit.

    Example:
        >>> load_prior("blackhole.pt", config={"preconditioning": "vp"})  # doctest: +SKIP
    """
    path = require_file(path)
    if _is_safetensors(path):
        if config is not None:
            raise ValueError(f"{path} carries its own configuration; omit config.")
        metadata = prior_info(path)
        state = _FILE.tensors(path)
        full = metadata["config"]
        shape = tuple(full["image_shape"])
        covariance = _named(path, _take_covariance, state, shape, device, dtype)
        value_range = value_range or tuple(metadata["value_range"])
    else:
        covariance = None
        state = _read_checkpoint(path, weights)
        metadata = {"description": path.name, "weights": weights, "training": {}}
        full = _named(path, infer_config, state, config)
    network = _named(path, load_weights, full, state, dtype)
    metadata |= {"config": network.config, "sha256": sha256(path), "file": path.name}
    return NetworkDenoiser(
        network.to(device),
        value_range=value_range or (-1.0, 1.0),
        metadata=metadata,
        covariance=covariance,
    )


def prior_info(path: str | Path) -> dict[str, Any]:
    """Description of a prior written by `save_prior`, without reading its weights.

    Returns:
        `config`, `image_shape`, `value_range`, `description`, `training`,
        `parameters`, `format`, `version`.

    Raises:
        DataError: not such a file, or written by a newer version.
    """
    path = require_file(path)
    if not _is_safetensors(path):
        raise DataError(
            f"{path} is not a safetensors file, so it carries no description; a .pt "
            "checkpoint is described by the config given to load_prior."
        )
    info = _FILE.description(path)
    try:
        low, high = info["value_range"]
        complete = isinstance(info["config"], dict) and -math.inf < low < high < math.inf
        complete = complete and info["image_shape"] == info["config"]["image_shape"]
        facts = ((info["description"], str), (info["training"], dict))
        complete = complete and all(isinstance(value, kind) for value, kind in facts)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(_FILE.damaged(path, "its description is cut or changed")) from error
    if not complete:
        raise DataError(_FILE.damaged(path, "its description contradicts itself"))
    return info


def _is_safetensors(path: Path) -> bool:
    """A safetensors file begins with the length of a JSON header, then the header."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or (len(start) == 9 and start[8:] == b"{")


def _take_covariance(
    state: dict[str, Tensor],
    shape: tuple[int, ...],
    device: torch.device | str,
    dtype: torch.dtype,
) -> LowRankCovariance | None:
    """Take the covariance out of a file's tensors, where it has one."""
    if _COMPONENTS not in state or _VARIANCES not in state:
        return None
    components, variances = state.pop(_COMPONENTS), state.pop(_VARIANCES)
    fits = components.ndim == 4 and tuple(components.shape[1:]) == shape
    fits = fits and components.is_floating_point() and variances.is_floating_point()
    if not fits or variances.shape != (len(components) + 1,):
        raise ValueError(
            f"the covariance has components of shape {tuple(components.shape)} and variances of "
            f"shape {tuple(variances.shape)}; expected (r, C, H, W) of images {shape} and (r + 1,)."
        )
    components, variances = components.to(device, dtype), variances.to(device, dtype)
    # Half precision has left them a little too short or too long.
    norms = components.flatten(1).norm(dim=1)
    if not bool((torch.isfinite(norms) & (norms > 0)).all()):
        raise ValueError("a component of the covariance is zero or not finite: fetch it again.")
    components = components / norms[:, None, None, None]
    return LowRankCovariance(components, variances[:-1], float(variances[-1]))


def _read_checkpoint(path: Path, weights: str) -> dict[str, Tensor]:
    if weights not in ("ema", "net"):
        raise ValueError(f"weights must be 'ema' or 'net', got {weights!r}.")
    content = read_tensors(
        path,
        "A prior is a .safetensors file of this package, or a PyTorch state dict, as of "
        "torch.save({'ema': network.state_dict()}, path): get it anew and compare its sha256.",
    )
    if isinstance(content, Mapping) and content.keys() & {"ema", "net"}:
        if weights not in content:
            raise DataError(f"{path} holds no {weights!r} weights; try weights='net' or 'ema'.")
        content = content[weights]
    state: dict[str, Tensor] = _named(path, normalise, content)
    require_stored(path, state, "torch.save({'ema': network.state_dict()}, path)")
    return state


def _named(path: Path, function: Any, *arguments: Any) -> Any:
    """Call a function; put the file's name in front of its complaints."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    except (TypeError, LookupError, ArithmeticError, RuntimeError, AttributeError) as error:
        raise DataError(
            f"{path}: its weights or its configuration contradict themselves "
            f"({type(error).__name__}), so that they make no network. Fetch it again and compare "
            "its sha256, or correct the configuration."
        ) from error

"""From the benchmark's (network, operator, observation) to an inverse problem of this package."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmaps_science.integrations.inversebench.known import (
    TOLERANCE,
    Known,
    physical,
    sigma_of,
)
from lmaps_science.integrations.inversebench.operators import (
    OwnLinear,
    OwnLoss,
    OwnMisfit,
    OwnSVD,
    check_gradient,
    single,
    takes_batches,
)
from lmaps_science.io.files import DataError
from lmaps_science.misfit import GaussianMisfit, Misfit
from lmaps_science.physics.born_svd import BornSVD
from lmaps_science.physics.scattering import BornScattering
from lmaps_science.priors import Denoiser
from lmaps_science.priors.adapters import from_function
from lmaps_science.sampling import InverseProblem

__all__ = ["denoiser", "image_shape", "make_problem", "matmul_precision"]


def make_problem(
    net: Any,
    op: Any,
    observation: Any,
    known: Known | None = None,
    *,
    fast: bool = True,
    noise: float | None = None,
    svd: bool = False,
    samples: int = 1,
) -> InverseProblem:
    """The inverse problem on normalised images.

    Where the operator is one of ours (`known`), or linear by its own account (it has singular
    vectors `U`, `S`, `Vt`), the noise is Gaussian and the operator linear for our solvers to see.
    Else the misfit is half the operator's loss, divided by the variance of its noise where it adds
    any; the list of receivers of full-waveform inversion stands for a loss that has the half.

    Args:
        net: the denoiser, `net(x, sigma)`.
        op: the operator.
        observation: what it gave: a tensor, or a list of receivers.
        known: what `recognise(op)` found.
        fast: replace known operators by ours, where both agree for a random image.
        noise: standard deviation of the data's noise; None: the operator's, or an estimate.
        svd: the solver needs singular vectors.
        samples: how many images there will be side by side.

    Raises:
        DataError: an observation with NaN or infinite numbers, an operator without gradient,
            without noise where that is needed, or with the singular vectors of another.
    """
    shape, prior = image_shape(net), denoiser(net)
    like = torch.empty(0, dtype=torch.float32, device=_device(op, observation))
    if isinstance(observation, Tensor):
        observation = observation.detach()  # some hang on parameters of the operator
        _check_data(op, observation)
    with matmul_precision("highest"):
        misfit = _replaced(known, observation, noise, shape) if known and fast else None
        if misfit is None and known:
            misfit = known.own(observation, noise, shape, samples)
        elif misfit is None:
            check_gradient(op, observation, shape, like)
            misfit = _other(op, observation, noise, shape, like, samples)
        if svd:
            misfit = _with_vectors(misfit, op, shape, like)
    return InverseProblem(
        prior=prior,
        misfit=misfit,
        decode=physical(op, shape),
        facts={"operator": type(op).__name__},
        keys=(_digest(observation),),
    )


def denoiser(net: Any) -> Denoiser:
    """The network as a prior; its products keep the precision that is set when this is called."""
    precision = torch.get_float32_matmul_precision()

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        with matmul_precision(precision):
            denoised: Tensor = net(x, sigma.flatten())
            return denoised

    return from_function(denoise, image_shape(net))


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Products of float32 matrices in this precision, as `torch.set_float32_matmul_precision`.

    The benchmark allows TF32, with errors of 1e-3, which networks stand and operators do not.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def image_shape(net: Any) -> tuple[int, int, int]:
    """(C, H, W) of a network of the benchmark.

    Raises:
        DataError: it does not tell.
    """
    try:
        return int(net.img_channels), int(net.img_resolution), int(net.img_resolution)
    except (AttributeError, TypeError) as error:
        raise DataError(
            f"{type(net).__name__} is no denoiser of the benchmark: it has no img_channels and "
            "img_resolution. Choose the prior of your problem, e.g. pretrain=inv-scatter."
        ) from error


def _check_data(op: Any, observation: Tensor) -> None:
    bad = int((~torch.isfinite(observation)).sum())
    if bad:
        raise DataError(
            f"the observation of {type(op).__name__} holds {bad} NaN or infinite number(s) of "
            f"{observation.numel()}: look at its target and its noise settings."
        )


def _replaced(
    known: Known, observation: Tensor, noise: float | None, shape: tuple[int, ...]
) -> Misfit | None:
    """Our misfit on normalised images; None, and a warning, where it is not the same."""
    name = type(known.op).__name__
    try:
        misfit = known.ours(observation, noise) @ physical(known.op, shape)
        apart = known.disagreement(misfit, observation)
        reason = f"they differ by {apart:.2g} (relative) for a random image"
        if apart <= TOLERANCE:
            return misfit
    except DataError:
        raise
    except (ValueError, RuntimeError, IndexError, AttributeError, TypeError) as error:
        reason = str(error).rstrip(".")
    warnings.warn(
        f"{name} of the benchmark cannot be replaced by the faster one of lmaps-science: {reason}. "
        "The benchmark's own is used.",
        stacklevel=3,
    )
    return None


def _other(
    op: Any,
    observation: Any,
    noise: float | None,
    shape: tuple[int, ...],
    like: Tensor,
    samples: int,
) -> Misfit:
    batched = samples > 1 and takes_batches(op, observation, shape, like)
    if not isinstance(observation, Tensor):  # full-waveform inversion: its loss has the half
        variance = 1.0 if noise is None else noise**2
        loss = OwnLoss(op, observation, shape, batched)
        return OwnMisfit(loss, 1 / variance, variance, like)
    parts = 2 if observation.is_complex() else 1
    if all(hasattr(op, name) for name in ("U", "S", "Vt")):
        sigma = sigma_of(op) if noise is None else noise
        operator = OwnLinear(op, shape, observation.shape[1:], batched)
        return GaussianMisfit(operator, single(observation), sigma) @ physical(op, shape)
    sigma = float(getattr(op, "sigma_noise", 0.0)) if noise is None else noise
    variance = sigma**2 / parts if sigma > 0 else 1.0
    loss = OwnLoss(op, observation, shape, batched)
    return OwnMisfit(loss, 0.5 / variance, variance, like)


def _with_vectors(misfit: Misfit, op: Any, shape: tuple[int, ...], like: Tensor) -> Misfit:
    """The same with singular vectors: the operator's own, or computed where it can be."""
    outer = getattr(misfit.operator, "outer", None)
    if all(hasattr(op, name) for name in ("S", "Vt", "V")) and outer is not None:
        found: Any = OwnSVD(op, outer, like)
    elif isinstance(outer, BornScattering):
        # On the CPU, in double precision; kept on disk under all that it depends on.
        found = BornSVD(outer.to("cpu")).to(like.device)
    else:
        return misfit  # the loop refuses it, and says what is missing
    gaussian = misfit.gaussian()
    return GaussianMisfit(found, gaussian.y, gaussian.sigma) @ physical(op, shape)


def _device(op: Any, observation: Any) -> torch.device:
    if isinstance(observation, Tensor):
        return observation.device
    return torch.device(getattr(op, "device", None) or "cpu")


def _digest(observation: Any) -> int:
    """A whole number for its random numbers: the same for equal data, whichever came before."""
    digest = hashlib.sha256()
    for part in [observation] if isinstance(observation, Tensor) else observation:
        array = (
            part.cpu().resolve_conj() if isinstance(part, Tensor) else getattr(part, "data", part)
        )
        digest.update(np.ascontiguousarray(array).tobytes())
    return int.from_bytes(digest.digest()[:7], "big")

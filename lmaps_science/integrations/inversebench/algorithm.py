"""The algorithm that the benchmark's configurations name."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lmaps_science.cards.methods import build_solver
from lmaps_science.integrations.inversebench.adapter import (
    image_shape,
    make_problem,
    matmul_precision,
)
from lmaps_science.integrations.inversebench.known import recognise
from lmaps_science.integrations.inversebench.settings import tuned as tuned_options
from lmaps_science.sampling import InverseProblem, Solver, sample

__all__ = ["Algorithm"]


class Algorithm:
    """A solver of this package, with the interface of the benchmark's algorithms.

    It freezes the network, keeps to float32, draws its random numbers from generators of its own,
    seeded by `torch.initial_seed()` and the observation, and leaves the global ones as they are.

    Args:
        net: the denoiser, `net(x, sigma)`.
        forward_op: the operator.
        method: the solver, as in cards: its class's name in any case, or `package.module:Class`.
        tuned: take the options that were tuned for the problem which the operator shows; those
            given here come on top. Where none were, the solver's defaults, and a warning.
        fast: replace the operators that this package has, too, where both agree.
        noise: standard deviation of the data's noise (of a complex number, both parts together);
            default: the operator's, for k-space an estimate.
        batch_size: samples side by side; default: all.
        **options: of the solver, as in cards, e.g. `levels=40, local={"method": "lbfgs"}`.

    Raises:
        DataError: a network that is no denoiser.
        ValueError: an unknown method or option, with the nearest known one.

    Example:
        Algorithm(net, forward_op, "daps", levels=50).inference(observation, num_samples=4)
    """

    def __init__(
        self,
        net: Any,
        forward_op: Any,
        method: str = "lmaps",
        *,
        tuned: bool = False,
        fast: bool = True,
        noise: float | None = None,
        batch_size: int | None = None,
        **options: Any,
    ):
        self.net, self.forward_op = net, forward_op
        self.fast, self.noise, self.batch_size = fast, noise, batch_size
        self.known = recognise(forward_op)
        image_shape(net)  # refuses what is no denoiser
        if tuned:
            options = _merged(self._tuned(method), options)
        self.solver: Solver = build_solver({"method": method, **options}, "algorithm.method")
        net.eval()
        net.requires_grad_(False)
        logging.getLogger(__name__).info("lmaps-science: %r", self.solver)

    def inference(self, observation: Any, num_samples: int = 1, verbose: bool = True) -> Tensor:
        """Samples (num_samples, C, H, W), normalised, on the observation's device.

        Args:
            observation: of one image, as the operator gave it.
            num_samples: how many.
            verbose: show progress.

        Raises:
            DataError: see `make_problem`.
            ValueError: the solver needs what this problem does not have.
            NonFiniteError: a NaN or an infinity appeared.
        """
        side_by_side = min(num_samples, self.batch_size or num_samples)
        problem = self.problem(observation, side_by_side)
        with matmul_precision("highest"):
            result = sample(
                problem,
                self.solver,
                num_samples,
                seed=torch.initial_seed(),
                batch_size=self.batch_size,
                progress=verbose,
            )
        return result.estimates.detach()

    def problem(self, observation: Any, samples: int = 1) -> InverseProblem:
        """The inverse problem of an observation; `samples` of it will be computed side by side."""
        return make_problem(
            self.net,
            self.forward_op,
            observation,
            self.known,
            fast=self.fast,
            noise=self.noise,
            svd="svd" in self.solver.requires,
            samples=samples,
        )

    def _tuned(self, method: str) -> Mapping[str, Any]:
        found = None if self.known is None else tuned_options(method, self.known.settings)
        if found is None:
            where = self.known.settings if self.known else type(self.forward_op).__name__
            warnings.warn(
                f"nothing was tuned for {method} on {where}: its own defaults are used.",
                stacklevel=4,
            )
        return found or {}


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` on top; a part such as a local solver keeps its options while its method stays."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            same = value.get("method", old.get("method")) == old.get("method")
            value = _merged(old, value) if same else value
        merged[key] = value
    return merged

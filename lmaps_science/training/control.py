"""Train a conditional denoiser beside a prior, for one operator and noise."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmaps_science.arrays import move
from lmaps_science.priors.conditional import Control, save_control
from lmaps_science.priors.networks import NetworkDenoiser, PreconditionedNetwork
from lmaps_science.sampling import InverseProblem, hint
from lmaps_science.training.images import Images
from lmaps_science.training.loop import accelerator, fit
from lmaps_science.training.run import Denoising, Run
from lmaps_science.training.settings import TrainingSettings

__all__ = ["FirstImages", "train_control"]


@dataclass(frozen=True)
class FirstImages:
    """The first `count` of other images, over and over."""

    images: Images
    count: int

    @property
    def value_range(self) -> tuple[float, float]:
        """Theirs."""
        return self.images.value_range

    @cached_property
    def _all(self) -> np.ndarray:
        return self.images.batch(0, self.count)

    def batch(self, start: int, count: int) -> np.ndarray:
        """Items `start` to `start + count - 1`, modulo their number."""
        found: np.ndarray = self._all[np.arange(start, start + count) % self.count]
        return found


def train_control(
    problem: InverseProblem,
    images: Images,
    validation: Images,
    folder: str | Path,
    settings: TrainingSettings = TrainingSettings(),
    *,
    facts: dict[str, Any] | None = None,
    description: str = "",
    progress: bool = True,
) -> Path:
    """Train a `Control` of the problem's prior, and write `folder/control.safetensors`.

    Each step observes a batch of images as the problem does, with fresh noise, and lets the second
    encoder see the `hint` that the data give; the loss is the prior's own. The prior stays as it
    is. A run that stopped goes on from `folder/state.pt`.

    Args:
        problem: whose operator and noise it will serve.
        images, validation: as in `train`; a hundred are enough for a first one.
        folder: for the weights and the checkpoint.
        settings: those of the training.
        facts: what else the file should say, such as the card.
        description: one paragraph, kept in the file.

    Raises:
        ImportError: accelerate is missing (extra `train`).
        ValueError: the prior is no network of this package.
    """
    base = problem.prior
    if not (isinstance(base, NetworkDenoiser) and isinstance(base.network, PreconditionedNetwork)):
        raise ValueError(
            f"a conditional denoiser is trained beside a network prior, and this is {base!r}. Give "
            "one, e.g. --prior prior.safetensors."
        )
    run = _ControlRun(problem, base, settings, facts or {})
    fit(accelerator(settings), run, images, validation, folder, description, progress=progress)
    return Path(folder) / "control.safetensors"


class _ControlRun(Run):
    def __init__(
        self,
        problem: InverseProblem,
        base: NetworkDenoiser,
        settings: TrainingSettings,
        facts: dict[str, Any],
    ) -> None:
        self.problem, self.base = problem, base
        network: PreconditionedNetwork = base.network  # type: ignore[assignment]
        self.network_of_base = network
        beside = {"beside": base.metadata.get("sha256"), "operator": repr(problem.misfit.operator)}
        super().__init__({**network.config, **beside}, settings, facts)

    def networks(self) -> tuple[nn.Module, nn.Module]:
        own = Control(self.network_of_base)
        return own, copy.deepcopy(own)

    def to(self, device: torch.device) -> None:
        super().to(device)
        self.problem = move(self.problem, device)
        self.network_of_base.to(device)

    def denoising(self, network: nn.Module, x0: Tensor, start: int) -> Denoising:
        misfit = self.problem.misfit
        generator = torch.Generator(x0.device).manual_seed(start)
        # Operators compute in the precision of their data: half of it is for networks.
        with torch.no_grad(), torch.autocast(x0.device.type, enabled=False):
            hints = hint(misfit.with_data(misfit.simulate(x0, generator)), len(x0))
        return lambda x, sigma: network(self.network_of_base, x, sigma, hints)

    def measure_covariance(self, images: Images) -> None:
        """It has none of its own."""

    def write_weights(self, folder: Path, description: str) -> None:
        training = {**asdict(self.settings), **self.progress(), **self.facts}
        path = folder / "control.safetensors"
        save_control(path, self.ema, self.base, training=training, description=description)  # type: ignore[arg-type]

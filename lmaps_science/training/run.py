"""A run of training: what it lowers, what it keeps in `state.pt`, and what comes out of it.

Source: Karras et al. 2022 (EDM), section 5 and Table 1, last column.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from lmaps_science.io.pytorch import read_tensors, write_tensors
from lmaps_science.noise import SampleNoise
from lmaps_science.priors.checkpoints import save_prior
from lmaps_science.priors.covariance import LowRankCovariance
from lmaps_science.priors.networks import NetworkDenoiser, build_network
from lmaps_science.training.images import Images, in_model_space
from lmaps_science.training.settings import TrainingSettings

__all__ = ["Denoising", "Run", "edm_loss"]

Denoising = Callable[[Tensor, Tensor], Tensor]  # (x, sigma) -> denoised
MAY_CHANGE = ("steps", "validate_every", "validation_images")  # from one start to the next
NOISE_BANDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)


def edm_loss(network: Denoising, x0: Tensor, sigma: Tensor, noise: Tensor, sd: float) -> Tensor:
    r"""`lambda(sigma) ||D(x0 + sigma n, sigma) - x0||^2 / pixels` for each image, shape (B,).

    with `lambda = (sigma^2 + sd^2) / (sigma sd)^2`, which makes every noise level weigh the same.
    """
    s = sigma.view(-1, 1, 1, 1)
    error = (network(x0 + s * noise, sigma) - x0).square().flatten(1).mean(1)
    return error * (sigma**2 + sd**2) / (sigma * sd) ** 2


class Run:
    """What a checkpoint must hold: weights, their average, optimiser, step and history."""

    def __init__(
        self,
        config: dict[str, Any],
        settings: TrainingSettings,
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.config, self.settings, self.facts = config, settings, facts
        self.network, self.ema = self.networks()
        self.ema.load_state_dict(self.network.state_dict())
        self.ema.eval().requires_grad_(False)
        self.sigma_data = float(config.get("sigma_data", 0.5))
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0
        )
        self.step, self.seconds, self.processes = 0, 0.0, 1
        self.origin: dict[str, Tensor] = {}  # what tells it from a run of other images or weights
        self.history: list[dict[str, Any]] = []
        self.covariance: LowRankCovariance | None = None

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """What is trained, and what will be its average, of equal weights."""
        return build_network(self.config), build_network(self.config)

    def denoising(self, network: nn.Module, x0: Tensor, start: int) -> Denoising:
        """`(x, sigma) -> denoised` by a network, for noisy images of the items from `start` on."""
        return network

    def loss(
        self, network: nn.Module, start: int, x0: Tensor, sigma: Tensor, noise: Tensor
    ) -> Tensor:
        """What a step lowers, of what `batch` gave."""
        denoise = self.denoising(network, x0, start)
        return edm_loss(denoise, x0, sigma, noise, self.sigma_data).mean()

    def to(self, device: torch.device) -> None:
        """Move what the loop does not: all but the network and its optimiser."""
        self.ema.to(device)

    def batch(
        self, images: Images, start: int, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images in model space, their noise levels and noise; item k is the same in any batch."""
        s = self.settings
        x0 = in_model_space(images, start, s.batch_size).to(device)
        keys = SampleNoise(s.seed, tuple(range(start, start + len(x0))))
        normal = keys.normal(x0[:, 0, 0, :1], 0)[:, 0]
        return x0, (s.log_sigma_mean + s.log_sigma_std * normal).exp(), keys.normal(x0, 1)

    def check_finite(self, loss: float, norm: float, folder: Path) -> None:
        """Raise FloatingPointError where the loss or the gradient's norm is not finite."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"training diverged at step {self.step}: loss {loss}, gradient norm {norm}. Lower "
                f"learning_rate (now {self.settings.learning_rate}) and start again from "
                f"{folder / 'state.pt'}."
            )

    def update_ema(self) -> None:
        """Draw the average towards the weights, by less the later it is."""
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        for average, value in zip(self.ema.parameters(), self.network.parameters(), strict=True):
            average.lerp_(value.detach(), 1 - decay)

    def denoiser(self) -> NetworkDenoiser:
        """The averaged weights as a prior."""
        return NetworkDenoiser(
            self.ema, tuple(self.config["image_shape"]), (-1.0, 1.0), covariance=self.covariance
        )

    def measure_covariance(self, images: Images) -> None:
        """That of the training images, once, where the settings ask for it."""
        rank = min(self.settings.covariance_rank, self.settings.covariance_images - 1)
        rank = min(rank, math.prod(self.config["image_shape"]))
        if rank > 0 and self.covariance is None:
            x0 = in_model_space(images, 0, self.settings.covariance_images)
            self.covariance = LowRankCovariance.from_images(x0, rank)

    def state(self) -> dict[str, Any]:
        """What `load` reads."""
        return {
            "config": self.config,
            "settings": asdict(self.settings),
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "processes": self.processes,
            "origin": self.origin,
            "facts": self._facts_as_text,
        }

    @property
    def _facts_as_text(self) -> str:
        return json.dumps(dict(self.facts), sort_keys=True, default=str)

    def progress(self) -> dict[str, Any]:
        """How far it has come, for the description of the weights."""
        return {
            "step": self.step,
            "hours": round(self.seconds / 3600, 2),
            "images_seen": self.step * self.settings.batch_size * self.processes,
            "validation": self.history[-1],
        }

    def save(self, folder: Path, description: str) -> None:
        """Write the weights, and after them the checkpoint: what says so far is there."""
        self.write_weights(folder, description)
        write_tensors(folder / "state.pt", self.state())

    def write_weights(self, folder: Path, description: str) -> None:
        """Write what comes out of the run so far."""
        save_prior(
            folder / "prior.safetensors",
            self.denoiser(),
            training={**asdict(self.settings), **self.progress(), **self.facts},
            description=description,
            dtype=torch.float16,
        )

    def begin_with(self, initial: nn.Module) -> None:
        """Take the weights of a network; raise ValueError for another architecture."""
        try:
            for network in (self.network, self.ema):
                network.load_state_dict(initial.state_dict())
            weights = next(iter(initial.state_dict().values()))
            self.origin["the weights to begin with"] = weights.detach().float().cpu().clone()
        except RuntimeError as error:
            raise ValueError(
                f"the prior to begin with is of another architecture than {self.config}: take its "
                "own config, e.g. load_prior(path).network.config."
            ) from error

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            DataError: it is damaged, or no checkpoint.
            ValueError: it is of another architecture or of other settings, or further on.
        """
        state = read_tensors(path, "Remove it to start the training afresh.")
        found = state.get("config") if isinstance(state, dict) else type(state).__name__
        if found != self.config:
            raise ValueError(
                f"{path} holds a run of another architecture, {found}; give another folder, or "
                f"that architecture instead of {self.config}."
            )
        self._check_settings(path, state)
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]

    def _check_settings(self, path: Path, state: dict[str, Any]) -> None:
        """Refuse a run of other settings: half of its steps would not be what is recorded."""
        now = asdict(self.settings)
        before = state.get("settings", now)  # older states do not tell
        others = {
            name: f"{name} {before[name]}, now {now[name]}"
            for name in now
            if name not in MAY_CHANGE and before.get(name, now[name]) != now[name]
        }
        if others:
            raise ValueError(
                f"{path} holds a run of other settings: {'; '.join(others.values())}. Give the "
                "same, to go on with it, or another folder, to begin afresh."
            )
        if state.get("processes", self.processes) != self.processes:
            raise ValueError(
                f"{path} holds a run on {state['processes']} GPUs or processes, and here are "
                f"{self.processes}: their items would be others. Give as many, or another folder."
            )
        found = _differences(state.get("origin", {}), self.origin)
        if state.get("facts", self._facts_as_text) != self._facts_as_text:
            found.append(f"{state['facts']}, now {self._facts_as_text}")
        if found:
            raise ValueError(
                f"{path} holds a run of something else: {'; '.join(found)}. Give the same, to go "
                "on with it, or another folder, to begin afresh."
            )
        if now["steps"] < state["step"]:
            raise ValueError(
                f"{path} holds a run that has made {state['step']} steps, more than the "
                f"{now['steps']} wanted: give more steps, or another folder."
            )

    @torch.no_grad()
    def validate(self, images: Images, device: torch.device) -> dict[str, float]:
        """Mean EDM loss of the averaged weights in each noise band, always with the same noise."""
        x0 = in_model_space(images, 0, self.settings.validation_images).to(device)
        losses: dict[str, float] = {}
        for low, high in itertools.pairwise(NOISE_BANDS):
            total = 0.0
            sigmas = torch.exp(torch.linspace(math.log(low), math.log(high), len(x0) + 2)[1:-1])
            for k in range(0, len(x0), 32):
                part, sigma = x0[k : k + 32], sigmas[k : k + 32].to(x0)
                noise = SampleNoise(1, tuple(range(k, k + len(part)))).normal(part, 0)
                denoise = self.denoising(self.ema, part, k)
                total += edm_loss(denoise, part, sigma, noise, self.sigma_data).sum().item()
            losses[f"{low:g}-{high:g}"] = total / len(x0)
        return losses


def _differences(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> list[str]:
    """What differs of the origins of two runs, but for the rounding of latents, in words."""
    if not before:
        return []  # older states do not tell
    same = {
        name
        for name in before.keys() & now.keys()
        if before[name].shape == now[name].shape
        and torch.allclose(before[name], now[name], rtol=0, atol=0.02)
    }
    return [f"{name} are others" for name in sorted((before.keys() | now.keys()) - same)]

"""Train a diffusion prior: the EDM loss, an EMA of the weights, resumable from its checkpoint.

Source: Karras et al. 2022 (EDM), section 5 and Table 1, last column.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lmaps_science.io.files import make_folder
from lmaps_science.io.pytorch import read_tensors, write_tensors
from lmaps_science.noise import SampleNoise
from lmaps_science.priors.checkpoints import save_prior
from lmaps_science.priors.covariance import LowRankCovariance
from lmaps_science.priors.draws import sample_sheet
from lmaps_science.priors.networks import NetworkDenoiser, build_network
from lmaps_science.sampling.progress import Progress

__all__ = ["PRECISE", "ArrayImages", "Images", "TrainingSettings", "song_unet", "train"]

Denoising = Callable[[Tensor, Tensor], Tensor]  # (x, sigma) -> denoised
MAY_CHANGE = ("steps", "validate_every", "validation_images")  # from one start to the next
NOISE_BANDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)


class Images(Protocol):
    """Where training images come from: any object with this method.

    `batch(start, count)` returns float32 images (count, C, H, W) in physical units; it must
    depend on its arguments alone, so that a resumed run sees the images it would have seen.
    `value_range` is what becomes [-1, 1] in model space.
    """

    @property
    def value_range(self) -> tuple[float, float]:
        """What becomes [-1, 1]."""
        ...

    def batch(self, start: int, count: int) -> np.ndarray:
        """Images (count, C, H, W) from number `start` on."""
        ...


@dataclass(frozen=True)
class ArrayImages:
    """A finite set of images (n, C, H, W) in [0, 1], reshuffled for every pass."""

    images: np.ndarray
    seed: int = 0
    value_range = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or not np.isfinite(self.images).all():
            raise ValueError(
                f"training images must be finite and of shape (n, C, H, W), got shape "
                f"{self.images.shape}, {np.size(self.images) - np.isfinite(self.images).sum()} "
                f"values not finite. Example: ArrayImages(images[:, None])."
            )
        if self.images.min() < -1e-3 or self.images.max() > 1 + 1e-3:
            raise ValueError(
                f"training images must lie in [0, 1], these span "
                f"[{self.images.min():.3g}, {self.images.max():.3g}]: divide each by its peak."
            )

    def batch(self, start: int, count: int) -> np.ndarray:
        """Items from `start` on, float32 (count, C, H, W), in a new order for each pass."""
        n = len(self.images)
        passes = [
            np.random.default_rng([self.seed, p]).permutation(n)
            for p in range(start // n, (start + count - 1) // n + 1)
        ]
        order = np.concatenate(passes)[start % n : start % n + count]
        return self.images[order].astype(np.float32)


@dataclass(frozen=True)
class TrainingSettings:
    """What a training run does; every field is recorded with the weights.

    `log_sigma_mean` and `log_sigma_std` are those of the log-normal noise levels seen in
    training; `precision` is `"no"` (float32) or `"bf16"` (autocast); `ema_decay` is reached
    after a warm-up; the learning rate rises for `warmup` steps and falls to 0 along a cosine.
    The weights are stored with `covariance_rank` principal components of `covariance_images`
    training images (0 for none); `LMAPS(covariance="prior")` uses them.

    Example:
        >>> settings = TrainingSettings(steps=2000, precision="bf16", covariance_rank=0)
        >>> settings.steps, settings.batch_size
        (2000, 16)
    """

    steps: int = 20_000
    batch_size: int = 16
    learning_rate: float = 8e-4
    warmup: int = 200
    log_sigma_mean: float = -0.4
    log_sigma_std: float = 1.6
    ema_decay: float = 0.999
    gradient_clip: float = 1.0
    precision: str = "no"
    seed: int = 0
    validate_every: int = 500
    validation_images: int = 128
    covariance_rank: int = 200
    covariance_images: int = 4000

    def __post_init__(self) -> None:
        if self.precision not in ("no", "bf16"):
            raise ValueError(f"precision must be 'no' or 'bf16', got {self.precision!r}.")
        if min(self.steps, self.batch_size, self.validate_every, self.validation_images) < 1:
            raise ValueError("steps, batch_size, validate_every, validation_images must be >= 1.")
        if not self.learning_rate > 0 or not self.log_sigma_std > 0:
            raise ValueError("learning_rate and log_sigma_std must be positive.")


# Data that determine an image well need low noise levels, and no covariance beside the network.
PRECISE = TrainingSettings(batch_size=8, learning_rate=1e-3, log_sigma_std=1.7, covariance_rank=0)


def song_unet(**options: Any) -> dict[str, Any]:
    """The architecture of the shipped priors, with these `options` of `build_network`."""
    return {
        "architecture": "song",
        "preconditioning": "edm",
        "sigma_data": 0.5,
        "num_blocks": 1,
        "dropout": 0.0,
        **options,
    }


def in_model_space(images: Images, start: int, count: int) -> Tensor:
    """A batch (count, C, H, W) in model space."""
    low, high = images.value_range
    return (torch.from_numpy(images.batch(start, count)) - low) * (2 / (high - low)) - 1


def edm_loss(network: Denoising, x0: Tensor, sigma: Tensor, noise: Tensor, sd: float) -> Tensor:
    r"""`lambda(sigma) ||D(x0 + sigma n, sigma) - x0||^2 / pixels` for each image, shape (B,).

    with `lambda = (sigma^2 + sd^2) / (sigma sd)^2`, which makes every noise level weigh the same.
    """
    s = sigma.view(-1, 1, 1, 1)
    error = (network(x0 + s * noise, sigma) - x0).square().flatten(1).mean(1)
    return error * (sigma**2 + sd**2) / (sigma * sd) ** 2


def train(
    config: dict[str, Any],
    images: Images,
    validation: Images,
    folder: str | Path,
    settings: TrainingSettings = TrainingSettings(),
    *,
    initial: nn.Module | None = None,
    facts: Mapping[str, Any] | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    description: str = "",
    progress: bool = True,
) -> Path:
    """Train the network of `config` and write `folder/prior.safetensors` (fp16).

    A run that stopped goes on from `folder/state.pt`; several GPUs are used when started with
    `accelerate launch -m lmaps_science.cli prior train ...`.

    Args:
        config: architecture, as for `lmaps_science.priors.networks.build_network`.
        images, validation: training images and images never trained on.
        folder: where checkpoints, `history` and `samples.png` go.
        settings: see `TrainingSettings`.
        initial: a network of the same architecture whose weights to begin with, e.g. that of a
            prior to adapt to other images.
        facts: what else the file should say, such as whose latents the images are.
        decode: what makes pictures of latents, for `samples.png`.
        description: one paragraph for the model card, kept in the file's metadata.

    Returns:
        The path of the weights.

    Raises:
        ImportError: accelerate is missing (extra `train`).
        DataError: the folder cannot be made.
        ValueError: `state.pt` or `initial` is of another architecture; `state.pt` is of other
            settings than these (more steps, or other validation, are fine), or further on.
        FloatingPointError: the loss is no longer finite.

    Example:
        >>> images, held_out = ArrayImages(a), ArrayImages(b)  # (n, 1, 64, 64)  # doctest: +SKIP
        >>> config = song_unet(image_shape=(1, 64, 64), model_channels=32)  # doctest: +SKIP
        >>> train(config, images, held_out, "my_prior")  # doctest: +SKIP
    """
    device = accelerator(settings)
    run = Run(config, settings, facts or {})
    if initial is not None:
        run.begin_with(initial)
    path = fit(device, run, images, validation, folder, description, progress=progress)
    if device.is_main_process:
        denoiser = run.denoiser().to(device.device)
        sample_sheet(denoiser, path.parent / "samples.png", decode=decode)
    return path


def accelerator(settings: TrainingSettings) -> Any:
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
        from accelerate.utils import set_seed
    except ImportError as error:
        raise ImportError(
            "training needs accelerate: pip install 'lmaps-science[train]'"
        ) from error
    set_seed(settings.seed)  # the fresh weights; images and noise have keys of their own
    AcceleratorState._reset_state()  # an earlier training's, whose precision it would insist on
    return Accelerator(mixed_precision=settings.precision)


def fit(
    accelerator: Any,
    run: Run,
    images: Images,
    validation: Images,
    folder: str | Path,
    description: str = "",
    *,
    progress: bool = True,
) -> Path:
    """Take a run to its last step, from `folder/state.pt` where there is one; see `train`."""
    settings, folder = run.settings, make_folder(folder)
    if (folder / "state.pt").exists():
        run.load(folder / "state.pt")
    run.to(accelerator.device)
    network, optimizer = accelerator.prepare(run.network, run.optimizer)

    rank, world = accelerator.process_index, accelerator.num_processes
    shown = progress and accelerator.is_main_process
    bar = Progress("training", settings.steps, run.step, unit="step", shown=shown)
    started, recent = time.monotonic(), []
    with bar:
        while run.step < settings.steps:
            start = (run.step * world + rank) * settings.batch_size
            batch = run.batch(images, start, accelerator.device)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * _schedule(run.step, settings)
            with accelerator.autocast():
                loss = run.loss(network, start, *batch)
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(network.parameters(), settings.gradient_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            recent.append(loss.item())
            run.check_finite(recent[-1], float(norm), folder)
            run.update_ema()
            run.step += 1
            bar.step(loss=f"{np.mean(recent[-200:]):.4f}")
            if run.step % settings.validate_every == 0 or run.step == settings.steps:
                run.seconds += time.monotonic() - started
                started = time.monotonic()
                if accelerator.is_main_process:
                    bands = run.validate(validation, accelerator.device)
                    record = {"training_loss": float(np.mean(recent)), "bands": bands}
                    run.history.append({"step": run.step, **record})
                    tqdm.write(_line(run.history[-1]))
                    run.measure_covariance(images)
                    run.save(folder, description)
                accelerator.wait_for_everyone()
                recent.clear()
    return folder / "prior.safetensors"


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
        self.step, self.seconds = 0, 0.0
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
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise FloatingPointError(
                f"training diverged at step {self.step}: loss {loss}, gradient norm {norm}. Lower "
                f"learning_rate (now {self.settings.learning_rate}) and start again from "
                f"{folder / 'state.pt'}."
            )

    def update_ema(self) -> None:
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        for average, value in zip(self.ema.parameters(), self.network.parameters(), strict=True):
            average.lerp_(value.detach(), 1 - decay)

    def denoiser(self) -> NetworkDenoiser:
        return NetworkDenoiser(
            self.ema, tuple(self.config["image_shape"]), (-1.0, 1.0), covariance=self.covariance
        )

    def measure_covariance(self, images: Images) -> None:
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
        }

    def progress(self) -> dict[str, Any]:
        """How far it has come, for the description of the weights."""
        return {
            "step": self.step,
            "hours": round(self.seconds / 3600, 2),
            "images_seen": self.step * self.settings.batch_size,
            "validation": self.history[-1],
        }

    def save(self, folder: Path, description: str) -> None:
        """Write the checkpoint and the weights."""
        write_tensors(folder / "state.pt", self.state())
        save_prior(
            folder / "prior.safetensors",
            self.denoiser(),
            training={**asdict(self.settings), **self.progress(), **self.facts},
            description=description,
            dtype=torch.float16,
        )

    def begin_with(self, initial: nn.Module) -> None:
        try:
            for network in (self.network, self.ema):
                network.load_state_dict(initial.state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"the prior to begin with is of another architecture than {self.config}: take its "
                "own config, e.g. load_prior(path).network.config."
            ) from error

    def load(self, path: Path) -> None:
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


def _schedule(step: int, settings: TrainingSettings) -> float:
    rise = min(1.0, (step + 1) / max(settings.warmup, 1))
    return rise * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def _line(record: dict[str, Any]) -> str:
    bands = "  ".join(f"{band}: {loss:.4f}" for band, loss in record["bands"].items())
    return f"step {record['step']}: training {record['training_loss']:.4f}; validation {bands}"

"""The loop that takes a run to its last step, on one device or several."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmaps_science.io.files import make_folder
from lmaps_science.priors.draws import sample_sheet
from lmaps_science.sampling.progress import Progress, say
from lmaps_science.training.images import Images
from lmaps_science.training.run import Run
from lmaps_science.training.settings import TrainingSettings

__all__ = ["accelerator", "fit", "train"]


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
    """Accelerate's, of the settings' precision, with the seed of fresh weights set.

    Raises:
        ImportError: accelerate is missing (extra `train`).
    """
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
    run.processes = accelerator.num_processes
    run.origin["the images"] = torch.as_tensor(images.batch(0, 1)).float()
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
                    if shown:
                        say(_line(run.history[-1]))
                    run.measure_covariance(images)
                    run.save(folder, description)
                accelerator.wait_for_everyone()
                recent.clear()
    return folder / "prior.safetensors"


def _schedule(step: int, settings: TrainingSettings) -> float:
    rise = min(1.0, (step + 1) / max(settings.warmup, 1))
    return rise * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def _line(record: dict[str, Any]) -> str:
    bands = "  ".join(f"{band}: {loss:.4f}" for band, loss in record["bands"].items())
    return f"step {record['step']}: training {record['training_loss']:.4f}; validation {bands}"

r"""A denoiser that has seen the data: a network prior with a second encoder for a hint.

.. math:: \hat D(x, \sigma, h) \approx E[x_0 | x_0 + \sigma n = x, y], \quad h = h(y)

The prior's U-Net stays as it is. A copy of its encoder sees the noisy image and beside it a hint,
an image that is made of the data alone; what it finds is added to the feature maps of the prior's
encoder through 1 x 1 convolutions that begin at zero, so that before training it is the prior.

Source: Zhang et al. 2023, "Adding Conditional Control to Text-to-Image Diffusion Models"; for its
use "Rethinking Diffusion Posterior Sampling: From Conditional Score Estimator to Maximizing a
Posterior".
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmaps_science.arrays import check_images
from lmaps_science.io.files import DataError, sha256
from lmaps_science.priors.base import Denoiser
from lmaps_science.priors.networks import ARCHITECTURES, NetworkDenoiser, PreconditionedNetwork
from lmaps_science.priors.weights import WeightsFile, buffers, stored

__all__ = ["ConditionalDenoiser", "Control", "control_info", "load_control", "save_control"]

_FILE = WeightsFile("lmaps-control", 1, "conditional weights", "`lmaps prior train-conditional`")


class Control(nn.Module):
    """The second encoder of a network prior, for a hint of the shape of its images.

    Args:
        base: the prior's network; its encoder's weights are where this one begins.
    """

    def __init__(self, base: PreconditionedNetwork) -> None:
        super().__init__()
        self.encoder = _widened(base)
        with torch.no_grad():
            channels, height, width = base.config["image_shape"]
            probe = base.folded(torch.zeros(1, channels, height, width))
            skips, _ = base.model.encode(probe, torch.zeros(1))  # type: ignore[operator]
        self.joints = nn.ModuleList(nn.Conv2d(s.shape[1], s.shape[1], 1) for s in skips)
        for joint in self.joints:
            nn.init.zeros_(joint.weight)  # type: ignore[arg-type]
            nn.init.zeros_(joint.bias)  # type: ignore[arg-type]

    def forward(
        self, base: PreconditionedNetwork, x: Tensor, sigma: Tensor, hint: Tensor
    ) -> Tensor:
        """Images `x` (B, C, H, W) denoised at `sigma` (B,), knowing the hints (B, C, H, W)."""
        folded = base.folded(hint)

        def unet(scaled: Tensor, labels: Tensor) -> Tensor:
            skips, embedding = base.model.encode(scaled, labels)  # type: ignore[operator]
            told, _ = self.encoder.encode(torch.cat([scaled, folded], 1), labels)  # type: ignore
            skips = [
                skip + joint(extra)
                for skip, joint, extra in zip(skips, self.joints, told, strict=True)
            ]
            output: Tensor = base.model.decode(skips, embedding)  # type: ignore[operator]
            return output

        return base.around(unet, x, sigma)


def _widened(base: PreconditionedNetwork) -> nn.Module:
    """The prior's encoder with twice the input channels, blind to the new ones at first."""
    config = base.config
    channels, height, _ = config["image_shape"]
    folded = channels * base.patch**2
    make = ARCHITECTURES[config["architecture"]]
    known = copy.deepcopy(base.model.state_dict())
    options = {
        key: value
        for key, value in config.items()
        if key not in {"architecture", "preconditioning", "image_shape", "patch", "out_channels"}
        and key not in _wrapper_options(base)
    }
    model = make(2 * folded, config.get("out_channels", folded), height // base.patch, **options)
    for part in ("dec", "out_norm", "out_conv", "middle_block", "output_blocks", "out"):
        if hasattr(model, part):
            delattr(model, part)
    state = model.state_dict()
    for name, value in state.items():
        old = known[name]
        if old.shape != value.shape:  # a convolution of the input image
            value.zero_()
            value[:, : old.shape[1]] = old
        else:
            value.copy_(old)
    model.load_state_dict(state)
    return model


def _wrapper_options(base: PreconditionedNetwork) -> set[str]:
    import inspect

    own = inspect.signature(type(base).__init__).parameters.values()
    return {p.name for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY}


class ConditionalDenoiser(Denoiser):
    """A network prior and a `Control` that is told what the data say, by an image like its own.

    Args:
        base: the prior.
        control: trained beside it.

    Raises:
        ValueError: the prior is no network of this package.
    """

    hints: Tensor | None = None

    def __init__(self, base: NetworkDenoiser, control: Control) -> None:
        if not isinstance(getattr(base, "network", None), PreconditionedNetwork):
            raise ValueError(
                f"a conditional denoiser needs a network prior, e.g. of load_prior, got {base!r}."
            )
        self.base, self.control = base, control.eval().requires_grad_(False)
        self.image_shape, self.value_range = base.image_shape, base.value_range

    def told(self, hints: Tensor) -> ConditionalDenoiser:
        """The same that knows the `hints`, (B, C, H, W) of a batch or (1, C, H, W)."""
        check_images(type(self).__name__, hints, self.image_shape, real=True)
        knowing = copy.copy(self)
        knowing.hints = hints
        return knowing

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        if self.hints is None:
            raise ValueError(
                "a conditional denoiser must be told the data first: sample() does so, else "
                "denoiser.told(hint(misfit, batch))."
            )
        network: PreconditionedNetwork = self.base.network  # type: ignore[assignment]
        hints = self.hints.to(x).expand(len(x), *self.image_shape)
        return self.base.padded(lambda x, hint: self.control(network, x, sigma, hint), x, hints)


# ---------------------------------------------------------------- files


def save_control(
    path: str | Path,
    control: Control,
    base: NetworkDenoiser,
    *,
    training: Mapping[str, Any],
    description: str = "",
) -> Path:
    """Write a control beside the checksum of its prior: safetensors, 16-bit weights.

    Raises:
        TypeError: facts of the training that JSON cannot hold.
        ValueError: weights that are not finite in 16 bits.
    """
    facts = {
        "base": base.metadata.get("sha256"),
        "base_file": base.metadata.get("file"),
        "description": description,
        "training": dict(training),
    }
    return _FILE.write(path, stored(control.state_dict(), torch.float16, buffers(control)), facts)


def load_control(path: str | Path, base: NetworkDenoiser) -> tuple[Control, dict[str, Any]]:
    """The control in a file of `save_control`, and what the file says of it.

    Raises:
        DataError: no such file, a damaged one, or one for another prior.
    """
    facts, state = _FILE.description(path), _FILE.tensors(path)
    own = base.metadata.get("sha256")
    if facts.get("base") != own:
        raise DataError(
            f"{path} was trained beside another prior, {facts.get('base_file')} (sha256 "
            f"{str(facts.get('base'))[:12]}…), and this one is {base.metadata.get('file')} (sha256 "
            f"{str(own)[:12]}…). Give that prior, or train anew: lmaps prior train-conditional."
        )
    if not isinstance(base.network, PreconditionedNetwork):
        raise DataError(f"{path} belongs to a network prior, and this is {base!r}.")
    control = Control(base.network)
    try:
        control.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f"{path}: its weights do not fit the prior's network.") from error
    return control, {**facts, "sha256": sha256(path), "file": Path(path).name}


def control_info(path: str | Path) -> dict[str, Any]:
    """What the file of a control says of itself, without its weights.

    Raises:
        DataError: no such file, a damaged one, or one of another kind.
    """
    return _FILE.description(path)

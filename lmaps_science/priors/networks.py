"""Neural denoisers: a U-Net inside a preconditioning, built from a plain dictionary."""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmaps_science.io.files import suggestion
from lmaps_science.priors.adm_unet import ADMUNet
from lmaps_science.priors.base import Denoiser
from lmaps_science.priors.covariance import Covariance
from lmaps_science.priors.edm_unets import DhariwalUNet, SongUNet
from lmaps_science.priors.network_config import LARGEST, check_types, checked_image_shape

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "song": SongUNet,
    "dhariwal": DhariwalUNet,
    "adm": ADMUNet,
}


class PreconditionedNetwork(nn.Module, ABC):
    r"""A U-Net `F` made into a denoiser.

    .. math:: D(x, \sigma) = c_{skip} x + c_{out} F(c_{in} x, c_{noise})

    with the coefficients of `coefficients`. With `patch` = p > 1 the U-Net sees the image
    as p x p sub-images stacked along the channels, on a grid p times coarser. `x` and the
    coefficients keep the dtype of `x` (half precision is raised to float32); only `F` runs in
    the dtype of its weights, or of an enclosing autocast. Channels of `F` beyond those of the
    image (a learned variance) are dropped.

    Source: Karras et al. 2022, arXiv:2206.00364, eq. 7 and table 1.
    """

    def __init__(self, model: nn.Module, config: Mapping[str, Any], patch: int = 1) -> None:
        super().__init__()
        self.model = model
        self.config = dict(config)
        self.patch = patch

    @abstractmethod
    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`(c_skip, c_out, c_in, c_noise)`, each of the shape of `sigma`."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise `x` (B, C, H, W) at `sigma` (B,) or a 0-d tensor."""
        return self.around(self.model, x, sigma)

    def around(self, model: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor) -> Tensor:
        """The same with another `F(scaled x, noise labels)` in the place of the U-Net."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        sigma = torch.as_tensor(sigma, device=x.device).to(x.dtype).reshape(-1).expand(x.shape[0])
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma)
        c_skip, c_out, c_in = (c[:, None, None, None] for c in (c_skip, c_out, c_in))
        output = model(self.folded(c_in * x), c_noise)
        if self.patch > 1:
            output = F.pixel_shuffle(output, self.patch)
        return c_skip * x + c_out * output[:, : x.shape[1]].to(x.dtype)

    def folded(self, x: Tensor) -> Tensor:
        """Images as the U-Net sees them: sub-images as channels, in the dtype of its weights."""
        folded = F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x
        return folded.to(next(self.model.parameters()).dtype)


class EDMNetwork(PreconditionedNetwork):
    """Preconditioning of EDM for data of standard deviation `sigma_data`."""

    def __init__(
        self,
        model: nn.Module,
        config: Mapping[str, Any],
        patch: int = 1,
        *,
        sigma_data: float = 0.5,
    ) -> None:
        super().__init__(model, config, patch)
        self.sigma_data = sigma_data

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        total = (sigma**2 + self.sigma_data**2).sqrt()
        return (
            (self.sigma_data / total) ** 2,
            sigma * self.sigma_data / total,
            1 / total,
            sigma.log() / 4,
        )


class VPNetwork(PreconditionedNetwork):
    r"""A noise predictor trained on the variance preserving process.

    sigma(t)^2 = exp(beta_d t^2 / 2 + beta_min t) - 1, with `steps` labels for t in [0, 1].
    """

    def __init__(
        self,
        model: nn.Module,
        config: Mapping[str, Any],
        patch: int = 1,
        *,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        steps: int = 1000,
    ) -> None:
        super().__init__(model, config, patch)
        self.beta_d, self.beta_min, self.steps = beta_d, beta_min, steps

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        growth = 2 * self.beta_d * torch.log1p(sigma**2)
        time = ((self.beta_min**2 + growth).sqrt() - self.beta_min) / self.beta_d
        return torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), (self.steps - 1) * time


class DDPMNetwork(PreconditionedNetwork):
    r"""A noise predictor of the discrete process of DDPM, as guided diffusion publishes them.

    .. math:: 1 + \sigma_i^2 = \prod_{j \le i} (1 - \beta_j)^{-1}

    with `steps` variances from `beta_start` to `beta_end`, equally spaced (the schedule "linear").
    Labels of levels between two steps are interpolated in log sigma.

    Source: Ho et al. 2020, arXiv:2006.11239, section 4; Dhariwal and Nichol 2021.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Mapping[str, Any],
        patch: int = 1,
        *,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        steps: int = 1000,
    ) -> None:
        super().__init__(model, config, patch)
        betas = np.linspace(beta_start, beta_end, steps)
        # no buffer: the table is not among the published weights
        self._log_sigmas = 0.5 * np.log(np.expm1(-np.log1p(-betas).cumsum()))

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        table = torch.as_tensor(self._log_sigmas, dtype=sigma.dtype, device=sigma.device)
        log_sigma = sigma.log().clamp(table[0], table[-1])
        after = torch.searchsorted(table, log_sigma).clamp(1, len(table) - 1)
        left, right = table[after - 1], table[after]
        label = after - 1 + (log_sigma - left) / (right - left)
        return torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), label


class VENetwork(PreconditionedNetwork):
    """A score network trained on the variance exploding process."""

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        one = torch.ones_like(sigma)
        return one, sigma, one, (0.5 * sigma).log()


class IDDPMNetwork(PreconditionedNetwork):
    """A noise predictor trained on the cosine schedule of iDDPM; labels are whole steps."""

    def __init__(
        self,
        model: nn.Module,
        config: Mapping[str, Any],
        patch: int = 1,
        *,
        c1: float = 0.001,
        c2: float = 0.008,
        steps: int = 1000,
    ) -> None:
        super().__init__(model, config, patch)
        self.steps = steps

        def alpha_bar(j: int) -> float:
            return math.sin(0.5 * math.pi * j / steps / (c2 + 1)) ** 2

        levels = [0.0]
        for j in range(steps, 0, -1):
            ratio = max(alpha_bar(j - 1) / alpha_bar(j), c1)
            levels.append(math.sqrt((levels[-1] ** 2 + 1) / ratio - 1))
        self.register_buffer("u", torch.tensor(levels[::-1]))

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        nearest = (sigma[:, None] - self.get_buffer("u").to(sigma)).abs().argmin(dim=1)
        label = (self.steps - 1 - nearest).to(sigma.dtype)
        return torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), label


PRECONDITIONINGS: dict[str, type[PreconditionedNetwork]] = {
    "edm": EDMNetwork,
    "vp": VPNetwork,
    "ddpm": DDPMNetwork,
    "ve": VENetwork,
    "iddpm": IDDPMNetwork,
}


def _options(function: Callable[..., Any]) -> set[str]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _choose(config: Mapping[str, Any], key: str, choices: Mapping[str, Any]) -> Any:
    value = config.get(key)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"network config: {key} must be one of {', '.join(choices)}, got {value!r}; for "
            f"example {{'{key}': '{next(iter(choices))}'}}."
        )
    return choices[value]


def build_network(config: Mapping[str, Any]) -> PreconditionedNetwork:
    """Build a network with fresh weights from a plain (JSON-able) dictionary.

    Args:
        config: `architecture` ("song", "dhariwal", "adm"), `preconditioning` ("edm", "vp",
            "ddpm", "ve", "iddpm"), `image_shape` [C, H, W], optional `patch` (1, 2 or 4:
            space-to-depth factor), and any option of the chosen preconditioning and architecture.
            Resolutions (`attn_resolutions`) refer to the U-Net's own grid, H / patch.

    Returns:
        Network with `forward(x, sigma)`; its `config` attribute rebuilds it.

    Raises:
        ValueError: missing, unknown or unsuitable entries.

    Example:
        >>> net = build_network({"architecture": "song", "preconditioning": "edm",
        ...     "image_shape": [1, 32, 32], "model_channels": 16, "channel_mult": [1, 2]})
    """
    unet = _choose(config, "architecture", ARCHITECTURES)
    wrapper = _choose(config, "preconditioning", PRECONDITIONINGS)
    unet_options, wrapper_options = _options(unet), _options(wrapper)
    common = {"architecture", "preconditioning", "image_shape", "patch", "out_channels"}
    known = common | unet_options | wrapper_options
    for key in config:
        if key not in known:
            raise ValueError(
                f"network config: unknown entry {key!r}.{suggestion(str(key), known)} Known: "
                f"{', '.join(sorted(known))}."
            )
    channels, height, width = checked_image_shape(config)
    check_types(config, unet, wrapper)
    patch = config.get("patch", 1)
    if patch not in (1, 2, 4):
        raise ValueError(f"network config: patch must be 1, 2 or 4, got {patch!r}.")
    options = {k: v for k, v in config.items() if k in unet_options}
    mult = options.get("channel_mult", _default(unet, "channel_mult"))
    grain = _grain(config)
    if height % grain or width % grain:
        raise ValueError(
            f"network config: an image of {height} x {width} pixels cannot be halved "
            f"{len(mult) - 1} times after patch {patch}; use sides divisible by {grain}, "
            "a shorter channel_mult or a smaller patch."
        )
    out_channels = config.get("out_channels", channels * patch**2)
    if type(out_channels) is not int or out_channels > LARGEST:
        raise ValueError(
            f"network config: out_channels must be a whole number up to {LARGEST}, for example "
            f"{channels * patch**2}."
        )
    if out_channels < channels * patch**2:
        raise ValueError(
            f"network config: out_channels must be at least {channels * patch**2} "
            f"(image channels times patch squared), got {out_channels}."
        )
    wrapped = {k: v for k, v in config.items() if k in wrapper_options}
    try:
        model = unet(channels * patch**2, out_channels, height // patch, **options)
        return wrapper(model, config, patch, **wrapped)
    except (TypeError, RuntimeError, ArithmeticError) as error:  # PyTorch's, of odd sizes
        raise ValueError(
            "network config: its numbers make no network: channels are whole and at least 4 at "
            "every level, for example {'model_channels': 64, 'channel_mult': [1, 2, 2]}."
        ) from error


def _default(unet: Callable[..., nn.Module], name: str) -> Any:
    return inspect.signature(unet).parameters[name].default


def _grain(config: Mapping[str, Any]) -> int:
    """What the sides of an image must be divisible by."""
    mult = config.get(
        "channel_mult", _default(ARCHITECTURES[config["architecture"]], "channel_mult")
    )
    return int(config.get("patch", 1)) * 2 ** (len(mult) - 1)


def _attends(config: Mapping[str, Any]) -> bool:
    default = _default(ARCHITECTURES[config["architecture"]], "attn_resolutions")
    return len(config.get("attn_resolutions", default)) > 0


class NetworkDenoiser(Denoiser):
    """A trained network as a prior.

    Takes the network over: it is put in evaluation mode and its weights are frozen, so that
    gradients flow to `x` alone. Pass a copy of a network that is still training.

    Args:
        network: callable module `network(x, sigma) -> denoised`.
        image_shape: `(C, H, W)` of model space; read from `network.config` when omitted.
        value_range: nominal range of model space.
        autocast: dtype for the inside of the network (`torch.bfloat16`), or None.
        metadata: facts about the prior (source, training, licence), kept for provenance.
        covariance: that of the images it was trained on, where known.

    Example:
        >>> config = {"architecture": "song", "preconditioning": "edm", "model_channels": 8}
        >>> network = build_network({**config, "image_shape": (1, 16, 16)})
        >>> NetworkDenoiser(network)(torch.rand(2, 1, 16, 16), 0.5).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(
        self,
        network: nn.Module,
        image_shape: tuple[int, int, int] | None = None,
        value_range: tuple[float, float] = (-1.0, 1.0),
        *,
        autocast: torch.dtype | None = None,
        metadata: Mapping[str, Any] | None = None,
        covariance: Covariance | None = None,
    ) -> None:
        if image_shape is None:
            image_shape = checked_image_shape(getattr(network, "config", {}))
        self.network = network.eval().requires_grad_(False)
        self._grain = _grain(network.config) if isinstance(network, PreconditionedNetwork) else 1
        self.image_shape = tuple(image_shape)  # type: ignore[assignment]
        self.value_range = (float(value_range[0]), float(value_range[1]))
        self.autocast = autocast
        self.metadata = dict(metadata or {})
        self.covariance = covariance

    def for_size(self, height: int, width: int) -> NetworkDenoiser:
        """The same prior for images of another size, where the network was made for crops.

        That is one whose `attn_resolutions` are empty: it looks at the whole image in the middle
        of the U-Net at most. Sides that it cannot halve are padded on the way in: by
        reflection, or where they are too short for that by their last pixels. A covariance is of
        images of one size, and left behind.

        Raises:
            ValueError: another kind of network.
        """
        channels, *size = self.image_shape
        if [height, width] == size:
            return self
        network = self.network
        if not isinstance(network, PreconditionedNetwork) or _attends(network.config):
            raise ValueError(
                f"this prior is for {size[0]} x {size[1]} pixels, not {height} x {width}: "
                "one that is trained on crops serves every size: train it with attn_resolutions=[]."
            )
        resized = copy.copy(self)
        resized.image_shape, resized.covariance = (channels, height, width), None
        return resized

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return next(self.network.parameters()).dtype

    def checksum(self) -> str:
        """SHA-256 over names, types and values of the weights, in hexadecimal."""
        digest = hashlib.sha256()
        for name, value in self.network.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.padded(lambda x: self.network(x, sigma), x)

    def padded(self, network: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
        """`network(x, *others)` in the prior's precision, of sides that it can halve."""
        context = (
            nullcontext() if self.autocast is None else torch.autocast(x.device.type, self.autocast)
        )
        (height, width), grain = x.shape[-2:], self._grain
        images = (x, *others)
        if height % grain or width % grain:
            margins = (0, -width % grain, 0, -height % grain)
            narrow = height <= margins[3] or width <= margins[1]  # nothing left to mirror
            mode = "replicate" if narrow else "reflect"
            images = tuple(F.pad(image, margins, mode=mode) for image in images)
        with context:
            return network(*images)[..., :height, :width].to(x.dtype)

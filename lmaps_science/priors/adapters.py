"""Priors from elsewhere: any function of (x, sigma), Hugging Face diffusers' networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmaps_science.arrays import per_sample
from lmaps_science.priors.base import Denoiser
from lmaps_science.priors.latent import Decoder
from lmaps_science.priors.networks import NetworkDenoiser


class FunctionDenoiser(Denoiser):
    """A prior given by a function; see `from_function`."""

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        image_shape: tuple[int, int, int],
        value_range: tuple[float, float],
    ) -> None:
        self.function = function
        self.image_shape = image_shape
        self.value_range = value_range

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        denoised = self.function(x, per_sample(sigma, x))
        if not isinstance(denoised, Tensor) or denoised.shape != x.shape:
            got = tuple(denoised.shape) if isinstance(denoised, Tensor) else type(denoised).__name__
            raise ValueError(
                f"the function of the prior must return a tensor of shape "
                f"{tuple(x.shape)}, like its x, got {got}."
            )
        return denoised.to(x.dtype)


def from_function(
    function: Callable[[Tensor, Tensor], Tensor],
    image_shape: tuple[int, int, int],
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> FunctionDenoiser:
    """Make a prior of any denoising function, for example one of DeepInverse.

    Args:
        function: `function(x, sigma)` with `x` (B, C, H, W) and `sigma` (B, 1, 1, 1), which
            broadcasts against it, returning the denoised images; differentiable where a solver
            needs gradients.
        image_shape: `(C, H, W)`.
        value_range: nominal range of the images it was made for.

    Example:
        >>> shrink = from_function(lambda x, s: x / (1 + s**2), (1, 8, 8))
    """
    if not callable(function):
        raise TypeError(f"from_function expects a callable f(x, sigma), got {function!r}.")
    return FunctionDenoiser(function, image_shape, value_range)


class DiffusersNetwork(nn.Module):
    r"""A diffusers network as `D(x, sigma)`.

    With :math:`\alpha = 1/\sqrt{1+\sigma^2}`, :math:`s = \sigma\alpha` and
    :math:`o = F(\alpha x, t(\sigma))`:

    ======================  ============================
    `epsilon`             :math:`D = x - \sigma o`
    `v_prediction`        :math:`D = \alpha^2 x - s o`
    `sample`              :math:`D = o`
    ======================  ============================
    """

    def __init__(
        self, model: nn.Module, sigmas: Tensor, prediction: str, interpolate: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.prediction, self.interpolate = prediction, interpolate
        # float64 survives .to(dtype): the table is data, not weights.
        self._log_sigmas = np.log(sigmas.double().cpu().numpy())

    def time_step(self, sigma: Tensor) -> Tensor:
        """Time step of each noise level: linear in log sigma, held at the ends of the table."""
        levels = sigma.detach().double().log().cpu().numpy()
        steps = np.interp(levels, self._log_sigmas, np.arange(len(self._log_sigmas)))
        if not self.interpolate:
            steps = np.abs(levels[:, None] - self._log_sigmas).argmin(axis=1).astype(float)
        return torch.as_tensor(steps, device=sigma.device)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        steps = self.time_step(sigma)
        steps = steps.float() if self.interpolate else steps.long()
        sigma = sigma[:, None, None, None]
        alpha = (1 + sigma**2).rsqrt()
        weights = next(self.model.parameters()).dtype
        output = self.model((alpha * x).to(weights), steps).sample[:, : x.shape[1]].to(x.dtype)
        if self.prediction == "epsilon":
            return x - sigma * output
        if self.prediction == "v_prediction":
            return alpha**2 * x - sigma * alpha * output
        return output


def from_diffusers(
    unet: Any,
    scheduler: Any,
    *,
    value_range: tuple[float, float] = (-1.0, 1.0),
    interpolate: bool = True,
) -> NetworkDenoiser:
    """Make a prior of an unconditional Hugging Face diffusers network and its scheduler.

    Args:
        unet: `diffusers.UNet2DModel` or alike.
        scheduler: any diffusers scheduler with `alphas_cumprod` (DDPM, DDIM, Euler, ...).
        value_range: nominal range of model space.
        interpolate: use fractional time steps between those of the training; otherwise the
            nearest one.

    Raises:
        ValueError: a conditional network, another kind of scheduler or of prediction.

    Example:
        >>> pipe = DDPMPipeline.from_pretrained("...")            # doctest: +SKIP
        >>> prior = from_diffusers(pipe.unet, pipe.scheduler)     # doctest: +SKIP
    """
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None:
        raise ValueError(
            f"{type(scheduler).__name__} has no alphas_cumprod, so its time steps have no noise "
            "level; use the scheduler of the training, for example DDPMScheduler.from_config(...)."
        )
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(
            f"unknown prediction_type {prediction!r}; known: epsilon, v_prediction, sample."
        )
    config = unet.config
    if config.get("num_class_embeds") or config.get("class_embed_type"):
        raise ValueError("the network is class-conditional; a prior has no class to give it.")
    size = config.get("sample_size")
    if size is None:
        raise ValueError(
            "the network's configuration lacks sample_size, so its image shape is "
            "unknown; set it, for example unet.register_to_config(sample_size=64)."
        )
    height, width = (size, size) if isinstance(size, int) else size
    alphas = torch.as_tensor(alphas, dtype=torch.float64)
    alphas = alphas[alphas > 0]  # a zero-terminal-SNR schedule ends at infinite sigma
    network = DiffusersNetwork(unet, ((1 - alphas) / alphas).sqrt(), prediction, interpolate)
    description = f"diffusers {type(unet).__name__}, {prediction}"
    shape = (int(config["in_channels"]), int(height), int(width))
    return NetworkDenoiser(network, shape, value_range, metadata={"description": description})


class _DiffusersAutoencoder(nn.Module):
    """An AutoencoderKL or VQModel, tensor to tensor: the mode of the latents, decoded images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def encode(self, x: Tensor) -> Tensor:
        found: Any = self.model.encode(x)  # type: ignore[operator]
        latents: Tensor = found.latent_dist.mode() if "latent_dist" in found else found.latents
        return latents

    def decode(self, z: Tensor) -> Tensor:
        """A VQModel rounds latents to its codes first; their gradient passes straight through."""
        found: Tensor = self.model.decode(z).sample  # type: ignore[operator]
        return found


def from_diffusers_autoencoder(
    autoencoder: Any, size: int | tuple[int, int] | None = None
) -> Decoder:
    r"""Make the decoder of latents of a diffusers AutoencoderKL or VQModel, and its encoder.

    .. math:: x = D(z / a + b), \quad z = (E(x) - b)\, a

    with the configuration's `scaling_factor` a and `shift_factor` b, as its pipelines have them.
    With a prior of these latents it makes a `LatentPrior`.

    Args:
        autoencoder: `diffusers.AutoencoderKL`, `diffusers.VQModel`.
        size: height and width of the images; default: `sample_size` of the configuration.

    Raises:
        TypeError: another kind of object.
        ValueError: a size that it cannot halve, or images of other channels than it takes.

    Example:
        >>> vae = AutoencoderKL.from_pretrained("...")            # doctest: +SKIP
        >>> prior = LatentPrior(from_diffusers(unet, scheduler),  # doctest: +SKIP
        ...     from_diffusers_autoencoder(vae, 256))
    """
    config = getattr(autoencoder, "config", {})
    if not isinstance(autoencoder, nn.Module) or "latent_channels" not in config:
        raise TypeError(
            f"from_diffusers_autoencoder takes an AutoencoderKL or a VQModel of diffusers, got "
            f"{type(autoencoder).__name__}."
        )
    size = config.get("sample_size") if size is None else size
    if size is None:
        raise ValueError("the configuration lacks sample_size; give size, e.g. size=256.")
    height, width = (size, size) if isinstance(size, int) else size
    if config["in_channels"] != config["out_channels"]:
        raise ValueError(
            f"the autoencoder takes images of {config['in_channels']} channels and gives "
            f"{config['out_channels']}: its decoder does not undo its encoder."
        )
    network = _DiffusersAutoencoder(autoencoder).eval()
    shape = (int(config["in_channels"]), int(height), int(width))
    weights = next(autoencoder.parameters())
    with torch.no_grad():
        image = torch.zeros(1, *shape, dtype=weights.dtype, device=weights.device)
        latents = network.encode(image)
        decoded = tuple(network.decode(latents).shape[1:])
    if decoded != shape:
        raise ValueError(
            f"images of {height} x {width} pixels come back as {decoded[1]} x {decoded[2]}: the "
            "autoencoder halves sides; give a size divisible by a power of two, e.g. size=256."
        )
    shift = config.get("shift_factor") or 0.0
    description = f"diffusers {type(autoencoder).__name__}"
    return Decoder(
        network,
        tuple(latents.shape[1:]),
        shape,
        float(config.get("scaling_factor") or 1.0),
        float(shift),
        {"description": description},
    )

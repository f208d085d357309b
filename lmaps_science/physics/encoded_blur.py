r"""Blur by a network that was trained on pairs of sharp and blurred photographs.

The network of published comparisons of nonlinear deblurring (DPS, DAPS, LMAPS). A code k stands for
the blur, which differs from place to place; drawn at random, it gives blurs like those of the
training's videos. Names follow the published state dicts.

Source: Tran et al. 2021, "Explore Image Deblurring via Encoded Blur Kernel Space",
arXiv:2104.00317; codes as in Chung et al. 2023, arXiv:2209.14687.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmaps_science.io.files import DataError, require_file
from lmaps_science.io.pytorch import read_tensors, require_stored
from lmaps_science.operators import Operator
from lmaps_science.priors.state_dicts import filled, unwrapped

__all__ = ["BlurNetwork", "EncodedBlur", "load_blur_network"]

Shape = tuple[int, ...]

_ENCODER = "kernel_extractor."  # pairs of pictures to codes: a known blur does without
_DEEPEST = 9  # levels of the U-Net, 5 in those that are published
_ADVICE = (
    "The network is that of https://github.com/VinAIResearch/blur-kernel-space-exploring, whose "
    "page links to GOPRO_wVAE.pth: give that file, or the state dict of one like it."
)


class _Residual(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.conv2(F.relu(self.conv1(x)))
        return found


class _Level(nn.Module):
    """One level of the U-Net: halves the features, adds what the level below makes, doubles.

    The lowest level meets the code; all but the first pass their input on beside the result.
    """

    def __init__(self, outer: int, inner: int, below: _Level | None, first: bool) -> None:
        super().__init__()
        halve = nn.Conv2d(outer, inner, 4, stride=2, padding=1, bias=False)
        double = nn.ConvTranspose2d(2 * inner, outer, 4, stride=2, padding=1, bias=first)
        self.first = first
        self.down = nn.Sequential(*([halve] if first else [nn.Identity(), halve]))
        self.submodule = below
        self.up = nn.Sequential(nn.ReLU(), double)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        if not self.first:
            # What is passed on is rectified, too: the published activation works in place.
            x = F.leaky_relu(x, 0.2)
        inside = self.down(x)
        below = (
            torch.cat((inside, code), 1) if self.submodule is None else self.submodule(inside, code)
        )
        found: Tensor = self.up(below)
        return found.tanh() if self.first else torch.cat((found, x), 1)


class _Adapter(nn.Module):
    """The U-Net under the name that it has in the files."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        level: _Level | None = None
        for depth in reversed(range(len(widths) - 1)):
            level = _Level(widths[depth], widths[depth + 1], level, depth == 0)
        self.model = level

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        assert self.model is not None
        found: Tensor = self.model(x, code)
        return found


class BlurNetwork(nn.Module):
    r"""A sharp picture and the code of a blur to the blurred picture, both about [0, 1].

    .. math:: F(x, k) = x + R(G(E(x), k))

    with features E(x) of a quarter of the size, a U-Net G whose lowest level takes the code, and
    the way back R.

    Args:
        width: channels of the features.
        front, back: residual blocks of E and of R.
        levels: of the U-Net, 2 or more.

    Attributes:
        factor: by which the picture's sides must be divisible, 128 for five levels.
        code_channels: of the code, (B, code_channels, H / factor, W / factor).
    """

    def __init__(self, width: int = 64, front: int = 10, back: int = 20, levels: int = 5) -> None:
        super().__init__()
        leaky = nn.LeakyReLU(0.1)
        features: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), leaky]
        for _ in range(2):
            features += [nn.Conv2d(width, width, 3, stride=2, padding=1), leaky]
        self.feature_extractor = nn.Sequential(*features, *(_Residual(width) for _ in range(front)))
        widths = [width, *(width * min(2**depth, 8) for depth in range(levels))]
        self.adapter = _Adapter(widths)
        way_back: list[nn.Module] = [_Residual(width) for _ in range(back)]
        for _ in range(2):
            way_back += [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), leaky]
        way_back += [
            nn.Conv2d(width, width, 3, padding=1),
            leaky,
            nn.Conv2d(width, 3, 3, padding=1),
        ]
        self.recon_trunk = nn.Sequential(*way_back)
        self.code_channels, self.factor = widths[-1], 4 * 2**levels

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """F(x, k) of pictures (B, 3, H, W) and codes (B, code_channels, H / factor, W / factor)."""
        features = self.adapter(self.feature_extractor(x), code)
        found: Tensor = x + self.recon_trunk(features)
        return found


class EncodedBlur(Operator):
    r"""Blur by a network, of a random code.

    .. math:: y = clip(F(x, k), 0, 1), \qquad k \sim N(0, s^2)

    on pictures in [0, 1]. What is clipped has no gradient. For a picture of 256 x 256 and seed 0
    the code is the one that DAPS uses, of 512 x 2 x 2 numbers; larger pictures have more of them,
    512 for every 128 x 128 pixels.

    Source: Tran et al. 2021, arXiv:2104.00317; Zhang et al. 2024, arXiv:2407.01521 (DAPS).

    Args:
        network: F; taken over, in evaluation mode, with frozen weights.
        image_shape: (3, H, W), sides divisible by `network.factor`.
        seed: of the code.
        spread: s, the papers' 1.2.

    Raises:
        ValueError: sides that the network cannot halve so often, or other than three channels.
    """

    def __init__(
        self, network: BlurNetwork, image_shape: Shape, seed: int = 0, spread: float = 1.2
    ):
        channels, height, width = image_shape
        factor = network.factor
        if channels != 3:
            raise ValueError(f"EncodedBlur: {channels} channels, expected 3: red, green and blue.")
        if height % factor or width % factor or not height * width:
            sides = [max(factor, factor * round(n / factor)) for n in (height, width)]
            raise ValueError(
                f"EncodedBlur: the network halves a picture until {factor} pixels are one, so its "
                f"sides must be multiples of {factor}, and this one has {height} x {width}. "
                f"Crop or resize it, e.g. to {sides[0]} x {sides[1]}."
            )
        shape = (network.code_channels, height // factor, width // factor)
        # The old generator, so that seed 0 is the published comparisons' code.
        code = spread * np.random.RandomState(seed).standard_normal(shape)
        self.network = network.eval().requires_grad_(False)
        self.code = torch.as_tensor(code).to(next(network.parameters()))
        self.image_shape = self.data_shape = (channels, height, width)

    def _forward(self, x: Tensor) -> Tensor:
        code = self.code.expand(len(x), -1, -1, -1)
        blurred: Tensor = self.network(x, code)
        return blurred.clamp(0, 1)

    def _tensors(self) -> list[Tensor]:
        return [self.code, *self.network.parameters()]


def load_blur_network(path: str | Path, dtype: torch.dtype = torch.float32) -> BlurNetwork:
    """The network in a published file such as GOPRO_wVAE.pth; nothing stored inside is run.

    How wide and deep it is, is read from the weights; those that make codes of pictures are left
    out.

    Args:
        path: a PyTorch file of a state dict.
        dtype: of the network.

    Raises:
        DataError: no such file, a damaged one, weights of another network, or of one whose codes
            follow no known distribution (trained without the variational term).
    """
    path = require_file(path)
    content = read_tensors(path, _ADVICE)
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise DataError(f"{path} holds no state dict (names mapped to tensors). {_ADVICE}")
    state = {unwrapped(str(name)): value for name, value in content.items()}
    require_stored(path, state, "torch.save(network.state_dict(), path)")
    needed = {name: value for name, value in state.items() if not name.startswith(_ENCODER)}
    try:
        with torch.device("meta"):
            network = BlurNetwork(**_sizes(needed))
        _check_codes(state, network.code_channels)
        return filled(network, needed, dtype, "the network of encoded blurs", _ADVICE)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The arguments of the network that has these weights."""
    first = state.get("feature_extractor.0.weight")
    if first is None or first.ndim != 4 or first.shape[1:] != (3, 3, 3) or len(first) == 0:
        some = ", ".join(name[:60] for name in list(state)[:3]) or "nothing"
        raise ValueError(
            "these are the weights of another network: feature_extractor.0.weight, of shape "
            f"(width, 3, 3, 3), is not among them; they begin with {some}. {_ADVICE}"
        )
    blocks = [re.fullmatch(r"(\w+)\.\d+\.conv1\.weight", name) for name in state]
    parts = [found[1] for found in blocks if found]
    deepest = max(name.count("submodule.") for name in state)
    return {
        "width": len(first),
        "front": parts.count("feature_extractor"),
        "back": parts.count("recon_trunk"),
        "levels": min(max(1 + deepest, 2), _DEEPEST),
    }


def _check_codes(state: Mapping[str, Tensor], channels: int) -> None:
    """Refuse a network whose encoder gives codes alone, without the variance of a distribution."""
    ends = [
        v for name, v in state.items() if re.fullmatch(rf"{_ENCODER}.*conv_block.*weight", name)
    ]
    if ends and ends[-1].shape[:1] == (channels,):
        raise ValueError(
            "it was trained without the variational term (woVAE), so a random code is none of its "
            "codes, and the picture it makes no blurred one. Give GOPRO_wVAE.pth."
        )

"""Crops of photographs that come with packages: what the prior of restoration is trained on.

Debian's `plasma-workspace-wallpapers`, `mate-backgrounds` and `lomiri-wallpapers-16.04`/`-20.04`
(free licences, named in the model card; what is drawn and not photographed is left out), and the
sample pictures of scikit-image, scikit-learn and matplotlib. The photographs of `HELD_OUT` are
never trained on.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmaps_science.io import DataError

__all__ = ["HELD_OUT", "NUMBER", "Photographs", "held_out_photograph"]

_FILES = {  # in each package: the names, and where one is
    "plasma-workspace-wallpapers": (
        "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite "
        "OneStandsOut Path summer_1am",
        "usr/share/wallpapers/{}/contents/images/2560x1600.jpg",
    ),
    "mate-backgrounds": (
        "Aqua Blinds Dune Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower",
        "usr/share/backgrounds/mate/nature/{}.jpg",
    ),
    "lomiri-wallpapers-16.04": (
        "Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace "
        "Picture_1A_by_freespace Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi "
        "free_by_Peter_Nerlich friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich "
        "life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi "
        "seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi",
        "usr/share/backgrounds/{}.jpg",
    ),
    "lomiri-wallpapers-20.04": ("Kleiber_by_Lukas_Baubkus", "usr/share/backgrounds/{}.jpg"),
}
_SAMPLES = {  # in each Python package: the distribution, the files, and their folder
    "skimage": (
        "scikit-image",
        "astronaut.png chelsea.png coffee.png rocket.jpg motorcycle_left.png camera.png brick.png "
        "grass.png gravel.png",
        "data",
    ),
    "sklearn": ("scikit-learn", "china.jpg flower.jpg", "datasets/images"),
    "matplotlib": ("matplotlib", "grace_hopper.jpg", "mpl-data/sample_data"),
}
_INSTALL = (
    f"apt-get install {' '.join(_FILES)}; pip install "
    f"{' '.join(distribution for distribution, _, _ in _SAMPLES.values())}"
)
HELD_OUT = (
    "grace_hopper",
    "astronaut",
    "chelsea",
    "coffee",
    "china",
    "EveningGlow",
    "ColorfulCups",
    "LadyBird",
    "Garden",
    "life_by_Aitzol_Berasategi",
    "Picture_1A_by_freespace",
    "friends_by_Aitzol_Berasategi",
)
"""Photographs that no prior has seen, by name; the first is there wherever matplotlib is."""

NUMBER = 5 * len(HELD_OUT)
"""How many there are to restore, see `held_out_photograph`."""

_LONGEST = 1600  # pixels of the shorter side that are kept


@dataclass(frozen=True, eq=False)
class Photographs:
    """Square RGB crops of photographs in [0, 1], (n, 3, npix, npix): `batch(start, count)`.

    Item k is of a random photograph, reduced by a random factor, flipped at random, of slightly
    changed exposure and colour balance; a tenth has lost its colour.

    Args:
        npix: pixels along a side.
        seed: of the crops.
        held_out: those of the photographs in `HELD_OUT`, as they are, instead of the others.
        root: where Debian's packages lie, should they not be installed but unpacked.
    """

    npix: int = 64
    seed: int = 0
    held_out: bool = False
    root: str = "/"
    value_range = (0.0, 1.0)

    @cached_property
    def pyramids(self) -> list[list[Tensor]]:
        """Each photograph, (3, H, W) of bytes, and its halves down to `npix`."""
        return [_pyramid(read_photograph(path), self.npix) for path in self._paths()]

    def batch(self, start: int, count: int) -> np.ndarray:
        """Items `start` to `start + count - 1`, float32."""
        crops = [
            self._crop(np.random.default_rng([0xF070, self.seed, k]))
            for k in range(start, start + count)
        ]
        return torch.stack(crops).numpy()

    def _paths(self) -> list[Path]:
        paths = photographs(self.root)
        missing = [name for name, path in paths.items() if not path.is_file()]
        if missing and not self.held_out:
            raise DataError(
                f"there is no photograph {missing[0]}: those to train on come with packages. "
                f"Example: {_INSTALL}."
            )
        return [p for n, p in paths.items() if (n in HELD_OUT) == self.held_out and p.is_file()]

    def _crop(self, rng: np.random.Generator) -> Tensor:
        pyramid = self.pyramids[rng.integers(len(self.pyramids))]
        most = min(pyramid[0].shape[1:]) / self.npix
        # Photographs are soft at their own resolution: by two at least, where they have it.
        factor = math.exp(rng.uniform(math.log(min(2.0, most)), math.log(most)))
        level = min(int(math.log2(factor) + 1e-9), len(pyramid) - 1)
        image, side = pyramid[level], round(self.npix * factor / 2**level)
        side = min(side, *image.shape[1:])
        top, left = (int(rng.integers(n - side + 1)) for n in image.shape[1:])
        crop = image[:, top : top + side, left : left + side].float()[None] / 255
        crop = _reduced(crop, self.npix)
        if rng.random() < 0.5:
            crop = crop.flip(-1)
        return crop if self.held_out else _developed(crop, rng).clamp(0, 1)


def photographs(root: str = "/") -> dict[str, Path]:
    """Where each photograph should lie, by name."""
    found = {
        name: Path(root) / place.format(name)
        for names, place in _FILES.values()
        for name in names.split()
    }
    for package, (distribution, names, folder) in _SAMPLES.items():
        spec = importlib.util.find_spec(package)
        places = (spec and spec.submodule_search_locations) or [f"(no {distribution})"]
        for name in names.split():
            found[Path(name).stem] = Path(places[0]) / folder / name
    return found


def held_out_photograph(index: int, npix: int) -> np.ndarray:
    """A photograph on which the prior was not trained, (3, npix, npix) in [0, 1].

    Photograph `index % 12` of `HELD_OUT`: the first twelve are the largest squares in the middle,
    the next ones squares of half their side, from its corners.

    Raises:
        IndexError: below 0, or 60 and above.
        DataError: the package that it comes with is not installed.
    """
    part, number = divmod(index, len(HELD_OUT))
    if not 0 <= index < NUMBER:
        raise IndexError(f"there are {NUMBER} photographs")
    name = HELD_OUT[number]
    path = photographs()[name]
    if not path.is_file():
        raise DataError(
            f"photograph:{index} is {name}, of a package that is not installed ({path}). Take "
            f"photograph:0, which is always there, a file of yours, or install it: {_INSTALL}."
        )
    image = read_photograph(path)
    side = min(image.shape[1:])
    top, left = ((n - side) // 2 for n in image.shape[1:])
    if part:
        side //= 2
        top, left = top + side * ((part - 1) // 2), left + side * ((part - 1) % 2)
    crop = image[:, top : top + side, left : left + side].float()[None] / 255
    return _reduced(crop, npix).clamp(0, 1).numpy()


def _reduced(crop: Tensor, npix: int) -> Tensor:
    return F.interpolate(crop, size=(npix, npix), mode="bilinear", antialias=True)[0]


def read_photograph(path: Path) -> Tensor:
    """A picture as bytes (3, H, W), at most 1600 pixels along the shorter side."""
    from PIL import Image

    with Image.open(path) as picture:
        factor = min(1.0, _LONGEST / min(picture.size))
        width, height = (round(n * factor) for n in picture.size)
        pixels = np.asarray(picture.convert("RGB").resize((width, height), Image.Resampling.BOX))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _pyramid(image: Tensor, npix: int) -> list[Tensor]:
    levels = [image]
    while min(levels[-1].shape[1:]) >= 2 * npix:
        levels.append(F.avg_pool2d(levels[-1].float(), 2).round().to(torch.uint8))
    return levels


def _developed(crop: Tensor, rng: np.random.Generator) -> Tensor:
    """The same light through another camera: gain, contrast, white balance, no colour."""
    gamma = math.exp(rng.normal(0.0, 0.15))
    gains = torch.tensor(np.exp(rng.normal(0.0, 0.05, 3) + rng.normal(0.0, 0.15)))
    crop = gains.float()[:, None, None] * crop.clamp_min(1e-4) ** gamma
    return crop.mean(0, keepdim=True).expand(3, -1, -1) if rng.random() < 0.1 else crop

"""What tissues look like in MR sequences: the textbook signal equations, with random settings.

Source: Bernstein, King, Zhou, Handbook of MRI Pulse Sequences (2004), chapters 14.1 to 14.3; the
relaxation times are rounded values for 1.5 to 3 T.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmaps_science.problems.mri.drawing import Contrast

__all__ = ["TISSUES", "head_contrast", "random_sequence", "sequence_signal", "tissue_contrast"]

# proton density, T1 and T2 in seconds
TISSUES = {
    "fluid": (1.00, 4.0, 1.5),
    "grey": (0.82, 1.2, 0.10),
    "white": (0.70, 0.75, 0.08),
    "muscle": (0.75, 1.1, 0.04),
    "fat": (0.90, 0.30, 0.09),
}
# share, then the ranges of repetition, inversion (0: none) and echo time in seconds
SEQUENCES = {
    "T1 spin echo": (0.25, (0.4, 0.8), (0.0, 0.0), (0.008, 0.02)),
    "T1 inversion": (0.25, (1.8, 2.6), (0.75, 1.1), (0.002, 0.005)),
    "T2": (0.22, (3.0, 6.0), (0.0, 0.0), (0.07, 0.13)),
    "proton density": (0.10, (2.0, 5.0), (0.0, 0.0), (0.01, 0.03)),
    "FLAIR": (0.18, (7.0, 10.0), (2.2, 2.6), (0.09, 0.14)),
}


def sequence_signal(
    tissues: NDArray[np.float64], repetition: float, inversion: float, echo: float
) -> NDArray[np.float64]:
    """Magnitude for each row (density, T1, T2), with times in seconds.

    `density |1 - 2 exp(-TI / T1) + exp(-TR / T1)| exp(-TE / T2)`; without inversion (TI = 0) the
    middle term is `- 2 exp(-TR / T1)`, that is 1 - exp(-TR / T1).
    """
    density, t1, t2 = tissues.T
    inverted = np.exp(-(inversion or repetition) / t1)
    recovered = 1 - 2 * inverted + np.exp(-repetition / t1)
    return density * np.abs(recovered) * np.exp(-echo / t2)


def random_sequence(rng: np.random.Generator) -> Tensor:
    """Signals of `TISSUES` in a sequence of a random kind and settings; the brightest is 1."""
    table = np.array(list(TISSUES.values()))
    table = table * np.exp(rng.normal(0, [0.04, 0.12, 0.12], table.shape))
    shares = np.array([kind[0] for kind in SEQUENCES.values()])
    kind = list(SEQUENCES.values())[rng.choice(len(shares), p=shares / shares.sum())]
    signal = sequence_signal(table, *(rng.uniform(*bounds) for bounds in kind[1:]))
    if rng.random() < 0.3:  # fat saturation
        signal[-1] *= rng.uniform(0, 0.3)
    return torch.tensor(signal / signal.max(), dtype=torch.float32)


def head_contrast(signals: Tensor, levels: tuple[float, float, float]) -> Contrast:
    """Signal of a T1-weighted head, whose layers are its intensity, share of brain and of fat.

    In the brain, an intensity between the `levels` of fluid, grey and white matter is a mixture
    of two of them; elsewhere the signal is proportional to it, as muscle's or as fat's.
    """
    fluid, grey, white, muscle, fat = signals.tolist()

    def contrast(layers: Tensor) -> Tensor:
        intensity, brain, share = layers
        mixed = np.interp(intensity.numpy(), levels, (fluid, grey, white))
        inside = torch.from_numpy(mixed.astype(np.float32))
        outside = intensity * (muscle / 0.4 * (1 - share) + fat / 0.8 * share)
        return brain * inside + (1 - brain) * outside

    return contrast


def tissue_contrast(signals: Tensor) -> Contrast:
    """Signal of fractions of grey matter, white matter and fluid."""
    weights = signals[[1, 2, 0]][:, None, None]
    return lambda layers: (weights * layers).sum(0)

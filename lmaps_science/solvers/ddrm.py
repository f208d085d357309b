r"""Denoising diffusion restoration models (DDRM).

Source: Kawar et al. 2022, "Denoising Diffusion Restoration Models", eq. 7 and 8, which are in
noise-level notation; equations cited line by line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from lmaps_science.noise import VP, SampleNoise
from lmaps_science.sampling import InverseProblem, Solver, State
from lmaps_science.search import Range, Space
from lmaps_science.solvers.spectral import Spectrum, spectrum

__all__ = ["DDRM"]


@dataclass(frozen=True)
class DDRM(Solver):
    r"""Put the data in place of the noise, coefficient by coefficient of the operator's SVD.

    A coefficient whose datum is less noisy than the next level, `sigma_y / s <= sigma_{i+1}`, is
    drawn around it; for the others a part of the noise comes from the data, or from x where there
    are none. Seen from the true image, the noise of every level is white: the denoiser meets what
    it was trained on.

    Known bias: each level's datum is the same one, however often it is used, so that samples
    repeat a part of its noise: beside an exact posterior (`toys.inpainting`) a measured pixel
    spreads by 0.57 of what it should, one that is not measured by 0.8.

    Args:
        levels: noise levels T; the paper's 20 serve well.
        eta: share of fresh noise where the data are noisier than the image.
        eta_data: eta_b, weight of the data against the denoised image where they are less noisy.
        time_min: end of the variance-preserving schedule with linear beta.

    Example:
        >>> from lmaps_science import load_problem, sample
        >>> changes = {"picture.npix": 16}
        >>> problem = load_problem("restoration/random", prior="gaussian", overrides=changes)
        >>> sample(problem, DDRM(levels=5), n_samples=2, progress=False).samples.shape
        (2, 3, 16, 16)
    """

    levels: int = 20
    eta: float = 0.85
    eta_data: float = 1.0
    time_min: float = 1e-3
    requires = frozenset({"gaussian", "svd"})
    search: ClassVar[Space] = {"eta": Range(0.0, 1.0), "eta_data": Range(0.0, 1.0)}

    def __post_init__(self) -> None:
        if not (0 <= self.eta <= 1 and 0 <= self.eta_data <= 1):
            raise ValueError(
                f"DDRM needs 0 <= eta <= 1 and 0 <= eta_data <= 1, got eta={self.eta}, eta_data="
                f"{self.eta_data}."
            )
        super().__post_init__()

    @property
    def schedule(self) -> VP:
        return VP(self.levels, time_min=self.time_min)

    def prepare(self, problem: InverseProblem) -> Spectrum:
        return spectrum(problem)

    def init(self, problem: InverseProblem, noise: SampleNoise) -> State:
        pure, data = super().init(problem, noise), problem.prepared
        sigma = float(self.sigmas[0])
        c = data.operator.Vt(pure.x)  # eq. 7
        keep = (1 - (data.noise / sigma) ** 2).clamp_min(0).sqrt()
        drawn = torch.where(data.noise < sigma, data.data + keep * c, c)
        return State(x=pure.x + data.operator.V(drawn - c), estimate=pure.estimate)

    def step(self, i: int, state: State, problem: InverseProblem, noise: SampleNoise) -> State:
        sigma, after = float(self.sigmas[i]), float(self.sigmas[i + 1])
        data, denoised = problem.prepared, problem.prior(state.x, sigma)
        fresh = noise.normal(denoised, 1, i)
        old = (1 - self.eta**2) ** 0.5 * after
        # eq. 8, first line: no data, the noise of x goes on
        x = denoised + old * (state.x - denoised) / sigma + self.eta * after * fresh
        d, n, base = (data.operator.Vt(image) for image in (denoised, fresh, x))
        # second line: data noisier than the level; their own noise goes on
        noisy = d + old * (data.data - d) / data.noise + self.eta * after * n
        # third line: data less noisy than the level; noise is added to them
        left = (after**2 - (self.eta_data * data.noise) ** 2).clamp_min(0).sqrt()
        clean = d + self.eta_data * (data.data - d) + left * n
        drawn = torch.where(data.noise <= after, clean, torch.where(data.seen, noisy, base))
        return State(x=x + data.operator.V(drawn - base), estimate=denoised)

"""Data misfits: L(x) = -log p(y | x) up to a constant, and its gradient, per sample.

A misfit owns the data and the noise model; its operator says what an image would have measured. It
is stated on the operator's images: `misfit @ affine` is the same misfit on model space.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lmaps_science.arrays import Movable, check_finite, check_positive, check_shape, real_dtype
from lmaps_science.metrics import chi2, phase_chi2
from lmaps_science.operators import Operator

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ClosureMisfit", "GaussianMisfit", "Misfit"]


class Misfit(Movable):
    """-log p(y | x) + const. A subclass sets `operator` and writes `_loss` on the predicted data.

    `objective_scale` times L is the objective that published step sizes refer to.
    """

    operator: Operator
    objective_scale: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """L of each image: (B, C, H, W) -> (B,)."""
        return self._loss(self.operator(x))[0]

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of L, like `x`, and values (B,), from one forward and one adjoint pass."""
        predicted, pull = self.operator.pullback(x)
        values, slope = self._loss(predicted)
        return pull(slope), values

    def _loss(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Values (B,) and the derivative by the predicted data, like `predicted`."""
        raise NotImplementedError(f"{type(self).__name__} must define _loss(predicted).")

    def __matmul__(self, other: Operator) -> Misfit:
        """`(misfit @ map)(z) == misfit(map(z))`, e.g. on model space or a latent space."""
        if not isinstance(other, Operator):
            return NotImplemented
        composed = copy.copy(self)
        composed.operator = self.operator @ other
        return composed

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.operator!r})"


class GaussianMisfit(Misfit):
    """L(x) = sum |y - H(x)|^2 / (2 variance), `variance` that of a real number of the data.

    `y` is (1, ...) or (B, ...), real or complex, like the operator's data; `sigma` > 0 a number or
    a tensor that broadcasts against `y`, with sigma^2 = E |n|^2. A real datum has the variance
    sigma^2, the real and the imaginary part of a complex one sigma^2 / 2 each. `objective_scale` is
    the variance (its mean): the scaled misfit is half the squared residual. Raises ValueError for
    non-finite `y`, for `sigma` that is not finite and positive, and for a wrong shape.
    """

    def __init__(self, operator: Operator, y: Tensor, sigma: float | Tensor):
        owner = type(self).__name__
        if operator.data_shape is not None:
            check_shape(owner, "y", y, ("B", *operator.data_shape))
        check_finite(owner, "y", y)
        self.operator, self.y = operator, y
        self.sigma = torch.as_tensor(sigma, dtype=real_dtype(y.dtype), device=y.device)
        check_positive(owner, "sigma", self.sigma)
        try:
            torch.broadcast_shapes(y.shape, self.sigma.shape)
        except RuntimeError as error:
            raise ValueError(
                f"{owner}: sigma of shape {tuple(self.sigma.shape)} does not fit y of shape "
                f"{tuple(y.shape)}: give one number, or one for each datum, e.g. sigma[None]."
            ) from error
        self.objective_scale = float(self.variance.mean())

    @property
    def variance(self) -> Tensor:
        """Of a real datum, and of the real and the imaginary part of a complex one; like sigma."""
        return self.sigma**2 / (2 if self.y.is_complex() else 1)

    def _loss(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        residual = predicted - self.y
        slope = residual / self.variance
        return 0.5 * (residual.conj() * slope).real.flatten(1).sum(1), slope


class ClosureMisfit(Misfit):
    """Misfit of closure phases, log closure amplitudes and, when it is known, the total flux.

        L = 1/2 (w_cp n_cp chi2_cp + w_ca n_ca chi2_ca + w_flux chi2_flux)
        chi2_cp   = 2 mean (1 - cos(theta - theta_obs)) / sigma^2
        chi2_ca   = mean ((A - A_obs) / sigma)^2
        chi2_flux = ((F - F_obs) / flux_sigma)^2

    `operator` maps images to (theta, A, F) side by side, (B, n_cp + n_ca + 1). Observed values and
    standard deviations are vectors (n_cp,) and (n_ca,); `flux` and `flux_sigma` are in the image's
    unit of flux. With the default weights, 4 L is the data misfit of the InverseBench benchmark
    (Zheng et al. 2025). Raises ValueError for data that are not finite, deviations that are not
    positive, lengths that do not fit the operator, and an observation without any closure.
    """

    objective_scale = 4.0

    def __init__(
        self,
        operator: Operator,
        cphase: ArrayLike,
        cphase_sigma: ArrayLike,
        logcamp: ArrayLike,
        logcamp_sigma: ArrayLike,
        flux: float | None = None,
        flux_sigma: float = 2.0,
        weights: tuple[float, float, float] = (1.0, 1.0, 0.5),
    ):
        def vector(name: str, values: ArrayLike) -> Tensor:
            tensor = values if isinstance(values, Tensor) else torch.tensor(np.asarray(values))
            tensor = tensor.to(operator.like)
            check_shape("ClosureMisfit", name, tensor, ("n",))
            (check_positive if name.endswith("sigma") else check_finite)(
                "ClosureMisfit", name, tensor
            )
            return tensor

        self.operator, self.weights = operator, weights
        self.cphase, self.cphase_sigma = (
            vector("cphase", cphase),
            vector("cphase_sigma", cphase_sigma),
        )
        self.logcamp = vector("logcamp", logcamp)
        self.logcamp_sigma = vector("logcamp_sigma", logcamp_sigma)
        self.flux = None if flux is None else vector("flux", [flux])
        self.flux_sigma = vector("flux_sigma", [flux_sigma])
        self._check_lengths()

    @classmethod
    def from_observation(
        cls, operator: Operator, observation: xr.Dataset, multiplier: float = 1.0, **options: Any
    ) -> ClosureMisfit:
        """Misfit of an observation for images in units of `multiplier` Jy per pixel."""
        names = ("cphase", "cphase_sigma", "logcamp", "logcamp_sigma")
        flux = float(observation["flux"]) / multiplier if "flux" in observation else None
        cphase, cphase_sigma, logcamp, logcamp_sigma = (observation[name].values for name in names)
        return cls(operator, cphase, cphase_sigma, logcamp, logcamp_sigma, flux, **options)

    def chi2(self, x: Tensor) -> dict[str, Tensor]:
        """Raw reduced chi2 of each image, (B,): `cphase`, `logcamp`, `flux`, where observed."""
        theta, amplitude, flux = self._split(self.operator(x))
        terms = {}
        if len(self.cphase):
            terms["cphase"] = phase_chi2(theta, self.cphase, self.cphase_sigma)
        if len(self.logcamp):
            terms["logcamp"] = chi2(amplitude, self.logcamp, self.logcamp_sigma)
        if self.flux is not None:
            terms["flux"] = chi2(flux, self.flux, self.flux_sigma)
        return terms

    def _loss(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        theta, amplitude, flux = self._split(predicted)
        d_theta, d_amplitude = theta - self.cphase, amplitude - self.logcamp
        d_flux = flux - self.flux if self.flux is not None else torch.zeros_like(flux)
        w_phase = self.weights[0] / self.cphase_sigma**2
        by_amplitude = self.weights[1] / self.logcamp_sigma**2 * d_amplitude
        by_flux = self.weights[2] / self.flux_sigma**2 * d_flux
        values = (
            2 * (w_phase * (d_theta / 2).sin() ** 2).sum(1)  # 1 - cos d, without cancellation
            + 0.5 * (d_amplitude * by_amplitude).sum(1)
            + 0.5 * (d_flux * by_flux).sum(1)
        )
        return values, torch.cat([w_phase * d_theta.sin(), by_amplitude, by_flux], dim=1)

    def _split(self, predicted: Tensor) -> tuple[Tensor, ...]:
        return predicted.split([len(self.cphase), len(self.logcamp), 1], dim=1)

    def _check_lengths(self) -> None:
        n_cp, n_ca = len(self.cphase), len(self.logcamp)
        if len(self.cphase_sigma) != n_cp or len(self.logcamp_sigma) != n_ca:
            raise ValueError(
                f"ClosureMisfit: {n_cp} closure phases with {len(self.cphase_sigma)} deviations, "
                f"{n_ca} log amplitudes with {len(self.logcamp_sigma)}; expected one for each."
            )
        if n_cp + n_ca == 0:
            raise ValueError(
                "ClosureMisfit: no closure phase and no closure amplitude: a triangle needs three "
                "stations at one time, an amplitude four. Keep more of the data, e.g. a lower "
                "signal-to-noise cut."
            )
        if self.operator.data_shape != (n_cp + n_ca + 1,):
            raise ValueError(
                f"ClosureMisfit: the operator gives {self.operator.data_shape} values, expected "
                f"{n_cp} closure phases + {n_ca} log amplitudes + 1 flux = {(n_cp + n_ca + 1,)}. "
                "Build both from one observation."
            )

"""The misfit of closure quantities, what interferometers without phase reference can trust."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lmaps_science.arrays import check_finite, check_positive, check_shape
from lmaps_science.metrics import chi2, phase_chi2
from lmaps_science.misfit import Misfit
from lmaps_science.operators import Operator

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ClosureMisfit"]


class ClosureMisfit(Misfit):
    """Misfit of closure phases, log closure amplitudes and, when it is known, the total flux.

        L = 1/2 (w_cp n_cp chi2_cp + w_ca n_ca chi2_ca + w_flux chi2_flux)
        chi2_cp   = 2 mean (1 - cos(theta - theta_obs)) / sigma^2
        chi2_ca   = mean ((A - A_obs) / sigma)^2
        chi2_flux = ((F - F_obs) / flux_sigma)^2

    `operator` maps images to (theta, A, F) side by side, (B, n_cp + n_ca + 1). Observed values and
    standard deviations are vectors (n_cp,) and (n_ca,), kept as (1, n_cp) and (1, n_ca); `flux` and
    `flux_sigma` are in the image's unit of flux. With the default weights, 4 L is the data
    misfit of the InverseBench benchmark (Zheng et al. 2025).

    Raises ValueError for data that are not finite, deviations that are not positive, lengths that
    do not fit the operator, and an observation without any closure.

    Example:
        >>> from lmaps_science import load_problem
        >>> from lmaps_science.physics.interferometry import ClosureQuantities
        >>> observation = load_problem("black_hole/simulated", prior="gaussian").observation
        >>> operator = ClosureQuantities.from_observation(observation, npix=32, fov=6e-10)
        >>> misfit = ClosureMisfit.from_observation(operator, observation)
        >>> sorted(misfit.chi2(torch.rand(1, 1, 32, 32)))
        ['cphase', 'flux', 'logcamp']
    """

    objective_scale = 4.0
    perturbable = True

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
        owner = type(self).__name__

        def vector(name: str, values: ArrayLike) -> Tensor:
            tensor = values if isinstance(values, Tensor) else torch.tensor(np.asarray(values))
            tensor = tensor.to(operator.like)
            check_shape(owner, name, tensor, ("n",))
            check = check_positive if name.endswith("sigma") else check_finite
            check(owner, name, tensor)
            return tensor[None]

        self.operator, self.weights = operator, weights
        self.cphase = vector("cphase", cphase)
        self.cphase_sigma = vector("cphase_sigma", cphase_sigma)
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
        if self.cphase.shape[1]:
            terms["cphase"] = phase_chi2(theta, self.cphase, self.cphase_sigma)
        if self.logcamp.shape[1]:
            terms["logcamp"] = chi2(amplitude, self.logcamp, self.logcamp_sigma)
        if self.flux is not None:
            terms["flux"] = chi2(flux, self.flux, self.flux_sigma)
        return terms

    @property
    def data(self) -> Tensor:
        """Closure phases, their errors, log amplitudes, their errors, and the flux if known."""
        names = ("cphase", "cphase_sigma", "logcamp", "logcamp_sigma")
        values = [getattr(self, name) for name in names]
        return torch.cat(values if self.flux is None else [*values, self.flux], dim=1)

    def with_data(self, data: Tensor) -> ClosureMisfit:
        """The same misfit of other data (B, n), like `data`; not checked but for their number."""
        changed = copy.copy(self)
        for name, values in self._parts(data).items():
            setattr(changed, name, values)
        changed.flux_sigma = self.flux_sigma[:1].expand(len(data), -1)
        return changed

    def expected(self, x: Tensor) -> Tensor:
        """What images (B, ...) would have measured, with the errors of these data."""
        theta, amplitude, flux = self._split(self.operator(x))
        n = len(theta)
        errors = (self.cphase_sigma.expand(n, -1), self.logcamp_sigma.expand(n, -1))
        values = [theta, errors[0], amplitude, errors[1]]
        return torch.cat(values if self.flux is None else [*values, flux], dim=1)

    def simulate(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The same with Gaussian errors of the closure quantities; the flux is exact.

        As this misfit has it: independent errors of the stated size, whatever the image. Those of
        one triangle's and the next's legs go together in truth: simulate visibilities for that.
        """
        parts = self._parts(self.expected(x).clone())
        for name in ("cphase", "logcamp"):
            noise = torch.empty_like(parts[name]).normal_(generator=generator)
            parts[name] = parts[name] + parts[f"{name}_sigma"] * noise
        return torch.cat(list(parts.values()), dim=1)

    def perturbed(
        self, batch: int, normal: Callable[[Tensor], Tensor], scale: float
    ) -> ClosureMisfit:
        r"""Of data with Gaussian noise as this misfit weighs them, `sigma / \sqrt{weight}`.

        Exact of log amplitudes and flux; of phases where 1 - cos d is d^2 / 2, for errors well
        below a radian. A quantity of weight 0 is left as it is.
        """
        changed, noise = copy.copy(self), self._parts(normal(self.data.expand(batch, -1)))
        for name, weight in zip(("cphase", "logcamp", "flux"), self.weights, strict=True):
            if name in noise and weight > 0:
                deviation = scale * getattr(self, f"{name}_sigma") / weight**0.5
                setattr(changed, name, getattr(self, name) + deviation * noise[name])
        return changed

    def noise_floor(self) -> Tensor:
        """E L of the true image with Gaussian errors of the closure quantities and an exact flux.

        w_cp sum (1 - exp(-sigma_cp^2 / 2)) / sigma_cp^2 + w_ca n_ca / 2
        """
        variance = self.cphase_sigma**2
        phases = (-torch.expm1(-variance / 2) / variance).sum(1)
        return self.weights[0] * phases + 0.5 * self.weights[1] * self.logcamp.shape[1]

    def of_expected(self, expected: Tensor) -> Tensor:
        """L of images that would have measured `expected` (B, n), (B,)."""
        parts = self._parts(expected)
        flux = parts.get("flux", parts["cphase"].new_zeros(len(expected), 1))
        return self._loss(torch.cat([parts["cphase"], parts["logcamp"], flux], dim=1))[0]

    def _parts(self, data: Tensor) -> dict[str, Tensor]:
        """The named parts of `data`."""
        names = ["cphase", "cphase_sigma", "logcamp", "logcamp_sigma"]
        names += [] if self.flux is None else ["flux"]
        lengths = [getattr(self, name).shape[1] for name in names]
        check_shape(type(self).__name__, "data", data, ("B", sum(lengths)))
        return dict(zip(names, data.split(lengths, dim=1), strict=True))

    @property
    def observations(self) -> int:
        """How many observations it holds, N."""
        return max(len(self.cphase), self.operator.batch or 1)

    def _select_data(self, selected: ClosureMisfit, rows: Tensor) -> None:
        for name in self._held():
            setattr(selected, name, getattr(self, name)[rows])

    def _stack_data(self, stacked: ClosureMisfit, misfits: Sequence[Misfit]) -> None:
        held = {misfit._held() for misfit in misfits if isinstance(misfit, ClosureMisfit)}
        weights = {misfit.weights for misfit in misfits if isinstance(misfit, ClosureMisfit)}
        if len(held) > 1 or len(weights) > 1:
            raise ValueError(
                "closure misfits with and without a flux, or of different weights "
                f"{sorted(weights)}, cannot share a batch: use the same for all."
            )
        for name in self._held():
            setattr(stacked, name, torch.cat([getattr(misfit, name) for misfit in misfits]))

    def _held(self) -> tuple[str, ...]:
        """The data, each (N, n)."""
        names = ("cphase", "cphase_sigma", "logcamp", "logcamp_sigma", "flux_sigma")
        return names if self.flux is None else (*names, "flux")

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
        return predicted.split([self.cphase.shape[1], self.logcamp.shape[1], 1], dim=1)

    def _check_lengths(self) -> None:
        n_cp, n_ca = self.cphase.shape[1], self.logcamp.shape[1]
        sigmas = self.cphase_sigma.shape[1], self.logcamp_sigma.shape[1]
        if sigmas != (n_cp, n_ca):
            raise ValueError(
                f"ClosureMisfit: {n_cp} closure phases with {sigmas[0]} deviations, {n_ca} log "
                f"amplitudes with {sigmas[1]}; expected one for each."
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

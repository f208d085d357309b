"""Inverse scattering in the first Born approximation: linear in the contrast."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lmaps_science.operators import LinearOperator
from lmaps_science.physics.receivers import Receivers, as_tensor
from lmaps_science.physics.scattering_geometry import ScatteringGeometry

__all__ = ["BornScattering", "ScatteringGeometry"]


class BornScattering(LinearOperator):
    r"""Scattered fields in the first Born approximation, (B, 1, N, N) -> (B, n_tx, n_rx) complex.

        y[t, r] = dx^2 sum_p w_t(p) f(p) G_r(p),   w_t = u_t, or conj(u_t)

    with the incident fields u_t and G_r = k^2 g(|p - r_r|). `conjugate_incident=True` is the
    formula of the InverseBench benchmark (Zheng et al. 2025); False that of physics, the first term
    of `FullWaveScattering`. Forward and adjoint are real matrix products, of the B 2 n_tx currents
    on the N^2 pixels with `rank` functions of the receivers, and small ones; `tolerance`
    compresses, see `Receivers`.

    Example:
        >>> from lmaps_science.physics.scattering_geometry import ScatteringGeometry
        >>> angles = range(0, 360, 20)
        >>> geometry = ScatteringGeometry(16, 0.1, 0.05, [0, 120, 240], angles, 1.0, 1.0)
        >>> BornScattering(geometry)(torch.rand(2, 1, 16, 16)).shape
        torch.Size([2, 3, 18])
    """

    def __init__(
        self,
        geometry: ScatteringGeometry,
        *,
        conjugate_incident: bool = False,
        tolerance: float | None = 1e-8,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ):
        self.geometry, self.conjugate_incident = geometry, conjugate_incident
        self.tolerance = tolerance
        self.image_shape = (1, geometry.npix, geometry.npix)
        self.data_shape = geometry.data_shape
        self._build(dtype, device)

    def _build(self, dtype: torch.dtype, device: torch.device | str | None) -> None:
        incident = self.geometry.incident()
        if self.conjugate_incident:
            incident = incident.conj()
        self.receivers = Receivers(self.geometry, self.tolerance, dtype, device)
        fields = as_tensor(np.concatenate([incident.real, incident.imag]), dtype, device)
        self.incident = torch.stack(self.receivers.split(fields))  # (g, 2 n_tx, h)

    def _moved_from(self, original: BornScattering) -> None:
        if self.incident.dtype != original.incident.dtype:
            self._build(self.incident.dtype, self.incident.device)

    def _forward(self, x: Tensor) -> Tensor:
        parts = self.receivers.split(x.flatten(1)[:, None])
        return self.receivers.record([f * w for f, w in zip(parts, self.incident, strict=True)])

    def _adjoint(self, y: Tensor) -> Tensor:
        parts = zip(self.receivers.spread(y), self.incident, strict=True)
        image = self.receivers.join([c.mul_(w).sum(dim=1) for c, w in parts])
        return image.reshape(-1, *self.image_shape)

"""Very-long-baseline interferometry: visibilities of an image and their closure quantities.

Images are (B, 1, N, N), rows from north to south, columns from east to west, pixels of `pixel_size`
radians, in any unit of flux per pixel; visibilities and flux come out in that unit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lmaps_science.arrays import Movable, real_dtype
from lmaps_science.operators import LinearOperator, Operator
from lmaps_science.physics.linear_map import LinearMap, finufft

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ClosureQuantities", "ClosureSet", "Visibilities"]


class Visibilities(LinearOperator):
    """Complex visibilities, (B, 1, N, N) -> (B, n_vis).

        V_k = P(u_k) P(v_k) sum_p I_p exp(2 pi i (u_k x_p + v_k y_p))

    with pixel centres x, y = (N-1)/2 D ... -(N-1)/2 D (east and north positive) and the triangular
    pixel pulse P(u) = sinc(D u)^2, sinc(t) = sin(pi t) / (pi t): the convention of ehtim.

    `u`, `v` are in wavelengths, (n_vis,); `pixel_size` D in radians. `method="dft"` evaluates the
    sum as it stands: the exponential factors into a column and a row part, so that it is one real
    matrix product (B N, N) x (N, 2 n_vis) and a weighted sum over rows. `method="nufft"` (extra
    `nufft`) uses finufft, on the CPU: for large N and n_vis. Both agree to 1e-7 in float32.

    Raises ValueError for coordinates that are not finite or not of one shape, and for pixels wider
    than the finest fringe (often a pixel size that is not in radians).

    Example:
        >>> pixel = np.deg2rad(2.5e-6 / 3600)  # 2.5 microarcseconds
        >>> point = torch.zeros(1, 1, 8, 8)
        >>> point[..., 3:5, 3:5] = 0.25  # 1 Jy in the middle
        >>> Visibilities([0.0, 1e9], [0.0, 0.0], npix=8, pixel_size=pixel)(point).abs()
        tensor([[1.0000, 0.9988]])
    """

    def __init__(
        self,
        u: ArrayLike,
        v: ArrayLike,
        npix: int,
        pixel_size: float,
        method: str = "dft",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ):
        # NumPy arrays, which `to` leaves alone: the tables are always made from full precision.
        self.u, self.v = (np.asarray(w, dtype=np.float64).copy() for w in (u, v))
        self.pixel_size, self.method = float(pixel_size), method
        self.image_shape, self.data_shape = (1, npix, npix), (self.u.size,)
        self._check_coordinates()
        self._build(dtype, torch.device(device or "cpu"))

    @classmethod
    def from_observation(
        cls, observation: xr.Dataset, npix: int, fov: float, **options: Any
    ) -> Visibilities:
        """Operator for the `u`, `v` of an observation; `fov` = npix pixel_size in radians."""
        u, v = observation["u"].values, observation["v"].values
        return cls(u, v, npix, fov / npix, **options)

    def _moved_from(self, original: Visibilities) -> None:
        self._build(real_dtype(self.weights.dtype), self.weights.device)

    def _check_coordinates(self) -> None:
        if self.u.ndim != 1 or self.u.shape != self.v.shape or self.u.size == 0:
            raise ValueError(
                f"Visibilities: u and v have shapes {self.u.shape} and {self.v.shape}, expected "
                "two equal, non-empty vectors (n_vis,) in wavelengths."
            )
        reach = max(abs(self.u).max(), abs(self.v).max()) * self.pixel_size
        if not 0 <= reach <= 1 or self.pixel_size <= 0:
            raise ValueError(
                f"Visibilities: the longest baseline spans {reach:.3g} fringes per pixel, expected "
                f"0 to 1 (pixel_size {self.pixel_size:g} rad). Coordinates must be finite, in "
                "wavelengths; pixels in radians, e.g. 2.5e-6 * np.pi / 180 / 3600 for 2.5 uas."
            )
        if self.method not in ("dft", "nufft"):
            raise ValueError(f"Visibilities: method {self.method!r}, expected 'dft' or 'nufft'.")

    def _build(self, dtype: torch.dtype, device: torch.device) -> None:
        npix, size = self.image_shape[-1], self.pixel_size
        pulse = (np.sinc(size * self.u) * np.sinc(size * self.v)) ** 2
        if self.method == "nufft":
            # finufft counts pixels upwards from -(npix // 2), ours run down from (npix - 1) / 2.
            offset = ((npix - 1) / 2 - npix // 2) * size
            weights = pulse * np.exp(2j * np.pi * offset * (self.u + self.v))
        else:
            centres = ((npix - 1) / 2 - np.arange(npix)) * size
            columns = np.exp(2j * np.pi * np.outer(centres, self.u)).view(np.float64)
            weights = pulse * np.exp(2j * np.pi * np.outer(centres, self.v))
            # (N, 2 n_vis), real and imaginary parts side by side: one real matrix product
            self.columns = torch.as_tensor(columns, dtype=dtype, device=device)
        self.weights = torch.as_tensor(weights, dtype=dtype.to_complex(), device=device)

    def _forward(self, x: Tensor) -> Tensor:
        if self.method == "nufft":
            return LinearMap.apply(x, self._nufft, self._nufft_adjoint)
        products = torch.view_as_complex((x @ self.columns).unflatten(-1, (-1, 2)))
        return (products[:, 0] * self.weights).sum(dim=1)

    def _adjoint(self, y: Tensor) -> Tensor:
        if self.method == "nufft":
            return LinearMap.apply(y, self._nufft_adjoint, self._nufft)
        spread = y[:, None, None, :] * self.weights.conj()
        return torch.view_as_real(spread).flatten(-2) @ self.columns.T

    def _nufft(self, x: Tensor) -> Tensor:
        image = x[:, 0].to("cpu", torch.complex128).numpy()
        sums = finufft("Visibilities(method='nufft')").nufft2d2(
            *self._nufft_points(), image, isign=1, **self._nufft_options()
        )
        return self.weights * torch.as_tensor(sums).to(self.weights).reshape(len(x), -1)

    def _nufft_adjoint(self, y: Tensor) -> Tensor:
        strengths = (self.weights.conj() * y).to("cpu", torch.complex128).resolve_conj().numpy()
        shape, options = self.image_shape[1:], self._nufft_options()
        image = finufft("Visibilities(method='nufft')").nufft2d1(
            *self._nufft_points(), strengths, shape, isign=-1, **options
        )
        image = torch.as_tensor(image.real.reshape(len(y), *self.image_shape))
        return image.to(self.weights.device, real_dtype(self.weights.dtype))

    def _nufft_points(self) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = (-2 * np.pi * self.pixel_size * w for w in (self.v, self.u))
        return np.angle(np.exp(1j * rows)), np.angle(np.exp(1j * columns))

    def _nufft_options(self) -> dict[str, Any]:
        single = self.weights.dtype == torch.complex64
        return {"eps": 1e-8 if single else 1e-13, "nthreads": torch.get_num_threads()}


class ClosureSet(Movable):
    """The closure quantities of an observation, as functions of its visibilities (B, n_vis).

        theta = arg prod_{k in triangle} V_k      (V_k conjugated where the table says so)
        A     = log |V_0| |V_1| / (|V_2| |V_3|)

    `phase_index`, `phase_conjugate` are (n_cp, 3), `amplitude_index` is (n_ca, 4). Neither quantity
    changes when each station's signal is multiplied by a complex gain.

    A visibility below `floor` (in its own unit of flux) counts as a constant: |V| is clamped there
    and its derivatives are zero, so that a blank image has finite closures and gradients.
    """

    floor = 1e-8

    def __init__(
        self, phase_index: ArrayLike, phase_conjugate: ArrayLike, amplitude_index: ArrayLike
    ):
        self.phase_index = torch.as_tensor(phase_index, dtype=torch.int64).reshape(-1, 3)
        self.amplitude_index = torch.as_tensor(amplitude_index, dtype=torch.int64).reshape(-1, 4)
        conjugate = torch.as_tensor(phase_conjugate, dtype=torch.bool).reshape(-1, 3)
        if conjugate.shape != self.phase_index.shape:
            raise ValueError(
                f"ClosureSet: phase_conjugate has shape {tuple(conjugate.shape)}, expected that of "
                f"phase_index, {tuple(self.phase_index.shape)}."
            )
        # Integers: `to(dtype=)` leaves them alone, products take the visibilities' dtype.
        self.phase_sign = 1 - 2 * conjugate.to(torch.int8)
        self.amplitude_sign = torch.tensor([1, 1, -1, -1], dtype=torch.int8)

    @classmethod
    def from_observation(cls, observation: xr.Dataset) -> ClosureSet:
        """The index tables of an observation."""
        names = ("cphase_index", "cphase_conjugate", "logcamp_index")
        return cls(*(observation[name].values for name in names))

    def phases(self, visibilities: Tensor) -> Tensor:
        """Closure phases in radians, in [-pi, pi]: (B, n_cp)."""
        # atan2, unlike angle(), gives the same bits whatever the size of the batch
        arguments = torch.atan2(visibilities.imag, visibilities.real)
        angles = (arguments[:, self.phase_index] * self.phase_sign).sum(-1)
        return angles - 2 * torch.pi * (angles / (2 * torch.pi)).round().detach()

    def log_amplitudes(self, visibilities: Tensor) -> Tensor:
        """Log closure amplitudes: (B, n_ca)."""
        logs = visibilities.abs().clamp_min(self.floor).log()
        return (logs[:, self.amplitude_index] * self.amplitude_sign).sum(-1)

    def vjp(self, visibilities: Tensor, v_phases: Tensor, v_log_amplitudes: Tensor) -> Tensor:
        """Derivative of <v_phases, theta> + <v_log_amplitudes, A> by the visibilities, (B, n_vis).

        With a_k and p_k the sums of v over the closures that hold log |V_k| and arg V_k,
        d/d Re V_k + i d/d Im V_k = (a_k + i p_k) V_k / |V_k|^2.
        """
        real, imag = visibilities.real, visibilities.imag
        power = real**2 + imag**2
        inverse = torch.where(power > self.floor**2, 1 / power, 0)
        a = self._collect(power, self.amplitude_index, self.amplitude_sign, v_log_amplitudes)
        p = self._collect(power, self.phase_index, self.phase_sign, v_phases)
        return torch.complex((a * real - p * imag) * inverse, (a * imag + p * real) * inverse)

    @staticmethod
    def _collect(like: Tensor, index: Tensor, sign: Tensor, v: Tensor) -> Tensor:
        return torch.zeros_like(like).index_add_(
            1, index.flatten(), (v[..., None] * sign).flatten(1)
        )


class ClosureQuantities(Operator):
    """Image -> (closure phases [rad], log closure amplitudes, total flux), (B, n_cp + n_ca + 1).

    phase = sum_k s_k arg V_k of three visibilities V, in [-pi, pi];
    log amplitude = sum_k s_k log |V_k| of four. The signs s are those of `ClosureSet`.

    `ClosureQuantities(visibilities, closures)`, where `closures` indexes the operator's data.
    Raises ValueError for an index beyond them.

    Example:
        >>> from lmaps_science import load_problem
        >>> observation = load_problem("black_hole/simulated", prior="gaussian").observation
        >>> operator = ClosureQuantities.from_observation(observation, npix=32, fov=6e-10)
        >>> operator.n_phases, operator.n_amplitudes, operator.data_shape
        (233, 193, (427,))
    """

    def __init__(self, visibilities: Visibilities, closures: ClosureSet):
        n_vis = visibilities.u.size
        for name, index in (
            ("phase", closures.phase_index),
            ("amplitude", closures.amplitude_index),
        ):
            if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < n_vis:
                raise ValueError(
                    f"ClosureQuantities: {name} indices span {int(index.min())} to "
                    f"{int(index.max())}, expected 0 to {n_vis - 1}: the visibilities and the "
                    "closures must come from one observation."
                )
        self.visibilities, self.image_shape = visibilities, visibilities.image_shape
        self.closures = closures.to(device=visibilities.weights.device)
        self.n_phases, self.n_amplitudes = len(closures.phase_index), len(closures.amplitude_index)
        self.data_shape = (self.n_phases + self.n_amplitudes + 1,)

    @classmethod
    def from_observation(
        cls, observation: xr.Dataset, npix: int, fov: float, **options: Any
    ) -> ClosureQuantities:
        """Operator for an observation; `fov` in radians, `options` as for `Visibilities`."""
        visibilities = Visibilities.from_observation(observation, npix, fov, **options)
        return cls(visibilities, ClosureSet.from_observation(observation))

    def _forward(self, x: Tensor) -> Tensor:
        return self._stack(x, self.visibilities(x))

    def _stack(self, x: Tensor, vis: Tensor) -> Tensor:
        flux = x.sum(dim=(1, 2, 3))[:, None]
        return torch.cat([self.closures.phases(vis), self.closures.log_amplitudes(vis), flux], 1)

    def _pullback(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Closure quantities and the closed-form map v -> J^T v, which reuses the visibilities."""
        vis = self.visibilities(x)

        def pull(v: Tensor) -> Tensor:
            v_phases, v_amplitudes, v_flux = v.split([self.n_phases, self.n_amplitudes, 1], dim=1)
            by_vis = self.closures.vjp(vis, v_phases, v_amplitudes)
            return self.visibilities.adjoint(by_vis) + v_flux[:, :, None, None]

        return self._stack(x, vis), pull

r"""Inverse scattering in two dimensions: the geometry of an experiment.

Images are the permittivity contrast f = eps_r - 1, (B, 1, N, N), on a square of side L centred at
the origin; pixel (row i, column j) is at x = (j - N/2) L/N, y = (i - N/2) L/N. Line sources and
receivers stand on circles at (R cos a, R sin a). Fields vary as exp(-i omega t); in free space a
line source radiates g(r) = (i/4) H0(k r), with the Hankel function of the first kind and the
wavenumber k = 2 pi / wavelength.

Source: Colton and Kress 2019, Inverse Acoustic and Electromagnetic Scattering Theory, chapter 8.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import special
from torch import Tensor

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ScatteringGeometry", "green"]

Array = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class ScatteringGeometry:
    """Where the pixels, sources and receivers are, and the wavelength; lengths in metres.

    Args:
        npix, side: N pixels along each side L of the imaged square.
        wavelength: in free space.
        transmitter_angles, receiver_angles: in degrees, (n_tx,) and (n_rx,).
        transmitter_radius, receiver_radius: of the circles they stand on.
        mask: which receivers recorded which transmitter, boolean (n_tx, n_rx); None: all did.
            Missing data are 0 in what an operator predicts; set them to 0 in measured data, too.

    Raises:
        ValueError: a length that is not positive, angles that are not finite, receivers or
            transmitters that are not outside the square, a mask of another shape or all False.

    Warns (UserWarning) for fewer than 4 pixels per wavelength: scattered fields carry spatial
    frequencies of the image up to 2 / wavelength, which need two pixels each.

    Example:
        >>> angles = range(0, 360, 20)
        >>> geometry = ScatteringGeometry(16, 0.1, 0.05, [0, 120, 240], angles, 1.0, 1.0)
        >>> geometry.npix, len(geometry.receiver_angles)
        (16, 18)
    """

    npix: int
    side: float
    wavelength: float
    transmitter_angles: ArrayLike
    receiver_angles: ArrayLike
    transmitter_radius: float
    receiver_radius: float
    mask: ArrayLike | None = None

    def __post_init__(self) -> None:
        for name in ("transmitter_angles", "receiver_angles"):
            object.__setattr__(self, name, self._checked_angles(name))
        if self.npix < 2 or not (0 < self.side < np.inf and 0 < self.wavelength < np.inf):
            raise ValueError(
                f"ScatteringGeometry needs npix >= 2, side > 0 and wavelength > 0 in metres, got "
                f"npix={self.npix}, side={self.side}, wavelength={self.wavelength}."
            )
        self._check_radii()
        shape = np.size(self.transmitter_angles), np.size(self.receiver_angles)
        mask = np.ones(shape, bool) if self.mask is None else np.array(self.mask, dtype=bool)
        if mask.shape != shape or not mask.any():
            raise ValueError(
                f"ScatteringGeometry: mask of shape {mask.shape} with {mask.sum()} True; expected "
                f"(transmitters, receivers) = {shape} with at least one True (True: measured)."
            )
        object.__setattr__(self, "mask", mask)
        if self.pixels_per_wavelength < 4:
            warnings.warn(
                f"ScatteringGeometry: {self.pixels_per_wavelength:.2f} pixels per wavelength; below"
                f" 4 the image cannot hold what the data see. Use npix >= "
                f"{int(np.ceil(4 * self.side / self.wavelength))} for this side and wavelength.",
                stacklevel=3,
            )

    @classmethod
    def benchmark(cls, n_receivers: int = 360, npix: int = 128) -> ScatteringGeometry:
        """The InverseBench benchmark's (Zheng et al. 2025): 20 transmitters, 0.18 m, 6 pixels."""
        angles = np.linspace(0, 359, 20), np.linspace(0, 359, n_receivers)
        return cls(npix, 0.18, 6 * 0.18 / npix, *angles, 1.6, 1.6)

    @classmethod
    def from_observation(
        cls, observation: xr.Dataset, frequency: float, npix: int, side: float
    ) -> ScatteringGeometry:
        """The geometry of measured fields (`io.read_fresnel`) at one of their frequencies [Hz].

        The data are then `observation["scattered_field"].sel(frequency=frequency)`.

        Raises:
            ValueError: no data at that frequency.
        """
        if not (observation["frequency"].values == frequency).any():
            known = ", ".join(f"{f:g}" for f in observation["frequency"].values)
            raise ValueError(f"no data at frequency {frequency:g} Hz; expected one of {known}.")
        angles = observation["transmitter"].values, observation["receiver"].values
        radius, mask = observation.attrs["radius"], observation["measured"].values
        return cls(npix, side, 299_792_458.0 / frequency, *angles, radius, radius, mask)

    def _checked_angles(self, name: str) -> Array:
        angles = np.array(getattr(self, name), dtype=np.float64)
        if angles.ndim != 1 or angles.size == 0 or not np.isfinite(angles).all():
            raise ValueError(
                f"ScatteringGeometry: {name} must be finite degrees in a vector, got an array of "
                f"shape {angles.shape}. Example: np.arange(0, 360, 18)."
            )
        return angles

    def _check_radii(self) -> None:
        corner = self.side / np.sqrt(2)
        for name in ("transmitter", "receiver"):
            radius = getattr(self, f"{name}_radius")
            if not corner < radius < np.inf:
                raise ValueError(
                    f"ScatteringGeometry: {name}s at radius {radius:g} m stand inside the imaged "
                    f"square, whose corners are at {corner:.4g} m. Make the square smaller (side < "
                    f"{radius * np.sqrt(2):.4g}) or check the units (metres)."
                )

    @property
    def pixel_size(self) -> float:
        """L / N in metres."""
        return self.side / self.npix

    @property
    def wavenumber(self) -> float:
        """k = 2 pi / wavelength, in 1/m."""
        return 2 * np.pi / self.wavelength

    @property
    def pixels_per_wavelength(self) -> float:
        """Of free space; in a medium there are sqrt(eps_r) times fewer."""
        return self.wavelength / self.pixel_size

    @property
    def data_shape(self) -> tuple[int, int]:
        """(transmitters, receivers)."""
        return np.size(self.transmitter_angles), np.size(self.receiver_angles)

    def coordinates(self) -> tuple[Array, Array]:
        """x and y of every pixel, each (N, N), in metres."""
        axis = (np.arange(self.npix) - self.npix // 2) * self.pixel_size
        x, y = np.meshgrid(axis, axis, indexing="xy")
        return x, y

    def transmitters(self) -> Array:
        """Positions (n_tx, 2) in metres."""
        return _on_circle(self.transmitter_angles, self.transmitter_radius)

    def receivers(self) -> Array:
        """Positions (n_rx, 2) in metres."""
        return _on_circle(self.receiver_angles, self.receiver_radius)

    def incident(self) -> NDArray[np.complexfloating]:
        """Field g(|p - r_t|) of each transmitter on the pixels, (n_tx, N^2)."""
        return self._line_sources(self.transmitters())

    def sensor_green(self) -> NDArray[np.complexfloating]:
        """k^2 g(|p - r_r|): what a receiver gets from a unit of f u at each pixel, (n_rx, N^2)."""
        return self.wavenumber**2 * self._line_sources(self.receivers())

    def direct(self) -> NDArray[np.complexfloating]:
        """Incident field of each transmitter at each receiver, (n_tx, n_rx)."""
        apart = self.transmitters()[:, None] - self.receivers()[None]
        return green(self.wavenumber * np.hypot(*np.moveaxis(apart, -1, 0)))

    def disc(self, centre: tuple[float, float], radius: float, contrast: float) -> Tensor:
        """Image (1, 1, N, N) of a disc: `contrast` times the share of each pixel it covers.

        Raises ValueError where the disc sticks out of the imaged square.
        """
        low, high = -(self.npix // 2) - 0.5, (self.npix - 1) // 2 + 0.5  # in pixels, their edges
        reach = np.array([[c - radius, c + radius] for c in centre]) / self.pixel_size
        if radius <= 0 or not (reach.min() >= low - 1e-9 and reach.max() <= high + 1e-9):
            raise ValueError(
                f"disc of radius {radius:g} m at {tuple(centre)} m is not inside the imaged square "
                f"of side {self.side:g} m (to half a pixel). Move it, or make the square larger."
            )
        fine = 16  # each pixel is covered by 16 x 16 points: shares to about 0.5 %
        offsets = ((np.arange(fine) + 0.5) / fine - 0.5) * self.pixel_size
        fine_axis = (self.coordinates()[0][0][:, None] + offsets).ravel()
        x, y = fine_axis - centre[0], fine_axis - centre[1]
        inside = x[None] ** 2 + y[:, None] ** 2 <= radius**2
        share = inside.reshape(self.npix, fine, self.npix, fine).mean((1, 3))
        return torch.as_tensor(contrast * share)[None, None]

    def _line_sources(self, at: Array) -> NDArray[np.complexfloating]:
        x, y = (c.ravel() for c in self.coordinates())
        return green(self.wavenumber * np.hypot(x - at[:, :1], y - at[:, 1:]))


def green(kr: Array) -> NDArray[np.complexfloating]:
    """Field (i/4) H0(k r) of a line source in free space, by the distance times k."""
    return 0.25j * special.hankel1(0, kr)


def _on_circle(degrees: ArrayLike, radius: float) -> Array:
    angles = np.deg2rad(np.asarray(degrees))
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)

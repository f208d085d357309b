"""The benchmark's three operators that this package has, too: recognised, replaced, compared.

They are recognised by their attributes: the benchmark is never imported. What replaces them is
faster, takes batches and, where the operator is linear, says so; it is used only after it has given
the same data, loss and gradient for a random image.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from scipy import special
from scipy.optimize import brentq
from torch import Tensor

from lmaps_science.arrays import norm
from lmaps_science.integrations.inversebench.operators import (
    OwnLinear,
    OwnLoss,
    OwnMisfit,
    gradient,
    random_image,
    single,
    takes_batches,
)
from lmaps_science.io.files import DataError
from lmaps_science.misfit import GaussianMisfit, Misfit
from lmaps_science.operators import Affine, LinearOperator
from lmaps_science.physics.closure_misfit import ClosureMisfit
from lmaps_science.physics.coils import estimate_noise
from lmaps_science.physics.interferometry import ClosureQuantities, ClosureSet, Visibilities
from lmaps_science.physics.mri import MultiCoilMRI
from lmaps_science.physics.scattering import BornScattering
from lmaps_science.physics.scattering_geometry import ScatteringGeometry

__all__ = ["TOLERANCE", "Known", "physical", "recognise", "sigma_of"]

TOLERANCE = 1e-5  # relative, of data, loss and gradient
NOISELESS = 1e-3  # of k-space without noise, in units of the image: as this package's cards have it


def recognise(op: Any) -> Known | None:
    """What this package knows of an operator of the benchmark; None: nothing."""
    for known in (Scattering, KSpace, BlackHole):
        if all(hasattr(op, name) for name in known.marks):
            return known(op)
    return None


class Known(ABC):
    """One of the benchmark's operators, of which this package has its own.

    Attributes:
        marks: the attributes by which it is recognised.
        settings: the setting of the benchmark that it shows, as tuned configurations are named.
        loss_unit: its loss is so many times the misfit L, times `objective_scale`.
    """

    marks: tuple[str, ...]
    settings: str
    loss_unit: float = 2.0  # sum |r|^2, where the published unit is half of it

    def __init__(self, op: Any):
        self.op = op
        self.settings = self._settings()

    @abstractmethod
    def _settings(self) -> str:
        """See `settings`."""

    @abstractmethod
    def ours(self, observation: Tensor, noise: float | None) -> Misfit:
        """Our misfit of physical images, of our operator."""

    @abstractmethod
    def own(self, observation: Tensor, noise: float | None, shape: Any, samples: int) -> Misfit:
        """Our misfit of normalised images, of the benchmark's operator."""

    def disagreement(self, ours: Misfit, observation: Tensor) -> float:
        """Largest relative difference of data, loss and gradient, for one random image.

        It is a dim one. Were it as bright as the object, its data would be nearly those observed,
        and what is compared the rounding of their difference.

        Args:
            ours: on normalised images.
            observation: what the benchmark passes.
        """
        decode = physical(self.op, ours.operator.image_shape)
        z = random_image(decode.image_shape, ours.like)
        z = decode.to_model(0.05 * decode(z))
        slope, loss = gradient(self.op, z, observation)
        mine, value = ours.gradient(z)
        unit = self.loss_unit * ours.objective_scale
        with torch.no_grad():
            apart = self._apart(self.op.forward(z), ours.operator(z))
        differences = (
            apart,
            float((unit * value - loss).abs() / loss.abs()),
            float(norm(unit * mine - slope) / norm(slope)),
        )
        return max(differences) if all(map(math.isfinite, differences)) else math.inf

    def _apart(self, own: Tensor, ours: Tensor) -> float:
        """Relative difference of the data (1, ...)."""
        own, ours = _parts(own), _parts(ours)
        same = own.shape == ours.shape
        return float(norm(own - ours) / norm(own)) if same else math.inf


class _Linear(Known):
    """Those with Gaussian noise."""

    @abstractmethod
    def _operator(self, observation: Tensor) -> LinearOperator:
        """Ours, on physical images, on the CPU."""

    @abstractmethod
    def _sigma(self, observation: Tensor) -> float:
        """Standard deviation of the noise of a complex number."""

    @abstractmethod
    def _data(self, observation: Tensor) -> Tensor:
        """The observation, (1, ...), complex, as our operator's data."""

    def ours(self, observation: Tensor, noise: float | None) -> GaussianMisfit:
        operator = self._operator(observation).to(device=observation.device, dtype=torch.float32)
        sigma = self._sigma(observation) if noise is None else noise
        return GaussianMisfit(operator, single(self._data(observation)), sigma)

    def own(
        self, observation: Tensor, noise: float | None, shape: Any, samples: int
    ) -> GaussianMisfit:
        like = torch.empty(0, dtype=torch.float32, device=observation.device)
        batched = samples > 1 and takes_batches(self.op, observation, shape, like)
        operator = OwnLinear(self.op, shape, observation.shape[1:], batched)
        sigma = self._sigma(observation) if noise is None else noise
        if not observation.is_complex():  # each of the two parts has half the variance
            sigma = sigma / math.sqrt(2)
        return GaussianMisfit(operator, single(observation), sigma) @ physical(self.op, shape)  # type: ignore[return-value]


class Scattering(_Linear):
    """Linear inverse scattering: the first Born approximation with conjugated incident fields."""

    marks = ("uinc_dom_set", "sensor_greens_function_set", "numRec", "numTrans", "dx", "dy")

    def __init__(self, op: Any):
        super().__init__(op)
        self._built: BornScattering | None = None

    def _settings(self) -> str:
        return f"scattering_{_nearest(self.op.numRec, (360, 180, 60))}"

    def _operator(self, observation: Tensor) -> BornScattering:
        if self._built is None:  # the same for every observation
            self._built = BornScattering(self._geometry(), conjugate_incident=True)
        return self._built

    def _geometry(self) -> ScatteringGeometry:
        """From its fields: transmitter and receiver 0 share their place, and no pixel is special.

        k^2 is the ratio of their functions; at the centre |g| = |H0(k R)| / 4 falls with R.
        """
        op = self.op
        npix, other = int(op.Nx), int(op.Ny)
        if npix != other or not math.isclose(op.dx, op.dy):
            raise ValueError("its pixels or its grid are not square")
        centre = npix // 2
        incident = complex(op.uinc_dom_set[centre, centre, 0].flatten()[0])
        received = complex(op.sensor_greens_function_set[centre, centre, 0].flatten()[0])
        wavenumber = math.sqrt(abs(received / incident))
        side = npix * float(op.dx)

        def excess(radius: float) -> float:
            return float(abs(special.hankel1(0, wavenumber * radius)) / 4 - abs(incident))

        radius = brentq(excess, 1e-3 * side, 1e4 * side, xtol=1e-14, rtol=1e-14)
        angles = np.linspace(0, 359, int(op.numTrans)), np.linspace(0, 359, int(op.numRec))
        return ScatteringGeometry(npix, side, 2 * np.pi / wavenumber, *angles, radius, radius)

    def _sigma(self, observation: Tensor) -> float:
        return sigma_of(self.op)

    def _data(self, observation: Tensor) -> Tensor:
        return observation


class KSpace(_Linear):
    """Multi-coil MRI, k-space as pairs of real numbers; the maps are those of the last slice."""

    marks = ("mask", "get_mask", "ifft", "fft")

    def _settings(self) -> str:
        share = float(self.op.mask.float().mean())
        # Its own border: to 6 it keeps 8 % of the central lines, above 4 %. With and without
        # noise the tuned settings are the same.
        return f"mri_{4 if share * 6 >= 1 else 8}_raw"

    def _operator(self, observation: Tensor) -> MultiCoilMRI:
        return MultiCoilMRI(self.op.maps[0].to(torch.complex64), self.op.mask[0, 0])

    def _sigma(self, observation: Tensor) -> float:
        kspace = self._data(observation)[0].cpu().numpy()
        mask = self.op.mask[0, 0].expand(kspace.shape[-2:]).cpu().numpy()
        try:
            return max(estimate_noise(kspace, mask), NOISELESS)
        except ValueError as error:
            raise DataError(
                f"the noise of this k-space cannot be estimated: {error} State it, e.g. "
                "+algorithm.method.noise=0.01."
            ) from error

    def _data(self, observation: Tensor) -> Tensor:
        return torch.view_as_complex(observation.contiguous())


class BlackHole(Known):
    """Closure phases, log closure amplitudes and flux, packed with their deviations."""

    marks = ("ref_obs", "ref_im", "cp_index", "cp_conjugate", "camp_index", "decompress")
    loss_unit = 1.0  # published settings refer to the loss itself, which is 4 L

    def _settings(self) -> str:
        ratio = float(getattr(self.op, "observation_time_ratio", 1.0))
        return f"blackhole_{_nearest(100 * ratio, (100, 10, 3))}"

    def ours(self, observation: Tensor, noise: float | None) -> ClosureMisfit:
        op, data = self.op, self.op.ref_obs.data
        if op.weight_amp != 0:
            raise ValueError("it weighs visibility amplitudes, which gains make worthless")
        device = observation.device
        visibilities = Visibilities(data["u"], data["v"], op.H, op.ref_im.psize, device=device)
        index = (op.cp_index.cpu(), op.cp_conjugate.cpu(), op.camp_index.cpu())
        operator = ClosureQuantities(visibilities, ClosureSet(*index))
        values = [v.flatten() for v in op.decompress(observation)]
        _, _, cphase, cphase_sigma, logcamp, logcamp_sigma, flux = values
        weights = (op.weight_cp / op.cphase_dim, op.weight_camp / op.logcamp_dim, op.weight_flux)
        known = (cphase, cphase_sigma, logcamp, logcamp_sigma)
        return ClosureMisfit(operator, *known, float(flux), flux_sigma=2.0, weights=weights)

    def own(self, observation: Tensor, noise: float | None, shape: Any, samples: int) -> OwnMisfit:
        like = torch.empty(0, dtype=torch.float32, device=observation.device)
        batched = samples > 1 and takes_batches(self.op, observation, shape, like)
        return OwnMisfit(OwnLoss(self.op, observation, shape, batched), 0.25, 4.0, like)

    def _apart(self, own: Tensor, ours: Tensor) -> float:
        _, _, cphase, _, logcamp, _, flux = [v.flatten() for v in self.op.decompress(own)]
        theirs = torch.cat([cphase, logcamp, flux])[None]
        difference = theirs - ours
        turns = difference[:, : len(cphase)] / (2 * torch.pi)
        difference[:, : len(cphase)] -= 2 * torch.pi * turns.round()
        return float(norm(difference) / norm(theirs))


def sigma_of(op: Any) -> float:
    """The standard deviation of the noise that it adds.

    Raises:
        DataError: none, or 0.
    """
    sigma = float(getattr(op, "sigma_noise", 0.0))
    if not sigma > 0:
        raise DataError(
            f"{type(op).__name__} adds no noise (sigma_noise = {sigma:g}), and a reconstruction "
            "needs to know how far to trust the data: state it, e.g. "
            "+algorithm.method.noise=1e-4."
        )
    return sigma


def physical(op: Any, shape: tuple[int, ...]) -> Affine:
    """Its map from normalised to physical images."""
    zero = float(op.unnormalize(torch.zeros(())))
    scale = float(op.unnormalize(torch.ones(()))) - zero
    return Affine(scale, zero / scale, tuple(shape))


def _nearest(value: float, choices: tuple[int, ...]) -> int:
    return min(choices, key=lambda choice: abs(math.log(value / choice)))


def _parts(data: Tensor) -> Tensor:
    """Real parts in float64, (1, ...): complex numbers as pairs."""
    data = torch.view_as_real(data.resolve_conj()) if data.is_complex() else data
    return data.double()

"""Instances of the scattering operators for the property tests."""

import numpy as np
import torch

from lmaps_science.operators import Operator
from lmaps_science.physics.born_svd import BornSVD
from lmaps_science.physics.lippmann_schwinger import FullWaveScattering
from lmaps_science.physics.multi_frequency import Clamp, LinearMultiFrequency, MultiFrequency
from lmaps_science.physics.scattering import BornScattering, ScatteringGeometry


def small_geometry(npix: int = 9, n_receivers: int = 7, **options) -> ScatteringGeometry:
    """Six pixels per wavelength, three transmitters, everything close to the object."""
    receivers = np.arange(n_receivers) * 360 / n_receivers + 2.5
    return ScatteringGeometry(npix, 1.0, 6 / npix, [10, 130, 280], receivers, 1.5, 1.1, **options)


def random_images(npix: int, batch: int = 1) -> torch.Tensor:
    """(B, 1, N, N) float64, uniform in [0, 1)."""
    generator = torch.Generator().manual_seed(5)
    return torch.rand(batch, 1, npix, npix, generator=generator, dtype=torch.float64)


def random_data(operator: Operator, batch: int = 1) -> torch.Tensor:
    """(B, n_tx, n_rx) complex128, normal."""
    generator = torch.Generator().manual_seed(6)
    shape = (batch, *(operator.data_shape or ()))
    return torch.randn(shape, generator=generator, dtype=torch.complex128)


def born_scattering() -> Operator:
    mask = np.ones((3, 7), bool)
    mask[1, 2:4] = False
    return BornScattering(small_geometry(mask=mask), dtype=torch.float64)


def born_scattering_compressed() -> Operator:
    geometry = small_geometry(8, 64)
    operator = BornScattering(geometry, conjugate_incident=True, dtype=torch.float64)
    assert operator.receivers.rank < 2 * 64
    return operator


def born_svd() -> Operator:
    return BornSVD(born_scattering(), tolerance=1e-5, cache=None)


def full_wave_scattering() -> Operator:
    """Pixels of a ninetieth of a wavelength, so that the random images converge."""
    receivers = np.arange(7) * 50.0
    geometry = ScatteringGeometry(9, 0.9, 9.0, [10, 130, 280], receivers, 1.5, 1.1)
    return FullWaveScattering(geometry, tolerance=1e-12, dtype=torch.float64)


def two_frequencies() -> Operator:
    """Of a contrast with limits, which the random images of the tests do not reach."""
    limits = Clamp(-50.0, 50.0, (1, 9, 9))
    geometries = [
        ScatteringGeometry(9, 1.0, w, [10, 130], [0.0, 50, 170], 1.5, 1.1) for w in (0.9, 0.6)
    ]
    return MultiFrequency([BornScattering(g, dtype=torch.float64) @ limits for g in geometries])


def two_frequencies_linear() -> Operator:
    return LinearMultiFrequency([born_scattering(), born_scattering()])


SCATTERING = [
    born_scattering,
    born_svd,
    born_scattering_compressed,
    full_wave_scattering,
    two_frequencies,
    two_frequencies_linear,
]

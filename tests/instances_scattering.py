"""Instances of the scattering operators for the property tests."""

import numpy as np
import torch

from lmaps_science.operators import Operator
from lmaps_science.physics.scattering import BornScattering, ScatteringGeometry


def small_geometry(npix: int = 9, n_receivers: int = 7, **options) -> ScatteringGeometry:
    """Six pixels per wavelength, three transmitters, everything close to the object."""
    receivers = np.arange(n_receivers) * 360 / n_receivers + 2.5
    return ScatteringGeometry(npix, 1.0, 6 / npix, [10, 130, 280], receivers, 1.5, 1.1, **options)


def born_scattering() -> Operator:
    mask = np.ones((3, 7), bool)
    mask[1, 2:4] = False
    return BornScattering(small_geometry(mask=mask), dtype=torch.float64)


def born_scattering_compressed() -> Operator:
    geometry = small_geometry(8, 64)
    operator = BornScattering(geometry, conjugate_incident=True, dtype=torch.float64)
    assert operator.rank < 2 * 64
    return operator


SCATTERING = [born_scattering, born_scattering_compressed]

"""Born scattering against autograd through the textbook formula in double precision; full wave.

Run with `pytest tests/benchmarks --benchmark-only`. The benchmark's set-up: 20 transmitters, 360
receivers, 128 x 128 pixels; one thread. Times are for the whole batch.
"""

import numpy as np
import pytest
import torch

from lmaps_science.misfit import GaussianMisfit
from lmaps_science.physics.lippmann_schwinger import FullWaveScattering
from lmaps_science.physics.scattering import BornScattering, ScatteringGeometry


class Problem:
    def __init__(self):
        geometry = ScatteringGeometry.benchmark(360)
        self.area = geometry.pixel_size**2
        self.incident = torch.as_tensor(geometry.incident()).conj().resolve_conj()
        self.green = torch.as_tensor(geometry.sensor_green())
        self.images = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
        operator = BornScattering(geometry, conjugate_incident=True)
        self.y = operator(0.5 * self.images)
        self.misfit = GaussianMisfit(operator, self.y, 1e-4)

    def closed_form(self, images):
        return self.misfit.gradient(images)

    def textbook(self, images):
        images = images.double().requires_grad_()
        sources = images.flatten(1)[:, None] * self.incident
        residual = self.area * (sources @ self.green.T) - self.y
        value = (residual.abs() ** 2).sum((1, 2)) / 1e-8
        return torch.autograd.grad(value.sum(), images)[0], value.detach()


@pytest.fixture(scope="module")
def problem():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Problem()
    torch.set_num_threads(threads)


@pytest.mark.parametrize("way", ["closed_form", "textbook"])
@pytest.mark.parametrize("batch", [1, 8])
def test_misfit_and_gradient(benchmark, problem, way, batch):
    benchmark.group = f"Born misfit and gradient, batch {batch}"
    images = problem.images.repeat(batch, 1, 1, 1)
    gradient, values = benchmark(getattr(problem, way), images)
    expected = problem.textbook(problem.images)
    torch.testing.assert_close(values.double(), expected[1].expand(batch), rtol=1e-4, atol=0)
    gap = gradient - expected[0]
    assert gap.norm() <= 1e-4 * expected[0].norm() * batch**0.5


@pytest.mark.parametrize("eps_r", [1.5, 3.0])
def test_full_wave_gradient(benchmark, eps_r):
    """8 transmitters, 6 GHz, foam-sized disc: one field and one adjoint solve, 64 x 64 pixels."""
    benchmark.group = "full wave, data and gradient"
    angles = np.arange(0, 360, 45), np.arange(360)
    geometry = ScatteringGeometry(64, 0.17, 0.05, *angles, 1.67, 1.67)
    operator = FullWaveScattering(geometry)
    image = geometry.disc((0.0, 0.0), 0.03, eps_r - 1).float()
    misfit = GaussianMisfit(operator, operator(0.9 * image), 1e-3)
    torch.set_num_threads(1)
    gradient, values = benchmark(misfit.gradient, image)
    assert torch.isfinite(gradient).all()
    assert float(values) > 0

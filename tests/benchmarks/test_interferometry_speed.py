"""Closure misfit and gradient against the textbook way: the whole complex matrix and autograd.

Run with `pytest tests/benchmarks --benchmark-only`. 271 visibilities, 64 x 64 pixels, one thread.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from lmaps_science.physics.closure_misfit import ClosureMisfit
from lmaps_science.physics.interferometry import ClosureQuantities, ClosureSet, Visibilities

GOLDEN = Path(__file__).parents[1] / "golden" / "black_hole.npz"


class Problem:
    def __init__(self):
        data = dict(np.load(GOLDEN))
        n_cp, n_ca, n_amp = (int(data[f"{n}_dim"]) for n in ("cphase", "logcamp", "amp"))
        y = torch.as_tensor(data["y"][0, 0, 2 * n_amp :, 0])
        *self.observed, self.flux = y.split([n_cp, n_cp, n_ca, n_ca, 1])
        self.visibilities = Visibilities(data["u"], data["v"], 64, float(data["psize_rad"]))
        self.closures = ClosureSet(data["cp_index"], data["cp_conjugate"], data["camp_index"])
        self.conjugate = torch.as_tensor(data["cp_conjugate"], dtype=torch.bool)
        self.images = (torch.as_tensor(data["x_model"])[:1] + 1) / 2
        size, n = self.visibilities.pixel_size, 64
        x, y = np.meshgrid(*[((n - 1) / 2 - np.arange(n)) * size] * 2)
        u, v = data["u"][:, None], data["v"][:, None]
        pulse = (np.sinc(size * u) * np.sinc(size * v)) ** 2
        matrix = pulse * np.exp(2j * np.pi * (u * x.ravel() + v * y.ravel()))
        self.matrix = torch.as_tensor(matrix).to(torch.complex64)
        operator = ClosureQuantities(self.visibilities, self.closures)
        self.misfit = ClosureMisfit(operator, *self.observed, flux=float(self.flux))

    def closed_form(self, images):
        return self.misfit.gradient(images)

    def textbook(self, images):
        images = images.detach().requires_grad_()
        vis = (self.matrix * images.flatten(1)[:, None, :]).sum(-1)
        theta, theta_sigma, log_amp, log_amp_sigma = self.observed
        legs = vis[:, self.closures.phase_index]
        phases = torch.where(self.conjugate, legs.conj(), legs).prod(-1).angle()
        a, b, c, d = vis.abs()[:, self.closures.amplitude_index].unbind(-1)
        value = ((1 - torch.cos(phases - theta)) / theta_sigma**2).sum(1)
        value = value + 0.5 * ((((a * b / (c * d)).log() - log_amp) / log_amp_sigma) ** 2).sum(1)
        value = value + 0.25 * ((images.sum((1, 2, 3)) - self.flux) / 2) ** 2
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
    benchmark.group = f"closure misfit and gradient, batch {batch}"
    images = problem.images.repeat(batch, 1, 1, 1)
    gradient, values = benchmark(getattr(problem, way), images)
    expected = problem.closed_form(images)
    torch.testing.assert_close(values, expected[1], rtol=1e-4, atol=0)
    assert (gradient - expected[0]).norm() <= 1e-4 * expected[0].norm()

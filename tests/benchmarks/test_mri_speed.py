"""The multi-coil operator against SigPy's Sense on the same CPU, one thread.

Run with `pytest tests/benchmarks/test_mri_speed.py --benchmark-only`. Both take images in and give
a batch back; SigPy does it slice by slice. A quarter of the lines along the last axis is sampled.
"""

import numpy as np
import pytest
import torch

from lmaps_science.physics.mri import MultiCoilMRI
from lmaps_science.physics.sampling import line_mask


class Problem:
    def __init__(self, batch: int, coils: int, shape: tuple[int, int]):
        linop = pytest.importorskip("sigpy.mri.linop")
        generator = torch.Generator().manual_seed(0)
        maps = torch.randn((coils, *shape), generator=generator, dtype=torch.complex64)
        maps = maps / torch.linalg.vector_norm(maps, dim=0)
        mask = line_mask(shape, 4)
        self.operator = MultiCoilMRI(maps, mask)
        self.sense = linop.Sense(maps.numpy(), weights=mask.astype(np.float32))
        self.images = torch.randn((batch, 2, *shape), generator=generator)
        self.data = self.operator(self.images)
        self.complex_images = torch.complex(self.images[:, 0], self.images[:, 1]).numpy()

    def ours(self, product: str) -> torch.Tensor:
        return {
            "forward": lambda: self.operator(self.images),
            "adjoint": lambda: self.operator.adjoint(self.data),
            "normal": lambda: self.operator.normal(self.images),
        }[product]()

    def sigpy(self, product: str) -> np.ndarray:
        sense, images, data = self.sense, self.complex_images, self.data.numpy()
        if product == "adjoint":
            return np.stack([sense.H(y) for y in data])
        apply = sense if product == "forward" else lambda x: sense.H(sense(x))
        return np.stack([apply(x) for x in images])


@pytest.fixture(scope="module", params=[(1, 8, (230, 180)), (4, 15, (320, 320))], ids=str)
def problem(request):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Problem(*request.param)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("product", ["forward", "adjoint", "normal"])
@pytest.mark.parametrize("way", ["ours", "sigpy"])
def test_sense(benchmark, problem, product, way):
    benchmark.group = f"{product}, data {tuple(problem.data.shape)}"
    result = torch.as_tensor(benchmark(getattr(problem, way), product))
    if product != "forward" and way == "sigpy":
        result = torch.stack([result.real, result.imag], dim=1)
    expected = problem.ours(product)
    assert (result - expected).norm() <= 1e-5 * expected.norm()

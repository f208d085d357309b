"""The multi-coil operator against SigPy's Sense on the same CPU, one thread.

Run with `pytest tests/benchmarks/test_mri_speed.py --benchmark-only`, on a busy machine also with
`--benchmark-timer=time.process_time`. Both take images in and give data back. SigPy's Sense goes
slice by slice; composed of its Linops by hand it takes the batch at once: the faster of the two
counts. A quarter of the lines is sampled, along either axis.
"""

import numpy as np
import pytest
import torch

from lmaps_science.physics.mri import MultiCoilMRI
from lmaps_science.physics.sampling import line_mask


class Problem:
    def __init__(self, batch: int, coils: int, shape: tuple[int, int], axis: int):
        sigpy = pytest.importorskip("sigpy")
        linop = pytest.importorskip("sigpy.mri.linop")
        generator = torch.Generator().manual_seed(0)
        maps = torch.randn((coils, *shape), generator=generator, dtype=torch.complex64)
        maps = maps / torch.linalg.vector_norm(maps, dim=0)
        mask = line_mask(shape, 4, axis=axis)
        weights = mask.astype(np.float32)
        self.operator = MultiCoilMRI(maps, mask)
        self.images = torch.randn((batch, 2, *shape), generator=generator)
        self.data = self.operator(self.images)
        self.complex_images = torch.complex(self.images[:, 0], self.images[:, 1]).numpy()
        self.sense = linop.Sense(maps.numpy(), weights=weights)
        seen = sigpy.linop.Multiply((batch, 1, *shape), maps.numpy())
        transform = sigpy.linop.FFT(seen.oshape, axes=(-2, -1))
        self.batched = sigpy.linop.Multiply(seen.oshape, weights) * transform * seen

    def ours(self, product: str) -> torch.Tensor:
        return {
            "forward": lambda: self.operator(self.images),
            "adjoint": lambda: self.operator.adjoint(self.data),
            "normal": lambda: self.operator.normal(self.images),
        }[product]()

    def sigpy_slices(self, product: str) -> list[np.ndarray]:
        """A list: stacking the slices would cost it more."""
        apply = {"forward": self.sense, "adjoint": self.sense.H, "normal": self.sense.N}[product]
        given = self.data.numpy() if product == "adjoint" else self.complex_images
        return [apply(x) for x in given]

    def sigpy_batch(self, product: str) -> np.ndarray:
        if product == "adjoint":
            return self.batched.H(self.data.numpy())[:, 0]
        images = self.complex_images[:, None]
        return self.batched(images) if product == "forward" else self.batched.N(images)[:, 0]


@pytest.fixture(scope="module", params=[(1, 8, (230, 180)), (4, 15, (320, 320))], ids=str)
def size(request):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield request.param
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=[-1, -2], ids=["columns", "rows"])
def problem(request, size):
    return Problem(*size, request.param)


@pytest.mark.parametrize("product", ["forward", "adjoint", "normal"])
@pytest.mark.parametrize("way", ["ours", "sigpy_slices", "sigpy_batch"])
def test_sense(benchmark, problem, product, way, request):
    kept = "columns" if "columns" in request.node.name else "rows"
    benchmark.group = f"{product}, data {tuple(problem.data.shape)}, {kept}"
    result = benchmark(getattr(problem, way), product)
    result = torch.as_tensor(result if way == "ours" else np.stack(list(result)))
    if product != "forward" and way != "ours":
        result = torch.stack([result.real, result.imag], dim=1)
    expected = problem.ours(product)
    assert (result - expected).norm() <= 1e-5 * expected.norm()

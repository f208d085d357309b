"""Nothing on the hot path touches the CPU, except where it says why.

Device `meta` finds without a GPU what a GPU would: its tensors have shapes and no values, mixing
them with CPU tensors raises, and each look at a value (`.item()`, `float(tensor)`, `bool(tensor)`),
which on a GPU waits for everything before it, passes through `Watch`. Where CUDA exists, the same
calls run there, and their results are compared with the CPU's.
"""

import sys
from pathlib import Path

import pytest
import torch
from instances_scattering import full_wave_scattering
from registries import (
    MISFITS,
    OPERATORS,
    PRIORS,
    PROBLEMS,
    SOLVERS,
    dmplug,
    inverse_problem,
    linear_problem,
    lmaps,
    lmaps_conjugate_gradient,
)
from torch.utils._python_dispatch import TorchDispatchMode

import lmaps_science
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.noise import SampleNoise
from lmaps_science.operators import Affine

ROOT = str(Path(lmaps_science.__file__).parent)
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

# Each function that looks at a value while images are on their way, and why it may.
LOOKS = {
    "linalg.conjugate_gradient": "stops when all samples have converged: saves most iterations",
    "linalg.lbfgs": "stops when all samples have converged: saves most iterations",
    "linalg.bicgstab": "stops when all fields have converged: saves most iterations",
    "solvers.dmplug.step": "stops when all seeds have: saves the rounds that are left",
    "physics.lippmann_schwinger._solve": "fields that did not converge are an error, not a result",
    "physics.lippmann_schwinger._warn_of_coarse_pixels": "says once that the pixels are too coarse",
}
# What runs on the CPU by design: a library that has no other device.
ON_THE_CPU = {"visibilities_nufft": "finufft", "mri_radial": "finufft"}


class Watch(TorchDispatchMode):
    """Answers every look at a value with 1, and remembers which function of ours looked."""

    def __init__(self):
        super().__init__()
        self.looks = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        looks = function is torch.ops.aten._local_scalar_dense.default
        if looks and arguments[0].device.type == "meta":
            look = _ours()
            self.looks.add(look)
            # Whether anything failed: no. Whether anything is left to do: yes.
            answer = 0.0 if look.endswith("._solve") else 1.0
            return bool(answer) if arguments[0].dtype == torch.bool else answer
        return function(*arguments, **(options or {}))


def _ours() -> str:
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.startswith(ROOT):
            module = Path(frame.f_code.co_filename).relative_to(ROOT).with_suffix("")
            return ".".join([*module.parts, frame.f_code.co_name])
        frame = frame.f_back
    return "?"


def watch(call):
    """The result of `call()`, in which only the functions of `LOOKS` look at values."""
    with Watch() as seen:
        result = call()
    unknown = {look for look in seen.looks if not look.startswith(tuple(LOOKS))}
    assert not unknown, f"{sorted(unknown)} wait for the device: remove that, or say why in LOOKS"
    return result


def on(device, thing, dtype=torch.float32):
    return thing.to(device=device, dtype=dtype)


def images(operator, device="meta", batch=2):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((batch, *operator.image_shape), generator=generator)
    return x.to(device)


@pytest.mark.parametrize("make", OPERATORS, ids=lambda make: make.__name__)
def test_operators(make):
    if make.__name__ in ON_THE_CPU:
        pytest.skip(f"{ON_THE_CPU[make.__name__]} has no other device")
    operator = on("meta", make())
    x = images(operator)
    y, pull = watch(lambda: operator.pullback(x))
    assert y.device.type == "meta"
    assert watch(lambda: pull(y)).shape == x.shape
    assert watch(lambda: operator(x)).shape == y.shape
    if operator.linear is not None:
        assert watch(lambda: operator.linear.normal(x)).shape == x.shape


@pytest.mark.parametrize("make", MISFITS, ids=lambda make: make.__name__)
def test_misfits(make):
    misfit = on("meta", make())
    slope, values = watch(lambda: misfit.gradient(images(misfit.operator)))
    assert slope.device.type == values.device.type == "meta"
    assert watch(lambda: misfit(images(misfit.operator))).shape == (2,)


@pytest.mark.parametrize("make", PRIORS, ids=lambda make: make.__name__)
def test_priors(make):
    prior = on("meta", make((1, 6, 5)))
    x = torch.zeros(2, 1, 6, 5, device="meta")
    assert watch(lambda: prior(x, 1.0)).device.type == "meta"


def problem_whose_operator_has_no_tensors():
    affine = Affine(0.5, 1.0, (1, 6, 5))
    return inverse_problem(GaussianMisfit(affine, torch.ones(1, 1, 6, 5), 0.1))


@pytest.mark.parametrize(
    "make_problem",
    [*PROBLEMS, problem_whose_operator_has_no_tensors],
    ids=lambda make: make.__name__,
)
@pytest.mark.parametrize("make", SOLVERS, ids=lambda make: make.__name__)
def test_a_level_of_every_solver(make, make_problem):
    solver, problem = make(), on("meta", make_problem())
    if solver.requires - problem.provides:
        pytest.skip(f"needs {set(solver.requires)}")
    noise = SampleNoise(0, (0, 1))
    with torch.no_grad():
        with Watch():  # once for a run: it may look
            problem = problem.prepare(solver)
            state = solver.init(problem, noise)
        state = watch(lambda: solver.step(1, state, problem, noise))
    assert state.x.device.type == state.estimate.device.type == "meta"


def test_every_look_is_still_there():
    """So that the list is no longer than it has to be."""
    seen = set()
    for problem, solver in (
        (linear_problem, lmaps),
        (linear_problem, lmaps_conjugate_gradient),
        (linear_problem, dmplug),
    ):
        moved, noise = on("meta", problem()), SampleNoise(0, (0, 1))
        with torch.no_grad(), Watch() as watched:
            solver().step(1, solver().init(moved, noise), moved, noise)
        seen |= watched.looks
    operator = on("meta", full_wave_scattering())
    with Watch() as watched:
        operator.pullback(images(operator))
    assert seen | watched.looks == set(LOOKS)


@CUDA
@pytest.mark.parametrize("make", OPERATORS, ids=lambda make: make.__name__)
def test_operators_on_cuda_agree_with_the_cpu(make):
    operator = make()
    x = images(operator, "cpu").double()
    expected, pull = operator.pullback(x)
    got, other = on("cuda", operator, torch.float64).pullback(x.cuda())
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(other(got).cpu(), pull(expected), rtol=1e-9, atol=1e-9)


@CUDA
@pytest.mark.parametrize("make_problem", PROBLEMS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("make", SOLVERS, ids=lambda make: make.__name__)
def test_solvers_on_cuda_agree_with_the_cpu(make, make_problem):
    solver, problem = make(), make_problem()
    if solver.requires - problem.provides:
        pytest.skip(f"needs {set(solver.requires)}")
    few = {"n_samples": 2, "progress": False}
    expected = lmaps_science.sample(problem, solver, **few).samples
    got = lmaps_science.sample(on("cuda", problem, torch.float64), solver, **few).samples
    torch.testing.assert_close(
        torch.as_tensor(got), torch.as_tensor(expected), rtol=1e-5, atol=1e-5
    )

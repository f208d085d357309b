"""The algorithm that InverseBench sees, on operators with the habits of its own."""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from benchmark_like import (
    Amplitudes,
    BlackHole,
    Flow,
    KSpace,
    Network,
    Operator,
    Scattering,
    Waves,
)

from lmaps_science.cards.methods import build_solver
from lmaps_science.integrations.inversebench import Algorithm
from lmaps_science.integrations.inversebench.known import recognise
from lmaps_science.integrations.inversebench.operators import random_image
from lmaps_science.io import DataError
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.physics.closure_misfit import ClosureMisfit
from lmaps_science.physics.mri import MultiCoilMRI
from lmaps_science.physics.scattering import BornScattering
from lmaps_science.sampling import Solver, State, start
from lmaps_science.sampling.loop import NonFiniteError

CG = {"method": "conjugate_gradient", "iterations": 60, "tolerance": 1e-5}
KNOWN = {"scattering": (Scattering, 1), "kspace": (KSpace, 2), "black hole": (BlackHole, 1)}
OURS = {"scattering": BornScattering, "kspace": MultiCoilMRI}
FAST_LEVELS = {"levels": 6, "sigma_max": 5.0, "sigma_min": 0.02}


def sizes(op):
    return {"scattering": 16, "kspace": 24, "black hole": 16}[op]


def setting(name, **options):
    """(network, operator, observation, target) of one of the three."""
    kind, channels = KNOWN[name]
    op, net = kind(**options), Network(channels, sizes(name))
    torch.manual_seed(3)
    shape = (1, channels, sizes(name), sizes(name))
    target = 0.4 * torch.nn.functional.avg_pool2d(torch.randn(shape), 5, 1, 2)
    return net, op, op({"target": target}), target


def algorithm(name, net, op, **options):
    local = {"method": "lbfgs"} if name == "black hole" else CG
    return Algorithm(net, op, **{"local": local, **FAST_LEVELS, **options})


@pytest.mark.parametrize("name", KNOWN)
def test_known_operators_are_replaced_and_the_benchmarks_own_gives_the_same_samples(name):
    net, op, observation, _ = setting(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = algorithm(name, net, op)
        problem = fast.problem(observation)
    if name == "black hole":
        assert isinstance(problem.misfit, ClosureMisfit)
    else:
        assert isinstance(problem.misfit.operator.outer, OURS[name])
    slow = algorithm(name, net, op, fast=False)
    own = slow.problem(observation)
    z = torch.rand(1, *problem.image_shape) - 0.5
    (g, value), (h, other) = problem.misfit.gradient(z), own.misfit.gradient(z)
    assert torch.allclose(value, other, rtol=1e-4)
    assert torch.linalg.norm(g - h) < 1e-4 * torch.linalg.norm(h)
    assert problem.misfit.objective_scale == pytest.approx(own.misfit.objective_scale)
    x, y = (a.inference(observation, verbose=False) for a in (fast, slow))
    # Iterations stop where float32 does: L-BFGS, which is stopped early, at another image.
    assert torch.linalg.norm(x - y) < (0.2 if name == "black hole" else 1e-2) * torch.linalg.norm(y)


@pytest.mark.parametrize("name", KNOWN)
def test_the_published_unit_is_half_the_sum_of_squares_and_of_black_holes_the_loss(name):
    net, op, observation, _ = setting(name)
    z = torch.rand(1, net.img_channels, net.img_resolution, net.img_resolution) - 0.5
    share = 1.0 if name == "black hole" else 0.5
    for fast in (True, False):
        misfit = algorithm(name, net, op, fast=fast).problem(observation).misfit
        expected = share * op.loss(z, observation).float()
        assert torch.allclose(misfit.objective_scale * misfit(z), expected, rtol=1e-4)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", KNOWN)
def test_four_samples_are_different_right_and_the_same_alone(name, fast):
    net, op, observation, _ = setting(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(5)
        together = algorithm(name, net, op, fast=fast).inference(observation, 4, verbose=False)
        torch.manual_seed(5)
        alone = algorithm(name, net, op, fast=fast, batch_size=1).inference(observation, 4, False)
    assert together.shape == (4, net.img_channels, net.img_resolution, net.img_resolution)
    assert together.dtype == torch.float32
    assert not together.requires_grad
    for k in range(4):
        for j in range(k):
            assert torch.linalg.norm(together[k] - together[j]) > 1e-3
    if name == "black hole":
        return  # its local problems are not solved to the end: rounding shows
    assert torch.linalg.norm(together - alone) < 1e-2 * torch.linalg.norm(alone)
    problem = algorithm(name, net, op).problem(observation)
    expected = observation.numel() * (0.5 if name == "kspace" else 1)
    if name == "kspace":
        expected *= float(op.mask.float().mean())
    chi2 = problem.misfit(together) / expected  # L of data with their noise: half of each number
    assert ((chi2 > 0.3) & (chi2 < 1.5)).all(), chi2


def test_operators_that_ignore_batches_are_looped_over_with_one_warning():
    net, op, observation, _ = setting("scattering")
    with pytest.warns(UserWarning, match="first image of a batch only") as caught:
        problem = algorithm("scattering", net, op, fast=False).problem(observation, samples=3)
    assert len(caught) == 1
    z = torch.rand(3, 1, 16, 16) - 0.5
    slopes, values = problem.misfit.gradient(z)
    for k in range(3):
        slope, value = problem.misfit.gradient(z[k : k + 1])
        assert torch.allclose(slopes[k], slope[0])
        assert torch.allclose(values[k], value[0])
    for name in ("kspace", "black hole"):
        net, op, observation, _ = setting(name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            algorithm(name, net, op, fast=False).problem(observation, samples=3)


@pytest.mark.parametrize("name", KNOWN)
def test_an_operator_that_only_looks_like_a_known_one_is_left_alone(name):
    net, op, observation, _ = setting(name)
    forward, loss = op.forward, op.loss
    op.forward = lambda z, *rest: 1.001 * forward(z, *rest)
    op.loss = lambda z, y: 1.001 * loss(z, y)
    with pytest.warns(UserWarning, match="cannot be replaced.*differ"):
        problem = algorithm(name, net, op).problem(observation)
    assert "of the benchmark" in repr(problem.misfit.operator.__dict__.get("outer", problem.misfit))


def test_data_like_those_of_the_random_image_are_no_reason_to_doubt_our_operator():
    """Of their difference float32 keeps few digits; any image of noise is like any other here."""
    op, net = Scattering(), Network(1, 16)
    observation = op({"target": 0.999 * random_image((1, 16, 16), torch.empty(0))})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Algorithm(net, op).problem(observation)


def test_amplitudes_among_the_data_are_the_benchmarks_own_business():
    net, op, observation, _ = setting("black hole", weight_amp=1.0)
    with pytest.warns(UserWarning, match="visibility amplitudes"):
        algorithm("black hole", net, op).problem(observation)


def test_a_list_of_receivers_and_a_loss_that_has_its_half():
    op, net = Waves(), Network(1, 8)
    target = 0.3 * torch.randn(1, 1, 8, 8)
    observation = op({"target": target})
    found = Algorithm(net, op, levels=4, local="lbfgs")
    problem = found.problem(observation)
    z = torch.zeros(1, 1, 8, 8)
    assert torch.allclose(problem.misfit(z), op.loss(z, observation).float())
    found = Algorithm(net, op, noise=0.01, levels=20, local="lbfgs")
    with pytest.warns(UserWarning, match="first image"):
        samples = found.inference(observation, num_samples=2, verbose=False)
    assert samples.shape == (2, 1, 8, 8)
    after, before = op.loss(samples, observation), op.loss(0 * samples, observation)
    assert (after < 0.05 * before).all()


def test_an_operator_without_gradient_is_refused_in_a_sentence():
    op, net = Flow(sigma_noise=0.1), Network(1, 8)
    observation = op({"target": torch.randn(1, 1, 8, 8)})
    with pytest.raises(DataError, match=r"Flow has no gradient.*algorithm=enkg"):
        Algorithm(net, op, levels=2).inference(observation)
    op.gradient = None
    with pytest.raises(TypeError):  # a mistake of the operator's author, passed on
        Algorithm(net, op, levels=2).inference(observation)


def test_an_unknown_operator_works_by_its_loss_and_gradient_divided_by_its_noise():
    op, net = Amplitudes(sigma_noise=0.05), Network(1, 8)
    observation = op({"target": torch.randn(1, 1, 8, 8)})
    problem = Algorithm(net, op).problem(observation, samples=2)
    z = torch.rand(2, 1, 8, 8)
    slopes, values = problem.misfit.gradient(z)
    assert torch.allclose(values, 0.5 * op.loss(z, observation) / 0.05**2)
    assert torch.allclose(slopes, 0.5 * op.gradient(z, observation) / 0.05**2)
    observation = observation.requires_grad_()  # as where an operator has parameters
    samples = Algorithm(net, op, "dps", levels=5).inference(observation, 2, verbose=False)
    assert torch.isfinite(samples).all()
    assert not samples.requires_grad
    with pytest.raises(ValueError, match="needs a problem that is gaussian"):
        Algorithm(net, op, "ddrm").inference(observation)


@pytest.mark.parametrize("own", [True, False])
def test_svd_methods_take_its_vectors_or_compute_them(own, tmp_path, monkeypatch):
    import pooch

    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path)
    net, op, observation, _target = setting("scattering", svd=own)
    found = Algorithm(net, op, "ddrm", levels=100)
    problem = found.problem(observation)
    svd = problem.svd()
    x = torch.randn(1, 1, 16, 16)
    normal = svd.normal(x)
    again = svd.V(svd.singular_values**2 * svd.Vt(x))
    assert torch.linalg.norm(again - normal) < 1e-3 * torch.linalg.norm(normal)
    assert bool(list(tmp_path.iterdir())) is not own
    samples = found.inference(observation, verbose=False)
    assert op.loss(samples, observation) < 2 * observation.numel() * 1e-4**2  # that of the noise


def test_singular_vectors_of_another_operator_are_refused():
    net, op, observation, _ = setting("scattering", svd=True)
    op.V_t = op.V_t.roll(3, 1)
    with pytest.raises(DataError, match="cache/inv-scatter"):
        Algorithm(net, op, "ddrm").problem(observation)


class Blur(Operator):
    """Linear by its own account: it has singular vectors."""

    def __init__(self, **options):
        super().__init__(**options)
        matrix = torch.randn(40, 64, generator=torch.Generator().manual_seed(0)).double()
        self.matrix = matrix
        self.U, self.S, self.right = torch.linalg.svd(matrix, full_matrices=False)

    def forward(self, x):
        return self.unnormalize(x).flatten(1).double() @ self.matrix.T

    def Vt(self, x):
        return x.flatten(1).double() @ self.right.T

    def V(self, c):
        return (c.double() @ self.right).reshape(-1, 1, 8, 8)


@pytest.mark.parametrize("method", ["ddrm", "lmaps"])
def test_an_unknown_operator_with_singular_vectors_is_linear(method):
    op, net = Blur(sigma_noise=0.05, unnorm_shift=0.5), Network(1, 8)
    target = 0.3 * torch.randn(1, 1, 8, 8)
    observation = op({"target": target})
    options = {"local": CG, **FAST_LEVELS} if method == "lmaps" else {"levels": 20}
    found = Algorithm(net, op, method, **options)
    assert isinstance(found.problem(observation).misfit, GaussianMisfit)
    samples = found.inference(observation, num_samples=3, verbose=False)
    assert (op.loss(samples, observation) < 0.05 * op.loss(0 * samples, observation)).all()


# ---------------------------------------------------------------- randomness, precision, freezing


def test_the_global_generators_stay_as_they_are_and_seeds_decide():
    net, op, observation, _ = setting("kspace")
    found = algorithm("kspace", net, op)
    torch.manual_seed(11)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one = found.inference(observation, 2, verbose=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002
    torch.randn(7)  # what others draw does not matter
    assert torch.equal(found.inference(observation, 2, verbose=False), one)
    torch.manual_seed(12)
    assert not torch.allclose(found.inference(observation, 2, verbose=False), one, atol=1e-3)


def test_observations_have_random_numbers_of_their_own_whichever_came_before():
    net, op, first, target = setting("kspace")
    second = op({"target": target})
    found = algorithm("kspace", net, op)
    keys = [found.problem(y).keys for y in (first, second, first.clone())]
    assert keys[0] == keys[2] != keys[1]


def test_the_network_is_frozen_and_sees_batches():
    net, op, observation, _ = setting("kspace")
    net.train()
    found = algorithm("kspace", net, op)
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    found.inference(observation, 3, verbose=False)
    assert net.largest_batch == 3


def test_products_are_full_float32_but_the_networks_keep_what_the_benchmark_set():
    net, op, observation, _ = setting("scattering")
    seen = []
    forward = net.forward
    net.forward = lambda *a: (seen.append(torch.get_float32_matmul_precision()), forward(*a))[1]

    @dataclass(frozen=True)
    class Watch(Solver):
        @property
        def schedule(self):
            return build_solver("lmaps").schedule

        def step(self, i, state, problem, noise):
            seen.append("solver " + torch.get_float32_matmul_precision())
            problem.prior(state.x, float(self.sigmas[i]))
            return State(x=state.x, estimate=start(problem, noise, 0.0).estimate)

    found = algorithm("scattering", net, op)
    found.solver = Watch()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        found.inference(observation, verbose=False)
        assert set(seen) == {"high", "solver highest"}
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_nan_raises():
    net, op, observation, _ = setting("kspace")
    broken = observation.clone()
    broken[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="1 NaN or infinite"):
        algorithm("kspace", net, op).inference(broken)
    net.bend.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        algorithm("kspace", net, op).inference(observation, verbose=False)


# ---------------------------------------------------------------- what it is given


def test_wrong_options_networks_and_noise_are_refused():
    net, op, observation, _ = setting("scattering")
    with pytest.raises(ValueError, match=r"has no option 'level'.*levels"):
        Algorithm(net, op, level=3)
    with pytest.raises(ValueError, match=r"algorithm.method.method: there is no 'lmap'.*LMAPS"):
        Algorithm(net, op, "lmap")
    with pytest.raises(DataError, match="pretrain="):
        Algorithm(torch.nn.Identity(), op)
    op.sigma_noise = 0.0
    with pytest.raises(DataError, match=r"\+algorithm.method.noise"):
        algorithm("scattering", net, op).inference(observation)
    stated = algorithm("scattering", net, op, noise=2e-4).problem(observation)
    assert float(stated.gaussian().sigma) == pytest.approx(2e-4)


def test_tuned_settings_are_those_of_the_operator_and_options_come_on_top():
    net, op, _, _ = setting("scattering", receivers=170)
    assert recognise(op).settings == "scattering_180"
    plain = Algorithm(net, op, tuned=True)
    assert plain.solver.kappa == 3.0
    assert plain.solver.local.iterations == 30
    other = Algorithm(net, op, tuned=True, levels=5, local={"iterations": 7})
    assert other.solver.levels == 5
    assert other.solver.local.iterations == 7
    assert other.solver.local.tolerance == plain.solver.local.tolerance
    steps = Algorithm(net, op, tuned=True, local={"method": "gradient_steps", "steps": 3})
    assert type(steps.solver.local).__name__ == "GradientSteps"
    for name, expected in (("kspace", "mri_4_raw"), ("black hole", "blackhole_100")):
        net, op, _, _ = setting(name)
        assert recognise(op).settings == expected
    op.observation_time_ratio = 0.03
    assert recognise(op).settings == "blackhole_3"
    net, op, _, _ = setting("kspace")
    op.mask = torch.arange(24) % 8 == 0
    op.mask = op.mask[None, None, None]
    assert recognise(op).settings == "mri_8_raw"
    with pytest.warns(UserWarning, match="nothing was tuned for dps on Waves"):
        Algorithm(Network(1, 8), Waves(), "dps", tuned=True)


def test_strangers_solvers_work_by_their_name():
    net, op, observation, _ = setting("kspace")
    found = Algorithm(net, op, "lmaps_science.solvers:DiffPIR", levels=3)
    assert found.inference(observation, verbose=False).shape == (1, 2, 24, 24)

"""Conditional denoisers: begin as the prior, learn from hints, belong to one prior."""

import copy
from dataclasses import replace

import pytest
import torch
from registries import DenseSVD, a_positive_image

from lmaps_science.io import DataError
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.operators import Affine
from lmaps_science.priors import (
    ConditionalDenoiser,
    Control,
    NetworkDenoiser,
    build_network,
    from_function,
    load_control,
    load_prior,
    save_control,
    save_prior,
)
from lmaps_science.sampling import InverseProblem, hint, sample, stack
from lmaps_science.solvers import DMAP, DPS, LMAPS, FreeDoM, Population
from lmaps_science.training import ArrayImages, TrainingSettings
from lmaps_science.training.control import FirstImages, train_control

SONG = {
    "architecture": "song",
    "preconditioning": "edm",
    "image_shape": [1, 8, 8],
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
DHARIWAL = SONG | {"architecture": "dhariwal", "model_channels": 64}
ADM = SONG | {
    "architecture": "adm",
    "preconditioning": "vp",
    "model_channels": 32,
    "attn_resolutions": [4],
    "num_heads": 2,
}
CONFIGS = {
    "song": SONG,
    "patches": SONG | {"patch": 2, "sigma_data": 0.4},
    "encoders": SONG | {"encoder": "residual", "decoder": "skip", "embedding": "fourier"},
    "dhariwal": DHARIWAL,
    "adm": ADM,
    "adm with variance": ADM | {"out_channels": 2},
}


def random_prior(config, seed=0):
    """A network whose weights are random throughout, those that begin at zero as well."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(config)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return NetworkDenoiser(network)


def noisy(batch=3, seed=0):
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def problem(prior, conditional=None, seed=0):
    generator = torch.Generator().manual_seed(1)
    operator = DenseSVD(torch.randn(20, 64, generator=generator) / 8, (1, 8, 8))
    y = operator(a_positive_image((1, 8, 8)).float() - 0.5 + 0.01 * seed)
    misfit = GaussianMisfit(operator, y, 0.05)
    return InverseProblem(prior, misfit, Affine(1.0, 0.0, (1, 8, 8)), conditional=conditional)


@pytest.mark.parametrize("name", CONFIGS)
def test_before_training_it_is_the_prior(name):
    prior = random_prior(CONFIGS[name])
    denoiser = ConditionalDenoiser(prior, Control(prior.network)).told(noisy(seed=1))
    for sigma in (0.05, 3.0):
        torch.testing.assert_close(denoiser(noisy(), sigma), prior(noisy(), sigma))


@pytest.mark.parametrize("name", CONFIGS)
def test_with_other_weights_the_hint_matters_and_samples_do_not_mix(name):
    prior = random_prior(CONFIGS[name])
    control = Control(prior.network)
    for parameter in control.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(3))
    one = ConditionalDenoiser(prior, control)
    hints = noisy(seed=1)
    told = one.told(hints)(noisy(), 1.0)
    other = one.told(noisy(seed=2))(noisy(), 1.0)
    assert ((told - other).abs().amax((1, 2, 3)) > 1e-4).all()
    for k in range(3):
        alone = one.told(hints[k : k + 1])(noisy()[k : k + 1], 1.0)
        torch.testing.assert_close(alone[0], told[k], rtol=1e-4, atol=1e-5)


def test_the_encoder_that_is_copied_is_no_part_of_the_prior():
    prior = random_prior(SONG)
    before = prior.checksum()
    control = Control(prior.network)
    for parameter in control.parameters():
        torch.nn.init.normal_(parameter)
    assert prior.checksum() == before
    names = set(control.encoder.state_dict())
    assert not any(name.startswith("dec.") for name in names)


def test_a_hint_is_the_map_estimate_for_white_images():
    misfit = problem(random_prior(SONG)).misfit
    operator = misfit.operator
    a = operator(torch.eye(64).reshape(64, 1, 8, 8)).T.double()
    expected = torch.linalg.solve(a.T @ a / 0.05**2 + torch.eye(64).double(),
                                  a.T @ misfit.y[0].double() / 0.05**2)  # fmt: skip
    found = hint(misfit, 2)
    assert found.shape == (2, 1, 8, 8)
    error = (found[0].flatten().double() - expected).norm() / expected.norm()
    assert float(error) < 0.03


def test_solvers_use_it_when_they_are_told_to():
    prior = random_prior(SONG)
    control = Control(prior.network)
    with torch.no_grad():
        for joint in control.joints:
            joint.bias.fill_(0.3)
    conditional = ConditionalDenoiser(prior, control)
    for solver in (DPS(levels=6), DMAP(levels=6), FreeDoM(levels=6), LMAPS(levels=4)):
        plain = sample(problem(prior), solver, 2, progress=False)
        unused = sample(problem(prior, conditional), solver, 2, progress=False)
        torch.testing.assert_close(unused.estimates, plain.estimates)
        using = copy.copy(solver)
        object.__setattr__(using, "conditional", True)
        told = sample(problem(prior, conditional), using, 2, progress=False)
        assert (told.estimates - plain.estimates).abs().max() > 1e-4
        with pytest.raises(ValueError, match="train-conditional"):
            sample(problem(prior), using, progress=False)


def test_observations_side_by_side_are_each_told_their_own_data():
    prior = random_prior(SONG)
    control = Control(prior.network)
    for parameter in control.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(3))
    conditional = ConditionalDenoiser(prior, control)
    problems = [problem(prior, conditional, seed) for seed in range(2)]
    solver = LMAPS(levels=3, conditional=True)
    joined = sample(stack(problems), solver, 2, progress=False).split()
    for found, alone in zip(joined, problems, strict=True):
        expected = sample(alone, solver, 2, progress=False)
        torch.testing.assert_close(found.estimates, expected.estimates, rtol=1e-3, atol=1e-4)


def told_conditional(prior):
    control = Control(prior.network)
    for parameter in control.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(3))
    return ConditionalDenoiser(prior, control)


def test_particles_are_told_the_data_of_their_sample():
    prior = random_prior(SONG)
    problems = [problem(prior, told_conditional(prior), seed) for seed in range(2)]
    solver = Population(LMAPS(levels=5, sigma_max=20.0, conditional=True), 3, keep={0.66: 1})
    joined = sample(stack(problems), solver, 2, progress=False).split()
    for found, alone in zip(joined, problems, strict=True):
        expected = sample(alone, solver, 2, progress=False)
        torch.testing.assert_close(found.estimates, expected.estimates, rtol=1e-3, atol=1e-4)


def test_only_those_who_use_it_pay_for_being_told():
    prior = random_prior(SONG)
    with_one, without = problem(prior, told_conditional(prior)), problem(prior)
    counts = [sample(p, DPS(3), progress=False).counts for p in (with_one, without)]
    assert counts[0] == counts[1]
    solver = FreeDoM(6, conditional=True)
    counts = sample(with_one, solver, progress=False).counts
    assert solver.network_calls == counts["denoiser_calls"] + 2 * counts["denoiser_vjps"]


def test_dmap_ends_with_the_image_of_the_conditional():
    prior = random_prior(SONG)
    using = problem(prior, from_function(lambda x, sigma: 0 * x + 0.7, (1, 8, 8)))
    estimates = sample(using, DMAP(3, conditional=True), progress=False).estimates
    torch.testing.assert_close(estimates, torch.full_like(estimates, 0.7))


def test_untold_it_says_so():
    prior = random_prior(SONG)
    with pytest.raises(ValueError, match="must be told the data"):
        ConditionalDenoiser(prior, Control(prior.network))(noisy(), 1.0)


# ---------------------------------------------------------------- training and files


@pytest.fixture
def stored(tmp_path):
    prior = random_prior(SONG | {"model_channels": 8})
    return load_prior(save_prior(tmp_path / "prior.safetensors", prior, training={}))


def settings(steps):
    return TrainingSettings(
        steps=steps, batch_size=4, learning_rate=1e-2, warmup=1, validate_every=steps,
        validation_images=4,
    )  # fmt: skip


def images(seed):
    pixels = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(seed)).numpy()
    return ArrayImages(pixels)


def test_training_lowers_the_loss_leaves_the_prior_and_goes_on(stored, tmp_path):
    whole = problem(stored)
    before = stored.checksum()
    path = train_control(
        whole, FirstImages(images(0), 6), images(1), tmp_path / "run", settings(150), progress=False
    )
    assert stored.checksum() == before
    control, facts = load_control(path, stored)
    assert facts["training"]["step"] == 150
    x0 = 2 * torch.from_numpy(images(0).batch(0, 6)) - 1
    y = whole.misfit.operator(x0)
    told = ConditionalDenoiser(stored, control).told(hint(whole.misfit.with_data(y), 6))
    x = x0 + noisy(6)
    errors = [(d(x, 1.0) - x0).square().mean() for d in (told, stored)]
    assert errors[0] < 0.97 * errors[1]
    more = train_control(
        whole, FirstImages(images(0), 6), images(1), tmp_path / "run", settings(151), progress=False
    )
    assert load_control(more, stored)[1]["training"]["step"] == 151


def test_in_mixed_precision_operators_keep_the_precision_of_their_data(
    stored, tmp_path, monkeypatch
):
    halved, inner = [], DenseSVD._Vt

    def recording(self, x):
        halved.append(torch.is_autocast_enabled("cpu"))
        return inner(self, x)

    monkeypatch.setattr(DenseSVD, "_Vt", recording)
    mixed = replace(settings(2), precision="bf16")
    train_control(problem(stored), images(0), images(1), tmp_path, mixed, progress=False)
    assert set(halved) == {False}


def test_weights_for_another_prior_are_refused(stored, tmp_path):
    path = save_control(
        tmp_path / "control.safetensors", Control(stored.network), stored, training={}
    )
    load_control(path, stored)
    other = random_prior(SONG | {"model_channels": 8}, seed=1)
    other = load_prior(save_prior(tmp_path / "other.safetensors", other, training={}))
    with pytest.raises(DataError, match=r"beside another prior, prior.safetensors"):
        load_control(path, other)


@pytest.mark.parametrize("fault", ["prior", "cut", "text"])
def test_other_files_are_refused(fault, stored, tmp_path):
    path = tmp_path / "control.safetensors"
    save_control(path, Control(stored.network), stored, training={})
    if fault == "prior":
        path = tmp_path / "prior.safetensors"
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:3000])
    else:
        path.write_text("no weights")
    with pytest.raises(DataError, match="conditional weights"):
        load_control(path, stored)


def test_a_prior_that_is_no_network_is_refused(tmp_path):
    from lmaps_science.priors import from_function

    plain = from_function(lambda x, sigma: x, (1, 8, 8))
    whole = problem(plain)
    with pytest.raises(ValueError, match="network prior"):
        train_control(whole, images(0), images(1), tmp_path, settings(1), progress=False)
    with pytest.raises(ValueError, match="network prior"):
        ConditionalDenoiser(plain, None)

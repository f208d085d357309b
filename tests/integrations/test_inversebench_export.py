"""Our operators as InverseBench's: its contract, kept for every operator, and its algorithms."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from inversebench_items import GOLDEN, inversebench  # noqa: F401
from registries import OPERATORS, a_positive_image, closure_misfit, inverse_problem, linear_problem

from lmaps_science.cards.load import load_problem
from lmaps_science.integrations.inversebench.export import (
    TrueImages,
    as_evaluator,
    as_forward_op,
    forward_op,
)
from lmaps_science.io import DataError
from lmaps_science.operators import Affine, Operator
from lmaps_science.physics.closure_misfit import ClosureMisfit
from lmaps_science.physics.mri import MultiCoilMRI
from lmaps_science.sampling import stack

FIELDS = {
    "scattering": ("scattering/linear_60", {
        "image.npix": 16, "observation.transmitters": 4, "observation.receivers": 12,
        "observation.missing_receivers": 0.3,
    }),
    "full wave": ("scattering/full_wave", {
        "image.npix": 16, "image.side": 0.05, "observation.transmitters": 3,
        "observation.receivers": 10, "observation.frequencies_ghz": [3.0],
    }),
    "mri": ("mri/simulated", {
        "kspace.npix": 32, "kspace.coils": 3, "maps.source": "file", "scaling": "reference",
    }),
    "black hole": ("black_hole/inversebench_10", {
        "observation.coverage": {"kind": "uvfits", "file": str(GOLDEN / "black_hole_obs.uvfits"),
                                 "average_seconds": None},
    }),
}  # fmt: skip
PACKAGES = {"mri": "sigpy", "black hole": "ehtim"}


def field_problem(field, **changes):
    pytest.importorskip(PACKAGES.get(field, "torch"))
    card, overrides = FIELDS[field]
    return load_problem(card, prior="gaussian", overrides={**overrides, **changes})


def true_model_image(problem, op):
    return op.normalize(torch.as_tensor(problem.truth.values).reshape(1, *problem.image_shape))


class Shrinker(torch.nn.Module):
    """A network as the program has them: net(x, sigma), its parameters not frozen."""

    def __init__(self, shape):
        super().__init__()
        self.img_channels, self.img_resolution = shape[0], shape[-1]
        self.variance = torch.nn.Parameter(torch.tensor(0.25))

    def forward(self, x, sigma):
        sigma = sigma.reshape(-1, 1, 1, 1)
        return x * self.variance / (self.variance + sigma**2)


def guided_descent(op, observation, net, num_samples=1, steps=8):
    """A client of the contract alone: repeats the observation, takes the summed loss."""
    if num_samples > 1:
        observation = observation.repeat(num_samples, 1, 1, 1)
    shape = (num_samples, net.img_channels, net.img_resolution, net.img_resolution)
    x = torch.randn(shape, device=op.device)
    for sigma in torch.logspace(0, -2, steps):
        x = x.detach().requires_grad_()
        denoised = net(x, sigma)
        gradient, loss = op.gradient(denoised, observation, return_loss=True)
        assert loss.ndim == 0
        (pulled,) = torch.autograd.grad(denoised, x, gradient)
        x = denoised - 0.1 * pulled / loss.sqrt()
    return op.unnormalize(x.detach())


# ---------------------------------------------------------------- every operator


@pytest.mark.parametrize("make", OPERATORS, ids=lambda make: make.__name__)
def test_any_operator_keeps_the_contract(make):
    """Loss sum |H(x) - y|^2 a sample, its gradient, and the gradient by the measurements."""
    operator = make()
    if operator.batch is not None:
        pytest.skip("an operator for a batch is not one forward operator")
    op = as_forward_op(operator, sigma_noise=0.0)
    image = a_positive_image(operator.image_shape).to(operator.like)
    x = torch.cat([image, 0.5 * image])
    y = op({"target": x[:1]})
    assert y.ndim == 4
    assert len(y) == 1
    torch.testing.assert_close(y, op.forward(x[:1]))  # no noise
    residual = operator(x) - operator(x[:1])
    expected = residual.abs().square().flatten(1).sum(1)
    torch.testing.assert_close(op.loss(x, y), expected)
    torch.testing.assert_close(op.loss_m(op.forward(x), y), expected)
    torch.testing.assert_close(op.loss(x, y.repeat(2, 1, 1, 1)), expected)
    z = x + 0.1
    gradient, loss = op.gradient(z, y, return_loss=True)
    torch.testing.assert_close(loss, op.loss(z, y).sum())
    leaf = z.clone().requires_grad_()
    op.loss(leaf, y).sum().backward()
    torch.testing.assert_close(gradient, leaf.grad)
    for k in range(2):  # each sample has its own
        torch.testing.assert_close(op.gradient(z[k : k + 1], y)[0], gradient[k])
    by_data = op.gradient_m(op.forward(z), y)
    torch.testing.assert_close(by_data, 2 * (op.forward(z) - y))


def test_an_operator_on_physical_images():
    operator = linear_problem().misfit.operator
    affine = Affine(0.5, 1.0, operator.image_shape)
    op = as_forward_op(operator, decode=affine, sigma_noise=0.3)
    x = a_positive_image(operator.image_shape)
    assert (op.unnorm_shift, op.unnorm_scale) == (1.0, 0.5)
    assert op.sigma_noise == pytest.approx(0.3)
    torch.testing.assert_close(op.unnormalize(x), 0.5 * (x + 1))
    torch.testing.assert_close(op.normalize(op.unnormalize(x)), x)
    torch.testing.assert_close(op.forward(x), op.forward(0.5 * (x + 1), unnormalize=False))
    torch.testing.assert_close(op.forward(x)[:, 0, 0], operator(affine(x)))
    assert op.gradient(x.float(), op.forward(x)).dtype == torch.float32
    op.close()


def test_noise_is_the_misfits():
    """Complex: E |n|^2 = sigma^2, half of it in each part; from the global generator."""
    maps = torch.ones(1, 64, 64, dtype=torch.complex64)
    mask = torch.zeros(1, 64, dtype=torch.bool)
    mask[:, ::2] = True
    op = as_forward_op(MultiCoilMRI(maps, mask), sigma_noise=0.2)
    image = torch.zeros(1, 2, 64, 64)
    torch.manual_seed(3)
    y = op({"target": image})[0, 0]
    assert (y[:, 1::2] == 0).all()  # what is not sampled has no noise
    seen = y[:, ::2]
    assert float(seen.real.var()) == pytest.approx(0.02, rel=0.1)
    assert float(seen.imag.var()) == pytest.approx(0.02, rel=0.1)
    torch.manual_seed(3)
    torch.testing.assert_close(op({"target": image})[0, 0], y)


def test_closure_quantities_are_drawn_with_their_errors():
    misfit = closure_misfit()
    x = a_positive_image(misfit.operator.image_shape)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([misfit.simulate(x, generator) for _ in range(400)])
    exact = misfit.expected(x)
    n_cp, n_ca = misfit.cphase.shape[1], misfit.logcamp.shape[1]
    parts = (drawn - exact).split([n_cp, n_cp, n_ca, n_ca, 1], dim=1)
    torch.testing.assert_close(parts[0].std(0), misfit.cphase_sigma[0], rtol=0.2, atol=0)
    torch.testing.assert_close(parts[2].std(0), misfit.logcamp_sigma[0], rtol=0.2, atol=0)
    assert all((parts[k] == 0).all() for k in (1, 3, 4))
    other = misfit.with_data(drawn[:1])
    torch.testing.assert_close(other.data, drawn[:1])
    torch.testing.assert_close(other.of_expected(other.expected(x)), other(x))
    torch.testing.assert_close(misfit.with_data(misfit.data)(x), misfit(x))
    with pytest.raises(ValueError, match="data has shape"):
        misfit.with_data(drawn[:, 1:])


def test_the_loss_of_closures_is_the_programs():
    """Four times L: 2 (n_cp chi2_cp + n_ca chi2_ca + chi2_flux / 2)."""
    op = as_forward_op(inverse_problem(closure_misfit() @ Affine(0.5, 1.0, (1, 9, 9))))
    x = a_positive_image((1, 9, 9))
    y = op({"target": 0.7 * x})
    misfit = op._misfit
    assert isinstance(misfit, ClosureMisfit)
    torch.testing.assert_close(op.loss(x, y), 4 * misfit.with_data(y[:, 0, 0])(x))


# ---------------------------------------------------------------- the three fields


@pytest.mark.parametrize("field", FIELDS)
def test_fields_keep_the_contract(field):
    problem = field_problem(field)
    op = as_forward_op(problem)
    x = true_model_image(problem, op)
    torch.manual_seed(0)
    y = op({"target": x})
    assert y.ndim == 4
    assert op.loss(x, y) > 0
    torch.testing.assert_close(op.loss(x, op.forward(x)), torch.zeros(1), atol=1e-6, rtol=0)
    assert op.device == torch.device("cpu")
    x = 0.9 * x - 0.05
    gradient = op.gradient(x, y)
    leaf = x.clone().requires_grad_()
    op.loss(leaf, y).sum().backward()
    torch.testing.assert_close(
        gradient, leaf.grad, rtol=1e-3, atol=1e-4 * float(gradient.abs().max())
    )
    measured = as_forward_op(problem, measured=True)
    own = measured({"target": torch.zeros_like(x)})
    torch.testing.assert_close(own.reshape(problem.misfit.data.shape), problem.misfit.data)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("field", FIELDS)
def test_a_client_runs_on_our_physics(field, samples):
    problem = field_problem(field)
    op = as_forward_op(problem)
    x = true_model_image(problem, op)
    torch.manual_seed(0)
    y, net = op({"target": x}), Shrinker(problem.image_shape)
    recon = guided_descent(op, y, net, samples)
    assert recon.shape == (samples, *problem.image_shape)
    evaluator = as_evaluator(op)
    scores = evaluator(pred=recon, target=op.unnormalize(x), observation=y)
    assert all(np.isfinite(value) for value in scores.values())
    assert "psnr" in scores
    perfect = evaluator(pred=op.unnormalize(x), target=op.unnormalize(x)[0], observation=y)
    assert perfect["psnr"] > scores["psnr"]
    chi2 = next(value for name, value in perfect.items() if "chi2" in name)
    assert 0.3 < chi2 < 2.0
    mean = evaluator.compute()
    both = [scores["psnr"], perfect["psnr"]]
    if np.isfinite(both).all():
        assert mean["psnr"] == pytest.approx(np.mean(both))
        assert mean["psnr_std"] == pytest.approx(np.std(both))


def test_evaluators_take_the_observation_that_they_are_given():
    """Not the problem's own: chi2 of that is another."""
    problem = field_problem("scattering")
    op, evaluator = as_forward_op(problem), as_evaluator(problem)
    x = true_model_image(problem, op)
    pred, target = op.unnormalize(0.9 * x), op.unnormalize(x)
    exact = evaluator(pred, target, op.forward(0.9 * x))
    assert exact["chi2"] == pytest.approx(0, abs=1e-5)
    assert evaluator(pred, target, op.forward(x))["chi2"] > 1
    own = evaluator(pred, target)
    assert own["chi2"] == pytest.approx(float(problem.evaluate(pred[0].numpy())["chi2"][0]))
    assert len(evaluator.metric_state["chi2"]) == 3


def test_what_a_configuration_of_the_program_names():
    card, overrides = FIELDS["scattering"]
    op, images = forward_op(card, overrides=overrides), TrueImages(card, overrides=overrides)
    assert (len(images), list(images.id_list)) == (1, [0])
    target = images[0]["target"]
    assert target.shape == (1, 16, 16)
    truth = field_problem("scattering").truth.values
    torch.testing.assert_close(op.unnormalize(target[None])[0, 0], torch.as_tensor(truth))
    batch = next(iter(torch.utils.data.DataLoader(images, batch_size=1)))
    assert op(batch).shape == (1, 1, 4, 12)
    true_image = op.unnormalize(batch["target"])
    assert as_evaluator(forward_op=op)(true_image, true_image)["psnr"] > 60
    with pytest.raises(IndexError):
        images[1]


def test_refusals():
    problem = linear_problem()
    with pytest.raises(ValueError, match="omit decode and sigma_noise"):
        as_forward_op(problem, sigma_noise=0.1)
    with pytest.raises(ValueError, match="no measured data"):
        as_forward_op(problem.misfit.operator, measured=True)
    with pytest.raises(ValueError, match="sigma_noise >= 0"):
        as_forward_op(problem.misfit.operator, sigma_noise=-1)
    with pytest.raises(ValueError, match="2 observations"):
        as_forward_op(stack([problem, problem]))
    with pytest.raises(DataError, match="metrics belong to the problem of a card"):
        as_evaluator(as_forward_op(problem))
    op = as_forward_op(problem)
    with pytest.raises(ValueError, match="observation of shape"):
        op.loss(torch.zeros(1, 1, 6, 5, dtype=torch.float64), torch.zeros(1, 1, 1, 7))

    class Decoder(Operator):
        image_shape = data_shape = (1, 6, 5)

        def _forward(self, x):
            return x**3

    op._decode = Decoder()
    with pytest.raises(ValueError, match="has no inverse"):
        op.normalize(torch.zeros(1, 1, 6, 5, dtype=torch.float64))


# ---------------------------------------------------------------- its own algorithms


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("field", FIELDS)
def test_its_own_algorithms_run_on_our_physics(field, samples, inversebench):  # noqa: F811
    from algo.daps import DAPS
    from algo.dps import DPS

    problem = field_problem(field)
    op = as_forward_op(problem)
    x = true_model_image(problem, op)
    torch.manual_seed(0)
    y, net = op({"target": x}), Shrinker(problem.image_shape)
    schedule = {"sigma_min": 0.01, "schedule": "linear", "timestep": "poly-7"}
    dps = DPS(net, op, {"num_steps": 6, "sigma_max": 10.0, **schedule}, guidance_scale=0.1)
    annealing = {**schedule, "num_steps": 4, "sigma_max": 10, "sigma_min": 0.1, "sigma_final": 0}
    inner = {"num_steps": 3, **schedule, "sigma_final": 0}
    # Steps in units of the curvature, as its configurations have them by trial and error.
    g = op.gradient(x + 0.1, y) - op.gradient(x, y)
    rate = 0.01 * 0.1 * float(x.numel()) ** 0.5 / max(float(g.norm()), 1e-12)
    langevin = {"num_steps": 4, "lr": rate, "tau": 1.0}
    daps = DAPS(Shrinker(problem.image_shape), op, annealing, inner, langevin)
    for algorithm in (dps, daps):
        recon = algorithm.inference(y, num_samples=samples)
        assert recon.shape == (samples, *problem.image_shape)
        scores = as_evaluator(op)(op.unnormalize(recon.detach()), op.unnormalize(x), y)
        assert np.isfinite(scores["psnr"])
        if samples == 2:
            assert not torch.equal(recon[0], recon[1])


def test_its_main_program_runs_on_a_card_of_ours(tmp_path, inversebench):  # noqa: F811
    """The configuration that the module documents; two samples, each scored."""
    from models import precond

    network = precond.EDMPrecond(32, 1, model_type="DhariwalUNet", model_channels=8,
                                 channel_mult=[1, 2], num_blocks=1, attn_resolutions=[],
                                 dropout=0.0)  # fmt: skip
    torch.save({"ema": network.state_dict()}, tmp_path / "prior.pt")
    module = "lmaps_science.integrations.inversebench.export"
    card = {"card": "scattering/linear_60",
            "overrides": {"image.npix": 32, "observation.transmitters": 6}}  # fmt: skip
    problem = {
        "name": "mine",
        "prior": "prior.pt",
        "model": {"_target_": f"{module}.forward_op", **card},
        "data": {"_target_": f"{module}.TrueImages", **card},
        "evaluator": {"_target_": f"{module}.as_evaluator"},
        "exp_dir": "exps/mine",
    }
    (tmp_path / "conf" / "problem").mkdir(parents=True)
    (tmp_path / "conf" / "problem" / "mine.yaml").write_text(yaml.safe_dump(problem))
    command = [
        sys.executable, str(inversebench / "main.py"), "--config-dir", str(tmp_path / "conf"),
        "problem=mine", "pretrain=inv-scatter", "pretrain.model.img_resolution=32",
        "pretrain.model.model_channels=8", "pretrain.model.channel_mult=[1,2]",
        "pretrain.model.attn_resolutions=[]", "algorithm=dps", "num_samples=2",
        "algorithm.method.diffusion_scheduler_config.num_steps=4",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "exps" / "mine" / "DPS" / "default"
    saved = torch.load(folder / "result_0.pt", weights_only=True)
    assert saved["recon"].shape == (2, 1, 32, 32)
    assert saved["observation"].shape == (1, 1, 6, 60)
    assert "Final metric results: {'relative_misfit':" in (folder / "log.txt").read_text()

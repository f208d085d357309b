"""Priors of latents: decoders as operators, closed forms, PSLD, files, training, refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from registries import a_positive_image, decoder, dense_gaussian, dense_svd, gaussian_real
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from lmaps_science.arrays import norm
from lmaps_science.cards.load import load_problem
from lmaps_science.io import DataError, sha256
from lmaps_science.local_map import LBFGS, ConjugateGradient
from lmaps_science.misfit import GaussianMisfit
from lmaps_science.noise import SampleNoise
from lmaps_science.operators import Affine, Operator
from lmaps_science.priors import (
    Autoencoder,
    Decoder,
    GaussianPrior,
    LatentPrior,
    NetworkDenoiser,
    build_network,
    from_diffusers,
    from_diffusers_autoencoder,
    load_autoencoder,
    load_prior,
    save_autoencoder,
    save_prior,
)
from lmaps_science.priors.latent import split
from lmaps_science.sampling import InverseProblem, State, sample, stack
from lmaps_science.solvers import DMAP, DPS, LMAPS, PSLD, VMLMAP, ReSample
from lmaps_science.toys import Matrix
from lmaps_science.training import ArrayImages, TrainingSettings, train
from lmaps_science.training.autoencoder import LatentImages, train_autoencoder

SHAPE = (1, 6, 5)
AFFINE = Affine(0.5, 1.0, SHAPE)
NOISE = SampleNoise(0, (0, 1))


class LinearAutoencoder(nn.Module):
    """Images W z, encoded by the transpose of W."""

    def __init__(self, matrix, latent_shape=SHAPE):
        super().__init__()
        self.matrix, self.latent_shape = nn.Parameter(matrix), latent_shape

    def decode(self, z):
        return (z.flatten(1) @ self.matrix.T).reshape(-1, *SHAPE)

    def encode(self, x):
        return (x.flatten(1) @ self.matrix).reshape(-1, *self.latent_shape)


def random_matrix(rows, columns, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def rotation():
    return torch.linalg.qr(random_matrix(30, 30)).Q


def latent_problem(to_images, prior=None, misfit=None):
    prior = LatentPrior(dense_gaussian() if prior is None else prior, to_images)
    misfit = gaussian_real() @ AFFINE if misfit is None else misfit
    return InverseProblem(prior, misfit @ to_images, AFFINE @ to_images)


def run(problem, solver, n=2):
    return sample(problem, solver, n, 0, progress=False)


# ---------------------------------------------------------------- the decoder, an operator


def test_a_decoder_that_is_an_affine_map_gives_what_the_affine_map_gives():
    identity = LinearAutoencoder(torch.eye(30, dtype=torch.float64))
    to_images = Decoder(identity, SHAPE, SHAPE, scale=2.0, shift=1.0)
    solver = LMAPS(levels=5, sigma_max=10.0, local=LBFGS(5))
    affine = Affine(0.5, 2.0, SHAPE)  # (z + 2) / 2 = z / 2 + 1
    plain = InverseProblem(dense_gaussian(), gaussian_real() @ affine, affine)
    latent = InverseProblem(dense_gaussian(), gaussian_real() @ to_images, to_images)
    np.testing.assert_allclose(
        run(latent, solver).samples, run(plain, solver).samples, rtol=0, atol=1e-9
    )


def test_scale_and_shift_are_undone_by_the_encoder():
    to_images = Decoder(LinearAutoencoder(rotation()), SHAPE, SHAPE, scale=0.3, shift=-0.7)
    z = random_matrix(2, 30).reshape(2, *SHAPE)
    torch.testing.assert_close(to_images.encode(to_images(z)), z)
    expected = to_images.network.decode(z / 0.3 - 0.7)
    torch.testing.assert_close(to_images(z), expected)


def test_derivatives_of_decoder_and_encoder_are_exact():
    to_images = decoder()
    z = 0.5 * random_matrix(2, 30).reshape(2, *SHAPE)
    assert torch.autograd.gradcheck(to_images, z.requires_grad_())
    x = to_images(z.detach())
    assert torch.autograd.gradcheck(to_images.encode, x.detach().requires_grad_())
    chain = gaussian_real().operator @ AFFINE @ to_images
    y, pull = chain.pullback(z.detach())
    expected = torch.autograd.grad(chain(z), z, y)[0]
    torch.testing.assert_close(pull(y), expected)


def test_an_operator_is_split_at_its_decoder_however_it_was_composed():
    to_images, H = decoder(), dense_svd()
    z = random_matrix(2, 30).reshape(2, *SHAPE)
    for chain in ((H @ AFFINE) @ to_images, H @ (AFFINE @ to_images)):
        outer, inner = split(chain)
        assert inner is to_images
        torch.testing.assert_close(outer(to_images(z)), chain(z))
    assert split(H @ AFFINE) is None
    problem = latent_problem(to_images)
    misfit, found = problem.autoencoder()
    torch.testing.assert_close(misfit(found(z)), problem.misfit(z))
    with pytest.raises(ValueError, match="needs a prior of latents"):
        InverseProblem(dense_gaussian(), gaussian_real(), AFFINE).autoencoder()


def test_images_of_another_shape_are_refused():
    with pytest.raises(
        ValueError, match=r"image has shape \(1, 1, 5, 6\), expected \(B, 1, 6, 5\)"
    ):
        decoder().encode(torch.zeros(1, 1, 5, 6, dtype=torch.float64))
    with pytest.raises(ValueError, match="scale 0 has no inverse"):
        Decoder(nn.Identity(), SHAPE, SHAPE, scale=0)


def test_observations_of_latents_share_a_batch():
    to_images, misfit = decoder(), gaussian_real() @ AFFINE
    problems = [latent_problem(to_images, misfit=misfit.with_data(misfit.y + k)) for k in (0, 1)]
    solver = PSLD(levels=10)
    together = sample(stack(problems), solver, 2, progress=False).split()
    for problem, found in zip(problems, together, strict=True):
        alone = sample(problem, solver, 2, progress=False)
        np.testing.assert_allclose(found.samples, alone.samples, rtol=1e-6, atol=1e-8)


# ---------------------------------------------------------------- closed forms


def test_latent_posterior_of_a_linear_decoder_and_a_gaussian_prior():
    """z ~ N(m, C), y = A W z + n: the mode of the latents is known, and VML-MAP finds it."""
    latent_shape = (1, 3, 4)
    W, A = random_matrix(30, 12) / 5, dense_svd()
    to_images = Decoder(LinearAutoencoder(W, latent_shape), latent_shape, SHAPE)
    prior = dense_gaussian(latent_shape)
    y = A(a_positive_image(SHAPE))
    problem = latent_problem(to_images, prior, GaussianMisfit(A, y, 0.3))
    matrix = A(torch.eye(30, dtype=torch.float64).reshape(30, *SHAPE)).T @ W
    C = prior.covariance.dense()
    mean = prior.mean.flatten()
    gain = C @ matrix.T @ torch.linalg.inv(matrix @ C @ matrix.T + 0.09 * torch.eye(len(matrix)))
    expected = mean + gain @ (y[0] - matrix @ mean)
    result = run(problem, VMLMAP(levels=12, steps=150, sigma_max=10.0, sigma_min=0.05))
    away = norm(result.estimates.flatten(1) - expected)
    assert away.max() < 0.01 * norm(expected[None])[0]
    images = AFFINE(to_images(expected.reshape(1, *latent_shape)))
    np.testing.assert_allclose(result.samples, images.expand(2, *SHAPE), atol=0.02)


@pytest.mark.parametrize(
    "solver",
    [
        LMAPS(levels=15, sigma_max=10.0, local=LBFGS(20)),
        DPS(levels=200),
        DMAP(levels=40),
        VMLMAP(levels=12, steps=20, sigma_max=10.0),
        ReSample(levels=30),
        ReSample(levels=30, pixels=0.5),
        PSLD(levels=200),
    ],
    ids=repr,
)
def test_latent_solvers_explain_the_data(solver):
    """Data of an image that has a latent, seen through a decoder that is not linear."""
    to_images = decoder()
    chain = dense_svd() @ AFFINE
    z = 0.5 * random_matrix(1, 30).reshape(1, *SHAPE)
    misfit = GaussianMisfit(chain, chain(to_images(z)), 0.05)
    problem = latent_problem(to_images, misfit=misfit)
    prior_alone = problem.misfit(dense_gaussian().mean[None])
    assert (problem.misfit(run(problem, solver).estimates) < 0.1 * prior_alone).all()


def test_resample_among_pixels_is_resample_among_latents_where_the_decoder_is_a_rotation():
    """L-BFGS knows no axes, and the encoder is the decoder's inverse."""
    problem = latent_problem(Decoder(LinearAutoencoder(rotation()), SHAPE, SHAPE))
    latents, pixels = (run(problem, ReSample(levels=8, pixels=p)).estimates for p in (0.0, 1.0))
    torch.testing.assert_close(pixels, latents, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="share 0 <= pixels <= 1, got 2"):
        ReSample(pixels=2)


# ---------------------------------------------------------------- PSLD


def test_psld_follows_the_gradient_of_its_objective():
    to_images, sigma = decoder(), 0.7
    problem = latent_problem(to_images)
    solver = PSLD(gluing=0.4)
    x = random_matrix(2, 30).reshape(2, *SHAPE)
    found = solver.guide(problem.prepare(solver), x, sigma)

    matrix = dense_svd()(torch.eye(30, dtype=torch.float64).reshape(30, *SHAPE)).T / 2
    size = torch.linalg.matrix_norm(matrix, 2)
    leaf = x.requires_grad_()
    latent = problem.prior(leaf, sigma)
    image = to_images(latent)
    residual = gaussian_real().y - dense_svd()(AFFINE(image))
    corrected = image + (residual @ matrix / size**2).reshape(image.shape)
    objective = norm(residual) / size + 0.4 * norm(latent - to_images.encode(corrected))
    torch.testing.assert_close(found.residual, objective.detach(), rtol=1e-5, atol=0)
    slope = torch.autograd.grad(objective.sum(), leaf)[0]
    torch.testing.assert_close(found.slope, slope, rtol=1e-4, atol=1e-6)


def test_psld_glues_to_the_papers_image_where_the_operator_is_a_mask():
    """z - E(A^T y + (I - A^T A) D(z)); with W a rotation and y = A D(z) nothing is left of it."""
    mask = torch.eye(30, dtype=torch.float64)[::2]
    W, z = rotation(), random_matrix(1, 30).reshape(1, *SHAPE)
    to_images = Decoder(LinearAutoencoder(W), SHAPE, SHAPE)
    still = GaussianPrior(z[0], dense_gaussian().covariance)
    y = torch.ones(1, 15, dtype=torch.float64)
    misfit = GaussianMisfit(Matrix(mask, SHAPE), y, 0.1)
    problem = InverseProblem(LatentPrior(still, to_images), misfit @ to_images, to_images)
    solver = PSLD(gluing=1.0)
    found = solver.guide(problem.prepare(solver), z, 1.0)
    image = to_images(z).flatten(1)
    paper = (y @ mask + image - image @ mask.T @ mask).reshape(1, *SHAPE)
    expected = norm(y - image @ mask.T) + norm(z - to_images.encode(paper))
    torch.testing.assert_close(found.residual, expected, rtol=1e-6, atol=0)


def test_without_gluing_psld_is_dps_up_to_the_units_of_the_data():
    problem = latent_problem(decoder())
    x = random_matrix(2, 30).reshape(2, *SHAPE)
    state = State(x=x, estimate=x)
    steps = [
        solver.step(7, state, problem.prepare(solver), NOISE).x
        for solver in (PSLD(levels=20, gluing=0.0), DPS(levels=20))
    ]
    torch.testing.assert_close(*steps)


class Squared(Operator):
    image_shape, data_shape = SHAPE, SHAPE

    def _forward(self, x):
        return x**2


def test_what_latents_cannot_have_is_refused():
    problem = latent_problem(decoder())
    with pytest.raises(ValueError, match="LMAPS needs a problem that is linear"):
        run(problem, LMAPS(local=ConjugateGradient()))
    y = torch.ones(1, *SHAPE, dtype=torch.float64)
    nonlinear = latent_problem(decoder(), misfit=GaussianMisfit(Squared(), y, 0.1))
    with pytest.raises(ValueError, match="needs a linear operator"):
        run(nonlinear, PSLD())
    with pytest.raises(ValueError, match="PSLD needs gluing >= 0"):
        PSLD(gluing=-1)


# ---------------------------------------------------------------- diffusers


def made_by_diffusers(name, **options):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    torch.manual_seed(0)
    return getattr(diffusers, name)(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        latent_channels=3,
        **options,
    )


def make_kl(**options):
    own = {"sample_size": 8, "scaling_factor": 0.3611, "shift_factor": 0.1159}
    return made_by_diffusers("AutoencoderKL", **own | options)


def make_vq(**options):
    own = {"num_vq_embeddings": 16, "scaling_factor": 0.25}
    return made_by_diffusers("VQModel", **own | options)


def test_a_kl_autoencoder_of_diffusers_with_its_factors():
    vae = make_kl()
    to_images = from_diffusers_autoencoder(vae)
    assert (to_images.image_shape, to_images.data_shape) == ((3, 4, 4), (1, 8, 8))
    generator = torch.Generator().manual_seed(0)
    z, x = (torch.randn(2, *s, generator=generator) for s in ((3, 4, 4), (1, 8, 8)))
    with torch.no_grad():
        expected = vae.decode(z / 0.3611 + 0.1159).sample
        latents = (vae.encode(x).latent_dist.mean - 0.1159) * 0.3611
    torch.testing.assert_close(to_images(z), expected)
    torch.testing.assert_close(to_images.encode(x), latents)
    double = to_images.to(dtype=torch.float64)
    assert torch.autograd.gradcheck(double, z[:1].double().requires_grad_(), fast_mode=True)


def test_a_vq_autoencoder_of_diffusers_rounds_when_it_decodes():
    vae = make_vq()
    to_images = from_diffusers_autoencoder(vae, 8)
    z = torch.randn(2, *to_images.image_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = vae.decode(z / 0.25).sample
        rounded = vae.quantize(z / 0.25)[0]
        torch.testing.assert_close(expected, vae.decode(rounded, force_not_quantize=True).sample)
        assert not torch.allclose(expected, vae.decode(z / 0.25, force_not_quantize=True).sample)
        torch.testing.assert_close(to_images(z), expected)
        torch.testing.assert_close(to_images.encode(expected), 0.25 * vae.encode(expected).latents)
    pulled = to_images.vjp(z, torch.ones_like(expected))  # straight through the rounding
    assert pulled.isfinite().all()
    assert (pulled != 0).any()


def test_a_latent_prior_of_diffusers_and_its_refusals():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")

    def unet(channels=3, **options):
        return diffusers.UNet2DModel(
            sample_size=4,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(8,),
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            layers_per_block=1,
            norm_num_groups=4,
            **options,
        )

    scheduler, to_images = diffusers.DDPMScheduler(), from_diffusers_autoencoder(make_kl())
    prior = LatentPrior(from_diffusers(unet(), scheduler), to_images)
    affine = Affine(0.5, 1.0, (1, 8, 8))
    misfit = GaussianMisfit(affine, torch.full((1, 1, 8, 8), 0.5), 0.1)
    problem = InverseProblem(prior, misfit @ to_images, affine @ to_images)
    result = run(problem, PSLD(levels=3))
    assert result.samples.shape == (2, 1, 8, 8)
    assert result.counts["denoiser_calls"] == 3
    with pytest.raises(ValueError, match="class-conditional"):
        LatentPrior(from_diffusers(unet(num_class_embeds=3), scheduler), to_images)
    with pytest.raises(ValueError, match=r"latents of shape \(1, 4, 4\), the autoencoder makes"):
        LatentPrior(from_diffusers(unet(1), scheduler), to_images)
    with pytest.raises(TypeError, match="AutoencoderKL or a VQModel of diffusers, got UNet2DModel"):
        from_diffusers_autoencoder(unet())
    with pytest.raises(ValueError, match="come back as"):
        from_diffusers_autoencoder(make_kl(), 9)
    sizeless = make_vq()
    sizeless.register_to_config(sample_size=None)
    with pytest.raises(ValueError, match="lacks sample_size"):
        from_diffusers_autoencoder(sizeless)


# ---------------------------------------------------------------- an autoencoder of ours


def autoencoder(seed=0, shape=(1, 16, 16), **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Autoencoder(shape, **{"latent_channels": 2, "channels": 8, **options})
    return Decoder(network, network.latent_shape, network.image_shape, 0.4, 0.1)


def test_files_give_back_the_same_autoencoder(tmp_path):
    to_images = autoencoder()
    facts = {"data": "none"}
    path = save_autoencoder(tmp_path / "a.safetensors", to_images, training=facts)
    found = load_autoencoder(path)
    z = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found(z), to_images(z), rtol=0, atol=2e-3)  # of 16-bit weights
    assert (found.scale, found.shift, found.metadata["training"]) == (0.4, 0.1, facts)
    assert found.metadata["sha256"] == sha256(path)
    with pytest.raises(TypeError, match="stores an Autoencoder of this package"):
        save_autoencoder(tmp_path / "b", Decoder(nn.Identity(), SHAPE, SHAPE), training={})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "lmaps-prior"}, "holds no autoencoder"),
        ({"version": 9}, "format version 9"),
        ({"scale": float("inf")}, "scale or shift is not finite"),
        ({"config": {"image_shape": [1, 16, 16], "chanels": 8}}, "unknown option 'chanels'"),
        ({"config": {"image_shape": [1, 16, 16], "channels": 0}}, "channels must be"),
        ({"config": {"image_shape": [1, 18, 16]}}, "patch 4 does not divide 18 x 16"),
        ({"config": {"image_shape": [1, 16, 16], "channels": 9}}, "contradict themselves"),
        ({"config": None}, "contradict themselves"),
    ],
)
def test_files_that_are_wrong_are_refused(tmp_path, change, says):
    path = save_autoencoder(tmp_path / "a.safetensors", autoencoder(), training={})
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["lmaps"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(state, path, metadata={"lmaps": json.dumps({**facts, **change})})
    with pytest.raises(DataError, match=says):
        load_autoencoder(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="holds no autoencoder that can be read"):
        load_autoencoder(path)


def network_prior(shape):
    config = {
        "architecture": "song",
        "preconditioning": "edm",
        "image_shape": list(shape),
        "model_channels": 8,
        "channel_mult": [1],
        "num_blocks": 1,
        "attn_resolutions": [],
    }
    return NetworkDenoiser(build_network(config), shape)


def saved(folder, shape=(1, 16, 16)):
    """Files of an autoencoder and of a prior of its latents."""
    own = save_autoencoder(folder / "a.safetensors", autoencoder(shape=shape), training={})
    latents = load_autoencoder(own).image_shape
    training = {"autoencoder": {"file": own.name, "sha256": sha256(own)}}
    return own, save_prior(folder / "p.safetensors", network_prior(latents), training=training)


def test_a_card_has_a_prior_of_latents_and_refuses_another_autoencoder(tmp_path):
    own, prior = saved(tmp_path)
    other = save_autoencoder(tmp_path / "b.safetensors", autoencoder(1), training={})
    small = {"image.npix": 16, "observation.receivers": 12, "observation.transmitters": 3}

    def load(file, autoencoder, **changes):
        section = {"kind": "latent", "file": str(file), "autoencoder": str(autoencoder)}
        return load_problem(
            "scattering/linear_60", overrides={**small, "prior": section, **changes}
        )

    problem = load(prior, own)
    assert problem.image_shape == (2, 4, 4)
    result = run(problem, LMAPS(levels=3, local=LBFGS(3)))
    assert result.samples.shape == (2, 1, 16, 16)
    found = problem.analyse(result)
    assert found["image"].dims == ("sample", "y", "x")
    assert result.facts["prior"]["autoencoder"]["sha256"] == sha256(own)
    assert set(result.facts["inputs"]["files"]) == {"prior.file", "prior.autoencoder"}
    with pytest.raises(DataError, match=r"of another autoencoder, a\.safetensors"):
        load(prior, other)
    with pytest.raises(DataError, match=r"images of shape \(1, 16, 16\)"):
        load(prior, own, **{"image.npix": 20})
    with pytest.raises(DataError, match="holds no autoencoder"):
        load(prior, prior)
    with pytest.raises(DataError, match=r"is a prior of the latents of a\.safetensors"):
        load_problem("scattering/linear_60", None, prior, small)
    colours, latents = saved(tmp_path, (3, 16, 16))
    with pytest.raises(DataError, match="3 channels, these have 1"):
        load(latents, colours)


# ---------------------------------------------------------------- training

SETTINGS = TrainingSettings(
    steps=40,
    batch_size=8,
    learning_rate=3e-3,
    warmup=5,
    ema_decay=0.9,
    validate_every=20,
    validation_images=16,
    covariance_rank=0,
)


def smooth_images(seed):
    rng = np.random.default_rng(seed)
    waves = np.sin(np.linspace(0, 3, 16) + rng.uniform(0, 6, (64, 1, 1)))
    images = 0.5 + 0.4 * waves * np.linspace(-1, 1, 16)[:, None]
    return ArrayImages(images[:, None].astype(np.float32), seed)


def test_training_lowers_the_error_goes_on_and_feeds_a_prior(tmp_path):
    pytest.importorskip("accelerate")

    network = autoencoder(3).network
    network.train().requires_grad_()
    images, folder = (smooth_images(0), smooth_images(1)), tmp_path / "whole"
    path = train_autoencoder(network, *images, folder, SETTINGS, progress=False)
    to_images = load_autoencoder(path)
    history = torch.load(tmp_path / "whole" / "state.pt", weights_only=True)["history"]
    assert history[-1]["bands"]["mse"] < 0.7 * history[0]["bands"]["mse"]
    assert to_images.metadata["training"]["validation"]["bands"] == history[-1]["bands"]
    assert "log_sigma_mean" not in to_images.metadata["training"]

    latents = LatentImages(smooth_images(1), to_images, 24)
    first = latents.batch(0, 24)
    np.testing.assert_array_equal(latents.batch(20, 8), first[[20, 21, 22, 23, 0, 1, 2, 3]])
    assert abs(first.mean()) < 0.2
    assert abs(first.std() - 0.5) < 0.1
    x = torch.as_tensor(smooth_images(1).batch(0, 1)) * 2 - 1
    torch.testing.assert_close(torch.as_tensor(first[:1]), to_images.encode(x))

    config = network_prior(to_images.image_shape).network.config
    facts = {"autoencoder": {"file": path.name, "sha256": sha256(path)}}
    settings = replace(SETTINGS, steps=2)
    file = train(
        config,
        latents,
        latents,
        tmp_path / "prior",
        settings,
        facts=facts,
        decode=to_images,
        progress=False,
    )
    prior = LatentPrior(load_prior(file), to_images)
    assert prior.metadata["autoencoder"]["sha256"] == sha256(path)
    with pytest.raises(ValueError, match="kl_weight must be at least 0"):
        train_autoencoder(
            autoencoder().network, latents, latents, tmp_path / "no", SETTINGS, kl_weight=-1
        )


def test_a_training_goes_on_to_the_same_weights(tmp_path):
    pytest.importorskip("accelerate")

    def go(folder, images):
        network = autoencoder(3).network
        network.train().requires_grad_()
        return train_autoencoder(network, images, images, folder, SETTINGS, progress=False)

    class Stopping(ArrayImages):
        def batch(self, start, count):
            if start == 30 * SETTINGS.batch_size:
                raise KeyboardInterrupt
            return super().batch(start, count)

    images = smooth_images(0)
    whole = go(tmp_path / "whole", images)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "parts", Stopping(images.images, 0))
    parts = go(tmp_path / "parts", images)
    state = [load_autoencoder(path).network.state_dict() for path in (whole, parts)]
    assert all(torch.equal(state[0][name], state[1][name]) for name in state[0])

"""Training a prior: it learns, resumes to the same weights, validates and refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lmaps_science.cards.registry import recipes
from lmaps_science.io import DataError
from lmaps_science.priors import NetworkDenoiser, load_prior, prior_info, save_prior
from lmaps_science.priors.draws import draw
from lmaps_science.priors.networks import build_network
from lmaps_science.training import ArrayImages, TrainingSettings, train
from lmaps_science.training.run import edm_loss

pytest.importorskip("accelerate")

CONFIG = {
    "architecture": "song",
    "preconditioning": "edm",
    "image_shape": [1, 8, 8],
    "patch": 2,
    "model_channels": 16,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}
SETTINGS = TrainingSettings(
    steps=40,
    batch_size=8,
    learning_rate=3e-3,
    warmup=5,
    validate_every=20,
    validation_images=8,
    covariance_rank=4,
    covariance_images=32,
)


def images(seed: int) -> ArrayImages:
    level = np.random.default_rng(seed).uniform(0, 1, (64, 1, 1, 1))
    return ArrayImages(np.broadcast_to(level, (64, 1, 8, 8)).astype(np.float32), seed=seed)


def test_training_lowers_the_loss_and_writes_everything(tmp_path):
    path = train(CONFIG, images(0), images(1), tmp_path, SETTINGS, progress=False)
    history = torch.load(tmp_path / "state.pt", weights_only=True)["history"]
    first, last = history[0], history[-1]
    assert last["step"] == 40
    assert sum(last["bands"].values()) < sum(first["bands"].values())
    facts = prior_info(path)["training"]
    assert facts["images_seen"] == 320
    assert facts["validation"]["bands"] == last["bands"]
    assert (tmp_path / "samples.png").read_bytes()[:4] == b"\x89PNG"
    prior = load_prior(path)
    level = torch.full((1, 8, 8), 1 / 8.0)  # the images are constant: one component has it all
    torch.testing.assert_close(prior.covariance.components[0].abs(), level, rtol=2e-3, atol=0)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert prior(x, 1.0).shape == x.shape
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "prior.safetensors",
        "samples.png",
        "state.pt",
    ]


class _Interrupted:
    """Images that stop coming: what a killed job looks like to the loop."""

    value_range = (0.0, 1.0)

    def __init__(self, inner: ArrayImages, after: int) -> None:
        self.inner, self.after = inner, after

    def batch(self, start: int, count: int) -> np.ndarray:
        if start >= self.after:
            raise KeyboardInterrupt
        return self.inner.batch(start, count)


@pytest.mark.parametrize("progress", [True, False])
def test_lines_go_to_the_logger_where_one_listens_and_never_to_stdout(
    progress, tmp_path, capsys, caplog
):
    short = replace(SETTINGS, steps=2, validate_every=2, covariance_rank=0)
    with caplog.at_level("INFO", logger="lmaps_science"):
        train(CONFIG, images(0), images(1), tmp_path, short, progress=progress)
    assert ("step 2: training" in caplog.text) == progress
    assert not capsys.readouterr().out


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    train(CONFIG, images(0), images(1), tmp_path / "a", SETTINGS, progress=False)
    stopping = _Interrupted(images(0), after=30 * 8)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, stopping, images(1), tmp_path / "b", SETTINGS, progress=False)
    train(CONFIG, images(0), images(1), tmp_path / "b", SETTINGS, progress=False)
    a, b = (torch.load(tmp_path / k / "state.pt", weights_only=True)["ema"] for k in "ab")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0)


def test_begins_with_the_weights_of_a_prior(tmp_path):
    """One step at a vanishing rate leaves them; another architecture is refused."""
    prior = load_prior(train(CONFIG, images(0), images(1), tmp_path / "a", SETTINGS))
    still = replace(SETTINGS, steps=1, learning_rate=1e-12)
    options = {"initial": prior.network, "progress": False}
    again = load_prior(train(CONFIG, images(2), images(3), tmp_path / "b", still, **options))
    x, sigma = torch.randn(2, *prior.image_shape), torch.full((2,), 0.5)
    torch.testing.assert_close(again(x, sigma), prior(x, sigma), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="to begin with is of another architecture"):
        train({**CONFIG, "model_channels": 24}, images(0), images(1), tmp_path / "c", **options)


def test_loss_of_the_exact_denoiser_is_the_posterior_variance():
    # x0 ~ N(0, s^2): E||D - x0||^2 / pixels = s^2 sigma^2 / (s^2 + sigma^2), so with sd = s the
    # weighted loss is exactly 1 at every noise level.
    g = torch.Generator().manual_seed(0)
    s = 0.7
    x0 = s * torch.randn(4000, 1, 4, 4, generator=g)
    noise = torch.randn(x0.shape, generator=g)
    for sigma in (0.05, 0.7, 20.0):
        loss = edm_loss(
            lambda x, sig: x * s**2 / (s**2 + sig.view(-1, 1, 1, 1) ** 2),
            x0,
            torch.full((4000,), sigma),
            noise,
            s,
        )
        assert loss.mean().item() == pytest.approx(1.0, rel=0.02)


def test_sampler_draws_from_the_prior():
    s, mean = 0.5, 0.3
    g = torch.Generator().manual_seed(0)
    x = draw(
        lambda x, sig: mean + (x - mean) * s**2 / (s**2 + sig**2),
        torch.randn(500, 1, 4, 4, generator=g),
    )
    assert x.mean().item() == pytest.approx(mean, abs=0.02)
    assert x.std().item() == pytest.approx(s, rel=0.03)


def test_array_images_are_reshuffled_and_resumable():
    source = ArrayImages(np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1) / 10, seed=0)
    two = source.batch(0, 20)[:, 0, 0, 0]
    assert sorted(two[:10]) == sorted(two[10:])
    assert (two[:10] != two[10:]).any()
    np.testing.assert_array_equal(source.batch(7, 6)[:, 0, 0, 0], two[7:13])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 8)), r"\(n, C, H, W\)"),
        (np.full((3, 1, 8, 8), np.nan), "192 values not finite"),
        (np.full((3, 1, 8, 8), 2.0), r"lie in \[0, 1\]"),
    ],
)
def test_refuses_images(array, message):
    with pytest.raises(ValueError, match=message):
        ArrayImages(array)


@pytest.mark.parametrize("bad", [{"precision": "fp8"}, {"steps": 0}, {"learning_rate": 0.0}])
def test_refuses_settings(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        TrainingSettings(**bad)


def test_refuses_a_folder_of_another_architecture(tmp_path):
    train(CONFIG, images(0), images(1), tmp_path, SETTINGS, progress=False)
    other = {**CONFIG, "model_channels": 24}
    with pytest.raises(ValueError, match="another architecture"):
        train(other, images(0), images(1), tmp_path, SETTINGS, progress=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"text", "no PyTorch file.*Remove it"), (b"PK\x03\x04", "truncated")],
)
def test_a_damaged_state_is_named(tmp_path, content, message):
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        train(CONFIG, images(0), images(1), tmp_path, SETTINGS, progress=False)
    assert (tmp_path / "state.pt").read_bytes() == content


def test_divergence_is_reported(tmp_path):
    bad = TrainingSettings(steps=5, learning_rate=1e30, warmup=0, gradient_clip=1e30)
    with pytest.raises(FloatingPointError, match="learning_rate"):
        train(CONFIG, images(0), images(1), tmp_path, bad, progress=False)


@pytest.mark.parametrize("name", sorted(recipes()))
def test_recipes_fit_their_images(name):
    recipe = recipes()[name]
    channels = {"brain": 2, "heads": 2, "photographs": 3}.get(name, 1)
    network = build_network({**recipe.config, "image_shape": [channels, 64, 64]})
    assert 1e6 < sum(p.numel() for p in network.parameters()) < 6e6, "12 MB in half precision"
    if channels == 1:  # the others need packages that tests do without
        images = recipe.images(64, 0)
        assert images.batch(0, 2).shape == (2, 1, 64, 64)
        low, high = images.value_range
        assert low <= images.batch(0, 2).min() <= images.batch(0, 2).max() <= high


def test_a_run_goes_on_with_more_steps_and_with_other_settings_is_refused(tmp_path):
    short = replace(SETTINGS, steps=4, validate_every=4)
    train(CONFIG, images(0), images(1), tmp_path, short, progress=False)
    state = (tmp_path / "state.pt").read_bytes()
    other = replace(short, batch_size=4, seed=1)
    with pytest.raises(ValueError, match="batch_size 8, now 4; seed 0, now 1"):
        train(CONFIG, images(0), images(1), tmp_path, other, progress=False)
    with pytest.raises(ValueError, match="has made 4 steps, more than the 3 wanted"):
        train(CONFIG, images(0), images(1), tmp_path, replace(short, steps=3), progress=False)
    assert (tmp_path / "state.pt").read_bytes() == state
    longer = replace(short, steps=6, validate_every=2)
    path = train(CONFIG, images(0), images(1), tmp_path, longer, progress=False)
    assert prior_info(path)["training"]["step"] == 6


@pytest.mark.parametrize("what", ["images", "facts", "weights", "processes"])
def test_a_run_of_something_else_is_refused(tmp_path, what, monkeypatch):
    short = replace(SETTINGS, steps=4, validate_every=4)
    train(CONFIG, images(0), images(1), tmp_path, short, facts={"of": 1}, progress=False)
    longer, chosen, options = replace(short, steps=6), images(0), {"facts": {"of": 1}}
    if what == "images":
        chosen = images(5)
    elif what == "facts":
        options = {"facts": {"of": 2}}
    elif what == "weights":
        options["initial"] = build_network(CONFIG)
    else:
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        torch.save({**state, "processes": 4}, tmp_path / "state.pt")
    told = {
        "images": "the images are others",
        "facts": '"of": 1.*now .*"of": 2',
        "weights": "weights to begin with are others",
        "processes": "on 4 GPUs",
    }[what]
    with pytest.raises(ValueError, match=told):
        train(CONFIG, chosen, images(1), tmp_path, longer, progress=False, **options)


def test_weights_that_could_not_be_written_are_written_by_the_same_command(tmp_path, monkeypatch):
    short = replace(SETTINGS, steps=4, validate_every=4)

    def full(*args, **options):
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("lmaps_science.training.run.save_prior", full)
        with pytest.raises(OSError, match="disk is full"):
            train(CONFIG, images(0), images(1), tmp_path, short, progress=False)
    path = train(CONFIG, images(0), images(1), tmp_path, short, progress=False)
    assert prior_info(path)["training"]["step"] == 4


def test_frequencies_of_noise_levels_keep_their_precision(tmp_path):
    prior = NetworkDenoiser(build_network({**CONFIG, "embedding": "fourier"}))
    path = save_prior(tmp_path / "p.safetensors", prior, training={}, dtype=torch.float16)
    buffers = dict(prior.network.named_buffers())
    assert buffers
    for name, value in load_prior(path).network.named_buffers():
        assert torch.equal(value, buffers[name]), name

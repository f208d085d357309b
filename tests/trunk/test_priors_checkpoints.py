"""Checkpoints: parity with an independent implementation, files written and refused."""

import hashlib
import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lmaps_science.io.files import DataError
from lmaps_science.priors import (
    NetworkDenoiser,
    build_network,
    from_function,
    infer_config,
    load_prior,
    prior_info,
    save_prior,
)
from lmaps_science.priors.state_dicts import load_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "network_outputs.h5"
GIVEN = {
    "vp_song": {"preconditioning": "vp"},
    "edm_dhariwal": {"preconditioning": "edm"},
    "vp_adm": {"preconditioning": "vp", "image_shape": [3, 32, 32], "num_heads": 4},
}
CONFIG = {
    "architecture": "song",
    "preconditioning": "edm",
    "image_shape": [1, 8, 8],
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.0,
}


def golden(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """State dict, and x, sigma, denoised, of one network of the golden file."""
    with h5py.File(GOLDEN) as file:
        group = file[name]
        shapes = [[int(n) for n in s.split(",")] for s in group.attrs["shapes"]]
        flat = torch.from_numpy(group["weights"][:])
        parts = flat.split([torch.Size(s).numel() for s in shapes])
        state = {
            n: p.reshape(s) for n, p, s in zip(group.attrs["names"], parts, shapes, strict=True)
        }
        return state, {k: torch.from_numpy(group[k][:]) for k in ("x", "sigma", "denoised")}


def assert_reproduces(prior: NetworkDenoiser, io: dict[str, torch.Tensor], tolerance=1e-5) -> None:
    error = (prior(io["x"], io["sigma"]) - io["denoised"]).abs().amax(dim=(1, 2, 3))
    assert (error < tolerance * io["denoised"].abs().amax(dim=(1, 2, 3))).all()


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Weights of a small SongUNet, seeded."""
    torch.manual_seed(0)
    return build_network(CONFIG).state_dict()


@pytest.fixture
def prior(state) -> NetworkDenoiser:
    network = build_network(CONFIG)
    network.load_state_dict(state)
    return NetworkDenoiser(network, value_range=(0.0, 2.0))


# -- Parity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["net", "ema"])
@pytest.mark.parametrize("name", GIVEN)
def test_published_networks_are_reproduced(name, weights, tmp_path):
    """Architecture from the weights, output to 1e-5, whichever of the two is asked for."""
    state, io = golden(name)
    spoilt = {key: torch.zeros_like(value) for key, value in state.items()}
    torch.save({"net": spoilt, "ema": spoilt} | {weights: state}, tmp_path / "prior.pt")
    prior = load_prior(tmp_path / "prior.pt", config=GIVEN[name], weights=weights)
    assert_reproduces(prior, io)
    assert prior.image_shape == tuple(io["x"].shape[1:])
    assert prior.value_range == (-1.0, 1.0)
    assert prior.metadata["weights"] == weights
    assert len(prior.metadata["sha256"]) == 64


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_removed(prefix, tmp_path):
    state, io = golden("edm_dhariwal")
    torch.save({"ema": {prefix + k: v for k, v in state.items()}}, tmp_path / "prior.pt")
    assert_reproduces(load_prior(tmp_path / "prior.pt", config=GIVEN["edm_dhariwal"]), io)


def test_bare_unet_weights_load(tmp_path):
    """As guided diffusion publishes them: one state dict, no ``model.``, no ``ema``."""
    state, io = golden("vp_song")
    bare = {name.removeprefix("model."): value for name, value in state.items()}
    torch.save(bare | {"map_augment.weight": torch.zeros(2, 2)}, tmp_path / "prior.pt")
    assert_reproduces(load_prior(tmp_path / "prior.pt", config=GIVEN["vp_song"]), io)


@pytest.mark.parametrize("name", GIVEN)
def test_saved_as_safetensors_they_are_still_reproduced(name, tmp_path):
    state, io = golden(name)
    torch.save(state, tmp_path / "prior.pt")
    prior = load_prior(tmp_path / "prior.pt", config=GIVEN[name])
    path = save_prior(tmp_path / "prior.safetensors", prior, training={})
    assert_reproduces(load_prior(path), io)
    save_prior(path, prior, training={}, dtype=torch.float16)
    assert_reproduces(load_prior(path), io, tolerance=3e-3)


# -- Architecture from weights --------------------------------------------------------------------

ADM = {
    "architecture": "adm",
    "preconditioning": "vp",
    "image_shape": [1, 16, 16],
    "model_channels": 32,
    "channel_mult": [1, 2, 2],
    "num_blocks": 2,
    "attn_resolutions": [8, 4],
    "channels_per_head": 32,
    "dropout": 0.0,
}


EDM, HEADS = ["preconditioning"], ["preconditioning", "image_shape", "channels_per_head"]


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (CONFIG, EDM),
        (CONFIG | {"patch": 2, "attn_resolutions": []}, [*EDM, "patch"]),
        (CONFIG | {"preconditioning": "iddpm", "out_channels": 2}, []),
        (CONFIG | {"embedding": "fourier", "channel_mult_noise": 2}, EDM),
        (
            CONFIG | {"encoder": "residual", "decoder": "skip", "resample_filter": [1, 3, 3, 1]},
            EDM,
        ),
        (CONFIG | {"encoder": "skip", "channel_mult": [1, 3, 1]}, EDM),
        (CONFIG | {"image_shape": [1, 8, 16]}, [*EDM, "image_shape"]),
        (
            CONFIG | {"architecture": "dhariwal", "model_channels": 64, "attn_resolutions": [8]},
            EDM,
        ),
        (ADM, HEADS),
        (ADM | {"resblock_updown": False, "scale_shift": False}, HEADS),
        (
            ADM | {"channel_mult": [0.5, 1], "model_channels": 64, "attn_resolutions": [8]},
            HEADS,
        ),
        (ADM | {"channel_mult": [1], "attn_resolutions": []}, HEADS),
    ],
)
def test_architecture_is_read_from_the_weights(config, told):
    torch.manual_seed(0)
    network = build_network(config).eval()
    for parameter in network.parameters():  # also those that begin at zero
        torch.nn.init.normal_(parameter, std=0.1)
    inferred = infer_config(network.state_dict(), {key: config[key] for key in told})
    assert {key: inferred[key] for key in config} == config
    twin = build_network(inferred).eval()
    twin.load_state_dict(network.state_dict())
    x, sigma = torch.randn(1, *config["image_shape"]), torch.ones(1)
    torch.testing.assert_close(twin(x, sigma), network(x, sigma))


# The published networks for 256 x 256 photographs: digests of the names and shapes that the code of
# guided diffusion makes with their settings, and the number of their parameters.
PUBLISHED = {
    "FFHQ": (
        {"model_channels": 128, "num_blocks": 1, "attn_resolutions": [16]},
        93_563_910,
        "47cc71b580397ca5963a818ef45b94c83e2efd2d53c71a0d5c9bf76a24b60290",
    ),
    "ImageNet": (
        {"model_channels": 256, "num_blocks": 2, "attn_resolutions": [32, 16, 8]},
        552_814_086,
        "b9c90be1570d1541c91bede05b270bfb6bd51a7d5432e7b06f3a4c4cb257b1b6",
    ),
}
TOLD = {"preconditioning": "ddpm", "image_shape": [3, 256, 256], "channels_per_head": 64}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_of_photographs_load(name):
    settings, parameters, digest = PUBLISHED[name]
    with torch.device("meta"):
        network = build_network(
            {"architecture": "adm", "channel_mult": [1, 1, 2, 2, 4, 4], "out_channels": 6}
            | TOLD
            | settings
        )
    # one number a tensor is all that is kept of them
    state = {
        key.removeprefix("model."): torch.full((), 0.01).expand(value.shape)
        for key, value in network.state_dict().items()
    }
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in state.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest
    config = infer_config(state, TOLD)
    assert settings.items() <= config.items()
    prior = NetworkDenoiser(load_weights(config, state, torch.float32))
    assert sum(p.numel() for p in prior.network.parameters()) == parameters
    assert prior.image_shape == (3, 256, 256)


def test_labels_of_discrete_steps():
    """Each of the thousand levels has its step's number; between two, by log sigma."""
    network = build_network(ADM | {"preconditioning": "ddpm"})
    kept = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).neg().add(1).cumprod(0)
    sigma = ((1 - kept) / kept).sqrt()
    _, c_out, c_in, label = network.coefficients(sigma)
    torch.testing.assert_close(label, torch.arange(1000.0).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(c_in, kept.sqrt())
    torch.testing.assert_close(c_out, -sigma)
    between = network.coefficients((sigma[:-1] * sigma[1:]).sqrt())[3]
    torch.testing.assert_close(between, torch.arange(999.0).double() + 0.5, atol=1e-6, rtol=0)
    ends = network.coefficients(torch.tensor([1e-9, 1e9], dtype=torch.float64))[3]
    assert ends.tolist() == [0.0, 999.0]


def test_inversebench_configuration_is_understood():
    state, _ = golden("vp_adm")
    section = {
        "_target_": "models.precond.VPPrecond",
        "model_type": "ADM",
        "img_resolution": 32,
        "img_channels": 3,
        "num_heads": 4,
        "num_head_channels": 16,
        "M": 1000,
        "dropout": 0.1,
    }
    config = infer_config(state, section)
    assert config["preconditioning"] == "vp"
    assert config["image_shape"] == [3, 32, 32]
    assert config["channels_per_head"] == 16
    assert "num_heads" not in config


@pytest.mark.parametrize(
    ("name", "without", "message"),
    [
        ("vp_song", "preconditioning", "leaves no trace in the weights"),
        ("vp_adm", "num_heads", "number of attention heads"),
        ("vp_adm", "image_shape", "do not tell the image shape"),
    ],
)
def test_what_weights_cannot_tell_must_be_given(name, without, message, tmp_path):
    torch.save(golden(name)[0], tmp_path / "prior.pt")
    told = {key: value for key, value in GIVEN[name].items() if key != without}
    with pytest.raises(DataError, match=message):
        load_prior(tmp_path / "prior.pt", config=told)


# -- Files of our own -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_round_trip(prior, dtype, tmp_path):
    facts = {"images": 5000, "loss": [0.3, 0.2], "data": "phantoms"}
    path = save_prior(
        tmp_path / "p.safetensors", prior, training=facts, description="test", dtype=dtype
    )
    assert [*tmp_path.iterdir()] == [path]
    loaded = load_prior(path)
    x = torch.randn(2, 1, 8, 8)
    tolerance = 0 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(loaded(x, 0.5), prior(x, 0.5), rtol=tolerance, atol=tolerance)
    assert loaded.value_range == (0.0, 2.0)
    assert loaded.network.config == CONFIG
    assert loaded.metadata["training"] == facts
    assert loaded.metadata["description"] == "test"
    assert loaded.dtype == torch.float32
    assert load_prior(path, dtype=torch.float64).dtype == torch.float64


def test_prior_info_reads_the_description_alone(prior, tmp_path):
    path = save_prior(tmp_path / "p.safetensors", prior, training={"steps": 3})
    info = prior_info(path)
    assert info["config"] == CONFIG
    assert info["training"] == {"steps": 3}
    assert info["parameters"] == sum(p.numel() for p in prior.network.parameters())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dtype": torch.bfloat16}, ValueError, "float32 or torch.float16"),
        ({"training": {"array": torch.ones(2)}}, TypeError, "plain JSON"),
        ({"training": {"loss": float("nan")}}, TypeError, "plain JSON"),
        ({"path": "missing/p.safetensors"}, DataError, "does not exist"),
    ],
)
def test_saving_is_refused(change, error, message, prior, tmp_path):
    arguments = {"path": "p.safetensors", "training": {}, **change}
    with pytest.raises(error, match=message):
        save_prior(tmp_path / arguments.pop("path"), prior, **arguments)
    assert not [*tmp_path.iterdir()]


def test_saving_weights_that_do_not_fit_leaves_the_old_file(prior, tmp_path):
    path = save_prior(tmp_path / "p.safetensors", prior, training={})
    before = path.read_bytes()
    next(prior.network.parameters()).data.fill_(1e6)
    with pytest.raises(ValueError, match=r"not finite as torch\.float16"):
        save_prior(path, prior, training={}, dtype=torch.float16)
    assert path.read_bytes() == before


def test_saving_a_function_is_refused(tmp_path):
    with pytest.raises(TypeError, match="build_network"):
        save_prior(
            tmp_path / "p.safetensors", from_function(lambda x, s: x, (1, 4, 4)), training={}
        )


# -- Files refused --------------------------------------------------------------------------------


class Hostile:
    """Runs a command when unpickled without care."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a checkpoint was run')",))


def rewrite(path: Path, **changes) -> None:
    """Alter the description inside one of our files."""
    facts = prior_info(path) | changes
    save_file(load_file(path), path, metadata={"lmaps": json.dumps(facts)})


def replace(path: Path, change) -> None:
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"lmaps": json.dumps(prior_info(path))})


SAFETENSORS_FAULTS = {
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "truncated, damaged"),
    "header cut": (lambda p: p.write_bytes(p.read_bytes()[:50]), "truncated, damaged"),
    "web page": (lambda p: p.write_text("<html>404</html>"), "header cannot be read"),
    "foreign": (lambda p: save_file({"a": torch.ones(1)}, p), "of another program"),
    "not JSON": (
        lambda p: save_file(load_file(p), p, metadata={"lmaps": "{"}),
        "truncated, damaged",
    ),
    "newer": (lambda p: rewrite(p, version=99), "format version 99"),
    "contradiction": (lambda p: rewrite(p, image_shape=[1, 4, 4]), "contradicts itself"),
    "no range": (lambda p: rewrite(p, value_range=None), "truncated, damaged"),
    "config": (lambda p: rewrite(p, config=CONFIG | {"depth": 3}), "unknown entry 'depth'"),
    "huge": (lambda p: rewrite(p, config=CONFIG | {"model_channels": 2**14}), "wrong shape"),
    "missing key": (
        lambda p: replace(p, lambda s: s.pop("model.map_layer0.bias")),
        "1 missing: model.map_layer0.bias",
    ),
    "surplus key": (
        lambda p: replace(p, lambda s: s.update({"model.extra": torch.ones(1)})),
        "1 unexpected: model.extra",
    ),
    "shape": (
        lambda p: replace(p, lambda s: s.update({"model.map_layer0.bias": torch.ones(3)})),
        r"model.map_layer0.bias \(3,\) instead of \(32,\)",
    ),
    "not finite": (
        lambda p: replace(p, lambda s: s["model.map_layer0.bias"].fill_(torch.nan)),
        "not finite: model.map_layer0.bias",
    ),
}


@pytest.mark.parametrize("fault", SAFETENSORS_FAULTS)
def test_damaged_safetensors_are_refused(fault, prior, tmp_path):
    path = save_prior(tmp_path / "p.safetensors", prior, training={})
    damage, message = SAFETENSORS_FAULTS[fault]
    damage(path)
    with pytest.raises(DataError, match=message) as caught:
        load_prior(path)
    assert str(path) in str(caught.value)


def written(content) -> object:
    return lambda path, state: torch.save(content(state), path)


CHECKPOINT_FAULTS = {
    "hostile": (written(lambda s: {"ema": s, "note": Hostile()}), "would run code"),
    "plain pickle": (lambda p, s: p.write_bytes(pickle.dumps(Hostile())), "would run code"),
    "text": (lambda p, s: p.write_text("version https://git-lfs.github.com/spec/v1"), "refused"),
    "table": (lambda p, s: p.write_text("a,b\n1,2\n"), "refused: it is no PyTorch file"),
    "array": (lambda p, s: np.save(p.open("wb"), np.ones(3)), "no PyTorch file"),
    "arrays": (lambda p, s: np.savez(p.open("wb"), x=np.ones(3)), "no PyTorch file"),
    "cut pickle": (lambda p, s: p.write_bytes(b"\x80\x02"), "truncated, damaged"),
    "truncated": (
        lambda p, s: (torch.save(s, p), p.write_bytes(p.read_bytes()[:5000])),
        "truncated, damaged",
    ),
    "whole module": (lambda p, s: torch.save(torch.nn.Linear(1, 1), p), "would run code"),
    "tensor": (written(lambda s: torch.ones(3)), "got a Tensor"),
    "nested": (written(lambda s: {"state": s}), "names mapped to tensors"),
    "no weights": (written(lambda s: {"net": s}), "holds no 'ema' weights"),
    "conditional": (
        written(lambda s: s | {"model.map_label.weight": torch.ones(2, 2)}),
        "class-conditional",
    ),
    "foreign names": (written(lambda s: {"conv.weight": torch.ones(1)}), "unknown naming"),
    "incomplete": (
        written(lambda s: {k: v for k, v in s.items() if "_conv" not in k}),
        "incomplete",
    ),
    "misfit": (
        written(lambda s: {k: v for k, v in s.items() if "skip" not in k}),
        "missing: model.enc",
    ),
}


@pytest.mark.parametrize("fault", CHECKPOINT_FAULTS)
def test_unusable_checkpoints_are_refused(fault, state, tmp_path):
    damage, message = CHECKPOINT_FAULTS[fault]
    path = tmp_path / "prior.pt"
    damage(path, state)
    with pytest.raises(DataError, match=message) as caught:
        load_prior(path, config={"preconditioning": "edm"})
    said = str(caught.value)
    assert said.count(str(path)) == 1
    for inside in ("list index", "pop from", "enforce fail", "weights_only"):  # PyTorch's own words
        assert inside not in said


def test_arguments_are_refused(prior, state, tmp_path):
    path = save_prior(tmp_path / "p.safetensors", prior, training={})
    with pytest.raises(ValueError, match="carries its own configuration"):
        load_prior(path, config={"preconditioning": "edm"})
    torch.save(state, tmp_path / "p.pt")
    with pytest.raises(ValueError, match="'ema' or 'net'"):
        load_prior(tmp_path / "p.pt", weights="EMA")
    with pytest.raises(DataError, match="not a safetensors file"):
        prior_info(tmp_path / "p.pt")
    with pytest.raises(DataError, match="no such file"):
        load_prior(tmp_path / "q.pt")
    with pytest.raises(DataError, match="unknown entry 'paching'"):
        load_prior(tmp_path / "p.pt", config={"preconditioning": "edm", "paching": 2})

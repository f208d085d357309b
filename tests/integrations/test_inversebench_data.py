"""InverseBench's data and checkpoints: its LMDB databases in our cards, its networks as priors."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from inversebench_items import (
    inversebench,  # noqa: F401
    maps,
    truth,
    write_lmdb,
    write_measurement,
    write_mri,
)

from lmaps_science.cards.load import load_problem
from lmaps_science.io import DataError, open_kspace
from lmaps_science.io.id_lists import parse_ids
from lmaps_science.io.lmdb_images import LMDBImages, is_lmdb
from lmaps_science.io.pytorch import read_tensors
from lmaps_science.priors import build_network, load_prior
from lmaps_science.problems.black_hole.phantoms import BlackHoleImages

# ---------------------------------------------------------------- lists of ids


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ("0-9", list(range(10))),
        ("0,3,5", [0, 3, 5]),
        ("1-3, 7", [1, 2, 3, 7]),
        ("5-5", [5]),
        ("7,2", [7, 2]),
        (4, [4]),
        ([3, 1], [3, 1]),
        (None, None),
    ],
)
def test_lists_of_ids(ids, expected):
    assert parse_ids(ids) == expected


@pytest.mark.parametrize(
    "ids", ["", "a", "1-", "-3", "3-1", "1,,2", "0-99999999", -1, 1.5, ["1"], [-1], {}, "1" * 30]
)
def test_other_lists_are_refused(ids):
    with pytest.raises(DataError, match=r"id_list is .*expected numbers and ranges"):
        parse_ids(ids)


def test_the_program_reads_lists_alike(inversebench):  # noqa: F811
    from utils.helper import parse_int_list

    for ids in ("0-9", "0,3,5", "1-3,7", "7,2", 4, [3, 1]):
        assert parse_ids(ids) == parse_int_list(ids)


# ---------------------------------------------------------------- images


@pytest.fixture
def images(tmp_path) -> Path:
    """Twelve images, so that keys are not sorted as text."""
    pytest.importorskip("lmdb")
    found = {k: truth("scattering", k)[0].astype(np.float32) for k in range(12)}
    return write_lmdb(tmp_path / "images", found)


def test_images_under_their_keys(images):
    found = LMDBImages(images)
    assert is_lmdb(images)
    assert not is_lmdb(images.parent)
    assert found.ids == list(range(12)) == list(range(len(found)))
    for k in (0, 2, 11):
        np.testing.assert_array_equal(found[k], truth("scattering", k)[0].astype(np.float32))


def test_images_that_are_none(images, tmp_path):
    with pytest.raises(DataError, match="holds no image 12: its 12 keys go from 0 to 11"):
        LMDBImages(images)[12]
    odd = write_lmdb(tmp_path / "odd", {0: np.ones(7, np.float32), 1: np.full((2, 2), np.nan)})
    with pytest.raises(DataError, match="28 bytes are no square image"):
        LMDBImages(odd)[0]
    with pytest.raises(DataError, match="not all finite"):
        LMDBImages(odd, np.float64)[1]
    with pytest.raises(DataError, match="no such file"):
        LMDBImages(tmp_path)
    database = images / "data.mdb"
    database.write_bytes(database.read_bytes()[:5000])
    with pytest.raises(DataError, match="not a whole LMDB database"):
        LMDBImages(images)


def test_scattering_cards_take_its_images(images):
    overrides = {"image.npix": 32, "observation.transmitters": 4, "observation.receivers": 10}
    problem = load_problem(
        "scattering/linear_60", images, "gaussian", {**overrides, "observation.item": 11}
    )
    np.testing.assert_allclose(problem.truth, truth("scattering", 11)[0], atol=1e-6)
    assert str(images) in problem.observation.attrs["file"]
    with pytest.raises(DataError, match=r"image 0 has shape \(32, 32\).*expected .*\(16, 16\)"):
        load_problem("scattering/linear_60", images, "gaussian", {**overrides, "image.npix": 16})
    with pytest.raises(DataError, match="no image 40"):
        load_problem(
            "scattering/linear_60", images, "gaussian", {**overrides, "observation.item": 40}
        )


def test_black_hole_cards_take_its_images_and_measurement(tmp_path):
    """Its test image 1 on the baselines of its uvfits file: as of the same image in FITS."""
    pytest.importorskip("ehtim")
    pytest.importorskip("lmdb")
    image = BlackHoleImages(64, 160.0, 1)[3][0].astype(float)
    folder = write_lmdb(tmp_path / "test", {0: truth("black_hole", 0)[0], 1: image})
    measurement = write_measurement(tmp_path / "measure")
    coverage = {"kind": "uvfits", "file": str(measurement / "obs.uvfits"), "average_seconds": None}
    settings = {"observation.item": 1, "observation.coverage": coverage}
    problem = load_problem("black_hole/inversebench_100", folder, "gaussian", settings)
    np.testing.assert_allclose(problem.truth / problem.truth.max(), image / image.max(), rtol=1e-6)
    assert float(problem.truth.sum()) == pytest.approx(0.6)
    assert problem.observation.sizes["cphase"] == 158  # the golden's
    phantom = {"observation.image": "phantom:3", "observation.coverage": coverage}
    same = load_problem("black_hole/inversebench_100", None, "gaussian", phantom)
    np.testing.assert_allclose(same.observation["cphase"], problem.observation["cphase"], atol=1e-6)


def test_every_slice_of_its_mri_database(tmp_path):
    pytest.importorskip("lmdb")
    folder = write_mri(tmp_path / "mri", range(12))
    with open_kspace(folder) as file:
        assert len(file) == 12
        slices = {k: file[k] for k in parse_ids("0-1,11")}
    overrides = {"kspace.benchmark_crop": False, "kspace.slice": 11}
    problem = load_problem("mri/inversebench", folder, "gaussian", overrides)
    found = slices[11]
    np.testing.assert_allclose(found["maps"], maps(), rtol=1e-6)
    image = truth("mri", 11)
    np.testing.assert_allclose(found["mvue"].real, image[0], atol=1e-6)
    scale = np.quantile(np.hypot(*image), 0.99)
    np.testing.assert_allclose(problem.truth, image / scale, atol=1e-5)


# ---------------------------------------------------------------- checkpoints

NETWORKS = ["inv-scatter", "mri-knee-mvue", "mri-brain-mvue", "blackhole"]


@pytest.mark.parametrize("name", NETWORKS)
def test_its_networks_are_reproduced(name, tmp_path, inversebench):  # noqa: F811
    """Small ones of its architectures, as its training saves them, from its own configuration."""
    from models import precond

    text = (inversebench / "configs" / "pretrain" / f"{name}.yaml").read_text()
    model = yaml.safe_load(text)["model"] | {"img_resolution": 32, "model_channels": 16}
    options = {key: value for key, value in model.items() if key != "_target_"}
    torch.manual_seed(0)
    network = getattr(precond, model["_target_"].rpartition(".")[2])(**options).eval()
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    state = {"ema": network.state_dict(), "net": network.state_dict(),
             "optimizer": torch.optim.Adam(network.parameters()).state_dict(),
             "scheduler": {"last_epoch": 3, "best": np.float64(0.1)}}  # fmt: skip
    torch.save(state, tmp_path / "ckpt_5000.pt")
    prior = load_prior(tmp_path / "ckpt_5000.pt", config=model)
    for sigma in (0.02, 0.5, 10.0, 80.0):
        x = torch.randn(2, *prior.image_shape) * max(sigma, 0.5)
        with torch.no_grad():
            theirs, ours = network(x, torch.tensor(sigma)), prior(x, torch.full((2,), sigma))
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5


def test_numpy_scalars_beside_weights(tmp_path):
    """As of a training's best loss: they load as Python numbers, and no code runs."""
    config = {"architecture": "song", "preconditioning": "edm", "image_shape": [1, 8, 8],
              "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1,
              "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
    facts = {"loss": np.float64(0.25), "step": np.int64(-7), "done": np.bool_(True),
             "half": np.float16(0.5), "big": np.dtype(">f4").type(3)}  # fmt: skip
    torch.save({"ema": build_network(config).state_dict(), **facts}, tmp_path / "prior.pt")
    content = read_tensors(tmp_path / "prior.pt")
    assert {key: content[key] for key in facts} == {
        "loss": 0.25, "step": -7, "done": True, "half": 0.5, "big": 3.0,
    }  # fmt: skip
    assert all(type(content[key]) in (int, float, bool) for key in facts)
    assert load_prior(tmp_path / "prior.pt", config={"preconditioning": "edm"}).image_shape == (
        1,
        8,
        8,
    )


@pytest.mark.parametrize(
    "value", [np.ones(3), np.str_("text"), np.datetime64("2020-01-01"), np.complex64(1j), Path()]
)
def test_other_things_beside_weights_are_refused(value, tmp_path):
    torch.save({"ema": {"w": torch.ones(1)}, "value": value}, tmp_path / "prior.pt")
    with pytest.raises(DataError, match="more than tensors and plain values"):
        read_tensors(tmp_path / "prior.pt")

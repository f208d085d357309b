"""Damaged and hostile files, one by one: each is refused by one clear error, and soon."""

import json
import struct
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from readers import CARD, NETWORK, READERS, kspace
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from lmaps_science.cards.load import load_card, load_problem
from lmaps_science.cards.sections import read_array_file
from lmaps_science.cli import app
from lmaps_science.io import (
    DataError,
    open_kspace,
    read_array,
    read_fresnel,
    read_image,
    read_netcdf,
    read_uvfits,
    write_netcdf,
)
from lmaps_science.plots import plot_reconstruction, plot_samples
from lmaps_science.priors import load_prior, prior_info

resource = pytest.importorskip("resource")
SECRET = "root:x:0:0:secret"


@contextmanager
def refused(match: str):
    """One DataError within 2 s (of the processor) and 1 GB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(DataError, match=match) as caught:
        yield
    assert time.process_time() - start < 2
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 1e9
    assert SECRET not in str(caught.value)
    assert len(str(caught.value)) < 1500


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    "shape",
    ["(-3, 8, 6)", "(9223372036854775808, 2, 2)", "(4294967296, 4294967296, 2)", "(2, 3.5)"],
)
def test_npy_with_an_impossible_shape(shape, tmp_path):
    header = f"{{'descr': '<c8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (117 - len(header)) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(800)
    (tmp_path / "k.npy").write_bytes(content)
    with refused("not a whole NumPy file"):
        open_kspace(tmp_path / "k.npy")
    with refused("not a whole NumPy file"):
        read_array_file(tmp_path / "k.npy")


def test_npz_and_objects_are_no_npy(tmp_path):
    np.savez(tmp_path / "k.npz", a=np.ones(3))
    (tmp_path / "k.npz").rename(tmp_path / "k.npy")
    with refused("not a whole NumPy file"):
        read_array_file(tmp_path / "k.npy")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with refused("not a whole NumPy file"):
        read_array_file(tmp_path / "o.npy")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("9223372036854775808 2", "positive whole numbers"),
        ("4294967296 4294967296 2", "make 295147905179352825856"),  # 0 modulo 2^64
        ("-64 -64", "positive whole numbers"),
        ("1 " * 17, "up to 16"),
        ("1" * 5000, "positive whole numbers"),
    ],
)
def test_cfl_with_impossible_sizes(sizes, message, tmp_path):
    (tmp_path / "k.hdr").write_text(f"# Dimensions\n{sizes}\n")
    (tmp_path / "k.cfl").write_bytes(bytes(32768))
    with refused(message):
        open_kspace(tmp_path / "k.cfl")


# ---------------------------------------------------------------- HDF5


def external_storage(file):
    outside = Path(file.filename).with_name("secret.bin")
    outside.write_bytes(SECRET.encode() * 100)
    file.create_dataset("kspace", (1, 2, 4), np.complex64, external=[(str(outside), 0, 64)])


def virtual(file):
    layout = h5py.VirtualLayout((1, 2, 4), np.complex64)
    layout[:] = h5py.VirtualSource("other.h5", "kspace", (1, 2, 4))
    file.create_virtual_dataset("kspace", layout)


HDF5 = {
    "group": (lambda f: f.create_group("kspace/inside"), "kspace is a group that holds inside"),
    "dangling": (lambda f: f.__setitem__("kspace", h5py.SoftLink("/no")), "link to nothing"),
    "circle": (lambda f: f.__setitem__("kspace", h5py.SoftLink("/kspace")), "link to nothing"),
    "external": (
        lambda f: f.__setitem__("kspace", h5py.ExternalLink("other.h5", "kspace")),
        "link to another file",
    ),
    "by way of an external": (
        lambda f: [
            f.__setitem__("a", h5py.ExternalLink("other.h5", "/")),
            f.__setitem__("kspace", h5py.SoftLink("/a/kspace")),
        ],
        "link to another file",
    ),
    "stored elsewhere": (external_storage, "stored in other files"),
    "virtual": (virtual, "stored in other files"),
    "empty": (lambda f: f.__setitem__("kspace", h5py.Empty("f4")), "kspace is empty"),
    "no acquisitions": (
        lambda f: [f.__setitem__("d/data", np.ones(3)), f.__setitem__("d/xml", "<a/>")],
        "no ISMRMRD file of raw data",
    ),
}


@pytest.mark.parametrize("name", HDF5)
def test_hdf5(name, tmp_path):
    if name == "no acquisitions":
        pytest.importorskip("ismrmrd")
    write, message = HDF5[name]
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kspace"] = kspace(1, 2, 4)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        write(file)
    with refused(message):
        open_kspace(tmp_path / "scan.h5")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "secret">]><a>&b;</a>', "document type of its own"),
        ("<a/>", "no ISMRMRD acquisitions with a header"),
        ("x" * 2_000_000, "not one text of at most 1 MB"),
    ],
)
def test_ismrmrd_with_another_header(header, message, tmp_path):
    pytest.importorskip("ismrmrd")
    path = READERS["ISMRMRD"].write(tmp_path)
    with h5py.File(path, "a") as file:
        del file["dataset/xml"]
        file["dataset/xml"] = header
    with refused(message):
        open_kspace(path)


def test_links_inside_of_a_file_are_followed(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["a/b"] = kspace(1, 2, 4)
        file["a/c"] = h5py.SoftLink("b")
        file["kspace"] = h5py.SoftLink("/a/c")
    with open_kspace(tmp_path / "scan.h5") as scan:
        np.testing.assert_array_equal(scan[0]["kspace"].values, kspace(1, 2, 4))


def test_hdf5_of_10_tb(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        shape = (1, 1, 1_000_000, 1_250_000)
        file.create_dataset("kspace", shape, np.complex64, chunks=(1, 1, 1000, 1000))
        file.create_dataset("image", shape, np.complex64, chunks=(1, 1, 1000, 1000))
    with open_kspace(tmp_path / "scan.h5") as scan, refused("10 TB, and has only"):
        scan[0]
    with refused("declares arrays, 20 TB"):
        read_netcdf(tmp_path / "scan.h5")


# ---------------------------------------------------------------- results


def test_netcdf_of_other_programs(tmp_path):
    other = xr.Dataset({"temperature": ("time", np.ones(3))})
    write_netcdf(tmp_path / "other.nc", other)
    for draw in (plot_reconstruction, plot_samples):
        with refused("not a result of this package: it lacks sigma, misfit"):
            draw(read_netcdf(tmp_path / "other.nc"))
    alike = xr.Dataset(
        {
            "image": (("sample", "y", "x"), np.ones((1, 3, 3))),
            "sigma": ("level", np.ones(2)),
            "misfit": (("level", "sample"), np.ones((2, 1))),
        }
    )
    for attrs in (
        {},
        {"kind": "black_hole"},
        {"kind": "black_hole", "best": 0},
        {"kind": "mri", "best": 0},
    ):
        for draw in (plot_reconstruction, plot_samples):
            if attrs != {"kind": "mri", "best": 0} or draw is plot_reconstruction:
                with refused("result of this package"):
                    draw(alike.assign_attrs(attrs))
    for attrs in (
        {"kind": "mri"},
        {"kind": "mri", "best": 7},
        {"kind": "mri", "best": 0, "card": 1},
    ):
        write_netcdf(tmp_path / "alike.nc", alike.assign_attrs(attrs))
        said = CliRunner().invoke(app, ["info", str(tmp_path / "alike.nc")])
        assert said.exit_code == 1
        assert "is not a result of this package" in said.output


def test_a_bad_json_attribute(tmp_path):
    for text in ('json:{"a": ', "json:" + "[" * 100_000):
        with h5py.File(READERS["NetCDF"].write(tmp_path), "a") as file:
            del file.attrs["card"]
            file.create_dataset("dummy", data=1)
            file["image"].attrs["note"] = text[:60000]
        with refused("attribute note is marked as JSON"):
            read_netcdf(tmp_path / "result.nc")
        (tmp_path / "result.nc").unlink()


# ---------------------------------------------------------------- the sky


def test_a_binary_station_file(tmp_path):
    for content in (bytes(range(256)), b"\x00" * 100, b"AA 1 2 3 4\n\xff\xfe"):
        (tmp_path / "array.txt").write_bytes(content)
        with refused("holds binary data instead of text"):
            read_array(tmp_path / "array.txt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v * 0, "every visibility is zero"),
        (lambda v: v * np.array([0, 1]), "the real part of every visibility is zero"),
        (lambda v: v * 1e30, "beyond 1e.12 Jy"),
    ],
)
def test_uvfits_that_no_source_gives(change, message, tmp_path):
    pytest.importorskip("ehtim")
    from astropy.io import fits

    path = READERS["uvfits"].write(tmp_path)
    with fits.open(path, mode="update", memmap=False) as hdus:
        data = hdus[0].data["DATA"]
        data[..., :2] = change(data[..., :2])
    for options in ({}, {"flux": 0.6}, {"flux_baseline": "shortest"}):
        with refused(message):
            read_uvfits(path, **options)


def test_an_image_of_50_degrees_a_pixel(tmp_path):
    from astropy.io import fits

    path = READERS["FITS image"].write(tmp_path)
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["CDELT1"], hdus[0].header["CDELT2"] = -50.0, 50.0
    with refused("each 50 degrees wide, is larger than 1 rad"):
        read_image(path)
    fits.PrimaryHDU().writeto(tmp_path / "empty.fits")
    with refused("holds no image"):
        read_image(tmp_path / "empty.fits")


# ---------------------------------------------------------------- priors


def edited(path: Path, **changes) -> None:
    """The same weights under another description."""
    info, state = prior_info(path), load_file(path)
    info |= changes
    save_file(state, path, metadata={"lmaps": json.dumps(info)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"model_channels": 4 * 10**12}}, "model_channels must be"),
        ({"config": {"num_blocks": 10**7}}, "num_blocks must be"),
        ({"config": {"sigma_data": 0.0}}, "sigma_data must be"),
        ({"config": {"sigma_data": 10**400}}, "sigma_data must be"),
        ({"config": {"channel_mult": [1] * 60}}, "channel_mult must be"),
        ({"config": {"channel_mult": [1, 0]}}, "channel_mult must be"),
        ({"config": {"resample_filter": [1, -1]}}, "resample_filter must be"),
        ({"config": {"preconditioning": "iddpm", "steps": 10**10}}, "steps must be"),
        ({"config": {"out_channels": "1"}}, "out_channels must be"),
        ({"value_range": [-1, float("inf")]}, "contradicts itself"),
        ({"value_range": [float("nan"), 1]}, "contradicts itself"),
        ({"value_range": ["a", "b"]}, "truncated, damaged"),
        ({"training": []}, "contradicts itself"),
    ],
)
def test_priors_that_describe_no_network(changes, message, tmp_path):
    path = READERS["safetensors"].write(tmp_path)
    if "config" in changes:
        changes = {"config": {**NETWORK, **changes["config"]}}
    edited(path, **changes)
    with refused(message):
        load_prior(path)


def test_a_description_without_end(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "p.safetensors", metadata={"lmaps": "[" * 100_000})
    with refused("cut or changed"):
        load_prior(tmp_path / "p.safetensors")


@pytest.mark.parametrize("what", ["repeated", "blocks", "stages", "integers"])
def test_checkpoints_that_claim_more_than_they_hold(what, tmp_path):
    state = dict(torch.load(READERS["checkpoint"].write(tmp_path), weights_only=True)["ema"])
    if what == "repeated":
        state["model.map_layer0.weight"] = torch.zeros(1).expand(60000, 60000)
    elif what == "blocks":
        state["model.enc.8x8_block99999999.conv1.weight"] = torch.ones(1)
    elif what == "integers":
        state = {name: value.to(torch.int32) for name, value in state.items()}
    else:
        state = {
            "model.time_embed.0.weight": torch.ones(4, 4),
            "model.input_blocks.0.0.weight": torch.ones(4, 1, 3, 3),
        }
        state["model.input_blocks.99999999999.0.weight"] = torch.ones(1)
    torch.save(state, tmp_path / "p.pt")
    with refused("p.pt"):
        config = {"preconditioning": "vp", "image_shape": [1, 8, 8], "num_heads": 1}
        load_prior(
            tmp_path / "p.pt", config=config if what == "stages" else {"preconditioning": "edm"}
        )


# ---------------------------------------------------------------- cards


CARDS = {
    "deep": ("[" * 10_000, "more than 40 levels"),
    "deep sections": ("".join(f"{' ' * k}a:\n" for k in range(400)), "more than 40 levels"),
    "kind of a list": ("kind: [1]", "kind is"),
    "twice": ("kind: black_hole\ntitle: a\nkind: mri\n", "the same key in line 1 and in line 3"),
    "twice inside": ("a:\n  b: 1\n  b: 2\n", "the same key in line 2 and in line 3"),
    "repetitions": (
        "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(
            f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n"
            for p, c in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "aliases",
    ),
    "of itself": ("a: &a [*a]", "aliases"),
    "code": ("a: !!python/object/apply:os.system [ls]", "constructor"),
    "date": ("a: 2020-99-99", "form of a date"),
    "list": ("- 1", "not a card"),
    "binary": ("\x00\x01", "binary data"),
    "large": ("# " + "x" * 200_000, "0.2 MB"),
    "extends": ("extends: [1]", "there is no problem"),
    "another file": ("extends: secret", "there is no problem"),
}


@pytest.mark.parametrize("name", CARDS)
def test_cards(name, tmp_path):
    content, message = CARDS[name]
    (tmp_path / "card.yaml").write_text(content)
    (tmp_path / "secret").write_text(SECRET)
    with refused(message):
        load_card(str(tmp_path / "card.yaml"))


@pytest.mark.parametrize(
    "path",
    ["observation", "prior", "image", "presets", "presets.default", "preset", "title", "kind"],
)
@pytest.mark.parametrize(
    "value", [[1], {"kind": [1]}, {"method": [1]}, {1: 2}, None, 1e400, 10**400, "x" * 10_000]
)
def test_cards_with_values_of_other_types(path, value, tmp_path):
    content = json.loads(json.dumps(CARD))
    *sections, last = path.split(".")
    inside = content
    for key in sections:
        inside = inside[key]
    inside[last] = value
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(content))
    if path == "title" and isinstance(value, str):
        assert load_card(str(tmp_path / "card.yaml")).title == value
        return
    with refused("card"):
        load_card(str(tmp_path / "card.yaml"))


# ---------------------------------------------------------------- nothing is quoted


SECRETS = [
    (read_uvfits, "x.uvfits"),
    (read_image, "x.fits"),
    (read_array, "x.txt"),
    (read_fresnel, "x.exp"),
    (read_netcdf, "x.nc"),
    (open_kspace, "x.h5"),
    (open_kspace, "x.npy"),
    (open_kspace, "x.cfl"),
    (open_kspace, "x"),
    (read_array_file, "x.npy"),
    (load_prior, "x.safetensors"),
    (load_prior, "x.pt"),
    (lambda path: load_card(str(path)), "x.yaml"),
]


@pytest.mark.parametrize(("read", "name"), SECRETS)
@pytest.mark.parametrize(
    "text", [f"{SECRET}\nb: c: d\n", f"b: '{SECRET}\n", f"# SRC: {SECRET}\n{SECRET}\n"]
)
def test_no_error_repeats_what_is_in_a_file(read, name, text, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    path.with_suffix(".hdr").write_text(text)
    if "uvfits" in name:
        pytest.importorskip("ehtim")
    with refused("x"):
        read(path)


def test_a_prior_outside_of_the_cards_folder(tmp_path):
    (tmp_path / "passwd").write_text(SECRET)
    card = {
        **CARD,
        "prior": {"kind": "network", "file": "../passwd", "config": {"preconditioning": "edm"}},
    }
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "card.yaml").write_text(yaml.safe_dump(card))
    for file in ("../passwd", str(tmp_path / "passwd")):
        with refused("prior|PyTorch"):
            load_problem(str(tmp_path / "cards" / "card.yaml"), overrides={"prior.file": file})

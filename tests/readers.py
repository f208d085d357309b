"""Every reader of the package with a whole file of its format: what the tests of damage start from.

`READERS[name]` holds `write(folder) -> path` and `read(path)`, which looks at all that the file
holds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
import xarray as xr
import yaml

from lmaps_science.cards.load import load_card
from lmaps_science.cards.sections import read_array_file
from lmaps_science.io import (
    make_image,
    open_kspace,
    read_array,
    read_fresnel,
    read_image,
    read_netcdf,
    read_uvfits,
    write_cfl,
    write_fits,
    write_netcdf,
)
from lmaps_science.manifests import _read as read_manifests
from lmaps_science.priors import NetworkDenoiser, build_network, load_prior, save_prior

GOLDEN = Path(__file__).parent / "golden"
NETWORK = {
    "architecture": "song",
    "preconditioning": "edm",
    "image_shape": [1, 8, 8],
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.0,
}
CARD = {
    "kind": "black_hole",
    "title": "a test",
    "observation": {"kind": "simulation", "image": "phantom:0", "array": "EHT2017"},
    "image": {"npix": 8, "fov_uas": 160.0},
    "prior": {"kind": "gaussian"},
    "presets": {"default": {"method": "lmaps", "levels": 5}},
}
HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
 <experimentalConditions><H1resonanceFrequency_Hz>128000000</H1resonanceFrequency_Hz>
 </experimentalConditions>
 <encoding>
  <encodedSpace><matrixSize><x>12</x><y>8</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>24</x><y>12</y><z>5</z></fieldOfView_mm></encodedSpace>
  <reconSpace><matrixSize><x>6</x><y>8</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>12</x><y>12</y><z>5</z></fieldOfView_mm></reconSpace>
  <encodingLimits/><trajectory>cartesian</trajectory>
 </encoding>
</ismrmrdHeader>"""


class Reader(NamedTuple):
    write: Callable[[Path], Path]
    read: Callable[[Path], Any]


def kspace(*shape: int) -> np.ndarray:
    k = np.random.default_rng(0).standard_normal((2, *shape))
    return (k[0] + 1j * k[1]).astype(np.complex64)


def image() -> xr.DataArray:
    values = np.random.default_rng(0).random((6, 6))
    return make_image(values, 5e-11, source="M87", ra_hours=12.5, dec_degrees=12.4, mjd=57848)


# ---------------------------------------------------------------- writing


def uvfits(folder: Path) -> Path:
    path = folder / "data.uvfits"
    path.write_bytes((GOLDEN / "black_hole_obs.uvfits").read_bytes())
    return path


def fits(folder: Path) -> Path:
    write_fits(folder / "image.fits", image(), frequency_hz=2.3e11)
    return folder / "image.fits"


def text_image(folder: Path) -> Path:
    lines = ["# SRC: M87", "# RA: 12 h 30 m 49.4 s", "# DEC: 12 deg 23 m 28.0 s", "# MJD: 57848"]
    lines += ["# RF: 230.0 GHz", "# FOVX: 3 pix 0.00003 as", "# FOVY: 3 pix 0.00003 as"]
    lines += [f"{x} {y} {0.1 * x + y}" for y in range(3) for x in range(3)]
    (folder / "image.txt").write_text("\n".join(lines))
    return folder / "image.txt"


def stations(folder: Path) -> Path:
    lines = [
        "# name x y z SEFD",
        "AA 2225061 -5440059 -2481681 74",
        "AP 2225039 -5441197 -2479303 4700",
    ]
    lines += ["PV 5088967 -301681 3825015 1900", "SM -5464523 -2493147 2150611 6000"]
    (folder / "array.txt").write_text("\n".join(lines))
    return folder / "array.txt"


def netcdf(folder: Path) -> Path:
    data = xr.Dataset(
        {
            "image": (("sample", "y", "x"), np.ones((2, 3, 3))),
            "visibility": ("vis", kspace(4)),
            "misfit": (("level", "sample"), np.ones((3, 2))),
            "sigma": ("level", np.array([3.0, 2.0, 1.0])),
            "station": ("vis", np.array(["AA", "AP", "AA", "PV"])),
        },
        attrs={"card": {"title": "a test"}, "best": 1, "flag": True},
    )
    write_netcdf(folder / "result.nc", data)
    return folder / "result.nc"


def fastmri(folder: Path) -> Path:
    with h5py.File(folder / "scan.h5", "w") as file:
        file.create_dataset("kspace", data=kspace(2, 3, 8, 6), chunks=(1, 3, 8, 6), compression=4)
        file["s_maps"], file["mask"] = kspace(2, 3, 8, 6), np.ones(6, np.float32)
        file["ismrmrd_header"] = HEADER
    return folder / "scan.h5"


def ismrmrd(folder: Path) -> Path:
    import ismrmrd as library

    dataset = library.Dataset(str(folder / "scan.mrd"), "dataset", create_if_needed=True)
    dataset.write_xml_header(HEADER.encode())
    for line in range(8):
        acquisition = library.Acquisition.from_array(kspace(2, 12))
        acquisition.center_sample = 6
        acquisition.idx.kspace_encode_step_1 = line
        dataset.append_acquisition(acquisition)
    dataset.close()
    return folder / "scan.mrd"


def cfl(folder: Path) -> Path:
    write_cfl(folder / "scan", kspace(8, 6, 1, 3))
    return folder / "scan.cfl"


def cfl_header(folder: Path) -> Path:
    return cfl(folder).with_suffix(".hdr")


def npy(folder: Path) -> Path:
    np.save(folder / "scan.npy", kspace(2, 3, 8, 6))
    return folder / "scan.npy"


def lmdb(folder: Path) -> Path:
    import lmdb as library

    for name, values in (("kspace", kspace(4, 3, 8, 8)), ("mvue", kspace(4, 8, 8))):
        database = library.open(str(folder / name), map_size=1 << 20)
        with database.begin(write=True) as transaction:
            for i, value in enumerate(values):
                transaction.put(str(i).encode(), value.tobytes())
        database.close()
    return folder / "kspace" / "data.mdb"


def fresnel(folder: Path) -> Path:
    lines = ["# Number of frequencies : 2", "# Number of views : 2", "# Number of receivers : 3"]
    for view in (1, 2):
        for receiver in (60, 61, 62):
            lines += [f"{view} {receiver} {f:.1f} 0.1 -0.2 {0.3 + f} 0.4" for f in (2, 3)]
    (folder / "target.exp").write_text("\n".join(lines))
    return folder / "target.exp"


def denoiser() -> NetworkDenoiser:
    torch.manual_seed(0)
    return NetworkDenoiser(build_network(NETWORK))


def safetensors(folder: Path) -> Path:
    return save_prior(folder / "prior.safetensors", denoiser(), training={"steps": 1})


def checkpoint(folder: Path) -> Path:
    torch.save({"ema": denoiser().network.state_dict()}, folder / "prior.pt")
    return folder / "prior.pt"


def legacy_checkpoint(folder: Path) -> Path:
    state = {"ema": denoiser().network.state_dict()}
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    return folder / "old.pt"


def card(folder: Path) -> Path:
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    return folder / "card.yaml"


def manifest(folder: Path) -> Path:
    source = Path(__file__).parents[1] / "data_manifests" / "fresnel.yaml"
    (folder / "one.yaml").write_bytes(source.read_bytes())
    return folder / "one.yaml"


# ---------------------------------------------------------------- reading


def read_kspace(path: Path) -> None:
    with open_kspace(path) as file:
        for item in list(file)[:10]:
            assert np.isfinite(item["kspace"].values).all()


def read_manifest(path: Path) -> Any:
    read_manifests.cache_clear()
    return read_manifests(path.parent)


def read_checkpoint(path: Path) -> Any:
    return load_prior(path, config={"preconditioning": "edm"})


READERS = {
    "uvfits": Reader(uvfits, read_uvfits),
    "FITS image": Reader(fits, read_image),
    "text image": Reader(text_image, read_image),
    "stations": Reader(stations, read_array),
    "NetCDF": Reader(netcdf, read_netcdf),
    "fastMRI": Reader(fastmri, read_kspace),
    "ISMRMRD": Reader(ismrmrd, read_kspace),
    "BART data": Reader(cfl, read_kspace),
    "BART header": Reader(cfl_header, read_kspace),
    "NumPy k-space": Reader(npy, read_kspace),
    "NumPy array": Reader(npy, lambda path: read_array_file(str(path))),
    "LMDB": Reader(lmdb, lambda path: read_kspace(path.parents[1])),
    "Fresnel": Reader(fresnel, read_fresnel),
    "safetensors": Reader(safetensors, load_prior),
    "checkpoint": Reader(checkpoint, read_checkpoint),
    "legacy checkpoint": Reader(legacy_checkpoint, read_checkpoint),
    "card": Reader(card, lambda path: load_card(str(path))),
    "manifest": Reader(manifest, read_manifest),
}
EXTRAS = {"uvfits": "ehtim", "ISMRMRD": "ismrmrd", "LMDB": "lmdb"}

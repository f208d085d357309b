"""Small results for the tests of reports, as `lmaps run` writes them."""

import json

import numpy as np
import xarray as xr

from lmaps_science.io import write_netcdf


def made(seed=0, *, psnr=(20.0, 22.0), angle=(350.0, 10.0), npix=16, levels=3, length=5, **attrs):
    """A result of two samples with metrics `psnr` (dB) and `angle` (degree), and its truth."""
    rng, n = np.random.default_rng(seed), len(psnr)
    images = rng.random((n, npix, npix)).astype("float32")
    axis = np.arange(npix, dtype=float)
    data = xr.Dataset(
        {
            "image": (("sample", "y", "x"), images, {"units": "Jy/pixel"}),
            "image_mean": (("y", "x"), images.mean(0)),
            "truth": (("y", "x"), rng.random((npix, npix))),
            "misfit": (("level", "sample"), rng.random((levels, n))),
            "mode": ("sample", np.arange(n)),
            "psnr": ("sample", np.array(psnr, float), {"units": "dB"}),
            "angle": ("sample", np.array(angle, float), {"units": "degree"}),
            "residual": (("sample", "data"), rng.random((n, length))),
        },
        coords={
            "sample": np.arange(n),
            "y": axis,
            "x": axis,
            "sigma": ("level", rng.random(levels)),
        },
    )
    data.attrs = {
        "kind": "black_hole",
        "problem": "black_hole/simulated",
        "card": {"kind": "black_hole", "title": "a ring"},
        "solver": "LMAPS()",
        "best": 1,
        "verdict": "good",
        "verdict_reasons": ["chi2 1.0 (within 2)"],
        "metrics_of_mean": {"psnr": psnr[0] + 3, "angle": None},
        "wall_seconds": 1.5,
        **attrs,
    }
    return data


def write(folder, data):
    folder.mkdir(parents=True)
    write_netcdf(folder / "result.nc", data)


def fail(folder, error="the file is truncated. Copy it again.", **more):
    folder.mkdir(parents=True)
    told = {"name": folder.name, "error": error, "type": "DataError", "data": "a.uvfits", **more}
    (folder / "failure.json").write_text(json.dumps(told))

"""Small results in the form of InverseBench's program, of images and data by formulas alone."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from registries import load_golden

GOLDEN = Path(__file__).parents[1] / "golden"
TARGETS = {
    "scattering": "inverse_problems.inverse_scatter.InverseScatter",
    "mri": "inverse_problems.multi_coil_mri.MultiCoilMRI",
    "black_hole": "inverse_problems.blackhole.BlackHoleImaging",
}
MODELS: dict[str, dict[str, Any]] = {
    "scattering": {
        "Nx": 32, "Ny": 32, "wave": 6, "numRec": 40, "numTrans": 8, "svd": False,
        "sigma_noise": 1e-4, "unnorm_shift": 1.0, "unnorm_scale": 0.5,
    },
    "mri": {"total_lines": 32, "acceleration_ratio": 4, "pattern": "random", "mask_seed": 0},
    "black_hole": {"imsize": 64, "noise_type": "vis_thermal", "unnorm_shift": 1.0,
                   "unnorm_scale": 0.5},
}  # fmt: skip
COILS = 3


def waves(n: int, a: float, b: float, phase: float) -> np.ndarray:
    """Stripes in [0, 1], (n, n)."""
    y, x = np.mgrid[:n, :n] / n
    return 0.5 + 0.5 * np.sin(2 * np.pi * (a * x + b * y) + phase)


def ring(n: int, radius: float, width: float, turn: float) -> np.ndarray:
    """A crescent with peak 1, (n, n)."""
    y, x = np.mgrid[:n, :n] / n - 0.5
    image = np.exp(-(((np.hypot(x, y) - radius) / width) ** 2)) * (
        1 + 0.6 * np.cos(np.arctan2(y, x) - turn)
    )
    return image / image.max()


def truth(field: str, item: int) -> np.ndarray:
    """(C, H, W)."""
    if field == "scattering":
        return (0.8 * waves(32, 2, 1, item) ** 2)[None]
    if field == "mri":
        image = waves(32, 1, 2, item) * np.exp(1j * waves(32, 0.5, 0.5, 0))
        return np.stack([image.real, image.imag])
    return ring(64, 0.13, 0.03, 1 + item)[None]


def sample(field: str, item: int, k: int) -> np.ndarray:
    """(C, H, W), a wrong image."""
    if field == "black_hole":
        return (0.9 * ring(64, 0.14, 0.04, 0.8 + item + 0.3 * k) + 0.01)[None]
    image = truth(field, item)
    return image + 0.1 * waves(image.shape[-1], 5 + k, 3, k) - 0.04


def observation(field: str, item: int) -> torch.Tensor:
    """As the program packs it."""
    if field == "black_hole":
        return torch.as_tensor(load_golden("black_hole")["y"]) * (1 + 1e-3 * item)
    if field == "scattering":
        parts = waves(40, 3, 2, item)[:8] - 0.5, waves(40, 1, 4, item)[:8] - 0.5
        return torch.as_tensor(0.02 * (parts[0] + 1j * parts[1]))[None]
    y = np.stack([waves(32, c + 1, 2, item) - 0.5 for c in range(2 * COILS)])
    return torch.as_tensor(y.reshape(1, COILS, 2, 32, 32).transpose(0, 1, 3, 4, 2).copy()).float()


def maps() -> np.ndarray:
    """Coil maps (coils, H, W) of norm 1."""
    found = np.stack([waves(32, 0.4, 0.3 * c, c) + 0.2j * c for c in range(COILS)])
    return (found / np.sqrt((np.abs(found) ** 2).sum(0))).astype(np.complex64)


def write_lmdb(folder: Path, items: dict[int, np.ndarray]) -> Path:
    """A database of bare numbers under decimal keys."""
    import lmdb

    folder.mkdir(parents=True)
    database = lmdb.open(str(folder), map_size=1 << 24)
    with database.begin(write=True) as transaction:
        for item, value in items.items():
            transaction.put(str(item).encode(), value.tobytes())
    database.close()
    return folder


def write_mri(folder: Path, items: range) -> Path:
    """Databases of k-space (of the truth), coil maps and images."""
    images = {k: truth("mri", k)[0] + 1j * truth("mri", k)[1] for k in items}
    kspace = {
        k: np.fft.fftshift(
            np.fft.fft2(np.fft.ifftshift(maps() * image, axes=(1, 2)), norm="ortho"), axes=(1, 2)
        )
        for k, image in images.items()
    }
    parts = {"kspace": kspace, "mvue": images, "s_maps": dict.fromkeys(items, maps())}
    for name, arrays in parts.items():
        write_lmdb(folder / name, {k: v.astype(np.complex64) for k, v in arrays.items()})
    return folder


def write_measurement(folder: Path) -> Path:
    """`obs.uvfits` and `gt.fits` of a black hole."""
    folder.mkdir(parents=True)
    shutil.copy(GOLDEN / "black_hole_obs.uvfits", folder / "obs.uvfits")
    shutil.copy(GOLDEN / "black_hole_ref.fits", folder / "gt.fits")
    return folder


def write_run(
    base: Path,
    field: str,
    items: range = range(2),
    samples: int = 1,
    algorithm: str = "Formula",
    **settings: Any,
) -> Path:
    """A folder of results as the program leaves it under `base`, its working directory.

    `settings` change the section `problem`, e.g. `data={"id_list": "0-4"}`.
    """
    folder = base / "exps" / field / algorithm / "default"
    folder.mkdir(parents=True)
    model = {"_target_": TARGETS[field], **MODELS[field]}
    data = {"_target_": "training.dataset.LMDBData", "root": f"data/{field}", "id_list": "0-1"}
    if field == "black_hole":
        model["root"] = "data/measure"
    problem = {"name": field, "model": model, "data": data, "exp_dir": f"exps/{field}"}
    for name, value in settings.items():
        problem[name] = {**problem[name], **value} if isinstance(value, dict) else value
    config = {"exp_name": "default", "algorithm": {"name": algorithm}, "problem": problem}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for item in items:
        torch.save(saved(field, item, samples), folder / f"result_{item}.pt")
    return folder


def saved(field: str, item: int, samples: int = 1) -> dict[str, torch.Tensor]:
    """What the program saves of an item."""
    recon = np.stack([sample(field, item, k) for k in range(samples)])
    return {
        "observation": observation(field, item),
        "recon": torch.as_tensor(recon).float(),
        "target": torch.as_tensor(truth(field, item))[None].float(),
    }


# ---------------------------------------------------------------- the real program


@pytest.fixture
def inversebench(monkeypatch) -> Path:
    """A checkout of the benchmark, its modules importable; skipped where there is none.

    Its own requirements must be installed beside it: run the tests with the Python of an
    environment for it.
    """
    if not os.environ.get("INVERSEBENCH"):
        pytest.skip("INVERSEBENCH names no checkout of the benchmark")
    checkout = Path(os.environ["INVERSEBENCH"])
    for package in ("hydra", "piq", "torchvision", "wandb", "lmdb", "ehtim", "sigpy"):
        pytest.importorskip(package)
    monkeypatch.syspath_prepend(str(checkout))
    return checkout


def its_operator(field: str, base: Path) -> Any:
    """Its forward operator for a run of `write_run`, with coil maps."""
    module, _, name = TARGETS[field].rpartition(".")
    settings = dict(MODELS[field])
    if field == "black_hole":
        settings["root"] = str(base / "data" / "measure")
    operator = getattr(importlib.import_module(module), name)(**settings, device="cpu")
    if field == "mri":
        kspace = torch.zeros(1, COILS, 32, 32, dtype=torch.complex64)
        operator({"maps": torch.as_tensor(maps())[None], "kspace": kspace})
    return operator


def write_data(base: Path, field: str, items: range = range(2)) -> None:
    """What scores need beside the results, where the program had it."""
    if field == "mri":
        write_mri(base / "data" / "mri", items)
    elif field == "black_hole":
        write_measurement(base / "data" / "measure")

"""`algorithm=lmaps` in a Hydra application: a small one of ours, and InverseBench itself.

The second runs where `$INVERSEBENCH` is a checkout of it and its packages are installed; nothing is
written there.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
CONF = "pkg://lmaps_science.integrations.inversebench.conf"

pytest.importorskip("hydra", reason="needs hydra-core (extra inversebench)")


def run(program, folder, *arguments, plugin=True, path=()):
    """What it printed; it must succeed."""
    roots = [str(HERE), *map(str, path), str(ROOT)]
    if not plugin:  # an ordinary package of that name hides all namespace ones: no plug-in is found
        hidden = folder / "without_plugins" / "hydra_plugins"
        hidden.mkdir(parents=True, exist_ok=True)
        (hidden / "__init__.py").touch()
        roots.insert(0, str(hidden.parent))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots), "MPLBACKEND": "Agg"}
    environment["OMP_NUM_THREADS"] = "1"
    found = subprocess.run(
        [
            sys.executable,
            str(program),
            *arguments,
            "hydra.run.dir=hydra",
            "hydra/job_logging=stdout",
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-3000:]
    return found.stdout + found.stderr


def results(folder, count=2):
    return [torch.load(folder / f"result_{k}.pt", weights_only=True) for k in range(count)]


def different(samples):
    flat = samples.flatten(1)
    apart = torch.cdist(flat, flat) + 1e9 * torch.eye(len(flat))
    return bool((apart > 1e-2 * flat.norm(dim=1).max()).all())


# ---------------------------------------------------------------- ours

APP = HERE / "app" / "main.py"


def test_the_plugin_puts_our_folder_last(tmp_path):
    out = run(APP, tmp_path, "--info", "searchpath")
    providers = re.findall(r"\| (\S+) +\| (\S+) +\|", out)
    assert ("lmaps-science", CONF) in providers
    names = [name for name, _ in providers]
    assert names.index("main") < names.index("lmaps-science")


@pytest.mark.parametrize("problem", ["scattering", "kspace", "blackhole"])
def test_our_application_runs_four_samples_of_each_problem(problem, tmp_path):
    run(APP, tmp_path, f"problem={problem}", "algorithm=lmaps", "num_samples=4",
        "+algorithm.method.levels=6")  # fmt: skip
    found = results(tmp_path / "exps" / problem / "lmaps" / "default")
    for result in found:
        assert result["recon"].shape == (4, *result["target"].shape[1:])
        assert different(result["recon"])
    assert not torch.allclose(found[0]["recon"], found[1]["recon"], atol=1e-2)


def test_without_the_plugin_a_search_path_will_do(tmp_path):
    given = (f"hydra.searchpath=[{CONF}]", "algorithm=lmaps_dps_mri", "problem=kspace")
    run(APP, tmp_path, *given, "algorithm.method.levels=5", plugin=False)
    assert len(results(tmp_path / "exps" / "kspace" / "lmaps_dps_mri" / "default")) == 2
    refused = subprocess.run(
        [sys.executable, str(APP), "algorithm=lmaps_dps_mri"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'without_plugins'}:{HERE}:{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert refused.returncode != 0
    assert "Could not find 'algorithm/lmaps_dps_mri'" in refused.stderr


def test_observations_do_not_depend_on_the_algorithm(tmp_path):
    """Their noise comes from the global generator, which ours leaves alone."""
    for method in ("lmaps", "lmaps_dps"):
        levels = "+algorithm.method.levels=4"
        run(APP, tmp_path, "problem=kspace", f"algorithm={method}", levels)
    one, other = (results(tmp_path / f"exps/kspace/{m}/default") for m in ("lmaps", "lmaps_dps"))
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a["observation"], b["observation"])


def test_a_part_of_a_solver_can_be_changed_from_the_command_line(tmp_path):
    change = ["algorithm.method.local.iterations=3", "algorithm.method.levels=2"]
    out = run(APP, tmp_path, "problem=kspace", "algorithm=lmaps_mri_4_raw", *change)
    assert "LMAPS(levels=2" in out
    assert "ConjugateGradient(iterations=3" in out


# ---------------------------------------------------------------- InverseBench itself


@pytest.fixture(scope="session")
def checkout():
    folder = os.environ.get("INVERSEBENCH")
    if not folder:
        pytest.skip("set INVERSEBENCH to a checkout of InverseBench to run its own program")
    if not (Path(folder) / "main.py").is_file():
        pytest.skip(f"INVERSEBENCH={folder} has no main.py")
    return Path(folder).resolve()


NETWORK = """
import sys, torch
from models.precond import EDMPrecond, VPPrecond
torch.manual_seed(0)
kind, network, size, channels, file = sys.argv[1:]
kind = {"edm": EDMPrecond, "vp": VPPrecond}[kind]
net = kind(int(size), int(channels), label_dim=0, model_type=network, model_channels=8,
           channel_mult=[1, 2], attn_resolutions=[], num_blocks=1, dropout=0.0)
for p in net.parameters():
    p.data += 0.01 * torch.randn_like(p)
torch.save({"ema": net.state_dict()}, file)
"""
TINY = [
    "pretrain.model.model_channels=8",
    "pretrain.model.channel_mult=[1,2]",
    "pretrain.model.attn_resolutions=[]",
]


def network(checkout, kind, architecture, size, channels, file):
    command = [sys.executable, "-c", NETWORK, kind, architecture, str(size), str(channels)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    subprocess.run([*command, str(file)], check=True, env=environment, timeout=120)
    return [*TINY, f"pretrain.model.img_resolution={size}", f"problem.prior={file}"]


def database(folder, images):
    lmdb = pytest.importorskip("lmdb", reason="needs lmdb (extra inversebench)")
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 26) as env, env.begin(write=True) as transaction:
        for k, image in enumerate(images):
            transaction.put(str(k).encode(), np.ascontiguousarray(image).tobytes())


def blobs(npix, seed):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:npix, :npix] / npix - 0.5
    image = np.zeros((npix, npix))
    for _ in range(6):
        (a, b), width = rng.uniform(-0.3, 0.3, 2), rng.uniform(0.05, 0.12)
        image += rng.uniform(0.3, 1) * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * width**2))
    return image / image.max()


def scattering(checkout, folder):
    images = [blobs(32, k).astype(np.float32) for k in range(2)]
    database(folder / "images", images)
    return [
        "problem=inv-scatter", "pretrain=inv-scatter", "+problem.model.svd=False",
        *network(checkout, "edm", "DhariwalUNet", 32, 1, folder / "net.pt"),
        "problem.model.Nx=32", "problem.model.Ny=32", "problem.model.numTrans=8",
        "problem.model.numRec=40", f"problem.data.root={folder / 'images'}",
        "problem.data.resolution=32", "+problem.data.raw_resolution=32", "problem.data.id_list=0-1",
    ]  # fmt: skip


def kspace(checkout, folder):
    npix, coils = 64, 4
    y, x = np.mgrid[:npix, :npix] / npix - 0.5
    places = 2 * np.pi * np.arange(coils) / coils
    maps = [np.exp(-((x - np.cos(a)) ** 2) - (y - np.sin(a)) ** 2 + 1j * (a + x)) for a in places]
    maps = (np.stack(maps) / np.sqrt((np.abs(maps) ** 2).sum(0))).astype(np.complex64)
    images = [(3e-4 * blobs(npix, k) * np.exp(1j * x)).astype(np.complex64) for k in range(2)]
    axes, rng = (-2, -1), np.random.default_rng(0)
    scans = []
    for image in images:
        scan = np.fft.fft2(np.fft.ifftshift(maps * image, axes), norm="ortho")
        noise = rng.normal(size=(2, *scan.shape))
        scans.append(np.fft.fftshift(scan, axes) + 3e-6 * (noise[0] + 1j * noise[1]))
    database(folder / "data" / "mvue", images)
    database(folder / "data" / "kspace", [scan.astype(np.complex64) for scan in scans])
    database(folder / "data" / "s_maps", [maps, maps])
    return [
        "problem=multi-coil-mri-knee-lmdb", "pretrain=mri-knee-mvue",
        *network(checkout, "edm", "DhariwalUNet", npix, 2, folder / "net.pt"),
        f"problem.model.total_lines={npix}", f"problem.data.root={folder / 'data'}",
        f"problem.data.image_size=[{npix},{npix}]", "problem.data.id_list=0-1",
    ]  # fmt: skip


def black_hole(checkout, folder):
    eh = pytest.importorskip("ehtim", reason="needs ehtim (extra eht)")
    npix, fov = 64, 160 * 4.848136811095e-12
    images = [blobs(npix, k) for k in range(2)]
    database(folder / "images", images)
    # Stations at their places (m), ALMA and APEX among them, a night long.
    places = {
        "ALMA": (2225061.2, -5440057.4, -2481681.2), "APEX": (2225039.5, -5441197.6, -2479303.4),
        "SMT": (-1828796.2, -5054406.8, 3427865.2), "LMT": (-768715.6, -5988507.1, 2063354.9),
        "SMA": (-5464555.5, -2492927.9, 2150797.2), "PV": (5088967.8, -301681.2, 3825012.2),
    }  # fmt: skip
    rows = [f"{name} {x} {y} {z} 2000 2000 0 0 0 0 0 0 0" for name, (x, y, z) in places.items()]
    (folder / "array.txt").write_text("\n".join(rows) + "\n")
    array = eh.array.load_txt(str(folder / "array.txt"))
    image = eh.image.Image(images[0] / images[0].sum(), fov / npix, 12.513, 12.391, rf=2.27e11)
    image.save_fits(str(folder / "gt.fits"))
    observed = image.observe(
        array, 60, 1200, 0, 12, 2e9, ttype="direct", ampcal=True, phasecal=True, verbose=False
    )
    observed.save_uvfits(str(folder / "obs.uvfits"))
    return [
        "problem=blackhole", "pretrain=blackhole", "+problem.model.ttype=direct",
        *network(checkout, "vp", "SongUNet", npix, 1, folder / "net.pt"),
        f"problem.model.root={folder}", f"problem.data.root={folder / 'images'}",
        "problem.data.id_list=0-1",
    ]  # fmt: skip


PROBLEMS = {"inv-scatter": scattering, "multi-coil-mri": kspace, "blackhole": black_hole}


@pytest.fixture(scope="session", params=PROBLEMS)
def real(request, checkout, tmp_path_factory):
    """(name, its main program, a folder to run in, the arguments of a problem)."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, checkout / "main.py", folder, PROBLEMS[request.param](checkout, folder)


@pytest.mark.parametrize("samples", [1, 4])
def test_the_benchmarks_own_program_runs_lmaps(real, samples):
    name, program, folder, arguments = real
    out = run(program, folder, *arguments, "algorithm=lmaps", f"num_samples={samples}",
              f"exp_name=s{samples}", "problem.exp_dir=exps")  # fmt: skip
    assert "cannot be replaced" not in out  # ours, and the same as its own to 1e-5
    assert "Final metric results" in out
    found = results(folder / "exps" / "lmaps" / f"s{samples}")
    for result in found:
        assert result["recon"].shape == (samples, *result["target"].shape[1:])
        assert torch.isfinite(result["recon"]).all()
        if samples > 1:
            assert different(result["recon"])
            # sample 0 is the one that a run of one sample gives
    if samples > 1 and name != "blackhole":
        alone = results(folder / "exps" / "lmaps" / "s1")
        for a, b in zip(alone, found, strict=True):
            assert torch.equal(a["observation"], b["observation"])
            apart = torch.linalg.norm(a["recon"][0] - b["recon"][0])
            assert apart < 0.02 * torch.linalg.norm(a["recon"][0])


@pytest.mark.parametrize("options", [["lmaps_dps"], ["lmaps_daps"], ["lmaps", "fast=false"]])
def test_the_benchmarks_own_program_runs_other_methods_and_its_own_operators(real, options):
    _, program, folder, arguments = real
    algorithm, *others = options
    given = [f"+algorithm.method.{option}" for option in ["levels=5", *others]]
    run(program, folder, *arguments, f"algorithm={algorithm}", *given, "num_samples=2",
        f"exp_name={'own' if others else 'ours'}", "problem.exp_dir=exps")  # fmt: skip

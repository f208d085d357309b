"""Every solver on every card, tiny: it runs, alone and in company, or refuses as declared."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lmaps_science import list_problems, load_problem, sample
from lmaps_science.cards.registry import methods
from lmaps_science.local_map import LBFGS, ConjugateGradient
from lmaps_science.sampling import Solver
from lmaps_science.solvers import LMAPS, Metropolis, Population

# Of so few pixels, and images that an untrained prior proposes.
pytestmark = pytest.mark.filterwarnings("ignore:FullWaveScattering")
SOLVERS = {cls.__name__: cls for cls in methods().values() if issubclass(cls, Solver)}
UVFITS = Path(__file__).parent / "golden" / "black_hole_obs.uvfits"
CHEAP = {  # what makes a level dear, made small
    "LBFGS": LBFGS(4),
    "ConjugateGradient": ConjugateGradient(5),
    "Metropolis": Metropolis(4, 2),
    "steps": 2,
    "prior_steps": 2,
    "ode_steps": 2,
    "draws": 2,
    "particles": 2,
}
IMAGE = {"image.npix": 16}
ARRAY = {**IMAGE, "observation.receivers": 12, "observation.transmitters": 3}
COVERAGE = {
    **IMAGE,
    "observation.coverage.file": str(UVFITS),
    "observation.coverage.manifest": None,
}
WHOLE = {"sampling.acceleration": None}  # of so few lines, the centre would tell no coil maps
CROPLESS = {"kspace.benchmark_crop": False}
PHOTOGRAPH = {"picture.npix": 16}
BLURRED = {**PHOTOGRAPH, "degradation.size": 5}
FULL_WAVE = {**ARRAY, "observation.frequencies_ghz": [1.0, 2.0]}
TINY = {  # what makes each card small, and its data where it has none of its own
    "black_hole/inversebench_10": (COVERAGE, None),
    "black_hole/inversebench_100": (COVERAGE, None),
    "black_hole/inversebench_3": ({**COVERAGE, "observation.coverage.fraction": 0.1}, None),
    "black_hole/m87_2017": (IMAGE, "uvfits"),
    "black_hole/simulated": (IMAGE, None),
    "black_hole/uvfits": (IMAGE, "uvfits"),
    "mri/brain_lines": (WHOLE, "scan"),
    "mri/brain_raw": (WHOLE, "scan"),
    "mri/inversebench": ({**CROPLESS, "noise.sigma": 0.02, "maps.source": "full"}, "scan"),
    "mri/kspace": (WHOLE, "scan"),
    "mri/simulated": ({"kspace.npix": 56, "kspace.coils": 3}, None),
    "restoration/box": (PHOTOGRAPH, None),
    "restoration/expand": (PHOTOGRAPH, None),
    "restoration/gaussian_blur": (BLURRED, None),
    "restoration/half": (PHOTOGRAPH, None),
    "restoration/hdr": (PHOTOGRAPH, None),
    "restoration/jpeg": (PHOTOGRAPH, None),
    "restoration/motion_blur": (BLURRED, None),
    "restoration/nonlinear_blur": (BLURRED, None),
    "restoration/phase": (PHOTOGRAPH, None),
    "restoration/quantize": (PHOTOGRAPH, None),
    "restoration/random": (PHOTOGRAPH, None),
    "restoration/sr4": (PHOTOGRAPH, None),
    "restoration/sr_mask": (PHOTOGRAPH, None),
    "restoration/uniform_blur": (BLURRED, None),
    "scattering/fresnel": ({**IMAGE, "observation.frequencies_ghz": [2.0, 3.0]}, "fresnel"),
    "scattering/full_wave": (FULL_WAVE, None),
    "scattering/linear_180": (ARRAY, None),
    "scattering/linear_360": (ARRAY, None),
    "scattering/linear_60": ({**ARRAY, "physics.svd": True}, None),
    "scattering/linear_60_latent": (ARRAY, None),
}


def tiny(cls: type[Solver]) -> Solver:
    """With two levels, each of them cheap."""
    if cls is Population:
        return Population(tiny(LMAPS), particles=2)
    solver = cls()
    found = {"levels": 2}
    for field in fields(solver):
        value = getattr(solver, field.name)
        name = type(value).__name__ if field.name == "local" else field.name
        found |= {field.name: CHEAP[name]} if name in CHEAP else {}
    return replace(solver, **found)


def scan(folder):
    """Fully sampled k-space of a disc, seen by three coils."""
    y, x = np.mgrid[-1:1:24j, -1:1:24j]
    angle = 2 * np.pi / 3 * np.arange(3)[:, None, None]
    maps = 1 / ((x - 1.5 * np.cos(angle)) + 1j * (y - 1.5 * np.sin(angle)))
    image = maps * (x**2 + y**2 < 0.6)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, (1, 2)), norm="ortho"), (1, 2))
    noise = 0.01 * np.random.default_rng(0).normal(size=(2, *kspace.shape))
    np.save(folder / "scan.npy", (kspace + noise[0] + 1j * noise[1]).astype(np.complex64))
    return folder / "scan.npy"


def fresnel(folder):
    """The fields of nothing but a little, in the institute's format."""
    lines = ["# Number of frequencies : 2", "# Number of views : 2"]
    rng = np.random.default_rng(1)
    for transmitter in (1, 2):
        for receiver in range(60, 300, 20):
            for frequency in (2.0, 3.0):
                there = 180 * (transmitter - 1) + receiver
                fields_ = rng.normal(size=2) @ [1, 1j] * np.array([1.1, 1.0])
                numbers = " ".join(f"{part:.6e}" for f in fields_ for part in (f.real, f.imag))
                lines.append(f" {transmitter} {(there - 1) % 360 + 1} {frequency:.1f} {numbers}")
    (folder / "target.exp").write_text("\n".join(lines) + "\n")
    return folder / "target.exp"


DATA = {"uvfits": lambda folder: UVFITS, "scan": scan, "fresnel": fresnel}


def test_every_card_is_here():
    assert set(TINY) == set(list_problems())


@pytest.fixture(scope="module", params=sorted(TINY))
def problem(request, tmp_path_factory):
    changes, data = TINY[request.param]
    folder = tmp_path_factory.mktemp("data")
    field = request.param.split("/")[0]
    pytest.importorskip({"black_hole": "ehtim", "mri": "sigpy"}.get(field, "numpy"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))  # of singular vectors
        return load_problem(
            request.param,
            None if data is None else DATA[data](folder),
            "gaussian",
            changes,
            dtype=torch.float64,
        )


@pytest.mark.parametrize("name", SOLVERS)
def test_it_runs_alone_and_in_company_or_refuses_as_declared(problem, name):
    solver = tiny(SOLVERS[name])
    lacking = solver.requires - problem.provides
    if lacking:
        with pytest.raises(ValueError, match=f"{name} needs a problem that is .*{min(lacking)}"):
            sample(problem, solver, 1, progress=False)
        return
    together = sample(problem, solver, 3, progress=False)
    alone = sample(problem, solver, 3, progress=False, batch_size=1)
    assert np.isfinite(together.samples).all()
    scale = np.abs(together.samples).max()
    # Steps of Barzilai and Borwein amplify rounding, on data of a few zeros more than elsewhere.
    tolerance = 1e-3 if name == "MAPGA" else 1e-6
    np.testing.assert_allclose(alone.samples, together.samples, rtol=0, atol=tolerance * scale)
    assert together.counts["denoiser_calls"] > 0
    assert not np.array_equal(together.samples[0], together.samples[1])
    assert all(np.isfinite(values).size == 3 for values in problem.scores(together).values())

"""The configurations for InverseBench: what the cards have, complete, and listed."""

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from benchmark_like import BlackHole, KSpace, Network, Scattering

from lmaps_science import load_card
from lmaps_science.cards.methods import build_solver
from lmaps_science.cards.registry import methods, plain
from lmaps_science.integrations.inversebench import Algorithm, settings

ROOT = Path(__file__).parents[2]
FILES = sorted(settings.FOLDER.glob("*.yaml"))
CARDS = {
    **{f"scattering_{n}": (f"scattering/linear_{n}", "default", "paper") for n in (360, 180, 60)},
    **{
        f"mri_{r}_{data}": ("mri/inversebench", "default", "paper")
        for r in (4, 8)
        for data in ("raw", "sim")
    },
    "mri_4_sim": ("mri/inversebench", "default", "paper_noiseless_4"),
    **{
        f"blackhole_{n}": (f"black_hole/inversebench_{n}", "isotropic", "paper")
        for n in (100, 10, 3)
    },
}
# Where a method was compared with the others: its settings there are those here.
COMPARED = {
    "scattering": ("scattering_accuracy", lambda m: m.methods(svd=False)),
    "mri": ("mri_accuracy", lambda m: {name: pair[0] for name, pair in m.METHODS.items()}),
    "blackhole": ("black_hole_accuracy", lambda m: {k: v[0] for k, v in m.methods(100).items()}),
}
NAMES = {"pnpdm": "PnP-DM", "reddiff": "RED-diff", "annealedlangevin": "annealed Langevin"}


def method_of(file):
    return yaml.safe_load(file.read_text("utf-8"))["method"]


def solver_of(name):
    content = method_of(settings.FOLDER / f"{name}.yaml")
    own = [key for key in settings.OWN if key != "method"]
    return build_solver({k: v for k, v in content.items() if k not in own})


def compared(problem):
    script, table = COMPARED[problem]
    file = ROOT / "tests" / "benchmarks" / f"{script}.py"
    spec = importlib.util.spec_from_file_location(script, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {plain(name): solver for name, solver in table(module).items()}


@pytest.mark.parametrize("setting", CARDS)
def test_lmaps_is_that_of_the_cards(setting):
    card, tuned, paper = CARDS[setting]
    assert solver_of(f"lmaps_{setting}") == load_card(card).solver(tuned)
    assert solver_of(f"lmaps_{setting}_paper") == load_card(card).solver(paper)


@pytest.mark.parametrize("problem", COMPARED)
def test_the_other_methods_are_those_of_the_comparisons(problem):
    known = compared(problem)
    if problem == "scattering":  # those that need singular vectors
        from lmaps_science.solvers import DDNM, DDRM

        known |= {"ddrm": DDRM(20), "ddnm": DDNM(100)}
    found = [f for f in FILES if re.fullmatch(rf"lmaps_[a-z]+_{problem}", f.stem)]
    assert len(found) >= 4
    for file in found:
        method = file.stem.split("_")[1]
        assert solver_of(file.stem) == known[plain(NAMES.get(method, method))], file.stem


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_is_complete_and_says_on_what_it_was_tuned(file):
    content = yaml.safe_load(file.read_text("utf-8"))
    assert set(content) == {"name", "method"}
    assert content["name"] == file.stem  # the folder of its results: no two may share one
    method = content["method"]
    assert method["_target_"] == f"{Algorithm.__module__.rpartition('.')[0]}.Algorithm"
    about = next(c.about for c in settings.configurations() if c.name == file.stem)
    assert re.search(r"tuned", about, re.IGNORECASE)
    assert plain(method["method"]) in methods()
    keys = set(method) - {"_target_", "_convert_"}
    if method.get("tuned"):
        assert keys == {"method", "tuned"}
    assert set(settings.OWN) - {"_target_", "_convert_"} <= set(
        inspect.signature(Algorithm.__init__).parameters
    )


OPERATORS = {"scattering": (Scattering, 1, 16), "mri": (KSpace, 2, 24)}
OPERATORS["blackhole"] = (BlackHole, 1, 16)


@pytest.mark.parametrize(
    "file", [f for f in FILES if not method_of(f).get("tuned")], ids=lambda file: file.stem
)
def test_each_runs_on_the_operator_it_is_for(file, tmp_path, monkeypatch):
    import pooch

    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path)  # of singular vectors
    problem = next(name for name in OPERATORS if re.search(rf"_{name}(_|$)", file.stem))
    kind, channels, npix = OPERATORS[problem]
    op, net = kind(), Network(channels, npix)
    options = {k: v for k, v in method_of(file).items() if k not in ("_target_", "_convert_")}
    # The published steps are for 128 x 128 pixels; on few they are too long.
    if file.stem.endswith("_paper"):
        options["local"] = options["local"] | {"learning_rate": 1e-4, "steps": 2}
    observation = op({"target": torch.zeros(1, channels, npix, npix) + 0.1})
    algorithm = Algorithm(net, op, **(options | {"levels": 2}))
    samples = algorithm.inference(observation, 2, verbose=False)
    assert samples.shape == (2, channels, npix, npix)


def test_every_method_that_its_operators_suffice_for_has_one():
    """All but frequency hopping, whose operators the benchmark does not have, and the untuned."""
    from lmaps_science.sampling import Solver

    solvers = {name for name, cls in methods().items() if issubclass(cls, Solver)}
    ours = {n for n in solvers if methods()[n].__module__.startswith("lmaps_science.solvers.")}
    found = {plain(method_of(f)["method"]) for f in FILES if method_of(f).get("tuned")}
    untuned = {
        "dcdp",
        "dmap",
        "dmplug",
        "dsg",
        "fpssmc",
        "freedom",
        "lgd",
        "mcgdiff",
        "population",
        "psld",
        "mapga",
        "resample",
        "sitcom",
        "vmlmap",
    }  # nobody has tried them at the benchmark's sizes
    assert found == ours - {"frequencyhopping"} - untuned


def test_with_and_without_noise_the_tuned_settings_of_kspace_are_the_same():
    """The operator shows its mask, and not whether its data are simulated."""
    for r in (4, 8):
        assert solver_of(f"lmaps_mri_{r}_raw") == solver_of(f"lmaps_mri_{r}_sim")


def test_tuned_finds_the_setting_then_the_problem_then_nothing():
    assert settings.tuned("LMAPS", "blackhole_10")["kappa2"] == 0.03
    assert settings.tuned("RED-diff", "scattering_60")["levels"] == 500
    assert settings.tuned("PiGDM", "blackhole_10") is None


def listed(*arguments):
    command = [sys.executable, "-m", "lmaps_science.integrations.inversebench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_the_list_has_every_configuration_and_its_command_line():
    found = listed()
    assert found.returncode == 0
    for file in FILES:
        assert f"\n{file.stem}\n" in f"\n{found.stdout}"
        assert re.search(
            rf"python main\.py problem=\S+ .*algorithm={file.stem}$", found.stdout, re.M
        )
    assert "numRec=60 algorithm=lmaps_scattering_60_paper" in found.stdout
    assert "simulated_kspace=true algorithm=lmaps_mri_8_sim" in found.stdout
    assert "ratio=0.03 +problem.model.ttype=direct algorithm=lmaps_blackhole_3" in found.stdout
    part = listed("daps")
    assert part.stdout.count("python main.py") == 4
    wrong = listed("dapss")
    assert wrong.returncode == 1
    assert "no configuration" in wrong.stderr


def test_the_list_needs_neither_pytorch_nor_hydra():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['hydra'] = None\n"
        "from lmaps_science.integrations.inversebench.settings import configurations\n"
        "print(len(configurations()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout.strip() == str(len(FILES)), found.stderr

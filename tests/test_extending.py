"""A field and a solver of another package, tests/extension, installed and used as a stranger's."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lmaps_science import reconstruct, sample, stack
from lmaps_science.cards import registry
from lmaps_science.cards.kind import Kind
from lmaps_science.cards.methods import build_solver
from lmaps_science.cards.schema import validate
from lmaps_science.io import DataError, read_netcdf
from lmaps_science.local_map import LBFGS
from lmaps_science.sampling import Solver

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tests" / "extension" / "lmaps_ct"
SMALL = ["--samples=2", "--quiet", "--device=cpu", "--set=image.npix=32"]
SMALL += ["--set=observation.angles=40", "--set=observation.bins=47", "--set=solver.levels=12"]

GUIDE = (ROOT / "docs" / "extending.md").read_text("utf-8")
EXCERPTS = re.findall(r"```\w+ file=(\S+)\n(.*?)```", GUIDE, re.DOTALL)


def block(mark):
    """The one code block of the guide with this mark."""
    (found,) = re.findall(rf"```python {re.escape(mark)}\n(.*?)```", GUIDE, re.DOTALL)
    return found


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The folder into which pip has put the package, from its source and without network."""
    folder = tmp_path_factory.mktemp("site-packages")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder)]
    subprocess.run([*pip, *offline, str(PACKAGE)], check=True, timeout=120)
    return folder


@pytest.fixture
def ct(installed, monkeypatch):
    """Its modules, in this process."""
    monkeypatch.syspath_prepend(str(installed))
    import lmaps_ct.card
    import lmaps_ct.phantoms
    import lmaps_ct.radon
    import lmaps_ct.splitting

    return lmaps_ct


def lmaps(*arguments, path):
    """`lmaps`, in a process that finds the packages in the folders of `path`, too."""
    folders = os.pathsep.join(map(str, (*path, ROOT)))
    environment = {**os.environ, "PYTHONPATH": folders, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lmaps_science.cli", *map(str, arguments)]
    return subprocess.run(
        command, env=environment, cwd=path[0], capture_output=True, text=True, timeout=300
    )


# ---------------------------------------------------------------- as a user sees it


def test_its_cards_are_shown(installed):
    shown = lmaps("problems", "ct/few_angles", path=[installed]).stdout
    assert "angles: 20" in shown  # its own
    assert "photons: 100000.0" in shown  # of the card that it extends
    assert "kind: total_variation" in shown


@pytest.mark.parametrize("method", [None, "half_quadratic_splitting"])
def test_it_reconstructs_writes_and_draws(installed, tmp_path, method):
    choice = [] if method is None else [f"--set=solver.method={method}"]
    outcome = lmaps(
        "run", "ct/shepp_logan", *SMALL, *choice, "--out", tmp_path / "out", path=[installed]
    )
    assert outcome.returncode == 0, outcome.stderr
    files = {p.name for p in (tmp_path / "out").iterdir()}
    assert files == {
        "result.nc", "figure.png", "samples.png", "mean.png", "summary.txt", "summary.json"
    }  # fmt: skip
    assert (tmp_path / "out" / "figure.png").stat().st_size > 20_000
    data = read_netcdf(tmp_path / "out" / "result.nc")
    classical = data.attrs["metrics_of_fbp"]["psnr"]
    assert float(data["psnr"].min()) > classical + 2
    assert classical > 18
    assert data.attrs["verdict"] == "good"
    summary = (tmp_path / "out" / "summary.txt").read_text("utf-8")
    assert "psnr" in summary
    assert ("HalfQuadraticSplitting" in summary) == (method is not None)


def test_a_solver_in_a_single_file_needs_no_installation(installed, tmp_path):
    (tmp_path / "mine.py").write_text(block("name=mine.py"))
    choice = ["--set=solver.method=mine:Quick", "--out", tmp_path / "out"]
    few = [s for s in SMALL if "levels" not in s]
    outcome = lmaps("run", "ct/shepp_logan", *few, *choice, path=[tmp_path, installed])
    assert outcome.returncode == 0, outcome.stderr
    assert "Quick(levels=4" in outcome.stdout


def test_its_own_sinogram_is_read_and_bad_ones_are_refused(ct, tmp_path):
    card = {**CARD, "observation": {"kind": "sinogram", "detector": 29.0}}
    card = validate(ct.card.CTCard, card, "mine")
    with pytest.raises(DataError, match=r"--data sinogram\.npy"):
        card.problem("mine")
    np.save(tmp_path / "y.npy", np.full((9, 20), np.inf))
    with pytest.raises(DataError, match="180 values are not finite"):
        card.problem("mine", tmp_path / "y.npy")
    np.save(tmp_path / "y.npy", np.ones((9, 20)))
    problem = card.problem("mine", tmp_path / "y.npy")
    assert problem.physical.operator.data_shape == (9, 20)
    assert "y.npy: 9 angles, 20 bins" in repr(problem)


def test_mistakes_of_other_packages_only_warn(installed, tmp_path):
    """An entry point that fails, a card that is none, commands that fail to load."""
    other = tmp_path / "other"
    (other / "cards").mkdir(parents=True)
    (other / "cards" / "wrong.yaml").write_text("kind: other\ntitel: misspelt\n")
    (other / "card.py").write_text(
        "from lmaps_science.cards.schema import Card\n"
        "class OtherCard(Card):\n    def problem(self, *a, **k): ...\n"
    )
    (other / "__init__.py").write_text(
        "from pathlib import Path\nfrom lmaps_science.cards.kind import Kind\n"
        "KIND = Kind('other', __name__, Path(__file__).parent / 'cards', card='card:OtherCard',\n"
        "            commands='commands:app')\n"
    )
    facts = tmp_path / "other-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[lmaps_science.problems]\nother = other:KIND\ngone = there_is_no_such_package:KIND\n"
        "class = other.card:OtherCard\n"
    )
    outcome = lmaps("problems", path=[tmp_path, installed])
    assert outcome.returncode == 0, outcome.stderr
    for name in ("ct/shepp_logan", "ct/few_angles", "ct/sinogram", "black_hole/simulated"):
        assert f"\n{name} " in f"\n{outcome.stdout}"
    assert re.search(
        r"other/wrong +cannot be used: .*'titel'.*Did you mean 'title'", outcome.stdout
    )
    for said in (
        "there_is_no_such_package:KIND (lmaps_science.problems) cannot be used",
        "other.card:OtherCard (lmaps_science.problems) is no Kind",
        "other.commands:app (kind 'other') cannot be used",
    ):
        assert said in outcome.stderr


# ---------------------------------------------------------------- the guide


@pytest.mark.parametrize(("file", "excerpt"), EXCERPTS, ids=[f for f, _ in EXCERPTS])
def test_excerpts_are_what_the_files_hold(file, excerpt):
    text = (PACKAGE / file).read_text("utf-8")
    for part in excerpt.split("# ...\n"):
        assert part.strip()
        assert f"\n{part}" in f"\n{text}"
        text = text.split(part, 1)[1]  # parts come in the order of the file


def test_every_room_is_shown_and_its_lines_are_counted():
    told = dict(re.findall(r"^\| `?([^`|]+?)`? \| (\d+) \|", GUIDE, re.MULTILINE))
    told = {name: int(lines) for name, lines in told.items()}
    cards = "lmaps_ct/cards"
    counted = {f"{cards}/": 0}
    for file in [PACKAGE / "pyproject.toml", *(PACKAGE / "lmaps_ct").rglob("*.*")]:
        if file.suffix in (".py", ".yaml", ".toml"):
            name = file.relative_to(PACKAGE).as_posix()
            name = f"{cards}/" if name.startswith(cards) else name
            lines = len(file.read_text("utf-8").splitlines())
            counted[name] = counted.get(name, 0) + lines
    solver = counted.pop("lmaps_ct/splitting.py")
    assert told == {
        **counted, "lmaps_ct/splitting.py": solver, "the field": sum(counted.values())
    }  # fmt: skip


def test_the_guide_says_what_every_field_of_kind_means():
    (table,) = re.findall(r"\| `Kind` \|.*?\n\n", GUIDE, re.DOTALL)
    told = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)[1:]
    assert told == [field.name for field in dataclasses.fields(Kind)]


@pytest.fixture
def registered(ct):
    """It is found in this process, too, until the test is over."""
    for found in (registry.kinds, registry.methods):
        found.cache_clear()
    yield
    for found in (registry.kinds, registry.methods):
        found.cache_clear()


def test_its_python_runs(registered):
    given = {}
    exec(compile(block("run"), "extending.md", "exec"), given)
    assert [data.sizes["sample"] for data in given["analysed"]] == [2, 2, 2]
    assert all(float(data["psnr"].min()) > 15 for data in given["analysed"])


# ---------------------------------------------------------------- its operator


def operator_of(ct, npix=17, angles=12, bins=23, dtype=torch.float64):
    degrees, positions = np.arange(angles) * 180 / angles, np.linspace(-13.0, 13.0, bins)
    return ct.radon.Radon(npix, 18.0, degrees, positions).to(dtype=dtype)


def test_adjoint(ct):
    operator = operator_of(ct)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((3, 1, 17, 17), generator=generator, dtype=torch.float64)
    v = torch.randn((3, 12, 23), generator=generator, dtype=torch.float64)
    forward, back = (v * operator(x)).sum(), (operator.adjoint(v) * x).sum()
    assert float(abs(forward - back)) < 1e-12 * float(v.norm() * operator(x).norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_of_a_batch_do_not_mix(ct, dtype):
    operator = operator_of(ct, dtype=dtype)
    x = torch.rand((3, 1, 17, 17), generator=torch.Generator().manual_seed(0)).to(dtype)
    y = operator(x)
    alone = torch.cat([operator(image[None]) for image in x])
    backs = operator.adjoint(y), torch.cat([operator.adjoint(one[None]) for one in y])
    torch.testing.assert_close(y, alone)
    torch.testing.assert_close(*backs)


def test_every_projection_holds_all_of_the_object(ct):
    operator = operator_of(ct)
    x = torch.rand((1, 1, 17, 17), generator=torch.Generator().manual_seed(0)).double()
    mass = float(x.sum()) * (18.0 / 17) ** 2
    totals = operator(x).sum(2) * (26.0 / 22)
    torch.testing.assert_close(totals, torch.full_like(totals, mass), rtol=1e-6, atol=0)


def test_line_integrals_through_a_disc_are_its_chords(ct):
    npix, radius = 128, 6.0
    operator = operator_of(ct, npix, angles=7, bins=41)
    axis = (np.arange(npix * 4) + 0.5) * 18 / (npix * 4) - 9
    inside = np.hypot(*np.meshgrid(axis, axis)) < radius
    disc = torch.as_tensor(inside.reshape(npix, 4, npix, 4).mean((1, 3)))[None, None]
    t = np.linspace(-13, 13, 41)
    chord = np.sqrt((radius**2 - t**2).clip(0)) * 2
    away = abs(abs(t) - radius) > 1  # a bin averages, and at the rim the chord is steep
    measured = operator(disc)[0].numpy()
    np.testing.assert_allclose(measured[:, away], np.tile(chord[away], (7, 1)), atol=0.03)


# ---------------------------------------------------------------- its solver

CARD = {
    "kind": "ct",
    "title": "small",
    "observation": {"kind": "simulation", "angles": 20, "bins": 31},
    "image": {"npix": 20},
    "prior": {"kind": "gaussian"},
    "presets": {"default": {"method": "lmaps"}},
}


def problem_of(ct, prior=None, **observation):
    card = {**CARD, "observation": {**CARD["observation"], **observation}}
    return validate(ct.card.CTCard, card, "small").problem("small", prior=prior)


def test_it_prepares_the_largest_curvature_of_the_misfit(ct):
    problem = problem_of(ct)
    unit = torch.eye(400).reshape(400, 1, 20, 20)
    rows = problem.misfit.linear()(unit) / problem.physical.sigma
    expected = torch.linalg.eigvalsh(rows.flatten(1) @ rows.flatten(1).T).max()
    found = ct.splitting.HalfQuadraticSplitting().prepare(problem)
    torch.testing.assert_close(found, expected[None], rtol=0.02, atol=0)


def test_it_finds_the_minimiser_for_a_gaussian_prior_in_one_level(ct):
    """With very many steps, the fit is the solution of its normal equations."""
    problem = problem_of(ct)
    solver = ct.splitting.HalfQuadraticSplitting(levels=1, steps=3000, weight=1.0, sigma_max=0.1)
    z = torch.zeros(1, 1, 20, 20)
    fitted = solver._fit(z, 100.0, problem.prepare(solver))
    slope = problem.misfit.gradient(fitted)[0] + 100.0 * (fitted - z)
    start = problem.misfit.gradient(z)[0]
    assert float(slope.norm()) < 1e-3 * float(start.norm())


def test_filtered_back_projection_is_a_second_opinion(ct, tmp_path):
    reconstruct(problem_of(ct), tmp_path / "out", 2, second="fbp", progress=False)
    found = read_netcdf(tmp_path / "out" / "result.nc").attrs["prior_check"]
    assert found["name"] == "fbp"
    assert 0.0 < found["agreement"]["difference"] < 1.0
    assert (tmp_path / "out" / "prior_check.png").exists()


def test_observations_in_a_batch_are_what_they_are_alone(ct):
    """`stack`, `select` and `prepare`, with noise that differs from observation to observation."""
    prior = problem_of(ct).prior
    problems = [
        problem_of(ct, prior, image=f"phantom:{k}", photons=10.0 ** (k + 3)) for k in (0, 2)
    ]
    solver = ct.splitting.HalfQuadraticSplitting(levels=4)
    together = sample(stack(problems), solver, 2, batch_size=3, progress=False).split()
    for problem, found in zip(problems, together, strict=True):
        alone = sample(problem, solver, 2, progress=False)
        np.testing.assert_allclose(found.samples, alone.samples, atol=2e-5)
        assert found.samples.std() > 0.02


def test_its_training_images_are_reproducible_and_in_range(ct):
    recipe = ct.phantoms.RECIPES["ellipses"]
    images = recipe.images(24, 3).batch(5, 3)
    assert images.shape == (3, 1, 24, 24)
    assert images.min() >= 0
    assert images.max() <= 1
    assert np.array_equal(images[1], recipe.images(24, 3)[6])
    assert not np.array_equal(images, recipe.images(24, 4).batch(5, 3))


# ---------------------------------------------------------------- the registry


class Entry:
    def __init__(self, name, value):
        self.name, self.value, self._found = name, f"somewhere:{name}", value

    def load(self):
        return self._found


def class_called(name, base=Solver):
    return type(name, (base,), {})


def test_a_solver_is_known_by_its_class_whatever_its_entry_point_is_called(monkeypatch):
    named = class_called("TheirMethod")
    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry("tm", named)])
    assert registry.methods.__wrapped__() == {"theirmethod": named}


def test_the_second_of_a_name_is_left_out_with_a_warning(monkeypatch):
    first, second = class_called("Same"), class_called("Same")
    entries = [Entry("a", first), Entry("b", second), Entry("c", first)]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    with pytest.warns(UserWarning, match=r"somewhere:b .* is left out: another is called 'same'"):
        assert registry.methods.__wrapped__() == {"same": first}
    kinds = [Kind("field", "one", ROOT), Kind("field", "two", ROOT)]
    entries = [Entry(kind.package, kind) for kind in kinds]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    with pytest.warns(UserWarning, match="somewhere:two"):
        assert registry.kinds.__wrapped__() == {"field": kinds[0]}


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("cards:Card", "'cards:Card', and there is no module lmaps_science.io.cards: write module"),
        ("files:Card", "'files:Card', and lmaps_science.io.files has no 'Card': write module"),
    ],
)
def test_a_kind_that_names_what_is_not_there_says_so(card, said):
    with pytest.raises(DataError, match=said):
        _ = Kind("field", "lmaps_science.io", ROOT, card=card).card_class


def test_recipes_that_fail_to_load_are_left_out(monkeypatch, ct):
    kinds = [
        Kind("one", "lmaps_ct", ROOT, recipes="phantoms:RECIPES"),
        Kind("two", "lmaps_ct", ROOT, recipes="phantoms:NONE"),
    ]
    monkeypatch.setattr(registry, "kinds", lambda: {kind.name: kind for kind in kinds})
    with pytest.warns(UserWarning, match=r"lmaps_ct\.phantoms:NONE \(kind 'two'\) cannot be used"):
        assert registry.recipes() == ct.phantoms.RECIPES


def test_a_kind_whose_cards_were_left_out_of_the_wheel_says_so(monkeypatch, tmp_path):
    entry = Entry("field", Kind("field", "theirs", tmp_path / "cards"))
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    with pytest.warns(UserWarning, match=r"theirs: there is no folder .*cards .* 'field'"):
        assert list(registry.kinds.__wrapped__()) == ["field"]


SOLVER_WITH_A_PART = """
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmaps_science.noise import VE
from lmaps_science.sampling import Solver

if {late}:
    from lmaps_science.local_map import LocalSolver


@dataclass(frozen=True)
class Optional(Solver):
    local: LocalSolver | None = None

    @property
    def schedule(self):
        return VE(3)

    def step(self, i, state, problem, noise):
        return state
"""


def test_a_part_of_a_solver_may_be_left_out(tmp_path, monkeypatch):
    (tmp_path / "with_a_part.py").write_text(SOLVER_WITH_A_PART.format(late="True"))
    monkeypatch.syspath_prepend(str(tmp_path))
    method = "with_a_part:Optional"
    assert build_solver({"method": method, "local": None}).local is None
    assert build_solver({"method": method, "local": {"method": "lbfgs"}}).local == LBFGS()
    with pytest.raises(ValueError, match=r"there is no 'lbfg'\. Did you mean 'lbfgs'"):
        build_solver({"method": method, "local": "lbfg"})


def test_types_of_options_that_are_not_there_at_run_time_are_explained(tmp_path, monkeypatch):
    (tmp_path / "late_types.py").write_text(SOLVER_WITH_A_PART.format(late="TYPE_CHECKING"))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"'LocalSolver' is not defined\. Import them at the top"):
        build_solver({"method": "late_types:Optional", "local": None})

"""The search for options: on images of its own, seeded, resumed, and its result usable as it is."""

import csv
import json
import math
import sys

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from lmaps_science import cli, load_card
from lmaps_science.cards.methods import build_solver
from lmaps_science.compare import bench, tune
from lmaps_science.compare.images import VALIDATION
from lmaps_science.compare.methods import TUNED_ON, find_solver
from lmaps_science.io import DataError
from lmaps_science.solvers import DAPS, DPS

optuna = pytest.importorskip("optuna")

CARD = "scattering/linear_60"
SMALL = {"image.npix": 16, "observation.receivers": 24, "observation.transmitters": 4}
OPTIONS = {"prior": "gaussian", "overrides": SMALL, "device": "cpu", "progress": False}
SOLVER = "dps(levels=6)"


def rows(folder):
    return list(csv.DictReader((folder / "trials.csv").open()))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("tuned") / "dps"


@pytest.fixture(scope="module")
def found(out):
    return tune(CARD, SOLVER, 5, 2, out=out, **OPTIONS)


def test_it_finds_no_worse_than_what_was_given(found, out):
    trials = rows(out)
    assert [row["trial"] for row in trials] == [str(k) for k in range(5)]
    assert float(trials[0]["zeta"]) == DPS().zeta
    assert found.given == float(trials[0]["psnr [dB]"])
    complete = [row for row in trials if row["state"] == "complete"]
    assert found.value == max(float(row["psnr [dB]"]) for row in complete) > found.given
    best = next(row for row in complete if float(row["psnr [dB]"]) == found.value)
    assert found.solver == DPS(levels=6, zeta=float(best["zeta"]))
    assert len({row["zeta"] for row in trials}) == 5
    assert (out / "history.png").stat().st_size > 10_000


def test_the_best_goes_into_a_card_and_a_comparison(found, out, tmp_path):
    text = (out / "best.yaml").read_text()
    block = yaml.safe_load(text)
    assert build_solver(block) == found.solver
    content = {"extends": CARD, "presets": {"tuned": block}, "preset": "tuned"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    assert load_card(str(tmp_path / "own.yaml")).solver() == found.solver
    (line,) = [line for line in text.splitlines() if line.startswith(TUNED_ON)]
    on = json.loads(line.removeprefix(TUNED_ON))
    assert (on["first"], on["last"]) == (VALIDATION, VALIDATION + 1)
    assert find_solver(str(out / "best.yaml"), load_card(CARD)).tuned_on == on
    given = f"tuned={out / 'best.yaml'}"
    (compared,) = bench(CARD, given, 1, out=tmp_path / "o", **OPTIONS)
    assert compared.means["network_calls", "tuned"].mean == 18
    each = f"phantom:{VALIDATION}"
    with pytest.raises(DataError, match=f"tuned was tuned on phantom {VALIDATION}"):
        bench(CARD, given, 1, out=tmp_path / "p", each=each, **OPTIONS)


def test_a_search_that_goes_on_is_the_same_search(found, out, tmp_path):
    tune(CARD, SOLVER, 2, 2, out=tmp_path, **OPTIONS)
    assert len(rows(tmp_path)) == 2
    again = tune(CARD, SOLVER, 5, 2, out=tmp_path, **OPTIONS)
    assert rows(tmp_path) == rows(out)
    assert again.solver == found.solver


def test_a_killed_trial_is_made_again(found, out, tmp_path, monkeypatch):
    from lmaps_science.sampling import sample

    module = sys.modules["lmaps_science.compare.tune"]
    calls = []

    def killed(*args, **options):
        calls.append(1)
        if len(calls) == 6:  # in the third trial
            raise KeyboardInterrupt
        return sample(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, "sample", killed)
        with pytest.raises(KeyboardInterrupt):
            tune(CARD, SOLVER, 5, 2, out=tmp_path, **OPTIONS)
    tune(CARD, SOLVER, 5, 2, out=tmp_path, **OPTIONS)
    assert rows(tmp_path) == rows(out)


def test_trials_that_diverge_are_given_up_and_not_the_best(tmp_path):
    found = tune(CARD, "wild=lmaps(levels=2,local=gradient_steps(steps=40))", 4, 1,
                 out=tmp_path, **OPTIONS)  # fmt: skip
    trials = rows(tmp_path)
    assert "local.learning_rate" in trials[0]
    assert any("NaN or infinite" in row["given_up"] for row in trials)
    assert all(not row["psnr [dB]"] for row in trials if row["state"] == "pruned")
    assert math.isfinite(found.value)
    block = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert block["local"]["method"] == "gradient_steps"
    assert build_solver(block) == found.solver


def test_parts_that_are_not_spelled_out_are_written_out(tmp_path):
    found = tune(CARD, "daps(levels=1,local=langevin(steps=2))", 2, 1, out=tmp_path, **OPTIONS)
    assert isinstance(found.solver, DAPS)
    assert build_solver(yaml.safe_load((tmp_path / "best.yaml").read_text())) == found.solver


def test_a_budget_sets_the_levels(tmp_path):
    found = tune(CARD, "dps", 1, 1, out=tmp_path, budget=10, **OPTIONS)
    assert found.solver == DPS(levels=3)
    assert np.isclose(found.given, found.value)


def test_a_population_is_tuned_by_what_its_solver_declares(tmp_path):
    text = "population(particles=2,keep={2: 1},solver=lmaps(sigma_max=20.0))"
    found = tune(CARD, text, 2, 1, out=tmp_path, budget=12, **OPTIONS)
    block = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert build_solver(block) == found.solver
    assert block["solver"]["levels"] > 6
    assert "solver.kappa" in rows(tmp_path)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": "ddrm"}, "ddrm does not serve .* svd"),
        ({"solver": "ddnm"}, "nothing to tune"),
        ({"solver": "vml_map", "budget": 50}, "one level takes 151"),
        ({"card": "scattering/fresnel", "overrides": {}}, "cannot simulate observations"),
        ({"overrides": {"solver.levels": 3}}, "give the solver its options"),
        ({"out": ""}, "has no name"),
        ({"images": 1001}, "--images 1001"),
    ],
)
def test_what_cannot_be_tuned_is_refused(changes, message, tmp_path):
    given = {"card": CARD, "solver": SOLVER, "trials": 1, "images": 1, "out": tmp_path / "x"}
    with pytest.raises(DataError, match=message):
        tune(**{**given, **OPTIONS, **changes})
    assert not (tmp_path / "x").exists()


def test_another_search_and_other_files_are_refused(found, out, tmp_path):
    before = (out / "best.yaml").read_text()
    with pytest.raises(DataError, match="trials of another search"):
        tune(CARD, "dsg(levels=6)", 5, 2, out=out, **OPTIONS)
    assert (out / "best.yaml").read_text() == before
    (tmp_path / "best.yaml").write_text("mine")
    with pytest.raises(DataError, match=r"holds best.yaml already"):
        tune(CARD, SOLVER, 1, 1, out=tmp_path, **OPTIONS)
    assert (tmp_path / "best.yaml").read_text() == "mine"


def test_the_command(tmp_path):
    options = [f"--set={key}={value}" for key, value in SMALL.items()]
    options += ["--prior=gaussian", "--device=cpu", "--quiet", f"--out={tmp_path}"]
    arguments = ["tune", CARD, "dps(levels=2)", "--trials=2", "--images=1", *options]
    outcome = CliRunner().invoke(cli.app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "2 trials; written to" in outcome.stdout


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"lmaps-science\[tune\]"):
        tune(CARD, SOLVER, 1, 1, out=tmp_path, **OPTIONS)

"""Comparisons: the same images for all, nothing left out, one budget, differences by hand."""

import csv
import json
import math
import sys
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from lmaps_science import cli, load_card, load_problem, read_netcdf, sample
from lmaps_science.cards.registry import methods
from lmaps_science.compare import bench
from lmaps_science.compare.cost import (
    first_level,
    levels_within,
    network_calls,
    operator_calls,
    within_budget,
)
from lmaps_science.compare.figures import draw
from lmaps_science.compare.images import (
    TEST,
    VALIDATION,
    check_held_out,
    image_series,
    numbered_images,
)
from lmaps_science.compare.methods import TUNED_ON, find_solver, split_list
from lmaps_science.compare.space import changed, search_space
from lmaps_science.io import DataError
from lmaps_science.sampling import Solver
from lmaps_science.solvers import (
    DAPS,
    DDNM,
    DDRM,
    DMAP,
    DPS,
    LMAPS,
    VMLMAP,
    FreeDoM,
    Langevin,
    MCGDiff,
    Population,
    REDDiff,
    ScoreMRI,
)
from lmaps_science.toys import inpainting

CARD = "scattering/linear_60"
SMALL = {"image.npix": 16, "observation.receivers": 24, "observation.transmitters": 4}
OPTIONS = {"prior": "gaussian", "overrides": SMALL, "device": "cpu", "progress": False}
SOLVERS = "default(levels=3),dps(levels=6),ddrm"


def lmaps(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def problem():
    return load_problem(CARD, prior="gaussian", overrides=SMALL)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def found(out):
    (comparison,) = bench(CARD, SOLVERS, 2, out=out, **OPTIONS)
    return comparison


# ---------------------------------------------------------------- end to end


def test_every_method_has_a_row_and_the_refused_one_its_reason(found, out):
    folder = out / "scattering-linear_60"
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert [row["method"] for row in rows] == ["default_levels_3", "dps_levels_6", "ddrm"]
    assert [row["n"] for row in rows] == ["2", "2", "0"]
    assert "needs a problem that is svd" in rows[2]["refused"]
    text = (folder / "table.md").read_text()
    assert text == str(found)
    assert "| refused |" in text
    assert "ddrm refused: DDRM needs a problem that is svd" in text
    assert (folder / "figure.png").stat().st_size > 10_000
    assert found.reference == "default_levels_3"
    assert not found.failed


def test_all_methods_see_the_same_observations_of_numbered_images(found, out):
    folder = out / "scattering-linear_60"
    results = [
        read_netcdf(folder / method / f"phantom{TEST}" / "result.nc")
        for method in ("default_levels_3", "dps_levels_6")
    ]
    assert np.array_equal(results[0]["truth"], results[1]["truth"])
    for data in results:
        assert data.attrs["card"]["observation"]["image"] == f"phantom:{TEST}"
        assert data.attrs["card"]["observation"]["seed"] == TEST
    assert list(found.facts["images"]) == [f"phantom{TEST}", f"phantom{TEST + 1}"]


def test_the_paired_difference_is_that_of_two_images_by_hand(found, out):
    folder = out / "scattering-linear_60"
    psnr = {
        method: [
            float(read_netcdf(folder / method / f"phantom{TEST + k}" / "result.nc")["psnr"][0])
            for k in range(2)
        ]
        for method in ("default_levels_3", "dps_levels_6")
    }
    (a0, a1), (b0, b1) = psnr["dps_levels_6"], psnr["default_levels_3"]
    first, second = a0 - b0, a1 - b1
    pair = found.pairs["psnr", "dps_levels_6"]
    assert pair.n == 2
    assert pair.mean == pytest.approx((first + second) / 2)
    # of two numbers the standard deviation is |d| / sqrt 2, and the error of their mean |d| / 2
    assert pair.error == pytest.approx(abs(first - second) / 2)
    mean = found.means["psnr", "dps_levels_6"]
    assert mean.mean == pytest.approx((a0 + a1) / 2)
    assert mean.deviation == pytest.approx(abs(a0 - a1) / math.sqrt(2))


def test_costs_are_those_of_the_results(found):
    calls = {name: found.means["network_calls", name].mean for name in ("dps_levels_6",)}
    assert calls["dps_levels_6"] == 3 * 6
    assert found.means["network_calls", "default_levels_3"].mean == 3
    assert found.means["operator_calls", "default_levels_3"].mean > 6
    counts = {"denoiser_calls": 5, "denoiser_vjps": 2, "operator_calls": 3, "operator_vjps": 4}
    assert (network_calls(counts), operator_calls(counts)) == (9, 7)


def test_it_goes_on_and_does_nothing_twice(found, out, monkeypatch):
    folder = out / "scattering-linear_60"
    finished = {path: path.stat().st_mtime_ns for path in folder.rglob("result.nc")}
    module = sys.modules["lmaps_science.compare.bench"]  # the function has the name of its module
    monkeypatch.setattr(module, "first_level", lambda *_: pytest.fail("tried again"))
    (again,) = bench(CARD, SOLVERS, 2, out=out, **OPTIONS)
    assert str(again) == str(found)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("result.nc")} == finished


def test_what_was_lost_is_made_again_and_more_images_join(found, out):
    folder = out / "scattering-linear_60"
    lost = folder / "dps_levels_6" / f"phantom{TEST}" / "result.nc"
    before = read_netcdf(lost)["image"].values
    lost.unlink()
    (again,) = bench(CARD, SOLVERS, 3, out=out, **OPTIONS)
    assert np.array_equal(read_netcdf(lost)["image"].values, before)
    assert again.means["psnr", "dps_levels_6"].n == 3
    (fewer,) = bench(CARD, SOLVERS, 2, out=out, **OPTIONS)
    for key, value in found.means.items():
        if key[0] == "psnr":
            assert fewer.means[key] == value


def test_the_command(tmp_path):
    options = [f"--set={key}={value}" for key, value in SMALL.items()]
    options += ["--prior=gaussian", "--device=cpu", "--quiet", f"--out={tmp_path}", "--images=1"]
    outcome = lmaps("bench", CARD, "--solvers=default,dmap", "--budget=9", *options)
    assert outcome.exit_code == 0, outcome.output
    assert "Budget: at most 9 network calls" in outcome.stdout
    rows = list(csv.DictReader((tmp_path / "scattering-linear_60" / "table.csv").open()))
    assert [float(row["network_calls"]) for row in rows] == [9, 9]
    assert lmaps("bench", CARD, "--solvers=nothing", *options).exit_code == 1


def test_failures_are_named_and_counted(tmp_path):
    wild = "wild=lmaps(levels=2,kappa1=0,kappa2=1,local=gradient_steps(steps=9,learning_rate=1e30))"
    (found,) = bench(CARD, f"dps(levels=2),{wild}", 1, out=tmp_path, **OPTIONS)
    assert found.failed
    assert f"wild failed on phantom{TEST}: LMAPS: sample(s) [0]" in " ".join(str(found).split())
    assert found.means["psnr", "dps_levels_2"].n == 1
    (scaled,) = bench(CARD, wild, 1, out=tmp_path / "scaled", budget=9, **OPTIONS)
    assert "wild refused: LMAPS cannot be scaled to 9 network calls" in str(scaled)


# ---------------------------------------------------------------- budgets


@dataclass(frozen=True)
class Fixed(DPS):
    """A solver whose levels do not count."""

    @property
    def schedule(self):
        return replace(super().schedule, levels=3)


@pytest.mark.parametrize(
    "solver",
    [LMAPS(), DPS(), DMAP(steps=3), FreeDoM(), REDDiff(), ScoreMRI(), DAPS(local=Langevin(1)),
     VMLMAP(steps=3), LMAPS(covariance="jacobian")],
    ids=lambda solver: type(solver).__name__,
)  # fmt: skip
@pytest.mark.parametrize("budget", [20, 47])
def test_the_most_levels_that_a_budget_holds(problem, solver, budget):
    found = within_budget(problem, solver, budget)
    calls = [
        network_calls(sample(problem, replace(solver, levels=n), progress=False).counts)
        for n in (found.levels, found.levels + 1)
    ]
    assert calls[0] <= budget < calls[1]
    assert found == replace(solver, levels=found.levels)


def test_network_calls_that_a_solver_declares_are_those_it_makes(problem):
    for solver in (FreeDoM(levels=9), FreeDoM(levels=17, repeats=5, window=(0.1, 50.0))):
        counts = sample(problem, solver, progress=False).counts
        assert network_calls(counts) == solver.network_calls


def test_a_population_has_as_many_levels_of_its_solver_as_a_budget_holds(problem):
    population = Population(LMAPS(sigma_max=20.0), 3, keep={2.0: 1})
    found = within_budget(problem, population, 60)
    assert found == replace(population, solver=found.solver)

    def calls(levels):
        solver = replace(population, solver=replace(population.solver, levels=levels))
        return network_calls(sample(problem, solver, progress=False).counts)

    assert calls(found.solver.levels) <= 60 < calls(found.solver.levels + 1)
    with pytest.raises(DataError, match=r"Population cannot .* to 1 network calls: with 1 level"):
        within_budget(problem, population, 1)


def test_particles_of_a_filter_count_once():
    toy = inpainting().problem  # which has singular vectors
    found = within_budget(toy, MCGDiff(particles=5), 103)
    assert found == MCGDiff(levels=20, particles=5)
    assert network_calls(sample(toy, found, progress=False).counts) == 100


def test_a_population_within_a_budget_is_compared(tmp_path):
    population = "p=population(particles=2,keep={2: 1},solver=lmaps(sigma_max=20.0))"
    bench(CARD, population, 1, budget=12, out=tmp_path, **OPTIONS)
    folder = tmp_path / "scattering-linear_60"
    (row,) = csv.DictReader((folder / "table.csv").open())
    assert 10 <= float(row["network_calls"]) <= 12
    run = read_netcdf(folder / "p" / f"phantom{TEST}" / "result.nc")
    assert run.attrs["card"]["presets"]["p"]["solver"]["levels"] > 6


def test_several_budgets_make_a_curve_of_each_method(tmp_path):
    solvers = "default,dps,vml_map=vml_map(steps=4)"  # of which a level takes 13
    found = bench(CARD, solvers, 1, budget=[24, 12], out=tmp_path, **OPTIONS)
    folder = tmp_path / "scattering-linear_60"
    assert [comparison.folder.name for comparison in found] == ["12-calls", "24-calls"]
    assert (folder / "calls.png").stat().st_size > 1000
    rows = [list(csv.DictReader((f.folder / "table.csv").open())) for f in found]
    assert [[float(row["network_calls"] or 0) for row in r] for r in rows] == [
        [12, 12, 0],
        [24, 24, 13],
    ]
    (axes,) = draw(found).axes
    lines = {bars.get_label(): bars.lines[0].get_xydata() for bars in axes.containers}
    assert set(lines) == {"default", "dps", "vml_map"}
    for name, points in lines.items():
        expected = [
            (float(row["network_calls"]), float(row["psnr [dB]"]))
            for r in rows
            for row in r
            if row["method"] == name and not row["refused"]
        ]
        np.testing.assert_allclose(points, expected)


def test_a_curve_of_one_image_has_no_errors_and_a_unit_wherever_one_ran(tmp_path):
    options = {**OPTIONS, "budget": [np.int64(2), 12]}
    found = bench(CARD, "dps", 1, out=tmp_path, **options)  # a level takes 3
    assert found[0].entries[0].refused
    (axes,) = draw(found).axes
    assert axes.get_ylabel() == "psnr [dB]"
    (error,) = axes.containers[0].lines[2]
    assert error.get_segments()[0].size == 0  # no bar


def test_a_solver_called_as_the_folder_of_a_budget_keeps_it(tmp_path):
    bench(CARD, "4-calls=dps(levels=2)", 1, out=tmp_path, **OPTIONS)
    with pytest.raises(DataError, match="what a solver of that name made"):
        bench(CARD, "dps", 1, budget=[3, 4], out=tmp_path, **OPTIONS)


def test_a_picture_of_that_name_which_is_not_ours_stays(tmp_path):
    folder = tmp_path / "scattering-linear_60"
    folder.mkdir()
    (folder / "calls.png").write_text("mine")
    with pytest.raises(DataError, match="of no comparison"):
        bench(CARD, "dps", 1, budget=[6, 12], out=tmp_path, **OPTIONS)
    assert (folder / "calls.png").read_text() == "mine"


def test_levels_within_a_budget_by_hand():
    assert levels_within(10, lambda n: 3 * n) == 3
    assert levels_within(12, lambda n: 3 * n) == 4
    assert levels_within(12, lambda n: 3 * n + 1) == 3
    assert levels_within(2, lambda n: 3 * n) == 0


def test_what_cannot_be_scaled_is_refused(problem):
    with pytest.raises(DataError, match=r"VMLMAP cannot be scaled to 100 .*one level takes 151"):
        within_budget(problem, VMLMAP(), 100)
    with pytest.raises(DataError, match="Fixed cannot be scaled to 100 network calls: two levels"):
        within_budget(problem, Fixed(), 100)


def test_memory_is_measured_and_refusals_pass(problem):
    megabytes = first_level(problem, LMAPS())
    assert math.isnan(megabytes) or 20 < megabytes < 1e5
    with pytest.raises(ValueError, match="svd"):
        first_level(problem, DDRM())


# ---------------------------------------------------------------- which solvers


def test_lists_split_outside_of_brackets():
    assert split_list("a, b(c=[1,2],d=e(f=1)) ,g") == ["a", "b(c=[1,2],d=e(f=1))", "g"]
    for wrong in ("a(b", "a)b", "a(b,c"):
        with pytest.raises(DataError, match="brackets do not match"):
            split_list(wrong)


def test_presets_come_before_methods_and_options_change_them():
    card = load_card("black_hole/simulated")
    assert find_solver("dps", card).solver == DPS(levels=300)
    assert find_solver("DPS", card).solver == DPS()
    assert find_solver("dps(zeta=0.5)", card).solver == DPS(levels=300, zeta=0.5)
    found = find_solver("mine=daps(levels=4,local=langevin(steps=7))", card)
    assert (found.name, found.solver) == ("mine", DAPS(levels=4, local=Langevin(steps=7)))
    reached = find_solver("single(local.iterations=5)", card).solver
    assert reached == replace(card.solver("single"), local=replace(reached.local, iterations=5))
    assert card.solver("single").local.iterations == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defualt", "no such preset or method. Did you mean 'default'"),
        ("dps(zeta=)", "no KEY=VALUE"),
        ("dps(zeta=1,zeta=2)", "given twice"),
        ("dps(zata=1)", "no option 'zata'. Did you mean 'zeta'"),
        ("dps(zeta=-1)", "zeta > 0"),
        ("a=b=dps", "write NAME"),
        ("nothing.yaml", "nothing.yaml"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        bench(CARD, [text], 1, out=tmp_path, **OPTIONS)


def test_a_preset_of_one_card_is_refused_by_the_others_alone(tmp_path):
    content = {"extends": CARD, "title": "another", "presets": {"own": {"method": "dps"}}}
    (tmp_path / "another.yaml").write_text(yaml.safe_dump(content))
    cards = [str(tmp_path / "another.yaml"), CARD]
    text = "own(levels=2)"
    first, second = bench(cards, text, 1, out=tmp_path / "out", **OPTIONS)
    assert first.means["psnr", "own_levels_2"].n == 1
    assert "no such preset or method" in second.entries[0].refused
    assert second.reference is None
    assert "own(levels=2) refused" in str(second)
    with pytest.raises(DataError, match="no such preset"):
        bench([CARD], text, 1, out=tmp_path / "out", **OPTIONS)


def test_names_are_not_shared(tmp_path):
    with pytest.raises(DataError, match="two solvers are called dps"):
        bench(CARD, "dps,dps", 1, out=tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overrides": {**SMALL, "solver.levels": 3}}, "would change every solver alike"),
        ({"budget": 0}, "--budget 0"),
        ({"budget": [20, 0]}, "--budget 20, 0:"),
        ({"budget": []}, "--budget :"),
        ({"budget": 4.5}, "--budget 4.5"),
        ({"images": 0}, "--images 0"),
        ({"seed": 400}, "--seed 400"),
        ({"solvers": ""}, "nothing to compare"),
        ({"cards": []}, "nothing to compare"),
        ({"cards": "scattering/fresnel", "overrides": {}}, "cannot simulate observations"),
        ({"out": ""}, "has no name"),
    ],
)
def test_arguments_out_of_range_are_refused(changes, message, tmp_path):
    given = {"cards": CARD, "solvers": "dps", "images": 1, "out": tmp_path / "x", **OPTIONS}
    with pytest.raises(DataError, match=message):
        bench(**{**given, **changes})
    assert not (tmp_path / "x").exists()


def test_other_peoples_tables_stay(tmp_path):
    folder = tmp_path / "scattering-linear_60"
    folder.mkdir()
    (folder / "table.md").write_text("mine")
    with pytest.raises(DataError, match="no folder of a comparison"):
        bench(CARD, "dps", 1, out=tmp_path, **OPTIONS)
    assert (folder / "table.md").read_text() == "mine"


# ---------------------------------------------------------------- images kept apart


def test_no_seed_of_a_comparison_meets_one_of_tuning():
    for seed in (0, 1, 399):
        first, last = numbered_images(TEST, 1000, seed)
        assert first >= TEST
        assert last < VALIDATION
        assert numbered_images(VALIDATION, 1000, seed)[0] >= VALIDATION
    assert numbered_images(TEST, 10, 2) == (TEST + 2000, TEST + 2009)


def test_a_field_with_so_many_images_and_no_more():
    name = "restoration/sr4"
    card = load_card(name)
    assert image_series(card, name, TEST, 40, 3) == ("photograph", 0, 39)
    assert image_series(card, name, VALIDATION, 20, 3) == ("photograph", 40, 59)
    with pytest.raises(DataError, match="60 images, of which 20 are for this: give 1 to 20"):
        image_series(card, name, VALIDATION, 21, 0)


def test_a_solver_is_not_scored_on_images_it_was_tuned_on(tmp_path):
    tuned_on = {"kind": "scattering", "card": CARD, "series": "phantom", "first": 7, "last": 9}
    file = tmp_path / "best.yaml"
    file.write_text(f"{TUNED_ON}{json.dumps(tuned_on)}\nmethod: dps\nlevels: 2\n")
    with pytest.raises(DataError, match="tuned on phantom 8, 9"):
        bench(CARD, f"t={file}", 1, out=tmp_path / "o", each="phantom:8-12", **OPTIONS)
    (found,) = bench(CARD, f"t={file}", 1, out=tmp_path / "o", **OPTIONS)
    assert "t: the file best.yaml, tuned." in str(found)
    check_held_out("t", tuned_on, "mri", {"phantom": [8]})  # another field's
    with pytest.raises(DataError, match="tuned on phantom 9"):
        check_held_out("t", tuned_on, "scattering", {"phantom": [9]})


# ---------------------------------------------------------------- what may vary


@pytest.mark.parametrize("cls", methods().values(), ids=lambda cls: cls.__name__)
def test_every_solver_and_part_says_what_may_vary(cls):
    assert "search" in vars(cls), f"{cls.__name__}: give it search, {{}} where nothing may vary"
    options = {field.name for field in fields(cls)}
    assert set(cls.search) <= options - {"levels"}
    if issubclass(cls, Solver) and cls.search:
        assert set(cls.search) <= set(search_space(cls()))


def test_ranges_of_parts_are_reached_and_unfit_ones_left_out():
    solver = DAPS(local=Langevin(steps=3))
    assert {"radius", "local.learning_rate"} <= set(search_space(solver))
    moved = changed(solver, {"radius": 2.0, "local.learning_rate": 0.5})
    assert moved == DAPS(radius=2.0, local=Langevin(steps=3, learning_rate=0.5))
    assert "kappa" not in search_space(LMAPS(kappa2=3.0))
    assert "kappa" in search_space(LMAPS())
    found = search_space(Population(LMAPS(sigma_max=20.0), keep={2: 4, 0.66: 1}))
    assert found["solver.sigma_min"] == LMAPS.search["sigma_min"]
    above = found["solver.sigma_max"]  # the level of the first choice, not LMAPS' 0.5
    assert above.low == pytest.approx(2, rel=1e-2)
    assert above.low > 2
    assert above.high == LMAPS.search["sigma_max"].high
    with pytest.raises(DataError, match="nothing to tune"):
        search_space(DDNM())

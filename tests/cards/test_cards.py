"""Cards: overrides in any order, shipped weights by name, and every key explained."""

import json
import pickle
import re
import shutil
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
import yaml
from PIL import Image

from lmaps_science import list_problems, load_card, load_problem
from lmaps_science.cards import load, registry, sections
from lmaps_science.cards.files import override
from lmaps_science.cards.kind import CHECKSUMS
from lmaps_science.cards.reference import annotated, undescribed
from lmaps_science.cards.registry import kinds
from lmaps_science.cards.sections import Pixels, Section, find_prior
from lmaps_science.io import DataError

SMALL_SCATTERING = {
    "image.npix": 16,
    "observation.receivers": 24,
    "observation.transmitters": 4,
    "prior.kind": "gaussian",
}
CARD = {
    "preset": "a",
    "presets": {"a": {"method": "dps", "levels": 5}, "b": {"method": "lmaps", "kappa1": 1.0}},
    "physics": {"kind": "born", "svd": False},
}


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_overrides_does_not_matter(order):
    changes = {
        "physics.tolerance": "1e-3",
        "physics.kind": "full_wave",
        "solver.local.iterations": 7,
        "solver.local.method": "lbfgs",
        "solver.levels": 9,
        "solver.method": "daps",
        "presets.c.method": "dps",
        "preset": "c",
    }
    changed = override(CARD, dict(list(changes.items())[::order]))
    assert changed["physics"] == {"kind": "full_wave", "tolerance": "1e-3"}
    local = {"method": "lbfgs", "iterations": 7}
    assert changed["presets"]["c"] == {"method": "daps", "levels": 9, "local": local}
    assert changed["presets"]["a"] == CARD["presets"]["a"]


def test_method_is_a_choice_of_solvers_alone(tmp_path):
    reduced = load_problem("restoration/sr4", overrides={"degradation.method": "average"})
    expected = {"kind": "super_resolution", "factor": 4, "method": "average"}
    assert reduced.card.degradation.model_dump() == expected
    card = tmp_path / "mine.yaml"
    card.write_text("extends: restoration/sr4\ndegradation: {method: average}\n")
    assert load_card(str(card)).degradation.model_dump() == expected


def test_shipped_weights_are_found_by_name_and_others_by_path(tmp_path):
    shipped = find_prior("black_hole_64.safetensors")
    assert find_prior("black_hole_64.safetensors", "black_hole") == shipped
    with pytest.raises(DataError, match=r"no such prior.*Did you mean 'mri_heads.safetensors'"):
        find_prior("mri_haeds.safetensors", "mri")
    with pytest.raises(DataError, match="no such prior"):
        find_prior("black_hole_64.safetensors", "mri")
    own = shutil.copy(shipped, tmp_path / "black_hole_64.safetensors")
    assert find_prior(own) == own


def test_weights_that_are_left_out_of_the_wheel_are_told_of(tmp_path, monkeypatch):
    kind = kinds()["black_hole"]
    shutil.copy(kind.cards / CHECKSUMS, tmp_path)
    installed = {"black_hole": replace(kind, cards=tmp_path)}
    monkeypatch.setattr(sections, "kinds", lambda: installed)
    checksum = kind.checksums["compact_sources_64.safetensors"]
    place = rf"lmaps-science/lmaps-science, as problems/black_hole/compact_sources_64.*{checksum}"
    with pytest.raises(DataError, match=rf"compact_sources_64.safetensors is not in this.*{place}"):
        find_prior("compact_sources_64.safetensors")


def test_no_code_that_conditional_weights_name_is_imported(tmp_path, monkeypatch):
    (tmp_path / "unwanted_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    problem = load_problem("scattering/linear_60", overrides=SMALL_SCATTERING)
    for method in ("solver.method", "presets.x.method", "presets.default.method"):
        training = {"card": "scattering/linear_60", "overrides": {method: "unwanted_module:Evil"}}
        with suppress(DataError):
            load._check_operator(problem.card, training, "control.safetensors", "linear_60")


def test_a_calibration_file_that_is_not_there_is_told_before_the_work(tmp_path):
    changes = {**SMALL_SCATTERING, "calibration": str(tmp_path / "none.json")}
    with pytest.raises(DataError, match=r"none\.json"):
        load_problem("scattering/linear_60", overrides=changes)


def test_conditional_weights_that_are_left_out_of_the_wheel_are_told_of(tmp_path, monkeypatch):
    kind, name = kinds()["scattering"], "linear_60_conditional.safetensors"
    problem = load_problem("scattering/linear_60")
    shutil.copy(kind.cards / CHECKSUMS, tmp_path)
    monkeypatch.setattr(registry, "kinds", lambda: {"scattering": replace(kind, cards=tmp_path)})
    with pytest.raises(DataError, match=rf"as problems/scattering/{name}"):
        load._conditional(problem, name, "scattering/linear_60")


@pytest.mark.parametrize("name", list_problems())
def test_a_card_shown_in_full_is_the_card(name):
    card = load_card(name)
    shown = annotated(card)
    as_json = json.loads(json.dumps(yaml.safe_load(shown)))  # whose keys are text
    assert as_json == card.model_dump(mode="json")
    assert max(map(len, shown.splitlines())) <= 105


def test_keys_are_shown_with_what_they_may_be():
    shown = re.sub(r"\n *# (?=\S)", " ", annotated(load_card("black_hole/m87_2017")))
    for part in (
        "(text or null; default: null)\n  manifest: m87_2017_095_lo",
        "(list of 3: number; default: [1.0, 1.0, 0.5])\n  weights: [1.0, 1.0, 0.5]",
        "(simulation or uvfits)\n  kind: uvfits",
        "[microarcsecond]. (number >= 1 <= 1e+06; default: 160.0)\n  fov_uas: 160.0",
        "Also: zeta: 0.25, scale_free: true, time_min: 0.001, conditional: false.\n"
        "  dps: {method: dps, levels: 300}",
    ):
        assert part in shown


@pytest.mark.parametrize("kind", kinds().values(), ids=kinds())
def test_every_key_is_described(kind):
    assert undescribed(kind.card_class) == []


def test_undescribed_keys_are_found_in_sections_too():
    class Inner(Section):
        size: int = 3

    class Outer(Section):
        inner: Inner = Inner()
        several: tuple[Inner, ...] = ()

    assert undescribed(Outer) == ["Outer.several", "Inner.size"]
    assert "\n  # whole number; default: 3\n  size: 3" in annotated(Outer())


def test_absurd_grids_are_refused():
    class Grid(Section):
        npix: Pixels = 64

    assert Grid(npix=4096).npix == 4096
    for wrong in (0, -64, 2, 1_000_000):
        with pytest.raises(ValueError, match="npix"):
            Grid(npix=wrong)


@pytest.mark.parametrize(
    ("card", "changes"),
    [
        ("black_hole/simulated", {"image.npix": 16}),
        ("mri/simulated", {"kspace.npix": 64, "kspace.coils": 4}),
        ("scattering/linear_60", {"image.npix": 20, "physics.svd": True}),
        ("scattering/full_wave", {"image.npix": 20, "observation.receivers": 20}),
    ],
)
def test_problems_pickle(card, changes, tmp_path, monkeypatch):
    """So that other processes can be handed them."""
    pytest.importorskip("sigpy")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # of singular vectors
    problem = load_problem(card, prior="gaussian", overrides=changes)
    twin = pickle.loads(pickle.dumps(problem))
    assert repr(twin) == repr(problem)
    x = problem.like(1) + 0.1
    assert torch.equal(twin.misfit(x), problem.misfit(x))
    assert type(twin.card) is type(problem.card)


@pytest.mark.parametrize("card", ["restoration/sr4", "scattering/linear_60"])
def test_conditional_weights_that_come_with_the_package_fit_their_cards(card, tmp_path):
    picture = tmp_path / "grey.png"
    Image.new("RGB", (128, 128), "grey").save(picture)
    data = picture if card.startswith("restoration") else None
    file = f"{card.split('/')[1]}_conditional.safetensors"
    problem = load_problem(card, data, overrides={"conditional": file})
    assert "conditional" in problem.provides
    assert problem.facts["conditional"]["training"]["images"] == 100

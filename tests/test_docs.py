"""The site tells what is so: its Python runs, its commands exist, its figures are the tables'."""

import re
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from lmaps_science.cards.reference import keys, sections
from lmaps_science.cards.registry import kinds, methods
from lmaps_science.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [*DOCS.glob("*.md"), *(ROOT / f"{n}.md" for n in ("CONTRIBUTING", "README", "SECURITY"))]
)


def blocks(page, language):
    return re.findall(
        rf"```{language}[^\n]*\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL
    )


# ---------------------------------------------------------------- Python


@pytest.mark.parametrize("page", ["cluster.md", "operator.md", "prior.md", "start.md"])
def test_python_runs(page, tmp_path, monkeypatch):
    """Each block goes on where the one before ended; one that needs a file of yours is none."""
    monkeypatch.chdir(tmp_path)
    given: dict = {}
    code = [block for block in blocks(page, "python") if "blackhole.pt" not in block]
    assert code
    for block in code:
        block = block.replace('"solver.levels": 20', '"solver.levels": 2')
        exec(compile(re.sub(r"n_samples=\d", "n_samples=1", block), page, "exec"), given)
    if "plot_reconstruction" in given:
        assert (tmp_path / "figure.png").stat().st_size > 10_000


# ---------------------------------------------------------------- commands


def options(command, name=""):
    """The options of each command, by its name."""
    found = {}
    for sub, child in getattr(command, "commands", {}).items():
        found |= options(child, f"{name} {sub}".strip())
    return found or {name: {opt for p in command.params for opt in p.opts + p.secondary_opts}}


COMMANDS = options(typer.main.get_command(app))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_their_options_exist(page):
    text = re.sub(r"\\\n\s*", "", page.read_text("utf-8"))
    lines = re.findall(
        r"^lmaps .*", "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)), re.M
    )
    for line in [*lines, *re.findall(r"`(lmaps [a-z].*?)`", text.replace("\n", " "))]:
        words = line.partition(" #")[0].split()[1:]
        name = " ".join(words[:2]) if words[0] == "prior" else words[0]
        assert name in COMMANDS or name == "prior", f"{page.name}: {line}"
        for word in words:
            if word.startswith("--"):
                option = word.partition("=")[0].strip(",.;")
                assert option in COMMANDS[name] | {"--help"}, f"{page.name}: {line}"


# ---------------------------------------------------------------- figures

NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*\.?\d*")


def numbers(text):
    """Those with a point or of three digits and more: others may be of the sentence."""
    found = {number.rstrip(".,") for number in NUMBER.findall(text)}
    return {number for number in found if "." in number or len(number) > 2}


CHOOSING, README = DOCS / "choosing_a_solver.md", ROOT / "README.md"
CLAIMS = [
    (part, page.parent / link)
    for page in (CHOOSING, README)
    for part in re.split(r"\n(?=\||\* |\n)", page.read_text("utf-8"))
    for link in re.findall(r"\]\(((?:(?:\.\./)?problems|uncertainty)[^)]*\.md)\)", part)[:1]
]


def test_there_are_claims():
    assert sum(len(numbers(claim)) for claim, _ in CLAIMS) > 40
    assert {link.parent.name for claim, link in CLAIMS if claim.startswith("| ![")} == set(kinds())


@pytest.mark.parametrize(("claim", "link"), CLAIMS, ids=[claim[:40] for claim, _ in CLAIMS])
def test_figures_stand_in_the_tables(claim, link):
    """Where a table has changed, the page that tells its figures has to follow."""
    missing = numbers(claim) - numbers(link.read_text("utf-8"))
    assert not missing, f"{link} does not have {sorted(missing)}: say what it has"


def test_figures_of_costs_stand_in_their_row():
    table = CHOOSING.read_text("utf-8").split("## By cost")[1].split("## ")[0]
    readme = (ROOT / "problems" / "scattering" / "README.md").read_text("utf-8")
    readme = readme.split("On the images both have")[0]  # the first table
    rows = {
        row.split("|")[1].strip(" *"): numbers(row) for row in re.findall(r"^\|.*", readme, re.M)
    }
    names = {"LMAPS, exact local problem": "LMAPS", "LMAPS, by conjugate gradients": "LMAPS, by CG"}
    told = re.findall(r"^\| (\w.*?) \| (.*)", table, re.M)[1:]
    assert len(told) == 11
    for name, figures in told:
        assert numbers(figures) <= rows[names.get(name, name)], name


# ---------------------------------------------------------------- README


def test_links_of_the_readme_lead_somewhere_and_it_stays_short():
    text = README.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert len(links) > 20
    assert not [link for link in links if not (ROOT / link).exists()]
    assert len(text.splitlines()) <= 150


# ---------------------------------------------------------------- cards, bibliography, citation


@pytest.mark.parametrize("name", sorted(kinds()))
def test_keys_named_after_a_unit_tell_it(name):
    schema = kinds()[name].card_class
    endings = ("_uas", "_mm", "_seconds", "_hz", "_ghz", "_hours", "_degrees")
    for where, model in sections(schema):
        for key in keys(model):
            assert key.meaning, f"{where}.{key.name}"
            if key.name.endswith(endings):
                assert key.unit, f"{where}.{key.name}"


def test_every_solver_is_in_the_bibliography():
    works = yaml.safe_load((DOCS / "bibliography.yaml").read_text("utf-8"))
    here = ", ".join(work["here"] for group in works.values() for work in group)
    ours = [cls for cls in methods().values() if cls.__module__.startswith("lmaps_science.solvers")]
    missing = {cls.__name__ for cls in ours} - set(re.findall(r"\w+", here)) - {"ExactSVD"}
    assert not missing
    for work in (work for group in works.values() for work in group):
        assert {"authors", "year", "title", "here"} <= set(work)
        assert re.fullmatch(r"10\.\d{4,}/\S+", work.get("doi", "10.1000/x")), work


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["repository-code"] == project["urls"]["Source"]

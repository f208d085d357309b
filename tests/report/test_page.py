"""The page: complete, harmless whatever results are called, and usable without a mouse."""

import html
import re

import pytest
from chromium import Browser, find_chromium
from report_results import fail, made, write
from typer.testing import CliRunner

from lmaps_science import cli, write_report

EVIL = "<img src=x onerror=alert(1)>"
SCRIPT = "</script><script>alert(2)</script>"


def lmaps(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def two_methods(folder):
    for k in range(3):
        write(folder / "a" / f"o{k}", made(k, psnr=(20.0 + (k * 7) % 5, 21.0 + k)))
        verdict = "doubtful" if k else "good"
        write(folder / "b" / f"o{k}", made(k, psnr=(30.0 - k, 31.0 - k), verdict=verdict))
    fail(folder / "a" / "o3", "the noise level is 0 & <b>missing</b>.", when="2026-11-24")
    (folder / "b" / "o3").mkdir()
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return write_report([two_methods(folder / "in")], folder / "report.html")


@pytest.fixture(scope="module")
def browser():
    binary = find_chromium()
    if binary is None:
        pytest.skip("needs Chromium (Debian package chromium)")
    found = Browser(binary)
    yield found
    found.close()


# ---------------------------------------------------------------- what it holds


def test_it_is_complete_and_loads_nothing(page):
    text = page.read_text()
    assert text.count("<tr data-entry=") == 8
    assert text.count("<article id=") == 4
    assert "the noise level is 0 &amp; &lt;b&gt;missing&lt;/b&gt;." in text
    assert "b/o3" in text
    assert "b − a" in text
    assert "chi2 1.0 (within 2)" in text
    assert not re.search(r"""(src|href)=["'](?!data:image/webp;base64,|#)""", text)
    assert "url(" not in text
    assert "@import" not in text
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)', text)[1])
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_names_titles_and_messages_are_text(tmp_path):
    card = {"kind": "black_hole", "title": SCRIPT}
    write(tmp_path / "in" / EVIL, made(card=card, solver=EVIL, verdict=EVIL, notes=[SCRIPT]))
    fail(tmp_path / "in" / "b", SCRIPT)
    text = write_report([tmp_path / "in"], tmp_path / "r.html").read_text()
    assert EVIL not in text
    assert SCRIPT not in text
    assert text.count("<script>") == 1
    assert html.escape(SCRIPT) in text


def test_attributes_of_other_types_do_not_break_it(tmp_path):
    odd = {"wall_seconds": "x", "notes": "one", "prior": {"file": 3}, "metrics_of_mean": [1]}
    write(tmp_path / "in" / "a", made(**odd))
    text = write_report([tmp_path / "in"], tmp_path / "r.html").read_text()
    assert '<p class="muted">one</p>' in text


def test_figures_are_inside_up_to_a_limit_worst_first(tmp_path):
    from PIL import Image

    for name, verdict in (("a", "good"), ("b", "does not fit")):
        write(tmp_path / "in" / name, made(verdict=verdict))
        Image.effect_noise((400, 300), 60).save(tmp_path / "in" / name / "figure.png")
    (tmp_path / "in" / "c").mkdir()
    everything = write_report([tmp_path / "in"], tmp_path / "all.html").read_text()
    assert everything.count('class="whole"') == 2
    one = len(re.search(r'class="whole">\s*<img src="([^"]*)', everything)[1]) * 1.5e-6
    some = write_report([tmp_path / "in"], tmp_path / "r.html", most_megabytes=one).read_text()
    assert some.count('class="whole"') == 1
    assert "Images, spread and fit of b" in some
    assert "The figures of 1 of 2 runs" in some


def test_failures_alone_make_a_page(tmp_path):
    fail(tmp_path / "in" / "a", "no data")
    text = write_report([tmp_path / "in"], tmp_path / "r.html").read_text()
    assert "no data" in text
    assert 'id="summary"' not in text


def test_the_command_replaces_a_page_on_request_alone(tmp_path):
    write(tmp_path / "in" / "a", made())
    out = tmp_path / "r.html"
    assert lmaps("report", tmp_path / "in", "--out", out, "--title", "Mine").exit_code == 0
    assert "<h1>Mine</h1>" in out.read_text()
    out.write_text("mine")
    assert "exists" in lmaps("report", tmp_path / "in", "--out", out).stderr
    assert out.read_text() == "mine"
    assert lmaps("report", tmp_path / "in", "--out", out, "--force").exit_code == 0
    assert "suffix" in lmaps("report", tmp_path / "in", "--out", tmp_path / "r.pdf").stderr


# ---------------------------------------------------------------- what it does, in a browser


def column(browser, index):
    return browser.run(
        "[...document.querySelectorAll('#observations tbody tr')].filter(r => !r.hidden)"
        f".map(r => r.cells[{index}].textContent)"
    )


def test_nothing_runs_but_its_own_script(tmp_path, browser):
    card = {"kind": "black_hole", "title": SCRIPT}
    write(tmp_path / "in" / EVIL, made(card=card, solver=EVIL, verdict=EVIL))
    path = write_report([tmp_path / "in"], tmp_path / "r.html")
    browser.errors.clear()
    browser.open(path)
    assert browser.run("document.querySelector('h1').textContent") == SCRIPT
    assert browser.errors == []
    # Even what might slip through the escaping: the policy forbids it.
    (tmp_path / "x.html").write_text(path.read_text().replace("</h1>", f"</h1>{EVIL}{SCRIPT[9:]}"))
    browser.open(tmp_path / "x.html")
    assert any("Content Security Policy" in error for error in browser.errors)
    assert not any("dialog" in error for error in browser.errors)
    browser.errors.clear()


def test_sorting_by_keyboard(page, browser):
    browser.open(page)
    head = "document.querySelectorAll('#observations th')[4]"
    browser.run(f"{head}.querySelector('button').focus()")
    assert browser.run(f"{head}.textContent").startswith("psnr")
    assert browser.run(f"{head}.getAttribute('aria-sort')") is None
    browser.press("Enter")
    up = column(browser, 4)
    assert browser.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    assert up[-2:] == ["", ""]  # what has no number comes last
    assert [float(v) for v in up[:6]] == sorted(map(float, up[:6]))
    browser.press("Enter")
    down = column(browser, 4)
    assert browser.run(f"{head}.getAttribute('aria-sort')") == "descending"
    assert down == [*up[:6][::-1], "", ""]
    browser.press("Tab")
    assert browser.run("document.activeElement.textContent").startswith("angle")
    browser.press("Enter")
    assert browser.run("document.querySelectorAll('th[aria-sort]').length") == 1


def test_filters_and_numbers(page, browser):
    browser.open(page)
    browser.run("document.getElementById('find').focus()")
    browser.press("o")
    browser.press("1")
    assert column(browser, 1) == ["o1", "o1"]
    assert browser.run("document.getElementById('count').textContent") == "2 of 8 runs"
    shown = "[...document.querySelectorAll('article')].filter(a => !a.hidden).length"
    assert browser.run(shown) == 1
    change = "dispatchEvent(new Event('change'))"
    browser.run(f"verdict.value = 'doubtful', verdict.{change}")
    assert column(browser, 2) == ["b"]
    assert column(browser, 4) == ["32.00"]
    browser.run(f"of.value = 'best', of.{change}")
    assert column(browser, 4) == ["30.00"]
    browser.run(f"of.value = 'samples', of.{change}")
    assert column(browser, 4) == ["29.50"]


def test_the_slider_by_keyboard(page, browser):
    browser.open(page)
    images = "document.querySelector('#o1 .images')"
    names = f"[...{images}.querySelectorAll('select')].map(s => s.value)"
    assert browser.run(names) == ["truth", "a"]
    cut = f"getComputedStyle({images}.querySelectorAll('.pair img')[1]).clipPath"
    assert browser.run(cut).endswith("50%)")
    browser.run(f"{images}.querySelector('input').focus()")
    browser.press("ArrowRight", 5)
    assert browser.run(cut).endswith("55%)")
    browser.press("End")
    assert browser.run(cut).endswith("100%)")
    second = f"{images}.querySelectorAll('select')[1]"
    browser.run(f"{second}.value = 'b', {second}.dispatchEvent(new Event('change'))")
    shown = f"[...{images}.querySelectorAll('.pair img')].map(i => i.alt)"
    assert browser.run(shown) == ["truth of o0", "b of o0"]
    assert "b" in browser.run(f"{images}.querySelector('input').getAttribute('aria-label')")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_the_window_and_can_be_read(page, browser, width, dark):
    browser.open(page, width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    contrast = """(() => {
      const light = (name) => {
        const probe = document.createElement('i');
        probe.style.setProperty('color', `var(${name})`);
        document.body.append(probe);
        const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).map((v) => {
          const s = v / 255;
          return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
      };
      const paper = light('--paper');
      return ['--ink', '--muted', '--link', '--good', '--doubtful', '--bad'].map((name) => {
        const ink = light(name);
        return Math.max(ink, paper) / Math.min(ink, paper);
      });
    })()"""
    assert min(browser.run(contrast)) >= 4.5  # WCAG 2.2, level AA
    assert browser.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(23, 24, 26)" if dark else "rgb(255, 254, 250)"
    )


def test_without_script_all_is_there(page, browser):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert len(column(browser, 1)) == 8
    assert browser.run("document.getElementById('controls').hidden") is True
    assert browser.run("document.querySelectorAll('#o1 .images figure').length") == 3

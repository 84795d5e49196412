"""The report in a real browser: what moves when something is clicked, and what does not."""

import time

import numpy as np
import pytest

from browser import Visit, chromium
from cryomorph.report.encoding import png
from cryomorph.report.halves import agreement
from cryomorph.report.page import page, sections
from report_cases import AMPLITUDE, HALVES, half_arrays, source

NASTY = "</script><img src=x onerror=\"document.title='owned'\"><!--"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page(sections(source())))
    return path


@pytest.fixture
def visit(browser, file):
    opened = []

    def go(path=file, **options):
        opened.append(Visit(browser, path, **options))
        return opened[-1]

    yield go
    for each in opened:
        assert each.complaints == []
        assert each.asked_for() == []
        each.close()


def marker(seen):
    at = seen.page.locator("#map .marker")
    return np.array([float(at.get_attribute(name)) for name in ("cx", "cy")])


def button_of(seen, state):
    """Return where the middle of a state's button is, within the map."""
    transform = seen.page.get_attribute(f'#map [data-state="{state}"]', "transform")
    return np.array([float(part) for part in transform.removeprefix("translate(").removesuffix(")").split()])


def test_it_loads_and_says_what_was_run(visit):
    seen = visit()
    assert seen.page.title() == "projects/run7 · cryomorph"
    assert seen.page.inner_text("#numbers").split()[:2] == ["particles", "400"]
    assert seen.page.get_attribute("#molecule", "data-engine") == "webgl"
    assert seen.picture().std(axis=(0, 1))[:3].max() > 5  # there is something on the canvas
    for chart in ("sequence", "explained", "shell-noise", "defocus", "deviation"):
        assert seen.page.locator(f"#{chart} svg path").count() > 0
    assert seen.page.locator("#halves").is_hidden()
    assert seen.page.locator("#examples").is_hidden()


def test_the_motion_plays_and_stops(visit):
    seen = visit()
    before, first = seen.picture(), seen.step()
    seen.page.click("#play")
    seen.page.wait_for_function("() => Number(document.getElementById('molecule').dataset.shown.split(' ')[1]) > 1")
    seen.page.click("#play")
    assert seen.step() > first
    after = seen.picture()
    assert np.abs(after.astype(int) - before).max() > 30
    stopped = seen.step()
    seen.page.wait_for_timeout(120)
    assert seen.step() == stopped


def test_scrubbing_moves_the_marker_along_the_motion(visit):
    seen = visit()
    seen.page.fill("#scrub", "8")
    end = marker(seen)
    seen.page.fill("#scrub", "0")
    start = marker(seen)
    seen.page.fill("#scrub", "4")
    np.testing.assert_allclose(marker(seen), (start + end) / 2, atol=0.6)
    assert end[0] - start[0] > 100
    assert end[1] == pytest.approx(start[1], abs=0.6)  # the first motion is along the horizontal axis alone
    assert seen.page.inner_text("#place") == "+0.0 Å"


def test_a_click_on_a_state_of_the_map_shows_it(visit):
    seen = visit()
    before = seen.picture()
    seen.page.click('#map [data-state="2"]')
    assert seen.shown() == "state 2"
    np.testing.assert_allclose(marker(seen), button_of(seen, 2), atol=0.2)
    seen.page.wait_for_timeout(700)
    of_state = seen.picture()
    assert np.abs(of_state.astype(int) - before).max() > 30
    # The state is where the motion ends, but for the particle's own noise: the molecule looks alike there.
    seen.page.fill("#scrub", "8")
    at_end = np.abs(seen.picture().astype(int) - of_state).mean()
    assert at_end < 0.4 * np.abs(of_state.astype(int) - before).mean()


def test_states_are_buttons_for_keys_and_other_clicks_show_the_nearest_step(visit):
    seen = visit()
    seen.page.focus('#map [data-state="1"]')
    seen.page.keyboard.press("Enter")
    assert seen.shown() == "state 1"
    seen.page.click('#states [data-state="2"]')
    assert seen.shown() == "state 2"
    assert seen.page.get_attribute('#states [data-state="2"]', "aria-pressed") == "true"
    seen.page.fill("#scrub", "4")
    middle = marker(seen)
    seen.page.fill("#scrub", "0")
    seen.page.locator("#map svg").click(position={"x": middle[0], "y": middle[1] + 12})
    assert seen.shown() == "pc1 4.00"


def test_another_motion_and_another_map(visit):
    seen = visit()
    seen.page.select_option("#motion-choice", "1")
    seen.page.fill("#scrub", "8")
    assert seen.shown() == "pc2 8.00"
    seen.page.select_option("#map-choice", "1")
    assert "z1" in seen.page.text_content("#map svg")


def test_dragging_and_keys_turn_the_molecule(visit):
    seen = visit()
    before = seen.picture()
    seen.page.locator("#molecule").scroll_into_view_if_needed()
    box = seen.page.locator("#molecule").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    seen.page.mouse.move(*middle)
    seen.page.mouse.down()
    seen.page.mouse.move(middle[0] + 90, middle[1] + 30)
    seen.page.mouse.up()
    turned = seen.picture()
    assert np.abs(turned.astype(int) - before).max() > 30
    seen.page.keyboard.press("0")
    np.testing.assert_array_equal(seen.picture(), before)
    seen.page.keyboard.press("+")
    assert np.abs(seen.picture().astype(int) - before).max() > 30


def test_colours_follow_the_system_and_the_button(visit):
    seen = visit(scheme="dark")

    def becomes(theme):
        seen.page.wait_for_selector(f"html[data-theme={theme}]")
        colour = seen.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        brightness = int(colour.split("(")[1].split(",")[0])
        assert brightness < 60 if theme == "dark" else brightness > 200
        assert abs(int(seen.picture()[0, 0, 0]) - brightness) < 20  # the canvas has followed

    becomes("dark")
    seen.page.emulate_media(color_scheme="light")
    becomes("light")
    seen.page.click("#theme")
    becomes("dark")
    seen.page.emulate_media(color_scheme="dark")
    seen.page.emulate_media(color_scheme="light")
    seen.picture()
    becomes("dark")  # who chose is not overruled


def test_nothing_sticks_out_sideways(visit):
    seen = visit(width=360, height=740)
    for width in (360, 768, 1600):
        seen.page.set_viewport_size({"width": width, "height": 740})
        seen.picture()  # waits until everything is drawn anew
        assert seen.page.evaluate("() => document.documentElement.scrollWidth") == width
        right = "all => Math.max(...all.map((one) => one.getBoundingClientRect().right))"
        assert seen.page.eval_on_selector_all(".chart svg", right) <= width


def test_without_webgl_the_trace_is_drawn(visit):
    none = """
        const get = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
            return kind === "webgl2" ? null : get.call(this, kind, ...rest);
        };"""
    seen = visit(before=none)
    assert seen.page.get_attribute("#molecule", "data-engine") == "canvas"
    before = seen.picture()
    assert before.std(axis=(0, 1))[:3].max() > 5
    seen.page.fill("#scrub", "8")
    assert np.abs(seen.picture().astype(int) - before).max() > 30


def test_charts_say_values_and_residues_show_in_the_molecule(visit):
    seen = visit()
    before = seen.picture()
    seen.page.focus("#sequence svg")
    seen.page.keyboard.press("PageDown")
    seen.page.keyboard.press("PageDown")
    text = seen.page.inner_text("#sequence .tip")
    assert text.splitlines()[0] == "A ALA 11, helix"
    assert f"RMSF: {0.5 + 3.5 * 10 / 39:.1f}" in text
    seen.page.locator("#sequence svg").hover()
    pink = seen.picture().astype(int)
    assert ((pink[..., 0] - pink[..., 1] > 60) & (pink[..., 2] - pink[..., 1] > 30)).any()
    seen.page.keyboard.press("Escape")
    assert seen.page.locator("#sequence .tip").is_hidden()
    np.testing.assert_array_equal(seen.picture(), before)


def test_halves_and_images_are_shown_where_there_are_any(visit, tmp_path):
    grey = png(np.full((8, 8), 128, np.uint8))
    shown = {"number": 7, "state": 1, "image": grey, "filtered": grey, "model": grey, "correlation": 0.61}
    path = tmp_path / "report.html"
    found = source(
        halves=agreement(HALVES, half_arrays(40)),
        examples={"resolution": 20.0, "field": 240.0, "particles": [shown]},
    )
    path.write_text(page(sections(found)))
    seen = visit(path)
    assert HALVES["verdict"] in seen.page.inner_text("#halves-verdict")
    assert seen.page.locator("#halves-residues svg path").count() > 2
    assert "2 ± 0.1 Å" in seen.page.inner_text("#halves-numbers")
    sizes = seen.page.eval_on_selector_all("#example-list img", "all => all.map(one => one.naturalWidth)")
    assert sizes == [8, 8, 8]
    assert "correlation 0.61" in seen.page.inner_text("#example-list")


def test_texts_of_files_are_texts(visit, tmp_path):
    nasty = source(names=(NASTY, "B"), missing=(f"no images: {NASTY}",))
    path = tmp_path / "report.html"
    path.write_text(page(sections(nasty)))
    seen = visit(path)
    assert seen.page.title() == "projects/run7 · cryomorph"
    assert NASTY in seen.page.inner_text("#remarks")
    assert seen.page.locator("img[src=x]").count() == 0


def test_the_policy_lets_nothing_else_run(visit):
    seen = visit()
    script = """() => new Promise((done) => {
        document.addEventListener("securitypolicyviolation", (event) => done(event.violatedDirective));
        const script = document.createElement("script");
        script.textContent = "document.title = 'owned'";
        document.body.append(script);
    })"""
    assert seen.page.evaluate(script).startswith("script-src")
    assert seen.page.title() != "owned"
    seen.complaints.clear()  # the browser reports what it forbade


def test_half_a_million_particles_of_a_large_molecule(visit, tmp_path):
    large = source(500_000, 2000, names=("A", "B", "C"))
    began = time.monotonic()
    text = page(sections(large))
    assert time.monotonic() - began < 20
    assert len(text) < 6_000_000
    path = tmp_path / "report.html"
    path.write_text(text)
    seen = visit(path, width=360)
    assert seen.page.evaluate("() => document.querySelectorAll('*').length") < 5000
    seen.page.fill("#scrub", "8")
    assert seen.page.inner_text("#place") == f"+{AMPLITUDE:.1f} Å"

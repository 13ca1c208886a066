"""The report in a browser: surfaces are drawn and turn, and nothing leaves the page."""

from __future__ import annotations

import base64
import shutil

import numpy as np
import pytest
from report_runs import checkpoint

from faml.report.page import render_page, write_report
from faml.report.run_data import load_run_data

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
_PIXELS = """async canvas => {
  // What has been asked to be drawn is drawn in the next frame.
  for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
  const {width, height} = canvas;
  const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  let text = "";
  for (const value of data) text += String.fromCharCode(value);
  return [width, height, btoa(text)];
}"""
_HOST = "http://127.0.0.1:9"
"""Nothing listens there: every answer is made by the test."""


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(_BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(finished_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    return write_report(finished_run, path, figures=False)


@pytest.fixture
def opened(browser):
    """Open a page; every test ends with neither errors nor requests elsewhere."""
    said, asked, contexts = [], [], []

    def open_page(address, *, scripts=True, script=None, **routes):
        context = browser.new_context(
            viewport={"width": 900, "height": 800}, java_script_enabled=scripts
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        if script is not None:
            page.add_init_script(script)
        for name, answer in routes.items():
            page.route(f"{_HOST}/{name}", answer)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert asked
    assert all(url.startswith(("file:", "data:", "blob:", f"{_HOST}/")) for url in asked)


def drawn(page, number=0):
    """Pixels (height, width, 4) of a class' surface, once it stands still."""
    canvas = page.locator(".viewer canvas").nth(number)
    before = None
    for _ in range(50):
        width, height, text = canvas.evaluate(_PIXELS)
        now = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)
        still = before is not None and np.array_equal(before, now)
        if still and now[..., 3].any():
            return now
        before = now
        page.wait_for_timeout(60)
    raise AssertionError("the surface does not appear, or never stands still")


def set_level(page, value, number=0):
    slider = page.locator(".viewer input[type=range]").nth(number)
    slider.evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }",
        str(value),
    )


def test_surfaces_are_drawn_and_follow_the_slider(opened, report):
    page = opened(report.as_uri())
    first = drawn(page)
    covered = first[..., 3] > 0
    assert 0.02 < covered.mean() < 0.95
    colours = first[covered][:, :3].astype(int)
    assert colours.std(axis=0).max() > 10  # shaded, not flat
    assert (colours[:, 2] > colours[:, 0]).mean() > 0.9  # class 1 is blue
    second = drawn(page, 1)[..., :3].astype(int)
    assert second[..., 0].sum() > second[..., 2].sum() > 0  # class 2 is orange
    text = page.locator(".viewer output").first.inner_text()
    assert "kDa of protein" in text
    set_level(page, 200)
    smaller = drawn(page)
    assert (smaller[..., 3] > 0).sum() < covered.sum()
    assert page.locator(".viewer output").first.inner_text() != text
    assert page.locator(".scale-bar").first.inner_text().endswith(" nm")


def test_turning_keys_and_reset(opened, report):
    page = opened(report.as_uri())
    first, other = drawn(page), drawn(page, 1)
    page.locator(".viewer canvas").first.scroll_into_view_if_needed()
    box = page.locator(".viewer canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 25, steps=3)
    page.mouse.up()
    turned = drawn(page)
    assert not np.array_equal(turned, first)
    assert not np.array_equal(drawn(page, 1), other)  # both turn together
    page.locator(".viewer button[data-action=reset]").first.click()
    np.testing.assert_array_equal(drawn(page), first)
    page.locator("#together").uncheck()
    page.locator(".viewer canvas").first.press("ArrowLeft")
    assert not np.array_equal(drawn(page), first)
    np.testing.assert_array_equal(drawn(page, 1), other)
    page.locator(".viewer canvas").first.press("+")
    larger = drawn(page)
    assert (larger[..., 3] > 0).sum() > (first[..., 3] > 0).sum()


def test_the_surface_of_a_ball_is_one(opened, report):
    """Closed, facing outwards, of the right volume and normals, off the centre."""
    page = opened(report.as_uri())
    found = page.evaluate("""() => {
      const n = 33, values = new Uint8Array(n * n * n);
      for (let i = 0; i < n * n * n; i++) {
        const x = i % n, y = Math.floor(i / n) % n, z = Math.floor(i / (n * n));
        values[i] = Math.max(0, 200 - 10 * Math.hypot(x - 14.3, y - 17.1, z - 18.6));
      }
      const s = extractSurface(values, n, 100.5);
      return [[...s.positions], [...s.normals], [...s.triangles]];
    }""")
    positions, normals = (np.array(part).reshape(-1, 3) for part in found[:2])
    triangles = np.array(found[2]).reshape(-1, 3)
    radial = positions + 33 / 2 - np.array([14.3, 17.1, 18.6])
    radii = np.linalg.norm(radial, axis=1)
    np.testing.assert_allclose(radii, 9.95, atol=0.15)
    assert ((normals * radial).sum(axis=1) / radii).min() > 0.97
    a, b, c = (positions[triangles[:, i]] for i in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6.0
    assert volume == pytest.approx(4.0 / 3.0 * np.pi * 9.95**3, rel=0.03)
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    backwards = {(j, i) for i, j in edges.tolist()}
    assert {(i, j) for i, j in edges.tolist()} == backwards  # every edge has two faces


def test_without_scripts_slices_and_a_sentence_are_left(opened, report):
    page = opened(report.as_uri(), scripts=False)
    assert not page.locator(".viewer canvas").first.is_visible()
    assert page.get_by_text("This browser draws no 3-D").first.is_visible()
    assert page.locator("figure svg").first.is_visible()


def test_without_webgl_slices_and_a_sentence_are_left(opened, report):
    page = opened(
        report.as_uri(),
        script="""const real = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
          return kind === "webgl2" ? null : real.call(this, kind, ...rest);
        };""",
    )
    assert page.get_by_text("This browser draws no 3-D").first.is_visible()
    assert not page.locator(".viewer canvas").first.is_visible()


def test_a_phone_scrolls_in_one_direction_only(opened, report):
    page = opened(report.as_uri())
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_hostile_names_run_nothing(opened, tmp_path):
    path = write_report(checkpoint(tmp_path / "run", classes=1, count=4), figures=False)
    page = opened(path.as_uri(), script="window.alert = () => { throw new Error('alert'); };")
    assert page.locator("script").count() == 2


def test_a_live_page_reloads_once_for_a_new_iteration(opened, tmp_path):
    directory = checkpoint(tmp_path / "run", classes=1, count=4, iterations=1)
    now = load_run_data(directory)
    pages = [render_page(now, refresh_seconds=0.1)]
    state = {"version": now.version, "loads": 0}

    def show(route):
        state["loads"] += 1
        route.fulfill(body=pages[-1], content_type="text/html")

    def version(route):
        route.fulfill(body=state["version"] + "\n", content_type="text/plain")

    page = opened(f"{_HOST}/run", run=show, version=version)
    drawn(page)
    set_level(page, 190)
    page.wait_for_timeout(500)
    assert state["loads"] == 1
    checkpoint(tmp_path / "more", classes=1, count=4, iterations=2)
    later = load_run_data(tmp_path / "more")
    # The same run: what the reader has set is kept under its name.
    pages.append(render_page(later, refresh_seconds=0.1).replace(
        str(tmp_path / "more"), str(directory)
    ))  # fmt: skip
    state["version"] = later.version
    page.locator(".kicker", has_text="iteration 2").wait_for()
    drawn(page)
    assert page.locator(".viewer input[type=range]").first.input_value() == "190"
    page.wait_for_timeout(500)
    assert state["loads"] == 2
    # A server whose word is never the page's own does not make it reload for ever.
    state["version"] = "something else"
    page.wait_for_timeout(1500)
    assert state["loads"] == 3

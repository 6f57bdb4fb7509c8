"""The report in a real browser, opened as files: search, figures, both themes, a phone, and no request to anywhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from report_sample import load_sample, make_store

from landform.lab.report import pages as pages_module
from landform.lab.report import write_report
from landform.lab.store import Store

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (as chromium or google-chrome)")

PHONE = {"width": 375, "height": 812}
DESK = {"width": 1280, "height": 900}
PAGES = ("index.html", "studies/gradsign.html", "studies/ldr-losses.html", "studies/fedka.html")

# The contrast of every piece of text with what is painted behind it (WCAG 2: relative luminances), least first.
CONTRASTS = """() => {
  const rgba = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const over = (top, below) => ({
    r: top.a * top.r + (1 - top.a) * below.r,
    g: top.a * top.g + (1 - top.a) * below.g,
    b: top.a * top.b + (1 - top.a) * below.b,
    a: 1,
  });
  const luminance = ({ r, g, b }) => {
    const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), { r: 255, g: 255, b: 255, a: 1 });
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || ["SCRIPT", "STYLE"].includes(element.tagName) || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const back = behind(element);
    const front = over(rgba(element instanceof SVGElement ? style.fill : style.color), back);
    const [low, high] = [luminance(front), luminance(back)].sort((a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), text.slice(0, 40)]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch, Store(make_store(folder / "results.sqlite")) as store:
        patch.setattr(pages_module, "load_study", load_sample)
        return write_report(store, folder / "a report").parent


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--headless", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield opened
        opened.close()


Visit = Callable[..., Any]


@pytest.fixture
def visit(browser: Any, site: Path) -> Iterator[Visit]:
    """Opens a page of the site; afterwards nothing may have been asked of anything but files, nor gone wrong."""
    contexts, requests, complaints = [], [], []

    def open_page(name: str, *, scheme: str = "light", viewport: dict[str, int] = DESK, scripts: bool = True) -> Any:
        context = browser.new_context(color_scheme=scheme, viewport=viewport, java_script_enabled=scripts)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((site / name).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert requests
    assert [url for url in requests if not url.startswith("file:")] == []
    assert complaints == []


def rows(page: Any) -> list[str]:
    return page.locator("li.paper:visible h3").all_inner_texts()


def test_search_narrows_the_list_at_once(visit: Visit) -> None:
    page = visit("index.html")
    assert len(rows(page)) == 62
    search = page.get_by_role("searchbox", name="Search")
    search.fill("GradSign")
    assert rows(page) == ["GradSign: Model Performance Inference with Theoretical Insights"]
    assert page.get_by_role("status").inner_text() == "1 shown"
    search.fill("federated")  # an area
    assert 1 < len(rows(page)) < 62
    search.fill("grokking delay")  # words of a claim, in whatever order
    assert rows(page) == ["Grokking as the Transition from Lazy to Rich Training Dynamics"]
    search.fill("2110.08616")
    assert len(rows(page)) == 1
    search.fill("no such words")
    assert rows(page) == []
    assert page.locator("section.area:visible").count() == 0
    page.get_by_role("button", name="Show all").click()
    assert len(rows(page)) == 62


def test_filters_by_area_and_verdict_combine(visit: Visit) -> None:
    page = visit("index.html")
    page.get_by_role("button", name="supported").first.click()
    assert len(rows(page)) == 2
    page.get_by_role("button", name="contradicted").click()
    assert len(rows(page)) == 3
    page.get_by_label("Area").select_option("losses")
    assert [text.split(":")[0].split(" Losses")[0] for text in rows(page)] == ["Label Distributionally Robust"]
    page.get_by_label("Area").select_option("")
    page.get_by_role("searchbox").fill("federated")
    assert len(rows(page)) == 1


def test_the_keyboard_reaches_search_results_and_pages(visit: Visit) -> None:
    page = visit("index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.get_by_role("searchbox").focus()
    page.keyboard.type("gradsign")
    page.keyboard.press("Enter")  # must not reload the page
    assert len(rows(page)) == 1
    page.get_by_role("link", name="GradSign").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/studies/gradsign.html")
    assert page.get_by_role("heading", level=1).inner_text().startswith("GradSign")
    page.get_by_role("link", name="All papers").click()
    page.wait_for_url("**/index.html")


def test_without_scripts_everything_is_listed_and_nothing_dead_is_offered(visit: Visit) -> None:
    page = visit("index.html", scripts=False)
    assert len(rows(page)) == 62
    assert not page.get_by_role("searchbox").is_visible()
    assert page.locator("button:enabled:visible").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_are_drawn_in_the_pages_own_theme(visit: Visit, scheme: str) -> None:
    page = visit("studies/gradsign.html", scheme=scheme)
    page.locator("details.run").evaluate_all("all => all.forEach((one) => (one.open = true))")
    images = page.locator("figure img")
    assert images.count() == 4
    page.wait_for_function("[...document.images].every((image) => image.complete)")
    for image in images.all():
        assert image.evaluate("image => image.naturalWidth") > 0
        assert image.evaluate("image => image.currentSrc").endswith(f"-{scheme}.svg")
        assert image.bounding_box()["width"] > 600


def test_what_the_store_says_stays_text(visit: Visit) -> None:
    page = visit("studies/gradsign.html")
    assert page.title().startswith("GradSign")
    assert page.get_by_text("<script>document.title").first.is_visible()
    page = visit("studies/ldr-losses.html")
    page.get_by_text("seed 2, noise = 0.4").click()
    assert page.get_by_text("RuntimeError: loss is not finite <script>").last.is_visible()


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_scrolls_down_only(visit: Visit, name: str) -> None:
    page = visit(name, viewport=PHONE)
    page.locator("details").evaluate_all("all => all.forEach((one) => (one.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate("scrollTo(500, 0)")
    assert page.evaluate("scrollX") == 0
    # What is wider scrolls within itself, and can be reached by keyboard.
    inner = page.locator(".scroll, pre")
    wide = [box for box in inner.all() if box.is_visible() and box.evaluate("e => e.scrollWidth > e.clientWidth")]
    assert all(box.evaluate("e => e.tabIndex") == 0 for box in wide)
    assert wide or name == "index.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_every_text_has_contrast_in_both_themes(visit: Visit, name: str, scheme: str) -> None:
    page = visit(name, scheme=scheme)
    page.locator("details").evaluate_all("all => all.forEach((one) => (one.open = true))")
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert max(red, green, blue) < 40 if scheme == "dark" else min(red, green, blue) > 230
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 50
    assert contrasts[0][0] >= 4.5, contrasts[:5]


def test_figures_backgrounds_are_those_of_their_cards(visit: Visit, site: Path) -> None:
    for scheme in ("light", "dark"):
        page = visit("studies/gradsign.html", scheme=scheme)
        card = page.locator("figure .scroll").first.evaluate("e => getComputedStyle(e).backgroundColor")
        red, green, blue = (int(part) for part in card.removeprefix("rgb(").removesuffix(")").split(","))
        svg = next((site / "figures").glob(f"gradsign-*-{scheme}.svg")).read_text(encoding="utf-8")
        assert f"#{red:02x}{green:02x}{blue:02x}" in svg


def test_printing_gives_a_light_page_without_controls(visit: Visit) -> None:
    page = visit("index.html", scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.get_by_role("searchbox").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(CONTRASTS)[0][0] >= 4.5

"""The report in a real browser, at the width of a phone and of a desk; `make
test-browser` runs it.

Looks at a report of results written by hand and, where there are some, at
results/report.html. Screenshots and a print go to .cache/report/. Skipped where no
Chromium is installed.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments import report
from tests.experiments.report_results import write_all

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)

ROOT = Path(__file__).parents[2]
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
)
WIDTHS = (390, 1280)
# What sticks out to the right, unless a box that scrolls holds it.
OVERFLOWING = """
() => {
  const width = document.documentElement.clientWidth;
  const out = [...document.querySelectorAll('body *')].filter(element =>
    element.getBoundingClientRect().right > width + 1 && !element.closest('.scroll'));
  return out.map(element => `${element.tagName} ${element.textContent.slice(0, 80)}`);
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    # Chromium has no sandbox for it.
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(
            executable_path=found, args=["--no-sandbox"] if root else []
        )
        yield running
        running.close()


@pytest.fixture(scope="module", params=["written by hand", "results"])
def file(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if request.param == "results":
        if not (ROOT / "results" / "report.html").exists():
            pytest.skip(
                "results/report.html does not exist: python -m experiments report"
            )
        return ROOT / "results" / "report.html"
    out = write_all(tmp_path_factory.mktemp("browser") / "results")
    report.main(out)
    return out / "report.html"


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser, file: Path) -> Iterator[object]:
    """The report at a width, with what went wrong while it was opened as
    `page.errors`."""
    phone = request.param < 500
    context = browser.new_context(
        viewport={"width": request.param, "height": 844}, is_mobile=phone
    )
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(f"error: {error}"))
    page.on(
        "console", lambda message: page.errors.append(f"{message.type}: {message.text}")
    )
    page.on(
        "requestfailed",
        lambda asked: page.errors.append(f"not loaded: {asked.url[:100]}"),
    )
    page.requests = []
    page.on("request", lambda asked: page.requests.append(asked.url))
    page.goto(file.as_uri())
    yield page
    context.close()


def test_no_errors_and_no_requests(page, file: Path) -> None:
    assert page.errors == []
    assert [url[:100] for url in page.requests if not url.startswith("data:")] == [
        file.as_uri()
    ]


def test_every_image_is_shown(page) -> None:
    images = page.evaluate(
        "[...document.images].map(i => [i.complete, i.naturalWidth, i.clientWidth,"
        " i.alt])"
    )
    assert images
    for complete, natural, shown, alt in images:
        assert complete, alt
        assert natural > 0, alt
        assert shown > 100, alt
    assert page.errors == []


def test_nothing_sticks_out(page) -> None:
    width, inner = page.evaluate(
        "[document.documentElement.scrollWidth, window.innerWidth]"
    )
    assert inner == page.viewport_size["width"]
    assert width <= inner
    assert page.evaluate(OVERFLOWING) == []


def test_every_link_leads_to_its_section(page) -> None:
    for link in page.query_selector_all("a"):
        link.click()
        assert page.evaluate("document.querySelector(':target') !== null"), (
            link.text_content()
        )


def test_pictures_of_it(page, file: Path) -> None:
    """Kept for a person to look at."""
    folder = ROOT / ".cache" / "report"
    folder.mkdir(parents=True, exist_ok=True)
    name = "results" if file.is_relative_to(ROOT) else "by-hand"
    picture = folder / f"{name}-{page.viewport_size['width']}.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 10_000
    if page.viewport_size["width"] > 500:
        # On paper nothing can be scrolled: no table and no figure may be wider than the
        # sheet.
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 680, "height": 960})  # A4 without its margins
        page.wait_for_timeout(100)
        wide = page.evaluate(
            "[...document.querySelectorAll('table, img')].map(e =>"
            " e.getBoundingClientRect().right)"
        )
        assert max(wide) <= 681
        page.pdf(path=folder / f"{name}.pdf", format="A4")

"""The report as a browser shows it: no error, every figure, on a phone, in the dark, sorted."""

import shutil

import pytest

from secateurs.report import write

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        open_report = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield open_report
        open_report.close()


@pytest.fixture
def open_report(browser, make_history, tmp_path):
    """Opens the report of a study with these settings of the browser; no message is let pass."""
    path = write(make_history(5), tmp_path)
    messages = []

    def open_page(**settings):
        page = browser.new_page(**settings)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield open_page
    assert messages == []


def test_every_figure_is_drawn_and_a_phone_need_not_scroll_sideways(open_report):
    page = open_report(viewport={"width": 390, "height": 844})
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) == 4
    assert min(widths) > 100
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize(("scheme", "lighter"), [("light", "page"), ("dark", "ink")])
def test_ink_stands_out_in_the_light_and_in_the_dark(open_report, scheme, lighter):
    page = open_report(color_scheme=scheme)
    style = "getComputedStyle(document.body)"
    found = {
        "page": page.evaluate(f"{style}.backgroundColor"),
        "ink": page.evaluate(f"{style}.color"),
    }
    light = {name: _luminance(colour) for name, colour in found.items()}
    assert max(light, key=light.get) == lighter
    contrast = (max(light.values()) + 0.05) / (min(light.values()) + 0.05)
    assert contrast > 7  # WCAG's AAA


def _luminance(colour):
    """WCAG's relative luminance of ``rgb(r, g, b)``."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_click_on_a_column_sorts_its_numbers_and_another_turns_them_round(open_report):
    page = open_report()

    def params():
        texts = page.evaluate(
            "[...document.querySelectorAll('.rounds tbody tr')].map(r => r.cells[2].textContent)"
        )
        return [int(text.replace(",", "")) for text in texts]

    before = params()
    assert before == sorted(before, reverse=True)
    assert len(before) == 6
    page.click(".rounds thead th:nth-child(3)")
    assert params() == sorted(before)
    page.click(".rounds thead th:nth-child(3)")
    assert params() == before
    page.focus(".rounds thead th:nth-child(1)")
    page.keyboard.press("Enter")
    assert params() == before  # by round

"""A report in a real browser: everything is drawn, nothing is complained of or loaded, and what one touches answers."""

import shutil

import pytest

from batchcube.figures.report.page import write_report
from batchcube.figures.report.sections import Subject
from helpers.reports import ROWS, subjects

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
    # Of the driver's own loop, which a garbage collection may come upon.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return a page on every kind of file."""
    given = [Subject(dataset, f"{kind}.nc") for kind, dataset in subjects().items()]
    return write_report(given, tmp_path_factory.mktemp("report") / "report.html", comparison=ROWS)


@pytest.fixture
def opened(browser, report):
    """Return a function that opens the report so wide; what the browser complained of is in `page.complaints`."""
    pages = []

    def open_page(width):
        page = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.complaints.append(request.url) if _leaves(request.url) else None)
        page.goto(report.as_uri())
        page.wait_for_selector("body[data-drawn=yes]", timeout=120_000)
        return page

    yield open_page
    for page in pages:
        page.close()


def _leaves(url):
    return not url.startswith(("file:", "data:", "blob:"))


# Words of charts that stand out of them.
_CUT_OFF = """[...document.querySelectorAll('.plot svg')].flatMap((svg) => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter((text) => {
    const found = text.getBoundingClientRect();
    return found.width && (found.left < box.left - 1 || found.right > box.right + 1);
  }).map((text) => text.textContent);
})"""


def marks(chart):
    """Return what a chart shows, as text."""
    return chart.locator("svg.marks").inner_html()


def section(page, name):
    return page.locator(f'section[data-file="{name}.nc"]')


def chart(page, name, title):
    return section(page, name).locator(".chart").filter(has=page.locator("h3", has_text=title))


@pytest.mark.parametrize("width", [1100, 390])
def test_all_charts_are_drawn_without_a_complaint_and_fit_the_page(opened, width):
    page = opened(width)
    count = page.evaluate("window.charts.length")
    assert count > 15
    assert page.locator(".plot svg.marks").count() == count
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(_CUT_OFF) == []
    assert page.complaints == []


def test_picking_a_point_changes_the_charts_that_are_linked(opened):
    page = opened(1100)
    scatter, over_time = chart(page, "sweep", "One against another"), chart(page, "sweep", "Over time")
    before = marks(scatter), marks(over_time)
    section(page, "sweep").locator("details.table > summary").click()
    section(page, "sweep").locator("tr[data-point='0']").click()
    page.wait_for_function("window.charts.every((chart) => chart.view)")
    page.evaluate("Promise.all(window.charts.map((chart) => chart.queue))")
    after = marks(scatter), marks(over_time)
    assert after[0] != before[0]
    assert after[1] != before[1]
    assert page.complaints == []


def test_clicking_a_marker_picks_it(opened):
    page = opened(1100)
    picked = page.evaluate("document.querySelectorAll('section[data-file=\"sweep.nc\"] tr.picked').length")
    markers = chart(page, "sweep", "Along an axis").locator("svg .mark-symbol.role-mark").last.locator("path")
    markers.first.click(force=True)
    page.wait_for_function(
        f"document.querySelectorAll('section[data-file=\"sweep.nc\"] tr.picked').length !== {picked}", timeout=10_000
    )


@pytest.mark.parametrize(
    ("control", "act"),
    [
        ("quantity", lambda one: one.select_option("latency_mean_s")),
        ("lines", lambda one: one.select_option(index=1)),
        ("servers", lambda one: one.select_option(index=1 - int(one.input_value()))),
        ("log up", lambda one: one.check()),
        ("log across", lambda one: one.check()),
    ],
)
def test_every_control_changes_its_chart(opened, control, act):
    page = opened(1100)
    lines = chart(page, "sweep", "Along an axis")
    before = marks(lines)
    act(lines.locator(f'[data-control="{control}"]'))
    page.evaluate("Promise.all(window.charts.map((chart) => chart.queue))")
    assert marks(lines) != before
    assert page.complaints == []


def test_an_axis_of_many_values_has_a_slider(opened):
    page = opened(1100)
    lines = chart(page, "sweep", "Along an axis")
    lines.locator('[data-control="across"]').select_option(label="bins")
    lines.locator('[data-control="lines"]').select_option(label="none")
    page.evaluate("Promise.all(window.charts.map((chart) => chart.queue))")
    # Four rates have a choice, five would have a slider.
    assert lines.locator('select[data-control="arrival_rate_per_s"]').count() == 1
    before = marks(lines)
    lines.locator('[data-control="arrival_rate_per_s"]').select_option(index=0)
    page.evaluate("Promise.all(window.charts.map((chart) => chart.queue))")
    assert marks(lines) != before


def test_on_paper_what_differs_is_told_whole(opened):
    page = opened(1100)
    row = page.locator("#fig4-dynamic-6\\.4")
    assert not row.evaluate("row => row.open")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert row.evaluate("row => row.open")
    assert not page.locator("#fig4-static").evaluate("row => row.open")
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert not row.evaluate("row => row.open")
    assert len(page.pdf(format="A4")) > 10_000

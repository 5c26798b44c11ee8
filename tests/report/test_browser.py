"""The report in a real browser."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.browser import (
    DESKTOP,
    PHONE,
    REDUCED,
    chromium,
    draw_all,
    opened,
    started,
    write_report,
)
from telescope_pipeline.report.numbers import format_estimate

pytest.importorskip("playwright", reason="needs the extra `browser`")


if chromium() is None:
    pytest.skip("needs a Chromium, e.g. Debian's package chromium", allow_module_level=True)

_Opener = Callable[..., Any]
# The cases and the table of claims.
_UNFOLD = (
    "document.querySelectorAll('.case > details, #all-claims').forEach((d) => { d.open = true; })"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started(chromium()) as browser:
        yield browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(tmp_path_factory.mktemp("report")).as_uri()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[_Opener]:
    """Opens the report, with what is folded unfolded."""
    pages: list[Any] = []

    def open_it(size: tuple[int, int] = DESKTOP, folded: bool = False, **options: Any) -> Any:
        pages.append(opened(browser, address, size, **options))
        if not folded:
            pages[-1].evaluate(_UNFOLD)
        return pages[-1]

    yield open_it
    for page in pages:
        page.context.close()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_is_silent_and_asks_nobody(browser: Any, address: str, size: tuple[int, int]) -> None:
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url[:60]))
    page.goto(address)
    page.evaluate(_UNFOLD)
    draw_all(page)
    page.get_by_role("button", name="Numbers").first.click()
    page.wait_for_load_state("networkidle")
    context.close()

    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [address[:60]]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_serious_stands_in_the_way_of_anyone(
    open_page: _Opener, size: tuple[int, int]
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    # The checker runs as a script, which the page's own policy would not let in.
    page = open_page(size, color_scheme="light", bypass_csp=True)
    draw_all(page)
    one_case = (
        "document.querySelectorAll('#claims details, #glossary details, "
        "#case-double_descent_mnist details')"
    )
    page.evaluate(f"{one_case}.forEach((d) => {{ d.open = true; }})")
    page.get_by_role("button", name="Numbers").first.click()
    page.get_by_role("button", name="Picture").first.click()
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    for scheme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page, options=options | rules).response["violations"]
        serious = [
            (scheme, rule["id"], [node["target"] for node in rule["nodes"]][:3])
            for rule in found
            if rule["impact"] in ("serious", "critical")
        ]
        assert serious == []


def _visible(page: Any, attribute: str) -> list[str]:
    rows = page.locator("table.claims tbody tr:visible").all()
    return [row.get_attribute(f"data-{attribute}") for row in rows]


def test_claims_are_sorted_by_mouse_and_keyboard(open_page: _Opener) -> None:
    page = open_page()
    before = _visible(page, "statement")
    by_claim = page.locator("table.claims th button", has_text="Claim")
    header = page.locator("table.claims th:has(button[data-key='statement'])")
    assert header.get_attribute("aria-sort") is None

    by_claim.click()
    ascending = _visible(page, "statement")
    assert header.get_attribute("aria-sort") == "ascending"
    assert ascending == sorted(before, key=str.lower) != before

    by_claim.focus()
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    statements = _visible(page, "statement")
    assert statements == sorted(before, key=str.lower, reverse=True)

    page.locator("table.claims th button", has_text="Verdict").focus()
    page.keyboard.press("Space")
    assert header.get_attribute("aria-sort") is None
    verdicts = _visible(page, "verdict")
    assert verdicts == sorted(verdicts)
    assert page.locator("[aria-sort]").count() == 1


def test_claims_are_filtered_by_words_verdict_and_case(open_page: _Opener) -> None:
    page = open_page()
    everything = _visible(page, "verdict")
    assert page.locator("#claims-count").text_content() == f"All {len(everything)} claims"

    page.get_by_label("Verdict", exact=True).select_option("fails")
    assert _visible(page, "verdict") == ["fails"] * everything.count("fails")
    page.get_by_label("Case", exact=True).select_option("boosting_tables")
    assert set(_visible(page, "name")) == {"boosting_tables"}
    page.get_by_label("Search").fill("error TREES")
    shown = page.locator("table.claims tbody tr:visible")
    assert 0 < shown.count() < everything.count("fails")
    assert all("error" in text and "trees" in text for text in shown.all_text_contents())
    page.get_by_label("Search").fill("no such words")
    assert shown.count() == 0
    assert page.locator("#claims-count").text_content().startswith("None of")

    page.get_by_role("button", name="Clear").click()
    assert shown.count() == len(everything)


def test_a_phone_can_sort_too(open_page: _Opener) -> None:
    page = open_page(PHONE)
    page.get_by_label("Sort by").select_option("statement")
    statements = _visible(page, "statement")
    assert statements == sorted(statements, key=str.lower)


_WIDTHS = "#figure-double_descent_mnist-errors-and-effective-parameters"


def _table(figure: str) -> list[dict[str, str]]:
    case, name = figure.removeprefix("#figure-").split("-", 1)
    with (REDUCED / "results" / case / "plots" / f"{name}.csv").open() as stream:
        return list(csv.DictReader(stream))


def _drawn(page: Any, figure: str) -> Any:
    node = page.locator(figure)
    node.scroll_into_view_if_needed()
    page.wait_for_selector(f"{figure}[data-drawn]")
    node.locator("canvas").evaluate("(canvas) => canvas.scrollIntoView({block: 'center'})")
    return node


def _point_at(page: Any, figure: Any, part: float, panel: int = 0) -> list[str]:
    """Move the mouse to a part of a panel's width; the lines of the tooltip."""
    box = figure.locator("canvas").bounding_box()
    spec = json.loads(figure.locator(".chart-data").text_content())
    page.mouse.move(
        box["x"] + 70 + part * (box["width"] - 90),
        box["y"] + (panel + 0.5) * box["height"] / len(spec["concat"]),
    )
    tooltip = figure.locator(".tooltip")
    tooltip.wait_for(state="visible")
    return [" ".join(text.split()) for text in tooltip.locator("span").all_text_contents()]


def test_hovering_names_the_numbers_of_the_table(open_page: _Opener) -> None:
    page = open_page()
    figure = _drawn(page, _WIDTHS)
    rows = {f"{float(row['width']):.4g}": row for row in _table(_WIDTHS)}
    seen = set()
    for part in (0.0, 0.3, 0.55, 0.8, 1.0):
        for panel, quantity in ((0, "mse"), (1, "effective_parameters")):
            heading, *lines = _point_at(page, figure, part, panel)
            width = heading.removeprefix("width of the hidden layer ")
            seen.add(width)
            for name, line in zip(("train", "test"), lines, strict=True):
                words, _, numbers = line.partition(" points ")
                assert words == name
                value, _, error = numbers.replace("−", "-").partition(" ± ")
                row = rows[width]
                assert float(value) == pytest.approx(float(row[f"{name}_{quantity}"]), rel=1e-3)
                expected = float(row[f"{name}_{quantity}_stderr"])
                assert float(error or 0) == pytest.approx(expected, rel=0.06)
    assert {next(iter(rows)), list(rows)[-1]} <= seen
    assert len(seen) >= 4


def _drawing(figure: Any) -> str:
    figure.page.mouse.move(2, 2)
    figure.page.wait_for_timeout(200)
    drawing: str = figure.locator("canvas").evaluate("(canvas) => canvas.toDataURL()")
    return drawing


def test_dragging_moves_the_axis_and_a_double_click_resets_it(open_page: _Opener) -> None:
    page = open_page()
    figure = _drawn(page, _WIDTHS)
    whole = _drawing(figure)
    box = figure.locator("canvas").bounding_box()
    middle, height = box["x"] + box["width"] / 2, box["y"] + box["height"] / 4
    page.mouse.move(middle, height)
    page.mouse.down()
    page.mouse.move(middle - 80, height, steps=6)
    page.mouse.up()
    moved = _drawing(figure)
    assert moved != whole
    # The wheel alone is for the page.
    page.mouse.move(middle, height)
    page.mouse.wheel(0, 10)
    assert _drawing(figure) == moved
    page.mouse.dblclick(middle, box["y"] + box["height"] / 4)
    assert _drawing(figure) == whole


def test_charts_are_read_with_the_keyboard(open_page: _Opener) -> None:
    page = open_page()
    figure = _drawn(page, _WIDTHS)
    before = _drawing(figure)
    figure.locator(".chart").focus()
    said = figure.locator("[aria-live]")
    rows = _table(_WIDTHS)

    def value(row: dict[str, str], name: str) -> str:
        return format_estimate(*(float(row[f"{name}{suffix}"]) for suffix in ("", "_stderr")))

    for row in rows[:2]:
        page.keyboard.press("ArrowRight")
        text = said.text_content()
        assert text.startswith(f"width of the hidden layer {row['width']} (mean squared error")
        assert f"train points {value(row, 'train_mse')};" in text
    page.keyboard.press("ArrowDown")
    text = said.text_content()
    assert text.startswith(f"effective parameters. width of the hidden layer {rows[1]['width']}:")
    assert f"train points {value(rows[1], 'train_effective_parameters')};" in text
    assert _drawing(figure) != before


def test_the_legend_picks_lines_by_mouse_and_keyboard(open_page: _Opener) -> None:
    page = open_page()
    figure = _drawn(page, _WIDTHS)
    both = _drawing(figure)
    train = figure.get_by_role("button", name="train points")
    train.click()
    assert train.get_attribute("aria-pressed") == "true"
    alone = _drawing(figure)
    assert alone != both
    train.press("Enter")
    assert _drawing(figure) == both
    train.press("Space")
    assert _drawing(figure) == alone


def test_an_axis_becomes_logarithmic_and_linear_again(open_page: _Opener) -> None:
    page = open_page()
    figure = _drawn(page, _WIDTHS)
    linear = _drawing(figure)
    switch = figure.get_by_role("button", name="Log axis")
    switch.press("Enter")
    page.wait_for_timeout(500)
    assert switch.get_attribute("aria-pressed") == "true"
    assert _drawing(figure) != linear
    switch.click()
    page.wait_for_timeout(500)
    assert _drawing(figure) == linear


def test_ten_cases_are_eight_screens_of_a_phone_and_no_label_is_cut(
    browser: Any, tmp_path: Path
) -> None:
    page = opened(browser, write_report(tmp_path, repeated=5).as_uri(), (390, 844))
    cards = page.locator(".key")
    assert cards.count() == 10
    for card in cards.all():
        card.scroll_into_view_if_needed()
        card.locator("canvas").wait_for()
        inside, canvas = card.bounding_box(), card.locator("canvas").bounding_box()
        assert inside["x"] <= canvas["x"]
        assert canvas["x"] + canvas["width"] <= 390
        # Vega pads what it draws: where something were cut, ink would touch the edge.
        assert card.locator("canvas").evaluate(_INK_AT_THE_EDGE) == 0
    height = page.evaluate("document.documentElement.scrollHeight")
    page.context.close()
    assert height <= 8000


_INK_AT_THE_EDGE = """(canvas) => {
  const {width, height} = canvas, context = canvas.getContext("2d");
  const paper = context.getImageData(1, 1, 1, 1).data.join();
  const ends = [[0, height - 1, width, 1], [width - 1, 0, 1, height]];
  const sides = [[0, 0, width, 1], [0, 0, 1, height], ...ends];
  return sides.filter((side) => {
    const {data} = context.getImageData(...side);
    const pixels = [...Array(data.length / 4).keys()].map((n) => data.slice(4 * n, 4 * n + 4));
    return pixels.some((pixel) => pixel.join() !== paper);
  }).length;
}"""


def test_links_unfold_what_they_lead_to(open_page: _Opener) -> None:
    page = open_page(folded=True)
    page.get_by_role("link", name="Details of Double descent MNIST").click()
    case = page.locator("#case-double_descent_mnist")
    case.locator(".brief a").first.wait_for(state="visible")
    case.locator(".brief a").first.click()
    page.locator("table.claims tr:target").wait_for(state="visible")


def test_a_figure_is_also_a_picture_and_a_table(open_page: _Opener) -> None:
    page = open_page()
    figure = _drawn(page, _WIDTHS)
    assert not figure.locator("img").is_visible()
    figure.get_by_role("button", name="Picture").click()
    assert figure.locator("img").is_visible()
    assert not figure.locator(".chart").is_visible()
    figure.get_by_role("button", name="Numbers").click()
    tables = figure.locator(".chart-table table")
    assert tables.first.locator("caption").text_content() == "mean squared error"
    rows = _table(_WIDTHS)
    assert tables.count() == 2
    assert tables.first.locator("tbody tr").count() == len(rows)
    last = tables.nth(1).locator("tbody tr").last.locator("td").first.text_content()
    value, stderr = (float(rows[-1][f"train_effective_parameters{s}"]) for s in ("", "_stderr"))
    assert last == format_estimate(value, stderr)


def test_charts_follow_the_colour_scheme(open_page: _Opener) -> None:
    page = open_page(color_scheme="light")
    figure = _drawn(page, _WIDTHS)
    canvas = figure.locator("canvas").first
    light = canvas.evaluate("(canvas) => canvas.toDataURL()")
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(200)
    assert canvas.evaluate("(canvas) => canvas.toDataURL()") != light


def test_charts_are_drawn_when_they_come_into_view(open_page: _Opener) -> None:
    page = open_page()
    page.wait_for_timeout(200)
    assert page.locator("figure[data-drawn]").count() < 3
    draw_all(page)
    assert page.locator("figure canvas").count() == page.locator("figure").count()


def test_the_page_is_never_wider_than_the_screen(open_page: _Opener) -> None:
    page = open_page()
    draw_all(page)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    for view in (1, 2, 3):
        choose = f".views button:nth-child({view})"
        page.evaluate(f"document.querySelectorAll('{choose}').forEach((b) => b.click())")
        for width in (360, 768, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (view, width)


def test_it_works_without_scripts_and_on_paper(open_page: _Opener) -> None:
    page = open_page(java_script_enabled=False, folded=True)
    for summary in page.locator(".case > details > summary, #all-claims > summary").all():
        summary.click()
    pictures = page.locator(".key img, figure img")
    assert pictures.count() == 6
    assert all(picture.is_visible() for picture in pictures.all())
    assert not page.locator(".chart").first.is_visible()
    assert not page.get_by_label("Search").is_visible()
    assert page.locator("table.claims tbody tr:visible").count() == 8
    details = page.locator("details.panel:has(summary:text-is('Parameters'))").first
    details.locator("summary").first.click()
    assert details.locator("table").first.is_visible()

    scripted = open_page()
    scripted.emulate_media(media="print")
    assert all(picture.is_visible() for picture in scripted.locator("img").all())
    assert not scripted.locator(".chart").first.is_visible()

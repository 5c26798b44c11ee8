"""The report in a real browser."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
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
from telescope_pipeline.report.numbers import format_estimate, format_number

pytest.importorskip("playwright", reason="needs the extra `browser`")


if chromium() is None:
    pytest.skip("needs a Chromium, e.g. Debian's package chromium", allow_module_level=True)

_Opener = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started(chromium()) as browser:
        yield browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(tmp_path_factory.mktemp("report")).as_uri()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[_Opener]:
    """Opens the report."""
    pages: list[Any] = []

    def open_it(size: tuple[int, int] = DESKTOP, **options: Any) -> Any:
        pages.append(opened(browser, address, size, **options))
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
    one_case = "document.querySelectorAll('#claims details, #case-double_descent_mnist details')"
    page.evaluate(f"{one_case}.forEach((d) => {{ d.open = true; }})")
    page.get_by_role("button", name="Numbers").first.click()
    page.get_by_role("button", name="Picture").nth(1).click()
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
    return node


def _point_at(page: Any, panel: Any, part: float) -> tuple[str, list[str]]:
    """Move the mouse to a part of the width; the tooltip's heading and its lines."""
    box = panel.locator(".u-over").bounding_box()
    page.mouse.move(box["x"] + part * (box["width"] - 2) + 1, box["y"] + box["height"] / 2)
    tooltip = panel.locator(".tooltip")
    tooltip.wait_for(state="visible")
    heading, *lines = [text.strip() for text in tooltip.locator(":scope > *").all_text_contents()]
    return heading, [" ".join(line.split(" ")) for line in lines]


def test_hovering_shows_the_numbers_of_the_table(open_page: _Opener) -> None:
    page = open_page()
    figure = _drawn(page, _WIDTHS)
    error, complexity = figure.locator(".plot").all()
    rows = {f"width {format_number(float(row['width']))}": row for row in _table(_WIDTHS)}
    seen = set()
    for part in (0.0, 0.3, 0.55, 0.8, 1.0):
        for panel, quantity in ((error, "mse"), (complexity, "effective_parameters")):
            heading, lines = _point_at(page, panel, part)
            seen.add(heading)
            expected = []
            for name in ("train", "test"):
                value, stderr = (
                    float(rows[heading][f"{name}_{quantity}{suffix}"]) for suffix in ("", "_stderr")
                )
                expected.append(f"{name} {format_estimate(value, stderr)}")
            assert lines == expected
    assert {next(iter(rows)), list(rows)[-1]} <= seen
    assert len(seen) >= 4


def test_dragging_zooms_and_a_double_click_resets(open_page: _Opener) -> None:
    page = open_page()
    figure = _drawn(page, _WIDTHS)
    panel = figure.locator(".plot").first
    reset = figure.get_by_role("button", name="Reset zoom")
    widths = [f"width {row['width']}" for row in _table(_WIDTHS)]
    assert _point_at(page, panel, 0.0)[0] == widths[0]
    assert reset.is_disabled()

    box = panel.locator(".u-over").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.55 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], middle, steps=6)
    page.mouse.up()
    assert reset.is_enabled()
    # All panels of the figure follow.
    for plot in figure.locator(".plot").all():
        assert _point_at(page, plot, 0.0)[0] not in widths[:3]
        assert _point_at(page, plot, 1.0)[0] != widths[-1]

    page.mouse.dblclick(box["x"] + 0.5 * box["width"], middle)
    assert reset.is_disabled()
    assert _point_at(page, panel, 0.0)[0] == widths[0]
    assert _point_at(page, panel, 1.0)[0] == widths[-1]


def test_charts_are_read_and_zoomed_with_the_keyboard(open_page: _Opener) -> None:
    page = open_page()
    figure = _drawn(page, _WIDTHS)
    figure.locator(".plot").first.focus()
    said = figure.locator("[aria-live]")
    first, second, *_ = _table(_WIDTHS)
    for row in (first, second):
        page.keyboard.press("ArrowRight")
        value = format_estimate(float(row["train_mse"]), float(row["train_mse_stderr"]))
        assert said.text_content().startswith(f"width {row['width']}: train {value};")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("End")
    last = _table(_WIDTHS)[-1]
    value = format_estimate(
        *(float(last[f"train_effective_parameters{s}"]) for s in ("", "_stderr"))
    )
    assert said.text_content().startswith(f"width {last['width']}: train {value};")
    page.keyboard.press("+")
    assert figure.get_attribute("data-zoomed") == "yes"
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Escape")
    assert figure.get_attribute("data-zoomed") == "no"


def test_the_legend_hides_lines(open_page: _Opener) -> None:
    page = open_page()
    figure = _drawn(page, _WIDTHS)
    panel = figure.locator(".plot").first
    key = figure.locator(".legend").get_by_role("button", name="train")
    key.focus()
    page.keyboard.press("Enter")
    assert key.get_attribute("aria-pressed") == "false"
    assert [line.split()[0] for line in _point_at(page, panel, 0.5)[1]] == ["test"]
    key.click()
    assert [line.split()[0] for line in _point_at(page, panel, 0.4)[1]] == ["train", "test"]


def test_a_figure_is_also_a_picture_and_a_table(open_page: _Opener) -> None:
    page = open_page()
    figure = _drawn(page, _WIDTHS)
    assert not figure.locator("img").is_visible()
    figure.get_by_role("button", name="Picture").click()
    assert figure.locator("img").is_visible()
    assert not figure.locator(".chart").is_visible()
    figure.get_by_role("button", name="Numbers").click()
    tables = figure.locator(".chart-table table")
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
    assert page.locator("figure canvas").count() == page.locator("figure .plot").count()


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
    page = open_page(java_script_enabled=False)
    pictures = page.locator("figure img")
    assert all(picture.is_visible() for picture in pictures.all())
    assert not page.locator(".chart").first.is_visible()
    assert not page.get_by_label("Search").is_visible()
    assert page.locator("table.claims tbody tr:visible").count() == 8
    details = page.locator("details.panel:has(summary:text-is('Parameters'))").first
    details.locator("summary").first.click()
    assert details.locator("table").first.is_visible()

    scripted = open_page()
    scripted.emulate_media(media="print")
    assert all(picture.is_visible() for picture in scripted.locator("figure img").all())
    assert not scripted.locator(".chart").first.is_visible()

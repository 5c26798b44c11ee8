"""A real browser for the report, and a report with real results to show in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from telescope_pipeline.parameters.reading import load_parameters
from telescope_pipeline.report import build_report

CASES = ("double_descent_mnist", "boosting_tables")

REDUCED = Path(__file__).resolve().parents[2] / "paper" / "reduced"
DESKTOP, PHONE = (1280, 900), (360, 740)

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str | None:
    """Where a Chromium is installed."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


def write_report(folder: Path, repeated: int = 1) -> Path:
    """Write a report about committed results of reduced cases.

    Args:
        folder: Where to write it.
        repeated: How often each case is in it, under names of its own.

    Returns:
        The page.
    """
    content = YAML(typ="safe", pure=True).load(REDUCED / "params.yaml")
    names = {f"{case}_{n}" if n else case: case for n in range(repeated) for case in CASES}
    content["cases"] = {name: content["cases"][case] for name, case in names.items()}
    (folder / "params.yaml").write_text(json.dumps(content))
    parameters = load_parameters(folder / "params.yaml")
    results = folder / "results"
    for case, original in names.items():
        shutil.copytree(REDUCED / "results" / original, results / case)
        run = {
            "id": "abc",
            "name": case,
            "kind": "case",
            "url": None,
            "folder": "wandb/offline-abc",
        }
        receipt = {
            "case": case,
            "mode_used": "offline",
            "reason": "no W&B key is configured",
            "group": "0123456789",
            "git_revision": "0123456789" * 4,
            "runs": [run],
            "project": "telescope",
        }
        (results / case / "receipt.json").write_text(json.dumps(receipt))
    page = results / "report.html"
    page.write_text(build_report(folder, parameters))
    return page


@contextmanager
def started(executable: str) -> Iterator[Any]:
    """A headless browser with a profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[*_FLAGS])
        try:
            yield browser
        finally:
            browser.close()


def opened(browser: Any, address: str, size: tuple[int, int] = DESKTOP, **options: Any) -> Any:
    """Open a page in a context of its own."""
    viewport = {"width": size[0], "height": size[1]}
    context = browser.new_context(viewport=viewport, reduced_motion="reduce", **options)
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.goto(address)
    return page


def draw_all(page: Any) -> None:
    """Scroll down to the end, so that every chart is drawn."""
    for figure in page.locator("figure[data-view]").all():
        figure.scroll_into_view_if_needed()
        page.wait_for_selector(f"#{figure.get_attribute('id')}[data-drawn]")

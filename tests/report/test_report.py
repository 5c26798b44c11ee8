"""The page about all cases."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from telescope_core.errors import ArtifactError
from telescope_pipeline.report import build_report
from telescope_pipeline.stages.report import run as report_stage

_VOID = {"img", "link", "meta", "br", "hr", "input", "wbr"}
_HOSTILE = "</td></table><script>alert('x')</script>\"'><img src=x onerror=y> & {{ 7 * 7 }}"


class _Page(HTMLParser):
    """Parses a page and complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, *names: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in names]


def _build(project: Any) -> str:
    return build_report(project.root, project.parameters)


def _change(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_every_claim_is_shown_with_its_verdict_and_numbers(project: Any) -> None:
    text = _Page(_build(project)).text

    assert "2 of 4 claims hold, in 2 cases" in text
    assert "2 claims do not hold" in text
    for case in ("wide", "plain"):
        for claim in json.loads((project.results(case) / "claims.json").read_text()):
            assert claim["statement"] in text
            assert claim["source"] in text
    for case in ("Wide", "Plain"):
        assert text.count(f"✓ holds {case} Test error has a peak. peak") == 1
        assert text.count(f"✗ does not hold {case} The gap widens. gap-widens") == 1
    assert "peak minus widest 0.063 ± 0.023" in text
    assert "widening none" in text
    assert "2 to 5 −1.50 ± 0.50" in text


def test_every_plot_is_in_the_page_with_its_caption(project: Any) -> None:
    page = _Page(_build(project))
    pictures = page.all("img")

    assert len(pictures) == 4
    # The first figure of a case is on its card.
    plots = [
        project.results(case) / "plots" / f"{name}.png"
        for name in ("error", "parameters")
        for case in ("wide", "plain")
    ]
    for picture, plot in zip(pictures, plots, strict=True):
        content = base64.b64decode(picture["src"].removeprefix("data:image/png;base64,"))
        assert len(content) <= plot.stat().st_size
        difference = _pixels(content) - _pixels(plot.read_bytes())
        assert np.abs(difference).mean() < 0.5
    for picture in pictures:
        assert picture["alt"].endswith(("over steps.", "falls."))
        assert (picture["width"], picture["height"]) == ("180", "120")
    assert page.text.count("Effective parameters over steps.") == 2


def _pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"), dtype=float)


def test_metrics_parameters_and_revision_are_shown(project: Any) -> None:
    text = _Page(_build(project)).text
    receipt = json.loads((project.results() / "receipt.json").read_text())

    assert "0.10 ± 0.33" in text
    assert "training.optimizer.momentum 0.95" in text
    assert "model.widths [2, 30]" in text
    assert receipt["group"] in text
    assert "not published" in text


def test_nothing_is_loaded_from_anywhere(project: Any) -> None:
    html = _build(project)
    page = _Page(html)

    assert [s for s in page.all("script") if s.keys() - {"type", "class"}] == []
    for name in ("iframe", "object", "embed", "base", "form"):
        assert page.all(name) == []
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "srcset", "poster", "data", "action"):
                assert value.startswith("data:image/png;base64,")
            if name == "href":
                assert value.startswith("#") or (tag, value) == ("link", "data:,")
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv")]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


def test_the_policy_names_every_script_and_style_and_nothing_else(project: Any) -> None:
    html = _build(project)
    (policy,) = [m["content"] for m in _Page(html).all("meta") if m.get("http-equiv")]
    inline = re.findall(r"<(?:script|style)>(.*?)</(?:script|style)>", html, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in inline]

    assert len(inline) == 4
    assert sorted(re.findall(r"'sha256-([^']+)'", policy)) == sorted(hashes)


def test_every_figure_carries_its_description(project: Any) -> None:
    html = _build(project)
    figures = _Page(html).all("figure")
    found = re.findall(r'<script type="application/json" class="chart-data">(.*?)</script>', html)
    drawn = [
        entry["chart"]
        for case in ("wide", "plain")
        for entry in json.loads((project.results(case) / "figures.json").read_text())["figures"]
    ]

    assert [figure["data-view"] for figure in figures] == ["chart"] * 4
    assert [json.loads(description) for description in found] == drawn


def test_a_card_says_what_was_found_and_what_to_look_at(project: Any) -> None:
    def ask(content: Any) -> None:
        content.update(question="Is it so?", headline="So it is, 3 times.")
        content["figures"][0].update(see="See where it falls.", key=[0])

    assert "Why does it fall?" in _Page(_build(project)).text
    _change(project.results() / "figures.json", ask)
    page = _Page(_build(project))
    (card, _) = [a for _, a in page.tags if a.get("class") == "key"]
    assert page.text.count("Is it so?") == 1
    assert page.text.count("So it is, 3 times.") == 2
    assert page.text.count("See where it falls.") == 2
    assert card["data-figure"] == "figure-wide-error"
    assert card["data-key"] == "0"


def test_a_case_without_figures_has_a_card_too(project: Any) -> None:
    _change(project.results() / "figures.json", lambda f: f.update(figures=[], question=""))
    page = _Page(_build(project))
    assert len([a for _, a in page.tags if a.get("class") == "card"]) == 2
    assert len(page.all("img")) == 2


def test_what_a_reader_sees_are_words(project: Any) -> None:
    visible = re.sub(r"<(script|style|code|pre)\b.*?</\1>", "", _build(project), flags=re.DOTALL)
    text = _Page(visible).text
    assert re.findall(r"\w+_\w+", text) == ["p_train", "p_test"]


def test_links_inside_the_page_lead_somewhere_and_ids_are_unique(project: Any) -> None:
    page = _Page(_build(project))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    pointers = [a["href"][1:] for a in page.all("a") if a["href"].startswith("#")]
    pointers += [a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a]

    assert len(set(ids)) == len(ids)
    assert len(pointers) > 10
    assert set(pointers) <= set(ids)


def test_it_can_be_read_without_seeing_it(project: Any) -> None:
    page = _Page(_build(project))

    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    assert [len(page.all(name)) for name in ("header", "main", "footer", "h1", "title")] == [1] * 5
    assert all("aria-label" in nav for nav in page.all("nav"))
    assert all("aria-labelledby" in section for section in page.all("section"))
    assert all(th.get("scope") in ("col", "row", "rowgroup") for th in page.all("th"))
    assert all("aria-label" in a for _, a in page.tags if a.get("role") == "region")
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(later - earlier <= 1 for earlier, later in pairwise(headings))


def _colours(html: str) -> list[dict[str, str]]:
    style = html.partition("<style>")[2].partition("</style>")[0]
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    return [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in blocks]


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_have_enough_contrast_in_light_and_dark(project: Any) -> None:
    light, dark, _ = _colours(_build(project))
    assert _luminance(light["page"]) > 0.8
    assert _luminance(dark["page"]) < 0.05
    for colours in (light, dark):
        pairs = [(i, p) for i in ("ink", "muted", "link") for p in ("page", "card", "code")]
        for ink, paper in [*pairs, ("yes", "yes-soft"), ("no", "no-soft")]:
            pair = sorted(_luminance(colours[name]) for name in (ink, paper))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (ink, paper)


def test_the_same_results_give_the_same_bytes_anywhere(
    project: Any, tmp_path: Path, build_project: Callable[[Path], Any]
) -> None:
    other = build_project(tmp_path / "another place")
    html = _build(project)

    assert _build(other) == html
    assert str(tmp_path) not in html


def test_hostile_text_is_text(project: Any) -> None:
    results = project.results()
    scripts = len(_Page(_build(project)).all("script"))
    _change(results / "claims.json", lambda c: c[0].update(statement=_HOSTILE, source=_HOSTILE))
    _change(results / "claims.json", lambda c: c[1].update(observed={_HOSTILE: _HOSTILE}))
    figure = {"title": _HOSTILE, "caption": _HOSTILE, "chart": {"title": _HOSTILE}}
    _change(results / "figures.json", lambda f: f["figures"][0].update(figure))
    _change(results / "figures.json", lambda f: f.update(question=_HOSTILE))
    _change(results / "metrics.json", lambda m: m.update({_HOSTILE: 1}))
    _change(
        results / "receipt.json",
        lambda r: r.update(
            reason=_HOSTILE,
            group=_HOSTILE,
            runs=[
                {
                    "id": _HOSTILE,
                    "name": _HOSTILE,
                    "kind": "case",
                    "url": "javascript:alert(1)",
                    "folder": _HOSTILE,
                }
            ],
        ),
    )
    html = _build(project)
    page = _Page(html)

    assert len(page.all("script")) == scripts
    assert len(page.all("img")) == 4
    assert not [a for a in page.all("a") if not a["href"].startswith("#")]
    assert "javascript:" not in html
    plain = " ".join(_HOSTILE.split())
    assert page.text.count(plain) >= 9
    assert any(plain in picture["alt"] for picture in page.all("img"))


def test_runs_that_can_be_followed_are_links(project: Any) -> None:
    address = "https://example.org/team/telescope/runs/abc?x=1&y=2"
    run = {"id": "abc", "name": "wide", "kind": "case", "url": address, "folder": None}
    _change(
        project.results() / "receipt.json",
        lambda r: r.update(mode_used="online", synced=True, reason=None, runs=[run]),
    )
    page = _Page(_build(project))

    assert [a["href"] for a in page.all("a") if not a["href"].startswith("#")] == [address]
    assert "published, 1 run" in page.text


def test_offline_runs_name_their_folders(project: Any) -> None:
    folder = "wandb/offline-run-*-abc"
    run = {"id": "abc", "name": "wide", "kind": "members", "url": None, "folder": folder}
    _change(
        project.results() / "receipt.json",
        lambda r: r.update(mode_used="offline", reason="no W&B key is configured", runs=[run]),
    )
    text = _Page(_build(project)).text

    assert folder in text
    assert "Kept offline: no W&B key is configured." in text
    assert "wandb sync" in text


def test_a_commit_says_how_to_get_back_to_it(project: Any) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    for case in ("wide", "plain"):
        _change(
            project.results(case) / "receipt.json",
            lambda r: r.update(git_revision=commit, group=commit[:10]),
        )
    text = _Page(_build(project)).text

    assert f"git checkout {commit} dvc repro" in text
    assert "were not committed" not in text


def test_the_stage_writes_the_page(project: Any) -> None:
    report_stage(project.parameters_path)

    assert (project.root / "results" / "report.html").read_text() == _build(project)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("receipt.json", None, "no such file; run the stage before"),
        ("receipt.json", "{}", "not a receipt; run the publish stage again"),
        ("claims.json", "[{}]", "expected entries with"),
        ("plots/error.png", "no picture", "not a PNG picture"),
        ("plots/error.csv", None, "no such file"),
        ("figures.json", "[]", "expected entries with"),
    ],
)
def test_incomplete_results_are_an_error_and_leave_the_old_page(
    project: Any, file: str, content: str | None, message: str
) -> None:
    page = project.root / "results" / "report.html"
    page.write_text("old")
    path = project.results() / file
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(ArtifactError, match=message):
        report_stage(project.parameters_path)
    assert page.read_text() == "old"

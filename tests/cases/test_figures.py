"""Figures are the same every time, come with tidy tables and show what these hold."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from io import BytesIO, StringIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
import vl_convert
from PIL import Image

from telescope_pipeline.study.drawing import SETS, TRAIN, Guide, Line, Panel, figure, shades

# Columns that, beside the x axis, tell the rows of a table apart.
_TOLD_APART_BY = ["setting", "optimizer", "table", "model", "epsilon"]

_KEY = re.compile(r"\w_\w|\w/[a-z]")

_Trained = Callable[[str], tuple[Any, pd.DataFrame]]


def _draw(kind: str, trained: _Trained) -> list[Any]:
    case, history = trained(kind)
    drawn: list[Any] = import_module(f"telescope_pipeline.cases.{kind}.figures").draw(case, history)
    return drawn


def _png(drawn: Any) -> bytes:
    return bytes(vl_convert.vegalite_to_png(json.dumps(drawn.chart, allow_nan=False), ppi=45))


def _panels(drawn: Any) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """The panels of a figure with what they show."""
    for panel in drawn.chart["concat"]:
        if "encoding" in panel:
            yield panel, pd.read_csv(StringIO(drawn.chart["datasets"][panel["data"]["name"]]))


def test_drawing_twice_gives_the_same_bytes(kind: str, trained: _Trained) -> None:
    first, second = _draw(kind, trained), _draw(kind, trained)
    assert [one.chart for one in first] == [other.chart for other in second]
    picture = _png(first[0])
    assert picture.startswith(b"\x89PNG")
    assert picture == _png(second[0])
    # The smallest letters, 11 units, have 6 points in a column of 85 mm, which are 241 points.
    width = Image.open(BytesIO(picture)).width * 72 / 45
    assert 11 * 241 / width >= 6


def test_tables_are_tidy_with_the_x_axis_first(kind: str, trained: _Trained) -> None:
    _, history = trained(kind)
    for drawn in _draw(kind, trained):
        x = drawn.table.columns[0]
        if x in {"proportion", "progress"}:
            assert drawn.table[x].between(0, 1).all()
        else:
            assert x in {"step", "width", "learning_rate", "depth", "rows"}
            assert set(drawn.table[x]) <= set(history[x])
        assert np.isfinite(drawn.table.select_dtypes("number").to_numpy()).all()
        assert drawn.table.columns.is_unique
        keys = [x, *drawn.table.columns.intersection(_TOLD_APART_BY)]
        keys += [name for name in ("width",) if name in drawn.table and name != x]
        assert not drawn.table.duplicated(keys).any()


def test_table_holds_the_means_of_the_history(trained: _Trained) -> None:
    _, history = trained("grokking_polynomial")
    table = _draw("grokking_polynomial", trained)[0].table.set_index("step")
    main = history[history["group"] == "epsilon-0.2"]
    expected = main.groupby("step")["test/mse"].mean()
    pd.testing.assert_series_equal(
        table["test_mse"], expected, check_names=False, check_exact=False
    )


def test_names_are_unique_and_words_are_there(kind: str, trained: _Trained) -> None:
    figures = _draw(kind, trained)
    module = import_module(f"telescope_pipeline.cases.{kind}.figures")
    assert module.QUESTION.endswith("?")
    headline = module.headline(*trained(kind))
    assert headline.endswith(".")
    assert not _KEY.search(headline)
    assert len({drawn.name for drawn in figures}) == len(figures) >= 2
    for drawn in figures:
        assert drawn.title
        assert drawn.caption
        assert drawn.see.endswith(".")
        assert all("encoding" in drawn.chart["concat"][number] for number in drawn.key)
        for panel, _ in _panels(drawn):
            assert panel["encoding"]["x"]["title"]
            assert panel["encoding"]["y"]["title"]
            named = json.dumps([panel.get("title"), panel["encoding"]], ensure_ascii=False)
            assert not _KEY.search(re.sub(r'"(labelExpr|labelOverlap)": "[^"]*"', "", named))


def test_every_guide_and_band_has_its_words(kind: str, trained: _Trained) -> None:
    for drawn in _draw(kind, trained):
        for panel, _ in _panels(drawn):
            for layer in panel["layer"]:
                if "layer" in layer:
                    rule, text = (part["mark"] for part in layer["layer"])
                    assert rule["strokeDash"]
                    assert text["text"]
                if layer.get("mark", {}).get("strokeDash"):
                    assert layer["mark"]["text"]


def test_every_seed_is_drawn_and_their_number_stated(trained: _Trained) -> None:
    case, history = trained("grokking_polynomial")
    main = history[history["group"] == "epsilon-0.2"]
    drawn = _draw("grokking_polynomial", trained)[0]
    ((_, shown), *_) = _panels(drawn)
    steps = main.groupby("step")
    assert f"{case.seeds} seeds: mean" in json.dumps(drawn.chart)
    assert f"n = {case.seeds} seeds" in drawn.caption
    train = shown[shown["line"] == shown["line"].iloc[0]].set_index("x")
    for seed, one in main.groupby("seed"):
        found = one.set_index("step")["train/mse"].loc[train.index]
        assert np.allclose(train[f"seed{seed}"], found, rtol=1e-3)
    assert len(steps) >= len(train) > 1


def test_words_of_guides_stay_inside_the_panel() -> None:
    curve = pd.DataFrame({"step": [1, 1000], "mean": [1.0, 2.0], "stderr": [0.0, 0.0]})
    guides = [Guide(2, "at the left end"), Guide(900, "at the right end"), Guide(990, "also")]
    panel, _ = _one(Panel([Line(curve, TRAIN)], guides=guides))
    looks = {
        layer["layer"][1]["mark"]["text"]: layer["layer"][1]["mark"]
        for layer in panel["layer"]
        if "layer" in layer
    }
    aligned = {text: mark["align"] for text, mark in looks.items()}
    assert aligned == {"at the left end": "left", "at the right end": "right", "also": "right"}
    # The two that would touch are in rows of their own.
    assert looks["also"]["dy"] != looks["at the right end"]["dy"]


def test_records_are_evenly_spaced_and_the_last_is_kept() -> None:
    steps = [*range(100), *range(100, 10_001, 100)]
    curve = pd.DataFrame({"step": steps, "mean": 1.0, "stderr": 0.0})
    _, shown = _one(Panel([Line(curve, TRAIN)]))
    gaps = np.diff(np.log(shown["x"]))
    assert shown["x"].iloc[[0, -1]].tolist() == [1, 10_000]
    assert len(shown) < 100 <= len(steps)
    assert gaps[:-1].min() > np.log(10_000) / 100


def test_axes_hold_what_they_show(kind: str, trained: _Trained) -> None:
    for drawn in _draw(kind, trained):
        for panel, shown in _panels(drawn):
            x, y = (panel["encoding"][name]["scale"] for name in "xy")
            assert shown["x"].max() <= max(x["domain"]) + 1e-9
            inside = shown[shown["x"].between(*sorted(x["domain"]))]
            assert (inside["y"].dropna() <= max(y["domain"]) * (1 + 1e-9)).all()
            for scale, name in ((x, "x"), (y, "y")):
                assert scale["type"] != "log" or (shown[name].dropna() > 0).all()


def test_train_and_test_have_their_colours_wherever_they_appear(trained: _Trained) -> None:
    for kind in ("grokking_polynomial", "double_descent"):
        lines = [
            layer["encoding"]["color"]
            for layer in _draw(kind, trained)[0].chart["concat"][0]["layer"]
            if layer.get("mark", {}).get("type") == "line"
        ]
        colours = [colour.expression for colour in SETS.values()]
        assert lines, "the mean and, behind it, every seed"
        assert all(line["scale"]["range"][:2] == colours for line in lines)
        legends = [line["legend"] for line in lines if line.get("legend")]
        assert any('"train points"' in legend["labelExpr"] for legend in legends)


def _one(panel: Panel) -> tuple[dict[str, Any], pd.DataFrame]:
    return next(_panels(figure("name", "title", "caption", [[panel]])))


def test_a_band_on_a_log_axis_stays_above_zero() -> None:
    curve = pd.DataFrame({"step": [0, 1, 2], "mean": [1.0, 1.0, 2.0], "stderr": [0.1, 5.0, 0.1]})
    panel, shown = _one(Panel([Line(curve, TRAIN)], y_scale="log"))
    y = panel["encoding"]["y"]["scale"]
    assert shown["x"].tolist() == [1, 2]
    assert y["domain"][0] > 0
    assert y["domain"][1] >= 2.1


def test_a_unit_is_of_the_picture_alone() -> None:
    curve = pd.DataFrame({"step": [1, 2], "mean": [0.5, 0.25], "stderr": [0.1, 0.0]})
    line = Line(curve, TRAIN, "train", "accuracy", {"setting": "a"}, unit=100)
    drawn = figure("name", "title", "caption", [[Panel([line], guides=[Guide(1.5, "half")])]])
    ((panel, shown),) = _panels(drawn)
    assert shown[["y", "e"]].to_numpy().tolist() == [[50, 10], [25, 0]]
    assert drawn.table.to_dict("list") == {
        "step": [1, 2],
        "setting": ["a", "a"],
        "accuracy": [0.5, 0.25],
        "accuracy_stderr": [0.1, 0.0],
    }
    assert "half" in json.dumps(panel["layer"])


def test_rows_share_an_axis_where_asked() -> None:
    panels = [
        Panel([Line(pd.DataFrame({"step": [1, 9], "mean": [0, top], "stderr": [0, 0]}), TRAIN)])
        for top in (1.0, 7.0)
    ]
    domains = {
        share: [
            panel["encoding"]["y"]["scale"]["domain"]
            for panel, _ in _panels(figure("n", "t", "c", [panels], share_y=share))
        ]
        for share in ("none", "row")
    }
    assert domains["none"][0] != domains["none"][1]
    assert domains["row"][0] == domains["row"][1] == domains["none"][1]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_shades_are_distinct_and_darken(count: int) -> None:
    found = [colour.light for colour in shades(count)]
    brightness = [sum(int(colour[n : n + 2], 16) for n in (1, 3, 5)) for colour in found]
    assert len(set(found)) == count
    assert brightness == sorted(brightness, reverse=True)


@pytest.mark.parametrize("part", ["metrics", "figures"])
def test_metrics_and_figures_work_without_torch(kind: str, part: str) -> None:
    code = (
        f"import sys; import telescope_pipeline.cases.{kind}.{part}; "
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

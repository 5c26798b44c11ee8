"""A figure's description, taken apart for a server and put together again, draws the same."""

from __future__ import annotations

import json
import re
from typing import Any

import pandas as pd
import vl_convert

from telescope_pipeline.publish.charts import chart_of
from telescope_pipeline.publish.record import ChartRecord
from telescope_pipeline.study.drawing.chart import figure
from telescope_pipeline.study.drawing.colours import Colour
from telescope_pipeline.study.drawing.panels import Line, Panel

_BLUE, _RED = Colour("#0000FF", "#0000FF"), Colour("#FF0000", "#FF0000")


def _bound(chart: ChartRecord) -> dict[str, Any]:
    """What the server does: columns in the place of their templates, and the rows of the table."""
    text = json.dumps(chart.spec)
    for name in chart.columns:
        text = text.replace(f"${{field:{name}}}", name)
    assert "${" not in text
    rows = [dict(zip(chart.columns, row, strict=True)) for row in chart.rows]
    return {**json.loads(text), "datasets": {"wandb": rows}}


def _drawn(chart: dict[str, Any]) -> str:
    """The picture but for names that are numbered anew."""
    return re.sub(r'clip\d+|id="[^"]*"|gradient_\d+', "", vl_convert.vegalite_to_svg(chart))


def test_lines_bands_and_dots_are_drawn_as_in_the_figure() -> None:
    curve = pd.DataFrame(
        {"x": [1.0, 10.0, 100.0], "mean": [3.0, 1.0, 2.0], "stderr": [0.5, float("nan"), 0.1]}
    )
    other = curve.assign(mean=[0.1, 0.2, 0.4])
    drawn = figure(
        "error",
        "Error",
        "It falls.",
        [
            [Panel([Line(curve, _BLUE, "train"), Line(other, _RED, "test")], y="error")],
            [Panel([Line(other, _BLUE, "train")], y="other", y_scale="log")],
        ],
    )
    chart = chart_of("charts/error", drawn.title, drawn.chart)

    assert _drawn(_bound(chart)) == _drawn(drawn.chart)
    assert {row[0] for row in chart.rows} == {"panel1", "panel2"}
    # How it is drawn does not depend on the numbers but for the ends of the axes.
    assert "datasets" not in chart.spec


def test_inline_rows_become_a_table_and_a_column_has_one_kind_of_value() -> None:
    values = [{"a": 1, "b": "x"}, {"a": 2.5, "b": 3}]
    encoding = {"x": {"field": "a", "type": "quantitative"}, "y": {"field": "b", "type": "nominal"}}
    spec = {"data": {"values": values}, "mark": "bar", "encoding": encoding}
    chart = chart_of("charts/bars", "Bars", spec)

    assert chart.columns == ("part", "a", "b")
    assert chart.rows == (("data1", 1, "x"), ("data1", 2.5, "3"))
    values[1]["b"] = "3"
    assert _drawn(_bound(chart)) == _drawn(spec)

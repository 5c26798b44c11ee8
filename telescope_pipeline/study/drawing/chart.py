"""Panels as one description in Vega-Lite, from which pictures and the page's charts are drawn.

What it says beyond the picture is for a page: hovering names the values, a click in the legend
picks a line, dragging moves the x axis and the wheel with shift stretches it; the parameter
``dark`` changes the colours, and ``at`` marks a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd

from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing.colours import Colour
from telescope_pipeline.study.drawing.panels import Line, Panel, table_of, x_extent, y_extent
from telescope_pipeline.study.drawing.view import Keys, data_of, nothing, view_of

Places = Sequence[Panel | None]

_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_INK, _MUTED = Colour("#1B1B1F", "#ECECF1"), Colour("#4A4A52", "#B4B4BE")
_GRID, _PAPER = Colour("#E6E6EA", "#33333B"), Colour("#FFFFFF", "transparent")
_MUTED_TEXT = {"labelColor": _MUTED.expression, "titleColor": _INK.expression}
_CONFIG = {
    "font": "DejaVu Sans, system-ui, sans-serif",
    "axis": {
        **_MUTED_TEXT,
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "gridColor": _GRID.expression,
        "domainColor": _MUTED.expression,
        "ticks": False,
        "labelPadding": 5,
        "titlePadding": 8,
    },
    "legend": {
        **_MUTED_TEXT,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "symbolType": "stroke",
        "symbolSize": 320,
        "symbolStrokeWidth": 2.4,
        "labelLimit": 400,
        "columnPadding": 18,
    },
    "title": {"color": _INK.expression, "fontSize": 12, "fontWeight": "normal"},
    "view": {"stroke": None},
}


def figure(
    name: str,
    title: str,
    caption: str,
    rows: Sequence[Places],
    *,
    size: tuple[float, float] = (260, 200),
    share_y: Literal["none", "row", "all"] = "none",
    share_x: bool = True,
    legend_title: str = "",
    legend_columns: int = 4,
    undrawn: Sequence[Line] = (),
    table: pd.DataFrame | None = None,
) -> Figure:
    """Describe a figure.

    Args:
        name: File stem of its picture and table.
        title: What it shows, in a few words.
        caption: What a reader should see in it.
        rows: Its panels; None leaves a place free.
        size: Width and height of a panel in units of 1/96 inch.
        share_y: Which panels have one y axis.
        share_x: Whether all panels have one x axis.
        legend_title: Above the entries of the legend.
        legend_columns: Entries of the legend side by side; 0 puts it to the right.
        undrawn: Lines that are in its table alone.
        table: Its numbers, if they are not those of its lines.

    Returns:
        The figure.
    """
    width = max(map(len, rows))
    places = [panel for row in rows for panel in (*row, *[None] * (width - len(row)))]
    panels = [panel for panel in places if panel is not None]
    lines = [line for panel in panels for line in panel.lines]
    keys = Keys(lines, legend_title, legend_columns)
    x_ends = {id(panel): x_extent(panels if share_x else [panel]) for panel in panels}
    views: list[dict[str, Any]] = []
    datasets: dict[str, str] = {}
    for number, panel in enumerate(places):
        if panel is None:
            views.append({**nothing(), "width": size[0], "height": size[1]})
            continue
        row = places[number - number % width :][:width]
        sharing = {"none": [panel], "row": [p for p in row if p], "all": panels}[share_y]
        y_ends = y_extent(sharing, [x_ends[id(p)] for p in sharing])
        data = f"panel{len(datasets) + 1}"
        datasets[data] = data_of(panel, keys)
        view = view_of(panel, data, keys, (x_ends[id(panel)], y_ends))
        before = places[number - 1] if number % width else None
        under = places[number + width] if number + width < len(places) else None
        if before and before.y == panel.y:
            view["encoding"]["y"]["axis"] |= {"title": None, "labels": share_y == "none"}
        if under and share_x:
            view["encoding"]["x"]["axis"] |= {"title": None, "labels": False}
        views.append({**view, "width": size[0], "height": size[1]})
    return Figure(
        name,
        title,
        caption,
        chart={
            "$schema": _SCHEMA,
            "config": _CONFIG,
            "background": _PAPER.expression,
            "padding": 10,
            "params": _parameters([f"bands-{data}" for data in datasets], share_x),
            "datasets": datasets,
            "concat": views,
            "columns": width,
            "spacing": {"row": 16, "column": 18},
            "resolve": {"scale": {"color": "shared"}},
        },
        table=table_of([*lines, *undrawn]) if table is None else table,
    )


def _parameters(views: list[str], share_x: bool) -> list[dict[str, Any]]:
    zoom = {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.shiftKey]"}
    together = [views] if share_x else [[view] for view in views]
    return [
        {"name": "dark", "value": False},
        {"name": "at", "value": None},
        {
            "name": "picked",
            "select": {"type": "point", "fields": ["line"]},
            "bind": "legend",
            "views": views,
        },
        *(
            {"name": f"zoom{number}", "select": zoom, "bind": "scales", "views": group}
            for number, group in enumerate(together)
        ),
    ]

"""Panels as one description in Vega-Lite, from which pictures and the page's charts are drawn.

What it says beyond the picture is for a page: hovering names the values, dragging
moves the x axis and the wheel with shift stretches it; the parameter ``dark`` changes the colours,
``at`` marks a position, and ``picked`` holds the keys of the lines that stand out, all if empty.

Every figure is as wide as a column of a paper, in which its smallest letters have 6 points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd

from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing.colours import Colour
from telescope_pipeline.study.drawing.panels import (
    SEED,
    Line,
    Panel,
    table_of,
    x_extent,
    y_extent,
)
from telescope_pipeline.study.drawing.view import Keys, data_of, nothing, view_of

Places = Sequence[Panel | None]

_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_INK, _MUTED = Colour("#1B1B1F", "#ECECF1"), Colour("#4A4A52", "#B4B4BE")
_GRID, _PAPER = Colour("#E6E6EA", "#33333B"), Colour("#FFFFFF", "transparent")
_MUTED_TEXT = {"labelColor": _MUTED.expression, "titleColor": _INK.expression}
# Of a figure, in 1/96 inch. At 85 mm, letters of 11 units are 6.2 points high.
_WIDTH = 396
# What the axes take: of a first panel, of one that shares its axis, of one that does not.
_FIRST, _SHARED, _OWN = 64, 14, 58
_CONFIG = {
    "font": "DejaVu Sans, system-ui, sans-serif",
    "axis": {
        **_MUTED_TEXT,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "gridColor": _GRID.expression,
        "domainColor": _MUTED.expression,
        "ticks": False,
        "labelPadding": 4,
        "titlePadding": 5,
    },
    "legend": {
        **_MUTED_TEXT,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titleColor": _MUTED.expression,
        "titleLimit": 420,
        "symbolType": "stroke",
        "symbolSize": 300,
        "symbolStrokeWidth": 2.4,
        "labelLimit": 400,
        "columnPadding": 12,
        "rowPadding": 1,
        "offset": 8,
    },
    "title": {"color": _INK.expression, "fontSize": 11.5, "fontWeight": "normal"},
    "view": {"stroke": None},
}


def figure(
    name: str,
    title: str,
    caption: str,
    rows: Sequence[Places],
    *,
    see: str = "",
    key: Sequence[int] = (),
    height: float = 150,
    share_y: Literal["none", "row", "all"] = "none",
    share_x: bool = True,
    legend_title: str = "",
    undrawn: Sequence[Line] = (),
    table: pd.DataFrame | None = None,
) -> Figure:
    """Describe a figure.

    Args:
        name: File stem of its picture and table.
        title: What it shows, in a few words.
        caption: What is drawn, and how.
        rows: Its panels; None leaves a place free.
        see: What to look at, in one sentence.
        key: The panels that say the most, by their number; all if empty.
        height: Of a panel in units of 1/96 inch.
        share_y: Which panels have one y axis.
        share_x: Whether all panels have one x axis.
        legend_title: Above the entries of the legend.
        undrawn: Lines that are in its table alone.
        table: Its numbers, if they are not those of its lines.

    Returns:
        The figure; its legend says how many seeds there are.
    """
    width = max(map(len, rows))
    places = [panel for row in rows for panel in (*row, *[None] * (width - len(row)))]
    panels = [panel for panel in places if panel is not None]
    lines = [line for panel in panels for line in panel.lines]
    keys = Keys(lines, "; ".join(filter(None, (legend_title, _marks(lines)))), _WIDTH)
    x_ends = {id(panel): x_extent(panels if share_x else [panel]) for panel in panels}
    alike = share_y != "none" and all(p.y == panels[0].y for p in panels)
    taken = _FIRST + (width - 1) * (_SHARED if alike else _OWN)
    size = (round((_WIDTH - taken) / width), height)
    views: list[dict[str, Any]] = []
    datasets: dict[str, str] = {}
    for number, panel in enumerate(places):
        if panel is None:
            views.append({**nothing(), "width": size[0], "height": size[1]})
            continue
        row = places[number - number % width :][:width]
        sharing = {
            "none": [panel],
            "row": [p for p in row if p and p.y == panel.y],
            "all": [p for p in panels if p.y == panel.y],
        }[share_y]
        y_ends = y_extent(sharing, [x_ends[id(p)] for p in sharing])
        data = f"panel{len(datasets) + 1}"
        datasets[data] = data_of(panel, keys)
        view = view_of(panel, data, keys, (x_ends[id(panel)], y_ends), size)
        before = places[number - 1] if number % width else None
        under = places[number + width] if number + width < len(places) else None
        if before and before.y == panel.y:
            view["encoding"]["y"]["axis"] |= {"title": None, "labels": share_y == "none"}
        if under and share_x:
            view["encoding"]["x"]["axis"] |= {"title": None, "labels": False}
        views.append(view)
    return Figure(
        name,
        title,
        caption,
        chart={
            "$schema": _SCHEMA,
            "config": _CONFIG,
            "background": _PAPER.expression,
            "padding": 6,
            "params": _parameters([f"bands-{data}" for data in datasets], share_x),
            "datasets": datasets,
            "concat": views,
            "columns": width,
            "spacing": {"row": 12, "column": 12},
            "resolve": {"scale": {"color": "shared"}},
        },
        table=table_of([*lines, *undrawn]) if table is None else table,
        see=see,
        key=tuple(key),
    )


def _marks(lines: Sequence[Line]) -> str:
    """What thin lines and bands are, and of how many seeds."""
    seeds = max((len(line.seeds) for line in lines), default=0)
    if seeds:
        return f"{seeds} seeds: mean ± standard error; thin: each"
    return "one seed" if any(SEED + "0" in line.curve for line in lines) else ""


def _parameters(views: list[str], share_x: bool) -> list[dict[str, Any]]:
    zoom = {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.shiftKey]"}
    together = [views] if share_x else [[view] for view in views]
    return [
        {"name": "dark", "value": False},
        {"name": "at", "value": None},
        {"name": "picked", "value": []},
        *(
            {"name": f"zoom{number}", "select": zoom, "bind": "scales", "views": group}
            for number, group in enumerate(together)
        ),
    ]

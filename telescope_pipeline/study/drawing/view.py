"""One panel in Vega-Lite."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from telescope_pipeline.study.drawing.axes import axis_of
from telescope_pipeline.study.drawing.colours import GUIDE
from telescope_pipeline.study.drawing.panels import Ends, Line, Panel
from telescope_pipeline.study.drawing.texts import LINE_HEIGHT, guides_of, note_of, tags_of

Spec = dict[str, Any]

_NUMBERS = ("x", "y", "e")
# Significant digits: rounded once more for a reader, they are as good as the original.
_DIGITS = {"y": 7, "x": 7}
# Of seeds and bands, which nobody reads as numbers.
_FEWER = 4
# A legend entry is its stroke and so much for each letter.
_STROKE, _LETTER = 36, 5.8
# A phone draws panels narrower than a picture does, by this factor.
_NARROWEST = 0.7
_PICKED = "!length(picked) || indexof(picked, datum.line) >= 0"


class Keys:
    """Short names of the lines of a figure; lines with one label and one look share one.

    Args:
        lines: All lines.
        title: Of the legend.
        room: Width of the figure.
    """

    def __init__(self, lines: Iterable[Line], title: str, room: float) -> None:
        self._lines = {line.look: line for line in lines}
        self._keys = {look: f"l{number}" for number, look in enumerate(self._lines)}
        first: dict[str, str] = {}
        for look, line in self._lines.items():
            if line.label:
                first.setdefault(line.label, self._keys[look])
        labels = {key: label for label, key in first.items()}
        longest = max((len(label) for label in first), default=0)
        legend = {
            "title": title or None,
            "orient": "top",
            "direction": "horizontal",
            "columns": max(1, min(len(first), int(room / (_STROKE + _LETTER * longest)))),
            "values": list(labels),
            "labelExpr": f"{json.dumps(labels, ensure_ascii=False)}[datum.value]",
        }
        self._legend = legend if labels else None

    def of(self, line: Line) -> str:
        """The key of a line."""
        return self._keys[line.look]

    def legible(self, attribute: str) -> Spec:
        """An attribute of the lines that the legend shows."""
        found = [getattr(line, attribute) for line in self._lines.values()]
        scale = {"domain": list(self._keys.values()), "range": found}
        return {"field": "line", "type": "ordinal", "scale": scale, "legend": self._legend}

    def silent(self, attribute: str) -> Spec:
        """An attribute of the lines that the legend does not show."""
        by_value: dict[float, list[str]] = {}
        for look, line in self._lines.items():
            by_value.setdefault(getattr(line, attribute), []).append(self._keys[look])
        cases = [
            {"test": {"field": "line", "oneOf": keys}, "value": value}
            for value, keys in by_value.items()
        ]
        return {"condition": cases, "value": 1}


def columns_of(panel: Panel) -> list[str]:
    """The columns of a panel's data besides the key of the line."""
    lines = panel.lines
    banded = any("low" in line.curve for line in lines)
    bars = any("x_stderr" in line.curve for line in lines)
    seeds = max((line.seeds for line in lines), key=len, default=[])
    return [*_NUMBERS, *(("low", "high") if banded else ()), *(("xe",) if bars else ()), *seeds]


def data_of(panel: Panel, keys: Keys) -> str:
    """What a panel shows, as a table.

    Returns:
        CSV: key of the line, x, y and its standard error; where lines have them, a band, a bar
        along x, and what single seeds show.
    """
    names = columns_of(panel)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["line", *names])
    for line, table in panel.shown:
        shown = table.reindex(columns=names)
        if "low" not in line.curve:
            shown = shown.assign(**{name: math.nan for name in ("low", "high") if name in names})
        for row in shown.to_dict("records"):
            numbers = (_written(value, str(name)) for name, value in row.items())
            writer.writerow([keys.of(line), *numbers])
    return stream.getvalue()


def _written(value: float, name: str) -> str:
    return "" if math.isnan(value) else f"{value:.{_DIGITS.get(name, _FEWER)}g}"


def view_of(
    panel: Panel, data: str, keys: Keys, ends: tuple[Ends, Ends], size: tuple[float, float]
) -> Spec:
    """Describe a panel.

    Args:
        panel: The panel.
        data: Name of its data.
        keys: Keys of all lines of the figure.
        ends: Ends of the x and of the y axis.
        size: Its width and height.

    Returns:
        A view of layers; only the lines have a legend.
    """
    x, y = ends
    guides, rows = guides_of(panel, x, y, _NARROWEST * size[0])
    title = {"text": panel.title.split("\n"), "offset": 5 + LINE_HEIGHT * rows}
    layers = [*guides, *_marks(panel, data, keys), *tags_of(panel, x, y), _hover(panel, keys)]
    names = ["line", *columns_of(panel)]
    parse = {name: "string" if name == "line" else "number" for name in names}
    return {
        "data": {"name": data, "format": {"type": "csv", "parse": parse}},
        **({"title": title} if panel.title else {}),
        "encoding": {
            "x": axis_of("x", panel, x, size[0]),
            "y": axis_of("y", panel, y, size[1]),
        },
        "layer": [*layers, *([note_of(panel.note)] if panel.note else [])],
        "width": size[0],
        "height": size[1],
    }


def _marks(panel: Panel, data: str, keys: Keys) -> list[Spec]:
    # A legend that one layer lacks, none has.
    colour = keys.legible("paint")
    stroke = {
        "color": colour,
        "strokeDash": keys.legible("dash"),
        "strokeWidth": keys.silent("width"),
    }
    picked = {"condition": {"test": _PICKED, "value": 1}, "value": 0.12}
    band = {
        # What zooming refers to.
        "name": f"bands-{data}",
        "transform": _bands(panel),
        "mark": {"type": "area", "clip": True},
        "encoding": {
            "y": {"field": "low", "type": "quantitative"},
            "y2": {"field": "high"},
            "color": colour,
            "fillOpacity": keys.silent("opacity"),
            "opacity": picked,
        },
    }
    stroked = [keys.of(line) for line in panel.lines if line.width]
    lines = {
        "transform": [{"filter": {"field": "line", "oneOf": stroked}}],
        "mark": {"type": "line", "clip": True},
        "encoding": {**stroke, "opacity": picked},
    }
    layers: list[Spec] = [band, *_singles(panel, keys, colour), lines]
    dots = [keys.of(line) for line in panel.lines if line.points]
    if dots:
        layers.append(
            {
                "transform": [{"filter": {"field": "line", "oneOf": dots}}],
                "mark": {"type": "point", "filled": True, "size": 30, "opacity": 1},
                "encoding": {"color": colour, "opacity": picked},
            }
        )
    if any("x_stderr" in line.curve for line in panel.lines):
        ends = [
            {"calculate": f"datum.x {sign} datum.xe", "as": end}
            for sign, end in zip("-+", ("x0", "x1"), strict=True)
        ]
        layers.append(
            {
                "transform": ends,
                "mark": {"type": "rule", "clip": True},
                "encoding": {
                    "x": {"field": "x0", "type": "quantitative"},
                    "x2": {"field": "x1"},
                    "color": colour,
                },
            }
        )
    return layers


def _bands(panel: Panel) -> list[Spec]:
    """Where bands end: a standard error to either side, on a logarithmic axis as a factor."""
    found = "isValid(datum.{0}) ? datum.{0} : " if "low" in columns_of(panel) else ""
    return [
        {
            "calculate": found.format(side)
            + (
                f"datum.y * exp({sign}datum.e / datum.y)"
                if panel.y_scale == "log"
                else f"datum.y + {sign}datum.e"
            ),
            "as": side,
        }
        for side, sign in (("low", "-"), ("high", ""))
    ]


def _singles(panel: Panel, keys: Keys, colour: Spec) -> list[Spec]:
    """A thin line for each seed."""
    with_seeds = [line for line in panel.lines if line.seeds]
    if not with_seeds:
        return []
    columns = max((line.seeds for line in with_seeds), key=len)
    shown = [keys.of(line) for line in with_seeds]
    return [
        {
            "transform": [
                {"filter": {"field": "line", "oneOf": shown}},
                {"fold": columns, "as": ["seed", "single"]},
                {"filter": "isValid(datum.single)"},
            ],
            "mark": {"type": "line", "clip": True, "strokeWidth": 0.8},
            "encoding": {
                "y": {"field": "single", "type": "quantitative"},
                "detail": {"field": "seed"},
                "color": colour,
                "opacity": {"condition": {"test": _PICKED, "value": 0.55}, "value": 0.08},
            },
        }
    ]


def _hover(panel: Panel, keys: Keys) -> Spec:
    """A line at the nearest x that names all values there."""
    lines = {keys.of(line): line.hint or line.label for line in panel.lines}
    named = {key: label for key, label in lines.items() if label}
    # One row for every x, with the value l0 and the error l0e of a line l0, then these as text.
    spread = [
        {"calculate": "[datum.line, datum.line + 'e']", "as": "key"},
        {"calculate": "[datum.y, datum.e]", "as": "number"},
        {"flatten": ["key", "number"]},
        {"pivot": "key", "value": "number", "groupby": ["x"]},
    ]
    texts = [{"calculate": _estimate(f"datum.{key}"), "as": key} for key in named]
    x = {"field": "x", "type": "quantitative", "title": panel.x or "x", "format": ".4~g"}
    tooltip = [x, *({"type": "nominal", "field": key, "title": named[key]} for key in named)]
    seen = [
        {"param": "hover", "empty": False, "value": 0.6},
        {"test": "datum.x === at", "value": 0.6},
    ]
    return {
        "transform": [{"filter": "isValid(datum.y)"}, *spread, *texts],
        "params": [
            {
                "name": "hover",
                "select": {
                    "type": "point",
                    "encodings": ["x"],
                    "nearest": True,
                    "on": "pointermove",
                    "clear": "pointerout",
                },
            }
        ],
        "mark": {"type": "rule", "strokeWidth": 1, "color": GUIDE.expression, "clip": True},
        "encoding": {
            "y": {"value": 0},
            "y2": {"value": "height"},
            "opacity": {"condition": seen, "value": 0},
            "tooltip": tooltip,
        },
    }


def _estimate(value: str) -> str:
    """A value with its error as text; none where there is no value."""
    error = f"{value}e > 0 ? ' ± ' + format({value}e, '.2~g') : ''"
    return f"isValid({value}) ? format({value}, '.4~g') + ({error}) : ''"


def nothing() -> Spec:
    """An empty place in the grid."""
    mark = {"type": "point", "opacity": 0}
    return {"data": {"values": []}, "mark": mark, "view": {"stroke": None}}


__all__: Sequence[str] = ("Keys", "columns_of", "data_of", "nothing", "view_of")

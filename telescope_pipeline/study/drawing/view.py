"""One panel in Vega-Lite."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from telescope_pipeline.study.drawing.colours import GUIDE
from telescope_pipeline.study.drawing.panels import Ends, Guide, Line, Panel, drawn, linear_part

Spec = dict[str, Any]

_LINE_HEIGHT = 13
# Positions closer than this part of an axis would have labels that touch.
_LEAST_APART = 0.07
_NUMBERS = ("x", "y", "e", "low", "high", "xe")
_PARSE = {"line": "string", **dict.fromkeys(_NUMBERS, "number")}
# With the fields of the panel's encoding, for want of which its row would be left out.
_ONE_ROW = {"values": [{"x": 1, "y": 1}]}
_LABEL = (
    "datum.label && (abs(datum.value) >= 1e6 || datum.value && abs(datum.value) < 1e-3)"
    " ? replace(format(datum.value, '.3~e'), '+', '') : datum.label"
)


class Keys:
    """Short names of the lines of a figure; lines with one label and one look share one.

    Args:
        lines: All lines.
        title: Of the legend.
        columns: Of the legend; 0 puts it to the right.
    """

    def __init__(self, lines: Iterable[Line], title: str, columns: int) -> None:
        self._lines = {line.look: line for line in lines}
        self._keys = {look: f"l{number}" for number, look in enumerate(self._lines)}
        first: dict[str, str] = {}
        for look, line in self._lines.items():
            if line.label:
                first.setdefault(line.label, self._keys[look])
        labels = {key: label for label, key in first.items()}
        legend = {
            "title": title or None,
            "orient": "top" if columns else "right",
            "direction": "horizontal" if columns else "vertical",
            "columns": columns or 1,
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


def data_of(panel: Panel, keys: Keys) -> str:
    """What a panel shows, as a table.

    Returns:
        CSV: key of the line, x, y, its standard error, band, bar along x. Numbers have eight
        significant digits, so that rounding them once more for a reader is the same as rounding the
        original.
    """
    bars = any("x_stderr" in line.curve for line in panel.lines)
    names = _NUMBERS if bars else _NUMBERS[:-1]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["line", *names])
    for line in panel.lines:
        shown = drawn(line, panel).reindex(columns=names)
        for row in shown.itertuples(index=False):
            numbers = ("" if math.isnan(value) else f"{value:.8g}" for value in row)
            writer.writerow([keys.of(line), *numbers])
    return stream.getvalue()


def view_of(panel: Panel, data: str, keys: Keys, ends: tuple[Ends, Ends]) -> Spec:
    """Describe a panel.

    Args:
        panel: The panel.
        data: Name of its data.
        keys: Keys of all lines of the figure.
        ends: Ends of the x and of the y axis.

    Returns:
        A view of layers, without a size; only the lines have a legend.
    """
    x, y = ends
    raised = [guide.level + 1 for guide in panel.guides if guide.text and guide.axis == "x"]
    title = {"text": panel.title.split("\n"), "offset": 5 + _LINE_HEIGHT * max(raised, default=0)}
    layers = [*map(_guide, panel.guides), *_marks(panel, data, keys), _hover(panel, keys)]
    return {
        "data": {"name": data, "format": {"type": "csv", "parse": _PARSE}},
        **({"title": title} if panel.title else {}),
        "encoding": {
            "x": _axis("x", panel.x, panel.x_scale, x, panel),
            "y": _axis("y", panel.y, panel.y_scale, y),
        },
        "layer": [*layers, *([_note(panel.note)] if panel.note else [])],
    }


def _axis(field: str, title: str, scale: str, ends: Ends, panel: Panel | None = None) -> Spec:
    described: Spec = {"type": scale, "domain": list(ends), "nice": False}
    if scale == "linear":
        described["zero"] = False
    axis: Spec = {"title": title or None, "tickCount": 5, "labelExpr": _LABEL, "labelFlush": False}
    if panel and scale == "symlog":
        described["constant"] = linear_part([panel])
    if panel and panel.ticks:
        axis |= {"values": _ticks(panel, ends), "labelExpr": "format(datum.value, ',.4~r')"}
        # A count would thin them.
        axis |= {"labelOverlap": False, "tickCount": None}
    elif scale == "log":
        # As many as there are powers of ten, so that ticks are at these alone where they are many.
        decades = int(math.log10(ends[1] / ends[0]))
        axis["tickCount"] = min(decades, 6) if decades > 1 else 5
    title_anyway = {"title": title or None}
    return {
        "field": field,
        "type": "quantitative",
        **title_anyway,
        "scale": described,
        "axis": axis,
    }


def _ticks(panel: Panel, ends: Ends) -> list[float]:
    """Where the points are, without those whose labels would touch their neighbours'."""

    def place(x: float) -> float:
        if panel.x_scale == "linear":
            return x
        return math.log(x) if panel.x_scale == "log" else math.log1p(x / linear_part([panel]))

    width = abs(place(max(ends)) - place(max(min(ends), 0.0) or min(ends)))
    kept: list[float] = []
    for x in sorted({float(x) for line in panel.lines for x in line.curve.iloc[:, 0]}):
        if not kept or place(x) - place(kept[-1]) >= _LEAST_APART * width:
            kept.append(x)
    return kept


def _marks(panel: Panel, data: str, keys: Keys) -> list[Spec]:
    # A legend that one layer lacks, none has.
    colour = keys.legible("paint")
    stroke = {
        "color": colour,
        "strokeDash": keys.legible("dash"),
        "strokeWidth": keys.silent("width"),
    }
    picked = {"condition": {"param": "picked", "value": 1}, "value": 0.12}
    band = {
        # What the selections of the figure refer to: the first layer that has the legend.
        "name": f"bands-{data}",
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
    layers: list[Spec] = [band, lines]
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
        "mark": {"type": "rule", "strokeWidth": 1, "color": GUIDE.expression},
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


def _guide(guide: Guide) -> Spec:
    """A guide and its text."""
    along, across = guide.axis, "y" if guide.axis == "x" else "x"
    end = {"x": "width", "y": "height"}[across]
    at = {"datum": guide.at}
    dash = [5, 4] if along == "x" else [1, 3]
    rule = {
        "mark": {"type": "rule", "strokeDash": dash, "color": GUIDE.expression, "clip": True},
        "encoding": {along: at, across: {"value": 0}, f"{across}2": {"value": end}},
    }
    if along == "x":
        place = {"align": "center", "baseline": "bottom", "dy": -4 - _LINE_HEIGHT * guide.level}
    else:
        place = {"align": "left", "baseline": "bottom", "dx": 4, "dy": -2}
    text = _text(guide.text, place, {along: at, across: {"value": 0}})
    return {"data": _ONE_ROW, "layer": [rule, *([text] if guide.text else [])]}


def _note(note: str) -> Spec:
    place = {"align": "right", "baseline": "top", "dx": -5, "dy": 5}
    text = _text(note, place, {"x": {"value": "width"}, "y": {"value": 0}})
    return {"data": _ONE_ROW, **text}


def _text(text: str, place: Mapping[str, Any], at: Spec) -> Spec:
    look = {"color": GUIDE.expression, "fontSize": 11, "clip": False}
    mark = {"type": "text", "text": text, **look, **place}
    return {"mark": mark, "encoding": at}


def nothing() -> Spec:
    """An empty place in the grid."""
    mark = {"type": "point", "opacity": 0}
    return {"data": {"values": []}, "mark": mark, "view": {"stroke": None}}


__all__: Sequence[str] = ("Keys", "data_of", "nothing", "view_of")

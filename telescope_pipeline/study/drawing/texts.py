"""Words inside a panel: what guides mark, what a line or a band is, remarks.

A page draws the same panel as wide as it has room for. Texts are therefore laid out for a narrow
one; in a broad one they have room to spare.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from telescope_pipeline.study.drawing.colours import GUIDE
from telescope_pipeline.study.drawing.panels import Ends, Guide, Panel, Scale, place

LINE_HEIGHT = 13
_LETTER = 6.0
# The part of a panel's height that a line of text takes.
_TALL = 0.1
# With the fields of the panel's encoding, for want of which its row would be left out.
_ONE_ROW = {"values": [{"x": 1, "y": 1}]}

Spec = dict[str, Any]


def guides_of(panel: Panel, x: Ends, y: Ends, width: float) -> tuple[list[Spec], int]:
    """Describe the guides of a panel.

    Args:
        panel: The panel.
        x: Ends of its x axis.
        y: Ends of its y axis.
        width: The narrowest it is drawn at.

    Returns:
        Layers, and how many lines of text are above the panel.
    """
    layers: list[Spec] = []
    rows: list[float] = []
    inside = [guide for guide in panel.guides if _within(guide, x, y)]
    for guide in sorted((g for g in inside if g.axis == "x"), key=lambda g: g.at):
        middle = _part(guide.at, x, panel.x_scale) * width
        half = _LETTER * len(guide.text) / 2
        align = "left" if middle < half else "right" if middle > width - half else "center"
        start = middle - {"left": 0.0, "center": half, "right": 2 * half}[align]
        # Each text in the lowest row in which it touches no other.
        level = next((n for n, end in enumerate(rows) if start > end + _LETTER), len(rows))
        rows[level : level + 1] = [start + 2 * half]
        look = {"align": align, "baseline": "bottom", "dy": -4 - LINE_HEIGHT * level}
        layers.append(_guide(guide, look, {"x": {"datum": guide.at}, "y": {"value": 0}}))
    for guide in inside:
        if guide.axis == "y":
            layers.append(_guide(guide, *_beside(guide, panel, x, y, width)))
    return layers, len(rows)


def tags_of(panel: Panel, x: Ends, y: Ends) -> list[Spec]:
    """Describe the words that lines and bands have beside or in them."""
    layers = []
    for line, table in panel.shown:
        shown = table[table["x"].between(min(x), max(x))].dropna(subset=["y"])
        if not line.tag or shown.empty:
            continue
        parts = [_part(value, x, panel.x_scale) for value in shown["x"]]
        if line.width:
            at = min(range(len(parts)), key=lambda n: abs(parts[n] - 0.5))
            row, look = shown.iloc[at], {"align": "center", "baseline": "bottom", "dy": -6}
        else:
            heights = [
                abs(_part(high, y, panel.y_scale) - _part(low, y, panel.y_scale))
                for low, high in zip(shown["low"], shown["high"], strict=True)
            ]
            room = [
                h - 0.1 * abs(p - 0.5) if p <= 0.9 else 0.0
                for h, p in zip(heights, parts, strict=True)
            ]
            at = max(range(len(room)), key=room.__getitem__)
            if room[at] < 1.6 * _TALL:
                continue
            row, align = shown.iloc[at], _aligned(parts[at])
            look = {"align": align, "baseline": "middle"}
        places = {"x": {"datum": float(row["x"])}, "y": {"datum": float(row["y"])}}
        layers.append({"data": _ONE_ROW, **_text(line.tag, look, places)})
    return layers


def note_of(note: str) -> Spec:
    """Describe a remark in the upper right corner."""
    look = {"align": "right", "baseline": "top", "dx": -5, "dy": 5}
    return {"data": _ONE_ROW, **_text(note, look, {"x": {"value": "width"}, "y": {"value": 0}})}


def _aligned(part: float) -> str:
    """How a text at this part of an axis stays inside the panel."""
    return "left" if part < 0.3 else "right" if part > 0.7 else "center"


def _within(guide: Guide, x: Ends, y: Ends) -> bool:
    low, high = sorted(x if guide.axis == "x" else y)
    return low <= guide.at <= high


def _part(value: float, ends: Ends, scale: Scale) -> float:
    """Which part of an axis lies before a value."""
    first, last = ends
    if scale == "log" and min(value, first, last) <= 0:
        return 0.0
    constant = max(min(abs(end) for end in ends), 1.0)
    start, at, end = (place(v, scale, constant) for v in (max(first, -0.5), value, last))
    return (at - start) / (end - start) if end != start else 0.0


def _beside(
    guide: Guide, panel: Panel, x: Ends, y: Ends, width: float
) -> tuple[Spec, Mapping[str, Any]]:
    """Where the text of a horizontal guide is farthest from what is drawn."""
    level = _part(guide.at, y, panel.y_scale)
    drawings = [table for _, table in panel.shown]
    best, found = -math.inf, (0.0, 1)
    reach = _LETTER * len(guide.text) / width
    for side in (0.0, 1.0):
        for above in (1, -1):
            middle = level + above * 0.6 * _TALL
            room = min(middle - 0.4 * _TALL, 1 - middle - 0.4 * _TALL, 0.0)
            near = min(_distances(drawings, panel, (x, y), (side, reach), middle), default=1.0)
            # Rather to the left and above, where readers expect it.
            score = 10 * room + min(near, 2 * _TALL) - 0.01 * side - 0.01 * (above < 0)
            if score > best:
                best, found = score, (side, above)
    side, above = found
    look = {
        "align": "right" if side else "left",
        "baseline": "bottom" if above > 0 else "top",
        "dx": -4 if side else 4,
        "dy": -2 if above > 0 else 3,
    }
    return look, {"y": {"datum": guide.at}, "x": {"value": "width" if side else 0}}


def _distances(
    drawings: Iterable[pd.DataFrame],
    panel: Panel,
    ends: tuple[Ends, Ends],
    beside: tuple[float, float],
    middle: float,
) -> Iterable[float]:
    """How far above or below a text the lines pass, in parts of the panel's height."""
    for shown in drawings:
        for at, value in zip(shown["x"], shown["y"], strict=True):
            away = abs(_part(at, ends[0], panel.x_scale) - beside[0])
            if away <= beside[1] and not math.isnan(value):
                yield abs(_part(value, ends[1], panel.y_scale) - middle)


def _guide(guide: Guide, look: Spec, at: Mapping[str, Any]) -> Spec:
    """A guide and its text."""
    along, across = guide.axis, "y" if guide.axis == "x" else "x"
    end = {"x": "width", "y": "height"}[across]
    dash = [5, 4] if along == "x" else [1, 3]
    rule = {
        "mark": {"type": "rule", "strokeDash": dash, "color": GUIDE.expression, "clip": True},
        "encoding": {
            along: {"datum": guide.at},
            across: {"value": 0},
            f"{across}2": {"value": end},
        },
    }
    return {"data": _ONE_ROW, "layer": [rule, _text(guide.text, look, at)]}


def _text(text: str, look: Mapping[str, Any], at: Mapping[str, Any]) -> Spec:
    fixed = {"color": GUIDE.expression, "fontSize": 11, "clip": False}
    return {"mark": {"type": "text", "text": text, **fixed, **look}, "encoding": dict(at)}

"""An axis in Vega-Lite: its scale, where its ticks are and how numbers are written on it."""

from __future__ import annotations

import math
import textwrap
from typing import Any, Literal

from telescope_pipeline.study.drawing.panels import Ends, Panel, linear_part, place

# Letters of a title take this part of a panel's length.
_LETTER = 6.6
# Numbers at ticks take this much of an axis.
_NUMBERS = {"x": 44, "y": 26}
_POWERS = ["'⁰'", "'¹'", "'²'", "'³'", "'⁴'", "'⁵'", "'⁶'", "'⁷'", "'⁸'", "'⁹'"]
_EXPONENT = "round(log(datum.value) / LN10)"
_DIGITS = f"[{', '.join(_POWERS)}]"
_PLAIN = "datum.value === 0 || abs(datum.value) >= 1e-3 && abs(datum.value) < 1e5"
_POWER = (
    f"'10' + ({_EXPONENT} < 0 ? '⁻' : '')"
    f" + (abs({_EXPONENT}) > 9 ? {_DIGITS}[floor(abs({_EXPONENT}) / 10)] : '')"
    f" + {_DIGITS}[abs({_EXPONENT}) % 10]"
)
_IS_POWER = f"datum.value > 0 && abs(datum.value / pow(10, {_EXPONENT}) - 1) < 1e-9"
_LABEL = (
    f"{_PLAIN} ? format(datum.value, ',.4~r')"
    f" : {_IS_POWER} ? {_POWER} : replace(format(datum.value, '.2~e'), '+', '')"
)


def axis_of(field: Literal["x", "y"], panel: Panel, ends: Ends, length: float) -> dict[str, Any]:
    """Describe an axis.

    Args:
        field: Which one.
        panel: The panel.
        ends: Its ends.
        length: In the units of a description.

    Returns:
        The channel of an encoding.
    """
    title, scale = (panel.x, panel.x_scale) if field == "x" else (panel.y, panel.y_scale)
    described: dict[str, Any] = {"type": scale, "domain": list(ends), "nice": False}
    if scale == "linear":
        described["zero"] = False
    if scale == "symlog":
        described["constant"] = linear_part([panel])
    lines = textwrap.wrap(title, max(8, int(length / _LETTER))) or None
    words = lines[0] if lines and len(lines) == 1 else lines
    axis: dict[str, Any] = {"title": words, "labelExpr": _LABEL, "labelFlush": False}
    most = max(2, int(length / _NUMBERS[field]))
    if field == "x" and panel.ticks:
        axis |= {"values": _points(panel, ends, length), "labelOverlap": False}
    elif scale == "log":
        axis |= {"values": _powers(ends, most), "labelOverlap": False}
    else:
        axis["tickCount"] = min(5, most)
    return {
        "field": field,
        "type": "quantitative",
        # For want of a title, Vega-Lite would take the name of the field.
        "title": title or None,
        "scale": described,
        "axis": axis,
    }


def _powers(ends: Ends, most: int) -> list[float]:
    """Ticks at powers of ten: some where there are many, and between where there are few."""
    low, high = sorted(ends)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**k for k in range(first, last + 1) for m in steps]
        inside = [float(f"{t:.12g}") for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
        if 2 <= len(inside) <= most or (steps == (1, 2, 5) and len(inside) < 2):
            break
    if len(inside) < 2:
        return [float(f"{t:.3g}") for t in (low, math.sqrt(low * high), high)]
    every = math.ceil(len(inside) / max(most, 2))
    # From the upper end, where the last records are.
    return inside[::-1][::every][::-1]


def _points(panel: Panel, ends: Ends, length: float) -> list[float]:
    """Where the points are, without those whose labels would touch their neighbours'."""
    constant = linear_part([panel]) if panel.x_scale == "symlog" else 1.0

    def at(x: float) -> float:
        return place(x, panel.x_scale, constant)

    width = abs(at(max(ends)) - at(max(min(ends), 0.0) or min(ends)))
    kept: list[float] = []
    for x in sorted({float(x) for line in panel.lines for x in line.curve.iloc[:, 0]}):
        if (
            kept
            and at(x) - at(kept[-1]) < (3 + 3.5 * len(f"{x:,.4g}{kept[-1]:,.4g}")) / length * width
        ):
            continue
        kept.append(x)
    return kept

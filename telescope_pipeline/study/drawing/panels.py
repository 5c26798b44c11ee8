"""What a figure shows: lines with bands and guides, in panels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import pandas as pd

from telescope_pipeline.contract import Scalar
from telescope_pipeline.study.drawing.colours import Colour

Scale = Literal["linear", "log", "symlog"]
Ends = tuple[float, float]
Range = tuple[float | None, float | None]

SEED = "seed"
# As many records as this are a smooth line in a column of a paper.
_RECORDS = 90


@dataclass(frozen=True)
class Line:
    """A curve and, around it, a band of one standard error to either side.

    Attributes:
        curve: First column x, then ``mean`` and ``stderr``; ``low`` and ``high`` for another band,
            ``x_stderr`` for bars along x; ``seed0``, ``seed1``, ... for what single seeds show.
        colour: Of line and band.
        label: In the legend; a line without one is not in the legend.
        column: What the figure's table calls it; a line without one is not in the table.
        group: Columns of the table that tell its rows from those of other lines.
        unit: What is drawn is this many times what is in the table, e.g. 100 for per cent.
        width: Of the line; 0 for the band alone.
        dashed: Whether the line is.
        points: Whether its points are marked.
        hint: What it is called where its values are read; as in the legend if empty.
        opacity: Of the band.
        tag: Words beside the line, or in the band where there is no line.
    """

    curve: pd.DataFrame
    colour: Colour
    label: str = ""
    column: str = ""
    group: Mapping[str, Scalar] = field(default_factory=dict)
    unit: float = 1.0
    width: float = 1.9
    dashed: bool = False
    points: bool = False
    hint: str = ""
    opacity: float = 0.2
    tag: str = ""

    @property
    def look(self) -> tuple[object, ...]:
        """What lines have in common that are one entry of the legend."""
        return self.label, self.colour, self.width, self.dashed, self.points, self.opacity

    @property
    def seeds(self) -> list[str]:
        """The columns of single seeds; one alone is what the mean shows."""
        found = [str(name) for name in self.curve if str(name).startswith(SEED)]
        return found if len(found) > 1 else []

    @property
    def paint(self) -> dict[str, str]:
        """Its colour in Vega-Lite."""
        return self.colour.expression

    @property
    def dash(self) -> list[int]:
        """Lengths of its dashes and gaps."""
        return [6, 3] if self.dashed else [1, 0]


@dataclass(frozen=True)
class Guide:
    """A line across a panel: vertical and dashed at an x, or horizontal and dotted at a y.

    Attributes:
        at: Where it is.
        text: What it marks, above the panel or beside the line.
        axis: What ``at`` is on.
    """

    at: float
    text: str
    axis: Literal["x", "y"] = "x"


@dataclass(frozen=True)
class Panel:
    """A system of coordinates.

    Attributes:
        lines: What is drawn, the first below the others.
        title: Above it.
        x: What the x axis is.
        y: What the y axis is.
        x_scale: Of the x axis; a logarithmic one leaves out what is not positive.
        y_scale: Of the y axis, likewise.
        x_range: Ends of the x axis, None where they follow from the lines.
        y_range: Ends of the y axis, likewise.
        ticks: Whether the ticks of the x axis are where the points are, as suits few of them.
        guides: Lines across.
        note: A remark in the upper right corner.
    """

    lines: Sequence[Line]
    title: str = ""
    x: str = "training step"
    y: str = ""
    x_scale: Scale = "log"
    y_scale: Scale = "linear"
    x_range: Range = (None, None)
    y_range: Range = (None, None)
    ticks: bool = False
    guides: Sequence[Guide] = ()
    note: str = ""

    @cached_property
    def shown(self) -> list[tuple[Line, pd.DataFrame]]:
        """Every line with what the panel shows of it, as from :func:`drawn`."""
        return [(line, drawn(line, self)) for line in self.lines]


def drawn(line: Line, panel: Panel) -> pd.DataFrame:
    """What a panel shows of a line.

    Args:
        line: One of its lines.
        panel: The panel.

    Returns:
        Columns ``x``, ``y``, ``e`` (its standard error), ``low`` and ``high`` (the band), perhaps
        ``xe``, and those of seeds; in the unit of the panel, without what its scales cannot show,
        and without records closer to the one before than the eye can tell.
    """
    curve = line.curve
    y, e = (line.unit * curve[name].astype(float) for name in ("mean", "stderr"))
    shown = pd.DataFrame({"x": curve.iloc[:, 0].astype(float), "y": y, "e": e})
    if panel.x_scale == "log":
        shown = shown[shown["x"] > 0]
    if panel.y_scale == "log":
        shown = shown[shown["y"] > 0]
        # The same relative error to either side, so that the band stays above zero.
        spread = (shown["e"] / shown["y"]).map(math.exp)
        bounds = {"low": shown["y"] / spread, "high": shown["y"] * spread}
    else:
        bounds = {"low": shown["y"] - shown["e"], "high": shown["y"] + shown["e"]}
    if "low" in curve:
        bounds = {side: line.unit * curve.loc[shown.index, side] for side in bounds}
    if "x_stderr" in curve:
        bounds["xe"] = curve.loc[shown.index, "x_stderr"]
    for name in line.seeds:
        single = line.unit * curve.loc[shown.index, name].astype(float)
        bounds[name] = single.where(single > 0) if panel.y_scale == "log" else single
    shown = shown.assign(**bounds)
    return shown if line.points else shown[_spread_out(shown["x"], panel)]


def place(value: float, scale: Scale, constant: float = 1.0) -> float:
    """Where a value is along an axis, up to shift and stretch.

    Args:
        value: On the axis.
        scale: Of the axis.
        constant: Up to where a symmetric logarithmic one is linear.

    Returns:
        The position.
    """
    if scale == "linear":
        return value
    return math.log(value) if scale == "log" else math.log1p(value / constant)


def _spread_out(positions: pd.Series[float], panel: Panel) -> list[bool]:
    """Which records to draw: the last one, and those that are not too close to one drawn before."""
    if positions.empty:
        return []
    scale: Scale = "linear" if panel.x_scale == "linear" else "log"
    # Steps begin at 0, which has no place on a logarithmic axis; the first record comes first.
    at = [place(max(x, 0.5) if scale == "log" else x, scale) for x in positions]
    least = abs(at[-1] - at[0]) / _RECORDS
    kept = [len(at) - 1]
    for index in range(len(at) - 2, -1, -1):
        if abs(at[kept[-1]] - at[index]) >= least * (1 - 1e-9):
            kept.append(index)
    wanted = {0, *kept}
    if len(kept) > 1 and 0 not in kept and abs(at[kept[-1]] - at[0]) < least / 2:
        wanted -= {kept[-1]}
    return [index in wanted for index in range(len(at))]


def x_extent(panels: Sequence[Panel]) -> Ends:
    """Ends of an x axis that panels share."""
    shown = [table["x"] for panel in panels for _, table in panel.shown]
    values = pd.concat(shown) if shown else pd.Series([0.0, 1.0])
    ends = float(values.min()), float(values.max())
    if panels[0].x_scale == "symlog":
        return _either(panels[0].x_range, (ends[0] - 0.2 * linear_part(panels), ends[1] * 1.15))
    room = 0.04 if any(line.points for panel in panels for line in panel.lines) else 0.0
    return _either(panels[0].x_range, _padded(panels[0].x_scale, *ends, room))


def linear_part(panels: Sequence[Panel]) -> float:
    """Up to where a symmetric logarithmic x axis is linear: its smallest positive position."""
    shown = (line.curve.iloc[:, 0] for panel in panels for line in panel.lines)
    return float(min(x for positions in shown for x in positions if x > 0))


def y_extent(panels: Sequence[Panel], x: Sequence[Ends]) -> Ends:
    """Ends of a y axis that panels share.

    Args:
        panels: The panels.
        x: Ends of the x axis of each; what lies outside counts for nothing.

    Returns:
        The ends that the first panel fixes; the others from what is drawn, with a margin.
    """
    lows, highs = [], []
    for panel, ends in zip(panels, x, strict=True):
        for line, table in panel.shown:
            shown = table[table["x"].between(min(ends), max(ends))]
            own = shown[["low", "high", *line.seeds]]
            lows.append(own.min(axis=1))
            highs.append(own.max(axis=1))
    low = float(pd.concat(lows).min()) if lows else math.nan
    high = float(pd.concat(highs).max()) if highs else math.nan
    if math.isnan(low + high):
        return _either(panels[0].y_range, (0.1, 1.0))
    return _either(panels[0].y_range, _padded(panels[0].y_scale, low, high, 0.06))


def table_of(lines: Sequence[Line]) -> pd.DataFrame:
    """The numbers of all lines that have a column: x, what tells groups apart, the quantities.

    Args:
        lines: All lines of a figure.

    Returns:
        For every group, in the order of the lines, the columns ``q`` and ``q_stderr`` of each of
        its quantities.
    """
    groups: dict[tuple[tuple[str, Scalar], ...], pd.DataFrame] = {}
    for line in lines:
        if not line.column:
            continue
        x = str(line.curve.columns[0])
        start = pd.DataFrame({x: line.curve[x], **line.group})
        table = groups.setdefault(tuple(line.group.items()), start)
        table[line.column] = line.curve["mean"]
        table[f"{line.column}_stderr"] = line.curve["stderr"]
    return pd.concat(groups.values(), ignore_index=True) if groups else pd.DataFrame()


def _either(given: Range, found: Ends) -> Ends:
    low, high = (own if own is not None else other for own, other in zip(given, found, strict=True))
    return low, high


def _padded(scale: Scale, low: float, high: float, room: float) -> Ends:
    """A little room around what an axis shows, on its own scale."""
    if scale == "log":
        if low == high:
            return low / 2, high * 2
        factor = (high / low) ** room
        return low / factor, high * factor
    added = room * (high - low) or (abs(high) or 1.0) * 0.5 * (low == high)
    return low - added, high + added

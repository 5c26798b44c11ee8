"""Charts out of the tables beside the pictures.

The tables have one form: first the column of the x axis, then perhaps columns that tell groups of
rows apart, then pairs of a quantity and its standard error, ``q`` and ``q_stderr``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from telescope_core.trackers.protocol import Cell
from telescope_pipeline.report.chart_names import (
    Measure,
    colours_of,
    measure_of,
    readable,
    series_label,
)

_SUFFIX = "_stderr"
_MOST_PANELS, _MOST_CURVES = 24, 10
# Where an axis spans more than this factor it is logarithmic.
_WIDE = 20.0
# With 0 among so few positions, leaving it out would hide a measurement.
_FEW = 12

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Curve:
    """A line of a panel.

    Attributes:
        legend: Its position in the legend.
        values: One per x, None where there is none.
        errors: Their standard errors; None if the values are exact.
    """

    legend: int
    values: Values
    errors: Values | None


@dataclass(frozen=True)
class Panel:
    """A system of coordinates; ``title`` tells it from the others of its row."""

    title: str
    x: tuple[float, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Row:
    """Panels that share a y axis, which is ``label``; perhaps a logarithmic one."""

    label: str
    log: bool
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Chart:
    """A figure's numbers, arranged for drawing.

    Attributes:
        x_label: What the x axis is.
        x_scale: ``"linear"``, ``"log"`` or ``"symlog"``.
        legend_title: What the entries of the legend are, if they are values; else empty.
        legend: Label and colour of each entry; values have an empty colour, since theirs follows
            from their position.
        rows: The panels.
    """

    x_label: str
    x_scale: str
    legend_title: str
    legend: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]

    @property
    def size(self) -> int:
        """How many panels there are."""
        return sum(len(row.panels) for row in self.rows)

    def to_json(self) -> str:
        """Write it for the page's script; safe inside a script element.

        Numbers have eight significant digits, so that rounding them once more for a reader is the
        same as rounding the original.
        """
        rows = [
            {"label": row.label, "log": row.log, "panels": [_panel_json(p) for p in row.panels]}
            for row in self.rows
        ]
        content = {
            "x": {"label": self.x_label, "scale": self.x_scale},
            "legendTitle": self.legend_title,
            "legend": self.legend,
            "rows": rows,
        }
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def chart_of(names: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Chart | None:
    """Arrange a table as a chart.

    Groups told apart by a number, such as widths, are lines, with one panel per quantity.  Groups
    told apart by words are panels, with a line per quantity; quantities that measure the same share
    their panels.

    Args:
        names: Names of the columns.
        rows: Rows of cells.

    Returns:
        The chart, or None for a table of another form or one that takes too many lines or panels
        to be read.
    """
    quantities = [name for name in names if f"{name}{_SUFFIX}" in names]
    if not quantities or not rows:
        return None
    first = names.index(quantities[0])
    keys, measured = names[1:first], names[first:]
    if first == 0 or any(_is_position(quantity) for quantity in quantities):
        return None
    if any(n.removesuffix(_SUFFIX) not in quantities for n in measured):
        return None
    groups = _groups(rows, len(keys), first)
    if groups is None or not all(
        _is_number(cell) for row in rows for cell in row[first:] if cell is not None
    ):
        return None
    tables = {group: _Table(names, part) for group, part in groups.items()}
    numbered = len(keys) == 1 and all(_is_number(group[0]) for group in groups)
    drawn = _by_value(keys[0], tables, quantities) if numbered else _by_group(tables, quantities)
    legend_title, legend, found = drawn
    panels = [panel for row in found for panel in row.panels]
    if not panels or max(len(panel.curves) for panel in panels) > _MOST_CURVES:
        return None
    positions = sorted({x for panel in panels for x in panel.x})
    chart = Chart(readable(names[0]), _scale(positions), legend_title, legend, found)
    return chart if chart.size <= _MOST_PANELS else None


class _Table:
    """The rows of one group, by x."""

    def __init__(self, names: Sequence[str], rows: dict[float, Sequence[Cell]]) -> None:
        self.x = tuple(rows)
        self._names = names
        self._rows = rows

    def curve(self, legend: int, column: str, x: Sequence[float]) -> Curve | None:
        """A column as a curve over other positions; None if there is nothing in it."""
        values = self._cells(column, x)
        if all(value is None for value in values):
            return None
        errors = self._cells(column + _SUFFIX, x)
        return Curve(legend, values, errors if any(errors) else None)

    def _cells(self, column: str, x: Sequence[float]) -> Values:
        place = self._names.index(column)
        cells = (self._rows[at][place] if at in self._rows else None for at in x)
        return tuple(None if cell is None else _number(cell) for cell in cells)


_Group = tuple[Cell, ...]
_Drawn = tuple[str, tuple[tuple[str, str], ...], tuple[Row, ...]]


def _groups(
    rows: Sequence[Sequence[Cell]], keys: int, first: int
) -> dict[_Group, dict[float, Sequence[Cell]]] | None:
    """Rows by group, in the order of the table, and by x, ascending; None if two coincide."""
    groups: dict[_Group, dict[float, Sequence[Cell]]] = {}
    for row in rows:
        if not _is_number(row[0]) or first != keys + 1:
            return None
        group = groups.setdefault(tuple(row[1:first]), {})
        position = _number(row[0])
        if position in group:
            return None
        group[position] = row
    return {name: dict(sorted(group.items())) for name, group in groups.items()}


def _by_value(key: str, tables: dict[_Group, _Table], quantities: Sequence[str]) -> _Drawn:
    order = sorted(tables, key=lambda group: _number(group[0]))
    x = sorted({position for table in tables.values() for position in table.x})
    rows: dict[Measure, list[Panel]] = {}
    for quantity in quantities:
        measure, parts = measure_of(quantity)
        found = (tables[group].curve(n, quantity, x) for n, group in enumerate(order))
        curves = tuple(curve for curve in found if curve is not None)
        if curves:
            panel = Panel(series_label(parts), tuple(x), curves)
            rows.setdefault(measure, []).append(panel)
    legend = tuple((f"{_number(group[0]):g}", "") for group in order)
    return readable(key), legend, tuple(_row(m.label, m, panels) for m, panels in rows.items())


def _by_group(tables: dict[_Group, _Table], quantities: Sequence[str]) -> _Drawn:
    series: dict[Measure, dict[str, tuple[str, ...]]] = {}
    for quantity in quantities:
        measure, parts = measure_of(quantity)
        series.setdefault(measure, {})[quantity] = parts
    entries: dict[str, tuple[str, ...]] = {}
    rows = []
    for measure, columns in series.items():
        shared, own = _split(columns)
        labels = {q: series_label(parts) or measure.label for q, parts in own.items()}
        for quantity, label in labels.items():
            entries.setdefault(label, own[quantity])
        order = list(entries)
        panels = []
        for group, table in tables.items():
            found = (table.curve(order.index(labels[q]), q, table.x) for q in columns)
            curves = tuple(curve for curve in found if curve is not None)
            if curves:
                title = ", ".join(readable(str(part)) for part in group)
                panels.append(Panel(title, table.x, curves))
        label = ", ".join(filter(None, (measure.label, series_label(shared))))
        if panels:
            rows.append(_row(label, measure, panels))
    legend = tuple(zip(entries, colours_of(list(entries.values())), strict=True))
    return "", legend, tuple(rows)


def _split(
    columns: dict[str, tuple[str, ...]],
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Take off the first part of the names if all share it, e.g. ``test``.

    A name without another part, among others, is that of the network itself.
    """
    firsts = {parts[:1] for parts in columns.values()}
    if len(columns) < 2 or len(firsts) > 1 or not all(columns.values()):
        return (), columns
    return firsts.pop(), {name: parts[1:] or ("network",) for name, parts in columns.items()}


def _row(label: str, measure: Measure, panels: list[Panel]) -> Row:
    values = [v for panel in panels for c in panel.curves for v in c.values if v is not None]
    positive = [value for value in values if value > 0]
    wide = bool(positive) and min(values) >= measure.least and max(positive) > _WIDE * min(positive)
    return Row(label, measure.log and wide, tuple(panels))


def _is_position(quantity: str) -> bool:
    """Whether a quantity is one position of a sweep laid out in columns, ``..._0.2500``."""
    return re.search(r"_\d+\.\d+$", quantity) is not None


def _scale(positions: list[float]) -> str:
    positive = [x for x in positions if x > 0]
    if positions[0] < 0 or len(positive) < 2 or positive[-1] <= _WIDE * positive[0]:
        return "linear"
    return "symlog" if len(positive) < len(positions) <= _FEW else "log"


def _panel_json(panel: Panel) -> dict[str, object]:
    curves = [
        [curve.legend, _rounded(curve.values), curve.errors and _rounded(curve.errors)]
        for curve in panel.curves
    ]
    return {"title": panel.title, "x": _rounded(panel.x), "curves": curves}


def _rounded(values: Sequence[float | None]) -> list[float | int | None]:
    """Numbers without the digits that nobody sees; whole ones without their point."""
    short = (None if value is None else float(f"{value:.8g}") for value in values)
    return [int(v) if v is not None and v.is_integer() and abs(v) < 1e15 else v for v in short]


def _is_number(value: Cell) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Cell) -> float:
    assert isinstance(value, int | float)
    return float(value)

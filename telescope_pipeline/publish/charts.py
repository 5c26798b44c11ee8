"""A figure's own description as a chart that a server draws from a table of the run.

The description holds its data; here they become one table, in which a column says which of its
data sets a row belongs to, and every view of the description picks the rows that were its own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from telescope_core.trackers.protocol import Cell
from telescope_pipeline.publish.record import ChartRecord

DATA = "wandb"
"""What the data are called that a chart at Weights & Biases is drawn from."""

_PART = "part"
# Where Vega-Lite names a column outside an expression.
_NAMED = ("field", "groupby", "fields", "fold")


def chart_of(key: str, title: str, chart: Mapping[str, Any]) -> ChartRecord:
    """Separate how a chart is drawn from what it shows.

    Args:
        key: Its name in the run.
        title: What it shows.
        chart: The figure's description in Vega-Lite, with its data.

    Returns:
        The chart; ``spec`` names each column as ``${field:<column>}``.
    """
    parts: dict[str, list[dict[str, Cell]]] = {}
    named = {name: _rows(data) for name, data in chart.get("datasets", {}).items()}
    rest = {name: value for name, value in chart.items() if name != "datasets"}
    spec = _detached(rest, named, parts)
    names = {name: None for rows in parts.values() for row in rows for name in row}
    everything = [row for rows in parts.values() for row in rows]
    cells = {name: _alike([row.get(name) for row in everything]) for name in names}
    belongs = [part for part, rows in parts.items() for _ in rows]
    columns = (_PART, *names)
    rows = tuple(zip(belongs, *cells.values(), strict=True))
    return ChartRecord(key, title, _templated(spec, set(names)), columns, rows)


def _detached(spec: Any, named: Mapping[str, list[dict[str, Cell]]], parts: dict[str, Any]) -> Any:
    """Put rows of one table in the place of every view's data, which ``parts`` collects."""
    if isinstance(spec, list):
        return [_detached(inner, named, parts) for inner in spec]
    if not isinstance(spec, Mapping):
        return spec
    found = {name: _detached(x, named, parts) for name, x in spec.items() if name != "data"}
    data = spec.get("data")
    if not isinstance(data, Mapping):
        return found if data is None else {**found, "data": data}
    # A single row is a place for a mark or a text.
    if len(data.get("values", ())) > 1:
        part, rows = f"data{len(parts) + 1}", _rows(data["values"])
    elif data.get("name") in named:
        part, rows = str(data["name"]), named[data["name"]]
    else:
        return {**found, "data": data}
    parts[part] = rows
    own = {"filter": f"datum['${{field:{_PART}}}'] === '{part}'"}
    return {**found, "data": {"name": DATA}, "transform": [own, *found.get("transform", [])]}


def _templated(spec: Any, columns: set[str], named: bool = False) -> Any:
    if isinstance(spec, list):
        return [_templated(inner, columns, named) for inner in spec]
    if isinstance(spec, Mapping):
        return {name: _templated(x, columns, name in _NAMED) for name, x in spec.items()}
    return f"${{field:{spec}}}" if named and spec in columns else spec


def _rows(data: Any) -> list[dict[str, Cell]]:
    """Rows from text in CSV or from mappings."""
    if not isinstance(data, str):
        return [dict(row) for row in data if isinstance(row, Mapping)]
    return [
        {name: _typed(field) for name, field in row.items()}
        for row in csv.DictReader(io.StringIO(data, newline=""))
    ]


def _alike(column: list[Cell]) -> list[Cell]:
    """The server's tables take one kind of value a column."""
    if any(isinstance(cell, str) for cell in column):
        return [None if cell is None else str(cell) for cell in column]
    return column


def _typed(field: str) -> Cell:
    with suppress(ValueError):
        return float(field)
    return field or None

"""Nested metrics as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from telescope_pipeline.report.entries import is_estimate, text_of, with_errors
from telescope_pipeline.report.words import words_of

_LEAST_SHARED = 0.5
# With more columns than these and fewer rows, rows and columns change places.
_MOST_COLUMNS = 10


@dataclass(frozen=True)
class MetricsTable:
    """A table of numbers.

    Attributes:
        title: What its rows are; may be empty.
        columns: The names of the columns, without that of the row's name.
        rows: The name of each row and its cells, empty where there is no number.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def has_errors(self) -> bool:
        """Whether some number has a standard error, beside which the others line up."""
        return any(" ± " in cell for _, cells in self.rows for cell in cells)


def tables_of(metrics: Mapping[str, Any]) -> list[MetricsTable]:
    """Arrange nested metrics in tables.

    Mappings whose entries are mappings with much the same keys become one table with a row each,
    or with a column each if there are many keys;
    everything else becomes a table with one number per row.

    Args:
        metrics: Nested mappings of numbers, as in ``metrics.json``.

    Returns:
        The tables, those with single numbers first.
    """
    if _is_grid(metrics):
        return [_grid("", metrics)]
    plain = {key: value for key, value in metrics.items() if not isinstance(value, Mapping)}
    tables = [_column("", plain)] if plain else []
    for key, value in metrics.items():
        if isinstance(value, Mapping) and value:
            tables.append(
                _grid(words_of(key), value) if _is_grid(value) else _column(words_of(key), value)
            )
    return tables


def _is_grid(values: Mapping[str, Any]) -> bool:
    parts = [value for value in values.values() if isinstance(value, Mapping)]
    inner = [set(_flat(part)) for part in parts if not is_estimate(part)]
    if len(inner) < len(values) or len(inner) < 2:
        return False
    shared, all_keys = set.intersection(*inner), set.union(*inner)
    return len(shared) >= _LEAST_SHARED * len(all_keys) > 0


def _grid(title: str, values: Mapping[str, Any]) -> MetricsTable:
    rows = {name: _flat(value) for name, value in values.items()}
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    if len(rows) < len(columns) > _MOST_COLUMNS:
        lines = ((key, tuple(row.get(key, "") for row in rows.values())) for key in columns)
        names = tuple(words_of(name) for name in rows)
        return MetricsTable(f"metric, by {title or 'setting'}", names, tuple(lines))
    return MetricsTable(
        title,
        tuple(columns),
        tuple((words_of(n), tuple(row.get(key, "") for key in columns)) for n, row in rows.items()),
    )


def _column(title: str, values: Mapping[str, Any]) -> MetricsTable:
    return MetricsTable(title, ("value",), tuple((k, (v,)) for k, v in _flat(values).items()))


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    return dict(_walk("", values))


def _walk(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in with_errors(values).items():
        name = f"{prefix}{words_of(key)}"
        if isinstance(value, Mapping) and not is_estimate(value):
            yield from _walk(f"{name}: ", value)
        else:
            yield name, text_of(value)

"""What the stages before left to publish."""

from __future__ import annotations

import csv
import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.errors import ArtifactError
from telescope_core.trackers.protocol import Cell
from telescope_pipeline.store import files
from telescope_pipeline.store.folders import Layout

if TYPE_CHECKING:
    import pandas as pd

_IDENTITY = ("member", "group", "seed")
_CLAIM_FIELDS = {"id", "statement", "source", "observed", "threshold", "holds"}
_FIGURE_FIELDS = {"name", "title", "caption"}


@dataclass(frozen=True)
class FigureFiles:
    """A figure of a case.

    Attributes:
        name: File stem of the picture and the table.
        title: What it shows, in a few words.
        caption: What a reader should see in it.
        picture: The PNG.
        table: The CSV.
        chart: How it is drawn, in Vega-Lite.
        see: What to look at, in one sentence; may be empty.
        key: Numbers of the panels that say the most; all if empty.
    """

    name: str
    title: str
    caption: str
    picture: Path
    table: Path
    chart: dict[str, Any]
    see: str = ""
    key: tuple[int, ...] = ()


@dataclass(frozen=True)
class CaseResults:
    """The results of one case, read from its folder.

    Attributes:
        metrics: Nested numbers.
        claims: One mapping per claim: id, statement, source, observed, threshold, holds.
        figures: The figures, in the order in which they were drawn.
        question: What the case asks.
        headline: What was found, in one sentence.
    """

    metrics: dict[str, Any]
    claims: list[dict[str, Any]]
    figures: list[FigureFiles]
    question: str
    headline: str


def read_numbers(layout: Layout, case_name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read the numbers of a case.

    Returns:
        The metrics and the claims, as in :class:`CaseResults`.

    Raises:
        ArtifactError: If a file is missing, damaged or not what its stage writes.
    """
    folder = layout.results(case_name)
    metrics = files.read_json(folder / "metrics.json")
    if not isinstance(metrics, dict):
        raise ArtifactError(f"{folder / 'metrics.json'}: expected a mapping; run metrics again")
    path = folder / "claims.json"
    return metrics, _entries(path, files.read_json(path), _CLAIM_FIELDS, "metrics")


def read_results(layout: Layout, case_name: str) -> CaseResults:
    """Read what ``metrics`` and ``plot`` wrote, and see that the figures' files are there.

    Returns:
        The metrics, the claims and the figures.

    Raises:
        ArtifactError: If a file is missing, damaged or not what its stage writes.
    """
    folder = layout.results(case_name)
    metrics, claims = read_numbers(layout, case_name)
    path = folder / "figures.json"
    drawn = files.read_json(path)
    drawn = drawn if isinstance(drawn, dict) else {}
    figures = [
        FigureFiles(
            picture=folder / "plots" / f"{entry['name']}.png",
            table=folder / "plots" / f"{entry['name']}.csv",
            chart=entry["chart"],
            see=str(entry.get("see", "")),
            key=tuple(number for number in entry.get("key", ()) if isinstance(number, int)),
            **{field: str(entry[field]) for field in sorted(_FIGURE_FIELDS)},
        )
        for entry in _entries(path, drawn.get("figures"), _FIGURE_FIELDS | {"chart"}, "plot")
    ]
    for figure in figures:
        for file in (figure.picture, figure.table):
            if not file.is_file():
                raise ArtifactError(f"{file}: no such file; run the plot stage again")
    words = (str(drawn.get(name, "")) for name in ("question", "headline"))
    return CaseResults(metrics, claims, figures, *words)


def read_history(layout: Layout, case_name: str) -> tuple[pd.DataFrame, list[str]]:
    """Read the history of a case.

    Returns:
        The table, and the names of its sweep values.

    Raises:
        ArtifactError: If it is missing, damaged or lacks the columns that tell members apart.
    """
    path = layout.results(case_name) / "history.parquet"
    history = files.read_parquet(path)
    columns = list(history.columns)
    if tuple(columns[: len(_IDENTITY)]) != _IDENTITY or "step" not in columns:
        raise ArtifactError(f"{path}: not a case history; run the metrics stage again")
    return history, columns[len(_IDENTITY) : columns.index("step")]


def read_table(path: Path) -> tuple[tuple[str, ...], tuple[tuple[Cell, ...], ...]]:
    """Read a figure's CSV; numbers as they were written, to the last bit.

    Returns:
        Column names, and rows of text, numbers, booleans and None where a field is empty.

    Raises:
        ArtifactError: If it is missing or not CSV.
    """  # noqa: DOC501  # caught below
    try:
        text = files.read_bytes(path).decode()
        names, *lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        columns = [_typed(column) for column in zip(*lines, strict=True)]
        if lines and len(columns) != len(names):
            raise ValueError(f"{len(names)} names for {len(columns)} columns")
    except (ValueError, csv.Error) as error:
        raise ArtifactError(
            f"{path}: not a CSV table ({error}); run the plot stage again"
        ) from None
    return tuple(names), tuple(zip(*columns, strict=True))


def _typed(column: tuple[str, ...]) -> list[Cell]:
    """Read a column as the plainest type that fits every field; an empty field fits all."""
    for read in (int, float, _boolean):
        with suppress(ValueError):
            return [read(field) if field else None for field in column]
    return [field or None for field in column]


def _boolean(field: str) -> bool:
    if field not in ("True", "False"):
        raise ValueError(field)
    return field == "True"


def _entries(path: Path, entries: Any, fields: set[str], stage: str) -> list[dict[str, Any]]:
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and fields <= entry.keys() for entry in entries
    ):
        expected = ", ".join(sorted(fields))
        raise ArtifactError(f"{path}: expected entries with {expected}; run {stage} again")
    return entries

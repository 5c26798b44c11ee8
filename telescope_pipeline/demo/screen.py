"""The demo's run on a terminal, numbers and curves moving; elsewhere some lines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.contract import Progress as Told
from telescope_pipeline.contract import Recorded

Row = Mapping[str, int | float]

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40
_EVERY = 8
_COLOURS = {"train": "blue", "test": "dark_orange"}


@contextmanager
def watched(case: GrokkingPolynomialCase) -> Iterator[tuple[Told, Recorded]]:
    """Show a run of a case while the block trains.

    Args:
        case: What is trained.

    Yields:
        What to tell of finished steps, and of records.
    """
    console = Console()
    rows: list[Row] = []
    if not console.is_terminal:

        def say(row: Row) -> None:
            rows.append(row)
            if len(rows) % _EVERY == 1 or row["step"] == case.training.steps:
                numbers = ", ".join(f"{label} {value:.3g}" for label, value in _named(row))
                print(f"step {row['step']:>5}: {numbers}", flush=True)

        yield (lambda done, total: None), say
        return
    bar = Progress(
        TextColumn("[bold]training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeRemainingColumn(),
        console=console,
    )
    task = bar.add_task("", total=case.training.steps)
    with Live(bar, console=console, refresh_per_second=12) as live:

        def record(row: Row) -> None:
            rows.append(row)
            live.update(Group(bar, _table(rows)))

        yield (lambda done, total: bar.update(task, completed=done)), record


def _named(row: Row) -> Iterator[tuple[str, float]]:
    for name in _COLOURS:
        yield f"{name} error", row[f"{name}/mse"]
    for name in _COLOURS:
        yield f"p_{name}", row[f"{name}/effective_parameters"]


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    labels = [label for label, _ in _named(rows[0])]
    columns = list(zip(*([value for _, value in _named(row)] for row in rows), strict=True))
    # Train and test have one scale; errors fall by orders of magnitude.
    logarithms = [[math.log(max(value, 1e-12)) for value in column] for column in columns[:2]]
    for curves, first in ((logarithms, 0), (columns[2:], 2)):
        both = [value for curve in curves for value in curve]
        for number, (curve, colour) in enumerate(
            zip(curves, _COLOURS.values(), strict=True), first
        ):
            bars = f"[{colour}]{sparkline(curve, min(both), max(both))}"
            table.add_row(labels[number], f"{columns[number][-1]:.3g}", bars)
    return table


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """A curve as a row of bars.

    Args:
        values: The curve; thinned evenly if it is long.
        low: What the shortest bar is.
        high: What the longest bar is.

    Returns:
        At most forty characters.
    """
    width = min(len(values), _WIDTH)
    shown = (values[number * len(values) // width] for number in range(width))
    part = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * part)] for value in shown)

"""Figures of the large-scale case."""

from __future__ import annotations

import pandas as pd

from telescope_pipeline.cases.large_scale.metrics import (
    EFFECTIVE,
    LAZY,
    TELESCOPED,
    allowed_by_count,
)
from telescope_pipeline.cases.large_scale.schema import LargeScaleCase
from telescope_pipeline.cases.large_scale.sweep import counted, group_name
from telescope_pipeline.contract import Figure
from telescope_pipeline.study import drawing
from telescope_pipeline.study.drawing import (
    MODELS,
    Guide,
    Line,
    Panel,
    about,
    bands,
    figure,
    measured,
    shades,
    times,
)
from telescope_pipeline.study.findings.statistics import final_rows

QUESTION = (
    "Can training on a million streamed rows be followed at a cost that does not depend on their "
    "number?"
)
_WAYS = {"predictions": "predictions only", "probes": "label directions"}


def headline(case: LargeScaleCase, history: pd.DataFrame) -> str:
    """What following costs at the largest size, and how close the telescoped predictions stay."""
    final = final_rows(history)
    most = max(case.data.rows)
    part = final[final["group"] == group_name(most)]
    over = {way: float((part[counted(way)] / part[counted("plain")]).mean()) for way in _WAYS}
    error = float(part[TELESCOPED].mean())
    return (
        f"With {most:,} streamed rows a step takes {times(over['predictions'])} the operations of "
        f"plain training for predictions, and {times(over['probes'])} with {case.lens.probes} "
        f"label directions; the telescoped predictions end {about(error)} from the network's."
    )


def draw(case: LargeScaleCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case."""
    final = final_rows(history)
    for way in _WAYS:
        final[f"over_plain/{way}"] = final[counted(way)] / final[counted("plain")]
    sizes = sorted(case.data.rows)
    return [
        figure(
            "operations-by-rows",
            "Operations of a step over those of plain training, by training rows",
            "Multiplications of matrix products, counted over one block. Dotted: what the products "
            f"with {case.lens.probes} label directions need at least. {bands(case.seeds)}",
            [(_by_rows(case, final),)],
            see="Lines that are level: the cost does not depend on the number of training rows.",
            height=170,
        ),
        figure(
            "approximation-error",
            "Distance of each model from the network's test predictions, over training",
            "Mean absolute difference from the network's predictions on test points of the "
            "telescoped predictions and of the linearisation at initialisation. "
            + bands(case.seeds),
            [tuple(_errors(rows, _of(history, rows)) for rows in sizes)],
            see="The lower a line, the better it explains the network.",
            height=150,
            share_y="row",
        ),
        figure(
            "effective-parameters",
            "Effective parameters on test points, over training",
            f"Estimated from {case.lens.probes} label directions whose signs are made when a row "
            "is met. A row that was not seen yet has no influence, while the count is relative to "
            f"all rows: at equal steps it grows with their number. {bands(case.seeds)}",
            [(_effective(case, history),)],
            see="Lines that keep their distance: what was seen is the same, and only n differs.",
            height=170,
        ),
    ]


def _by_rows(case: LargeScaleCase, final: pd.DataFrame) -> Panel:
    lines = [
        Line(
            measured(final, f"over_plain/{way}", "rows"),
            drawing.TELESCOPED[number],
            label,
            f"{way}_over_plain",
            points=True,
        )
        for number, (way, label) in enumerate(_WAYS.items())
    ]
    return Panel(
        lines,
        x="training rows",
        y="operations over plain",
        y_scale="log",
        ticks=True,
        guides=[Guide(allowed_by_count(case), "needed", axis="y")],
    )


def _errors(rows: int, part: pd.DataFrame) -> Panel:
    sources = {"linearization_error": LAZY, "approximation_error": TELESCOPED}
    lines = [
        Line(measured(part, source), *MODELS[name], name, {"setting": group_name(rows)})
        for name, source in sources.items()
    ]
    return Panel(lines, title=f"{rows:,} rows", y="mean absolute error, test", y_scale="log")


def _effective(case: LargeScaleCase, history: pd.DataFrame) -> Panel:
    sizes = sorted(case.data.rows)
    lines = [
        Line(
            measured(_of(history, rows), EFFECTIVE),
            colour,
            f"{rows:,} rows",
            "test_effective_parameters",
            {"setting": group_name(rows)},
        )
        for rows, colour in zip(sizes, shades(len(sizes)), strict=True)
    ]
    return Panel(lines, y="effective parameters", y_scale="log")


def _of(history: pd.DataFrame, rows: int) -> pd.DataFrame:
    part: pd.DataFrame = history[history["group"] == group_name(rows)]
    return part[part["step"] > 0]

"""Figures of the double-descent case."""

from __future__ import annotations

from typing import Any

import pandas as pd

from telescope_pipeline.cases.double_descent.metrics import interpolation_threshold
from telescope_pipeline.cases.double_descent.schema import DoubleDescentCase
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import (
    Guide,
    Line,
    Panel,
    bands,
    between,
    figure,
    measured,
    model_errors,
    on_sets,
    shades,
)
from telescope_pipeline.study.findings.statistics import final_rows, shared_steps

QUESTION = (
    "Does test error peak where training error vanishes, and what do effective parameters on train "
    "and test points do there?"
)
_WIDTH = "width of the hidden layer"


def draw(case: DoubleDescentCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case."""
    final = final_rows(history)
    threshold = interpolation_threshold(final, case.claims.interpolation_mse)
    return [
        _width_sweep(case, final, threshold),
        _trajectories(case, history),
        _approximation(case, final),
    ]


def _width_sweep(case: DoubleDescentCase, final: pd.DataFrame, threshold: float | None) -> Figure:
    errors = on_sets(final, "mse", by="width", points=True)
    complexity = on_sets(final, "effective_parameters", by="width", points=True)
    marks = [] if threshold is None else [threshold]
    guides = [Guide(mark, "interpolation threshold") for mark in marks]
    shared: dict[str, Any] = {"x": _WIDTH, "y_range": (0, None), "ticks": True}
    above = Panel(errors, y="mean squared error", guides=guides, **shared)
    below = Panel(
        [between(*complexity), *complexity],
        y="effective parameters",
        guides=[Guide(mark) for mark in marks],
        **shared,
    )
    return figure(
        "errors-and-effective-parameters",
        "Errors and effective parameters by width, after training",
        f"{case.data.description}, after training. Top: error by width; the dashed line marks "
        f"where train error falls to {case.claims.interpolation_mse:g}. Bottom: effective "
        f"parameters used on training and on test points. {bands(case.seeds)}",
        [[above], [below]],
        size=(500, 200),
    )


def _trajectories(case: DoubleDescentCase, history: pd.DataFrame) -> Figure:
    widths = sorted(int(width) for width in history["width"].unique())
    parts = {width: shared_steps(history[history["width"] == width]) for width in widths}
    # The first ten steps only show the random initialisation.
    first = 10 if history["step"].max() >= 1000 else 1
    panels = {
        "test/mse": "test mean squared error",
        "train/effective_parameters": "effective parameters, train",
        "test/effective_parameters": "effective parameters, test",
    }
    return figure(
        "trajectories",
        "Test error and effective parameters over training, by width",
        "Test error and effective parameters on training and test points over training, one line "
        f"per width (darker is wider). {bands(case.seeds)}",
        [
            [
                Panel(
                    [
                        Line(
                            measured(parts[width], column),
                            colour,
                            f"{width}",
                            column.replace("/", "_"),
                            {"width": width},
                        )
                        for width, colour in zip(widths, shades(len(widths)), strict=True)
                    ],
                    title=label,
                    x_range=(first, None),
                    y_range=(0, None),
                )
                for column, label in panels.items()
            ]
        ],
        size=(230, 210),
        legend_title="width",
        legend_columns=0,
    )


def _approximation(case: DoubleDescentCase, final: pd.DataFrame) -> Figure:
    panel = Panel(
        model_errors(final, by="width", points=True),
        x=_WIDTH,
        y="mean absolute error on test points",
        y_scale="log",
        ticks=True,
    )
    return figure(
        "approximation-error",
        "How well each model explains the trained network's test predictions",
        "Mean absolute difference from the network's test predictions after training, by width, of "
        "the lazy linearisation, of the telescoped predictions and of the smoother that the "
        f"effective parameters are computed from. {bands(case.seeds)}",
        [[panel]],
        size=(500, 240),
    )

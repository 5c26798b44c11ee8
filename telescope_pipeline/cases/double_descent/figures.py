"""Figures of the double-descent case."""

from __future__ import annotations

from typing import Any

import pandas as pd

from telescope_pipeline.cases.double_descent.metrics import interpolation_threshold
from telescope_pipeline.cases.double_descent.schema import DoubleDescentCase
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import (
    SETS,
    Guide,
    Line,
    Panel,
    about,
    bands,
    between,
    counted,
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


def headline(case: DoubleDescentCase, history: pd.DataFrame) -> str:
    """Where test error peaks and training error vanishes, and what the two counts do beyond."""
    final = final_rows(history)
    error = measured(final, "test/mse", "width")
    widths = [int(width) for width in error["width"]]
    peak = widths[int(error["mean"].argmax())]
    threshold = interpolation_threshold(final, case.claims.interpolation_mse)
    at = "at an end of the sweep" if peak in (widths[0], widths[-1]) else "inside the sweep"
    counts = [measured(final, f"{name}/effective_parameters", "width") for name in SETS]
    first, last = ([float(c["mean"].iloc[n]) for c in counts] for n in (widths.index(peak), -1))
    from_to = [f"{counted(a)} to {counted(b)}" for a, b in zip(first, last, strict=True)]
    vanishes = "at no width" if threshold is None else f"at width {about(threshold)}"
    return (
        f"Test error is largest at width {peak} ({at}) and train error vanishes {vanishes}; from "
        f"width {peak} to {widths[-1]} effective parameters go from {from_to[0]} on training and "
        f"from {from_to[1]} on test points."
    )


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
        guides=guides,
        **shared,
    )
    return figure(
        "errors-and-effective-parameters",
        "Errors and effective parameters by width, after training",
        f"{case.data.description}, after training. Top: error by width; the dashed line marks "
        f"where train error falls to {case.claims.interpolation_mse:g}. Bottom: effective "
        f"parameters used on training and on test points. {bands(case.seeds)}",
        [[above], [below]],
        see="Look right of the dashed line: what test error does there, and which of the two "
        "counts falls.",
    )


def _trajectories(case: DoubleDescentCase, history: pd.DataFrame) -> Figure:
    widths = sorted(int(width) for width in history["width"].unique())
    parts = {width: shared_steps(history[history["width"] == width]) for width in widths}
    # The first ten steps only show the random initialisation.
    first = 10 if history["step"].max() >= 1000 else 1
    panels = {
        "test/mse": "test points",
        "train/effective_parameters": "training points",
        "test/effective_parameters": "test points",
    }
    names = {"test/mse": "test mean squared error"}
    drawn = [
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
            y=names.get(column, "effective parameters"),
            x_range=(first, None),
            y_range=(0, None),
        )
        for column, label in panels.items()
    ]
    return figure(
        "trajectories",
        "Test error and effective parameters over training, by width",
        "Test error and effective parameters on training and test points over training, one line "
        f"per width (darker is wider). {bands(case.seeds)}",
        [drawn[1:], drawn[:1]],
        see="Follow the dark lines, wide networks: what they use on training and on test points.",
        height=170,
        share_y="row",
        legend_title="width",
    )


def _approximation(case: DoubleDescentCase, final: pd.DataFrame) -> Figure:
    panel = Panel(
        model_errors(final, by="width", points=True),
        x=_WIDTH,
        y="mean absolute error, test",
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
        see="The lower a line, the better it explains the network: compare telescoped with lazy.",
        height=200,
    )

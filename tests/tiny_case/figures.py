"""Figures of the tiny case."""

from __future__ import annotations

import pandas as pd

from telescope_pipeline.cases.double_descent.schema import DoubleDescentCase
from telescope_pipeline.contract import Figure

QUESTION = "Does the error of a tiny case fall?"


def headline(case: DoubleDescentCase, history: pd.DataFrame) -> str:
    """Where the error ends."""
    return f"The error ends at {history['test/mse'].iloc[-1]:.2g}."


def draw(case: DoubleDescentCase, history: pd.DataFrame) -> list[Figure]:
    """The test error of every member, described without a library."""
    table = history[["member", "step", "test/mse"]]
    rows = [dict(zip(("member", "step", "error"), row, strict=True)) for row in table.to_numpy()]
    chart = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "data": {"values": rows},
        "mark": "line",
        "encoding": {
            "x": {"field": "step", "type": "quantitative"},
            "y": {"field": "error", "type": "quantitative"},
            "color": {"field": "member", "type": "nominal"},
        },
    }
    return [Figure("error", "Test error", "It falls.", chart, table)]

"""Figures of the depth case."""

from __future__ import annotations

from typing import Any

import pandas as pd

from telescope_pipeline.cases.depth.metrics import LAZY as LAZY_ERROR
from telescope_pipeline.cases.depth.schema import DepthCase
from telescope_pipeline.cases.depth.sweep import error_column
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import (
    LAZY,
    TELESCOPED,
    Guide,
    Line,
    Panel,
    about,
    bands,
    figure,
    measured,
)
from telescope_pipeline.study.findings.statistics import final_rows

QUESTION = "At which depth does first-order telescoping break, and does second order hold?"


def headline(case: DepthCase, history: pd.DataFrame) -> str:
    """How far both orders are from the deepest networks."""
    deepest = max(case.model.depths)
    final = final_rows(history)
    found = []
    for architecture in case.model.architectures:
        part = final[(final["architecture"] == architecture) & (final["depth"] == deepest)]
        first, second, lazy = (
            about(float(part[column].mean()))
            for column in (error_column(1), error_column(2), LAZY_ERROR)
        )
        found.append(f"{first}, {second} and {lazy} in {architecture} networks")
    return (
        f"With {deepest} hidden layers the first order, the second order and the lazy "
        f"linearisation end this far from the test predictions: {'; '.join(found)} (labels are "
        "0 and 1)."
    )


def draw(case: DepthCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case."""
    deepest = max(case.model.depths)
    compared = (
        "Mean absolute difference from the network's test predictions of telescoped predictions of "
        "both orders and of the linearisation at initialisation, on the same runs. Dotted: the "
        f"error of {case.claims.broken_error:g} from which a model counts as broken. "
        f"{bands(case.seeds)}"
    )
    return [
        figure(
            "error-by-depth",
            "Distance of each model from the network's test predictions, by depth",
            "Digits, odd against even, after training with the same settings at every depth. "
            + compared,
            [_panels(case, final_rows(history), "depth", "{} networks", x="hidden layers")],
            see="Look where a line rises above the dotted one: that model no longer follows "
            "networks so deep.",
            height=190,
            share_y="all",
        ),
        figure(
            "error-over-training",
            "Distance of each model from the deepest networks' test predictions, over training",
            f"Networks with {deepest} hidden layers. {compared}",
            [
                _panels(
                    case,
                    history[history["depth"] == deepest],
                    "step",
                    f"{{}}, {deepest} layers",
                )
            ],
            see="Look when a model leaves the network: early in training, late, or not at all.",
            height=190,
            share_y="all",
        ),
    ]


def _panels(
    case: DepthCase, history: pd.DataFrame, by: str, title: str, **options: Any
) -> list[Panel]:
    """One panel per architecture."""
    every = "every step" if case.lens.stride == 1 else f"every {case.lens.stride} steps"
    models = {
        "linearization_error": (LAZY_ERROR, LAZY, "lazy linearisation"),
        "approximation_error_order1": (error_column(1), TELESCOPED[1], f"1st order, {every}"),
        "approximation_error_order2": (error_column(2), TELESCOPED[2], f"2nd order, {every}"),
    }
    sweep = by == "depth"
    return [
        Panel(
            [
                Line(
                    measured(history[history["architecture"] == architecture], source, by),
                    colour,
                    label,
                    name,
                    {"setting": architecture},
                    points=sweep,
                )
                for name, (source, colour, label) in models.items()
            ],
            title=title.format(architecture),
            y="mean absolute error, test",
            y_scale="log",
            ticks=sweep,
            guides=[Guide(case.claims.broken_error, "broken above", axis="y")],
            **options,
        )
        for architecture in case.model.architectures
    ]

"""Figures of the user's own model: losses, its complexity and errors of the models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from telescope_pipeline.cases.own_model.schema import OwnModelCase
from telescope_pipeline.cases.own_model.sweep import group_label, group_name
from telescope_pipeline.contract import Figure, Scalar
from telescope_pipeline.study.drawing import (
    SETS,
    TELESCOPED,
    Line,
    Panel,
    bands,
    figure,
    measured,
    model_errors,
)

QUESTION = (
    "How far does telescoping follow the network of one's own, and how many labels does its fit "
    "answer to?"
)
_MOST_COLUMNS = 3
_MODELS = ("linearization_error", "approximation_error")


def draw(case: OwnModelCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case."""
    quantities = {
        "loss": ("Loss over training", case.loss),
        "accuracy": ("Accuracy over training", "accuracy"),
        # Of outputs that are predictions, or of probabilities: either is a count.
        "effective_parameters": ("Effective parameters over training", "effective parameters"),
        "degrees_of_freedom": ("Degrees of freedom over training", "degrees of freedom"),
    }
    if "train/effective_parameters" in history:
        del quantities["degrees_of_freedom"]
    figures = [
        _over_training(case, history, quantity, *words)
        for quantity, words in quantities.items()
        if quantity == "loss" or f"train/{quantity}" in history
    ]
    return [*figures, _approximation(case, history)]


def _over_training(
    case: OwnModelCase, history: pd.DataFrame, quantity: str, title: str, label: str
) -> Figure:
    """One quantity on every set that has it."""
    columns = [str(name) for name in history.columns if str(name).endswith(f"/{quantity}")]
    others = iter(TELESCOPED * len(columns))
    names = [column.removesuffix(f"/{quantity}") for column in columns]
    colours = {name: SETS.get(name) or next(others) for name in names}
    # A loss of the user's may be negative.
    positive = all((history[c] > 0).any() and not (history[c] < 0).any() for c in columns)

    def lines(part: pd.DataFrame, group: dict[str, Scalar]) -> list[Line]:
        return [
            Line(
                measured(part, f"{name}/{quantity}"),
                colour,
                f"{name} points",
                f"{name}_{quantity}",
                group,
                # Sets may coincide: the broader line shows from under the others.
                width=3.2 if name == "train" else 1.5,
            )
            for name, colour in colours.items()
        ]

    return figure(
        f"{quantity.replace('_', '-')}-over-training",
        title,
        f"{case.model.call} on {case.data.call}. {bands(case.seeds)}",
        **_grid(case, history, lines, label, positive and quantity != "accuracy"),
    )


def _approximation(case: OwnModelCase, history: pd.DataFrame) -> Figure:
    watched = "test" if "test/approximation_error" in history else "train"

    def lines(part: pd.DataFrame, group: dict[str, Scalar]) -> list[Line]:
        return model_errors(part, _MODELS, on=watched, named="", group=group)

    return figure(
        "approximation-error",
        f"Distance of each model from the network's outputs on {watched} points",
        f"Mean absolute difference from the network's outputs on {watched} points of the "
        "telescoped outputs and of the linearisation at initialisation. " + bands(case.seeds),
        **_grid(case, history, lines, f"mean absolute error, {watched} points", True),
    )


def _grid(
    case: OwnModelCase,
    history: pd.DataFrame,
    lines: Callable[[pd.DataFrame, dict[str, Scalar]], list[Line]],
    label: str,
    logarithmic: bool,
) -> dict[str, Any]:
    """A panel for every setting of the sweep, as arguments of :func:`figure`."""
    panels = []
    for values in case.combinations():
        group = group_name(values)
        panels.append(
            Panel(
                lines(history[history["group"] == group], {"setting": group}),
                title=group_label(values),
                y=label,
                y_scale="log" if logarithmic else "linear",
            )
        )
    columns = 2 if len(panels) == 4 else min(len(panels), _MOST_COLUMNS)
    return {
        "rows": [panels[n : n + columns] for n in range(0, len(panels), columns)],
        "size": (500, 230) if columns == 1 else (290, 200),
        "share_y": "all",
    }

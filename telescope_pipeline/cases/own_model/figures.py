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
    about,
    bands,
    figure,
    measured,
    model_errors,
    times,
)
from telescope_pipeline.study.findings.statistics import final_rows

QUESTION = (
    "How far does telescoping follow the network of one's own, and how many labels does its fit "
    "answer to?"
)
_COLUMNS = 2
_SEE = {
    "loss": "See where the sets part: from there on the network fits what does not carry over.",
    "accuracy": "Compare how high each set gets, and when.",
    "degrees_of_freedom": "See how many of the training labels the fit answers to, out of all.",
    "effective_parameters": "Training above test, and further and further: fitting the points; "
    "both together: structure that carries over.",
}
_MODELS = ("linearization_error", "approximation_error")


def headline(case: OwnModelCase, history: pd.DataFrame) -> str:
    """How much closer than lazy predictions the telescoped ones stay, and the loss reached."""
    on = _watched(history)
    final = final_rows(history)
    lazy, telescoped = (final.groupby("group", sort=False)[f"{on}/{m}"].mean() for m in _MODELS)
    factors = (lazy / telescoped).dropna()
    losses = final.groupby("group", sort=False)[f"{on}/loss"].mean()
    among = "" if len(losses) == 1 else f" in {len(losses)} settings"
    loss = " to ".join(dict.fromkeys(about(float(v)) for v in (losses.min(), losses.max())))
    ends = f"{on} loss ends at {loss}{among}"
    if factors.empty:
        return f"{ends[:1].upper()}{ends[1:]}."
    low, high = (float(found) for found in (factors.min(), factors.max()))
    closer = times(low) if about(low) == about(high) else f"{about(low)} to {times(high)}"
    return (
        f"Telescoped outputs end {closer} as close to the network on {on} points as the lazy "
        f"linearisation's; {ends}."
    )


def _watched(history: pd.DataFrame) -> str:
    """The set on which the models are compared."""
    return "test" if "test/approximation_error" in history else "train"


def draw(case: OwnModelCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case."""
    quantities = {
        "loss": ("Loss over training", case.loss.replace("_", " ")),
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
        see=_SEE[quantity],
        **_grid(case, history, lines, label, positive and quantity != "accuracy"),
    )


def _approximation(case: OwnModelCase, history: pd.DataFrame) -> Figure:
    watched = _watched(history)

    def lines(part: pd.DataFrame, group: dict[str, Scalar]) -> list[Line]:
        return model_errors(part, _MODELS, on=watched, named="", group=group)

    return figure(
        "approximation-error",
        f"Distance of each model from the network's outputs on {watched} points",
        f"Mean absolute difference from the network's outputs on {watched} points of the "
        "telescoped outputs and of the linearisation at initialisation. " + bands(case.seeds),
        see="The lower a line, the better it explains the network: compare telescoped with lazy.",
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
                title=group_label(values).replace("_", " "),
                y=label,
                y_scale="log" if logarithmic else "linear",
            )
        )
    return {
        "rows": [panels[n : n + _COLUMNS] for n in range(0, len(panels), _COLUMNS)],
        "key": (0,) if len(panels) > _COLUMNS else (),
        "height": 190 if len(panels) == 1 else 140,
        "share_y": "all",
    }

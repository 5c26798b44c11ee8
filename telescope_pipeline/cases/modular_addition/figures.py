"""Figures of the transformer that groks."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from telescope_pipeline.cases.modular_addition.metrics import events_of
from telescope_pipeline.cases.modular_addition.schema import ModularAdditionCase
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import (
    LAZY,
    NETWORK,
    TELESCOPED,
    Guide,
    Line,
    Panel,
    about,
    bands,
    counted,
    figure,
    measured,
    model_errors,
    on_sets,
    times,
)
from telescope_pipeline.study.findings.complexity import DEGREES_OF_FREEDOM

QUESTION = (
    "Do the degrees of freedom of its predictions announce that a small transformer is about to "
    "grok?"
)
_ACCURACIES: dict[str, dict[str, Any]] = {
    "accuracy": {"colour": NETWORK, "label": "network", "width": 4.0},
    "linearized_accuracy": {"colour": LAZY, "label": "lazy linearisation"},
    "telescoped_accuracy": {"colour": TELESCOPED[0], "label": "telescoped"},
}
_EVENTS = {
    "peak": "most degrees of freedom",
    "memorisation": "memorised",
    "generalisation": "generalised",
}


def headline(case: ModularAdditionCase, history: pd.DataFrame) -> str:
    """How much later the transformer generalises than it memorises."""
    marks = {mark.text: mark.at for mark in _marks(case, history)}
    memorised, generalised = marks.get("memorised"), marks.get("generalised")
    last = int(history["step"].max())
    freedom = float(measured(history, DEGREES_OF_FREEDOM)["mean"].iloc[-1])
    if memorised is None:
        return f"Not every seed memorises the training sums within {last:,} steps."
    if generalised is None:
        steps = [events.step("generalisation") for events in events_of(case, history).values()]
        seen = sum(step is not None for step in steps)
        return (
            f"Training sums are memorised at step {about(memorised)}; {seen} of {len(steps)} seeds "
            f"generalise within {last:,} steps."
        )
    return (
        f"The transformer generalises at step {about(generalised)}, "
        f"{times(generalised / max(memorised, 1.0))} as many steps in as it memorises (step "
        f"{about(memorised)}); its fit ends with {counted(freedom)} degrees of freedom for "
        f"{case.data.train_size} training sums."
    )


def draw(case: ModularAdditionCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case."""
    return [_accuracy_and_complexity(case, history), _models(case, history)]


def _accuracy_and_complexity(case: ModularAdditionCase, history: pd.DataFrame) -> Figure:
    freedom = Line(
        measured(history, DEGREES_OF_FREEDOM), NETWORK, column="degrees_of_freedom", hint="df"
    )
    sensitivity = on_sets(history, "logit_sensitivity", members="sums")
    # The first ten steps lie within the warm-up, where next to nothing is learned.
    first = 10 if history["step"].max() >= 100 else 1
    train = sensitivity[0].curve
    least = float(train.loc[train["step"] >= first, "mean"].min())
    marks = _marks(case, history)
    accuracy = on_sets(history, "accuracy", members="sums", unit=100)
    losses = on_sets(history, "cross_entropy", members="sums")
    limits = case.claims
    return figure(
        "accuracy-and-degrees-of-freedom",
        "Accuracy, loss and degrees of freedom over training",
        f"{_source(case)}. Dashed lines, at the geometric mean over seeds, mark where train "
        f"accuracy is at least {100 * limits.memorised_accuracy:g} %, where test accuracy is "
        f"at least {100 * limits.generalised_accuracy:g} % from then on, and where degrees of "
        "freedom are largest. Degrees of freedom are those of the predicted probabilities of "
        f"the {case.data.train_size} training sums, at most one each. The last panel shows the "
        "sensitivity of the telescoped logits to the labels, which has no ceiling and is no count. "
        + bands(case.seeds),
        [
            [
                Panel(
                    accuracy,
                    y="accuracy (%)",
                    x_range=(first, None),
                    y_range=(0, 104),
                    guides=marks,
                )
            ],
            [Panel(losses, y="cross-entropy", y_scale="log", guides=marks)],
            [Panel([freedom], y="degrees of freedom", y_range=(0, None), guides=marks)],
            [
                Panel(
                    sensitivity,
                    y="sensitivity of logits",
                    y_scale="log",
                    y_range=(0.5 * max(least, 1e-3), None),
                    guides=marks,
                )
            ],
        ],
        see="Compare when train and test accuracy rise with what the degrees of freedom do.",
        key=(0, 2),
        height=120,
    )


def _marks(case: ModularAdditionCase, history: pd.DataFrame) -> list[Guide]:
    """Guides at the events that every seed has."""
    found = events_of(case, history)
    marks = []
    for name, text in _EVENTS.items():
        steps = [grokking.step(name) for grokking in found.values()]
        seen = [step for step in steps if step]
        if len(seen) == len(steps):
            where = math.exp(sum(map(math.log, seen)) / len(seen))
            marks.append(Guide(where, text))
    return marks


def _models(case: ModularAdditionCase, history: pd.DataFrame) -> Figure:
    errors = model_errors(history, ["linearization_error", "approximation_error"])
    accuracies = [
        Line(measured(history, f"test/{name}"), column=f"test_{name}", unit=100, **look)
        for name, look in _ACCURACIES.items()
    ]
    return figure(
        "telescoped-model",
        "How well each model explains the network's test predictions",
        f"{_source(case)}. Left: mean absolute difference from the network's test logits of "
        "the lazy linearisation and of the telescoped predictions. Right: test accuracy of "
        "the network (broad line), of the lazy linearisation and of the telescoped predictions. "
        + bands(case.seeds),
        [
            [
                Panel(errors, y="mean absolute error, test", y_scale="log"),
                Panel(accuracies, y="test accuracy (%)", y_range=(0, 104)),
            ]
        ],
        see="See whether the telescoped model follows the network to generalisation.",
        height=170,
    )


def _source(case: ModularAdditionCase) -> str:
    data = case.data
    return (
        f"Addition modulo {data.modulus} by a transformer, trained on {data.train_size} of the "
        f"{data.modulus**2} sums"
    )

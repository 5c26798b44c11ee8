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
    SETS,
    TELESCOPED,
    Guide,
    Line,
    Panel,
    bands,
    figure,
    measured,
    model_errors,
    on_sets,
)
from telescope_pipeline.study.findings.complexity import (
    TEST_COMPLEXITY,
    TRAIN_COMPLEXITY,
    complexity_gap,
)
from telescope_pipeline.study.findings.statistics import over_seeds

QUESTION = (
    "Do effective parameters on train and test points announce that a small transformer is about "
    "to grok?"
)
_COMPLEXITY = {"train": TRAIN_COMPLEXITY, "test": TEST_COMPLEXITY}
_ACCURACIES: dict[str, dict[str, Any]] = {
    "accuracy": {"colour": NETWORK, "label": "network"},
    "linearized_accuracy": {"colour": LAZY, "hint": "lazy linearisation fₗᵢₙ"},
    "telescoped_accuracy": {"colour": TELESCOPED[0], "hint": "telescoped f̃", "dashed": True},
}
# Each text has a line of its own, since events may fall together.
_EVENTS = {
    "announcement": ("train exceeds test", 2),
    "reversal": ("test exceeds train", 2),
    "memorisation": ("memorised", 1),
    "generalisation": ("generalised", 0),
}


def draw(case: ModularAdditionCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case."""
    return [_accuracy_and_complexity(case, history), _models(case, history)]


def _accuracy_and_complexity(case: ModularAdditionCase, history: pd.DataFrame) -> Figure:
    complexity = [
        Line(
            measured(history, _COMPLEXITY[name]),
            colour,
            f"{name} sums",
            f"{name}_effective_parameters",
        )
        for name, colour in SETS.items()
    ]
    excess = Line(
        _relative_gap(history), NETWORK, column="train_above_test_percent", hint="train above test"
    )
    # The first ten steps lie within the warm-up and spend next to no effective parameters.
    first = 10 if history["step"].max() >= 100 else 1
    train = complexity[0].curve
    least = float(train.loc[train["step"] >= first, "mean"].min())
    marks = _marks(case, history)
    below = [*map(Guide, (mark.at for mark in marks))]
    accuracy = on_sets(history, "accuracy", members="sums", unit=100)
    losses = on_sets(history, "cross_entropy", members="sums")
    limits = case.claims
    return figure(
        "accuracy-and-effective-parameters",
        "Accuracy, loss and effective parameters over training",
        f"{_source(case)}. Dashed lines, at the geometric mean over seeds, mark where train "
        f"accuracy is at least {100 * limits.memorised_accuracy:g} %, where test accuracy is "
        f"at least {100 * limits.generalised_accuracy:g} % from then on, and, if so in every "
        "seed, where the effective parameters on one set come to exceed those on the other, "
        "as known at generalisation. Effective parameters are those of the sensitivity of the "
        "telescoped logits to the one-hot labels, which has no ceiling; the last panel shows "
        "by how much they are larger on training sums, in per cent of those on test sums. "
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
            [Panel(losses, y="cross-entropy", y_scale="log", guides=below)],
            [
                Panel(
                    complexity,
                    y="effective parameters",
                    y_scale="log",
                    y_range=(0.5 * max(least, 1e-3), None),
                    guides=below,
                )
            ],
            [Panel([excess], y="train above test (%)", guides=[Guide(0.0, axis="y"), *below])],
        ],
        size=(500, 170),
    )


def _relative_gap(history: pd.DataFrame) -> pd.DataFrame:
    """``100 (p_train - p_test) / p_test`` over seeds, 0 where the test set spends none."""
    gap, error = complexity_gap(history)
    spent = history[TEST_COMPLEXITY].where(history[TEST_COMPLEXITY] > 0, math.inf)
    relative = history.assign(excess=100 * gap / spent, excess_stderr=100 * error / spent)
    return over_seeds(relative, "excess")


def _marks(case: ModularAdditionCase, history: pd.DataFrame) -> list[Guide]:
    """Guides at the events that every seed has."""
    found = events_of(case, history)
    marks = []
    for name, (text, level) in _EVENTS.items():
        steps = [grokking.step(name) for grokking in found.values()]
        seen = [step for step in steps if step]
        if len(seen) == len(steps):
            where = math.exp(sum(map(math.log, seen)) / len(seen))
            marks.append(Guide(where, text, level=level))
    return marks


def _models(case: ModularAdditionCase, history: pd.DataFrame) -> Figure:
    errors = model_errors(history, ["linearization_error", "approximation_error"])
    accuracies = [
        Line(over_seeds(history, f"test/{name}"), column=f"test_{name}", unit=100, **look)
        for name, look in _ACCURACIES.items()
    ]
    return figure(
        "telescoped-model",
        "How well each model explains the network's test predictions",
        f"{_source(case)}. Left: mean absolute difference from the network's test logits of "
        "the lazy linearisation and of the telescoped predictions. Right: test accuracy of "
        "the network, of the lazy linearisation and (dashed) of the telescoped predictions. "
        + bands(case.seeds),
        [
            [
                Panel(errors, y="mean absolute error of test logits", y_scale="log"),
                Panel(accuracies, y="test accuracy (%)", y_range=(0, 104)),
            ]
        ],
        size=(330, 220),
    )


def _source(case: ModularAdditionCase) -> str:
    data = case.data
    return (
        f"Addition modulo {data.modulus} by a transformer, trained on {data.train_size} of the "
        f"{data.modulus**2} sums"
    )

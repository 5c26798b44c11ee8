"""Figures of the network that groks."""

from __future__ import annotations

import math

import pandas as pd

from telescope_pipeline.cases.grokking_network.metrics import events_of
from telescope_pipeline.cases.grokking_network.schema import STANDARD_ALPHA, GrokkingNetworkCase
from telescope_pipeline.cases.grokking_network.sweep import group_label, group_name
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import (
    SETS,
    Guide,
    Line,
    Panel,
    bands,
    between,
    figure,
    measured,
    model_errors,
)
from telescope_pipeline.study.findings.complexity import TEST_COMPLEXITY, TRAIN_COMPLEXITY
from telescope_pipeline.study.findings.statistics import over_seeds

QUESTION = (
    "Why does a network that starts from enlarged weights generalise long after it has memorised?"
)
_Setting = tuple[float, str]

_COMPLEXITY = {"train": TRAIN_COMPLEXITY, "test": TEST_COMPLEXITY}


def draw(case: GrokkingNetworkCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case."""
    enlarged: list[_Setting] = [(alpha, "linear") for alpha in sorted(case.model.alphas)]
    standard: list[_Setting] = [
        (STANDARD_ALPHA, output) for output in case.training.comparison.outputs
    ]
    figures = []
    if enlarged:
        figures.append(
            _errors_and_complexity(
                case,
                history,
                enlarged,
                name="errors-and-effective-parameters",
                title="Errors and effective parameters over training, by initial scale",
                subject="networks whose initial weights were multiplied by α",
            )
        )
    if standard:
        figures.append(
            _errors_and_complexity(
                case,
                history,
                standard,
                name="standard-initialisation",
                title="Errors and effective parameters from the standard initialisation",
                subject="networks with standard initial weights, without and with a sigmoid",
            )
        )
    return [*figures, _approximation(case, history, [*enlarged, *standard])]


def _errors_and_complexity(
    case: GrokkingNetworkCase,
    history: pd.DataFrame,
    settings: list[_Setting],
    *,
    name: str,
    title: str,
    subject: str,
) -> Figure:
    columns = [_panels(case, _group(history, setting), setting) for setting in settings]
    limits = case.claims
    return figure(
        name,
        title,
        f"{case.data.description}; {subject}. Top: misclassified training and test images. Dashed "
        "lines, at the geometric mean over seeds, mark where at least "
        f"{100 * limits.memorised_accuracy:g} % of the training images and where "
        f"{100 * limits.generalised_accuracy:g} % of the test images are right from then on. "
        "Bottom: effective parameters used on the same images; the gap between the two is shaded. "
        + bands(case.seeds),
        list(zip(*columns, strict=True)),
        size=(250, 190),
        share_y="row",
    )


def _panels(
    case: GrokkingNetworkCase, part: pd.DataFrame, setting: _Setting
) -> tuple[Panel, Panel]:
    """Errors and effective parameters of one setting."""
    group = {"setting": group_name(*setting)}
    errors, complexity = [], []
    for name, colour in SETS.items():
        share = part.assign(error=1.0 - part[f"{name}/accuracy"])
        label, column = f"{name} points", f"{name}_misclassification"
        errors.append(Line(over_seeds(share, "error"), colour, label, column, group, unit=100))
        used, column = measured(part, _COMPLEXITY[name]), f"{name}_effective_parameters"
        complexity.append(Line(used, colour, label, column, group))
    events = events_of(case, part).values()
    marks = {}
    for text, event in (("memorised", "memorisation"), ("generalised", "generalisation")):
        steps = [getattr(found, event).step for found in events]
        if all(steps):
            marks[text] = math.exp(sum(map(math.log, steps)) / len(steps))
    # The first ten steps lie within the warm-up and spend next to no effective parameters.
    first = 10 if part["step"].max() >= 100 else 1
    above = Panel(
        errors,
        title=group_label(*setting),
        y="misclassification error (%)",
        x_range=(first, None),
        y_range=(0, None),
        # Each text has a line of its own, since the two may fall together.
        guides=[Guide(at, text, level=text == "memorised") for text, at in marks.items()],
    )
    below = Panel(
        [between(*complexity), *complexity],
        y="effective parameters",
        x_range=(first, None),
        y_range=(0, None),
        guides=[*map(Guide, marks.values())],
    )
    return above, below


def _approximation(
    case: GrokkingNetworkCase, history: pd.DataFrame, settings: list[_Setting]
) -> Figure:
    panels = [
        Panel(
            model_errors(_group(history, setting), group={"setting": group_name(*setting)}),
            title=group_label(*setting).replace(", ", "\n"),
            y="mean absolute error, test images",
            y_scale="log",
        )
        for setting in settings
    ]
    return figure(
        "approximation-error",
        "How well each model explains the network's test predictions",
        f"{case.data.description}. Mean absolute difference from the network's test predictions of "
        "the lazy linearisation, of the telescoped predictions and of the smoother that the "
        "effective parameters are computed from; labels are 0 and 1. " + bands(case.seeds),
        [panels],
        size=(210, 220),
        share_y="all",
    )


def _group(history: pd.DataFrame, setting: _Setting) -> pd.DataFrame:
    return history[history["group"] == group_name(*setting)]

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
    about,
    bands,
    between,
    counted,
    figure,
    measured,
    model_errors,
    times,
)
from telescope_pipeline.study.findings.complexity import TEST_COMPLEXITY, TRAIN_COMPLEXITY

QUESTION = (
    "Why does a network that starts from enlarged weights generalise long after it has memorised?"
)
_Setting = tuple[float, str]

_COMPLEXITY = {"train": TRAIN_COMPLEXITY, "test": TEST_COMPLEXITY}


def headline(case: GrokkingNetworkCase, history: pd.DataFrame) -> str:
    """How much later the network from the largest weights generalises than it memorises."""
    alphas = sorted(case.model.alphas)
    setting: _Setting = (
        (alphas[-1], "linear") if alphas else (STANDARD_ALPHA, case.training.comparison.outputs[0])
    )
    part = _group(history, setting)
    used, spent = (float(measured(part, c)["mean"].iloc[-1]) for c in _COMPLEXITY.values())
    marks = _marks(case, part)
    start = f"With initial weights times {setting[0]:g}" if alphas else "From standard weights"
    ends = f"it ends with {counted(used)} effective parameters on training and {counted(spent)} on "
    ends += "test images"
    if len(marks) < 2:
        missing = "memorises" if "memorised" not in marks else "generalises"
        return f"{start} not every seed {missing} within {int(part['step'].max()):,} steps; {ends}."
    memorised, generalised = marks["memorised"], marks["generalised"]
    return (
        f"{start} the network generalises at step {about(generalised)}, "
        f"{times(generalised / max(memorised, 1.0))} as many steps in as it memorises (step "
        f"{about(memorised)}); {ends}."
    )


def _marks(case: GrokkingNetworkCase, part: pd.DataFrame) -> dict[str, float]:
    """The geometric mean over seeds of the step of each event that every seed saw."""
    events = events_of(case, part).values()
    marks = {}
    for text, event in (("memorised", "memorisation"), ("generalised", "generalisation")):
        steps = [getattr(found, event).step for found in events]
        if all(steps):
            marks[text] = math.exp(sum(map(math.log, steps)) / len(steps))
    return marks


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
    rows = [_panels(case, _group(history, setting), setting) for setting in settings]
    limits = case.claims
    return figure(
        name,
        title,
        f"{case.data.description}; {subject}. Left: misclassified training and test images. Dashed "
        "lines, at the geometric mean over seeds, mark where at least "
        f"{100 * limits.memorised_accuracy:g} % of the training images and where "
        f"{100 * limits.generalised_accuracy:g} % of the test images are right from then on. "
        "Right: effective parameters used on the same images; the gap between the two is shaded. "
        + bands(case.seeds),
        rows,
        see="Compare the distance between the two dashed lines with the gap in effective "
        "parameters.",
        key=(2 * len(rows) - 2, 2 * len(rows) - 1),
        height=130,
        share_y="all",
        share_x=False,
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
        errors.append(Line(measured(share, "error"), colour, label, column, group, unit=100))
        used, column = measured(part, _COMPLEXITY[name]), f"{name}_effective_parameters"
        complexity.append(Line(used, colour, label, column, group))
    guides = [Guide(at, text) for text, at in _marks(case, part).items()]
    # The first ten steps lie within the warm-up and spend next to no effective parameters.
    first = 10 if part["step"].max() >= 100 else 1
    above = Panel(
        errors,
        title=group_label(*setting),
        y="misclassified (%)",
        x_range=(first, None),
        y_range=(0, None),
        guides=guides,
    )
    below = Panel(
        [between(*complexity), *complexity],
        title=group_label(*setting),
        y="effective parameters",
        x_range=(first, None),
        y_range=(0, None),
        guides=guides,
    )
    return above, below


def _approximation(
    case: GrokkingNetworkCase, history: pd.DataFrame, settings: list[_Setting]
) -> Figure:
    panels = [
        Panel(
            model_errors(_group(history, setting), group={"setting": group_name(*setting)}),
            title=group_label(*setting),
            y="mean absolute error, test",
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
        [panels[n : n + 2] for n in range(0, len(panels), 2)],
        see="The lower a line, the better it explains the network: compare telescoped with lazy.",
        height=130,
        share_y="all",
    )


def _group(history: pd.DataFrame, setting: _Setting) -> pd.DataFrame:
    return history[history["group"] == group_name(*setting)]

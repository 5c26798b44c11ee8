"""Figures of the approximation case."""

from __future__ import annotations

from typing import Any

import pandas as pd

from telescope_pipeline.cases.approximation_quality.schema import (
    ApproximationQualityCase,
    TrainingSetting,
)
from telescope_pipeline.cases.approximation_quality.sweep import (
    group_name,
    lens_label,
    lens_name,
    setting_label,
)
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import (
    LAZY,
    NETWORK,
    TELESCOPED,
    TEST,
    Line,
    Panel,
    about,
    bands,
    figure,
    measured,
)
from telescope_pipeline.study.findings.statistics import final_rows

QUESTION = (
    "Is the telescoping model closer to the network than its lazy linearisation, in all five "
    "training settings of the paper and over a grid of learning rates?"
)
_LAZY = "lazy linearisation"
_ERROR = "mean absolute error, test"


def headline(case: ApproximationQualityCase, history: pd.DataFrame) -> str:
    """How many times closer than the lazy model the telescoped one is, over settings and rates."""
    variant = case.lens.lenses[0]
    column = f"test/approximation_error@{lens_name(variant.order, variant.stride)}"
    final = final_rows(history).groupby("group", sort=False)
    factors = final["test/linearization_error"].mean() / final[column].mean()
    closer = int((factors > 1).sum())
    lens = lens_label(variant.order, variant.stride)
    return (
        f"After training, telescoped predictions ({lens}) are closer to the network than lazy ones "
        f"in {closer} of {len(factors)} settings and learning rates: by a factor of "
        f"{about(float(factors.median()))} in the median, {about(float(factors.min()))} to "
        f"{about(float(factors.max()))} overall."
    )


def draw(case: ApproximationQualityCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case."""
    return [
        _error_by_setting(case, history),
        _error_over_training(case, history),
        _accuracy_over_training(case, history),
        _error_by_rate(case, final_rows(history)),
    ]


def _error_by_setting(case: ApproximationQualityCase, history: pd.DataFrame) -> Figure:
    """One panel a setting with all its learning rates, as in the paper's Fig. 2."""
    variant = case.lens.lenses[0]
    name = lens_name(variant.order, variant.stride)
    found = f"telescoped ({lens_label(variant.order, variant.stride)})"
    models = (
        ("linearization_error", "linearization_error", LAZY, _LAZY, True),
        (f"approximation_error@{name}", "approximation_error", TEST, found, False),
    )
    panels = []
    for setting in case.training.settings:
        rates = sorted(setting.learning_rates)
        lines = []
        for position, rate in enumerate(rates, 1):
            part = _of_group(history, setting, rate)
            for source, column, colour, label, dashed in models:
                lines.append(
                    Line(
                        measured(part, f"test/{source}"),
                        colour.tint(0.8 * (1 - position / len(rates))),
                        label if rate == rates[-1] else "",
                        column,
                        {"setting": group_name(setting.label, rate)},
                        dashed=dashed,
                        width=1.3 if dashed else 1.9,
                        hint=f"{label}, γ = {rate:g}",
                    )
                )
        title = f"{setting_label(setting)}\nγ = {', '.join(f'{rate:g}' for rate in rates)}"
        panels.append(Panel(lines, title=title, y=_ERROR, y_scale="log"))
    return figure(
        "error-by-setting",
        "Distance of the telescoped and lazy models from the network, by training setting",
        f"{case.data.description}. Mean absolute difference from the network's test predictions "
        "over training, one panel per setting; darker lines are larger learning rates γ, dashed "
        f"ones the linearisation at initialisation. {bands(case.seeds)}",
        _in_pairs(panels),
        see="Compare each solid line with the dashed one of the same shade: how far below it is.",
        key=(0, 1),
        height=130,
        share_y="all",
    )


def _error_over_training(case: ApproximationQualityCase, history: pd.DataFrame) -> Figure:
    sources: dict[str, tuple[str, dict[str, Any]]] = {
        "test/linearization_error": ("linearization_error", {})
    }
    sources |= {
        f"test/approximation_error@{name}": (f"approximation_error_{name}", {})
        for name in _lenses(case)
    }
    return _over_training(
        case,
        history,
        "error-over-training",
        "Distance of each model from the network's test predictions, over training",
        "Compare the lenses: how close the cheaper ones, with longer strides, come to the finest.",
        "Mean absolute difference from the network's test predictions of the linearisation at "
        "initialisation and of telescoped predictions with different orders and strides, all on "
        "the same runs.",
        sources,
        y=_ERROR,
        y_scale="log",
    )


def _accuracy_over_training(case: ApproximationQualityCase, history: pd.DataFrame) -> Figure:
    sources: dict[str, tuple[str, dict[str, Any]]] = {
        "test/accuracy": ("network_accuracy", {"width": 5.0}),
        "test/linearized_accuracy": ("linearized_accuracy", {}),
    }
    sources |= {
        f"test/accuracy@{name}": (f"accuracy_{name}", {"width": 1.3}) for name in _lenses(case)
    }
    return _over_training(
        case,
        history,
        "accuracy-over-training",
        "Test accuracy of the network, of telescoped and of lazy predictions",
        "See which model has the network's accuracy, the broad grey line, all along.",
        "Test accuracy of the network (broad line), of telescoped predictions and of the "
        "linearisation at initialisation.",
        sources,
        unit=100.0,
        y="test accuracy (%)",
    )


def _over_training(
    case: ApproximationQualityCase,
    history: pd.DataFrame,
    name: str,
    title: str,
    see: str,
    caption: str,
    sources: dict[str, tuple[str, dict[str, Any]]],
    unit: float = 1.0,
    **options: Any,
) -> Figure:
    """One column of panels per setting, one row per learning rate, the smallest first."""
    looks = [*([(NETWORK.tint(0.75), "network")] if unit > 1 else []), (LAZY, _LAZY)]
    looks += _lenses(case).values()
    settings = case.training.settings
    rows: list[list[Panel]] = []
    for setting in settings:
        rows.append([])
        for rate in sorted(setting.learning_rates):
            part = _of_group(history, setting, rate)
            group = {"setting": group_name(setting.label, rate)}
            lines = [
                Line(measured(part, source), *look, column, group, unit=unit, **kept)
                for (source, (column, kept)), look in zip(sources.items(), looks, strict=True)
            ]
            title = f"{setting_label(setting)}\nγ = {rate:g}"
            rows[-1].append(Panel(lines, title=title, **options))
    return figure(
        name,
        title,
        f"{case.data.description}. {caption} Rows are settings, columns their learning rates from "
        f"the smallest. {bands(case.seeds)}",
        rows,
        see=see,
        height=110,
        share_y="all",
    )


def _error_by_rate(case: ApproximationQualityCase, final: pd.DataFrame) -> Figure:
    models = {"linearization_error": ("linearization_error", LAZY, _LAZY)}
    models |= {
        f"approximation_error@{name}": (f"approximation_error_{name}", *look)
        for name, look in _lenses(case).items()
    }
    panels = [
        Panel(
            [
                Line(
                    measured(
                        final[final["setting"] == setting.label], f"test/{source}", "learning_rate"
                    ),
                    colour,
                    label,
                    column,
                    {"setting": setting.label},
                    points=True,
                )
                for source, (column, colour, label) in models.items()
            ],
            title=setting_label(setting),
            x="learning rate γ",
            y=_ERROR,
            y_scale="log",
            ticks=True,
        )
        for setting in case.training.settings
    ]
    return figure(
        "error-by-learning-rate",
        "Distance of each model from the network's test predictions, by learning rate",
        "Mean absolute difference from the network's test predictions after training, by learning "
        f"rate, one panel per setting. {bands(case.seeds)}",
        _in_pairs(panels),
        see="See how fast each model's error grows with the learning rate.",
        height=130,
        share_y="all",
        share_x=False,
    )


def _in_pairs(panels: list[Panel]) -> list[list[Panel]]:
    return [panels[n : n + 2] for n in range(0, len(panels), 2)]


def _of_group(history: pd.DataFrame, setting: TrainingSetting, rate: float) -> pd.DataFrame:
    return history[history["group"] == group_name(setting.label, rate)]


def _lenses(case: ApproximationQualityCase) -> dict[str, tuple[Any, str]]:
    """Colour and label of each lens by the suffix of its columns."""
    return {
        lens_name(variant.order, variant.stride): (
            TELESCOPED[position % len(TELESCOPED)],
            lens_label(variant.order, variant.stride),
        )
        for position, variant in enumerate(case.lens.lenses)
    }

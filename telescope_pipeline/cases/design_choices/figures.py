"""Figures of the design choices: one panel per choice, then their price in complexity."""

from __future__ import annotations

from typing import Any

import pandas as pd

from telescope_pipeline.cases.design_choices.schema import Choice, DesignChoicesCase
from telescope_pipeline.cases.design_choices.sweep import FIFTHS, LABELS, by_fifth
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import (
    NETWORK,
    TELESCOPED,
    Line,
    Panel,
    bands,
    counted,
    figure,
    measured,
)
from telescope_pipeline.study.findings.statistics import estimate, final_rows

QUESTION = "What do momentum, weight decay, adaptive rates and a sigmoid output do to the updates?"
_COLOURS = dict(
    zip(
        ("plain", "momentum", "weight_decay", "adaptive", "sigmoid"),
        (NETWORK, *TELESCOPED),
        strict=True,
    )
)
_RATES = ("rate/quantile10", "rate/median", "rate/quantile90")
_KERNEL = ("confidence", "kernel_norm_mean", "kernel_norm_before_output")
_COMPLEXITY = {
    "train/effective_parameters": ("effective parameters", "training points"),
    "test/effective_parameters": ("effective parameters", "test points"),
    "test/mse": ("mean squared error", "test points"),
}
_WEIGHT = "relative weight at the end"


def headline(case: DesignChoicesCase, history: pd.DataFrame) -> str:
    """What each choice has spent on training points by the end."""
    final = final_rows(history)
    spent = {
        choice.name: float(
            final.loc[final["choice"] == choice.name, "train/effective_parameters"].mean()
        )
        for choice in case.training.choices
    }
    listed = ", ".join(f"{LABELS[name]} {counted(value)}" for name, value in spent.items())
    return (
        f"After the same {case.training.steps} steps from the same weights the choices have spent "
        f"different numbers of effective parameters on training points: {listed}."
    )


def draw(case: DesignChoicesCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case."""
    return [_what_each_does(case, history), _complexity(case, history)]


def _what_each_does(case: DesignChoicesCase, history: pd.DataFrame) -> Figure:
    columns = ["gradient/weight", "gradient/contribution_share", *_RATES, "update/cosine"]
    columns += [by_fifth(quantity, fifth) for quantity in _KERNEL for fifth in FIFTHS]
    return figure(
        "what-each-choice-does",
        "What each design choice does to the updates",
        "Top: weight of every step's gradient in the final parameters, relative to what a lasting "
        "gradient gets from plain SGD. Momentum has used only part of the last gradients; weight "
        "decay forgets the early ones, and the initial weights with them (point at step 0). Bottom "
        "left: learning rates of the parameters that had a gradient, median and the range from the "
        "10th to the 90th percentile (mean over seeds). Bottom right: norms of tangent-kernel rows "
        "of fifths of the test points by confidence, of the trained network with its sigmoid and "
        f"(dashed) of the same network without. {bands(case.seeds)}",
        [
            [_momentum(case, history), _decay(case, history)],
            [_rates(case, history), _sigmoid(final_rows(history))],
        ],
        see="Each panel sets one choice against plain SGD: look where its line leaves the black "
        "one.",
        key=(1, 2),
        share_x=False,
        table=_table(case, history, columns),
    )


def _weights(
    case: DesignChoicesCase, history: pd.DataFrame, *names: str
) -> dict[str, pd.DataFrame]:
    """Weights of gradients in the final parameters over γ/(1 − μ) and, at step 0, of θ_0."""
    found: dict[str, pd.DataFrame] = {}
    for choice in case.training.choices:
        if choice.name in names:
            curve = measured(history[history["choice"] == choice.name], "gradient/weight")
            numbers = curve[["mean", "stderr"]]
            later = numbers.where(curve["step"] == 0, numbers / _lasting(choice))
            found[choice.name] = curve.assign(**later)
    return found


def _lasting(choice: Choice) -> float:
    """What a lasting gradient gets from the choice's rule, over its learning rate."""
    optimizer = choice.optimizer
    if optimizer.name == "sgd" and optimizer.momentum:
        return (1 - optimizer.dampening) / (1 - optimizer.momentum)
    return 1.0


def _momentum(case: DesignChoicesCase, history: pd.DataFrame) -> Panel:
    steps = case.training.steps
    lines = [
        _line(curve[curve["step"] > 0].assign(step=steps - curve["step"]), name, points=True)
        for name, curve in _weights(case, history, "plain", "momentum").items()
    ]
    return Panel(
        lines,
        title="Momentum: last gradients\nstill at work",
        x="steps before the end",
        y=_WEIGHT,
        x_scale="linear",
        x_range=(min(60, steps - 1), -1),
        y_range=(0, 1.1),
    )


def _decay(case: DesignChoicesCase, history: pd.DataFrame) -> Panel:
    curves = _weights(case, history, "plain", "weight_decay")
    later = [_line(curve[curve["step"] > 0], name) for name, curve in curves.items()]
    start = [
        Line(curve[curve["step"] == 0], _COLOURS[name], points=True, width=0.0)
        for name, curve in curves.items()
    ]
    return Panel(
        [*later, *start],
        title="Weight decay: early steps\nare forgotten",
        x="step of the gradient",
        y=_WEIGHT,
        x_scale="linear",
        y_range=(0, 1.1),
    )


def _rates(case: DesignChoicesCase, history: pd.DataFrame) -> Panel:
    lines = []
    for name in ("plain", "adaptive"):
        part = history[(history["choice"] == name) & (history["step"] > 0)]
        if not part.empty:
            low, median, high = (measured(part, column) for column in _RATES)
            band = median.assign(low=low["mean"], high=high["mean"])
            tag = "10th–90th percentile" if name == "adaptive" else ""
            lines += [Line(band, _COLOURS[name], width=0.0, tag=tag), _line(median, name)]
    return Panel(
        lines,
        title="Adaptive rates:\none per parameter",
        y="learning rate",
        x_scale="linear",
        y_scale="log",
        x_range=(1, case.training.steps),
    )


def _sigmoid(final: pd.DataFrame) -> Panel:
    part = final[final["choice"] == "sigmoid"]
    lines = []
    for quantity, look in (
        ("kernel_norm_before_output", {"dashed": True, "tag": "before the sigmoid"}),
        ("kernel_norm_mean", {"label": LABELS["sigmoid"], "tag": "after the sigmoid"}),
    ):
        if not part.empty:
            norms = [estimate(part[by_fifth(quantity, fifth)]) for fifth in FIFTHS]
            places = [estimate(part[by_fifth("confidence", fifth)]) for fifth in FIFTHS]
            curve = pd.DataFrame(
                {
                    "confidence": [at.value for at in places],
                    "mean": [norm.value for norm in norms],
                    "stderr": [norm.stderr for norm in norms],
                    "x_stderr": [at.stderr for at in places],
                }
            )
            lines.append(Line(curve, _COLOURS["sigmoid"], points=True, **look))
    return Panel(
        lines,
        title="Sigmoid: confident points\nhardly move",
        x="confidence |2f − 1|, by fifths",
        y="norm of kernel row",
        x_scale="linear",
        y_scale="log",
        y_range=(None, _room_above(lines)),
    )


def _room_above(lines: list[Line]) -> float | None:
    """The upper end of a logarithmic axis that leaves room for words above its lines."""
    tops = [line.curve.get("high", line.curve["mean"]).max() for line in lines]
    return 3.0 * float(max(tops)) if tops else None


def _line(curve: pd.DataFrame, name: str, **options: Any) -> Line:
    return Line(curve, _COLOURS[name], LABELS[name], **options)


def _complexity(case: DesignChoicesCase, history: pd.DataFrame) -> Figure:
    panels = [
        Panel(
            [
                Line(
                    measured(history[history["choice"] == choice.name], column),
                    _COLOURS[choice.name],
                    LABELS[choice.name],
                )
                for choice in case.training.choices
            ],
            title=title,
            y=label,
            x_scale="linear",
            x_range=(0, case.training.steps),
            y_range=(0, None),
        )
        for column, (label, title) in _COMPLEXITY.items()
    ]
    return figure(
        "effective-parameters",
        "Effective parameters and error of each design choice",
        "Digits, odd against even; the same weights and batches for every choice. Effective "
        "parameters on training and on test points, and test error, over training. "
        + bands(case.seeds),
        [panels[:2], panels[2:]],
        see="Compare what the choices spend with the test error that they reach.",
        share_y="row",
        table=_table(case, history, ["train/mse", "test/accuracy", *_COMPLEXITY]),
    )


def _table(case: DesignChoicesCase, history: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Means and standard errors of every choice, step by step."""
    tables = []
    for choice in case.training.choices:
        chosen = history[history["choice"] == choice.name]
        curves = {column.replace("/", "_"): measured(chosen, column) for column in columns}
        named = {
            f"{name}{suffix}": curve[part]
            for name, curve in curves.items()
            for part, suffix in (("mean", ""), ("stderr", "_stderr"))
        }
        steps = next(iter(curves.values()))["step"]
        tables.append(pd.DataFrame({"step": steps, "setting": choice.name, **named}))
    return pd.concat(tables, ignore_index=True)

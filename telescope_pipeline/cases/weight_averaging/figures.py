"""Figures of the weight-averaging case."""

from __future__ import annotations

import numpy as np
import pandas as pd

from telescope_pipeline.cases.weight_averaging.metrics import layers_of, log_change
from telescope_pipeline.cases.weight_averaging.schema import WeightAveragingCase
from telescope_pipeline.cases.weight_averaging.sweep import (
    KINDS,
    STARTS,
    STATISTICS,
    alphas,
    change_column,
    gap_column,
    kind_of,
    path_column,
)
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import (
    NETWORK,
    SEED,
    TELESCOPED,
    Guide,
    Line,
    Panel,
    about,
    bands,
    figure,
    measured,
    shades,
)

QUESTION = "Why does averaging the weights of two children work the better the later they part?"
_COLOURS = {"scratch": NETWORK, "pretrained": TELESCOPED[0]}


def headline(case: WeightAveragingCase, history: pd.DataFrame) -> str:
    """What averaging costs the first and the last children, by start."""
    found = []
    for start in STARTS:
        part = history[history["setting"] == start]
        if not part.empty:
            gaps = measured(part, gap_column(case.claims.statistics))
            steps = [int(step) for step in gaps["step"]]
            first, last = (about(100 * float(gaps["mean"].iloc[n])) for n in (0, -1))
            found.append(
                f"{STARTS[start]}, {first} points of test accuracy when they part at step "
                f"{steps[0]:,} and {last} at step {steps[-1]:,}"
            )
    return f"Averaging the weights of two children costs, {'; '.join(found)}."


def draw(case: WeightAveragingCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case."""
    parts = {start: history[history["setting"] == start] for start in STARTS}
    parts = {start: part for start, part in parts.items() if not part.empty}
    return [_gaps(case, parts), _changes(case, parts), _paths(case, parts)]


def _gaps(case: WeightAveragingCase, parts: dict[str, pd.DataFrame]) -> Figure:
    judged = case.claims.statistics
    # The statistics that the claims use come first, as in the caption.
    ordered = [judged, *(name for name in STATISTICS if name != judged)]
    panels = [
        Panel(
            [
                Line(
                    measured(part, gap_column(statistics)),
                    _COLOURS[start],
                    STARTS[start],
                    f"accuracy_gap_{statistics}",
                    {"setting": start},
                    unit=100,
                    points=True,
                )
                for start, part in parts.items()
            ],
            title=f"BatchNorm {statistics}",
            x="step t′ at which children part",
            y="accuracy lost (points)",
            x_scale="symlog",
            ticks=True,
            guides=[Guide(0.0, "nothing lost", axis="y")],
        )
        for statistics in ordered
    ]
    return figure(
        "accuracy-gap",
        "Accuracy lost by averaging the weights of two children",
        "Mean test accuracy of two children minus that of the network with the mean of their "
        "weights, in percentage points, by the step t′ at which both were spawned from one "
        f"network. Left: running statistics of BatchNorm {ordered[0]}, as the claims use them; "
        f"right, on a scale of its own: {ordered[1]}. {bands(case.seeds)}",
        [panels],
        see="See how fast the loss vanishes the later children part, and where it never was.",
        key=(0,),
        height=170,
    )


def _changes(case: WeightAveragingCase, parts: dict[str, pd.DataFrame]) -> Figure:
    panels = []
    for kind, title in KINDS.items():
        lines = [line for start, part in parts.items() for line in _of_kind(part, start, kind)]
        if lines:
            panels.append(
                Panel(
                    lines,
                    title=title,
                    x=f"step t′, against t′ + {case.lens.gradient_gap}",
                    y="mean squared change",
                    x_scale="symlog",
                    y_scale="log",
                    ticks=True,
                )
            )
    seeds = "seed" if case.seeds == 1 else "seeds"
    return figure(
        "gradient-change",
        "Change of the model's gradients, by kind of layer",
        "Mean squared difference of the gradients of the outputs before the softmax between t′ "
        f"and t′ + {case.lens.gradient_gap}, over {case.lens.gradient_rows} test points. "
        "Thick: geometric mean over layers of a kind and over seeds, as the claims use it, and "
        "a band of one standard error; thin: one line per layer, mean over seeds (darker is "
        f"deeper). n = {case.seeds} {seeds}.",
        [panels[n : n + 2] for n in range(0, len(panels), 2)],
        see="See which kind of layer settles most, and what pre-training has settled already.",
        share_y="all",
    )


def _of_kind(part: pd.DataFrame, start: str, kind: str) -> list[Line]:
    """A thin line for each layer of a kind, without a band, and a thick one for their mean."""
    group = {"setting": start}
    layers = [layer for layer in layers_of(part) if kind_of(layer) == kind]
    if not layers:
        return []
    lines = [
        Line(
            measured(part, change_column(layer))[["step", "mean", "stderr"]],
            _COLOURS[start].tint(0.6 * (1 - depth / max(1, len(layers) - 1))),
            column=f"gradient_change_{layer}",
            group=group,
            width=0.9 if len(layers) > 1 else 0.0,
            hint=layer,
            opacity=0.0,
        )
        for depth, layer in enumerate(layers)
    ]
    mean = _geometric(measured(part.assign(log=log_change(part, kind)), "log"))
    column = f"gradient_change_of_{kind}"
    look = _COLOURS[start], STARTS[start]
    return [*lines, Line(mean, *look, column, group, points=True, width=2.6)]


def _geometric(logs: pd.DataFrame) -> pd.DataFrame:
    """A mean of logarithms to base 10 as a geometric mean, its error to first order."""
    mean = 10.0 ** logs["mean"]
    singles = {name: 10.0 ** logs[name] for name in map(str, logs) if name.startswith(SEED)}
    return logs.assign(mean=mean, stderr=mean * np.log(10.0) * logs["stderr"], **singles)


def _paths(case: WeightAveragingCase, parts: dict[str, pd.DataFrame]) -> Figure:
    statistics = case.claims.statistics
    steps = sorted({int(step) for part in parts.values() for step in part["step"]})
    panels, tables = [], []
    for start, part in parts.items():
        curves = {
            alpha: measured(part, path_column(statistics, alpha))
            for alpha in alphas(case.lens.alphas)
        }
        panels.append(
            Panel(
                [
                    Line(_at(curves, step), colour, f"{step}", unit=100)
                    for step, colour in zip(steps, shades(len(steps)), strict=True)
                    if step in set(part["step"])
                ],
                title=STARTS[start],
                x="place α between the children",
                y="test accuracy (%)",
                x_scale="linear",
            )
        )
        columns = {"step": next(iter(curves.values()))["step"], "setting": start}
        for alpha, curve in curves.items():
            name = f"accuracy_alpha_{alpha:.4f}"
            columns |= {name: curve["mean"], f"{name}_stderr": curve["stderr"]}
        tables.append(pd.DataFrame(columns))
    return figure(
        "interpolation",
        "Accuracy on the line between two children",
        "Test accuracy of the network with weights (1 − α) θ₁ + α θ₂ between two children spawned "
        f"at t′ (darker is later), BatchNorm's running statistics {statistics}. "
        + bands(case.seeds),
        [panels],
        see="A valley between the children means that averaging fails: see for which t′ it is "
        "gone.",
        height=170,
        share_y="all",
        legend_title="t′",
        table=pd.concat(tables, ignore_index=True),
    )


def _at(curves: dict[float, pd.DataFrame], step: int) -> pd.DataFrame:
    """Accuracies along the line between the children of one step."""
    rows = [curve[curve["step"] == step].iloc[0] for curve in curves.values()]
    names = [name for name in map(str, next(iter(curves.values()))) if name != "step"]
    means = {name: [row[name] for row in rows] for name in names}
    return pd.DataFrame({"alpha": list(curves), **means})

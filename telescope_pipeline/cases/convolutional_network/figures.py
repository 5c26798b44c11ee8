"""Figures of the convolutional network."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from telescope_pipeline.cases.convolutional_network.metrics import layer_shares
from telescope_pipeline.cases.convolutional_network.schema import ConvolutionalNetworkCase
from telescope_pipeline.cases.convolutional_network.sweep import (
    LAZY,
    TELESCOPED,
    group_name,
    layer_label,
)
from telescope_pipeline.contract import Figure, Scalar
from telescope_pipeline.study import drawing
from telescope_pipeline.study.drawing import (
    MODELS,
    SETS,
    Line,
    Panel,
    about,
    bands,
    counted,
    figure,
    measured,
)
from telescope_pipeline.study.findings.statistics import final_rows

QUESTION = (
    "How far does telescoping follow a network with ten outputs and cross-entropy, and which "
    "layers hold its degrees of freedom?"
)
_SOURCES = {"linearization_error": LAZY, "approximation_error": TELESCOPED}
_COUNT = (
    "Degrees of freedom are those of the predicted probabilities, from 0 to the number of training "
    "points."
)
# The two sets may coincide: the broader line shows from under the other.
_WIDTHS = {"train": 3.6, "test": 1.3}


def headline(case: ConvolutionalNetworkCase, history: pd.DataFrame) -> str:
    """How close the telescoped logits stay, and how accurate the network is, by label noise."""
    final = final_rows(history)
    found = []
    for level in case.data.label_noise:
        part = final[final["group"] == group_name(level)]
        lazy, telescoped = (float(part[_SOURCES[name]].mean()) for name in _SOURCES)
        accuracy = 100 * float(part["test/accuracy"].mean())
        freedom = float(part["train/degrees_of_freedom"].mean())
        found.append(
            f"with {_label(level)} the telescoped logits end {about(lazy / telescoped)} times "
            f"closer to the network than lazy ones, at {about(accuracy)} % test accuracy and "
            f"{counted(freedom)} degrees of freedom"
        )
    text = "; ".join(found)
    return f"{text[:1].upper()}{text[1:]}."


def draw(case: ConvolutionalNetworkCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case, one column of panels per level of label noise."""
    levels = {
        level: history[history["group"] == group_name(level)] for level in case.data.label_noise
    }
    source = {"digits": "Digits", "cifar10": "CIFAR-10"}[case.data.source]
    return [
        figure(
            "degrees-of-freedom-over-training",
            "Accuracy, degrees of freedom and kernel norms over training",
            f"{source}, ten classes. Accuracy against the labels trained on, on training (broad "
            "line) and on test points; degrees of freedom of the fit to the training points; and "
            f"the norm of tangent-kernel rows, averaged over the steps so far. {_COUNT} "
            f"{bands(case.seeds)}",
            _columns([_over_training(level, part) for level, part in levels.items()]),
            key=range(2 * len(levels)),
            see="Look whether the two colours part, without and with wrong labels.",
            height=120,
            share_y="row",
        ),
        figure(
            "layer-shares-over-training",
            "How the degrees of freedom split over layers, over training",
            f"{source}, ten classes. Part of each layer in the degrees of freedom; the parts add "
            "up to 100 %, and one may be negative where a layer works against the others. "
            f"{_COUNT} {bands(case.seeds)}",
            _columns([_layers(level, part) for level, part in levels.items()]),
            see="See which layer holds most, and whether that changes in training.",
            height=130,
            share_y="row",
        ),
        figure(
            "approximation-error",
            "Distance of each model from the network's test logits, over training",
            f"{source}, ten classes. Mean absolute difference from the network's logits on test "
            "points of the telescoped logits and of the linearisation at initialisation. "
            + bands(case.seeds),
            _columns([_approximation(level, part) for level, part in levels.items()]),
            see="The lower a line, the better it explains the network.",
            height=170,
            share_y="row",
        ),
    ]


def _over_training(level: float, part: pd.DataFrame) -> list[Panel]:
    panels: list[Panel] = []
    for quantity, label, unit in (
        ("accuracy", "accuracy (%)", 100.0),
        ("degrees_of_freedom", "degrees of freedom", 1.0),
        ("kernel_norm_mean", "norm of kernel rows", 1.0),
    ):
        lines = [
            Line(
                measured(part, f"{name}/{quantity}"),
                colour,
                f"{name} points",
                f"{name}_{quantity}",
                _group(level),
                unit=unit,
                width=_WIDTHS[name],
            )
            for name, colour in SETS.items()
            if f"{name}/{quantity}" in part
        ]
        title = "" if panels else _label(level)
        scale: Literal["linear", "log"] = "log" if quantity == "kernel_norm_mean" else "linear"
        panels.append(Panel(lines, title=title, y=label, y_scale=scale))
    return panels


def _layers(level: float, part: pd.DataFrame) -> list[Panel]:
    # Before the first step there is nothing to share out.
    part = part[part["step"] > 0]
    lines = [
        Line(
            measured(part.assign(share=share), "share"),
            drawing.TELESCOPED[number % len(drawing.TELESCOPED)],
            layer_label(layer),
            f"{layer.replace('.', '_')}_share",
            _group(level),
            unit=100,
        )
        for number, (layer, share) in enumerate(layer_shares(part).items())
    ]
    return [Panel(lines, title=_label(level), y="share (%)")]


def _approximation(level: float, part: pd.DataFrame) -> list[Panel]:
    lines = [
        Line(measured(part, source), *MODELS[name], name, _group(level))
        for name, source in _SOURCES.items()
    ]
    y = "mean absolute error, test"
    return [Panel(lines, title=_label(level), y=y, y_scale="log")]


def _columns(panels: list[list[Panel]]) -> list[tuple[Panel, ...]]:
    return list(zip(*panels, strict=True))


def _group(level: float) -> dict[str, Scalar]:
    return {"setting": group_name(level)}


def _label(level: float) -> str:
    return f"{100 * level:g} % of labels wrong" if level else "no label noise"

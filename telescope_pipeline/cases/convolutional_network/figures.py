"""Figures of the convolutional network."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from telescope_pipeline.cases.convolutional_network.metrics import layer_shares
from telescope_pipeline.cases.convolutional_network.names import (
    LAZY,
    TELESCOPED,
    group_name,
    layer_label,
)
from telescope_pipeline.cases.convolutional_network.schema import ConvolutionalNetworkCase
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import style as style
from telescope_pipeline.study.findings.statistics import over_seeds

_SETS = {"train": style.TRAIN, "test": style.TEST}
_MODELS = {
    "linearization_error": (LAZY, style.LAZY, r"lazy linearisation, $|f - f_{\mathrm{lin}}|$"),
    "approximation_error": (TELESCOPED, style.TELESCOPED[0], r"telescoped, $|f - \tilde{f}\,|$"),
}
_SENSITIVITY = (
    "For cross-entropy they are computed from the sensitivity of the telescoped logits to the "
    "one-hot labels, which is not bounded by the number of training points."
)


def draw(case: ConvolutionalNetworkCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        The figures with their tables, ``step`` first.
    """
    with style.paper_style():
        return [
            _over_training(case, history),
            _layers(case, history),
            _approximation(case, history),
        ]


def _over_training(case: ConvolutionalNetworkCase, history: pd.DataFrame) -> Figure:
    figure, grid = _panels(case, rows=3, height=6.6)
    tables = []
    for position, (level, part) in enumerate(_levels(case, history)):
        accuracy, complexity, norms = (row[position] for row in grid)
        accuracy.set_title(_level_label(level))
        complexity.set_yscale("log")
        norms.set_yscale("log")
        columns: dict[str, pd.Series] = {}
        for name, color in _SETS.items():
            right = over_seeds(part, f"{name}/accuracy")
            p = f"{name}/effective_parameters"
            parameters = over_seeds(part, p, error_column=f"{p}_stderr")
            norm = over_seeds(part, f"{name}/kernel_norm_mean")
            style.draw_band(accuracy, _in_percent(right), color, f"{name} points")
            # The two sets may coincide: the broader line shows from under the other.
            width = 3.6 if name == "train" else 1.2
            style.draw_band(complexity, style.after_start(parameters), color, linewidth=width)
            style.draw_band(norms, style.after_start(norm), color, linewidth=width)
            columns |= style.named(f"{name}_accuracy", right)
            columns |= style.named(f"{name}_effective_parameters", parameters)
            columns |= style.named(f"{name}_kernel_norm_mean", norm)
        tables.append(_table(right["step"], level, columns))
    for row, label in zip(
        grid, ("accuracy (%)", "effective parameters", "norm of kernel rows"), strict=True
    ):
        row[0].set_ylabel(label)
    _finish(figure, grid, history, columns=2)
    return Figure(
        name="effective-parameters-over-training",
        title="Accuracy, effective parameters and kernel norms over training",
        caption=(
            f"{_source(case)} Accuracy against the labels trained on, effective parameters on "
            "training (broad line) and on test points, and the norm of tangent-kernel rows, "
            f"averaged over the steps so far. {_SENSITIVITY} {style.bands(case.seeds)}"
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _layers(case: ConvolutionalNetworkCase, history: pd.DataFrame) -> Figure:
    figure, grid = _panels(case, rows=2, height=5.0)
    tables = []
    for position, (level, part) in enumerate(_levels(case, history)):
        grid[0][position].set_title(_level_label(level))
        # Before the first step there is nothing to share out.
        part = part[part["step"] > 0]
        columns: dict[str, pd.Series] = {}
        for row, name in zip(grid, _SETS, strict=True):
            for number, (layer, share) in enumerate(layer_shares(part, name).items()):
                curve = over_seeds(part.assign(share=share), "share")
                color = style.TELESCOPED[number % len(style.TELESCOPED)]
                style.draw_band(row[position], _in_percent(curve), color, layer_label(layer))
                columns |= style.named(f"{name}_{layer.replace('.', '_')}_share", curve)
        tables.append(_table(curve["step"], level, columns))
    for row, name in zip(grid, _SETS, strict=True):
        row[0].set_ylabel(f"share on {name} points (%)")
    _finish(figure, grid, history, columns=4)
    return Figure(
        name="layer-shares-over-training",
        title="How the effective parameters split over layers, over training",
        caption=(
            f"{_source(case)} Part of each layer in the effective parameters on training and on "
            "test points; the parts add up to 100 %, and one may be negative where a layer works "
            f"against the others. {_SENSITIVITY} {style.bands(case.seeds)}"
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _approximation(case: ConvolutionalNetworkCase, history: pd.DataFrame) -> Figure:
    figure, grid = _panels(case, rows=1, height=3.4)
    tables = []
    for position, (level, part) in enumerate(_levels(case, history)):
        axes = grid[0][position]
        axes.set(title=_level_label(level), yscale="log")
        columns: dict[str, pd.Series] = {}
        for name, (source, color, label) in _MODELS.items():
            curve = over_seeds(part, source)
            style.draw_band(axes, style.after_start(curve), color, label)
            columns |= style.named(name, curve)
        tables.append(_table(curve["step"], level, columns))
    grid[0][0].set_ylabel("mean absolute error of logits, test")
    _finish(figure, grid, history, columns=2)
    return Figure(
        name="approximation-error",
        title="Distance of each model from the network's test logits, over training",
        caption=(
            f"{_source(case)} Mean absolute difference from the network's logits on test points "
            "of the telescoped logits and of the linearisation at initialisation. "
            + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _panels(
    case: ConvolutionalNetworkCase, rows: int, height: float
) -> tuple[MatplotlibFigure, list[list[Axes]]]:
    """One column of panels per level of label noise; a row has one y axis."""
    columns = len(case.data.label_noise)
    size = (1.0 + 3.5 * columns, height)
    return style.grid_of_axes(rows, columns, size, sharex=True, sharey="row")


def _finish(
    figure: MatplotlibFigure, grid: list[list[Axes]], history: pd.DataFrame, columns: int
) -> None:
    for axes in grid[-1]:
        axes.set_xscale("log")
        axes.set_xlim(1, history["step"].max())
    figure.supxlabel("training step", fontsize=9.5)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def _levels(
    case: ConvolutionalNetworkCase, history: pd.DataFrame
) -> list[tuple[float, pd.DataFrame]]:
    return [
        (level, history[history["group"] == group_name(level)]) for level in case.data.label_noise
    ]


def _table(steps: pd.Series, level: float, columns: dict[str, pd.Series]) -> pd.DataFrame:
    return pd.DataFrame({"step": steps, "setting": group_name(level), **columns})


def _in_percent(curve: pd.DataFrame) -> pd.DataFrame:
    return curve.assign(mean=100 * curve["mean"], stderr=100 * curve["stderr"])


def _level_label(level: float) -> str:
    return f"{100 * level:g} % of labels wrong" if level else "no label noise"


def _source(case: ConvolutionalNetworkCase) -> str:
    name = {"digits": "Digits", "cifar10": "CIFAR-10"}[case.data.source]
    return f"{name}, ten classes."

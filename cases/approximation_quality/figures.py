"""Figures of the approximation case."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from telescope_pipeline.cases import _style as style
from telescope_pipeline.cases._statistics import final_rows, over_seeds
from telescope_pipeline.cases.approximation_quality.names import (
    group_name,
    lens_label,
    lens_name,
    optimizer_label,
)
from telescope_pipeline.cases.contract import Figure
from telescope_pipeline.schemas.approximation_quality import ApproximationQualityCase

_LAZY = "lazy linearisation"


def draw(case: ApproximationQualityCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        The figures with their tables, ``step`` or ``learning_rate`` first.
    """
    with style.paper_style():
        return [
            _error_over_training(case, history),
            _accuracy_over_training(case, history),
            _error_by_rate(case, final_rows(history)),
        ]


def _error_over_training(case: ApproximationQualityCase, history: pd.DataFrame) -> Figure:
    figure, panels = _panels(case, history)
    tables = []
    for axes, group, part in panels:
        axes.set_yscale("log")
        columns: dict[str, pd.Series] = {}
        lazy = over_seeds(part, "test/linearization_error")
        style.draw_band(axes, style.after_start(lazy), style.LAZY, _LAZY)
        columns |= style.named("linearization_error", lazy)
        for name, label, color in _lenses(case):
            curve = over_seeds(part, f"test/approximation_error@{name}")
            style.draw_band(axes, style.after_start(curve), color, label)
            columns |= style.named(f"approximation_error_{name}", curve)
        tables.append(pd.DataFrame({"step": lazy["step"], "setting": group, **columns}))
    _finish(figure, panels, "mean $|f - $ model$|$, test points", legend_columns=2)
    return Figure(
        name="error-over-training",
        title="Distance of each model from the network's test predictions, over training",
        caption=(
            "Digits, odd against even. Mean absolute difference from the network's test "
            "predictions of the linearisation at initialisation and of telescoped predictions "
            "with different orders and strides, all on the same runs. " + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _accuracy_over_training(case: ApproximationQualityCase, history: pd.DataFrame) -> Figure:
    figure, panels = _panels(case, history)
    tables = []
    for axes, group, part in panels:
        columns: dict[str, pd.Series] = {}
        network = over_seeds(part, "test/accuracy")
        curve = network.assign(mean=100 * network["mean"], stderr=100 * network["stderr"])
        style.draw_band(axes, curve[curve["step"] > 0], "#C4C4C4", "network", linewidth=5.0)
        columns |= style.named("network_accuracy", network)
        lazy = over_seeds(part, "test/linearized_accuracy")
        curve = lazy.assign(mean=100 * lazy["mean"], stderr=100 * lazy["stderr"])
        style.draw_band(axes, curve[curve["step"] > 0], style.LAZY, _LAZY)
        columns |= style.named("linearized_accuracy", lazy)
        for name, label, color in _lenses(case):
            found = over_seeds(part, f"test/accuracy@{name}")
            curve = found.assign(mean=100 * found["mean"], stderr=100 * found["stderr"])
            style.draw_band(axes, curve[curve["step"] > 0], color, label, linewidth=1.2)
            columns |= style.named(f"accuracy_{name}", found)
        tables.append(pd.DataFrame({"step": network["step"], "setting": group, **columns}))
    _finish(figure, panels, "test accuracy (%)", legend_columns=3)
    return Figure(
        name="accuracy-over-training",
        title="Test accuracy of the network, of telescoped and of lazy predictions",
        caption=(
            "Digits, odd against even. Test accuracy of the network (broad line), of telescoped "
            "predictions and of the linearisation at initialisation. " + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _error_by_rate(case: ApproximationQualityCase, final: pd.DataFrame) -> Figure:
    figure, ((axes,),) = style.grid_of_axes(1, 1, (6.4, 3.6))
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="learning rate",
        ylabel="mean $|f - $ model$|$, test points",
    )
    markers = {"sgd": "o", "adam": "^", "adamw": "s"}
    tables = []
    for setting in case.training.settings:
        name = setting.optimizer.name
        part = final[final["optimizer"] == name]
        columns: dict[str, pd.Series] = {}
        curves = [("linearization_error", "test/linearization_error", style.LAZY, _LAZY)]
        curves += [
            (f"approximation_error_{lens}", f"test/approximation_error@{lens}", color, label)
            for lens, label, color in _lenses(case)
        ]
        for column, source, color, _ in curves:
            curve = over_seeds(part, source, by="learning_rate")
            style.draw_band(axes, curve, color, marker=markers[name])
            columns |= style.named(column, curve)
        rates = curve["learning_rate"]
        tables.append(pd.DataFrame({"learning_rate": rates, "optimizer": name, **columns}))
    for _, _, color, label in curves:
        axes.plot([], [], color=color, label=label)
    for setting in case.training.settings:
        name = setting.optimizer.name
        axes.plot(
            [],
            [],
            color=style.GUIDE,
            marker=markers[name],
            linestyle="",
            label=optimizer_label(name),
        )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return Figure(
        name="error-by-learning-rate",
        title="Distance of each model from the network's test predictions, by learning rate",
        caption=(
            "Mean absolute difference from the network's test predictions after training, by "
            "learning rate; circles, triangles and squares tell optimizers apart. "
            + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


_Panels = list[tuple[Axes, str, pd.DataFrame]]


def _panels(
    case: ApproximationQualityCase, history: pd.DataFrame
) -> tuple[MatplotlibFigure, _Panels]:
    """One row of panels per optimizer, one column per learning rate, the smallest first."""
    settings = case.training.settings
    columns = max(len(setting.learning_rates) for setting in settings)
    size = (0.6 + 3.1 * columns, 0.7 + 2.2 * len(settings))
    figure, grid = style.grid_of_axes(len(settings), columns, size, sharex=True, sharey=True)
    panels: _Panels = []
    for row, setting in zip(grid, settings, strict=True):
        for axes in row[len(setting.learning_rates) :]:
            axes.set_visible(False)
        for axes, rate in zip(row, sorted(setting.learning_rates), strict=False):
            group = group_name(setting.optimizer.name, rate)
            axes.set_title(rf"{optimizer_label(setting.optimizer.name)}, $\gamma$ = {rate:g}")
            panels.append((axes, group, history[history["group"] == group]))
    return figure, panels


def _finish(figure: MatplotlibFigure, panels: _Panels, label: str, legend_columns: int) -> None:
    for axes, _, part in panels:
        axes.set_xscale("log")
        axes.set_xlim(1, part["step"].max())
    figure.supxlabel("training step", fontsize=9.5)
    figure.supylabel(label, fontsize=9.5)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=legend_columns)


def _lenses(case: ApproximationQualityCase) -> Iterator[tuple[str, str, str]]:
    """Column suffix, legend and colour of each lens."""
    for position, variant in enumerate(case.lens.lenses):
        color = style.TELESCOPED[position % len(style.TELESCOPED)]
        name = lens_name(variant.order, variant.stride)
        yield name, lens_label(variant.order, variant.stride), color

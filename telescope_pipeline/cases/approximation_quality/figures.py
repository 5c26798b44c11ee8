"""Figures of the approximation case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.ticker import LogLocator

from telescope_pipeline.cases.approximation_quality.names import (
    group_name,
    lens_label,
    lens_name,
    setting_label,
)
from telescope_pipeline.cases.approximation_quality.schema import (
    ApproximationQualityCase,
    TrainingSetting,
)
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import style as style
from telescope_pipeline.study.findings.statistics import final_rows, over_seeds

_LAZY = "lazy linearisation"
_ERROR_LABEL = "mean $|f - $ model$|$, test points"
_LAZY_STYLE: dict[str, Any] = {"linestyle": (0, (4, 1.5)), "linewidth": 1.2}


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
            _error_by_setting(case, history),
            _error_over_training(case, history),
            _accuracy_over_training(case, history),
            _error_by_rate(case, final_rows(history)),
        ]


def _error_by_setting(case: ApproximationQualityCase, history: pd.DataFrame) -> Figure:
    """One panel a setting with all its learning rates, as in the paper's Fig. 2."""
    settings = case.training.settings
    size = (0.7 + 2.5 * len(settings), 3.3)
    figure, (panels,) = style.grid_of_axes(1, len(settings), size, sharex=True, sharey=True)
    variant = case.lens.lenses[0]
    reference = lens_name(variant.order, variant.stride)
    tables = []
    for axes, setting in zip(panels, settings, strict=True):
        rates = sorted(setting.learning_rates)
        axes.set(yscale="log", title=setting_label(setting))
        for position, rate in enumerate(rates):
            part = _of_group(history, setting, rate)
            place = 0.35 + 0.6 * position / max(1, len(rates) - 1)
            lazy = over_seeds(part, "test/linearization_error")
            found = over_seeds(part, f"test/approximation_error@{reference}")
            for curve, colors, line in ((lazy, "Greys", _LAZY_STYLE), (found, "Reds", {})):
                color = to_hex(colormaps[colors](place))
                label = rf"$\gamma$ = {rate:g}" if colors == "Reds" else None
                style.draw_band(axes, style.after_start(curve), color, label, **line)
            columns = style.named("linearization_error", lazy)
            columns |= style.named("approximation_error", found)
            group = group_name(setting.label, rate)
            tables.append(pd.DataFrame({"step": lazy["step"], "setting": group, **columns}))
        axes.legend(loc="lower right", handlelength=1.2, borderaxespad=0.2)
    _step_axes(panels, history)
    figure.supxlabel("training step", fontsize=9.5)
    figure.supylabel(_ERROR_LABEL, fontsize=9.5)
    handles = [
        panels[0].plot([], [], color=to_hex(colormaps["Reds"](0.8)))[0],
        panels[0].plot([], [], color=to_hex(colormaps["Greys"](0.7)), **_LAZY_STYLE)[0],
    ]
    names = [f"telescoped ({lens_label(variant.order, variant.stride)})", _LAZY]
    figure.legend(handles, names, loc="outside upper left", ncols=2)
    return Figure(
        name="error-by-setting",
        title="Distance of the telescoped and lazy models from the network, by training setting",
        caption=(
            f"{case.data.description}. Mean absolute difference from the network's test "
            "predictions over training, one panel per setting; darker lines are larger learning "
            "rates, dashed ones the linearisation at initialisation. " + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


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
    _finish(figure, panels, _ERROR_LABEL, history)
    return Figure(
        name="error-over-training",
        title="Distance of each model from the network's test predictions, over training",
        caption=(
            f"{case.data.description}. Mean absolute difference from the network's test "
            "predictions of the linearisation at initialisation and of telescoped predictions "
            "with different orders and strides, all on the same runs. Columns are settings, rows "
            "their learning rates from the smallest. " + style.bands(case.seeds)
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
        style.draw_band(axes, _percent(network), "#C4C4C4", "network", linewidth=5.0)
        columns |= style.named("network_accuracy", network)
        lazy = over_seeds(part, "test/linearized_accuracy")
        style.draw_band(axes, _percent(lazy), style.LAZY, _LAZY)
        columns |= style.named("linearized_accuracy", lazy)
        for name, label, color in _lenses(case):
            found = over_seeds(part, f"test/accuracy@{name}")
            style.draw_band(axes, _percent(found), color, label, linewidth=1.2)
            columns |= style.named(f"accuracy_{name}", found)
        tables.append(pd.DataFrame({"step": network["step"], "setting": group, **columns}))
    _finish(figure, panels, "test accuracy (%)", history)
    return Figure(
        name="accuracy-over-training",
        title="Test accuracy of the network, of telescoped and of lazy predictions",
        caption=(
            f"{case.data.description}. Test accuracy of the network (broad line), of telescoped "
            "predictions and of the linearisation at initialisation. Columns are settings, rows "
            "their learning rates from the smallest. " + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _error_by_rate(case: ApproximationQualityCase, final: pd.DataFrame) -> Figure:
    settings = case.training.settings
    size = (0.7 + 2.3 * len(settings), 3.3)
    figure, (panels,) = style.grid_of_axes(1, len(settings), size, sharey=True)
    tables = []
    for axes, setting in zip(panels, settings, strict=True):
        axes.set(xscale="log", yscale="log", title=setting_label(setting))
        part = final[final["setting"] == setting.label]
        columns: dict[str, pd.Series] = {}
        curves = [("linearization_error", "test/linearization_error", style.LAZY, _LAZY)]
        curves += [
            (f"approximation_error_{lens}", f"test/approximation_error@{lens}", color, label)
            for lens, label, color in _lenses(case)
        ]
        for column, source, color, label in curves:
            curve = over_seeds(part, source, by="learning_rate")
            style.draw_band(axes, curve, color, label, marker="o")
            columns |= style.named(column, curve)
        rates = curve["learning_rate"]
        style.ticks_at(axes, [float(rate) for rate in rates])
        axes.margins(x=0.12)
        tables.append(pd.DataFrame({"learning_rate": rates, "setting": setting.label, **columns}))
    figure.supxlabel("learning rate", fontsize=9.5)
    figure.supylabel(_ERROR_LABEL, fontsize=9.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4)
    return Figure(
        name="error-by-learning-rate",
        title="Distance of each model from the network's test predictions, by learning rate",
        caption=(
            "Mean absolute difference from the network's test predictions after training, by "
            "learning rate, one panel per setting. " + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


_Panels = list[tuple[Axes, str, pd.DataFrame]]


def _panels(
    case: ApproximationQualityCase, history: pd.DataFrame
) -> tuple[MatplotlibFigure, _Panels]:
    """One column of panels per setting, one row per learning rate, the smallest first."""
    settings = case.training.settings
    rows = max(len(setting.learning_rates) for setting in settings)
    size = (0.7 + 2.5 * len(settings), 0.9 + 2.1 * rows)
    figure, grid = style.grid_of_axes(rows, len(settings), size, sharex=True, sharey=True)
    panels: _Panels = []
    for column, setting in enumerate(settings):
        rates = sorted(setting.learning_rates)
        for row in range(rows):
            axes = grid[row][column]
            if row >= len(rates):
                axes.set_visible(False)
                continue
            title = rf"$\gamma$ = {rates[row]:g}"
            axes.set_title(f"{setting_label(setting)}\n{title}" if row == 0 else title)
            group = group_name(setting.label, rates[row])
            panels.append((axes, group, _of_group(history, setting, rates[row])))
    return figure, panels


def _of_group(history: pd.DataFrame, setting: TrainingSetting, rate: float) -> pd.DataFrame:
    return history[history["group"] == group_name(setting.label, rate)]


def _percent(curve: pd.DataFrame) -> pd.DataFrame:
    shown = curve[curve["step"] > 0]
    return shown.assign(mean=100 * shown["mean"], stderr=100 * shown["stderr"])


def _step_axes(panels: list[Axes], history: pd.DataFrame) -> None:
    for axes in panels:
        axes.set_xscale("log")
        axes.set_xlim(1, history["step"].max())
        axes.xaxis.set_major_locator(LogLocator(numticks=5))


def _finish(figure: MatplotlibFigure, panels: _Panels, label: str, history: pd.DataFrame) -> None:
    _step_axes([axes for axes, _, _ in panels], history)
    figure.supxlabel("training step", fontsize=9.5)
    figure.supylabel(label, fontsize=9.5)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))


def _lenses(case: ApproximationQualityCase) -> Iterator[tuple[str, str, str]]:
    """Column suffix, legend and colour of each lens."""
    for position, variant in enumerate(case.lens.lenses):
        color = style.TELESCOPED[position % len(style.TELESCOPED)]
        name = lens_name(variant.order, variant.stride)
        yield name, lens_label(variant.order, variant.stride), color

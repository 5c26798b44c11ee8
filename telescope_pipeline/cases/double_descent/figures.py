"""Figures of the double-descent case."""

from __future__ import annotations

import matplotlib
import pandas as pd
from matplotlib.axes import Axes

from telescope_pipeline.cases.double_descent.metrics import interpolation_threshold
from telescope_pipeline.cases.double_descent.schema import DoubleDescentCase
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import style as style
from telescope_pipeline.study.findings.statistics import final_rows, over_seeds, shared_steps

_SETS = {"train": style.TRAIN, "test": style.TEST}
_ERRORS = {
    "linearization_error": (style.LAZY, r"lazy linearisation, $|f - f_{\mathrm{lin}}|$"),
    "smoother_error": (style.TELESCOPED[1], r"smoother, $|f - (S\,Y + c)|$"),
    "approximation_error": (style.TELESCOPED[0], r"telescoped, $|f - \tilde{f}\,|$"),
}


def draw(case: DoubleDescentCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        The figures with their tables, ``width`` or ``step`` first.
    """
    final = final_rows(history)
    threshold = interpolation_threshold(final, case.claims.interpolation_mse)
    with style.paper_style():
        return [
            _width_sweep(case, final, threshold),
            _trajectories(case, history),
            _approximation(case, final),
        ]


def _width_sweep(case: DoubleDescentCase, final: pd.DataFrame, threshold: float | None) -> Figure:
    figure, ((top,), (bottom,)) = style.grid_of_axes(2, 1, (6.4, 5.4), sharex=True)
    top.set(xscale="log", ylabel="mean squared error")
    bottom.set(xlabel="width of the hidden layer", ylabel="effective parameters")
    columns: dict[str, pd.Series] = {}
    for name, color in _SETS.items():
        error = over_seeds(final, f"{name}/mse", by="width")
        complexity = over_seeds(
            final,
            f"{name}/effective_parameters",
            by="width",
            error_column=f"{name}/effective_parameters_stderr",
        )
        style.draw_band(top, error, color, marker="o")
        style.draw_band(bottom, complexity, color, f"{name} points", marker="o")
        columns |= style.named(f"{name}_mse", error)
        columns |= style.named(f"{name}_effective_parameters", complexity)
    table = pd.DataFrame({"width": error["width"], **columns})
    train, test = table["train_effective_parameters"], table["test_effective_parameters"]
    bottom.fill_between(table["width"], train, test, color=style.GAP, linewidth=0, zorder=0)
    if threshold is not None:
        style.mark_position(top, threshold, "interpolation threshold")
        style.continue_mark(bottom, threshold)
    style.ticks_at(bottom, [float(width) for width in table["width"]])
    top.set_ylim(bottom=0)
    bottom.set_ylim(bottom=0)
    figure.legend(*bottom.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return Figure(
        name="errors-and-effective-parameters",
        title="Errors and effective parameters by width, after training",
        caption=(
            f"{case.data.description}, after training. Top: error by width; the dashed line "
            f"marks where train error falls to {case.claims.interpolation_mse:g}. Bottom: "
            "effective parameters used on training and on test points. " + style.bands(case.seeds)
        ),
        figure=figure,
        table=table,
    )


def _trajectories(case: DoubleDescentCase, history: pd.DataFrame) -> Figure:
    figure, (panels,) = style.grid_of_axes(1, 3, (9.0, 3.2))
    quantities = {
        "test/mse": "test mean squared error",
        "train/effective_parameters": "effective parameters, train",
        "test/effective_parameters": "effective parameters, test",
    }
    widths = sorted(int(width) for width in history["width"].unique())
    shades = matplotlib.colormaps["viridis"].resampled(256)
    first = _first_shown(history)
    tables = []
    for position, width in enumerate(widths):
        color = matplotlib.colors.to_hex(shades(0.92 * (1 - position / max(1, len(widths) - 1))))
        part = shared_steps(history[history["width"] == width])
        columns: dict[str, pd.Series] = {}
        for axes, column in zip(panels, quantities, strict=True):
            error = column + "_stderr"
            curve = over_seeds(part, column, error_column=error if error in part else None)
            style.draw_band(axes, curve[curve["step"] >= first], color, f"{width}")
            columns |= style.named(column.replace("/", "_"), curve)
        tables.append(pd.DataFrame({"step": curve["step"], "width": width, **columns}))
    for axes, label in zip(panels, quantities.values(), strict=True):
        _step_axis(axes, label, history)
    top = max(axes.get_ylim()[1] for axes in panels[1:])
    for axes in panels[1:]:
        axes.set_ylim(0, top)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside right center",
        title="width",
    )
    return Figure(
        name="trajectories",
        title="Test error and effective parameters over training, by width",
        caption=(
            "Test error and effective parameters on training and test points over training, one "
            "line per width (darker is wider). " + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _approximation(case: DoubleDescentCase, final: pd.DataFrame) -> Figure:
    figure, ((axes,),) = style.grid_of_axes(1, 1, (6.4, 3.4))
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="width of the hidden layer",
        ylabel="mean absolute error on test points",
    )
    columns: dict[str, pd.Series] = {}
    for name, (color, label) in _ERRORS.items():
        error = over_seeds(final, f"test/{name}", by="width")
        style.draw_band(axes, error, color, label, marker="o")
        columns |= style.named(f"test_{name}", error)
    table = pd.DataFrame({"width": error["width"], **columns})
    style.ticks_at(axes, [float(width) for width in table["width"]])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return Figure(
        name="approximation-error",
        title="How well each model explains the trained network's test predictions",
        caption=(
            "Mean absolute difference from the network's test predictions after training, by "
            "width, of the lazy linearisation, of the telescoped predictions and of the smoother "
            "that the effective parameters are computed from. " + style.bands(case.seeds)
        ),
        figure=figure,
        table=table,
    )


def _step_axis(axes: Axes, label: str, history: pd.DataFrame) -> None:
    axes.set(xscale="log", xlabel="training step", title=label)
    axes.set_xlim(_first_shown(history), history["step"].max())
    axes.set_ylim(bottom=0)


def _first_shown(history: pd.DataFrame) -> int:
    """Where the step axis starts: the first ten steps only show the random initialisation."""
    return 10 if history["step"].max() >= 1000 else 1

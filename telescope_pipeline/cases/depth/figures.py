"""Figures of the depth case."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from telescope_pipeline.cases.depth.metrics import LAZY
from telescope_pipeline.cases.depth.names import error_column
from telescope_pipeline.cases.depth.schema import DepthCase
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import style as style
from telescope_pipeline.study.findings.statistics import final_rows, over_seeds

_YLABEL = "mean $|f - $ model$|$, test points"


def draw(case: DepthCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        The figures with their tables, ``depth`` or ``step`` first.
    """
    with style.paper_style():
        return [_error_by_depth(case, final_rows(history)), _error_by_step(case, history)]


def _error_by_depth(case: DepthCase, final: pd.DataFrame) -> Figure:
    figure, panels = _panels(case)
    tables = []
    for axes, architecture in panels:
        axes.set(title=f"{architecture} networks", xscale="log")
        part = final[final["architecture"] == architecture]
        columns: dict[str, pd.Series] = {}
        for name, (source, color, label) in _models(case).items():
            curve = over_seeds(part, source, by="depth")
            style.draw_band(axes, curve, color, label, marker="o")
            columns |= style.named(name, curve)
        style.ticks_at(axes, [float(depth) for depth in curve["depth"]])
        table = pd.DataFrame({"depth": curve["depth"], "setting": architecture, **columns})
        tables.append(table)
    _finish(case, figure, panels, "hidden layers")
    return Figure(
        name="error-by-depth",
        title="Distance of each model from the network's test predictions, by depth",
        caption=(
            "Digits, odd against even, after training with the same settings at every depth. Mean "
            "absolute difference from the network's test predictions of telescoped predictions of "
            "both orders and of the linearisation at initialisation, on the same runs. "
            f"{_dotted(case)} {style.bands(case.seeds)}"
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _error_by_step(case: DepthCase, history: pd.DataFrame) -> Figure:
    deepest = max(case.model.depths)
    figure, panels = _panels(case)
    tables = []
    for axes, architecture in panels:
        axes.set(title=f"{architecture}, {deepest} hidden layers", xscale="log")
        chosen = (history["architecture"] == architecture) & (history["depth"] == deepest)
        columns: dict[str, pd.Series] = {}
        for name, (source, color, label) in _models(case).items():
            curve = over_seeds(history[chosen], source)
            style.draw_band(axes, style.after_start(curve), color, label)
            columns |= style.named(name, curve)
        axes.set_xlim(1, history["step"].max())
        tables.append(pd.DataFrame({"step": curve["step"], "setting": architecture, **columns}))
    _finish(case, figure, panels, "training step")
    return Figure(
        name="error-over-training",
        title="Distance of each model from the deepest networks' test predictions, over training",
        caption=(
            f"Networks with {deepest} hidden layers. Mean absolute difference from the network's "
            "test predictions of telescoped predictions of both orders and of the linearisation "
            f"at initialisation, on the same runs. {_dotted(case)} {style.bands(case.seeds)}"
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


_Panels = list[tuple[Axes, str]]


def _panels(case: DepthCase) -> tuple[MatplotlibFigure, _Panels]:
    """One panel per architecture, with one y axis."""
    architectures = case.model.architectures
    size = (0.9 + 3.6 * len(architectures), 3.6)
    figure, (row,) = style.grid_of_axes(1, len(architectures), size, sharey=True)
    for axes in row:
        axes.set_yscale("log")
    return figure, list(zip(row, architectures, strict=True))


def _finish(case: DepthCase, figure: MatplotlibFigure, panels: _Panels, label: str) -> None:
    for axes, _ in panels:
        axes.axhline(case.claims.broken_error, color=style.GUIDE, linewidth=0.9, linestyle=":")
    figure.supxlabel(label, fontsize=9.5)
    panels[0][0].set_ylabel(_YLABEL)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3)


def _models(case: DepthCase) -> dict[str, tuple[str, str, str]]:
    """Column of the history, colour and legend of each model, by its name in the tables."""
    every = "every step" if case.lens.stride == 1 else f"every {case.lens.stride} steps"
    return {
        "linearization_error": (LAZY, style.LAZY, "lazy linearisation"),
        "approximation_error_order1": (
            error_column(1),
            style.TELESCOPED[1],
            f"1st order, {every}",
        ),
        "approximation_error_order2": (
            error_column(2),
            style.TELESCOPED[2],
            f"2nd order, {every}",
        ),
    }


def _dotted(case: DepthCase) -> str:
    return f"Dotted: the error of {case.claims.broken_error:g} from which a model counts as broken."

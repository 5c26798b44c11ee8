"""Figures of the user's own model: losses, effective parameters and errors of the models."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure

from telescope_pipeline.cases.own_model.names import group_label, group_name
from telescope_pipeline.cases.own_model.schema import OwnModelCase
from telescope_pipeline.contract import Figure, Scalar
from telescope_pipeline.study.drawing import style as style
from telescope_pipeline.study.findings.statistics import over_seeds

_MOST_COLUMNS = 3
_SETS = {"train": style.TRAIN, "test": style.TEST}
_MODELS = {
    "linearization_error": (style.LAZY, r"lazy linearisation, $|f - f_{\mathrm{lin}}|$"),
    "approximation_error": (style.TELESCOPED[0], r"telescoped, $|f - \tilde{f}\,|$"),
}


def draw(case: OwnModelCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        The figures with their tables, ``step`` first; without effective parameters if there are
        no probes, and with accuracies if the loss has them.
    """
    with style.paper_style():
        figures = [_over_training(case, history, "loss", "Loss over training", case.loss)]
        if "train/accuracy" in history:
            title = "Accuracy over training"
            figures.append(_over_training(case, history, "accuracy", title, "accuracy"))
        if "train/effective_parameters" in history:
            title = "Effective parameters over training"
            name = "effective_parameters"
            figures.append(_over_training(case, history, name, title, "effective parameters"))
        figures.append(_approximation(case, history))
    return figures


def _over_training(
    case: OwnModelCase, history: pd.DataFrame, quantity: str, title: str, label: str
) -> Figure:
    """One quantity on every set that has it."""
    names = [str(name) for name in history.columns]
    sets = [n.removesuffix(f"/{quantity}") for n in names if n.endswith(f"/{quantity}")]
    colors = dict(zip(sets, _colors(sets), strict=True))
    figure, panels = _panels(case)
    # A loss of the user's may be negative.
    positive = all((history[f"{name}/{quantity}"] > 0).any() for name in sets) and not any(
        (history[f"{name}/{quantity}"] < 0).any() for name in sets
    )
    logarithmic = positive and quantity != "accuracy"
    tables = []
    for axes, values in panels:
        part = history[history["group"] == group_name(values)]
        axes.set_yscale("log" if logarithmic else "linear")
        columns: dict[str, pd.Series] = {}
        for name, color in colors.items():
            column = f"{name}/{quantity}"
            error = f"{column}_stderr"
            curve = over_seeds(part, column, error_column=error if error in part else None)
            shown = style.after_start(curve) if logarithmic else curve[curve["step"] > 0]
            # Sets may coincide: the broader line shows from under the others.
            width = 3.0 if name == "train" else 1.4
            style.draw_band(axes, shown, color, f"{name} points", linewidth=width)
            columns |= style.named(f"{name}_{quantity}", curve)
        tables.append(_table(curve["step"], values, columns))
    _finish(figure, panels, history, label)
    return Figure(
        name=f"{quantity.replace('_', '-')}-over-training",
        title=title,
        caption=f"{case.model.call} on {case.data.call}. {style.bands(case.seeds)}",
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _approximation(case: OwnModelCase, history: pd.DataFrame) -> Figure:
    watched = "test" if "test/approximation_error" in history else "train"
    figure, panels = _panels(case)
    tables = []
    for axes, values in panels:
        part = history[history["group"] == group_name(values)]
        axes.set_yscale("log")
        columns: dict[str, pd.Series] = {}
        for name, (color, label) in _MODELS.items():
            curve = over_seeds(part, f"{watched}/{name}")
            style.draw_band(axes, style.after_start(curve), color, label)
            columns |= style.named(name, curve)
        tables.append(_table(curve["step"], values, columns))
    _finish(figure, panels, history, f"mean absolute error, {watched} points")
    return Figure(
        name="approximation-error",
        title=f"Distance of each model from the network's outputs on {watched} points",
        caption=(
            f"Mean absolute difference from the network's outputs on {watched} points of the "
            "telescoped outputs and of the linearisation at initialisation. "
            + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _panels(
    case: OwnModelCase,
) -> tuple[MatplotlibFigure, list[tuple[Axes, Mapping[str, Scalar]]]]:
    """A panel for every setting of the sweep."""
    settings = list(case.combinations())
    columns = 2 if len(settings) == 4 else min(len(settings), _MOST_COLUMNS)
    rows = math.ceil(len(settings) / columns)
    size = (1.6 + 3.2 * columns, 1.0 + 2.6 * rows)
    figure, grid = style.grid_of_axes(rows, columns, size, sharex=True, sharey=True)
    places = [axes for row in grid for axes in row]
    for axes in places[len(settings) :]:
        axes.remove()
    panels: list[tuple[Axes, Mapping[str, Scalar]]] = []
    for position, values in enumerate(settings):
        axes = places[position]
        axes.set_title(group_label(values))
        # Also where the row below is not full.
        axes.tick_params(labelbottom=position + columns >= len(settings))
        panels.append((axes, values))
    return figure, panels


def _finish(
    figure: MatplotlibFigure,
    panels: list[tuple[Axes, Mapping[str, Scalar]]],
    history: pd.DataFrame,
    label: str,
) -> None:
    for axes, _ in panels:
        axes.set_xscale("log")
        axes.set_xlim(1, max(2, int(history["step"].max())))
    figure.supxlabel("training step", fontsize=9.5)
    figure.supylabel(label, fontsize=9.5)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3)


def _colors(sets: list[str]) -> list[str]:
    others = iter(style.TELESCOPED * len(sets))
    return [_SETS[name] if name in _SETS else next(others) for name in sets]


def _table(
    steps: pd.Series, values: Mapping[str, Scalar], columns: dict[str, pd.Series]
) -> pd.DataFrame:
    return pd.DataFrame({"step": steps, "setting": group_name(values), **columns})

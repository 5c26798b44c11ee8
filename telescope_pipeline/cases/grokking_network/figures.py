"""Figures of the network that groks."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from telescope_pipeline.cases.grokking_network.metrics import events_of
from telescope_pipeline.cases.grokking_network.names import group_label, group_name
from telescope_pipeline.cases.grokking_network.schema import STANDARD_ALPHA, GrokkingNetworkCase
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import style as style
from telescope_pipeline.study.findings.grokking import TEST_COMPLEXITY, TRAIN_COMPLEXITY
from telescope_pipeline.study.findings.statistics import over_seeds

_Setting = tuple[float, str]

_SETS = {"train": style.TRAIN, "test": style.TEST}
_COMPLEXITY = {"train": TRAIN_COMPLEXITY, "test": TEST_COMPLEXITY}
_ERRORS = {
    "linearization_error": (style.LAZY, r"lazy linearisation, $|f - f_{\mathrm{lin}}|$"),
    "smoother_error": (style.TELESCOPED[1], r"smoother, $|f - (S\,Y + c)|$"),
    "approximation_error": (style.TELESCOPED[0], r"telescoped, $|f - \tilde{f}\,|$"),
}
_PANEL = (2.9, 2.3)


def draw(case: GrokkingNetworkCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        The figures with their tables, ``step`` first.
    """
    enlarged: list[_Setting] = [(alpha, "linear") for alpha in sorted(case.model.alphas)]
    standard: list[_Setting] = [
        (STANDARD_ALPHA, output) for output in case.training.comparison.outputs
    ]
    figures = []
    with style.paper_style():
        if enlarged:
            figures.append(
                _errors_and_complexity(
                    case,
                    history,
                    enlarged,
                    name="errors-and-effective-parameters",
                    title="Errors and effective parameters over training, by initial scale",
                    subject="networks whose initial weights were multiplied by $\\alpha$",
                )
            )
        if standard:
            figures.append(
                _errors_and_complexity(
                    case,
                    history,
                    standard,
                    name="standard-initialisation",
                    title="Errors and effective parameters from the standard initialisation",
                    subject="networks with standard initial weights, without and with a sigmoid",
                )
            )
        figures.append(_approximation(case, history, [*enlarged, *standard]))
    return figures


def _errors_and_complexity(
    case: GrokkingNetworkCase,
    history: pd.DataFrame,
    settings: list[_Setting],
    *,
    name: str,
    title: str,
    subject: str,
) -> Figure:
    size = (0.9 + _PANEL[0] * len(settings), 0.8 + 2 * _PANEL[1])
    figure, rows = style.grid_of_axes(2, len(settings), size, sharex="col", sharey="row")
    tables = []
    for top, bottom, setting in zip(*rows, settings, strict=True):
        part = _group(history, setting)
        tables.append(_column(case, part, top, bottom, setting))
        top.set_title(group_label(*setting), pad=30)
    figure.supxlabel("training step", fontsize=9.5)
    rows[0][0].set_ylabel("misclassification error (%)")
    rows[1][0].set_ylabel("effective parameters")
    rows[0][0].set_ylim(bottom=0)
    rows[1][0].set_ylim(bottom=0)
    figure.legend(*rows[1][0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    limits = case.claims
    return Figure(
        name=name,
        title=title,
        caption=(
            f"{case.data.description}; {subject}. Top: misclassified training and test images. "
            f"Dashed lines, at the geometric mean over seeds, mark where at least "
            f"{100 * limits.memorised_accuracy:g} % of the training images and where "
            f"{100 * limits.generalised_accuracy:g} % of the test images are right from then on. "
            "Bottom: effective parameters used on the same images; the gap between the two is "
            "shaded. " + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _column(
    case: GrokkingNetworkCase, part: pd.DataFrame, top: Axes, bottom: Axes, setting: _Setting
) -> pd.DataFrame:
    """Draw one setting and return its numbers."""
    top.set_xscale("log")
    columns: dict[str, pd.Series] = {}
    for name, color in _SETS.items():
        share = part.assign(error=1.0 - part[f"{name}/accuracy"])
        error = over_seeds(share, "error")
        percent = error.assign(mean=100 * error["mean"], stderr=100 * error["stderr"])
        column = _COMPLEXITY[name]
        stderr = f"{column}_stderr"
        complexity = over_seeds(part, column, error_column=stderr if stderr in part else None)
        style.draw_band(top, percent[percent["step"] > 0], color)
        style.draw_band(bottom, complexity[complexity["step"] > 0], color, f"{name} points")
        columns |= style.named(f"{name}_misclassification", error)
        columns |= style.named(f"{name}_effective_parameters", complexity)
    table = pd.DataFrame({"step": error["step"], "setting": group_name(*setting), **columns})
    shown = table[table["step"] > 0]
    train, test = shown["train_effective_parameters"], shown["test_effective_parameters"]
    bottom.fill_between(shown["step"], train, test, color=style.GAP, linewidth=0, zorder=0)
    _mark_events(case, part, top, bottom)
    last = int(table["step"].max())
    # The first ten steps lie within the warm-up and spend next to no effective parameters.
    bottom.set_xlim(10 if last >= 100 else 1, last)
    return table


def _mark_events(case: GrokkingNetworkCase, part: pd.DataFrame, top: Axes, bottom: Axes) -> None:
    events = events_of(case, part)
    # Each label has a line of its own, since the two may fall together.
    for label, name in (("memorised\n", "memorisation"), ("generalised", "generalisation")):
        steps = [getattr(event, name).step for event in events.values()]
        if all(steps):
            style.continue_mark(bottom, _geometric_mean(steps))
            style.mark_position(top, _geometric_mean(steps), label)


def _geometric_mean(steps: list[int]) -> float:
    product = 1.0
    for step in steps:
        product *= step ** (1 / len(steps))
    return product


def _approximation(
    case: GrokkingNetworkCase, history: pd.DataFrame, settings: list[_Setting]
) -> Figure:
    size = (0.9 + 2.4 * len(settings), 3.2)
    figure, (panels,) = style.grid_of_axes(1, len(settings), size, sharey=True)
    tables = []
    for axes, setting in zip(panels, settings, strict=True):
        part = _group(history, setting)
        axes.set(xscale="log", yscale="log")
        axes.set_title(group_label(*setting).replace(", ", "\n"))
        columns: dict[str, pd.Series] = {}
        for name, (color, label) in _ERRORS.items():
            error = over_seeds(part, f"test/{name}")
            style.draw_band(axes, style.after_start(error), color, label)
            columns |= style.named(f"test_{name}", error)
        axes.set_xlim(1, part["step"].max())
        tables.append(
            pd.DataFrame({"step": error["step"], "setting": group_name(*setting), **columns})
        )
    figure.supxlabel("training step", fontsize=9.5)
    panels[0].set_ylabel("mean absolute error, test images")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return Figure(
        name="approximation-error",
        title="How well each model explains the network's test predictions",
        caption=(
            f"{case.data.description}. Mean absolute difference from the network's test "
            "predictions of the lazy linearisation, of the telescoped predictions and of the "
            "smoother that the effective parameters are computed from; labels are 0 and 1. "
            + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _group(history: pd.DataFrame, setting: _Setting) -> pd.DataFrame:
    return history[history["group"] == group_name(*setting)]

"""Figures of the design choices: one panel per choice, then their price in complexity."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from telescope_pipeline.cases.design_choices.names import FIFTHS, LABELS, by_fifth
from telescope_pipeline.cases.design_choices.schema import Choice, DesignChoicesCase
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import style as style
from telescope_pipeline.study.findings.statistics import estimate, final_rows, over_seeds

_COLORS = {
    "plain": style.NETWORK,
    "momentum": style.TELESCOPED[0],
    "weight_decay": style.TELESCOPED[1],
    "adaptive": style.TELESCOPED[2],
    "sigmoid": style.TELESCOPED[3],
}
_RATES = ("rate/quantile10", "rate/median", "rate/quantile90")
_KERNEL = ("confidence", "kernel_norm_mean", "kernel_norm_before_output")
_COMPLEXITY = {
    "train/effective_parameters": "effective parameters, train",
    "test/effective_parameters": "effective parameters, test",
    "test/mse": "mean squared error, test",
}


def draw(case: DesignChoicesCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        The figures with their tables, ``step`` first, then the choice as ``setting``.
    """
    with style.paper_style():
        return [_what_each_does(case, history), _complexity(case, history)]


def _what_each_does(case: DesignChoicesCase, history: pd.DataFrame) -> Figure:
    figure, ((momentum, decay), (rates, sigmoid)) = style.grid_of_axes(2, 2, (7.4, 5.9))
    weights: dict[str, pd.DataFrame] = {
        choice.name: _weights(history, choice)
        for choice in case.training.choices
        if choice.name in ("plain", "momentum", "weight_decay")
    }
    _draw_momentum(momentum, case, weights)
    _draw_decay(decay, case, weights)
    _draw_rates(rates, case, history)
    _draw_sigmoid(sigmoid, final_rows(history))
    handles = [
        style_line
        for choice in case.training.choices
        for style_line in momentum.plot([], [], color=_COLORS[choice.name])
    ]
    labels = [LABELS[choice.name] for choice in case.training.choices]
    figure.legend(handles, labels, loc="outside upper left", ncols=5)
    tables = []
    columns = ["gradient/weight", "gradient/contribution_share", *_RATES, "update/cosine"]
    columns += [by_fifth(quantity, fifth) for quantity in _KERNEL for fifth in FIFTHS]
    for choice in case.training.choices:
        part = history[history["choice"] == choice.name]
        tables.append(_table(part, choice.name, columns))
    return Figure(
        name="what-each-choice-does",
        title="What each design choice does to the updates",
        caption=(
            "Top: weight of every step's gradient in the final parameters, relative to what a "
            "lasting gradient gets from plain SGD. Momentum has used only part of the last "
            "gradients; weight decay forgets the early ones, and the initial weights with them "
            "(diamonds). Bottom left: learning rates of the parameters that had a gradient, median "
            "and the range from the 10th to the 90th percentile (mean over seeds). Bottom right: "
            "norms of tangent-kernel rows of fifths of the test points by confidence, of the "
            "trained network with its sigmoid and of the same network without. "
            + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _weights(history: pd.DataFrame, choice: Choice) -> pd.DataFrame:
    """Weights of gradients in the final parameters over γ/(1 − μ) and, at step 0, of θ_0."""
    curve = over_seeds(history[history["choice"] == choice.name], "gradient/weight")
    optimizer = choice.optimizer
    lasting = 1.0
    if optimizer.name == "sgd" and optimizer.momentum:
        lasting = (1 - optimizer.dampening) / (1 - optimizer.momentum)
    later = curve["step"] > 0
    scaled = curve.assign(
        mean=curve["mean"].where(~later, curve["mean"] / lasting),
        stderr=curve["stderr"].where(~later, curve["stderr"] / lasting),
    )
    return scaled


def _draw_momentum(axes: Axes, case: DesignChoicesCase, weights: dict[str, pd.DataFrame]) -> None:
    steps = case.training.steps
    for name in ("plain", "momentum"):
        if name in weights:
            curve = weights[name]
            curve = curve[curve["step"] > 0]
            curve = curve.assign(step=steps - curve["step"])
            style.draw_band(axes, curve, _COLORS[name], marker="o", markersize=3)
    axes.set(
        title="Momentum: the last gradients are still at work",
        xlabel="steps before the end",
        ylabel="relative weight in $\\theta_T$",
        ylim=(0, 1.1),
    )
    axes.set_xlim(min(60, steps - 1), -1)


def _draw_decay(axes: Axes, case: DesignChoicesCase, weights: dict[str, pd.DataFrame]) -> None:
    for name in ("plain", "weight_decay"):
        if name in weights:
            curve = weights[name]
            style.draw_band(axes, curve[curve["step"] > 0], _COLORS[name])
            start = curve[curve["step"] == 0]
            axes.plot(start["step"], start["mean"], color=_COLORS[name], marker="D", markersize=5)
    axes.set(
        title="Weight decay: early steps are forgotten",
        xlabel="step of the gradient",
        ylabel="relative weight in $\\theta_T$",
        ylim=(0, 1.1),
    )


def _draw_rates(axes: Axes, case: DesignChoicesCase, history: pd.DataFrame) -> None:
    axes.set_yscale("log")
    for name in ("plain", "adaptive"):
        part = history[(history["choice"] == name) & (history["step"] > 0)]
        if part.empty:
            continue
        low, median, high = (over_seeds(part, column) for column in _RATES)
        style.draw_band(axes, median, _COLORS[name])
        axes.fill_between(
            median["step"], low["mean"], high["mean"], color=_COLORS[name], alpha=0.2, linewidth=0
        )
        if name == "adaptive":
            axes.annotate(
                "median, and 10th to 90th percentile",
                (0.98, 0.98),
                xycoords="axes fraction",
                ha="right",
                va="top",
                fontsize=8.0,
                color=style.GUIDE,
            )
    # Room for the words above the range.
    axes.set_ylim(top=2.5 * axes.get_ylim()[1])
    axes.set(
        title="Adaptive rates: one for every parameter",
        xlabel="training step",
        ylabel="learning rate",
        xlim=(1, case.training.steps),
    )


def _draw_sigmoid(axes: Axes, final: pd.DataFrame) -> None:
    part = final[final["choice"] == "sigmoid"]
    axes.set(
        title="Sigmoid: confident points hardly move",
        xlabel="confidence $|2f - 1|$, fifths of test points",
        ylabel="norm of kernel row",
        yscale="log",
    )
    if part.empty:
        return
    for quantity, linestyle, words in (
        ("kernel_norm_before_output", "--", "before the sigmoid"),
        ("kernel_norm_mean", "-", "after the sigmoid"),
    ):
        points = [estimate(part[by_fifth(quantity, fifth)]) for fifth in FIFTHS]
        x = [estimate(part[by_fifth("confidence", fifth)]) for fifth in FIFTHS]
        axes.errorbar(
            [at.value for at in x],
            [point.value for point in points],
            xerr=[at.stderr for at in x],
            yerr=[point.stderr for point in points],
            color=_COLORS["sigmoid"],
            linestyle=linestyle,
            marker="o",
        )
        axes.annotate(
            words,
            (x[0].value, points[0].value),
            xytext=(0, 7),
            textcoords="offset points",
            fontsize=8.0,
            color=style.GUIDE,
        )
    axes.margins(y=0.2)


def _complexity(case: DesignChoicesCase, history: pd.DataFrame) -> Figure:
    figure, (panels,) = style.grid_of_axes(1, 3, (9.0, 3.2))
    tables = []
    for choice in case.training.choices:
        part = history[history["choice"] == choice.name]
        for axes, column in zip(panels, _COMPLEXITY, strict=True):
            error = f"{column}_stderr" if f"{column}_stderr" in history else None
            curve = over_seeds(part, column, error_column=error)
            style.draw_band(axes, curve, _COLORS[choice.name], LABELS[choice.name])
        tables.append(_table(part, choice.name, ["train/mse", "test/accuracy", *_COMPLEXITY]))
    for axes, label in zip(panels, _COMPLEXITY.values(), strict=True):
        axes.set(title=label, xlabel="training step", xlim=(0, case.training.steps))
        axes.set_ylim(bottom=0)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=5)
    return Figure(
        name="effective-parameters",
        title="Effective parameters and error of each design choice",
        caption=(
            "Digits, odd against even; the same weights and batches for every choice. Effective "
            "parameters on training and on test points, and test error, over training. "
            + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _table(part: pd.DataFrame, name: str, columns: list[str]) -> pd.DataFrame:
    """Means and standard errors of a choice, step by step."""
    named: dict[str, pd.Series] = {}
    for column in columns:
        error = f"{column}_stderr" if f"{column}_stderr" in part else None
        curve = over_seeds(part, column, error_column=error)
        named |= style.named(column.replace("/", "_"), curve)
    return pd.DataFrame({"step": curve["step"], "setting": name, **named})

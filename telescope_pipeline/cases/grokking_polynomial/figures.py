"""Figures of the grokking case."""

from __future__ import annotations

import pandas as pd

from telescope_pipeline.cases.grokking_polynomial.metrics import divergence_steps, of_group
from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import style as style
from telescope_pipeline.study.findings.statistics import crossing_step, over_seeds

_SETS = {"train": style.TRAIN, "test": style.TEST}
_ERRORS = {
    "linearization_error": (style.LAZY, r"lazy linearisation, $|f - f_{\mathrm{lin}}|$"),
    "smoother_error": (style.TELESCOPED[1], r"smoother, $|f - (S\,Y + c)|$"),
    "approximation_error": (style.TELESCOPED[0], r"telescoped, $|f - \tilde{f}\,|$"),
}


def draw(case: GrokkingPolynomialCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        The figures with their tables, ``step`` first.
    """
    main = of_group(history, case.model.epsilon)
    with style.paper_style():
        drawn = [_errors_and_complexity(case, main), _approximation(case, main)]
        return [*drawn, _by_epsilon(case, history)] if len(case.epsilons) > 1 else drawn


def _errors_and_complexity(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Figure:
    figure, ((top,), (bottom,)) = style.grid_of_axes(2, 1, (6.4, 5.4), sharex=True)
    top.set(xscale="log", yscale="log", ylabel="mean squared error")
    bottom.set(xlabel="training step (full-batch updates)", ylabel="effective parameters")
    columns: dict[str, pd.Series] = {}
    for name, color in _SETS.items():
        error = over_seeds(history, f"{name}/mse")
        complexity = over_seeds(
            history,
            f"{name}/effective_parameters",
            error_column=f"{name}/effective_parameters_stderr",
        )
        style.draw_band(top, style.after_start(error), color)
        style.draw_band(bottom, style.after_start(complexity), color, f"{name} points")
        columns |= style.named(f"{name}_mse", error)
        columns |= style.named(f"{name}_effective_parameters", complexity)
    table = pd.DataFrame({"step": error["step"], **columns})
    shown = table[table["step"] > 0]
    train, test = shown["train_effective_parameters"], shown["test_effective_parameters"]
    bottom.fill_between(shown["step"], train, test, color=style.GAP, linewidth=0, zorder=0)
    level = case.claims.low_error
    top.axhline(level, color=style.GUIDE, linewidth=0.9, linestyle=":", zorder=1)
    for name in _SETS:
        step = crossing_step(table["step"], table[f"{name}_mse"], level)
        if step is not None:
            style.mark_position(top, step, f"{name} error\nat {level:g}")
            style.continue_mark(bottom, step)
    n = case.data.train_size
    style.mark_level(bottom, n, f"n = {n} training points")
    bottom.set_ylim(0, 1.12 * max(n, float(max(train.max(), test.max()))))
    last = int(table["step"].max())
    # The first ten steps spend next to no effective parameters.
    bottom.set_xlim(10 if last >= 1000 else 1, last)
    figure.legend(*bottom.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return Figure(
        name="errors-and-effective-parameters",
        title="Errors and effective parameters over training",
        caption=(
            "Polynomial regression by full-batch gradient descent. Top: error on training and test "
            f"points; dashed lines mark where each falls to {level:g}. Bottom: effective "
            "parameters used on the same points; the gap between the two is shaded. "
            + style.bands(case.seeds)
        ),
        figure=figure,
        table=table,
    )


def _by_epsilon(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Figure:
    epsilons = sorted(case.epsilons)
    steps = min(case.steps_with(epsilon) for epsilon in epsilons)
    size = (2.4 * len(epsilons) + 0.8, 4.6)
    figure, axes = style.grid_of_axes(2, len(epsilons), size, sharex=True, sharey="row")
    axes[0][0].set(ylabel="mean squared error", yscale="log", xscale="log")
    axes[1][0].set(ylabel="effective parameters", xlim=(10 if steps >= 1000 else 1, steps))
    figure.supxlabel("training step (full-batch updates)")
    tables = []
    for epsilon, top, bottom in zip(epsilons, *axes, strict=True):
        part = of_group(history, epsilon)
        part = part[part["step"] <= steps]
        top.set_title(f"ε = {epsilon:g}")
        columns: dict[str, pd.Series] = {}
        for name, color in _SETS.items():
            for quantity, panel in (("mse", top), ("effective_parameters", bottom)):
                curve = over_seeds(part, f"{name}/{quantity}")
                label = f"{name} points" if panel is axes[1][0] else None
                style.draw_band(panel, style.after_start(curve), color, label)
                columns |= style.named(f"{name}_{quantity}", curve)
        tables.append(pd.DataFrame({"step": curve["step"], "epsilon": epsilon, **columns}))
        events = [event.step for event in divergence_steps(case, part)]
        if None not in events:
            style.continue_mark(bottom, sum(map(float, filter(None, events))) / len(events))
    figure.legend(*axes[1][0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return Figure(
        name="effective-parameters-by-epsilon",
        title="Errors and effective parameters for networks ever further from linear",
        caption=(
            "The first steps of the same regression with each epsilon, the strength of the "
            "network's quadratic term. Dashed lines: where the effective parameters used on "
            "training points come to exceed those used on test points for good, by more than "
            f"{case.claims.divergence_gap:g}. " + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _approximation(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Figure:
    figure, ((axes,),) = style.grid_of_axes(1, 1, (6.4, 3.4))
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="training step (full-batch updates)",
        ylabel="mean absolute error on test points",
    )
    columns: dict[str, pd.Series] = {}
    for name, (color, label) in _ERRORS.items():
        error = over_seeds(history, f"test/{name}")
        style.draw_band(axes, style.after_start(error), color, label)
        columns |= style.named(f"test_{name}", error)
    axes.set_xlim(1, history["step"].max())
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return Figure(
        name="approximation-error",
        title="How well each model explains the network's test predictions",
        caption=(
            "Mean absolute difference from the network's test predictions of the lazy "
            "linearisation, of the telescoped predictions and of the smoother that the effective "
            "parameters are computed from. This network is quadratic in its weights, so the "
            "second-order rule is exact and leaves rounding errors only. " + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.DataFrame({"step": error["step"], **columns}),
    )

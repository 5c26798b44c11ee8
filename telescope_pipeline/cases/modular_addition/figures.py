"""Figures of the transformer that groks."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes

from telescope_pipeline.cases.modular_addition.metrics import events_of
from telescope_pipeline.cases.modular_addition.schema import ModularAdditionCase
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import style as style
from telescope_pipeline.study.findings.grokking import (
    TEST_COMPLEXITY,
    TRAIN_COMPLEXITY,
    complexity_gap,
)
from telescope_pipeline.study.findings.statistics import over_seeds

_SETS = {"train": style.TRAIN, "test": style.TEST}
_COMPLEXITY = {"train": TRAIN_COMPLEXITY, "test": TEST_COMPLEXITY}
_ERRORS = {
    "linearization_error": (style.LAZY, r"lazy linearisation, $|f - f_{\mathrm{lin}}|$"),
    "approximation_error": (style.TELESCOPED[0], r"telescoped, $|f - \tilde{f}\,|$"),
}
_ACCURACIES = {
    "accuracy": (style.NETWORK, "network"),
    "linearized_accuracy": (style.LAZY, r"lazy linearisation $f_{\mathrm{lin}}$"),
    "telescoped_accuracy": (style.TELESCOPED[0], r"telescoped $\tilde{f}$"),
}
_STEPS = "training step"


def draw(case: ModularAdditionCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        The figures with their tables, ``step`` first.
    """
    with style.paper_style():
        return [_accuracy_and_complexity(case, history), _models(case, history)]


def _accuracy_and_complexity(case: ModularAdditionCase, history: pd.DataFrame) -> Figure:
    panels = style.grid_of_axes(4, 1, (6.4, 8.6), sharex=True)
    figure, ((top,), (middle,), (bottom,), (below,)) = panels
    top.set(xscale="log", ylabel="accuracy (%)", ylim=(0, 104))
    middle.set(yscale="log", ylabel="cross-entropy")
    bottom.set(ylabel="effective parameters", yscale="log")
    below.set(xlabel=_STEPS, ylabel="train above test (%)")
    columns: dict[str, pd.Series] = {}
    for name, color in _SETS.items():
        accuracy = over_seeds(history, f"{name}/accuracy")
        percent = accuracy.assign(mean=100 * accuracy["mean"], stderr=100 * accuracy["stderr"])
        loss = over_seeds(history, f"{name}/cross_entropy")
        stderr = f"{_COMPLEXITY[name]}_stderr"
        complexity = over_seeds(
            history, _COMPLEXITY[name], error_column=stderr if stderr in history else None
        )
        style.draw_band(top, percent[percent["step"] > 0], color)
        style.draw_band(middle, style.after_start(loss), color)
        style.draw_band(bottom, style.after_start(complexity), color, f"{name} sums")
        columns |= style.named(f"{name}_accuracy", accuracy)
        columns |= style.named(f"{name}_cross_entropy", loss)
        columns |= style.named(f"{name}_effective_parameters", complexity)
    excess = _relative_gap(history)
    below.axhline(0.0, color=style.GUIDE, linewidth=0.9, zorder=1)
    style.draw_band(below, excess[excess["step"] > 0], style.NETWORK)
    columns |= style.named("train_above_test_percent", excess)
    table = pd.DataFrame({"step": accuracy["step"], **columns})
    last = int(table["step"].max())
    # The first ten steps lie within the warm-up and spend next to no effective parameters.
    first = 10 if last >= 100 else 1
    bottom.set_xlim(first, last)
    visible = table.loc[table["step"] >= first, ["train_effective_parameters"]]
    bottom.set_ylim(bottom=0.5 * max(float(visible.min().iloc[0]), 1e-3))
    _mark_events(case, history, top, [middle, bottom, below])
    figure.legend(*bottom.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    limits = case.claims
    return Figure(
        name="accuracy-and-effective-parameters",
        title="Accuracy, loss and effective parameters over training",
        caption=(
            f"{_source(case)}. Dashed lines, at the geometric mean over seeds, mark where train "
            f"accuracy is at least {100 * limits.memorised_accuracy:g} %, where test accuracy is "
            f"at least {100 * limits.generalised_accuracy:g} % from then on, and, if so in every "
            "seed, where the effective parameters on one set come to exceed those on the other, "
            "as known at generalisation. Effective parameters are those of the sensitivity of the "
            "telescoped logits to the one-hot labels, which has no ceiling; the last panel shows "
            "by how much they are larger on training sums, in per cent of those on test sums. "
            + style.bands(case.seeds)
        ),
        figure=figure,
        table=table,
    )


def _relative_gap(history: pd.DataFrame) -> pd.DataFrame:
    """``100 (p_train - p_test) / p_test`` over seeds, 0 where the test set spends none."""
    gap, error = complexity_gap(history)
    spent = history[TEST_COMPLEXITY].where(history[TEST_COMPLEXITY] > 0, math.inf)
    relative = history.assign(excess=100 * gap / spent, excess_stderr=100 * error / spent)
    return over_seeds(relative, "excess", error_column="excess_stderr")


def _mark_events(
    case: ModularAdditionCase, history: pd.DataFrame, top: Axes, others: list[Axes]
) -> None:
    found = events_of(case, history)
    # Each label has a line of its own, since they may fall together.
    labels = {
        "announcement": "train exceeds test\n\n",
        "reversal": "test exceeds train\n\n",
        "memorisation": "memorised\n",
        "generalisation": "generalised",
    }
    for name, label in labels.items():
        steps = [grokking.step(name) for grokking in found.values()]
        seen = [step for step in steps if step]
        if len(seen) == len(steps):
            where = math.exp(sum(map(math.log, seen)) / len(seen))
            style.mark_position(top, where, label)
            for axes in others:
                style.continue_mark(axes, where)


def _models(case: ModularAdditionCase, history: pd.DataFrame) -> Figure:
    figure, ((left, right),) = style.grid_of_axes(1, 2, (8.2, 3.4), sharex=True)
    left.set(xscale="log", yscale="log", xlabel=_STEPS, ylabel="mean absolute error of test logits")
    right.set(xlabel=_STEPS, ylabel="test accuracy (%)", ylim=(0, 104))
    columns: dict[str, pd.Series] = {}
    for name, (color, label) in _ERRORS.items():
        error = over_seeds(history, f"test/{name}")
        style.draw_band(left, style.after_start(error), color, label)
        columns |= style.named(f"test_{name}", error)
    for name, (color, label) in _ACCURACIES.items():
        accuracy = over_seeds(history, f"test/{name}")
        percent = accuracy.assign(mean=100 * accuracy["mean"], stderr=100 * accuracy["stderr"])
        dashed = {"linestyle": "--"} if name == "telescoped_accuracy" else {}
        known = label if name == "accuracy" else None
        style.draw_band(right, percent[percent["step"] > 0], color, known, **dashed)
        columns |= style.named(f"test_{name}", accuracy)
    left.set_xlim(1, history["step"].max())
    handles, labels = left.get_legend_handles_labels()
    network, name_of_network = right.get_legend_handles_labels()
    figure.legend(handles + network, labels + name_of_network, loc="outside upper left", ncols=3)
    return Figure(
        name="telescoped-model",
        title="How well each model explains the network's test predictions",
        caption=(
            f"{_source(case)}. Left: mean absolute difference from the network's test logits of "
            "the lazy linearisation and of the telescoped predictions. Right: test accuracy of "
            "the network, of the lazy linearisation and (dashed) of the telescoped predictions. "
            + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.DataFrame({"step": error["step"], **columns}),
    )


def _source(case: ModularAdditionCase) -> str:
    data = case.data
    return (
        f"Addition modulo {data.modulus} by a transformer, trained on {data.train_size} of the "
        f"{data.modulus**2} sums"
    )

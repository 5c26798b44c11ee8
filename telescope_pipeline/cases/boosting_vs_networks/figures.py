"""Figures of boosting against networks."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from telescope_pipeline.cases.boosting_vs_networks.metrics import Comparison, compare
from telescope_pipeline.cases.boosting_vs_networks.names import MODELS, NETWORK, TREES
from telescope_pipeline.cases.boosting_vs_networks.schema import BoostingVsNetworksCase
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import style as style
from telescope_pipeline.study.findings.statistics import Estimate, estimate, value_at

_MODELS = {
    NETWORK: (style.NETWORK, "o", "network"),
    TREES: (style.TELESCOPED[0], "s", "gradient-boosted trees"),
}
_SETS = {
    "train": (style.TRAIN, "training rows"),
    "regular": (style.TEST, "regular test rows"),
    "irregular": (style.TELESCOPED[1], "irregular test rows"),
}
_WORK = {NETWORK: "steps", TREES: "boosting rounds"}
_PROPORTION = "part of irregular examples in the test set"
_PROGRESS = np.geomspace(0.01, 1.0, 25)


def draw(case: BoostingVsNetworksCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case, one row of panels per table.

    Without one of the models there is no gap, and no figure of it.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        The figures with their tables.
    """
    tables = compare(case, history)
    with style.paper_style():
        whole = len(case.training.searches) == len(MODELS)
        return [
            *([_gaps_and_norms(case, tables)] if whole else []),
            _errors(case, tables),
            _trajectories(case, history),
        ]


def _gaps_and_norms(case: BoostingVsNetworksCase, tables: dict[str, Comparison]) -> Figure:
    figure, rows = style.grid_of_axes(len(tables), 2, (7.6, 0.7 + 2.5 * len(tables)), sharex=True)
    parts = []
    undefined = []
    for (left, right), (name, table) in zip(rows, tables.items(), strict=True):
        gaps = _curve(table, [estimate(table.gaps(p)) for p in table.proportions])
        shown, relative = gaps, [table.relative_gaps(p) for p in table.proportions]
        columns = style.named("gap", gaps)
        label = "MSE gap, network − trees"
        level = 0.0
        if all(values is not None for values in relative):
            found = [estimate(values) for values in relative if values is not None]
            shown = _curve(table, found)
            columns |= style.named("relative_gap", shown)
            label, level = "relative MSE gap", 1.0
        else:
            undefined.append(name)
        style.draw_band(left, shown, style.GUIDE, marker="D")
        _guide(left, level)
        left.set(ylabel=label, title=name)
        for model in MODELS:
            color, marker, words = _MODELS[model]
            at_p = [estimate(table.norm_ratios(model, p)) for p in table.proportions]
            ratios = _curve(table, at_p)
            style.draw_band(right, ratios, color, words, marker=marker)
            columns |= style.named(f"{model}_kernel_norm_ratio", ratios)
        _guide(right, 1.0)
        right.set(ylabel="kernel norm, test / train", title=name)
        right.set_ylim(bottom=0)
        parts.append(pd.DataFrame({"proportion": table.proportions, "table": name, **columns}))
    for axes in rows[-1]:
        axes.set(xlabel=_PROPORTION)
    figure.legend(*rows[0][1].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    caption = (
        "Left: mean squared error of the network minus that of the trees, relative to the gap "
        "without irregular examples. Right: largest kernel norm over the test set, averaged over "
        "steps or rounds, relative to the training set. "
    )
    if undefined:
        caption += (
            f"On {', '.join(undefined)} the gap without irregular examples is not surely positive, "
            "so the gap itself is drawn. "
        )
    return Figure(
        name="gap-and-kernel-norms",
        title="Errors and kernel norms of networks and boosted trees on irregular examples",
        caption=caption + style.bands(case.seeds),
        figure=figure,
        table=pd.concat(parts, ignore_index=True),
    )


def _errors(case: BoostingVsNetworksCase, tables: dict[str, Comparison]) -> Figure:
    figure, (panels,) = style.grid_of_axes(1, len(tables), (1.6 + 3.2 * len(tables), 3.3))
    parts = []
    for axes, (name, table) in zip(panels, tables.items(), strict=True):
        columns: dict[str, pd.Series] = {}
        for model in table.models:
            color, marker, words = _MODELS[model]
            curve = _curve(table, [estimate(table.errors(model, p)) for p in table.proportions])
            style.draw_band(axes, curve, color, words, marker=marker)
            columns |= style.named(f"{model}_mse", curve)
        axes.set(title=name, xlabel=_PROPORTION)
        axes.set_ylim(bottom=0)
        parts.append(pd.DataFrame({"proportion": table.proportions, "table": name, **columns}))
    panels[0].set(ylabel="mean squared error, test")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return Figure(
        name="errors",
        title="Test errors of networks and boosted trees",
        caption=(
            "Mean squared error on test sets with a growing part of irregular examples; targets "
            "have variance 1 over the training rows. " + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(parts, ignore_index=True),
    )


def _trajectories(case: BoostingVsNetworksCase, history: pd.DataFrame) -> Figure:
    names, models = list(case.data.tables), list(case.training.searches)
    size = (0.8 + 3.4 * len(models), 0.7 + 2.6 * len(names))
    figure, rows = style.grid_of_axes(len(names), len(models), size, sharex=True, sharey="row")
    parts = []
    for panels, name in zip(rows, names, strict=True):
        for axes, model in zip(panels, models, strict=True):
            chosen = history[(history["table"] == name) & (history["model"] == model)]
            columns: dict[str, pd.Series] = {}
            axes.set(xscale="log", yscale="log", title=f"{name}, {_MODELS[model][2]}")
            for part, (color, words) in _SETS.items():
                curve = _over_progress(chosen, f"{part}/effective_parameters")
                style.draw_band(axes, curve, color, words)
                columns |= style.named(f"{part}_effective_parameters", curve)
            frame = {"progress": _PROGRESS, "table": name, "model": model, **columns}
            parts.append(pd.DataFrame(frame))
        panels[0].set(ylabel="effective parameters")
    for axes, model in zip(rows[-1], models, strict=True):
        axes.set(xlabel=f"part of the {_WORK[model]} done")
    figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return Figure(
        name="effective-parameters",
        title="Effective parameters of both models over training",
        caption=(
            "Effective parameters used on training rows, on regular and on irregular test rows, "
            "over the steps of the network and the rounds of the trees. Seeds have other numbers "
            "of rounds, so the axis is the part done. " + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(parts, ignore_index=True),
    )


def _curve(table: Comparison, values: list[Estimate]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "proportion": table.proportions,
            "mean": [value.value for value in values],
            "stderr": [value.stderr for value in values],
        }
    )


def _over_progress(history: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean and standard error over seeds at equal parts of each seed's own training."""
    values, errors = [], []
    for _, run in history.groupby("seed", sort=True):
        steps = run["step"]
        last = int(steps.iloc[-1])
        at = [max(part * last, float(steps.iloc[0])) for part in _PROGRESS]
        values.append([value_at(steps, run[column], step) for step in at])
        errors.append([value_at(steps, run[column + "_stderr"], step) for step in at])
    found = [
        estimate(at_part, errors_at_part)
        for at_part, errors_at_part in zip(np.transpose(values), np.transpose(errors), strict=True)
    ]
    return pd.DataFrame(
        {
            "progress": _PROGRESS,
            "mean": [value.value for value in found],
            "stderr": [value.stderr for value in found],
        }
    )


def _guide(axes: Axes, level: float) -> None:
    axes.axhline(level, color=style.GUIDE, linewidth=0.9, linestyle=":", zorder=1)

"""Figures of the weight-averaging case."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from telescope_pipeline.cases.weight_averaging.metrics import layers_of, log_change
from telescope_pipeline.cases.weight_averaging.names import (
    KINDS,
    STARTS,
    STATISTICS,
    alphas,
    change_column,
    gap_column,
    kind_of,
    path_column,
)
from telescope_pipeline.cases.weight_averaging.schema import WeightAveragingCase
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import style as style
from telescope_pipeline.study.findings.statistics import over_seeds

_STARTS = {"scratch": style.NETWORK, "pretrained": style.TELESCOPED[0]}
_SINCE = "checkpoint $t'$ at which children are spawned"


def draw(case: WeightAveragingCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        The figures with their tables, ``step`` (t′) first.
    """
    starts = [start for start in STARTS if start in set(history["setting"])]
    with style.paper_style():
        return [
            _gaps(case, history, starts),
            _changes(case, history, starts),
            _paths(case, history, starts),
        ]


def _gaps(case: WeightAveragingCase, history: pd.DataFrame, starts: Sequence[str]) -> Figure:
    figure, (panels,) = style.grid_of_axes(1, 2, (7.6, 3.4))
    tables = []
    judged = case.claims.statistics
    # The statistics that the claims use come first, as in the caption.
    ordered = [judged, *(name for name in STATISTICS if name != judged)]
    for start in starts:
        part = history[history["setting"] == start]
        columns: dict[str, pd.Series] = {}
        for axes, statistics in zip(panels, ordered, strict=True):
            curve = over_seeds(part, gap_column(statistics))
            style.draw_band(axes, curve, _STARTS[start], STARTS[start], marker="o")
            columns |= style.named(f"accuracy_gap_{statistics}", curve)
        tables.append(pd.DataFrame({"step": curve["step"], "setting": start, **columns}))
    for axes, statistics in zip(panels, ordered, strict=True):
        _step_axis(axes, history)
        axes.axhline(0.0, color=style.GUIDE, linewidth=0.9, zorder=1)
        axes.set(title=f"BatchNorm statistics {statistics}")
        # Far apart where statistics are interpolated, so each panel has a scale of its own.
        axes.set_ylabel("accuracy gap at $\\alpha = 1/2$ (points)")
        axes.yaxis.set_major_formatter(lambda gap, _: f"{100 * gap:.3g}")
    figure.supxlabel(_SINCE, fontsize=9.5)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return Figure(
        name="accuracy-gap",
        title="Accuracy lost by averaging the weights of two children",
        caption=(
            "Mean test accuracy of two children minus that of the network with the mean of their "
            "weights, in percentage points, by the step t′ at which both were spawned from one "
            f"network. Left: running statistics of BatchNorm {ordered[0]}, as the claims use them; "
            f"right, on a scale of its own: {ordered[1]}. " + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _changes(case: WeightAveragingCase, history: pd.DataFrame, starts: Sequence[str]) -> Figure:
    layers = layers_of(history)
    kinds = [kind for kind in KINDS if any(kind_of(layer) == kind for layer in layers)]
    figure, (panels,) = style.grid_of_axes(
        1, len(kinds), (1.0 + 2.9 * len(kinds), 3.6), sharey=True
    )
    for axes, kind in zip(panels, kinds, strict=True):
        # Scales come first: bands and margins follow from them.
        _step_axis(axes, history)
        axes.set(yscale="log", title=KINDS[kind])
    tables = []
    for start in starts:
        part = history[history["setting"] == start]
        columns: dict[str, pd.Series] = {}
        for axes, kind in zip(panels, kinds, strict=True):
            of_kind = [layer for layer in layers if kind_of(layer) == kind]
            for layer in of_kind:
                curve = over_seeds(part, change_column(layer))
                columns |= style.named(f"gradient_change_{layer}", curve)
                if len(of_kind) > 1:
                    shade = _shade(_STARTS[start], of_kind.index(layer), len(of_kind))
                    axes.plot(curve["step"], curve["mean"], color=shade, linewidth=0.8, zorder=2)
            mean = _geometric(over_seeds(part.assign(log=log_change(part, kind)), "log"))
            style.draw_band(
                axes, mean, _STARTS[start], STARTS[start], marker="o", linewidth=2.2, zorder=3
            )
            columns |= style.named(f"gradient_change_of_{kind}", mean)
        tables.append(pd.DataFrame({"step": curve["step"], "setting": start, **columns}))
    panels[0].set_ylabel("gradient change (mean squared)")
    figure.supxlabel(
        f"checkpoint $t'$, compared with $t' + {case.lens.gradient_gap}$", fontsize=9.5
    )
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return Figure(
        name="gradient-change",
        title="Change of the model's gradients, by kind of layer",
        caption=(
            "Mean squared difference of the gradients of the outputs before the softmax between t′ "
            f"and t′ + {case.lens.gradient_gap}, over {case.lens.gradient_rows} test points. "
            "Thick: geometric mean over layers of a kind and over seeds, as the claims use it, and "
            "a band of one standard error; thin: one line per layer, mean over seeds (darker is "
            f"deeper). {case.seeds} {'seed' if case.seeds == 1 else 'seeds'}."
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _geometric(logs: pd.DataFrame) -> pd.DataFrame:
    """A mean of logarithms to base 10 as a geometric mean, its error to first order."""
    mean = 10.0 ** logs["mean"]
    return logs.assign(mean=mean, stderr=mean * np.log(10.0) * logs["stderr"])


def _paths(case: WeightAveragingCase, history: pd.DataFrame, starts: Sequence[str]) -> Figure:
    figure, rows = style.grid_of_axes(1, len(starts), (3.6 * len(starts) + 1.0, 3.4), sharey=True)
    positions = alphas(case.lens.alphas)
    statistics = case.claims.statistics
    steps = sorted(int(step) for step in history["step"].unique())
    shades = matplotlib.colormaps["viridis"].resampled(256)
    tables = []
    for axes, start in zip(rows[0], starts, strict=True):
        axes.set(title=STARTS[start], xlabel="$\\alpha$")
        part = history[history["setting"] == start]
        columns: dict[str, pd.Series] = {}
        curves = []
        for alpha in positions:
            curve = over_seeds(part, path_column(statistics, alpha))
            columns |= style.named(f"accuracy_alpha_{alpha:.4f}", curve)
            curves.append(curve.assign(alpha=alpha))
        at_all = pd.concat(curves)
        for position, step in enumerate(steps):
            path = at_all[at_all["step"] == step]
            if path.empty:
                continue
            color = matplotlib.colors.to_hex(shades(0.92 * (1 - position / max(1, len(steps) - 1))))
            style.draw_band(axes, path[["alpha", "mean", "stderr"]], color, f"{step}")
        tables.append(pd.DataFrame({"step": curve["step"], "setting": start, **columns}))
    rows[0][0].set_ylabel("test accuracy")
    figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside right center", title="$t'$")
    return Figure(
        name="interpolation",
        title="Accuracy on the line between two children",
        caption=(
            "Test accuracy of the network with weights (1 − α) θ_1 + α θ_2 between two children "
            "spawned at t′ (darker is later), BatchNorm's running statistics "
            f"{statistics}. " + style.bands(case.seeds)
        ),
        figure=figure,
        table=pd.concat(tables, ignore_index=True),
    )


def _step_axis(axes: Axes, history: pd.DataFrame) -> None:
    """A logarithmic axis of t′ that has room for t′ = 0."""
    steps = sorted(int(step) for step in history["step"].unique())
    axes.set_xscale("symlog", linthresh=min(step for step in steps if step > 0), linscale=0.5)
    style.ticks_at(axes, [float(step) for step in steps])


def _shade(color: str, position: int, count: int) -> str:
    """A colour, lighter for layers near the input."""
    light = 0.6 * (1 - position / (count - 1)) if count > 1 else 0.0
    red, green, blue = (part + (1 - part) * light for part in matplotlib.colors.to_rgb(color))
    return matplotlib.colors.to_hex((red, green, blue))

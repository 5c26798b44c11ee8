"""Figures of boosting against networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from telescope_pipeline.cases.boosting_vs_networks.metrics import Comparison, compare
from telescope_pipeline.cases.boosting_vs_networks.schema import BoostingVsNetworksCase
from telescope_pipeline.cases.boosting_vs_networks.sweep import MODELS, NETWORK, TREES
from telescope_pipeline.contract import Figure, Scalar
from telescope_pipeline.study import drawing
from telescope_pipeline.study.drawing import Guide, Line, Panel, about, bands, figure
from telescope_pipeline.study.findings.statistics import Estimate, Seeds, estimate, value_at

QUESTION = (
    "Do boosted trees beat the network on regular rows of a table, by more on irregular ones, and "
    "do kernel norms explain it?"
)
_MODELS = {
    NETWORK: (drawing.NETWORK, "network"),
    TREES: (drawing.TELESCOPED[0], "gradient-boosted trees"),
}
_PLURALS = {NETWORK: "the network", TREES: "boosted trees"}
_SETS = {
    "train": (drawing.TRAIN, "training rows"),
    "regular": (drawing.TEST, "regular test rows"),
    "irregular": (drawing.TELESCOPED[1], "irregular test rows"),
}
_WORK = {NETWORK: "steps", TREES: "boosting rounds"}
_PROPORTION = "part of irregular rows in the test set"
_PROGRESS = np.geomspace(0.01, 1.0, 25)


def headline(case: BoostingVsNetworksCase, history: pd.DataFrame) -> str:
    """Who is better on regular and on irregular rows, and how kernel norms differ, by table."""
    found = []
    for name, table in compare(case, history).items():
        first, last = min(table.proportions), max(table.proportions)
        errors = [
            f"{' against '.join(about(estimate(table.errors(m, p)).value) for m in table.models)} "
            f"with {100 * p:.0f} % irregular rows"
            for p in (first, last)
        ]
        norms = " and ".join(
            f"{about(estimate(table.norm_ratios(m, last)).value)} for {_PLURALS[m]}"
            for m in table.models
        )
        who = " against ".join(_PLURALS[model] for model in table.models)
        found.append(
            f"On {name}, test error of {who}: {errors[0]}, {errors[1]}; kernel norms on irregular "
            f"rows are {norms} times those in training."
        )
    # Of many tables the first tells enough.
    return found[0] if len(found) < 3 else f"{found[0]} {len(found) - 1} more tables are below."


def draw(case: BoostingVsNetworksCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case, one row of panels per table."""
    tables = compare(case, history)
    # Without one of the models there is no gap, and no figure of it.
    whole = len(case.training.searches) == len(MODELS)
    return [
        *([_gaps_and_norms(case, tables)] if whole else []),
        _errors(case, tables),
        _trajectories(case, history),
    ]


def _gaps_and_norms(case: BoostingVsNetworksCase, tables: dict[str, Comparison]) -> Figure:
    rows, gaps, undefined = [], [], []
    for name, table in tables.items():
        group = {"table": name}
        gap = _line(table, [table.gaps(p) for p in table.proportions], "gap", group)
        found = [table.relative_gaps(p) for p in table.proportions]
        relative = [values for values in found if values is not None]
        if len(relative) == len(found):
            gaps.append(gap)
            shown = _line(table, relative, "relative_gap", group)
            label, level, meaning = "relative error gap", 1.0, "as at 0"
        else:
            undefined.append(name)
            shown, label, level, meaning = gap, "error gap, network − trees", 0.0, "equal errors"
        ratios = [
            Line(
                _curve(table, [table.norm_ratios(model, p) for p in table.proportions]),
                *look,
                f"{model}_kernel_norm_ratio",
                group,
                points=True,
            )
            for model, look in _MODELS.items()
        ]
        left = Panel(
            [shown],
            title=name,
            x=_PROPORTION,
            y=label,
            x_scale="linear",
            guides=[Guide(level, meaning, axis="y")],
        )
        right = Panel(
            ratios,
            title=name,
            x=_PROPORTION,
            y="kernel norm, test / train",
            x_scale="linear",
            y_range=(0, None),
            guides=[Guide(1.0, "as in training", axis="y")],
        )
        rows.append([left, right])
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
    return figure(
        "gap-and-kernel-norms",
        "Errors and kernel norms of networks and boosted trees on irregular examples",
        caption + bands(case.seeds),
        rows,
        see="See whether the gap grows to the right together with the network's kernel norm.",
        key=(0, 1),
        undrawn=gaps,
    )


def _errors(case: BoostingVsNetworksCase, tables: dict[str, Comparison]) -> Figure:
    panels = [
        Panel(
            [
                Line(
                    _curve(table, [table.errors(model, p) for p in table.proportions]),
                    *_MODELS[model],
                    f"{model}_mse",
                    {"table": name},
                    points=True,
                )
                for model in table.models
            ],
            title=name,
            x=_PROPORTION,
            y="mean squared error, test",
            x_scale="linear",
            y_range=(0, None),
        )
        for name, table in tables.items()
    ]
    return figure(
        "errors",
        "Test errors of networks and boosted trees",
        "Mean squared error on test sets with a growing part of irregular examples; targets have "
        f"variance 1 over the training rows. {bands(case.seeds)}",
        [panels[n : n + 2] for n in range(0, len(panels), 2)],
        see="Compare how steeply the two errors rise with the part of irregular rows.",
        height=170,
    )


def _trajectories(case: BoostingVsNetworksCase, history: pd.DataFrame) -> Figure:
    rows = [
        [
            Panel(
                [
                    Line(
                        _over_progress(
                            history[(history["table"] == name) & (history["model"] == model)],
                            f"{part}/effective_parameters",
                        ),
                        *look,
                        f"{part}_effective_parameters",
                        {"table": name, "model": model},
                    )
                    for part, look in _SETS.items()
                ],
                title=f"{name}\n{_MODELS[model][1]}",
                x=f"part of {_WORK[model]} done",
                y="effective parameters",
                y_scale="log",
            )
            for model in case.training.searches
        ]
        for name in case.data.tables
    ]
    return figure(
        "effective-parameters",
        "Effective parameters of both models over training",
        "Effective parameters used on training rows, on regular and on irregular test rows, over "
        "the steps of the network and the rounds of the trees. Seeds have other numbers of rounds, "
        f"so the axis is the part done. {bands(case.seeds)}",
        rows,
        see="Compare how far apart the sets are for the network and for the trees.",
        share_y="all",
    )


def _line(table: Comparison, values: list[Seeds], column: str, group: Mapping[str, Scalar]) -> Line:
    return Line(
        _curve(table, values), drawing.GUIDE, "", column, group, points=True, hint="network − trees"
    )


def _curve(table: Comparison, values: list[Seeds]) -> pd.DataFrame:
    curve = _means("proportion", table.proportions, [estimate(seeds) for seeds in values])
    return curve.assign(**_singles(values))


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
    return _means("progress", _PROGRESS, found).assign(**_singles(np.transpose(values)))


def _singles(values: Iterable[Iterable[float]]) -> dict[str, list[float]]:
    """The numbers of each seed, from the numbers at each place."""
    by_seed = zip(*(list(at) for at in values), strict=True)
    return {f"{drawing.SEED}{n}": list(single) for n, single in enumerate(by_seed)}


def _means(x: str, places: Iterable[float], found: list[Estimate]) -> pd.DataFrame:
    means = {"mean": [at.value for at in found], "stderr": [at.stderr for at in found]}
    return pd.DataFrame({x: places, **means})

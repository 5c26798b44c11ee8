"""Summary and claims of the weight-averaging case, from the recorded tables alone.

Members of one seed share data, last layers and batch orders whatever their start, so differences
between starts are taken seed by seed.  Gradient changes span orders of magnitude: they are compared
by their logarithms to base 10, averaged over the layers of a kind.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from telescope_pipeline.cases.weight_averaging.names import (
    KINDS,
    STARTS,
    STATISTICS,
    change_column,
    children_column,
    gap_column,
    kind_of,
)
from telescope_pipeline.cases.weight_averaging.schema import WeightAveragingCase
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.statistics import Estimate, estimate, seed_record

GAP_SOURCE = "Section 4.3, Fig. 6 left"
CHANGE_SOURCE = "Section 4.3, Fig. 6 right"

# Gradients that do not change at all, in float32.
_SMALLEST_CHANGE = 1e-30


def layers_of(history: pd.DataFrame) -> list[str]:
    """The layers whose gradient change was recorded, in the order of the network."""
    prefix = change_column("")
    return [name.removeprefix(prefix) for name in map(str, history) if name.startswith(prefix)]


def log_change(history: pd.DataFrame, kind: str | None = None) -> pd.Series:
    """Logarithm to base 10 of the gradient change, averaged over layers.

    Args:
        history: Records.
        kind: ``convolution``, ``norm`` or ``head``; ``None`` for all layers.

    Returns:
        One number per record.
    """
    layers = [layer for layer in layers_of(history) if kind in (None, kind_of(layer))]
    values = history[[change_column(layer) for layer in layers]].to_numpy()
    logs = np.log10(np.maximum(values, _SMALLEST_CHANGE))
    return pd.Series(logs.mean(axis=1), index=history.index)


def summarize(case: WeightAveragingCase, history: pd.DataFrame) -> dict[str, Any]:
    """Gaps, accuracies and gradient changes of every start and t′.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        Nested numbers, first by start, then by t′.
    """
    summary: dict[str, Any] = {}
    for start, members in history.groupby("setting", sort=True):
        at_start: dict[str, Any] = {}
        for step, part in members.groupby("step", sort=True):
            values: dict[str, float] = {}
            for statistics in STATISTICS:
                gap = estimate(part[gap_column(statistics)])
                values[f"accuracy_gap_{statistics}"] = gap.value
                values[f"accuracy_gap_{statistics}_stderr"] = gap.stderr
            column = children_column(case.claims.statistics)
            values["children_accuracy"] = float(part[column].mean())
            for kind in KINDS:
                values[f"log_gradient_change_{kind}"] = float(log_change(part, kind).mean())
            at_start[f"{step:06d}"] = values
        summary[str(start)] = at_start
    return summary


def claims(case: WeightAveragingCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the case's claims.

    Args:
        case: The case's parameters; its ``claims`` section holds every threshold.
        history: Records of all members.

    Returns:
        One claim per finding that the starts in the history can show, whether it holds or not.
    """
    found = []
    starts = set(history["setting"])
    if "scratch" in starts:
        found += [
            _gap_falls(case, history),
            _change_falls(case, history),
            _head_falls_most(case, history),
        ]
    if set(STARTS) <= starts:
        found += [_pretraining_lowers_gap(case, history), _norms_change_more(case, history)]
    return found


def _gap_falls(case: WeightAveragingCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    column = gap_column(limits.statistics)
    curve = _curves(history, "scratch", lambda part: part[column])
    correlation, fall = _trend(curve)
    return Claim(
        id="gap-falls",
        statement=(
            "The later two children are spawned from one network, the less accuracy the average of "
            "their weights loses."
        ),
        source=GAP_SOURCE,
        observed={
            "rank_correlation": correlation,
            "first_minus_last": fall.record,
            "gap_by_step": {str(step): seed_record(values) for step, values in curve.items()},
        },
        threshold={
            "rank_correlation": -limits.rank_correlation,
            "standard_errors": limits.standard_errors,
            "statistics": limits.statistics,
        },
        holds=correlation <= -limits.rank_correlation
        and fall.surely_above(0.0, limits.standard_errors),
    )


def _change_falls(case: WeightAveragingCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    curve = _curves(history, "scratch", log_change)
    correlation, fall = _trend(curve)
    return Claim(
        id="gradient-change-falls",
        statement=(
            "Over the same number of steps, the model's gradients change less and less in the "
            "course of training."
        ),
        source=CHANGE_SOURCE,
        observed={
            "rank_correlation": correlation,
            "first_minus_last_log10": fall.record,
            "log10_by_step": {str(step): estimate(values).record for step, values in curve.items()},
        },
        threshold={
            "rank_correlation": -limits.rank_correlation,
            "standard_errors": limits.standard_errors,
        },
        holds=correlation <= -limits.rank_correlation
        and fall.surely_above(0.0, limits.standard_errors),
    )


def _head_falls_most(case: WeightAveragingCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    falls = {}
    for kind in KINDS:
        curve = _curves(history, "scratch", partial(log_change, kind=kind))
        falls[kind] = curve.iloc[:, 0] - curve.iloc[:, -1]
    leads = {kind: estimate(falls["head"] - falls[kind]) for kind in KINDS if kind != "head"}
    return Claim(
        id="last-layer-falls-most",
        statement=(
            "Of all kinds of layers, the gradients of the last linear layer show the largest fall "
            "of their change, as a ratio."
        ),
        source=CHANGE_SOURCE,
        observed={
            "fall_log10": {kind: estimate(fall).record for kind, fall in falls.items()},
            "head_minus_other_log10": {kind: lead.record for kind, lead in leads.items()},
        },
        threshold={"lead": 0.0, "standard_errors": limits.standard_errors},
        holds=all(lead.surely_above(0.0, limits.standard_errors) for lead in leads.values()),
    )


def _pretraining_lowers_gap(case: WeightAveragingCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    column = gap_column(limits.statistics)
    difference = _between_starts(history, lambda part: part[column])
    # Where the gap has closed there is nothing to lower: the mean over t' is what is judged.
    mean = estimate(difference.mean(axis=1))
    return Claim(
        id="pretraining-lowers-gap",
        statement=(
            "At the same t′, the average of children of a pre-trained network loses less accuracy "
            "than that of children of a network trained from scratch."
        ),
        source=GAP_SOURCE,
        observed={
            "scratch_minus_pretrained": mean.record,
            "by_step": {str(step): estimate(part).record for step, part in difference.items()},
        },
        threshold={
            "difference": 0.0,
            "standard_errors": limits.standard_errors,
            "statistics": limits.statistics,
        },
        holds=mean.surely_above(0.0, limits.standard_errors),
    )


def _norms_change_more(case: WeightAveragingCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    difference = -_between_starts(history, lambda part: log_change(part, "norm"))
    others = {
        kind: estimate(
            -_between_starts(history, partial(log_change, kind=kind)).mean(axis=1)
        ).record
        for kind in KINDS
        if kind != "norm"
    }
    mean = estimate(difference.mean(axis=1))
    return Claim(
        id="pretraining-raises-batchnorm-change",
        statement=(
            "In a pre-trained network the gradients of BatchNorm change more, not less, than in a "
            "network trained from scratch."
        ),
        source=CHANGE_SOURCE,
        observed={
            "pretrained_minus_scratch_log10": mean.record,
            "other_layers_log10": others,
            "by_step": {str(step): estimate(part).record for step, part in difference.items()},
        },
        threshold={"difference": 0.0, "standard_errors": limits.standard_errors},
        holds=mean.surely_above(0.0, limits.standard_errors),
    )


def _curves(
    history: pd.DataFrame, start: str, quantity: Callable[[pd.DataFrame], pd.Series]
) -> pd.DataFrame:
    """One row per seed and one column per t′, increasing."""
    part = history[history["setting"] == start]
    values = part[["seed", "step"]].assign(value=quantity(part))
    return values.pivot(index="seed", columns="step", values="value")


def _trend(curve: pd.DataFrame) -> tuple[float, Estimate]:
    """Rank correlation of the mean curve with t′, and its fall from first to last, by seed."""
    return _rank_correlation(curve.mean(axis=0)), estimate(curve.iloc[:, 0] - curve.iloc[:, -1])


def _rank_correlation(means: pd.Series) -> float:
    """Spearman's correlation with the order in which the numbers stand; 0 for a constant."""
    ranks = means.rank().to_numpy()
    if np.ptp(ranks) == 0:
        return 0.0
    return float(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1])


def _between_starts(
    history: pd.DataFrame, quantity: Callable[[pd.DataFrame], pd.Series]
) -> pd.DataFrame:
    """From scratch minus pre-trained, where both have the seed and t′."""
    scratch, other = (_curves(history, start, quantity) for start in ("scratch", "pretrained"))
    return (scratch - other).dropna(axis=1, how="all").dropna(axis=0)

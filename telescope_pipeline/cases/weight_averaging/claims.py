"""Claims of the weight-averaging case.

Members of one seed share data, last layers and batch orders whatever their start, so differences
between starts are taken seed by seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pandas as pd

from telescope_pipeline.cases.weight_averaging.metrics import log_change
from telescope_pipeline.cases.weight_averaging.schema import WeightAveragingCase
from telescope_pipeline.cases.weight_averaging.sweep import KINDS, STARTS, gap_column
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.claims import bounds, finding, surely_above
from telescope_pipeline.study.findings.statistics import Estimate, estimate

GAP_SOURCE = "Section 4.3, Fig. 6 left"
CHANGE_SOURCE = "Section 4.3, Fig. 6 right"

_Quantity = Callable[[pd.DataFrame], pd.Series]


def claims(case: WeightAveragingCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the claims that the starts in the history can show."""
    starts = set(history["setting"])
    found: list[Claim] = []
    if "scratch" in starts:
        found += _from_scratch(case, history)
    if set(STARTS) <= starts:
        found += _between_starts(case, history)
    return found


def _from_scratch(case: WeightAveragingCase, history: pd.DataFrame) -> Iterator[Claim]:
    limits = case.claims
    errors, correlated = limits.standard_errors, -limits.rank_correlation
    curve = _curves(history, "scratch", _gap(case))
    correlation, fall = _trend(curve)
    yield finding(
        "gap-falls",
        "The later two children are spawned from one network, the less accuracy the average of "
        "their weights loses.",
        GAP_SOURCE,
        observed={
            "rank_correlation": correlation,
            "first_minus_last": fall,
            "gap_by_step": dict(curve.items()),
        },
        threshold=bounds(limits, "standard_errors", "statistics", rank_correlation=correlated),
        holds=correlation <= correlated and fall.surely_above(0.0, errors),
    )
    curve = _curves(history, "scratch", log_change)
    correlation, fall = _trend(curve)
    yield finding(
        "gradient-change-falls",
        "Over the same number of steps, the model's gradients change less and less in the "
        "course of training.",
        CHANGE_SOURCE,
        observed={
            "rank_correlation": correlation,
            "first_minus_last_log10": fall,
            "log10_by_step": _by_step(curve),
        },
        threshold=bounds(limits, "standard_errors", rank_correlation=correlated),
        holds=correlation <= correlated and fall.surely_above(0.0, errors),
    )
    curves = {kind: _curves(history, "scratch", partial(log_change, kind=kind)) for kind in KINDS}
    falls = {kind: curve.iloc[:, 0] - curve.iloc[:, -1] for kind, curve in curves.items()}
    leads = {kind: estimate(falls["head"] - falls[kind]) for kind in KINDS if kind != "head"}
    yield finding(
        "last-layer-falls-most",
        "Of all kinds of layers, the gradients of the last linear layer show the largest fall "
        "of their change, as a ratio.",
        CHANGE_SOURCE,
        observed={
            "fall_log10": {kind: estimate(fall) for kind, fall in falls.items()},
            "head_minus_other_log10": leads,
        },
        threshold=bounds(limits, "standard_errors", lead=0.0),
        holds=surely_above(leads, 0.0, errors),
    )


def _between_starts(case: WeightAveragingCase, history: pd.DataFrame) -> Iterator[Claim]:
    limits = case.claims
    difference = _scratch_minus_pretrained(history, _gap(case))
    # Where the gap has closed there is nothing to lower: the mean over t' is what is judged.
    mean = estimate(difference.mean(axis=1))
    yield finding(
        "pretraining-lowers-gap",
        "At the same t′, the average of children of a pre-trained network loses less accuracy "
        "than that of children of a network trained from scratch.",
        GAP_SOURCE,
        observed={"scratch_minus_pretrained": mean, "by_step": _by_step(difference)},
        threshold=bounds(limits, "standard_errors", "statistics", difference=0.0),
        holds=mean.surely_above(0.0, limits.standard_errors),
    )
    rises = {
        kind: -_scratch_minus_pretrained(history, partial(log_change, kind=kind)) for kind in KINDS
    }
    means = {kind: estimate(rise.mean(axis=1)) for kind, rise in rises.items()}
    mean = means.pop("norm")
    yield finding(
        "pretraining-raises-batchnorm-change",
        "In a pre-trained network the gradients of BatchNorm change more, not less, than in a "
        "network trained from scratch.",
        CHANGE_SOURCE,
        observed={
            "pretrained_minus_scratch_log10": mean,
            "other_layers_log10": means,
            "by_step": _by_step(rises["norm"]),
        },
        threshold=bounds(limits, "standard_errors", difference=0.0),
        holds=mean.surely_above(0.0, limits.standard_errors),
    )


def _gap(case: WeightAveragingCase) -> _Quantity:
    column = gap_column(case.claims.statistics)
    return lambda part: part[column]


def _curves(history: pd.DataFrame, start: str, quantity: _Quantity) -> pd.DataFrame:
    """One row per seed and one column per t′, increasing."""
    part = history[history["setting"] == start]
    values = part[["seed", "step"]].assign(value=quantity(part))
    return values.pivot(index="seed", columns="step", values="value")


def _by_step(curve: pd.DataFrame) -> dict[object, Estimate]:
    return {step: estimate(values) for step, values in curve.items()}


def _trend(curve: pd.DataFrame) -> tuple[float, Estimate]:
    """How the mean curve goes along t′, and how far it falls from first to last.

    Returns:
        Spearman's correlation with the order in which the numbers stand, 0 for a constant; and the
        fall, averaged over seeds.
    """
    ranks = curve.mean(axis=0).rank().to_numpy()
    constant = np.ptp(ranks) == 0
    correlation = 0.0 if constant else float(np.corrcoef(np.arange(len(ranks)), ranks)[0, 1])
    return correlation, estimate(curve.iloc[:, 0] - curve.iloc[:, -1])


def _scratch_minus_pretrained(history: pd.DataFrame, quantity: _Quantity) -> pd.DataFrame:
    """The difference where both have the seed and t′."""
    scratch, other = (_curves(history, start, quantity) for start in ("scratch", "pretrained"))
    return (scratch - other).dropna(axis=1, how="all").dropna(axis=0)

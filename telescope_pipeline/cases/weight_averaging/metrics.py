"""Gaps, accuracies and gradient changes of every start and t′.

Gradient changes span orders of magnitude: they are compared by their logarithms to base 10,
averaged over the layers of a kind.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from telescope_pipeline.cases.weight_averaging.schema import WeightAveragingCase
from telescope_pipeline.cases.weight_averaging.sweep import (
    KINDS,
    STATISTICS,
    change_column,
    children_column,
    gap_column,
    kind_of,
)
from telescope_pipeline.study.findings.statistics import estimate, flat

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
    """Nested numbers, first by start, then by t′."""
    children = children_column(case.claims.statistics)
    summary: dict[str, Any] = {}
    for start, members in history.groupby("setting", sort=True):
        at_start = summary[str(start)] = dict[str, Any]()
        for step, part in members.groupby("step", sort=True):
            values: dict[str, float] = {}
            for statistics in STATISTICS:
                gap = estimate(part[gap_column(statistics)])
                values |= flat(f"accuracy_gap_{statistics}", gap)
            values["children_accuracy"] = float(part[children].mean())
            for kind in KINDS:
                values[f"log_gradient_change_{kind}"] = float(log_change(part, kind).mean())
            at_start[f"{step:06d}"] = values
    return summary

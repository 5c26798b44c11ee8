"""Final errors of every architecture and depth, and where each order breaks."""

from __future__ import annotations

from typing import Any

import pandas as pd

from telescope_pipeline.cases.depth.schema import DepthCase
from telescope_pipeline.cases.depth.sweep import ORDERS, error_column, group_name, lens_name
from telescope_pipeline.study.findings.statistics import (
    by_seed,
    estimate,
    estimates,
    final_rows,
    means,
)

LAZY = "test/linearization_error"
_MEANS = ("train/mse", "test/mse", "train/accuracy", "test/accuracy")


def summarize(case: DepthCase, history: pd.DataFrame) -> dict[str, Any]:
    """Nested numbers; ``breaks_at_depth`` leaves out what does not break within the sweep."""
    final = final_rows(history)
    summary: dict[str, Any] = {"breaks_at_depth": {}}
    for architecture in case.model.architectures:
        breaks = {
            lens_name(order): depth
            for order in ORDERS
            if (depth := breaking_depth(case, final, architecture, order)) is not None
        }
        if breaks:
            summary["breaks_at_depth"][architecture] = breaks
        for depth in sorted(case.model.depths):
            name = group_name(architecture, depth)
            part = by_seed(final, name)
            errors = estimates(part, (LAZY, *map(error_column, ORDERS)))
            summary[name] = means(part, _MEANS) | errors
    return summary


def breaking_depth(
    case: DepthCase, final: pd.DataFrame, architecture: str, order: int
) -> int | None:
    """The smallest trained depth at which telescoping of one order is broken.

    Args:
        case: The case's parameters.
        final: Last record of every member.
        architecture: ``plain`` or ``residual``.
        order: Of the lens.

    Returns:
        The first depth whose error, averaged over seeds, exceeds ``claims.broken_error`` by more
        than ``claims.standard_errors``; None if there is none.
    """
    limits = case.claims
    for depth in sorted(case.model.depths):
        error = estimate(by_seed(final, group_name(architecture, depth))[error_column(order)])
        if error.surely_above(limits.broken_error, limits.standard_errors):
            return depth
    return None

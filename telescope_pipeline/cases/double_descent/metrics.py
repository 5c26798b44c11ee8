"""Final errors and effective parameters of every width, and the interpolation threshold.

The interpolation threshold is the width at which the final training error, averaged over seeds and
joined by straight lines in log(width) and log(error), first falls to ``claims.interpolation_mse``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from telescope_pipeline.cases.double_descent.schema import DoubleDescentCase
from telescope_pipeline.study.findings.complexity import TEST_COMPLEXITY, TRAIN_COMPLEXITY
from telescope_pipeline.study.findings.statistics import (
    crossing_step,
    estimates,
    final_rows,
    means,
    over_seeds,
)

_ESTIMATES = (
    "train/mse",
    "test/mse",
    "train/accuracy",
    "test/accuracy",
    TRAIN_COMPLEXITY,
    TEST_COMPLEXITY,
)
_MEANS = ("train/degrees_of_freedom", "test/approximation_error")


def interpolation_threshold(final: pd.DataFrame, level: float) -> float | None:
    """The width at which training error vanishes.

    Args:
        final: Last record of every member, with ``width`` and ``train/mse``.
        level: Training error that counts as none.

    Returns:
        The width, between two that were trained, or ``None`` if it lies outside of them.
    """
    error = over_seeds(final, "train/mse", by="width")
    if error["mean"].iloc[0] <= level:
        return None
    return crossing_step(error["width"], error["mean"], level)


def peak_width(final: pd.DataFrame) -> int:
    """The width at which the mean test error is largest."""
    error = over_seeds(final, "test/mse", by="width")
    return int(error["width"].iloc[int(np.argmax(error["mean"].to_numpy()))])


def summarize(case: DoubleDescentCase, history: pd.DataFrame) -> dict[str, Any]:
    """Nested numbers; the threshold is left out if no trained widths enclose it."""
    final = final_rows(history)
    summary: dict[str, Any] = {"peak_width": peak_width(final)}
    threshold = interpolation_threshold(final, case.claims.interpolation_mse)
    if threshold is not None:
        summary["interpolation_threshold_width"] = threshold
    summary["width"] = {
        f"{width:04d}": estimates(part, _ESTIMATES) | means(part, _MEANS)
        for width, part in final.groupby("width")
    }
    return summary

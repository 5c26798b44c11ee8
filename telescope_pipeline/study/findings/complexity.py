"""Effective parameters on the two sets, and how far they are apart."""

from __future__ import annotations

import numpy as np
import pandas as pd

from telescope_pipeline.study.findings.statistics import Estimate, Seeds, at_steps, estimate

TRAIN_COMPLEXITY, TEST_COMPLEXITY = "train/effective_parameters", "test/effective_parameters"
COMPLEXITIES = {"train": TRAIN_COMPLEXITY, "test": TEST_COMPLEXITY}


def complexity_gap(history: pd.DataFrame) -> tuple[pd.Series[float], pd.Series[float]]:
    """``p_train - p_test`` of every record and its standard error from probing, 0 if exact."""
    gap: pd.Series[float] = history[TRAIN_COMPLEXITY] - history[TEST_COMPLEXITY]
    exact = np.zeros(len(history))
    train, test = (
        np.asarray(history.get(f"{column}_stderr", exact), dtype=np.float64)
        for column in (TRAIN_COMPLEXITY, TEST_COMPLEXITY)
    )
    error: pd.Series[float] = pd.Series(np.hypot(train, test), index=history.index)
    return gap, error


def gap_at(history: pd.DataFrame, steps: Seeds) -> tuple[Seeds, Seeds]:
    """The gap of every seed at a step of its own, and its standard errors."""
    gap, error = complexity_gap(history)
    return at_steps(history, gap, steps), at_steps(history, error, steps)


def widening(history: pd.DataFrame, early: Seeds, late: Seeds) -> Estimate:
    """By how much the gap grows between two steps of every seed."""
    (before, error_before), (after, error_after) = gap_at(history, early), gap_at(history, late)
    return estimate(after - before, np.hypot(error_after, error_before))

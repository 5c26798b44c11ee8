"""Effective parameters, or sensitivities of logits, on the two sets; degrees of freedom."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from telescope_pipeline.study.findings.statistics import Estimate, Seeds, at_steps, estimate

TRAIN_COMPLEXITY, TEST_COMPLEXITY = "train/effective_parameters", "test/effective_parameters"
COMPLEXITIES = {"train": TRAIN_COMPLEXITY, "test": TEST_COMPLEXITY}
TRAIN_SENSITIVITY, TEST_SENSITIVITY = "train/logit_sensitivity", "test/logit_sensitivity"
DEGREES_OF_FREEDOM = "train/degrees_of_freedom"
Quantity = Literal["effective_parameters", "logit_sensitivity"]
"""A measure of the smoother that both sets have."""


def complexity_gap(
    history: pd.DataFrame, of: Quantity = "effective_parameters"
) -> tuple[pd.Series[float], pd.Series[float]]:
    """``p_train - p_test`` of every record and its standard error from probing, 0 if exact."""
    columns = [f"{name}/{of}" for name in ("train", "test")]
    gap: pd.Series[float] = history[columns[0]] - history[columns[1]]
    train, test = (probing_error(history, column) for column in columns)
    error: pd.Series[float] = pd.Series(np.hypot(train, test), index=history.index)
    return gap, error


def probing_error(history: pd.DataFrame, column: str) -> Seeds:
    """The standard errors of a measure of every record, 0 if it is exact."""
    return np.asarray(history.get(f"{column}_stderr", np.zeros(len(history))), dtype=np.float64)


def gap_at(
    history: pd.DataFrame, steps: Seeds, of: Quantity = "effective_parameters"
) -> tuple[Seeds, Seeds]:
    """The gap of every seed at a step of its own, and its standard errors."""
    gap, error = complexity_gap(history, of)
    return at_steps(history, gap, steps), at_steps(history, error, steps)


def widening(
    history: pd.DataFrame, early: Seeds, late: Seeds, of: Quantity = "effective_parameters"
) -> Estimate:
    """By how much the gap grows between two steps of every seed."""
    (before, error_before), (after, error_after) = (
        gap_at(history, steps, of) for steps in (early, late)
    )
    return estimate(after - before, np.hypot(error_after, error_before))


def degrees_of_freedom_at(history: pd.DataFrame, steps: Seeds) -> tuple[Seeds, Seeds]:
    """Degrees of freedom of every seed at a step of its own, and their standard errors."""
    errors = pd.Series(probing_error(history, DEGREES_OF_FREEDOM), index=history.index)
    return at_steps(history, history[DEGREES_OF_FREEDOM], steps), at_steps(history, errors, steps)

"""Final errors and effective parameters of the grokking case, and when errors became low."""

from __future__ import annotations

from typing import Any

import pandas as pd

from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.cases.grokking_polynomial.sweep import group_name
from telescope_pipeline.study.findings import statistics
from telescope_pipeline.study.findings.complexity import (
    TEST_COMPLEXITY,
    TRAIN_COMPLEXITY,
    complexity_gap,
)
from telescope_pipeline.study.findings.grokking import Onset, numbers, onset
from telescope_pipeline.study.findings.statistics import (
    Seeds,
    crossing_step,
    estimates,
    final_rows,
    mean_steps,
    members_of,
    seed_record,
)

_FINAL = (
    "train/mse",
    "test/mse",
    TRAIN_COMPLEXITY,
    TEST_COMPLEXITY,
    "test/approximation_error",
    "test/linearization_error",
    "test/smoother_error",
)


def summarize(case: GrokkingPolynomialCase, history: pd.DataFrame) -> dict[str, Any]:
    """Summarize the members with ``model.epsilon``, and by epsilon where divergence starts.

    Returns:
        Final errors, mean steps of events and steps of divergence; a step that was never reached is
        left out.
    """
    main = of_group(history, case.model.epsilon)
    low = case.claims.low_error
    steps = {
        "memorisation": crossings(main, "train/mse", low),
        "generalisation": crossings(main, "test/mse", low),
    }
    diverged = {
        f"epsilon_{epsilon:g}": seed_record(
            numbers(event.step for event in divergence_steps(case, of_group(history, epsilon)))
        )
        for epsilon in sorted(case.epsilons)
    }
    return {
        "final": estimates(final_rows(main), _FINAL),
        "steps": mean_steps(steps),
        "divergence_step": {name: found for name, found in diverged.items() if found is not None},
    }


def of_group(history: pd.DataFrame, epsilon: float) -> pd.DataFrame:
    """The records of the members with this epsilon."""
    return statistics.of_group(history, group_name(epsilon))


def divergence_steps(case: GrokkingPolynomialCase, history: pd.DataFrame) -> list[Onset]:
    """Where p_train comes to exceed p_test for good, of each member."""
    limits = case.claims
    found = []
    for member in members_of(history).values():
        apart = complexity_gap(member)[0] > limits.divergence_gap
        found.append(onset(member["step"], apart, confirmations=limits.confirmations))
    return found


def crossings(history: pd.DataFrame, column: str, threshold: float) -> Seeds:
    """The step of each member at which a column has fallen to a level, NaN if it never has."""
    return numbers(
        crossing_step(member["step"], member[column], threshold)
        for member in members_of(history).values()
    )

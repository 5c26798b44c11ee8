"""Final errors, effective parameters, counted operations and bytes, by training rows."""

from __future__ import annotations

from typing import Any

import pandas as pd

from telescope_pipeline.cases.large_scale.schema import LargeScaleCase
from telescope_pipeline.cases.large_scale.sweep import WAYS, counted, group_name
from telescope_pipeline.study.findings.statistics import by_seed, estimates, final_rows, means

EFFECTIVE = "test/effective_parameters"
STORED = "stored/effective_parameters"
TELESCOPED, LAZY = "test/approximation_error", "test/linearization_error"
STATE = "probes/state_mb"


def summarize(case: LargeScaleCase, history: pd.DataFrame) -> dict[str, Any]:
    """Nested numbers by size."""
    final = final_rows(history)
    summary: dict[str, Any] = {}
    for rows in sorted(case.data.rows):
        part = by_seed(final, group_name(rows))
        columns = [EFFECTIVE, TELESCOPED, LAZY]
        if rows <= case.data.compared_rows:
            columns.append(STORED)
        summary[group_name(rows)] = {
            **means(part, ["test/mse", STATE, *map(counted, WAYS)]),
            **estimates(part, columns),
        }
    return summary


def allowed_by_count(case: LargeScaleCase) -> float:
    """How many plain steps the products of a step with probes amount to.

    A pass forward takes two units a row and parameter, a plain step six.  Columns take four for the
    rows of a batch, and two for those evaluated at the end of a block, which are linearised twice.

    Returns:
        The multiple of a plain step.
    """
    lens, training = case.lens, case.training
    evaluated = case.data.test_size / (lens.stride * training.batch_size)
    return 4 * lens.probes / 6 + evaluated * (2 * lens.probes + 12) / 6

"""Metrics and claims of the tiny case."""

from __future__ import annotations

from typing import Any

import pandas as pd

from telescope_pipeline.cases.double_descent.schema import DoubleDescentCase
from telescope_pipeline.contract import Claim


def summarize(case: DoubleDescentCase, history: pd.DataFrame) -> dict[str, Any]:
    """The last test error of each group."""
    last = history.groupby("group")["test/mse"].last()
    return {str(group): {"test_mse": value} for group, value in last.items()}


def claims(case: DoubleDescentCase, history: pd.DataFrame) -> list[Claim]:
    """Training helps."""
    first, last = history["test/mse"].iloc[0], history["test/mse"].iloc[-1]
    observed = {"first": first, "last": last}
    threshold = case.claims.model_dump()
    return [Claim("falls", "The error falls.", "nowhere", observed, threshold, last < first)]

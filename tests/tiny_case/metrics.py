"""Metrics of the tiny case."""

from __future__ import annotations

from typing import Any

import pandas as pd

from telescope_pipeline.cases.tiny.schema import TinyCase


def summarize(case: TinyCase, history: pd.DataFrame) -> dict[str, Any]:
    """The last test error of each group."""
    last = history.groupby("group")["test/mse"].last()
    return {str(group): {"test_mse": value} for group, value in last.items()}

"""Claims of the tiny case."""

from __future__ import annotations

import pandas as pd

from telescope_pipeline.cases.tiny.schema import TinyCase
from telescope_pipeline.contract import Claim


def claims(case: TinyCase, history: pd.DataFrame) -> list[Claim]:
    """Training helps."""
    first, last = history["test/mse"].iloc[0], history["test/mse"].iloc[-1]
    observed = {"first": first, "last": last}
    threshold = case.claims.model_dump()
    return [Claim("falls", "The error falls.", "nowhere", observed, threshold, last < first)]

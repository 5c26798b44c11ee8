"""Final errors, effective parameters and kernel norms of every design choice."""

from __future__ import annotations

from typing import Any

import pandas as pd

from telescope_pipeline.cases.design_choices.schema import DesignChoicesCase
from telescope_pipeline.cases.design_choices.sweep import FIFTHS, by_fifth
from telescope_pipeline.study.findings.complexity import TEST_COMPLEXITY, TRAIN_COMPLEXITY
from telescope_pipeline.study.findings.statistics import (
    estimate,
    estimates,
    final_rows,
    members_of,
    of_group,
    value_at,
)

ERRORS = ("closed_form/prediction_error", "closed_form/smoother_error")
_FINAL = (
    "train/mse",
    "test/mse",
    "test/accuracy",
    TRAIN_COMPLEXITY,
    TEST_COMPLEXITY,
    "update/cosine",
    "rate/quantile10",
    "rate/median",
    "rate/quantile90",
    *ERRORS,
)


def summarize(case: DesignChoicesCase, history: pd.DataFrame) -> dict[str, Any]:
    """Nested numbers by choice."""
    summary: dict[str, Any] = {}
    for choice in case.training.choices:
        records = of_group(history, choice.name, "choice")
        part = final_rows(records)
        start = records[records["step"] == 0]
        summary[choice.name] = {
            **estimates(part, _FINAL),
            "early_contributions": estimate(early_shares(case, records)).value,
            "initial_weights_left": estimate(start["gradient/weight"]).value,
            **{
                f"kernel_norm_fifth_{fifth}": estimate(
                    part[by_fifth("kernel_norm_mean", fifth)]
                ).value
                for fifth in FIFTHS
            },
        }
    return {"choice": summary}


def early_shares(case: DesignChoicesCase, records: pd.DataFrame) -> pd.Series[float]:
    """By seed, the part of all contributions to the final parameters that early steps made."""
    shares = {}
    for seed, member in members_of(records).items():
        step = case.claims.early_part * float(member["step"].iloc[-1])
        shares[seed] = value_at(member["step"], member["gradient/contribution_share"], step)
    return pd.Series(shares, dtype="float64")

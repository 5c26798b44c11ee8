"""The claims that the parameter file declares."""

from __future__ import annotations

import difflib

import pandas as pd

from telescope_core.errors import ParametersError
from telescope_pipeline.cases.own_model.metrics import groups, measured
from telescope_pipeline.cases.own_model.schema import DeclaredClaim, OwnModelCase
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.claims import finding, surely_above, surely_below
from telescope_pipeline.study.findings.statistics import Estimate, estimate, final_rows

SOURCE = "declared in the parameter file"
_RECORDS = {
    "first": "At initialisation",
    "last": "At the last record",
    "every": "At every record",
}


def claims(case: OwnModelCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate every declared claim.

    Returns:
        The claims in the order in which they are declared.

    Raises:
        ParametersError: A claim names a quantity that was not recorded, or a step after the last.
    """
    return [
        _claim(case, declared, f"claims[{position}]", history)
        for position, declared in enumerate(case.claims)
    ]


def _claim(case: OwnModelCase, declared: DeclaredClaim, leaf: str, history: pd.DataFrame) -> Claim:
    way, bound = _bound(declared)
    _check_column(declared.metric, history, f"{leaf}.metric")
    # What is compared with another quantity is the difference of the two.
    limit, what = bound, declared.metric
    if isinstance(bound, str):
        _check_column(bound, history, f"{leaf}.{way}")
        limit, what = 0.0, f"{declared.metric} - {bound}"
    observed = {name: _excess(declared, part, leaf) for name, part in groups(case, history)}
    holds = surely_below if way == "below" else surely_above
    return finding(
        declared.name,
        declared.statement or _statement(declared),
        SOURCE,
        observed={what: observed},
        threshold={
            "maximum" if way == "below" else "minimum": limit,
            "standard_errors": declared.standard_errors,
        },
        holds=holds(observed, float(limit), declared.standard_errors),
    )


def _bound(declared: DeclaredClaim) -> tuple[str, float | str]:
    """On which side of what the quantity must lie; a declared claim has one of the two bounds."""
    if declared.above is not None:
        return "above", declared.above
    assert declared.below is not None
    return "below", declared.below


def _excess(declared: DeclaredClaim, part: pd.DataFrame, leaf: str) -> Estimate:
    """The quantity over seeds, less the other one if it is compared with one."""
    way, bound = _bound(declared)
    rows = _rows(declared, part, leaf)
    values = rows[declared.metric] - (rows[bound] if isinstance(bound, str) else 0.0)
    members = values.groupby(rows["member"], sort=False)
    # Of the records that count the one that is closest to breaking the claim.
    return estimate(members.max() if way == "below" else members.min())


def _rows(declared: DeclaredClaim, part: pd.DataFrame, leaf: str) -> pd.DataFrame:
    if declared.at == "every":
        return part
    if declared.at == "last":
        return final_rows(part)
    least = 0 if declared.at == "first" else declared.at
    later = part[part["step"] >= least]
    if later["member"].nunique() < part["member"].nunique():
        last = int(part.groupby("member")["step"].max().min())
        raise ParametersError(
            f"{leaf}.at: got {declared.at}; expected at most the last recorded step, {last}"
        )
    return later.loc[later.groupby("member", sort=False)["step"].idxmin()]


def _check_column(name: str, history: pd.DataFrame, leaf: str) -> None:
    known = measured(history)
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ParametersError(f"{leaf}: got {name!r}; expected one of {', '.join(known)}{hint}")


def _statement(declared: DeclaredClaim) -> str:
    when = _RECORDS.get(str(declared.at), f"At the first record from step {declared.at} on")
    way, bound = _bound(declared)
    words = bound if isinstance(bound, str) else f"{bound:g}"
    return f"{when}, {declared.metric} is {way} {words}, in every setting."

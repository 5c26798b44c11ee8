"""Summary and declared claims, from the recorded tables alone."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

import pandas as pd

from telescope_core.errors import ParametersError
from telescope_pipeline.cases.own_model.names import group_name
from telescope_pipeline.cases.own_model.schema import DeclaredClaim, OwnModelCase
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.statistics import Estimate, estimate, final_rows

SOURCE = "declared in the parameter file"
_RECORDS = {
    "first": "At initialisation",
    "last": "At the last record",
    "every": "At every record",
}


def groups(case: OwnModelCase, history: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The members of every setting of the sweep, by name of the group."""
    for values in case.combinations():
        name = group_name(values)
        yield name, history[history["group"] == name]


def summarize(case: OwnModelCase, history: pd.DataFrame) -> dict[str, Any]:
    """Mean and standard error over seeds of everything recorded last, in every setting.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        For every group ``<set>_<quantity>`` and ``<set>_<quantity>_stderr``.
    """
    summary: dict[str, Any] = {}
    for name, part in groups(case, final_rows(history)):
        values = summary.setdefault(name, {})
        for column in _measured(part):
            if column.endswith("_stderr"):
                continue
            found = estimate(part[column], part.get(f"{column}_stderr", ()))
            values[column.replace("/", "_")] = found.value
            values[column.replace("/", "_") + "_stderr"] = found.stderr
    return summary


def claims(case: OwnModelCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the claims that the parameter file declares.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        One claim for each that is declared, whether it holds or not.

    Raises:
        ParametersError: A claim names a quantity that was not recorded, or a step after the last.
    """
    return [_claim(case, position, history) for position in range(len(case.claims))]


def _claim(case: OwnModelCase, position: int, history: pd.DataFrame) -> Claim:
    declared = case.claims[position]
    leaf = f"claims[{position}]"
    bound = declared.below if declared.above is None else declared.above
    _check_column(declared.metric, history, f"{leaf}.metric")
    if isinstance(bound, str):
        way = "below" if declared.above is None else "above"
        _check_column(bound, history, f"{leaf}.{way}")
    observed = {name: _excess(declared, part, leaf) for name, part in groups(case, history)}
    errors = declared.standard_errors
    threshold: dict[str, Any] = {
        "minimum" if declared.below is None else "maximum": 0.0 if isinstance(bound, str) else bound
    }
    limit = 0.0 if isinstance(bound, str) else float(bound or 0.0)
    return Claim(
        id=declared.name,
        statement=declared.statement or _statement(declared),
        source=SOURCE,
        observed={_what(declared): {name: found.record for name, found in observed.items()}},
        threshold=threshold | {"standard_errors": errors},
        holds=all(
            found.surely_below(limit, errors)
            if declared.above is None
            else found.surely_above(limit, errors)
            for found in observed.values()
        ),
    )


def _excess(declared: DeclaredClaim, part: pd.DataFrame, leaf: str) -> Estimate:
    """The quantity over seeds, less the other one if it is compared with one."""
    bound = declared.below if declared.above is None else declared.above
    rows = _rows(declared, part, leaf)
    values = rows[declared.metric] - (rows[bound] if isinstance(bound, str) else 0.0)
    members = values.groupby(rows["member"], sort=False)
    # Of the records that count the one that is closest to breaking the claim.
    return estimate(members.max() if declared.above is None else members.min())


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
    known = _measured(history)
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ParametersError(f"{leaf}: got {name!r}; expected one of {', '.join(known)}{hint}")


def _measured(history: pd.DataFrame) -> list[str]:
    return [str(name) for name in history.columns if "/" in str(name)]


def _what(declared: DeclaredClaim) -> str:
    bound = declared.below if declared.above is None else declared.above
    return f"{declared.metric} - {bound}" if isinstance(bound, str) else declared.metric


def _statement(declared: DeclaredClaim) -> str:
    when = _RECORDS.get(str(declared.at), f"At the first record from step {declared.at} on")
    way, bound = ("below", declared.below) if declared.above is None else ("above", declared.above)
    words = bound if isinstance(bound, str) else f"{bound:g}"
    return f"{when}, {declared.metric} is {way} {words}, in every setting."

"""Checking the tables that pass from stage to stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from telescope_core.errors import TableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import pandera.pandas as pa

    from telescope_pipeline.contract import Member
    from telescope_pipeline.schemas.sections import Case

_MOST_PROBLEMS = 8
_RULES = {
    "not_nullable": "no NaN",
    "greater_than_or_equal_to(0)": "0 or more",
    "in_range(0, 1)": "between 0 and 1",
}


def check_member_history(frame: pd.DataFrame, case: Case, what: str) -> pd.DataFrame:
    """Check what a member recorded.

    Args:
        frame: The table.
        case: The case, whose kind names the required and the nullable columns.
        what: What to call the table in a message.

    Returns:
        The same table.

    Raises:
        TableError: If it breaks :class:`~telescope_pipeline.schemas.tables.MemberHistory`.
    """
    from telescope_pipeline.schemas.tables import MemberHistory

    table = MemberHistory(case.required_columns, case.nullable_columns)
    return _validate(frame, table.schema(list(frame.columns)), what)


def check_case_history(
    frame: pd.DataFrame, case: Case, values: Sequence[str], what: str
) -> pd.DataFrame:
    """Check the history of a whole case.

    Args:
        frame: The table.
        case: The case, whose kind names the required and the nullable columns.
        values: Names of the sweep values.
        what: What to call the table in a message.

    Returns:
        The same table.

    Raises:
        TableError: If it breaks :class:`~telescope_pipeline.schemas.tables.CaseHistory`.
    """
    from telescope_pipeline.schemas.tables import CaseHistory

    table = CaseHistory(case.required_columns, case.nullable_columns, values)
    return _validate(frame, table.schema(list(frame.columns)), what)


def with_identity(frame: pd.DataFrame, member: Member) -> pd.DataFrame:
    """Put the columns that tell a member from the others in front of its history."""
    identity: dict[str, Any] = {"member": member.name, "group": member.group, "seed": member.seed}
    clash = sorted(set(identity | member.values) & set(frame.columns))
    if clash:
        message = f"{member.name}: the history has a column called {clash[0]}; rename one of them"
        raise TableError(message)
    named = frame.copy()
    for position, (name, value) in enumerate((identity | member.values).items()):
        named.insert(position, name, value)
    return named


def _validate(frame: pd.DataFrame, schema: pa.DataFrameSchema, what: str) -> pd.DataFrame:
    from pandera.errors import SchemaErrors

    if frame.empty:
        raise TableError(f"{what}: the table has no rows")
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as error:
        problems = _problems(error.failure_cases)
    else:
        return frame
    shown = "; ".join(problems[:_MOST_PROBLEMS])
    more = f"; and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
    raise TableError(f"{what}: {shown}{more}")


def _problems(failures: pd.DataFrame) -> list[str]:
    """Name each broken rule once, with the first row that breaks it."""
    lines: dict[tuple[str, str], str] = {}
    for row in failures.to_dict("records"):
        column, check, value = row["column"], str(row["check"]), row["failure_case"]
        key = (str(column), check)
        if check == "column_in_schema":
            lines[str(value), check] = f"unexpected column {value}"
        elif check == "column_in_dataframe":
            lines[str(value), check] = f"missing column {value}"
        elif not isinstance(column, str):
            lines[key] = f"expected {check}"
        elif key not in lines:
            where = "" if row["index"] is None else f" (row {row['index']})"
            rule = _RULES.get(check, check)
            lines[key] = f"column {column}: got {value}{where}; expected {rule}"
    return list(lines.values())

"""Tables that cross a stage boundary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pandera.pandas as pa

QUANTITY = r"^[a-z][a-z0-9_]*/[a-z0-9][a-z0-9_@.,=-]*$"
"""Name of a measured column: a set and a quantity, e.g. ``test/effective_parameters``."""

# Quantities of known range, told by how their names end.
_UNIT_INTERVAL = ("accuracy",)
_NOT_NEGATIVE = (
    "mse",
    "_stderr",
    "_error",
    "effective_parameters",
    "_sensitivity",
    "norm_mean",
    "norm_max",
)


@dataclass(frozen=True)
class MemberHistory:
    """What a member records while it trains: one row per recorded step, in order.

    ``step`` is int64 and increases; every other column is a float64 quantity named
    ``<set>/<quantity>``.  Infinity is refused everywhere, NaN except where the kind allows it.

    Attributes:
        required: Quantities that must be there.
        nullable: Quantities that may hold NaN.
    """

    required: Sequence[str]
    nullable: Sequence[str] = ()

    def schema(self, columns: Sequence[str]) -> pa.DataFrameSchema:
        """Build the schema of a table with these columns; names it does not know are refused."""
        measured = [name for name in columns if re.match(QUANTITY, name)]
        quantities = {
            name: _quantity(name, name in self.nullable)
            for name in dict.fromkeys([*self.required, *measured])
        }
        step = {"step": pa.Column("int64", pa.Check.ge(0))}
        return pa.DataFrameSchema(
            self._identity() | step | quantities, checks=self._order(), strict=True
        )

    def _identity(self) -> dict[str, pa.Column]:
        return {}

    def _order(self) -> pa.Check:
        return pa.Check(_steps_increase, error="a step that increases from row to row")


@dataclass(frozen=True)
class CaseHistory(MemberHistory):
    """The histories of all members of a case, one below the other.

    In front of the member's columns stand ``member``, ``group``, ``seed`` and one column per sweep
    value; ``(member, step)`` is unique.

    Attributes:
        values: Names of the sweep values.
    """

    values: Sequence[str] = ()

    def _identity(self) -> dict[str, pa.Column]:
        one_type = pa.Check(_plain, error="values of one type")
        return {
            "member": pa.Column(str),
            "group": pa.Column(str),
            "seed": pa.Column("int64", pa.Check.ge(0)),
            **{name: pa.Column(checks=one_type) for name in self.values},
        }

    def _order(self) -> pa.Check:
        return pa.Check(_rows_differ, error="one row per member and step")


def _quantity(name: str, nullable: bool) -> pa.Column:
    checks = [pa.Check(_no_infinity, error="finite")]
    if name.endswith(_UNIT_INTERVAL):
        checks.append(pa.Check.in_range(0, 1))
    elif name.endswith(_NOT_NEGATIVE):
        checks.append(pa.Check.ge(0))
    return pa.Column("float64", checks, nullable=nullable)


def _no_infinity(column: pd.Series) -> pd.Series:
    return pd.Series(~np.isinf(column.to_numpy()), index=column.index)


def _plain(column: pd.Series) -> bool:
    return pd.api.types.infer_dtype(column) in {"integer", "floating", "string"}


def _steps_increase(frame: pd.DataFrame) -> bool:
    return bool(frame["step"].is_monotonic_increasing and frame["step"].is_unique)


def _rows_differ(frame: pd.DataFrame) -> bool:
    return not frame.duplicated(["member", "step"]).any()

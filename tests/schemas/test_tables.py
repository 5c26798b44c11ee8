from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from telescope_core.errors import TableError
from telescope_pipeline.contract import Member
from telescope_pipeline.schemas.sections import Case
from telescope_pipeline.store.table_checks import (
    check_case_history,
    check_member_history,
    with_identity,
)


class _Kind(Case):
    required_columns = ("train/mse", "test/mse")
    nullable_columns = ("test/smoother_error",)


CASE = _Kind.model_construct(kind="kind", seeds=1)
MEMBER = Member("width-3_seed-0", "width-3", 0, {"width": 3, "rule": "sgd"}, "shared")


def _history(**columns: list[Any]) -> pd.DataFrame:
    base: dict[str, list[Any]] = {
        "step": [0, 5, 10],
        "train/mse": [1.0, 0.5, 0.1],
        "test/mse": [1.0, 0.7, 0.4],
        "test/accuracy": [0.0, 0.5, 1.0],
        "test/smoother_error": [math.nan, 0.1, 0.2],
    }
    return pd.DataFrame(base | columns)


def test_a_good_history_passes_unchanged() -> None:
    history = _history()
    assert check_member_history(history, CASE, "history") is history
    pd.testing.assert_frame_equal(history, _history())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"step": [0, 5, 5]}, "a step that increases"),
        ({"step": [5, 0, 10]}, "a step that increases"),
        ({"step": [-1, 0, 1]}, r"column step: got -1 \(row 0\); expected 0 or more"),
        ({"step": [0.0, 1.0, 2.0]}, r"column step: got float64; expected dtype\('int64'\)"),
        ({"train/mse": [1, 2, 3]}, r"column train/mse: got int64; expected dtype\('float64'\)"),
        ({"train/mse": [1.0, math.nan, 1.0]}, r"column train/mse: got nan \(row 1\).*no NaN"),
        ({"train/mse": [1.0, math.inf, 1.0]}, r"column train/mse: got inf \(row 1\).*finite"),
        ({"test/smoother_error": [0.0, math.inf, 1.0]}, r"got inf \(row 1\); expected finite"),
        ({"train/mse": [1.0, -0.1, 1.0]}, r"got -0\.1 \(row 1\); expected 0 or more"),
        ({"test/accuracy": [0.0, 55.0, 1.0]}, r"got 55\.0.*between 0 and 1"),
        ({"Loss": [0.0, 1.0, 2.0]}, "unexpected column Loss"),
        ({"test/mse": ["a", "b", "c"]}, r"column test/mse: got .*expected dtype\('float64'\)"),
    ],
)
def test_a_broken_rule_is_named_with_column_and_row(
    columns: dict[str, list[Any]], message: str
) -> None:
    with pytest.raises(TableError, match=f"^history: .*{message}"):
        check_member_history(_history(**columns), CASE, "history")


def test_a_required_column_must_be_there() -> None:
    with pytest.raises(TableError, match="missing column test/mse"):
        check_member_history(_history().drop(columns="test/mse"), CASE, "history")


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(TableError, match="no rows"):
        check_member_history(_history().iloc[:0], CASE, "history")


def test_identity_comes_first_and_case_histories_pass() -> None:
    other = Member("width-9_seed-1", "width-9", 1, {"width": 9, "rule": "adam"}, "shared")
    joined = pd.concat([with_identity(_history(), m) for m in (MEMBER, other)], ignore_index=True)
    assert list(joined.columns[:6]) == ["member", "group", "seed", "width", "rule", "step"]
    check_case_history(joined, CASE, ["width", "rule"], "history")
    assert _history().columns[0] == "step"


def test_a_case_history_has_one_row_per_member_and_step() -> None:
    joined = pd.concat([with_identity(_history(), MEMBER)] * 2, ignore_index=True)
    with pytest.raises(TableError, match="one row per member and step"):
        check_case_history(joined, CASE, ["width", "rule"], "history")


def test_a_sweep_value_has_one_type() -> None:
    other = Member("width-9_seed-1", "width-9", 1, {"width": "nine", "rule": "adam"}, "shared")
    joined = pd.concat([with_identity(_history(), m) for m in (MEMBER, other)], ignore_index=True)
    with pytest.raises(TableError, match="values of one type"):
        check_case_history(joined, CASE, ["width", "rule"], "history")


def test_a_sweep_value_cannot_hide_a_quantity() -> None:
    member = Member("a", "a", 0, {"step": 3}, "shared")
    with pytest.raises(TableError, match="has a column called step"):
        with_identity(_history(), member)

"""Mean and standard error over seeds of what a model of one's own recorded last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from telescope_pipeline.cases.own_model.schema import OwnModelCase
from telescope_pipeline.cases.own_model.sweep import group_name
from telescope_pipeline.study.findings.statistics import estimates, final_rows, of_group


def groups(case: OwnModelCase, history: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The members of every setting of the sweep, by name of the group."""
    for values in case.combinations():
        name = group_name(values)
        yield name, of_group(history, name)


def measured(history: pd.DataFrame) -> list[str]:
    """The columns that hold quantities, as opposed to what tells members apart."""
    return [str(name) for name in history.columns if "/" in str(name)]


def summarize(case: OwnModelCase, history: pd.DataFrame) -> dict[str, Any]:
    """For every group ``<set>_<quantity>`` and ``<set>_<quantity>_stderr``."""
    columns = [name for name in measured(history) if not name.endswith("_stderr")]
    return {name: estimates(part, columns) for name, part in groups(case, final_rows(history))}

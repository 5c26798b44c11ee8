"""The history of a group: its members, which differ by seed only, made one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from telescope_pipeline.study.findings.statistics import estimate

if TYPE_CHECKING:
    import pandas as pd

STDERR = "stderr"
"""``stderr/<set>/<quantity>`` is the standard error of ``<set>/<quantity>``."""

SEEDS = "seeds"
"""How many members have a record at a step."""

_OF_PROBES = "_stderr"


def seeds_as_one(
    members: pd.DataFrame, quantities: list[str]
) -> tuple[tuple[int, dict[str, float]], ...]:
    """Average the members of a group at every recorded step, with the error bars of the figures.

    NaN is left out: of a mean, if another seed has a value, or else of the row.  A standard error
    has the spread over seeds in it and, of a quantity that was probed, the error of the probes.
    One seed without such an error has none, and the probes' errors themselves get a mean only.

    Args:
        members: Rows of the case history that belong to one group.
        quantities: The measured columns.

    Returns:
        The steps in order, each with ``seeds``, the means under the names of the quantities and
        the standard errors under ``stderr/<name>``.
    """
    rows = []
    for step, part in members.groupby("step", sort=True):
        row: dict[str, float] = {SEEDS: len(part)}
        for name in quantities:
            values = part[name].to_numpy(dtype=np.float64)
            known = ~np.isnan(values)
            if not known.any():
                continue
            measured = f"{name}{_OF_PROBES}" in part
            errors = part[f"{name}{_OF_PROBES}"][known] if measured else ()
            found = estimate(values[known], errors)
            row[name] = found.value
            has_error = measured or known.sum() > 1
            if has_error and not name.endswith(_OF_PROBES) and not math.isnan(found.stderr):
                row[f"{STDERR}/{name}"] = found.stderr
        rows.append((int(str(step)), row))
    return tuple(rows)

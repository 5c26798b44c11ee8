"""The history of a group: its members, which differ by seed only, made one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

STDERR = "stderr"
"""``stderr/<set>/<quantity>`` is the standard error over seeds of ``<set>/<quantity>``."""

SEEDS = "seeds"
"""How many members have a record at a step."""


def over_seeds(
    members: pd.DataFrame, quantities: list[str]
) -> tuple[tuple[int, dict[str, float]], ...]:
    """Average the members of a group at every recorded step.

    NaN is left out: of a mean, if another seed has a value, or else of the row.  The standard error
    is that of the mean, sqrt(sum (x - mean)^2 / (k (k - 1))) over k seeds; with one seed there is
    none.  Quantities that are themselves standard errors of the probes get a mean only.

    Args:
        members: Rows of the case history that belong to one group.
        quantities: The measured columns.

    Returns:
        The steps in order, each with ``seeds``, the means under the names of the quantities and
        the standard errors under ``stderr/<name>``.
    """
    rows = []
    for step, at_step in members.groupby("step", sort=True):
        row: dict[str, float] = {SEEDS: len(at_step)}
        for name in quantities:
            values = [float(value) for value in at_step[name] if not math.isnan(value)]
            if not values:
                continue
            mean = math.fsum(values) / len(values)
            row[name] = mean
            if len(values) > 1 and not name.endswith("_stderr"):
                spread = math.fsum((value - mean) ** 2 for value in values)
                row[f"{STDERR}/{name}"] = math.sqrt(spread / (len(values) * (len(values) - 1)))
        rows.append((int(str(step)), row))
    return tuple(rows)

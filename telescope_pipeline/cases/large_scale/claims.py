"""Claims of the large-scale case, about numbers that are the same on every machine.

Operations are counted (those of matrix products), not timed: seconds are no result, and what is
claimed of them is in ``costs.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from telescope_pipeline.cases.large_scale.metrics import (
    EFFECTIVE,
    LAZY,
    STATE,
    STORED,
    TELESCOPED,
    allowed_by_count,
)
from telescope_pipeline.cases.large_scale.schema import LargeScaleCase
from telescope_pipeline.cases.large_scale.sweep import WAYS, counted, group_name
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.claims import bounds, finding, largest, smallest
from telescope_pipeline.study.findings.statistics import by_seed, estimate, final_rows, ratio

SOURCE = "beyond the paper; training sets that are streamed"


def claims(case: LargeScaleCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the claims; one that compares what the case does not have is left out."""
    return list(_claims(case, history))


def _claims(case: LargeScaleCase, history: pd.DataFrame) -> Iterator[Claim]:
    limits, sizes = case.claims, sorted(case.data.rows)
    final = final_rows(history)
    parts = {rows: by_seed(final, group_name(rows)) for rows in sizes}
    names = {rows: group_name(rows) for rows in sizes}
    difference = float(history["training/difference"].max())
    yield finding(
        "training-is-left-alone",
        "Plainly and under every lens, training goes through the same parameters and running "
        "statistics to the bit, at every record.",
        SOURCE,
        observed={"largest_difference": difference},
        threshold={"maximum": 0.0},
        holds=difference == 0.0,
    )
    ratios = {names[rows]: ratio(part[LAZY], part[TELESCOPED]) for rows, part in parts.items()}
    yield finding(
        "closer-than-lazy",
        "At every size, the telescoped predictions end at least "
        f"{limits.closer_than_lazy:g} times closer to the network's on test points than those of "
        "the linearisation at initialisation, in every seed.",
        SOURCE,
        observed={"lazy_over_telescoped_error": ratios},
        threshold={"minimum": limits.closer_than_lazy},
        holds=smallest(ratios) > limits.closer_than_lazy,
    )
    if len(sizes) > 1:
        yield _no_growth(case, parts)
    yield _within_count(case, parts)
    over = {
        names[rows]: (part[counted("predictions")] / part[counted("plain")])
        for rows, part in parts.items()
    }
    yield finding(
        "predictions-are-cheap",
        "Following predictions only multiplies the operations of a step by at most "
        f"{limits.predictions_over_plain:g}.",
        SOURCE,
        observed={"over_plain": over},
        threshold={"maximum": limits.predictions_over_plain},
        holds=largest(over) <= limits.predictions_over_plain,
    )
    compared = [rows for rows in sizes if rows <= case.data.compared_rows]
    if compared:
        yield _as_in_memory(case, {names[rows]: parts[rows] for rows in compared})


def _no_growth(case: LargeScaleCase, parts: dict[int, pd.DataFrame]) -> Claim:
    columns = [STATE, *map(counted, WAYS)]
    first, last = parts[min(parts)], parts[max(parts)]
    growth = {name.replace("/", "_"): last[name] / first[name] for name in columns}
    return finding(
        "no-growth-with-rows",
        f"With {max(parts):,} training rows, the operations of a step and the bytes that a lens "
        f"keeps are at most {case.claims.growth:g} times those with {min(parts):,}.",
        SOURCE,
        observed={"largest_over_smallest": growth},
        threshold={"maximum": case.claims.growth},
        holds=largest(growth) <= case.claims.growth,
    )


def _within_count(case: LargeScaleCase, parts: dict[int, pd.DataFrame]) -> Claim:
    over = {
        group_name(rows): part[counted("probes")] / part[counted("plain")]
        for rows, part in parts.items()
    }
    allowed = case.claims.over_count * allowed_by_count(case)
    return finding(
        "probes-cost-what-they-must",
        f"With {case.lens.probes} label directions, a step takes at most "
        f"{case.claims.over_count:g} times the operations that the products themselves need.",
        SOURCE,
        observed={"over_plain": over},
        threshold={"maximum": allowed},
        holds=largest(over) <= allowed,
    )


def _as_in_memory(case: LargeScaleCase, parts: dict[str, pd.DataFrame]) -> Claim:
    """Both are estimates from directions of their own."""
    limits = case.claims
    gaps = {}
    for name, part in parts.items():
        errors = np.hypot(part[f"{EFFECTIVE}_stderr"], part[f"{STORED}_stderr"])
        gaps[name] = estimate(part[EFFECTIVE] - part[STORED], errors)
    holds = all(abs(gap.value) <= limits.standard_errors * gap.stderr for gap in gaps.values())
    return finding(
        "streamed-as-in-memory",
        "Effective parameters from streamed rows agree with those from a training set and label "
        f"directions kept in memory, within {limits.standard_errors:g} standard errors.",
        SOURCE,
        observed={
            "streamed_minus_stored": gaps,
            "streamed": {name: estimate(part[EFFECTIVE]) for name, part in parts.items()},
        },
        threshold=bounds(limits, "standard_errors"),
        holds=holds,
    )

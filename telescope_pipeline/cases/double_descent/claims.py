"""Claims of the double-descent case, on changes between widths that are paired by seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pandas as pd

from telescope_pipeline.cases.double_descent.metrics import interpolation_threshold, peak_width
from telescope_pipeline.cases.double_descent.schema import DoubleDescentCase
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.claims import bounds, finding, surely_above
from telescope_pipeline.study.findings.complexity import (
    TEST_COMPLEXITY,
    TRAIN_COMPLEXITY,
    complexity_gap,
)
from telescope_pipeline.study.findings.statistics import (
    Estimate,
    by_seed,
    change,
    estimate_of,
    final_rows,
    of_group,
)

SOURCE = "Section 4.1, Fig. 3"


def claims(case: DoubleDescentCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the claims; clean images of digits are too easy for a peak, so none is expected."""
    final = final_rows(history)
    threshold = interpolation_threshold(final, case.claims.interpolation_mse)
    widths = sorted(int(width) for width in final["width"].unique())
    return [
        _peak(case, final, threshold, (widths[0], widths[-1])),
        *_complexities(case, final, threshold, widths),
    ]


def _peak(
    case: DoubleDescentCase, final: pd.DataFrame, threshold: float | None, ends: tuple[int, int]
) -> Claim:
    limits = case.claims
    peak = peak_width(final)
    rise, fall = (_paired(final, "test/mse", [end, peak]) for end in ends)
    # A peak at an end does not exceed that end.
    inside = surely_above({"rise": rise, "fall": fall}, 0.0, limits.standard_errors)
    if case.data.label_noise == 0 and case.data.source in {"mnist", "digits"}:
        return finding(
            "no-test-peak-without-noise",
            "Without label noise test error over width has no peak inside the sweep.",
            "Appendix, Fig. 9",
            observed={
                "largest_at_width": peak,
                "largest_minus_narrowest": rise,
                "largest_minus_widest": fall,
            },
            threshold=bounds(limits, "standard_errors"),
            holds=not inside,
        )
    near = threshold is not None and abs(math.log(peak / threshold)) <= math.log(limits.peak_factor)
    return finding(
        "test-peak-near-threshold",
        "Test error over width has a peak inside the sweep, within a factor of "
        f"{limits.peak_factor:g} of the width at which training error vanishes, and falls "
        "again for wider networks.",
        SOURCE,
        observed={
            "peak_width": peak,
            "interpolation_threshold_width": threshold,
            "peak_minus_narrowest": rise,
            "peak_minus_widest": fall,
        },
        threshold=bounds(limits, "peak_factor", "interpolation_mse", "standard_errors"),
        holds=inside and near,
    )


def _complexities(
    case: DoubleDescentCase, final: pd.DataFrame, threshold: float | None, widths: list[int]
) -> Iterator[Claim]:
    limits = case.claims
    errors = limits.standard_errors
    overall, steps = _changes(final, TRAIN_COMPLEXITY, widths)
    drops = [pair for pair, step in steps.items() if step.surely_below(0.0, errors)]
    yield finding(
        "train-effective-parameters-rise",
        "Effective parameters on training points rise with width, within error bars at every "
        "step of the sweep.",
        SOURCE,
        observed={"widest_minus_narrowest": overall, "steps": steps, "drops": drops},
        threshold=bounds(limits, "standard_errors"),
        holds=not drops and overall.surely_above(0.0, errors),
    )
    past = [width for width in widths if threshold is not None and width >= threshold]
    overall, steps = _changes(final, TEST_COMPLEXITY, past)
    rises = [pair for pair, step in steps.items() if step.surely_above(0.0, errors)]
    yield finding(
        "test-effective-parameters-fall",
        "Past the width at which training error vanishes, effective parameters on test points "
        "fall with width, within error bars at every step of the sweep.",
        SOURCE,
        observed={"widest_minus_threshold": overall, "steps": steps, "rises": rises},
        threshold=bounds(limits, "standard_errors"),
        holds=not rises and overall.surely_below(0.0, errors),
    )
    gap, error = complexity_gap(final)
    gaps = final.assign(gap=gap, gap_stderr=error)
    widening = _paired(gaps, "gap", past)
    yield finding(
        "gap-widens-past-threshold",
        "Past the width at which training error vanishes, the effective parameters on training "
        "points increasingly exceed those on test points.",
        SOURCE,
        observed={
            "gap_by_width": {w: estimate_of(of_group(gaps, w, "width"), "gap") for w in past},
            "widening": widening,
        },
        threshold=bounds(limits, "standard_errors", widening=0.0),
        holds=widening.surely_above(0.0, errors),
    )


def _changes(
    final: pd.DataFrame, column: str, widths: list[int]
) -> tuple[Estimate, dict[str, Estimate]]:
    """Change of a column from the first width to the last, and between neighbours."""
    pairs = itertools.pairwise(widths)
    steps = {f"{a}-{b}": _paired(final, column, [a, b]) for a, b in pairs}
    return _paired(final, column, widths), steps


def _paired(final: pd.DataFrame, column: str, widths: list[int]) -> Estimate:
    """Change from the first width to the last, paired by seed; undefined with fewer than two."""
    if len(widths) < 2:
        return Estimate(math.nan, math.nan)
    first, last = (by_seed(final, width, "width") for width in (widths[0], widths[-1]))
    return change(first, last, column)

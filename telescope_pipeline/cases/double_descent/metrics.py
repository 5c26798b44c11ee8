"""Summary and claims of the double-descent case, from the recorded tables alone.

The interpolation threshold is the width at which the final training error, averaged over seeds and
joined by straight lines in log(width) and log(error), first falls to ``claims.interpolation_mse``.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd

from telescope_pipeline.cases.double_descent.schema import DoubleDescentCase
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.statistics import (
    Estimate,
    crossing_step,
    estimate,
    final_rows,
    over_seeds,
)

SOURCE = "Section 4.1, Fig. 3"
TRAIN, TEST = "train/effective_parameters", "test/effective_parameters"


def interpolation_threshold(final: pd.DataFrame, level: float) -> float | None:
    """The width at which training error vanishes.

    Args:
        final: Last record of every member, with ``width`` and ``train/mse``.
        level: Training error that counts as none.

    Returns:
        The width, between two that were trained, or ``None`` if it lies outside of them.
    """
    error = over_seeds(final, "train/mse", by="width")
    if error["mean"].iloc[0] <= level:
        return None
    return crossing_step(error["width"], error["mean"], level)


def summarize(case: DoubleDescentCase, history: pd.DataFrame) -> dict[str, Any]:
    """Final errors and effective parameters of every width.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        Nested numbers; the threshold is left out if no trained widths enclose it.
    """
    final = final_rows(history)
    summary: dict[str, Any] = {"peak_width": _peak(over_seeds(final, "test/mse", by="width"))}
    threshold = interpolation_threshold(final, case.claims.interpolation_mse)
    if threshold is not None:
        summary["interpolation_threshold_width"] = threshold
    summary["width"] = {}
    for width, part in final.groupby("width"):
        values: dict[str, float] = {}
        for column in ("train/mse", "test/mse", "train/accuracy", "test/accuracy", TRAIN, TEST):
            at_end = _estimate(part, column)
            values[column.replace("/", "_")] = at_end.value
            values[column.replace("/", "_") + "_stderr"] = at_end.stderr
        for column in ("train/degrees_of_freedom", "test/approximation_error"):
            values[column.replace("/", "_")] = float(part[column].mean())
        summary["width"][f"{width:04d}"] = values
    return summary


def claims(case: DoubleDescentCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the case's claims.

    Args:
        case: The case's parameters; its ``claims`` section holds every threshold.
        history: Records of all members.

    Returns:
        One claim per finding, whether it holds or not.
    """
    final = final_rows(history)
    threshold = interpolation_threshold(final, case.claims.interpolation_mse)
    peak = _peak_near_threshold if _peak_is_expected(case) else _no_peak
    return [
        peak(case, final, threshold),
        _train_complexity_rises(case, final),
        _test_complexity_falls(case, final, threshold),
        _gap_widens(case, final, threshold),
    ]


def _peak_near_threshold(
    case: DoubleDescentCase, final: pd.DataFrame, threshold: float | None
) -> Claim:
    limits = case.claims
    error = over_seeds(final, "test/mse", by="width")
    widths = [int(width) for width in error["width"]]
    peak = _peak(error)
    rise = _paired(final, "test/mse", widths[0], peak)
    fall = _paired(final, "test/mse", widths[-1], peak)
    near = threshold is not None and abs(math.log(peak / threshold)) <= math.log(limits.peak_factor)
    return Claim(
        id="test-peak-near-threshold",
        statement=(
            "Test error over width has a peak inside the sweep, within a factor of "
            f"{limits.peak_factor:g} of the width at which training error vanishes, and falls "
            "again for wider networks."
        ),
        source=SOURCE,
        observed={
            "peak_width": peak,
            "interpolation_threshold_width": threshold,
            "peak_minus_narrowest": rise.record,
            "peak_minus_widest": fall.record,
        },
        threshold={
            "peak_factor": limits.peak_factor,
            "interpolation_mse": limits.interpolation_mse,
            "standard_errors": limits.standard_errors,
        },
        holds=widths[0] < peak < widths[-1]
        and near
        and rise.surely_above(0.0, limits.standard_errors)
        and fall.surely_above(0.0, limits.standard_errors),
    )


def _peak_is_expected(case: DoubleDescentCase) -> bool:
    """All data of the paper but clean images of digits, which are too easy for one."""
    return case.data.label_noise > 0 or case.data.source not in {"mnist", "digits"}


def _no_peak(case: DoubleDescentCase, final: pd.DataFrame, _: float | None) -> Claim:
    limits = case.claims
    error = over_seeds(final, "test/mse", by="width")
    widths = [int(width) for width in error["width"]]
    peak = _peak(error)
    rise = _paired(final, "test/mse", widths[0], peak)
    fall = _paired(final, "test/mse", widths[-1], peak)
    found = (
        widths[0] < peak < widths[-1]
        and rise.surely_above(0.0, limits.standard_errors)
        and fall.surely_above(0.0, limits.standard_errors)
    )
    return Claim(
        id="no-test-peak-without-noise",
        statement="Without label noise test error over width has no peak inside the sweep.",
        source="Appendix, Fig. 9",
        observed={
            "largest_at_width": peak,
            "largest_minus_narrowest": rise.record,
            "largest_minus_widest": fall.record,
        },
        threshold={"standard_errors": limits.standard_errors},
        holds=not found,
    )


def _train_complexity_rises(case: DoubleDescentCase, final: pd.DataFrame) -> Claim:
    limits = case.claims
    widths = sorted(int(width) for width in final["width"].unique())
    steps = _steps(final, TRAIN, widths)
    overall = _paired(final, TRAIN, widths[0], widths[-1])
    drops = [pair for pair, step in steps.items() if step.surely_below(0.0, limits.standard_errors)]
    return Claim(
        id="train-effective-parameters-rise",
        statement=(
            "Effective parameters on training points rise with width, within error bars at every "
            "step of the sweep."
        ),
        source=SOURCE,
        observed={
            "widest_minus_narrowest": overall.record,
            "steps": {pair: step.record for pair, step in steps.items()},
            "drops": drops,
        },
        threshold={"standard_errors": limits.standard_errors},
        holds=not drops and overall.surely_above(0.0, limits.standard_errors),
    )


def _test_complexity_falls(
    case: DoubleDescentCase, final: pd.DataFrame, threshold: float | None
) -> Claim:
    limits = case.claims
    past = _widths_past(final, threshold)
    steps = _steps(final, TEST, past)
    overall = _paired(final, TEST, past[0], past[-1]) if len(past) > 1 else None
    rises = [pair for pair, step in steps.items() if step.surely_above(0.0, limits.standard_errors)]
    return Claim(
        id="test-effective-parameters-fall",
        statement=(
            "Past the width at which training error vanishes, effective parameters on test points "
            "fall with width, within error bars at every step of the sweep."
        ),
        source=SOURCE,
        observed={
            "widest_minus_threshold": None if overall is None else overall.record,
            "steps": {pair: step.record for pair, step in steps.items()},
            "rises": rises,
        },
        threshold={"standard_errors": limits.standard_errors},
        holds=overall is not None
        and not rises
        and overall.surely_below(0.0, limits.standard_errors),
    )


def _gap_widens(case: DoubleDescentCase, final: pd.DataFrame, threshold: float | None) -> Claim:
    limits = case.claims
    past = _widths_past(final, threshold)
    gaps = final.assign(gap=final[TRAIN] - final[TEST])
    gaps["gap_stderr"] = np.hypot(final[TRAIN + "_stderr"], final[TEST + "_stderr"])
    widening = _paired(gaps, "gap", past[0], past[-1]) if len(past) > 1 else None
    return Claim(
        id="gap-widens-past-threshold",
        statement=(
            "Past the width at which training error vanishes, the effective parameters on training "
            "points increasingly exceed those on test points."
        ),
        source=SOURCE,
        observed={
            "gap_by_width": {
                str(width): _estimate(gaps[gaps["width"] == width], "gap").record for width in past
            },
            "widening": None if widening is None else widening.record,
        },
        threshold={"widening": 0.0, "standard_errors": limits.standard_errors},
        holds=widening is not None and widening.surely_above(0.0, limits.standard_errors),
    )


def _peak(error: pd.DataFrame) -> int:
    """The width at which a curve over widths is largest."""
    return int(error["width"].iloc[int(np.argmax(error["mean"].to_numpy()))])


def _widths_past(final: pd.DataFrame, threshold: float | None) -> list[int]:
    """The trained widths from the threshold on."""
    if threshold is None:
        return []
    return sorted(int(width) for width in final["width"].unique() if width >= threshold)


def _steps(final: pd.DataFrame, column: str, widths: list[int]) -> dict[str, Estimate]:
    """Change of a column between neighbouring widths."""
    return {
        f"{narrow}-{wide}": _paired(final, column, narrow, wide)
        for narrow, wide in itertools.pairwise(widths)
    }


def _paired(final: pd.DataFrame, column: str, narrow: int, wide: int) -> Estimate:
    """Change from one width to another, averaged over the seeds that both share.

    Pairing removes what all widths of a seed have in common: its draw of the label noise.
    """
    first = final[final["width"] == narrow].set_index("seed")
    second = final[final["width"] == wide].set_index("seed").loc[first.index]
    error = column + "_stderr"
    errors = np.hypot(first[error], second[error]) if error in final else ()
    return estimate(second[column] - first[column], errors)


def _estimate(part: pd.DataFrame, column: str) -> Estimate:
    error = column + "_stderr"
    return estimate(part[column], part.get(error, ()))

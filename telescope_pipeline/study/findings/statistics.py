"""Means with standard errors over the seeds of a group, and steps at which a curve crosses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error.

    Attributes:
        value: Mean over seeds.
        stderr: Standard error of the mean; 0 when there is one seed and no measurement error.
    """

    value: float
    stderr: float

    @property
    def record(self) -> dict[str, float]:
        """The two numbers as JSON-able data."""
        return {"value": self.value, "stderr": self.stderr}

    def surely_above(self, threshold: float, errors: float) -> bool:
        """Whether the mean exceeds the threshold by more than ``errors`` standard errors."""
        return self.value - errors * self.stderr > threshold

    def surely_below(self, threshold: float, errors: float) -> bool:
        """Whether the mean lies under the threshold by more than ``errors`` standard errors."""
        return self.value + errors * self.stderr < threshold


def estimate(values: Iterable[float], errors: Iterable[float] = ()) -> Estimate:
    """Average one number per seed.

    The spread over seeds and the measurement errors of the single numbers (random probes) are added
    in quadrature. The spread already contains part of the probes' error, so with few seeds, where
    it is itself uncertain, this errs on the side of a larger bar.

    Args:
        values: One value per seed.
        errors: Standard error of each value; left out when they are exact.

    Returns:
        Mean and standard error of the mean.
    """
    sample = np.asarray(list(values), dtype=np.float64)
    measured = np.asarray(list(errors), dtype=np.float64)
    variance = float(np.sum(measured**2)) / len(sample) ** 2
    if len(sample) > 1:
        variance += float(np.var(sample, ddof=1)) / len(sample)
    return Estimate(float(np.mean(sample)), math.sqrt(variance))


def seed_record(values: Iterable[float]) -> dict[str, float]:
    """One number per seed as JSON-able data: mean, standard error and extremes."""
    sample = [float(value) for value in values]
    return estimate(sample).record | {"smallest": min(sample), "largest": max(sample)}


def final_rows(history: pd.DataFrame) -> pd.DataFrame:
    """The last record of every member, in the order in which members appear."""
    last = history.groupby("member", sort=False)["step"].idxmax()
    return history.loc[last].reset_index(drop=True)


def shared_steps(history: pd.DataFrame) -> pd.DataFrame:
    """The records at steps that every member has, where some ended earlier than others."""
    members = history.groupby("step")["member"].transform("nunique")
    return history[members == history["member"].nunique()]


def over_seeds(
    history: pd.DataFrame, column: str, by: str = "step", error_column: str | None = None
) -> pd.DataFrame:
    """Mean and standard error over seeds of one column at every value of ``by``.

    Args:
        history: Records of members that differ by seed only, or final rows of several groups.
        column: What to average.
        by: The x axis.
        error_column: Standard errors of the single values, if they were estimated.

    Returns:
        Columns ``by``, ``mean`` and ``stderr``, sorted by ``by``.
    """
    rows = []
    for x, part in history.groupby(by, sort=True):
        errors = part[error_column] if error_column is not None else ()
        at_x = estimate(part[column], errors)
        rows.append((x, at_x.value, at_x.stderr))
    return pd.DataFrame(rows, columns=[by, "mean", "stderr"])


def crossing_step(
    steps: Sequence[float] | pd.Series[Any],
    values: Sequence[float] | pd.Series[Any],
    threshold: float,
) -> float | None:
    """The first step at which a falling positive curve reaches a threshold.

    Between the two records around the crossing the curve is taken as a straight line in
    log(step) and log(value), which is how it is plotted.

    Args:
        steps: Increasing steps.
        values: The curve.
        threshold: Positive level.

    Returns:
        The (fractional) step, or ``None`` if the curve never gets there.
    """
    x = np.asarray(steps, dtype=np.float64)
    y = np.asarray(values, dtype=np.float64)
    reached = np.flatnonzero(y <= threshold)
    if len(reached) == 0:
        return None
    after = int(reached[0])
    if after == 0 or x[after - 1] <= 0 or y[after] <= 0:
        return float(x[after])
    log_x, log_y = np.log(x[after - 1 : after + 1]), np.log(y[after - 1 : after + 1])
    part = (log_y[0] - math.log(threshold)) / (log_y[0] - log_y[1])
    return float(math.exp(log_x[0] + part * (log_x[1] - log_x[0])))


def value_at(
    steps: Sequence[float] | pd.Series[Any], values: Sequence[float] | pd.Series[Any], step: float
) -> float:
    """A recorded curve at any step, linear in log(step) between records.

    Args:
        steps: Increasing steps.
        values: The curve.
        step: Where to read it, within the recorded range.

    Returns:
        The interpolated value.
    """
    x: npt.NDArray[np.float64] = np.log1p(np.asarray(steps, dtype=np.float64))
    return float(np.interp(math.log1p(step), x, np.asarray(values, dtype=np.float64)))

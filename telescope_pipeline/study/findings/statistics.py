"""Numbers by seed, their means and standard errors, and steps at which a curve crosses.

A number that a seed does not have, e.g. the step of an event that it did not see, is NaN, and so is
all that is computed from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Seeds = npt.NDArray[np.float64] | pd.Series
"""One number per seed."""


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
    def record(self) -> dict[str, float] | None:
        """The two numbers as JSON-able data; None if they are undefined."""
        return None if math.isnan(self.value) else {"value": self.value, "stderr": self.stderr}

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


def estimate_of(part: pd.DataFrame, column: str) -> Estimate:
    """Average a column, one row per seed, with the errors in ``<column>_stderr`` if there are."""
    return estimate(part[column], part.get(f"{column}_stderr", ()))


def change(first: pd.DataFrame, second: pd.DataFrame, column: str) -> Estimate:
    """Second minus first, averaged over seeds.

    Pairing removes what both groups of a seed have in common, e.g. data and initial weights.

    Args:
        first: The rows of a group, as from :func:`by_seed`.
        second: Those of another one, with all seeds of the first.
        column: What to compare; ``<column>_stderr`` holds its errors if it was estimated.

    Returns:
        Mean difference and its standard error.
    """
    second = second.loc[first.index]
    error = f"{column}_stderr"
    errors = np.hypot(first[error], second[error]) if error in first else ()
    return estimate(second[column] - first[column], errors)


def ratio(above: pd.Series[float], below: pd.Series[float]) -> pd.Series[float]:
    """One ratio of errors per seed, finite even where an error is zero."""
    return positive(above) / positive(below)


def positive(errors: pd.Series[float]) -> pd.Series[float]:
    """Errors with a logarithm: what is zero in float32 counts as its smallest number."""
    return errors.clip(lower=float(np.finfo(np.float32).tiny))


def log_ratio(early: Seeds, late: Seeds) -> Estimate:
    """Mean logarithm of the ratio of two steps; step 0 counts as 1, since it has no logarithm."""
    ratios = np.maximum(late, 1.0) / np.maximum(early, 1.0)
    return estimate(math.log(seed) for seed in ratios)


def seed_record(values: Iterable[float]) -> dict[str, float] | None:
    """One number per seed as mean, standard error and extremes; None if one is undefined."""
    sample = [float(value) for value in values]
    record = estimate(sample).record
    return None if record is None else record | {"smallest": min(sample), "largest": max(sample)}


def flat(name: str, measured: Estimate) -> dict[str, float]:
    """An estimate as two numbers of a summary, ``<name>`` and ``<name>_stderr``."""
    name = _plain(name)
    return {name: measured.value, f"{name}_stderr": measured.stderr}


def estimates(part: pd.DataFrame, columns: Iterable[str]) -> dict[str, float]:
    """The columns that there are, averaged over seeds, as numbers of a summary with errors."""
    found: dict[str, float] = {}
    for column in columns:
        if column in part:
            found |= flat(column, estimate_of(part, column))
    return found


def means(part: pd.DataFrame, columns: Iterable[str]) -> dict[str, float]:
    """Columns averaged over seeds, as numbers of a summary."""
    return {_plain(column): float(part[column].mean()) for column in columns}


def mean_steps(steps: Mapping[str, Seeds]) -> dict[str, float]:
    """The mean steps of those events that every seed saw."""
    averages = {name: estimate(by_seed).value for name, by_seed in steps.items()}
    return {name: value for name, value in averages.items() if not math.isnan(value)}


def _plain(column: str) -> str:
    return column.replace("/", "_").replace("@", "_")


def of_group(history: pd.DataFrame, value: Any, column: str = "group") -> pd.DataFrame:
    """The records of one group of members, or of those that share another value."""
    records: pd.DataFrame = history[history[column] == value]
    return records


def by_seed(final: pd.DataFrame, value: Any, column: str = "group") -> pd.DataFrame:
    """The members of one group, one row per seed, which is the index."""
    return of_group(final, value, column).set_index("seed")


def members_of(part: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The records of every seed of a group, in the order of seeds."""
    return {int(str(seed)): member for seed, member in part.groupby("seed", sort=True)}


def at_steps(part: pd.DataFrame, values: pd.Series[float], steps: Seeds) -> Seeds:
    """A curve of every seed of a group, read at a step of its own."""
    pairs = zip(members_of(part).values(), steps, strict=True)
    return np.array([value_at(one["step"], values.loc[one.index], step) for one, step in pairs])


def at_end(part: pd.DataFrame, values: pd.Series[float]) -> Seeds:
    """A curve of every seed of a group at its last record."""
    return np.array([float(values.loc[one.index[-1]]) for one in members_of(part).values()])


def final_rows(history: pd.DataFrame) -> pd.DataFrame:
    """The last record of every member, in the order in which members appear."""
    last = history.groupby("member", sort=False)["step"].idxmax()
    return history.loc[last].reset_index(drop=True)


def shared_steps(history: pd.DataFrame) -> pd.DataFrame:
    """The records at steps that every member has, where some ended earlier than others."""
    members = history.groupby("step")["member"].transform("nunique")
    return history[members == history["member"].nunique()]


def over_seeds(history: pd.DataFrame, column: str, by: str = "step") -> pd.DataFrame:
    """Mean and standard error over seeds of one column at every value of ``by``.

    The error is that of :func:`estimate_of`: figures, metrics and claims have the same one.

    Args:
        history: Records of members that differ by seed only, or final rows of several groups.
        column: What to average.
        by: The x axis.

    Returns:
        Columns ``by``, ``mean`` and ``stderr``, sorted by ``by``.
    """
    rows = []
    for x, part in history.groupby(by, sort=True):
        at_x = estimate_of(part, column)
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

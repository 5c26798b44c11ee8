"""The words that claims are written in: what was observed, the bounds, and whether they hold.

Measured numbers are :class:`~telescope_pipeline.study.findings.statistics.Estimate`, or series and
arrays with one number per seed; a mapping holds them by group. What is undefined is NaN: it is
observed as null, and no claim about it holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.statistics import Estimate, Seeds, seed_record


def finding(
    id: str, statement: str, source: str, *, observed: Any, threshold: Any, holds: bool
) -> Claim:
    """A claim; see :func:`record_of` for what ``observed`` may hold."""
    return Claim(id, statement, source, record_of(observed), threshold, bool(holds))


def record_of(measured: Any) -> Any:
    """Measured numbers as JSON-able data.

    Args:
        measured: An estimate, numbers by seed, or nested mappings of them; keys that are numbers
            become text. Anything else stays what it is.

    Returns:
        The nested records.
    """
    if isinstance(measured, Mapping):
        return {
            f"{key:g}" if isinstance(key, float) else str(key): record_of(value)
            for key, value in measured.items()
        }
    if isinstance(measured, Estimate):
        return measured.record
    if isinstance(measured, np.ndarray | pd.Series):
        return seed_record(measured)
    return measured


def bounds(limits: Any, *names: str, **others: Any) -> dict[str, Any]:
    """A claim's threshold: bounds that it has of its own, then some of the case's parameters.

    Args:
        limits: The section ``claims`` of a case.
        *names: Its leaves.
        **others: Further bounds, which come first.

    Returns:
        All of them by name.
    """
    return others | {name: getattr(limits, name) for name in names}


def surely_above(measured: Mapping[Any, Estimate], threshold: float, errors: float) -> bool:
    """Whether every mean exceeds the threshold by more than ``errors`` standard errors."""
    return all(mean.surely_above(threshold, errors) for mean in measured.values())


def surely_below(measured: Mapping[Any, Estimate], threshold: float, errors: float) -> bool:
    """Whether every mean lies under the threshold by more than ``errors`` standard errors."""
    return all(mean.surely_below(threshold, errors) for mean in measured.values())


def smallest(measured: Mapping[Any, Seeds] | Seeds) -> float:
    """The smallest number of any seed of any group; NaN if one is undefined."""
    return float(np.min(_together(measured), initial=np.inf))


def largest(measured: Mapping[Any, Seeds] | Seeds) -> float:
    """The largest number of any seed of any group; NaN if one is undefined."""
    return float(np.max(_together(measured), initial=-np.inf))


def _together(measured: Mapping[Any, Seeds] | Seeds) -> npt.NDArray[np.float64]:
    parts = measured.values() if isinstance(measured, Mapping) else (measured,)
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts] or [np.empty(0)])

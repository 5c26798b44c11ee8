"""Finds memorisation, generalisation and the divergence of effective parameters in a history.

Every event is the *onset* of a condition that is checked at each recorded step.

Onset of a condition
    The first recorded step from which it holds at every later record, the last one included, and
    at no fewer than ``confirmations`` records. If there is none, the condition has not set in: it
    may still do so after the last record. Between two records nothing is known, so the change lies
    after the last record at which the condition failed (``after``) and no later than ``step``. A
    condition that holds from the first record on set in there or earlier; ``after`` is then None.

Memorisation
    Onset of: train accuracy is at least its bound.

Generalisation
    Onset of: test accuracy is at least its bound.

Delay
    ``generalisation.step / memorisation.step``. Even when generalisation was not seen, it is more
    than ``generalisation.after / memorisation.step``, the delay's lower bound. There is no delay
    when memorisation was not seen or set in at step 0.

Divergence
    Onset of: ``p_train - p_test > max(k * sqrt(stderr_train ** 2 + stderr_test ** 2), gap)``, with
    the effective parameters of the two sets and the standard errors that come from probing, taken
    as independent. The errors are 0 for exact effective parameters. They also vanish, with the
    effective parameters themselves, in the first steps, where any difference would exceed them: the
    ``gap``, a number of effective parameters, tells when a difference amounts to something.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from telescope_core.errors import ConfigurationError
from telescope_pipeline.study.findings.complexity import Quantity, complexity_gap
from telescope_pipeline.study.findings.statistics import Seeds


class Limits(Protocol):
    """The bounds of the events, as the section ``claims`` of a case holds them."""

    @property
    def memorised_accuracy(self) -> float:
        """Bound on train accuracy, in [0, 1]."""

    @property
    def generalised_accuracy(self) -> float:
        """Bound on test accuracy, in [0, 1]."""

    @property
    def divergence_errors(self) -> float:
        """The number ``k`` of standard errors that tells the two sets apart."""

    @property
    def divergence_gap(self) -> float:
        """The effective parameters that they must differ by at the least."""

    @property
    def confirmations(self) -> int:
        """See :func:`onset`."""


@dataclass(frozen=True)
class Onset:
    """Where a condition set in for good.

    Attributes:
        step: First record from which it holds to the end; None if it did not set in.
        after: Last record at which it failed; None if it never did.
        last: Last record of the history.
    """

    step: int | None
    after: int | None
    last: int


@dataclass(frozen=True)
class Events:
    """The events of one member.

    Attributes:
        memorisation: Train accuracy reaches its bound and stays.
        generalisation: Test accuracy reaches its bound and stays.
        divergence: Effective parameters on training points come to exceed those on test points.
    """

    memorisation: Onset
    generalisation: Onset
    divergence: Onset

    def step(self, name: str) -> int | None:
        """The step of the event with this name; None if it was not seen."""
        found: Onset | None = getattr(self, name)
        return None if found is None else found.step


def onset(
    steps: Sequence[int] | pd.Series[Any],
    holds: Sequence[bool] | pd.Series[Any],
    *,
    confirmations: int = 2,
) -> Onset:
    """Find where a condition set in for good.

    Args:
        steps: Recorded steps, increasing.
        holds: Whether the condition holds at each of them.
        confirmations: Records at the end of the history, at the least, at which it must hold.

    Returns:
        The onset, as defined above.

    Raises:
        ConfigurationError: No records, another number of conditions, steps that do not increase, or
            fewer than one confirmation.
    """
    recorded = np.asarray(steps, dtype=np.int64)
    held = np.asarray(holds, dtype=np.bool_)
    if recorded.shape != held.shape or recorded.ndim != 1 or len(recorded) == 0:
        raise ConfigurationError(
            f"got {recorded.shape} steps and {held.shape} conditions; expected one condition for "
            "each of at least one step"
        )
    if np.any(np.diff(recorded) <= 0):
        raise ConfigurationError("got steps that do not increase; sort the records of one member")
    if confirmations < 1:
        raise ConfigurationError(f"confirmations must be at least 1, got {confirmations}")
    failed = np.flatnonzero(~held)
    first = int(failed[-1]) + 1 if len(failed) else 0
    return Onset(
        step=int(recorded[first]) if len(recorded) - first >= confirmations else None,
        after=int(recorded[first - 1]) if first else None,
        last=int(recorded[-1]),
    )


def detect(history: pd.DataFrame, limits: Limits, of: Quantity = "effective_parameters") -> Events:
    """Find the events of one member.

    Args:
        history: Records of one member: ``step``, accuracies and effective parameters on ``train``
            and ``test``, and the standard errors of the latter if they were estimated.
        limits: The bounds.
        of: What stands for effective parameters.

    Returns:
        The events, as defined above.

    Raises:
        ConfigurationError: As from :func:`onset`.
    """
    gap, error = complexity_gap(history, of)
    conditions = (
        history["train/accuracy"] >= limits.memorised_accuracy,
        history["test/accuracy"] >= limits.generalised_accuracy,
        gap > np.maximum(limits.divergence_errors * error, limits.divergence_gap),
    )
    return Events(
        *(onset(history["step"], hold, confirmations=limits.confirmations) for hold in conditions)
    )


def steps_of(events: Mapping[int, Events], name: str) -> Seeds:
    """The step of an event in every seed, NaN in those that did not see it."""
    return numbers(found.step(name) for found in events.values())


def delays(events: Mapping[int, Events]) -> dict[str, Seeds]:
    """When memorisation and generalisation set in, and the delay with its lower bound, by seed."""
    memorised, generalised = (steps_of(events, n) for n in ("memorisation", "generalisation"))
    start = np.where(memorised > 0, memorised, np.nan)
    not_before = np.array([event.generalisation.after or 0 for event in events.values()])
    return {
        "memorisation_step": memorised,
        "generalisation_step": generalised,
        "delay_factor": generalised / start,
        "delay_lower_bound": not_before / start,
    }


def numbers(values: Iterable[float | None]) -> Seeds:
    """Numbers by seed of which some are missing, as NaN."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

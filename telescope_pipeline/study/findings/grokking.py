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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from telescope_core.errors import ConfigurationError

TRAIN_COMPLEXITY, TEST_COMPLEXITY = "train/effective_parameters", "test/effective_parameters"


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

    @property
    def seen(self) -> bool:
        """Whether the condition set in by the last record."""
        return self.step is not None

    @property
    def record(self) -> dict[str, int | None]:
        """The steps as JSON-able data."""
        return {"step": self.step, "after": self.after, "last": self.last}


@dataclass(frozen=True)
class Delay:
    """How many times later generalisation set in than memorisation did.

    Attributes:
        factor: The ratio of the two steps; None if generalisation was not seen.
        lower_bound: What the true ratio exceeds, given when things were recorded.
    """

    factor: float | None
    lower_bound: float


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

    @property
    def delay(self) -> Delay | None:
        """The delay of generalisation, or None if there is no memorisation to count from."""
        memorised = self.memorisation.step
        if not memorised:
            return None
        generalised = self.generalisation
        factor = None if generalised.step is None else generalised.step / memorised
        return Delay(factor, (generalised.after or 0) / memorised)


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


def detect(
    history: pd.DataFrame,
    *,
    memorised_accuracy: float,
    generalised_accuracy: float,
    divergence_errors: float,
    divergence_gap: float = 0.0,
    confirmations: int = 2,
) -> Events:
    """Find the events of one member.

    Args:
        history: Records of one member: ``step``, accuracies and effective parameters on ``train``
            and ``test``, and the standard errors of the latter if they were estimated.
        memorised_accuracy: Bound on train accuracy, in [0, 1].
        generalised_accuracy: Bound on test accuracy, in [0, 1].
        divergence_errors: The number ``k`` of standard errors that tells the two sets apart.
        divergence_gap: The effective parameters that they must differ by at the least.
        confirmations: See :func:`onset`.

    Returns:
        The events, as defined above.

    Raises:
        ConfigurationError: As from :func:`onset`.
    """
    gap, error = complexity_gap(history)
    conditions = (
        history["train/accuracy"] >= memorised_accuracy,
        history["test/accuracy"] >= generalised_accuracy,
        gap > np.maximum(divergence_errors * error, divergence_gap),
    )
    return Events(
        *(onset(history["step"], holds, confirmations=confirmations) for holds in conditions)
    )


def complexity_gap(history: pd.DataFrame) -> tuple[pd.Series[float], pd.Series[float]]:
    """``p_train - p_test`` of every record and its standard error from probing, 0 if exact."""
    gap: pd.Series[float] = history[TRAIN_COMPLEXITY] - history[TEST_COMPLEXITY]
    exact = np.zeros(len(history))
    train, test = (
        np.asarray(history.get(f"{column}_stderr", exact), dtype=np.float64)
        for column in (TRAIN_COMPLEXITY, TEST_COMPLEXITY)
    )
    error: pd.Series[float] = pd.Series(np.hypot(train, test), index=history.index)
    return gap, error

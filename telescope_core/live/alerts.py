"""What in a record calls for attention.

A rule looks at one record at a time; a watch turns its answers into alerts, one for each crossing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from telescope_core.errors import ConfigurationError
from telescope_core.trackers.protocol import AlertLevel

Spread = Callable[[str], float]
"""Gives the spread of the network's outputs on a set, see :func:`output_spread`."""


@dataclass(frozen=True)
class Alert:
    """A call for attention.

    Attributes:
        title: A few words.
        text: What was seen, with numbers.
        level: How urgent it is.
        step: When it was seen.
    """

    title: str
    text: str
    level: AlertLevel
    step: int


class AlertRule(ABC):
    """A condition on a record.

    Attributes:
        records: For how many records in a row the condition has to hold until it counts, and to
            fail until it counts as over.
    """

    records: int

    @abstractmethod
    def is_met(self, record: Mapping[str, float], spread: Spread) -> bool:
        """Whether the condition holds of the record of one step."""

    @abstractmethod
    def alert(self, record: Mapping[str, float], spread: Spread) -> Alert:
        """What to say about a record for which the condition holds."""

    @abstractmethod
    def check_fits(self, sets: Sequence[str], has_smoother: bool, response: str | None) -> None:
        """Refuse a lens whose records lack what the rule looks at.

        Args:
            sets: The sets of the lens.
            has_smoother: Whether it follows a smoother.
            response: What its outputs stand for, see ``TelescopeLens.response``.

        Raises:
            ConfigurationError: Naming what is missing.
        """

    def _check_records(self) -> None:
        if type(self.records) is not int or self.records < 1:
            raise ConfigurationError(
                f"records must be an integer of at least 1 (records in a row), got {self.records!r}"
            )


@dataclass(frozen=True)
class PartingWays(AlertRule):
    r"""Effective parameters on two sets part ways.

    The network is then of another complexity on one set than on the other; in the paper, p_train
    and p_test do so where test error changes without training error (section 4.1).  They have
    parted when both hold:

    .. math::
        \max(p_1, p_2) ≥ \mathrm{factor} · \min(p_1, p_2), \qquad
        |p_1 - p_2| > \mathrm{deviations} · \sqrt{σ_1^2 + σ_2^2},

    σ being the standard errors that come from probing.  Estimates from the same probes err
    alike, so the second condition errs on the side of silence.  A standard error that is not
    known (NaN) silences it altogether.

    Attributes:
        first: A set.
        second: Another set.
        factor: How many times the smaller the larger one is; more than 1.
        deviations: By how many combined standard errors they differ; at least 0.
        records: For how many records in a row; at least 1.

    Raises:
        ConfigurationError: A value is out of range, or the two sets are one.
    """

    first: str = "train"
    second: str = "test"
    factor: float = 1.5
    deviations: float = 3.0
    records: int = 3

    def __post_init__(self) -> None:
        self._check_records()
        if not 1 < self.factor < math.inf:
            raise ConfigurationError(f"factor must be a number above 1, got {self.factor!r}")
        _check_deviations(self.deviations)
        if self.first == self.second:
            raise ConfigurationError(
                f"first and second are both {self.first!r}; expected the names of two sets"
            )

    def is_met(self, record: Mapping[str, float], spread: Spread) -> bool:
        """Whether the two have parted."""
        low, high = sorted(self._values(record))
        # An estimate may fall below zero; no factor leads from there to a positive one.
        apart = high >= self.factor * low if low > 0 else high > 0
        return apart and high - low > self.deviations * math.hypot(*self._values(record, "_stderr"))

    def alert(self, record: Mapping[str, float], spread: Spread) -> Alert:
        """Say by how much they have parted, and where the network is more complex."""
        first, second = self._values(record)
        larger, smaller = (self.first, self.second) if first > second else (self.second, self.first)
        return Alert(
            f"Effective parameters part: {larger} above {smaller}"[:63],
            f"At step {record['step']:.0f} the network has {first:.4g} effective parameters on "
            f"{self.first} and {second:.4g} on {self.second}, apart by a factor of "
            f"{self.factor:g} for {self.records} records: it is more complex on {larger}.",
            "WARN",
            int(record["step"]),
        )

    def check_fits(self, sets: Sequence[str], has_smoother: bool, response: str | None) -> None:
        """Refuse a lens without one of the sets, without probes, or of logits."""
        _check_sets((self.first, self.second), sets)
        _check_smoother(self, has_smoother)
        if response != "identity":
            raise ConfigurationError(
                "PartingWays compares effective parameters, which logits do not have: their size "
                f"is no count (the response of the loss is {response!r}); use "
                "DegreesOfFreedomPass(bound) for classifiers"
            )

    def _values(self, record: Mapping[str, float], end: str = "") -> list[float]:
        return [record[f"{name}/effective_parameters{end}"] for name in (self.first, self.second)]


@dataclass(frozen=True)
class DegreesOfFreedomPass(AlertRule):
    """The degrees of freedom of the fit to the training set pass a bound.

    They count labels that the network answers to, from 0 to n for classifiers: as many as n say
    that it has memorised every label.  The bound counts as passed where it lies below the estimate
    by more than ``deviations`` standard errors of probing; one that is not known (NaN) silences it.

    Attributes:
        bound: Degrees of freedom, e.g. half the training points.
        deviations: By how many standard errors they must lie above it; at least 0.
        records: For how many records in a row; at least 1.

    Raises:
        ConfigurationError: A value is out of range.
    """

    bound: float
    deviations: float = 3.0
    records: int = 3

    def __post_init__(self) -> None:
        self._check_records()
        _check_positive("bound", self.bound)
        _check_deviations(self.deviations)

    def is_met(self, record: Mapping[str, float], spread: Spread) -> bool:
        """Whether they surely lie above the bound."""
        value, error = self._value(record)
        return value - self.bound > self.deviations * error

    def alert(self, record: Mapping[str, float], spread: Spread) -> Alert:
        """Say how many they are."""
        value, error = self._value(record)
        return Alert(
            "Degrees of freedom pass a bound",
            f"At step {record['step']:.0f} the fit to the training set has {value:.4g} degrees of "
            f"freedom (standard error {error:.2g}), above {self.bound:g} for {self.records} "
            "records: so many training labels are answered to one by one.",
            "WARN",
            int(record["step"]),
        )

    def check_fits(self, sets: Sequence[str], has_smoother: bool, response: str | None) -> None:
        """Refuse a lens without probes, or of outputs that nothing is known of."""
        _check_smoother(self, has_smoother)
        if response is None:
            raise ConfigurationError(
                "DegreesOfFreedomPass needs to know what the outputs stand for, which the loss "
                'does not tell; create the lens with response="identity", "softmax", "sigmoid" '
                'or "exp"'
            )

    def _value(self, record: Mapping[str, float]) -> tuple[float, float]:
        name = "train/degrees_of_freedom"
        return record[name], record[f"{name}_stderr"]


@dataclass(frozen=True)
class ApproximationFails(AlertRule):
    r"""The telescoping model no longer describes the network: mean \|f − f̃\| passes a bound.

    What follows from the model, effective parameters above all, is then not to be trusted; a
    smaller stride, or second order, brings the error down.

    Attributes:
        on: A set.
        bound: The bound, in units of the outputs; ``None`` for a relative one.
        relative: The bound as a share of the spread of the network's outputs on the set, see
            :func:`output_spread`; 0.1 if neither is given.
        records: For how many records in a row; at least 1.

    Raises:
        ConfigurationError: A value is out of range, or both bounds are given.
    """

    on: str = "test"
    bound: float | None = None
    relative: float | None = None
    records: int = 1

    def __post_init__(self) -> None:
        self._check_records()
        if self.bound is not None and self.relative is not None:
            raise ConfigurationError(
                f"bound={self.bound!r} and relative={self.relative!r} are both given; give one"
            )
        for name, value in (("bound", self.bound), ("relative", self.relative)):
            if value is not None:
                _check_positive(name, value)

    def is_met(self, record: Mapping[str, float], spread: Spread) -> bool:
        """Whether the error passes the bound."""
        # Written so that an error that is not a number passes any bound.
        return not record[f"{self.on}/approximation_error"] <= self._limit(spread)

    def alert(self, record: Mapping[str, float], spread: Spread) -> Alert:
        """Say by how much it does, and what helps."""
        return Alert(
            f"Telescoping model fails on {self.on}"[:63],
            f"At step {record['step']:.0f} mean |f - f~| on {self.on} is "
            f"{record[f'{self.on}/approximation_error']:.3g}, above {self._limit(spread):.3g}; a "
            "smaller stride, or order=2, brings it down.",
            "WARN",
            int(record["step"]),
        )

    def check_fits(self, sets: Sequence[str], has_smoother: bool, response: str | None) -> None:
        """Refuse a lens without the set."""
        _check_sets((self.on,), sets)

    def _limit(self, spread: Spread) -> float:
        if self.bound is not None:
            return self.bound
        return (0.1 if self.relative is None else self.relative) * spread(self.on)


class Watch:
    """Follows one rule through a run and speaks once per crossing."""

    def __init__(self, rule: AlertRule) -> None:
        self._rule = rule
        self._is_met = False
        self._against = 0

    def observe(self, record: Mapping[str, float], spread: Spread) -> Alert | None:
        """Look at the next record; returns an alert if the condition has come to hold with it."""
        is_met = self._rule.is_met(record, spread)
        self._against = self._against + 1 if is_met != self._is_met else 0
        if self._against < self._rule.records:
            return None
        self._is_met, self._against = is_met, 0
        return self._rule.alert(record, spread) if is_met else None


def output_spread(outputs: Tensor) -> float:
    """Mean absolute deviation of outputs ``(rows, k)`` from their mean over the rows."""
    return float((outputs - outputs.mean(dim=0)).abs().double().mean())


def _check_sets(wanted: Sequence[str], sets: Sequence[str]) -> None:
    for name in wanted:
        if name not in sets:
            raise ConfigurationError(
                f"an alert looks at the set {name!r}; the lens has {', '.join(sets)}"
            )


def _check_smoother(rule: AlertRule, has_smoother: bool) -> None:
    if not has_smoother:
        raise ConfigurationError(
            f"{type(rule).__name__} needs a smoother, but the lens has probes=None; create it with "
            "a number of probes"
        )


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigurationError(f"{name} must be a positive number, got {value!r}")


def _check_deviations(value: float) -> None:
    if not 0 <= value < math.inf:
        raise ConfigurationError(f"deviations must be a number of at least 0, got {value!r}")

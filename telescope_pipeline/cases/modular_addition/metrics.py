"""Summary and claims of the transformer that groks, from the recorded tables alone.

Memorisation, generalisation and divergence are what
:mod:`telescope_pipeline.study.findings.grokking` defines; their bounds are parameters of the case. Two more events say what a measure could have
announced:

Rise
    Onset of: test accuracy exceeds its value at memorisation by at least ``claims.rise``.

Announcement
    The divergence, looked for in the records up to the first one with generalisation alone: what
    was known by then. Records after it can neither create nor undo it, so it stands even where the
    two numbers of effective parameters meet again once the rule has been learned.

Reversal
    The same with the two sets exchanged: p_test exceeds p_train. The sensitivity of logits has no
    ceiling, unlike that of the predictions of a squared loss: where the softmax is nearly certain,
    a label must move the logits far to move the probabilities. Which of the two sets needs more of
    it is an open question here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from telescope_pipeline.cases.modular_addition.schema import ModularAdditionCase
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.grokking import (
    TEST_COMPLEXITY,
    TRAIN_COMPLEXITY,
    Events,
    Onset,
    complexity_gap,
    detect,
    onset,
)
from telescope_pipeline.study.findings.statistics import (
    Estimate,
    estimate,
    final_rows,
    seed_record,
    value_at,
)

SOURCE = "beyond the paper, after Section 4.1 and Fig. 4 (setting of Power et al. 2022)"
SOURCE_REVERSAL = "beyond the paper; written down after a first run, for runs with other seeds"
SOURCE_MODELS = "beyond the paper, after Section 3"

_FINAL = (
    "train/cross_entropy",
    "test/cross_entropy",
    "train/accuracy",
    "test/accuracy",
    "test/telescoped_accuracy",
    "test/linearized_accuracy",
    TRAIN_COMPLEXITY,
    TEST_COMPLEXITY,
    "train/degrees_of_freedom",
    "test/approximation_error",
    "test/linearization_error",
)


@dataclass(frozen=True)
class Grokking:
    """What happened to one member, and when.

    Attributes:
        events: Memorisation, generalisation and divergence.
        rise: Test accuracy comes to exceed its value at memorisation; None without memorisation.
        announcement: Divergence, as far as it was known at generalisation; None without
            generalisation.
        reversal: Divergence the other way round, as far as it was known at generalisation; None
            without generalisation.
    """

    events: Events
    rise: Onset | None
    announcement: Onset | None
    reversal: Onset | None

    def step(self, name: str) -> int | None:
        """The step of one of :data:`EVENTS`; None if it was not seen."""
        owner = self if name in ("rise", "announcement", "reversal") else self.events
        found: Onset | None = getattr(owner, name)
        return None if found is None else found.step


_Found = dict[int, Grokking]
EVENTS = ("memorisation", "rise", "generalisation", "announcement", "reversal", "divergence")


def events_of(case: ModularAdditionCase, history: pd.DataFrame) -> _Found:
    """Detect the events of every member.

    Args:
        case: The case's parameters; its ``claims`` section holds the bounds.
        history: Records of all members.

    Returns:
        The events by seed.
    """
    return {
        int(str(seed)): _grokking(case, member)
        for seed, member in history.groupby("seed", sort=True)
    }


def _grokking(case: ModularAdditionCase, member: pd.DataFrame) -> Grokking:
    limits = case.claims
    events = _detect(case, member)
    rise = announcement = reversal = None
    memorised, generalised = events.memorisation.step, events.generalisation.step
    if memorised is not None:
        level = float(member.loc[member["step"] == memorised, "test/accuracy"].iloc[0])
        risen = member["test/accuracy"] >= level + limits.rise
        rise = onset(member["step"], risen, confirmations=limits.confirmations)
    if generalised is not None:
        until = member[member["step"] <= generalised]
        announcement = _detect(case, until).divergence
        reversal = _detect(case, _exchanged(until)).divergence
    return Grokking(events, rise, announcement, reversal)


def _exchanged(member: pd.DataFrame) -> pd.DataFrame:
    """The records with the effective parameters of the two sets exchanged."""
    pairs = [(TRAIN_COMPLEXITY + end, TEST_COMPLEXITY + end) for end in ("", "_stderr")]
    names = {a: b for one, other in pairs for a, b in ((one, other), (other, one))}
    return member.rename(columns=names)


def _detect(case: ModularAdditionCase, member: pd.DataFrame) -> Events:
    limits = case.claims
    return detect(
        member,
        memorised_accuracy=limits.memorised_accuracy,
        generalised_accuracy=limits.generalised_accuracy,
        divergence_errors=limits.divergence_errors,
        divergence_gap=limits.divergence_gap,
        confirmations=limits.confirmations,
    )


def summarize(case: ModularAdditionCase, history: pd.DataFrame) -> dict[str, Any]:
    """Events, final losses and accuracies, and effective parameters.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        Nested numbers; the step of an event that some seed did not see is left out.
    """
    found = events_of(case, history)
    summary: dict[str, Any] = {"steps": {}, "final": {}}
    for name in EVENTS:
        steps = _steps(found, name)
        if steps is not None:
            summary["steps"][name] = estimate(steps).value
    final = final_rows(history)
    for column in _FINAL:
        if column in final:
            at_end = estimate(final[column], final.get(f"{column}_stderr", ()))
            summary["final"][column.replace("/", "_")] = at_end.value
            summary["final"][column.replace("/", "_") + "_stderr"] = at_end.stderr
    return summary


def claims(case: ModularAdditionCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the case's claims.

    Args:
        case: The case's parameters; its ``claims`` section holds every threshold.
        history: Records of all members.

    Returns:
        One claim per finding, whether it holds or not.
    """
    found = events_of(case, history)
    return [
        _delayed_generalisation(case, found),
        *(
            _precedes(case, found, first=first, then=then)
            for first in ("announcement", "reversal")
            for then in ("generalisation", "rise")
        ),
        _gap_widens(case, history, found),
        _gap_remains(case, history),
        _closer_than_lazy(case, history),
        _telescoped_generalises(case, history),
    ]


def _delayed_generalisation(case: ModularAdditionCase, found: _Found) -> Claim:
    limits = case.claims
    delays = [grokking.events.delay for grokking in found.values()]
    factors = _all(None if delay is None else delay.factor for delay in delays)
    return Claim(
        id="delayed-generalisation",
        statement=(
            f"In every seed, test accuracy reaches {100 * limits.generalised_accuracy:g} % for "
            f"good at least {limits.minimum_delay:g} times as many steps into training as train "
            f"accuracy reaches {100 * limits.memorised_accuracy:g} %."
        ),
        source=SOURCE,
        observed={
            "memorisation_step": _record(_steps(found, "memorisation")),
            "generalisation_step": _record(_steps(found, "generalisation")),
            "delay_factor": _record(factors),
            "delay_lower_bound": _record(
                _all(None if delay is None else delay.lower_bound for delay in delays)
            ),
        },
        threshold={
            "memorised_accuracy": limits.memorised_accuracy,
            "generalised_accuracy": limits.generalised_accuracy,
            "minimum_delay": limits.minimum_delay,
        },
        holds=factors is not None and min(factors) >= limits.minimum_delay,
    )


def _precedes(case: ModularAdditionCase, found: _Found, *, first: str, then: str) -> Claim:
    """Compare the step at which the two sets part with that of another event, paired by seed."""
    limits = case.claims
    early, late = _steps(found, first), _steps(found, then)
    lead = ratio = None
    if early is not None and late is not None:
        lead = estimate(b - a for a, b in zip(early, late, strict=True))
        # Step 0 counts as step 1, since it has no logarithm.
        ratio = estimate(
            math.log(max(b, 1.0) / max(a, 1.0)) for a, b in zip(early, late, strict=True)
        )
    larger, smaller = ("train", "test") if first == "announcement" else ("test", "train")
    happens = {
        "generalisation": (
            f"test accuracy reaches {100 * limits.generalised_accuracy:g} % for good"
        ),
        "rise": (
            f"test accuracy has risen, for good, {100 * limits.rise:g} points above its value at "
            "memorisation"
        ),
    }
    return Claim(
        id=f"{larger}-exceeds-{smaller}-before-{then}",
        statement=(
            f"The effective parameters used on {larger} sums come to exceed those used on "
            f"{smaller} sums before {happens[then]}."
        ),
        source=SOURCE if first == "announcement" else SOURCE_REVERSAL,
        observed={
            f"{larger}_exceeds_{smaller}_step": _record(early),
            f"{then}_step": _record(late),
            "lead_in_steps": None if lead is None else lead.record,
            "log_ratio_of_steps": None if ratio is None else ratio.record,
        },
        threshold={
            "lead_in_steps": 0.0,
            "standard_errors": limits.standard_errors,
            "divergence_errors": limits.divergence_errors,
            "divergence_gap": limits.divergence_gap,
        },
        holds=lead is not None and lead.surely_above(0.0, limits.standard_errors),
    )


def _gap_widens(case: ModularAdditionCase, history: pd.DataFrame, found: _Found) -> Claim:
    limits = case.claims
    gaps: dict[str, Estimate] = {}
    widening = None
    memorised, generalised = _steps(found, "memorisation"), _steps(found, "generalisation")
    if memorised is not None and generalised is not None:
        values, errors = {}, {}
        for name, steps in (("memorisation", memorised), ("generalisation", generalised)):
            values[name], errors[name] = _gaps_at(history, steps)
            gaps[name] = estimate(values[name], errors[name])
        changes = np.subtract(values["generalisation"], values["memorisation"])
        widening = estimate(changes, np.hypot(errors["generalisation"], errors["memorisation"]))
    return Claim(
        id="gap-widens-while-test-error-falls",
        statement=(
            "The effective parameters on training sums exceed those on test sums by more at "
            "generalisation than at memorisation."
        ),
        source=SOURCE,
        observed={
            **{f"gap_at_{name}": gap.record for name, gap in gaps.items()},
            "widening": None if widening is None else widening.record,
        },
        threshold={"widening": 0.0, "standard_errors": limits.standard_errors},
        holds=widening is not None and widening.surely_above(0.0, limits.standard_errors),
    )


def _gap_remains(case: ModularAdditionCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    at_end = estimate(*complexity_gap(final_rows(history)))
    return Claim(
        id="gap-remains-at-the-end",
        statement=(
            "At the end of training, the effective parameters on training sums exceed those on "
            "test sums."
        ),
        source=SOURCE,
        observed={"gap_at_end": at_end.record},
        threshold={"gap_at_end": 0.0, "standard_errors": limits.standard_errors},
        holds=at_end.surely_above(0.0, limits.standard_errors),
    )


def _closer_than_lazy(case: ModularAdditionCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    final = final_rows(history)
    factors = [
        lazy / max(telescoped, np.finfo(np.float64).tiny)
        for lazy, telescoped in zip(
            final["test/linearization_error"], final["test/approximation_error"], strict=True
        )
    ]
    return Claim(
        id="closer-than-lazy",
        statement=(
            "At the end of training, in every seed, the telescoped logits of the test sums are at "
            f"least {limits.closer_than_lazy:g} times closer to the network's than the lazy "
            "linearisation's are."
        ),
        source=SOURCE_MODELS,
        observed={
            "factor": seed_record(factors),
            "approximation_error": seed_record(final["test/approximation_error"]),
            "linearization_error": seed_record(final["test/linearization_error"]),
        },
        threshold={"closer_than_lazy": limits.closer_than_lazy},
        holds=min(factors) >= limits.closer_than_lazy,
    )


def _telescoped_generalises(case: ModularAdditionCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    final = final_rows(history)
    differences = {
        name: [float(d) for d in (final["test/accuracy"] - final[f"test/{name}_accuracy"]).abs()]
        for name in ("telescoped", "linearized")
    }
    close, far = max(differences["telescoped"]), min(differences["linearized"])
    return Claim(
        id="telescoped-model-generalises-too",
        statement=(
            "At the end of training, in every seed, the test accuracy of the telescoped "
            f"predictions is within {100 * limits.accuracy_gap:g} points of the network's, and "
            "that of the lazy linearisation is not."
        ),
        source=SOURCE_MODELS,
        observed={
            f"{name}_accuracy_difference": seed_record(values)
            for name, values in differences.items()
        },
        threshold={"accuracy_gap": limits.accuracy_gap},
        holds=close <= limits.accuracy_gap < far,
    )


def _all(values: Iterable[float | None]) -> list[float] | None:
    """The numbers, if none of them is missing."""
    given = list(values)
    known = [float(value) for value in given if value is not None]
    return known if len(known) == len(given) else None


def _steps(found: _Found, name: str) -> list[float] | None:
    """The step of an event in every seed, if all of them saw it."""
    return _all(grokking.step(name) for grokking in found.values())


def _gaps_at(history: pd.DataFrame, steps: list[float]) -> tuple[list[float], list[float]]:
    """``p_train - p_test`` of every seed at a step of its own, and its standard errors."""
    values, errors = [], []
    for (_, member), step in zip(history.groupby("seed", sort=True), steps, strict=True):
        gap, error = complexity_gap(member)
        values.append(value_at(member["step"], gap, step))
        errors.append(value_at(member["step"], error, step))
    return values, errors


def _record(values: list[float] | None) -> dict[str, float] | None:
    return None if values is None else seed_record(values)

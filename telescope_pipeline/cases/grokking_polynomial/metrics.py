"""Summary and claims of the grokking case, from the recorded tables alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pandas as pd

from telescope_pipeline.cases.grokking_polynomial.names import group_name
from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.grokking import Onset, complexity_gap, onset
from telescope_pipeline.study.findings.statistics import (
    crossing_step,
    estimate,
    final_rows,
    seed_record,
    value_at,
)

SOURCE = "Section 4.1, Fig. 4"
TRAIN, TEST = "train/effective_parameters", "test/effective_parameters"


def summarize(case: GrokkingPolynomialCase, history: pd.DataFrame) -> dict[str, Any]:
    """Final errors and effective parameters, and the steps at which errors became low.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        Nested numbers, of the members with ``model.epsilon`` unless an epsilon is named; a step
        that was never reached is left out.
    """
    everything, history = history, of_group(history, case.model.epsilon)
    final = final_rows(history)
    steps: dict[str, float] = {}
    for name, column in (("memorisation", "train/mse"), ("generalisation", "test/mse")):
        reached = _crossings(history, column, case.claims.low_error)
        if reached is not None:
            steps[name] = estimate(reached).value
    summary: dict[str, Any] = {"final": {}, "steps": steps}
    for column in (
        "train/mse",
        "test/mse",
        TRAIN,
        TEST,
        "test/approximation_error",
        "test/linearization_error",
        "test/smoother_error",
    ):
        if column in final:
            at_end = estimate(final[column])
            summary["final"][column.replace("/", "_")] = at_end.value
            summary["final"][column.replace("/", "_") + "_stderr"] = at_end.stderr
    divergence = {
        f"epsilon_{epsilon:g}": seed_record(diverged)
        for epsilon in sorted(case.epsilons)
        if (diverged := _seen(divergence_steps(case, of_group(everything, epsilon)))) is not None
    }
    return summary | {"divergence_step": divergence}


def of_group(history: pd.DataFrame, epsilon: float) -> pd.DataFrame:
    """The records of the members with this epsilon."""
    return history[history["group"] == group_name(epsilon)]


def divergence_steps(case: GrokkingPolynomialCase, history: pd.DataFrame) -> list[Onset]:
    """Where p_train comes to exceed p_test for good, of each member."""
    limits = case.claims
    found = []
    for _, member in history.groupby("member", sort=False):
        apart = complexity_gap(member)[0] > limits.divergence_gap
        found.append(onset(member["step"], apart, confirmations=limits.confirmations))
    return found


def claims(case: GrokkingPolynomialCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the case's claims.

    Args:
        case: The case's parameters; its ``claims`` section holds every threshold.
        history: Records of all members.

    Returns:
        One claim per finding, whether it holds or not.
    """
    main = of_group(history, case.model.epsilon)
    found = [
        _delayed_generalisation(case, main),
        _test_error_keeps_falling(case, main),
        _complexities_diverge(case, main),
        _test_complexity_leads_early(case, main),
        _smoother_explains_predictions(case, history),
    ]
    if len(case.epsilons) > 1:
        found += [
            _divergence_comes_earlier(case, history),
            _test_leads_first_at_smallest(case, history),
        ]
    return found


def _delayed_generalisation(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    memorised = _crossings(history, "train/mse", limits.low_error)
    generalised = _crossings(history, "test/mse", limits.low_error)
    delays = None
    if memorised is not None and generalised is not None:
        delays = [late / early for early, late in zip(memorised, generalised, strict=True)]
    return Claim(
        id="delayed-generalisation",
        statement=(
            f"In every seed, test error falls to {limits.low_error:g} at least "
            f"{limits.minimum_delay:g} times as many steps into training as train error does."
        ),
        source=SOURCE,
        observed={
            "memorisation_step": _record(memorised),
            "generalisation_step": _record(generalised),
            "delay_factor": _record(delays),
        },
        threshold={"low_error": limits.low_error, "minimum_delay": limits.minimum_delay},
        holds=delays is not None and min(delays) >= limits.minimum_delay,
    )


def _test_error_keeps_falling(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    low = _crossings(history, "train/mse", limits.low_train_error)
    falls = None
    if low is not None:

        def factor(member: pd.DataFrame, step: float) -> float:
            then = value_at(member["step"], member["test/mse"], step)
            return then / float(member["test/mse"].iloc[-1])

        falls = _per_member(history, low, factor)
    return Claim(
        id="test-error-keeps-falling",
        statement=(
            f"In every seed, once train error has fallen to {limits.low_train_error:g}, test error "
            f"still falls by a factor of at least {limits.minimum_fall:g}."
        ),
        source=SOURCE,
        observed={
            "low_train_error_step": _record(low),
            "test_error_fall_factor": _record(falls),
        },
        threshold={
            "low_train_error": limits.low_train_error,
            "minimum_fall": limits.minimum_fall,
        },
        holds=falls is not None and min(falls) >= limits.minimum_fall,
    )


def _complexities_diverge(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    memorised = _crossings(history, "train/mse", limits.low_error)
    final = final_rows(history)
    gap_at_end = estimate(final[TRAIN] - final[TEST])
    gap_before, widening = None, None
    if memorised is not None:

        def gap(member: pd.DataFrame, step: float) -> float:
            return value_at(member["step"], member[TRAIN] - member[TEST], step)

        before = _per_member(history, memorised, gap)
        gap_before = estimate(before)
        at_end = [float(g) for g in final[TRAIN] - final[TEST]]
        widening = estimate(late - early for early, late in zip(before, at_end, strict=True))
    return Claim(
        id="effective-parameters-diverge",
        statement=(
            "While test error falls, the effective parameters used on training points come to "
            "exceed those used on test points, and the gap widens after memorisation."
        ),
        source=SOURCE,
        observed={
            "gap_at_memorisation": None if gap_before is None else gap_before.record,
            "gap_at_end": gap_at_end.record,
            "widening": None if widening is None else widening.record,
        },
        threshold={"gap_at_end": 0.0, "widening": 0.0, "standard_errors": limits.standard_errors},
        holds=widening is not None
        and widening.surely_above(0.0, limits.standard_errors)
        and gap_at_end.surely_above(0.0, limits.standard_errors),
    )


def _test_complexity_leads_early(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    memorised = _crossings(history, "train/mse", limits.low_error)
    lead = None
    if memorised is not None:

        def largest_lead(member: pd.DataFrame, step: float) -> float:
            early = member[(member["step"] > 0) & (member["step"] <= step)]
            return float((early[TEST] / early[TRAIN] - 1.0).max()) if len(early) else 0.0

        lead = estimate(_per_member(history, memorised, largest_lead))
    return Claim(
        id="test-effective-parameters-lead-early",
        statement=(
            "Before memorisation, effective parameters on test points exceed those on training "
            f"points by more than {100 * limits.early_lead:g} %."
        ),
        source=SOURCE + " (seen there for small epsilon)",
        observed={"largest_relative_lead": None if lead is None else lead.record},
        threshold={"early_lead": limits.early_lead},
        holds=lead is not None and lead.surely_above(limits.early_lead, limits.standard_errors),
    )


def _divergence_comes_earlier(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Claim:
    epsilons = sorted(case.epsilons)
    onsets = {e: divergence_steps(case, of_group(history, e)) for e in epsilons}
    holds = all(
        _surely_earlier(early, late)
        for smaller, larger in pairwise(epsilons)
        for late, early in zip(onsets[smaller], onsets[larger], strict=True)
    )
    return Claim(
        id="divergence-earlier-with-epsilon",
        statement=(
            "In every seed, the larger epsilon is, the earlier the effective parameters used on "
            "training points come to exceed those used on test points for good, by more than "
            f"{case.claims.divergence_gap:g}."
        ),
        source=f"{SOURCE} and 11",
        observed={
            "divergence_step": {f"{e:g}": [o.step for o in found] for e, found in onsets.items()},
            "last_step": {f"{e:g}": found[0].last for e, found in onsets.items()},
        },
        threshold={
            "divergence_gap": case.claims.divergence_gap,
            "confirmations": case.claims.confirmations,
        },
        holds=holds,
    )


def _surely_earlier(early: Onset, late: Onset) -> bool:
    """Whether one event came before another, which may lie behind the last record."""
    if early.step is None or late.after is None:
        return False
    # The later one set in behind the last record at which it had not.
    return early.step <= (late.last if late.step is None else late.after)


def _test_leads_first_at_smallest(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    smallest, *others = sorted(case.epsilons)
    leads = {e: _largest_leads(case, of_group(history, e)) for e in (smallest, *others)}
    differences = {
        other: estimate(a - b for a, b in zip(leads[smallest], leads[other], strict=True))
        for other in others
    }
    lead = estimate(leads[smallest])
    return Claim(
        id="test-leads-first-at-smallest-epsilon",
        statement=(
            f"With the smallest epsilon, {smallest:g}, effective parameters on test points first "
            f"exceed those on training points, by more than {100 * limits.early_lead:g} % and by "
            "a larger part than with any larger epsilon."
        ),
        source=f"{SOURCE} and 11",
        observed={
            "largest_relative_lead": {f"{e:g}": seed_record(found) for e, found in leads.items()}
        },
        threshold={"early_lead": limits.early_lead, "standard_errors": limits.standard_errors},
        holds=lead.surely_above(limits.early_lead, limits.standard_errors)
        and all(d.surely_above(0.0, limits.standard_errors) for d in differences.values()),
    )


def _largest_leads(case: GrokkingPolynomialCase, history: pd.DataFrame) -> list[float]:
    """By what part p_test exceeds p_train at the most, before p_train comes to exceed it."""
    leads = []
    members = (member for _, member in history.groupby("member", sort=False))
    for member, event in zip(members, divergence_steps(case, history), strict=True):
        # In the first steps both are next to nothing, and so is the meaning of their ratio.
        told = member[TRAIN] > case.claims.divergence_gap
        early = member[told & (member["step"] <= (event.step or event.last))]
        leads.append(max(0.0, float((early[TEST] / early[TRAIN] - 1).max())) if len(early) else 0.0)
    return leads


def _seen(onsets: list[Onset]) -> list[float] | None:
    """The steps of events that every member saw."""
    steps = [event.step for event in onsets]
    return None if None in steps else [float(step) for step in steps if step is not None]


def _smoother_explains_predictions(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    worst = estimate(history.groupby("member", sort=False)["test/smoother_error"].max())
    return Claim(
        id="smoother-explains-predictions",
        statement=(
            "At every recorded step the smoother that the effective parameters are computed from "
            "reproduces the network's test predictions."
        ),
        source="Section 3",
        observed={"largest_mean_error": worst.record},
        threshold={"maximum": limits.smoother_error},
        holds=worst.surely_below(limits.smoother_error, limits.standard_errors),
    )


def _crossings(history: pd.DataFrame, column: str, threshold: float) -> list[float] | None:
    """The step of each member at which a column has fallen to a level, if all got there."""
    steps = []
    for _, member in history.groupby("member", sort=False):
        step = crossing_step(member["step"], member[column], threshold)
        if step is None:
            return None
        steps.append(step)
    return steps


def _per_member(
    history: pd.DataFrame, steps: list[float], measure: Callable[[pd.DataFrame, float], float]
) -> list[float]:
    parts = (part for _, part in history.groupby("member", sort=False))
    return [measure(part, step) for part, step in zip(parts, steps, strict=True)]


def _record(values: list[float] | None) -> dict[str, float] | None:
    return None if values is None else seed_record(values)

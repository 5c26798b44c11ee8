"""Claims of the grokking case: about ``model.epsilon``, and about several epsilons if there are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd

from telescope_pipeline.cases.grokking_polynomial.metrics import (
    crossings,
    divergence_steps,
    of_group,
)
from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.claims import bounds, finding, smallest, surely_above
from telescope_pipeline.study.findings.complexity import (
    TEST_COMPLEXITY,
    TRAIN_COMPLEXITY,
    complexity_gap,
    gap_at,
)
from telescope_pipeline.study.findings.grokking import Onset
from telescope_pipeline.study.findings.statistics import (
    Seeds,
    at_end,
    at_steps,
    estimate,
    members_of,
)

SOURCE = "Section 4.1, Fig. 4"


def claims(case: GrokkingPolynomialCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the claims; those that compare epsilons are left out where there is one."""
    main = of_group(history, case.model.epsilon)
    memorised = crossings(main, "train/mse", case.claims.low_error)
    found = [
        *_errors(case, main, memorised),
        *_complexities(case, main, memorised),
        _smoother_is_trusted(case, history),
    ]
    if len(case.epsilons) > 1:
        parts = {epsilon: of_group(history, epsilon) for epsilon in sorted(case.epsilons)}
        found += _between_epsilons(case, parts)
    return found


def _errors(case: GrokkingPolynomialCase, main: pd.DataFrame, memorised: Seeds) -> Iterator[Claim]:
    limits = case.claims
    generalised = crossings(main, "test/mse", limits.low_error)
    delays = generalised / memorised
    yield finding(
        "delayed-generalisation",
        f"In every seed, test error falls to {limits.low_error:g} at least "
        f"{limits.minimum_delay:g} times as many steps into training as train error does.",
        SOURCE,
        observed={
            "memorisation_step": memorised,
            "generalisation_step": generalised,
            "delay_factor": delays,
        },
        threshold=bounds(limits, "low_error", "minimum_delay"),
        holds=smallest(delays) >= limits.minimum_delay,
    )
    low = crossings(main, "train/mse", limits.low_train_error)
    falls = at_steps(main, main["test/mse"], low) / at_end(main, main["test/mse"])
    yield finding(
        "test-error-keeps-falling",
        f"In every seed, once train error has fallen to {limits.low_train_error:g}, test error "
        f"still falls by a factor of at least {limits.minimum_fall:g}.",
        SOURCE,
        observed={"low_train_error_step": low, "test_error_fall_factor": falls},
        threshold=bounds(limits, "low_train_error", "minimum_fall"),
        holds=smallest(falls) >= limits.minimum_fall,
    )


def _complexities(
    case: GrokkingPolynomialCase, main: pd.DataFrame, memorised: Seeds
) -> Iterator[Claim]:
    limits = case.claims
    before, late = gap_at(main, memorised)[0], at_end(main, complexity_gap(main)[0])
    tested = {"gap_at_end": estimate(late), "widening": estimate(late - before)}
    yield finding(
        "effective-parameters-diverge",
        "While test error falls, the effective parameters used on training points come to "
        "exceed those used on test points, and the gap widens after memorisation.",
        SOURCE,
        observed={"gap_at_memorisation": estimate(before), **tested},
        threshold=bounds(limits, "standard_errors", gap_at_end=0.0, widening=0.0),
        holds=surely_above(tested, 0.0, limits.standard_errors),
    )
    lead = estimate(_leads(main, main["step"] > 0, memorised))
    yield finding(
        "test-effective-parameters-lead-early",
        "Before memorisation, effective parameters on test points exceed those on training "
        f"points by more than {100 * limits.early_lead:g} %.",
        SOURCE + " (seen there for small epsilon)",
        observed={"largest_relative_lead": lead},
        threshold=bounds(limits, "early_lead"),
        holds=lead.surely_above(limits.early_lead, limits.standard_errors),
    )


def _smoother_is_trusted(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    worst = estimate(history.groupby("member", sort=False)["test/smoother_error"].max())
    return finding(
        "smoother-explains-predictions",
        "At every recorded step the smoother that the effective parameters are computed from "
        "reproduces the network's test predictions.",
        "Section 3",
        observed={"largest_mean_error": worst},
        threshold={"maximum": limits.smoother_error},
        holds=worst.surely_below(limits.smoother_error, limits.standard_errors),
    )


def _between_epsilons(
    case: GrokkingPolynomialCase, parts: dict[float, pd.DataFrame]
) -> Iterator[Claim]:
    limits = case.claims
    onsets = {epsilon: divergence_steps(case, part) for epsilon, part in parts.items()}
    yield finding(
        "divergence-earlier-with-epsilon",
        "In every seed, the larger epsilon is, the earlier the effective parameters used on "
        "training points come to exceed those used on test points for good, by more than "
        f"{limits.divergence_gap:g}.",
        f"{SOURCE} and 11",
        observed={
            "divergence_step": {e: [o.step for o in found] for e, found in onsets.items()},
            "last_step": {e: found[0].last for e, found in onsets.items()},
        },
        threshold=bounds(limits, "divergence_gap", "confirmations"),
        holds=all(
            _surely_earlier(early, late)
            for smaller, larger in pairwise(parts)
            for late, early in zip(onsets[smaller], onsets[larger], strict=True)
        ),
    )
    leads = {e: _first_leads(case, part, onsets[e]) for e, part in parts.items()}
    least, *others = leads
    first = leads[least]
    more = {epsilon: estimate(first - leads[epsilon]) for epsilon in others}
    yield finding(
        "test-leads-first-at-smallest-epsilon",
        f"With the smallest epsilon, {least:g}, effective parameters on test points first "
        f"exceed those on training points, by more than {100 * limits.early_lead:g} % and by "
        "a larger part than with any larger epsilon.",
        f"{SOURCE} and 11",
        observed={"largest_relative_lead": leads},
        threshold=bounds(limits, "early_lead", "standard_errors"),
        holds=estimate(first).surely_above(limits.early_lead, limits.standard_errors)
        and surely_above(more, 0.0, limits.standard_errors),
    )


def _surely_earlier(early: Onset, late: Onset) -> bool:
    """Whether one event came before another, which may lie behind the last record."""
    if early.step is None or late.after is None:
        return False
    # The later one set in behind the last record at which it had not.
    return early.step <= (late.last if late.step is None else late.after)


def _first_leads(case: GrokkingPolynomialCase, part: pd.DataFrame, onsets: list[Onset]) -> Seeds:
    """By what part p_test exceeds p_train at the most, before p_train comes to exceed it."""
    # In the first steps both are next to nothing, and so is the meaning of their ratio.
    told = part[TRAIN_COMPLEXITY] > case.claims.divergence_gap
    until = np.array([event.step or event.last for event in onsets])
    return np.maximum(0.0, _leads(part, told, until))


def _leads(part: pd.DataFrame, told: pd.Series[bool], until: Seeds) -> Seeds:
    """By what part p_test exceeds p_train at the most, of every seed.

    Args:
        part: Records of one group.
        told: The records that count.
        until: The last step of every seed that counts; NaN where there is none.

    Returns:
        The parts, 0 where no record counts.
    """
    excess = part[TEST_COMPLEXITY] / part[TRAIN_COMPLEXITY] - 1.0
    found = []
    for member, last in zip(members_of(part).values(), until, strict=True):
        early = excess[member.index][told[member.index] & (member["step"] <= last)]
        found.append(np.nan if np.isnan(last) else early.max() if len(early) else 0.0)
    return np.array(found, dtype=np.float64)

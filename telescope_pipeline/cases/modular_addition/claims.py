"""Claims of the transformer that groks, each compared seed by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from telescope_pipeline.cases.modular_addition.metrics import Grokking, events_of
from telescope_pipeline.cases.modular_addition.schema import ModularAdditionCase
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.claims import bounds, finding, largest, smallest
from telescope_pipeline.study.findings.complexity import complexity_gap, gap_at, widening
from telescope_pipeline.study.findings.grokking import delays, steps_of
from telescope_pipeline.study.findings.statistics import estimate, final_rows, log_ratio, ratio

SOURCE = "beyond the paper, after Section 4.1 and Fig. 4 (setting of Power et al. 2022)"
SOURCE_REVERSAL = "beyond the paper; written down after a first run, for runs with other seeds"
SOURCE_MODELS = "beyond the paper, after Section 3"

_Found = Mapping[int, Grokking]


def claims(case: ModularAdditionCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the claims of one setting."""
    found = events_of(case, history)
    return [
        _delayed_generalisation(case, found),
        *(
            _precedes(case, found, first=first, then=then)
            for first in ("announcement", "reversal")
            for then in ("generalisation", "rise")
        ),
        *_gap(case, history, found),
        *_models(case, final_rows(history)),
    ]


def _delayed_generalisation(case: ModularAdditionCase, found: _Found) -> Claim:
    limits = case.claims
    measured = delays(found)
    return finding(
        "delayed-generalisation",
        f"In every seed, test accuracy reaches {100 * limits.generalised_accuracy:g} % for good "
        f"at least {limits.minimum_delay:g} times as many steps into training as train accuracy "
        f"reaches {100 * limits.memorised_accuracy:g} %.",
        SOURCE,
        observed=measured,
        threshold=bounds(limits, "memorised_accuracy", "generalised_accuracy", "minimum_delay"),
        holds=smallest(measured["delay_factor"]) >= limits.minimum_delay,
    )


def _precedes(case: ModularAdditionCase, found: _Found, *, first: str, then: str) -> Claim:
    """Compare the step at which the two sets part with that of another event, paired by seed."""
    limits = case.claims
    early, late = steps_of(found, first), steps_of(found, then)
    lead = estimate(late - early)
    larger, smaller = ("train", "test") if first == "announcement" else ("test", "train")
    happens = {
        "generalisation": f"reaches {100 * limits.generalised_accuracy:g} % for good",
        "rise": f"has risen, for good, {100 * limits.rise:g} points above its value at "
        "memorisation",
    }
    return finding(
        f"{larger}-exceeds-{smaller}-before-{then}",
        f"The effective parameters used on {larger} sums come to exceed those used on {smaller} "
        f"sums before test accuracy {happens[then]}.",
        SOURCE if first == "announcement" else SOURCE_REVERSAL,
        observed={
            f"{larger}_exceeds_{smaller}_step": early,
            f"{then}_step": late,
            "lead_in_steps": lead,
            "log_ratio_of_steps": log_ratio(early, late),
        },
        threshold=bounds(
            limits, "standard_errors", "divergence_errors", "divergence_gap", lead_in_steps=0.0
        ),
        holds=lead.surely_above(0.0, limits.standard_errors),
    )


def _gap(case: ModularAdditionCase, history: pd.DataFrame, found: _Found) -> Iterator[Claim]:
    limits = case.claims
    steps = {name: steps_of(found, name) for name in ("memorisation", "generalisation")}
    growth = widening(history, *steps.values())
    gaps = {f"gap_at_{name}": estimate(*gap_at(history, at)) for name, at in steps.items()}
    yield finding(
        "gap-widens-while-test-error-falls",
        "The effective parameters on training sums exceed those on test sums by more at "
        "generalisation than at memorisation.",
        SOURCE,
        # Without one of the events there is nothing to compare.
        observed=({} if np.isnan(growth.value) else gaps) | {"widening": growth},
        threshold=bounds(limits, "standard_errors", widening=0.0),
        holds=growth.surely_above(0.0, limits.standard_errors),
    )
    gap = estimate(*complexity_gap(final_rows(history)))
    yield finding(
        "gap-remains-at-the-end",
        "At the end of training, the effective parameters on training sums exceed those on "
        "test sums.",
        SOURCE,
        observed={"gap_at_end": gap},
        threshold=bounds(limits, "standard_errors", gap_at_end=0.0),
        holds=gap.surely_above(0.0, limits.standard_errors),
    )


def _models(case: ModularAdditionCase, final: pd.DataFrame) -> Iterator[Claim]:
    limits = case.claims
    lazy, telescoped = final["test/linearization_error"], final["test/approximation_error"]
    factors = ratio(lazy, telescoped)
    yield finding(
        "closer-than-lazy",
        "At the end of training, in every seed, the telescoped logits of the test sums are at "
        f"least {limits.closer_than_lazy:g} times closer to the network's than the lazy "
        "linearisation's are.",
        SOURCE_MODELS,
        observed={
            "factor": factors,
            "approximation_error": telescoped,
            "linearization_error": lazy,
        },
        threshold=bounds(limits, "closer_than_lazy"),
        holds=smallest(factors) >= limits.closer_than_lazy,
    )
    close, far = (
        (final["test/accuracy"] - final[f"test/{name}_accuracy"]).abs()
        for name in ("telescoped", "linearized")
    )
    yield finding(
        "telescoped-model-generalises-too",
        "At the end of training, in every seed, the test accuracy of the telescoped predictions "
        f"is within {100 * limits.accuracy_gap:g} points of the network's, and that of the lazy "
        "linearisation is not.",
        SOURCE_MODELS,
        observed={"telescoped_accuracy_difference": close, "linearized_accuracy_difference": far},
        threshold=bounds(limits, "accuracy_gap"),
        holds=largest(close) <= limits.accuracy_gap < smallest(far),
    )

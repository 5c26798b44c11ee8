"""Claims of the transformer that groks, each compared seed by seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from telescope_pipeline.cases.modular_addition.metrics import Grokking, events_of
from telescope_pipeline.cases.modular_addition.schema import ModularAdditionCase
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.claims import bounds, finding, largest, smallest
from telescope_pipeline.study.findings.complexity import (
    DEGREES_OF_FREEDOM,
    degrees_of_freedom_at,
    probing_error,
)
from telescope_pipeline.study.findings.grokking import delays, steps_of
from telescope_pipeline.study.findings.statistics import estimate, final_rows, log_ratio, ratio

SOURCE = "beyond the paper, after Section 4.1 and Fig. 4 (setting of Power et al. 2022)"
SOURCE_COUNT = "beyond the paper; Ye (1998) for the predicted probabilities"
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
            for first in ("peak", "announcement", "reversal")
            for then in ("generalisation", "rise")
        ),
        *_degrees_of_freedom(case, history, found),
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


# By first event: the claim's name, what it says and its source.
_FIRST = {
    "peak": (
        "degrees-of-freedom-peak",
        "The degrees of freedom of the predicted probabilities are largest",
        SOURCE_COUNT,
    ),
    "announcement": (
        "train-exceeds-test",
        "The sensitivity of logits on train sums comes to exceed that on test sums",
        SOURCE,
    ),
    "reversal": (
        "test-exceeds-train",
        "The sensitivity of logits on test sums comes to exceed that on train sums",
        SOURCE_REVERSAL,
    ),
}


def _precedes(case: ModularAdditionCase, found: _Found, *, first: str, then: str) -> Claim:
    """Compare the step of one event with that of another, paired by seed."""
    limits = case.claims
    early, late = steps_of(found, first), steps_of(found, then)
    lead = estimate(late - early)
    name, what, source = _FIRST[first]
    happens = {
        "generalisation": f"reaches {100 * limits.generalised_accuracy:g} % for good",
        "rise": f"has risen, for good, {100 * limits.rise:g} points above its value at "
        "memorisation",
    }
    sizes = () if first == "peak" else ("divergence_errors", "divergence_gap")
    return finding(
        f"{name}-before-{then}",
        f"{what} before test accuracy {happens[then]}.",
        source,
        observed={
            f"{name.replace('-', '_')}_step": early,
            f"{then}_step": late,
            "lead_in_steps": lead,
            "log_ratio_of_steps": log_ratio(early, late),
        },
        threshold=bounds(limits, "standard_errors", *sizes, lead_in_steps=0.0),
        holds=lead.surely_above(0.0, limits.standard_errors),
    )


def _degrees_of_freedom(
    case: ModularAdditionCase, history: pd.DataFrame, found: _Found
) -> Iterator[Claim]:
    limits, n = case.claims, case.data.train_size
    counts, error = history[DEGREES_OF_FREEDOM], probing_error(history, DEGREES_OF_FREEDOM)
    allowed = limits.standard_errors * error
    yield finding(
        "degrees-of-freedom-are-a-count",
        "At every record, the degrees of freedom of the predicted probabilities lie between 0 and "
        f"the {n} training sums, up to {limits.standard_errors:g} standard errors of probing.",
        SOURCE_COUNT,
        observed={"lowest": float(counts.min()), "highest": float(counts.max())},
        threshold=bounds(limits, "standard_errors", minimum=0.0, maximum=n),
        holds=bool(((counts >= -allowed) & (counts <= n + allowed)).all()),
    )
    at = {name: steps_of(found, name) for name in ("memorisation", "generalisation")}
    at["end"] = final_rows(history)["step"].to_numpy(dtype=np.float64)
    seen = {name: degrees_of_freedom_at(history, steps) for name, steps in at.items()}
    for id, later, when in (
        ("fewer-while-test-error-falls", "generalisation", "at generalisation"),
        ("fewer-at-the-end", "end", "at the end of training"),
    ):
        (before, error_before), (after, error_after) = seen["memorisation"], seen[later]
        fall = estimate(before - after, np.hypot(error_before, error_after))
        both = {
            f"{name}_degrees_of_freedom": estimate(*seen[name]) for name in ("memorisation", later)
        }
        yield finding(
            f"degrees-of-freedom-{id}",
            f"The predicted probabilities have fewer degrees of freedom {when} than at "
            "memorisation.",
            SOURCE_COUNT,
            # Without one of the events there is nothing to compare.
            observed=({} if np.isnan(fall.value) else both) | {"fall": fall},
            threshold=bounds(limits, "standard_errors", fall=0.0),
            holds=fall.surely_above(0.0, limits.standard_errors),
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

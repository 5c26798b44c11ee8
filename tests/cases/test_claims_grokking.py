"""Claims of the grokking case hold on tables that show the finding, and only there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from telescope_pipeline.cases.grokking_polynomial.claims import claims
from telescope_pipeline.cases.grokking_polynomial.metrics import summarize

_STEPS = np.unique(np.round(np.logspace(0, 4.3, 60)).astype(int))


def _history(
    *, delay: float = 8.0, floor: float = 0.0, gap: float = 150.0, lead: float = 10.0, **more: float
) -> pd.DataFrame:
    """Two seeds of a made-up run for each epsilon.

    Train error falls as (100/step)^1.5 and test error ``delay`` times later, to no less than
    ``floor``; p_train ends ``gap`` above p_test, which leads by ``lead`` around step 300.  With the
    smaller epsilon everything takes ``slower`` times as long, its lead is ``small_lead``, and its
    records end at step 1500; with the larger one everything is as much faster, without a lead.
    """
    slower, small_lead = more.get("slower", 3.0), more.get("small_lead", 20.0)
    parts = [
        _group(0.2, 1.0, delay, floor, gap, lead, more),
        _group(0.05, slower, delay, floor, gap, small_lead, more),
        _group(0.5, 1 / slower, delay, floor, gap, 0.0, more),
    ]
    history = pd.concat(parts, ignore_index=True)
    return history[(history["group"] != "epsilon-0.05") | (history["step"] <= 1500)]


def _group(
    epsilon: float,
    pace: float,
    delay: float,
    floor: float,
    gap: float,
    lead: float,
    more: dict[str, float],
) -> pd.DataFrame:
    parts = []
    for seed, factor in ((0, 0.97), (1, 1.03)):
        t = _STEPS / (factor * pace)
        growth = np.clip(np.log10(t / 500) / 1.6, 0, 1)
        bump = np.exp(-(np.log(t / 300) ** 2))
        parts.append(
            pd.DataFrame(
                {
                    "member": f"epsilon-{epsilon:g}_seed-{seed}",
                    "group": f"epsilon-{epsilon:g}",
                    "seed": seed,
                    "step": _STEPS,
                    "train/mse": np.minimum(1, (100 / t) ** 1.5),
                    "test/mse": np.maximum(np.minimum(1, (100 * delay / t) ** 1.5), floor),
                    "train/effective_parameters": 100 + 300 * growth,
                    "test/effective_parameters": 100 + (300 - gap) * growth + lead * bump,
                    "test/approximation_error": 1e-7,
                    "test/linearization_error": 0.4,
                    "test/smoother_error": more.get("smoother_error", 1e-4),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _evaluate(build: Callable[..., Any], history: pd.DataFrame) -> dict[str, Any]:
    found = {claim.id: claim for claim in claims(build("grokking_polynomial"), history)}
    for claim in found.values():
        assert isinstance(claim.holds, bool)
        json.dumps([claim.observed, claim.threshold], allow_nan=False)
    return found


def test_all_claims_hold_on_a_run_that_groks(build: Callable[..., Any]) -> None:
    found = _evaluate(build, _history())
    assert len(found) == 7
    assert [name for name, claim in found.items() if not claim.holds] == []
    delay = found["delayed-generalisation"].observed
    assert delay["delay_factor"]["value"] == pytest.approx(8, rel=0.01)
    assert delay["memorisation_step"]["value"] == pytest.approx(100 * 10 ** (2 / 3), rel=0.01)
    gap = found["effective-parameters-diverge"].observed["gap_at_end"]["value"]
    assert gap == pytest.approx(150, abs=5)


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ({"delay": 2.0}, {"delayed-generalisation"}),
        ({"floor": 0.5}, {"delayed-generalisation", "test-error-keeps-falling"}),
        ({"gap": 0.0}, {"effective-parameters-diverge", "divergence-earlier-with-epsilon"}),
        ({"gap": -50.0}, {"effective-parameters-diverge", "divergence-earlier-with-epsilon"}),
        ({"slower": 1.0}, {"divergence-earlier-with-epsilon"}),
        ({"slower": 0.5}, {"divergence-earlier-with-epsilon"}),
        ({"small_lead": 5.0}, {"test-leads-first-at-smallest-epsilon"}),
        ({"small_lead": 0.0}, {"test-leads-first-at-smallest-epsilon"}),
        ({"lead": -10.0}, {"test-effective-parameters-lead-early"}),
        ({"smoother_error": 0.2}, {"smoother-explains-predictions"}),
    ],
)
def test_a_claim_fails_when_its_finding_is_missing(
    build: Callable[..., Any], change: dict[str, float], fails: set[str]
) -> None:
    found = _evaluate(build, _history(**change))
    assert {name for name, claim in found.items() if not claim.holds} == fails


def test_one_seed_that_never_generalises_is_enough_to_fail(build: Callable[..., Any]) -> None:
    history = _history()
    stuck = (history["seed"] == 1) & (history["group"] == "epsilon-0.2")
    history.loc[stuck, "test/mse"] = 0.9
    found = _evaluate(build, history)
    assert not found["delayed-generalisation"].holds
    assert found["delayed-generalisation"].observed["generalisation_step"] is None


def test_a_run_that_never_memorises_fails_without_numbers(build: Callable[..., Any]) -> None:
    history = _history()
    history["train/mse"] = 0.9
    found = _evaluate(build, history)
    assert not found["effective-parameters-diverge"].holds
    assert not found["test-error-keeps-falling"].holds
    assert "steps" in summarize(build("grokking_polynomial"), history)


def test_a_gap_within_the_error_bars_does_not_count(build: Callable[..., Any]) -> None:
    history = _history(gap=0.0, lead=0.0)
    noise = history["seed"].map({0: 60.0, 1: -40.0})
    history["train/effective_parameters"] += noise * (history["step"] > 5000)
    assert not _evaluate(build, history)["effective-parameters-diverge"].holds


def test_thresholds_come_from_the_parameters(build: Callable[..., Any]) -> None:
    case = build("grokking_polynomial", claims={"minimum_delay": 9.0})
    found = {claim.id: claim for claim in claims(case, _history())}
    assert not found["delayed-generalisation"].holds
    assert found["delayed-generalisation"].threshold["minimum_delay"] == 9.0


def test_summary_holds_final_means(build: Callable[..., Any]) -> None:
    summary = summarize(build("grokking_polynomial"), _history())
    json.dumps(summary, allow_nan=False)
    assert summary["final"]["test_linearization_error"] == pytest.approx(0.4)
    assert summary["steps"]["generalisation"] > summary["steps"]["memorisation"]

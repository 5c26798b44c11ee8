"""Claims of the design choices hold on tables that show the findings, and only there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from telescope_pipeline.cases.design_choices.claims import claims
from telescope_pipeline.cases.design_choices.metrics import summarize
from telescope_pipeline.cases.design_choices.sweep import FIFTHS, by_fifth

_CHOICES = ("plain", "momentum", "weight_decay", "sigmoid", "adaptive")
_STEPS = (0, 12, 24)
_COMPLEXITY = {"plain": 10.0, "momentum": 9.0, "weight_decay": 4.0, "sigmoid": 2.0, "adaptive": 12}


def _row(choice: str, seed: int, step: int) -> dict[str, Any]:
    """One record of a made-up run that shows every finding."""
    part = step / _STEPS[-1]
    noise = 1 + 0.01 * seed
    early = {0: 0.0, 12: 0.25 if choice == "weight_decay" else 0.5, 24: 1.0}[step]
    p = _COMPLEXITY[choice] * part * noise
    row: dict[str, Any] = {
        "member": f"{choice}_seed-{seed}",
        "group": choice,
        "seed": seed,
        "choice": choice,
        "step": step,
        "train/mse": 0.3 - 0.2 * part - (0.05 * part if choice == "plain" else 0.0),
        "test/mse": 0.2,
        "test/accuracy": 0.9,
        "train/effective_parameters": p,
        "train/effective_parameters_stderr": 0.0,
        "test/effective_parameters": p,
        "test/effective_parameters_stderr": 0.0,
        "closed_form/prediction_error": 1e-14 * part,
        "closed_form/smoother_error": 1e-14 * part,
        "gradient/weight": 0.1 if choice == "weight_decay" and step == 0 else 1.0,
        "gradient/contribution_share": early,
        "rate/quantile10": 0.1,
        "rate/median": 0.2 if choice == "adaptive" else 0.1,
        "rate/quantile90": 1.0 * noise if choice == "adaptive" else 0.1,
        "update/cosine": (0.9 if choice == "momentum" else 0.1) * noise,
    }
    for fifth in FIFTHS:
        row[by_fifth("confidence", fifth)] = 0.2 * fifth
        row[by_fifth("kernel_norm_mean", fifth)] = 0.5
        row[by_fifth("kernel_norm_ratio", fifth)] = (0.06 - 0.01 * fifth) * noise
    return row


def _history() -> pd.DataFrame:
    return pd.DataFrame(
        [_row(choice, seed, step) for choice in _CHOICES for seed in (0, 1) for step in _STEPS]
    )


def _failing(build: Callable[..., Any], history: pd.DataFrame) -> set[str]:
    found = claims(build("design_choices"), history)
    for claim in found:
        assert isinstance(claim.holds, bool)
        json.dumps([claim.observed, claim.threshold], allow_nan=False)
    assert len({claim.id for claim in found}) == 8
    return {claim.id for claim in found if not claim.holds}


def test_all_claims_hold_where_all_findings_are_shown(build: Callable[..., Any]) -> None:
    assert _failing(build, _history()) == set()


@pytest.mark.parametrize(
    ("choice", "column", "value", "fails"),
    [
        ("adaptive", "closed_form/smoother_error", 1e-5, "closed-forms-are-what-the-lens-followed"),
        ("plain", "closed_form/prediction_error", 1e-5, "closed-forms-are-what-the-lens-followed"),
        ("momentum", "update/cosine", 0.1, "momentum-smooths-updates"),
        ("weight_decay", "gradient/weight", 1.0, "weight-decay-forgets-early-steps"),
        ("adaptive", "rate/quantile90", 0.19, "adaptive-rates-spread"),
        ("plain", "rate/quantile90", 0.11, "adaptive-rates-spread"),
        (
            "sigmoid",
            by_fifth("kernel_norm_ratio", 1),
            0.063,
            "sigmoid-shrinks-kernel-of-confident-points",
        ),
        (
            "sigmoid",
            by_fifth("kernel_norm_ratio", 5),
            0.06,
            "sigmoid-shrinks-kernel-of-confident-points",
        ),
        (
            "weight_decay",
            "test/effective_parameters",
            11.0,
            "weight-decay-lowers-effective-parameters",
        ),
        ("sigmoid", "test/effective_parameters", 11.0, "sigmoid-lowers-effective-parameters"),
    ],
)
def test_a_claim_fails_without_its_finding(
    choice: str, column: str, value: float, fails: str, build: Callable[..., Any]
) -> None:
    history = _history()
    history.loc[history["choice"] == choice, column] = value
    assert _failing(build, history) == {fails}


def test_early_contributions_that_are_kept_are_not_forgotten(build: Callable[..., Any]) -> None:
    history = _history()
    kept = (history["choice"] == "weight_decay") & (history["step"] == 12)
    history.loc[kept, "gradient/contribution_share"] = 0.6
    assert _failing(build, history) == {"weight-decay-forgets-early-steps"}


def test_fewer_parameters_at_equal_error_is_read_between_records(build: Callable[..., Any]) -> None:
    history = _history()
    found = {claim.id: claim for claim in claims(build("design_choices"), history)}
    # The sigmoid ends at an error of 0.1, which plain SGD has after 4/5 of its steps.
    observed = found["sigmoid-needs-fewer-at-equal-error"].observed["sigmoid_minus_plain"]
    assert observed["value"] == pytest.approx((2.0 - 8.0) * 1.005)
    # It still needs fewer at the end of training, but not at equal error.
    sigmoid = history["choice"] == "sigmoid"
    for of in ("train", "test"):
        history.loc[sigmoid, f"{of}/effective_parameters"] *= 4.5
    assert _failing(build, history) == {"sigmoid-needs-fewer-at-equal-error"}


def test_one_choice_alone_is_not_compared(build: Callable[..., Any]) -> None:
    case = build("design_choices").narrowed({"choice": "sigmoid"}, 1)
    history = _history()
    (claim,) = claims(case, history[history["choice"] == "sigmoid"])
    assert claim.id == "closed-forms-are-what-the-lens-followed"
    assert set(claim.observed["largest_relative_difference"]) == {"sigmoid"}


def test_summary_has_every_choice(build: Callable[..., Any]) -> None:
    summary = summarize(build("design_choices"), _history())["choice"]
    assert set(summary) == set(_CHOICES)
    decay = summary["weight_decay"]
    assert decay["initial_weights_left"] == pytest.approx(0.1)
    assert decay["train_effective_parameters"] == pytest.approx(4.0 * 1.005)
    # Read between two records as curves are drawn, at half of the steps: a record.
    assert decay["early_contributions"] == pytest.approx(0.25)

"""Claims of the approximation case hold on tables that show the finding, and only there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from telescope_pipeline.cases.approximation_quality.claims import claims
from telescope_pipeline.cases.approximation_quality.metrics import summarize

_LENSES = ("order1-stride1", "order1-stride5", "order2-stride5")
_RATES = {"sgd": (0.01, 0.1), "adamw": (0.0001, 0.001), "sgd-momentum0.9-sigmoid": (0.01, 0.1)}


def _history() -> pd.DataFrame:
    """One record each of two seeds of made-up runs that show every finding."""
    rows = []
    for optimizer, rates in _RATES.items():
        for rate in rates:
            for seed in (0, 1):
                fast = 10 if rate == max(rates) else 1
                error = 1e-3 * fast * (3 if optimizer == "adamw" else 1) * (1 + 0.1 * seed)
                row = {
                    "member": f"{optimizer}-lr-{rate!r}_seed-{seed}",
                    "group": f"{optimizer}-lr-{rate!r}",
                    "seed": seed,
                    "setting": optimizer,
                    "learning_rate": rate,
                    "step": 1000,
                    "train/mse": 0.01,
                    "test/mse": 0.02,
                    "test/accuracy": 0.97,
                    "test/linearized_accuracy": 0.9,
                    "test/linearization_error": 0.3,
                }
                for lens, size in zip(_LENSES, (1.0, 2.0, 0.5), strict=True):
                    row[f"test/approximation_error@{lens}"] = size * error
                    row[f"test/accuracy@{lens}"] = 0.97 + 0.002 * seed
                rows.append(row)
    return pd.DataFrame(rows)


def _evaluate(build: Callable[..., Any], history: pd.DataFrame) -> dict[str, Any]:
    found = {claim.id: claim for claim in claims(build("approximation_quality"), history)}
    for claim in found.values():
        assert isinstance(claim.holds, bool)
        json.dumps([claim.observed, claim.threshold], allow_nan=False)
    return found


def _failing(build: Callable[..., Any], history: pd.DataFrame) -> set[str]:
    return {name for name, claim in _evaluate(build, history).items() if not claim.holds}


def test_all_claims_hold_on_a_good_approximation(build: Callable[..., Any]) -> None:
    found = _evaluate(build, _history())
    assert len(found) == 6
    assert [name for name, claim in found.items() if not claim.holds] == []
    ratios = found["closer-than-lazy"].observed["lazy_over_telescoped_error"]
    expected = (300 + 300 / 1.1) / 2
    assert ratios["sgd-lr-0.01/order1-stride1"]["value"] == pytest.approx(expected)
    assert len(ratios) == 9
    rates = found["adamw-needs-smaller-rate"].observed["sgd_over_adamw_rate_at_equal_error"]
    # AdamW at .0001 is where SGD is half-way from .01 to .1, in logs of an error of 3 in 1 to 10.
    assert rates["0.0001/order1-stride1"]["value"] == pytest.approx(300)
    assert rates["0.001/order1-stride1"]["value"] == pytest.approx(100)


_SLOW_SGD = {"group": "sgd-lr-0.01"}


@pytest.mark.parametrize(
    ("where", "column", "value", "fails"),
    [
        (
            _SLOW_SGD,
            "test/approximation_error@order1-stride1",
            0.05,
            {"closer-than-lazy", "error-grows-with-learning-rate"},
        ),
        ({"group": "adamw-lr-0.001"}, "test/linearization_error", 1e-3, set()),
        ({"group": "adamw-lr-0.0001"}, "test/linearization_error", 1e-3, {"closer-than-lazy"}),
        (
            {"group": "adamw-lr-0.001"},
            "test/approximation_error@order2-stride5",
            0.07,
            {"second-order-closer"},
        ),
        (
            {"group": "sgd-lr-0.1"},
            "test/approximation_error@order1-stride5",
            1.9e-3,
            {"second-order-closer", "error-grows-with-learning-rate"},
        ),
        (_SLOW_SGD, "test/accuracy@order1-stride1", 0.95, {"accuracy-matches"}),
        ({"group": "sgd-lr-0.1"}, "test/accuracy@order1-stride1", 0.8, set()),
        ({"group": "sgd-lr-0.1"}, "test/linearized_accuracy", 0.968, {"lazy-accuracy-departs"}),
    ],
)
def test_a_claim_fails_when_its_finding_is_missing(
    build: Callable[..., Any], where: dict[str, str], column: str, value: float, fails: set[str]
) -> None:
    history = _history()
    history.loc[history["group"] == where["group"], column] = value
    assert _failing(build, history) == fails


def test_one_seed_that_goes_the_other_way_is_enough_to_fail(build: Callable[..., Any]) -> None:
    history = _history()
    column = "test/approximation_error@order2-stride5"
    first = history["test/approximation_error@order1-stride5"]
    history[column] = first * history["seed"].map({0: 0.1, 1: 1.1})
    assert "second-order-closer" in _failing(build, history)


def test_errors_of_zero_still_give_finite_numbers(build: Callable[..., Any]) -> None:
    history = _history()
    for lens in _LENSES:
        history[f"test/approximation_error@{lens}"] = 0.0
    found = _evaluate(build, history)
    assert found["closer-than-lazy"].holds
    assert not found["second-order-closer"].holds


def test_claims_about_settings_that_are_missing_are_left_out(build: Callable[..., Any]) -> None:
    training = {
        "steps": 5,
        "batch_size": 4,
        "settings": [{"optimizer": {"name": "sgd"}, "learning_rates": [0.01]}],
    }
    lens = {"lenses": [{"order": 2, "stride": 5}]}
    case = build("approximation_quality", training=training, lens=lens)
    history = _history()
    found = {claim.id for claim in claims(case, history[history["group"] == "sgd-lr-0.01"])}
    assert found == {"closer-than-lazy", "accuracy-matches", "lazy-accuracy-departs"}


def test_summary_reads_by_setting(build: Callable[..., Any]) -> None:
    summary = summarize(build("approximation_quality"), _history())
    json.dumps(summary, allow_nan=False)
    assert list(summary)[:3] == ["sgd-lr-0.01", "sgd-lr-0.1", "adamw-lr-0.0001"]
    assert list(summary)[4:] == [
        "sgd-momentum0.9-sigmoid-lr-0.01",
        "sgd-momentum0.9-sigmoid-lr-0.1",
    ]
    error = summary["sgd-lr-0.01"]["order2-stride5"]["test_approximation_error"]
    assert error == pytest.approx(0.5e-3 * 1.05)


def _with_adamw(build: Callable[..., Any], rates: tuple[float, float], error: float) -> Any:
    """The claim when AdamW has errors ``error`` and ten times as much at these rates."""
    history = _history()
    for old, new, scale in zip((0.0001, 0.001), rates, (1.0, 10.0), strict=True):
        mine = history["group"] == f"adamw-lr-{old!r}"
        history.loc[mine, "group"] = f"adamw-lr-{new!r}"
        for lens in _LENSES:
            history.loc[mine, f"test/approximation_error@{lens}"] = error * scale
    settings = [
        {"optimizer": {"name": "sgd"}, "learning_rates": [0.01, 0.1]},
        {"optimizer": {"name": "adamw"}, "learning_rates": list(rates)},
    ]
    training = {"steps": 5, "batch_size": 4, "settings": settings}
    found = claims(build("approximation_quality", training=training), history)
    return next(claim for claim in found if claim.id == "adamw-needs-smaller-rate")


def test_adamw_at_a_larger_rate_for_the_same_error_fails(build: Callable[..., Any]) -> None:
    # SGD's errors run from 1e-3 or less at .01 to 2e-2 or less at .1.
    assert not _with_adamw(build, (0.02, 0.2), 2.5e-3).holds
    assert _with_adamw(build, (0.002, 0.02), 2.5e-3).holds


def test_rates_of_adamw_whose_errors_sgd_never_has_are_not_compared(
    build: Callable[..., Any],
) -> None:
    claim = _with_adamw(build, (0.0001, 0.001), 1e-6)
    assert claim.observed == {"sgd_over_adamw_rate_at_equal_error": {}}
    assert not claim.holds


def test_settings_are_named_by_what_tells_them_apart(build: Callable[..., Any]) -> None:
    settings = [
        {"optimizer": {"name": "sgd"}, "learning_rates": [0.1]},
        {"optimizer": {"name": "sgd", "momentum": 0.9}, "learning_rates": [0.1]},
        {"optimizer": {"name": "sgd", "weight_decay": 0.1}, "learning_rates": [0.1]},
        {"optimizer": {"name": "sgd"}, "output": "sigmoid", "learning_rates": [0.1]},
        {"optimizer": {"name": "adamw", "weight_decay": 0.1}, "learning_rates": [0.1]},
        {"optimizer": {"name": "sgd"}, "name": "own", "learning_rates": [0.1]},
    ]
    training = {"steps": 5, "batch_size": 4, "settings": settings}
    case = build("approximation_quality", training=training)
    assert [setting.label for setting in case.training.settings] == [
        "sgd",
        "sgd-momentum0.9",
        "sgd-decay0.1",
        "sgd-sigmoid",
        "adamw",
        "own",
    ]
    with pytest.raises(ValidationError, match="settings that differ"):
        build("approximation_quality", training=training | {"settings": [*settings, settings[0]]})

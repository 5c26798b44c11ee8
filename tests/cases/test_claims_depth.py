"""Claims of the depth case hold on tables that show the finding, and only there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from telescope_pipeline.cases.depth.claims import claims
from telescope_pipeline.cases.depth.metrics import breaking_depth, summarize

# First- and second-order error by architecture and depth.
_ERRORS = {
    ("plain", 2): (0.02, 0.002),
    ("plain", 5): (0.3, 0.04),
    ("residual", 2): (0.02, 0.001),
    ("residual", 5): (0.08, 0.003),
}


def _history(errors: dict[tuple[str, int], tuple[float, float]] = _ERRORS) -> pd.DataFrame:
    """Two records each of two seeds; early ones say nothing and may not count."""
    rows = []
    for (architecture, depth), (first, second) in errors.items():
        for seed in (0, 1):
            for step in (5, 100):
                late, spread = step == 100, 1 + 0.1 * seed
                group = f"{architecture}-depth-{depth:04d}"
                rows.append(
                    {
                        "member": f"{group}_seed-{seed}",
                        "group": group,
                        "seed": seed,
                        "architecture": architecture,
                        "depth": depth,
                        "step": step,
                        "train/mse": 0.05,
                        "test/mse": 0.06,
                        "train/accuracy": 0.9 if late else 0.5,
                        "test/accuracy": 0.88,
                        "test/linearization_error": 0.3,
                        "test/approximation_error@order1": first * spread if late else 9.0,
                        "test/approximation_error@order2": second * spread if late else 9.0,
                    }
                )
    return pd.DataFrame(rows)


def _evaluate(build: Callable[..., Any], history: pd.DataFrame) -> dict[str, Any]:
    found = {claim.id: claim for claim in claims(build("depth"), history)}
    for claim in found.values():
        assert isinstance(claim.holds, bool)
        json.dumps([claim.observed, claim.threshold], allow_nan=False)
    return found


def _failing(build: Callable[..., Any], history: pd.DataFrame) -> set[str]:
    return {name for name, claim in _evaluate(build, history).items() if not claim.holds}


def test_all_claims_hold_where_the_finding_is(build: Callable[..., Any]) -> None:
    found = _evaluate(build, _history())
    assert len(found) == 6
    assert [name for name, claim in found.items() if not claim.holds] == []
    growth = found["first-order-error-grows-with-depth"].observed["deepest_over_shallowest_error"]
    assert growth["plain"]["geometric_mean"] == pytest.approx(15)
    assert growth["residual"]["geometric_mean"] == pytest.approx(4)
    breaks = found["first-order-breaks-where-second-holds"].observed
    assert breaks["breaking_depth"] == {"order1": 5, "order2": None}
    assert breaks["second_order_error_where_first_breaks"]["value"] == pytest.approx(0.042)


@pytest.mark.parametrize(
    ("place", "errors", "fails"),
    [
        (("residual", 5), (0.01, 0.001), {"first-order-error-grows-with-depth"}),
        (("plain", 5), (0.09, 0.04), {"first-order-breaks-where-second-holds"}),
        (("plain", 5), (0.5, 0.15), {"first-order-breaks-where-second-holds"}),
        (("residual", 2), (0.3, 0.2), {
            "second-order-holds-in-residual-networks",
            "first-order-error-grows-with-depth",
        }),
        (("plain", 2), (0.02, 0.021), {"second-order-closer"}),
        (("residual", 5), (0.9, 0.003), {"plain-worse-than-residual"}),
        (("residual", 5), (0.08, 0.06), {"plain-worse-than-residual"}),
    ],
)  # fmt: skip
def test_a_claim_fails_when_its_finding_is_missing(
    build: Callable[..., Any],
    place: tuple[str, int],
    errors: tuple[float, float],
    fails: set[str],
) -> None:
    assert _failing(build, _history(_ERRORS | {place: errors})) == fails


def test_one_network_that_did_not_train_is_enough_to_fail(build: Callable[..., Any]) -> None:
    history = _history()
    one = (history["member"] == "plain-depth-0005_seed-1") & (history["step"] == 100)
    history.loc[one, "train/accuracy"] = 0.84
    assert _failing(build, history) == {"networks-train"}


def test_a_difference_within_the_error_bars_is_none(build: Callable[..., Any]) -> None:
    history = _history()
    plain = (history["architecture"] == "plain") & (history["depth"] == 5)
    column = "test/approximation_error@order2"
    # On average a hundred times the residual error, but one seed goes the other way.
    history.loc[plain, column] = 0.002
    history.loc[plain & (history["seed"] == 1), column] = 0.09
    assert "plain-worse-than-residual" in _failing(build, history)


def test_errors_of_zero_still_give_finite_numbers(build: Callable[..., Any]) -> None:
    history = _history()
    for order in (1, 2):
        history[f"test/approximation_error@order{order}"] = 0.0
    found = _evaluate(build, history)
    assert not found["second-order-closer"].holds
    assert found["second-order-holds-in-residual-networks"].holds


def test_claims_about_networks_that_are_missing_are_left_out(build: Callable[..., Any]) -> None:
    model = {"depths": [5], "architectures": ["residual"], "width": 6}
    case = build("depth", model=model)
    history = _history({("residual", 5): _ERRORS["residual", 5]})
    assert {claim.id for claim in claims(case, history)} == {
        "networks-train",
        "second-order-holds-in-residual-networks",
        "second-order-closer",
    }


def test_the_breaking_depth_is_the_first_that_is_surely_broken(build: Callable[..., Any]) -> None:
    case, final = build("depth"), _history()
    final = final[final["step"] == 100]
    assert breaking_depth(case, final, "plain", 1) == 5
    assert breaking_depth(case, final, "residual", 1) is None
    broken = _history(_ERRORS | {("plain", 2): (0.2, 0.1)})
    assert breaking_depth(case, broken[broken["step"] == 100], "plain", 1) == 2
    # Above the bound on average (0.105), but not by two standard errors (0.005 each).
    assert breaking_depth(case, broken[broken["step"] == 100], "plain", 2) is None


def test_summary_reads_by_network(build: Callable[..., Any]) -> None:
    summary = summarize(build("depth"), _history())
    json.dumps(summary, allow_nan=False)
    assert summary["breaks_at_depth"] == {"plain": {"order1": 5}}
    error = summary["residual-depth-0005"]["test_approximation_error_order2"]
    assert error == pytest.approx(3e-3 * 1.05)

"""Claims of the double-descent case hold on tables that show the finding, and only there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from telescope_pipeline.cases.double_descent.claims import claims
from telescope_pipeline.cases.double_descent.metrics import interpolation_threshold, summarize

_WIDTHS = (2, 5, 10, 20, 40, 80, 160, 320)


def _history(
    *,
    test_error: tuple[float, ...] = (0.08, 0.09, 0.13, 0.18, 0.25, 0.2, 0.17, 0.15),
    train_error: tuple[float, ...] = (0.13, 0.1, 0.07, 0.03, 0.01, 1e-3, 1e-4, 1e-5),
    p_train: tuple[float, ...] = (130, 210, 400, 610, 750, 785, 792, 794),
    p_test: tuple[float, ...] = (136, 226, 490, 720, 850, 800, 600, 480),
    spread: float = 0.01,
    probe_error: float = 2.0,
) -> pd.DataFrame:
    """Two records each of two seeds of a made-up sweep."""
    rows = []
    draws = np.random.default_rng(0)
    for place, width in enumerate(_WIDTHS):
        for seed in (0, 1):
            for step in (10, 4000):
                # Early records say nothing of the sort: only the last ones may count.
                late = step == 4000
                noise = 1 + spread * draws.uniform(-1, 1)
                rows.append(
                    {
                        "member": f"width-{width:04d}_seed-{seed}",
                        "group": f"width-{width:04d}",
                        "seed": seed,
                        "width": width,
                        "step": step,
                        "train/mse": train_error[place] if late else 0.3,
                        "test/mse": test_error[place] * noise if late else 0.3,
                        "train/accuracy": 0.9,
                        "test/accuracy": 0.8,
                        "train/effective_parameters": p_train[place] if late else 5.0,
                        "train/effective_parameters_stderr": probe_error,
                        "test/effective_parameters": p_test[place] * noise if late else 5.0,
                        "test/effective_parameters_stderr": probe_error,
                        "train/degrees_of_freedom": 100.0,
                        "test/approximation_error": 0.01,
                    }
                )
    return pd.DataFrame(rows)


def _evaluate(build: Callable[..., Any], history: pd.DataFrame) -> dict[str, Any]:
    found = {claim.id: claim for claim in claims(build("double_descent"), history)}
    for claim in found.values():
        assert isinstance(claim.holds, bool)
        json.dumps([claim.observed, claim.threshold], allow_nan=False)
    return found


def _failing(build: Callable[..., Any], **change: Any) -> set[str]:
    return {name for name, c in _evaluate(build, _history(**change)).items() if not c.holds}


def test_all_claims_hold_on_a_double_descent(build: Callable[..., Any]) -> None:
    found = _evaluate(build, _history())
    assert len(found) == 4
    assert [name for name, claim in found.items() if not claim.holds] == []
    peak = found["test-peak-near-threshold"].observed
    assert peak["peak_width"] == 40
    assert peak["interpolation_threshold_width"] == pytest.approx(40)
    assert peak["peak_minus_widest"]["value"] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    "test_error",
    [
        (0.25, 0.22, 0.2, 0.18, 0.17, 0.16, 0.155, 0.15),  # falls all the way
        (0.08, 0.09, 0.13, 0.18, 0.2, 0.22, 0.24, 0.26),  # rises all the way
        (0.08, 0.25, 0.22, 0.2, 0.18, 0.17, 0.16, 0.15),  # peaks far before the threshold
    ],
)
def test_no_peak_near_the_threshold_is_no_double_descent(
    build: Callable[..., Any], test_error: tuple[float, ...]
) -> None:
    assert _failing(build, test_error=test_error) == {"test-peak-near-threshold"}


def test_a_peak_within_the_spread_of_seeds_does_not_count(build: Callable[..., Any]) -> None:
    flat = (0.2, 0.2, 0.2, 0.2, 0.21, 0.2, 0.2, 0.2)
    assert "test-peak-near-threshold" in _failing(build, test_error=flat, spread=0.3)


def test_a_dip_in_train_complexity_fails_unless_it_is_within_error_bars(
    build: Callable[..., Any],
) -> None:
    dip = (130, 210, 400, 610, 750, 740, 792, 794)
    assert _failing(build, p_train=dip) == {"train-effective-parameters-rise"}
    assert _failing(build, p_train=dip, probe_error=10.0) == set()
    found = _evaluate(build, _history(p_train=dip))
    assert found["train-effective-parameters-rise"].observed["drops"] == ["40-80"]


def test_test_complexity_must_fall_past_the_threshold(build: Callable[..., Any]) -> None:
    rising = (136, 226, 490, 720, 850, 900, 950, 1000)
    assert _failing(build, p_test=rising) == {
        "test-effective-parameters-fall",
        "gap-widens-past-threshold",
    }
    bump = (136, 226, 490, 720, 850, 600, 700, 480)
    assert _failing(build, p_test=bump) == {"test-effective-parameters-fall"}


def test_without_interpolation_nothing_past_it_is_claimed(build: Callable[..., Any]) -> None:
    for train_error in ((0.13,) * 8, (1e-4,) * 8):
        assert _failing(build, train_error=train_error) == {
            "test-peak-near-threshold",
            "test-effective-parameters-fall",
            "gap-widens-past-threshold",
        }


def test_threshold_lies_between_the_widths_that_enclose_it() -> None:
    final = _history(train_error=(0.13, 0.1, 0.07, 0.04, 0.02, 0.005, 1e-4, 1e-5))
    final = final[final["step"] == 4000]
    # From .02 at width 40 to .005 at 80 a straight line in logs passes .01 half-way.
    assert interpolation_threshold(final, 0.01) == pytest.approx(40 * 2**0.5)
    assert interpolation_threshold(final, 1e-6) is None


def test_summary_reads_by_width(build: Callable[..., Any]) -> None:
    summary = summarize(build("double_descent"), _history())
    json.dumps(summary, allow_nan=False)
    assert summary["peak_width"] == 40
    assert list(summary["width"]) == [f"{width:04d}" for width in _WIDTHS]
    assert summary["width"]["0160"]["train_effective_parameters"] == pytest.approx(792)


@pytest.mark.parametrize(
    ("test_error", "holds"),
    [
        ((0.08, 0.09, 0.13, 0.18, 0.25, 0.2, 0.17, 0.15), False),
        ((0.2, 0.15, 0.12, 0.1, 0.09, 0.08, 0.07, 0.06), True),
        ((0.06, 0.07, 0.08, 0.09, 0.1, 0.12, 0.15, 0.2), True),
    ],
)
def test_clean_digits_are_expected_to_have_no_peak(
    build: Callable[..., Any], test_error: tuple[float, ...], holds: bool
) -> None:
    data = {"source": "mnist", "classes": [3, 5], "label_noise": 0.0}
    case = build("double_descent", data=data)
    found = {claim.id: claim for claim in claims(case, _history(test_error=test_error))}
    assert "test-peak-near-threshold" not in found
    assert found["no-test-peak-without-noise"].holds is holds


def test_noisy_digits_and_cats_and_dogs_are_expected_to_have_a_peak(
    build: Callable[..., Any],
) -> None:
    for data in ({"source": "mnist", "label_noise": 0.2}, {"source": "cifar10"}):
        found = claims(build("double_descent", data=data), _history())
        assert found[0].id == "test-peak-near-threshold"
        assert found[0].holds

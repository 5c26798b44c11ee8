"""Means, standard errors, crossings and what claims say, against numbers worked out by hand."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telescope_pipeline.study.findings.claims import (
    bounds,
    finding,
    largest,
    record_of,
    smallest,
    surely_above,
    surely_below,
)
from telescope_pipeline.study.findings.complexity import gap_at, widening
from telescope_pipeline.study.findings.statistics import (
    Estimate,
    at_end,
    at_steps,
    by_seed,
    change,
    crossing_step,
    estimate,
    estimate_of,
    estimates,
    final_rows,
    log_ratio,
    mean_steps,
    over_seeds,
    ratio,
    seed_record,
    value_at,
)

_NUMBERS = st.lists(st.floats(-100, 100), min_size=2, max_size=8)


@given(values=_NUMBERS)
def test_mean_and_standard_error_are_the_textbook_ones(values: list[float]) -> None:
    found = estimate(values)
    assert found.value == pytest.approx(statistics.fmean(values), abs=1e-9)
    expected = statistics.stdev(values) / math.sqrt(len(values))
    assert found.stderr == pytest.approx(expected, abs=1e-9)


def test_measurement_errors_add_in_quadrature() -> None:
    spread = estimate([1.0, 3.0]).stderr
    both = estimate([1.0, 3.0], [0.6, 0.8])
    assert both.stderr == pytest.approx(math.hypot(spread, 0.5))
    assert estimate([2.0], [0.3]).stderr == pytest.approx(0.3)


def test_standard_error_covers_the_mean_as_often_as_it_should() -> None:
    draws = np.random.default_rng(0).normal(5.0, 2.0, size=(2000, 20))
    covered = sum(abs(estimate(row).value - 5.0) < 2 * estimate(row).stderr for row in draws)
    # Student's t with 19 degrees of freedom: 94 %.
    assert 0.92 < covered / 2000 < 0.96


def test_above_and_below_need_the_margin() -> None:
    found = Estimate(10.0, 1.0)
    assert found.surely_above(7.9, 2.0)
    assert not found.surely_above(8.1, 2.0)
    assert found.surely_below(12.1, 2.0)
    assert not found.surely_below(11.9, 2.0)


@given(power=st.floats(-3, -0.2), scale=st.floats(0.5, 50), threshold=st.floats(0.01, 0.4))
def test_crossing_of_a_power_law_is_exact_between_records(
    power: float, scale: float, threshold: float
) -> None:
    expected = (threshold / scale) ** (1 / power)
    steps = np.array([0, 1, 3, 10, 40, 100, 1000, 10_000, 10**6])
    values = np.array([2 * scale, *(scale * steps[1:].astype(float) ** power)])
    found = crossing_step(steps, values, threshold)
    if expected > steps[-1] * (1 + 1e-9):
        assert found is None
    elif 1 < expected < steps[-1]:
        assert found == pytest.approx(expected, rel=1e-6)


def test_crossing_is_the_first_one_and_none_if_there_is_none() -> None:
    assert crossing_step([1, 2, 4, 8], [1.0, 0.1, 1.0, 0.1], 0.1) == pytest.approx(2.0)
    assert crossing_step([1, 2, 4, 8], [1.0, 0.9, 0.8, 0.7], 0.1) is None
    assert crossing_step([1, 2], [0.05, 0.01], 0.1) == 1.0


def test_values_between_records_follow_log_step() -> None:
    assert value_at([0, 9, 99], [0.0, 1.0, 2.0], 9) == pytest.approx(1.0)
    assert value_at([0, 9, 99], [0.0, 1.0, 2.0], math.sqrt(1000) - 1) == pytest.approx(1.5)


def test_final_rows_are_the_last_of_each_member_whatever_the_order() -> None:
    table = pd.DataFrame(
        {"member": ["b", "a", "b", "a"], "step": [5, 3, 2, 9], "x": [1.0, 2.0, 3.0, 4.0]}
    )
    final = final_rows(table)
    assert dict(zip(final["member"], final["x"], strict=True)) == {"b": 1.0, "a": 4.0}


def test_curves_over_seeds_are_sorted_means_with_errors() -> None:
    table = pd.DataFrame(
        {
            "step": [2, 1, 1, 2],
            "seed": [0, 0, 1, 1],
            "x": [5.0, 1.0, 3.0, 7.0],
            "x_stderr": [0.0, 0.6, 0.8, 0.0],
        }
    )
    curve = over_seeds(table, "x")
    assert curve["step"].tolist() == [1, 2]
    assert curve["mean"].tolist() == [2.0, 6.0]
    assert curve["stderr"].tolist() == pytest.approx([math.hypot(1.0, 0.5), 1.0])


def _two_groups() -> pd.DataFrame:
    """Two seeds of two groups, the second listed the other way round, with standard errors."""
    return pd.DataFrame(
        {
            "group": ["a", "a", "b", "b"],
            "seed": [0, 1, 1, 0],
            "x": [1.0, 10.0, 12.0, 4.0],
            "x_stderr": [3.0, 0.0, 0.0, 4.0],
        }
    )


def test_changes_are_paired_by_seed_and_carry_the_errors_of_both_groups() -> None:
    table = _two_groups()
    first, second = by_seed(table, "a"), by_seed(table, "b")
    # Differences of 3 and 2, with errors of hypot(3, 4) and 0.
    assert change(first, second, "x") == estimate([3.0, 2.0], [5.0, 0.0])
    exact = [part.drop(columns="x_stderr") for part in (first, second)]
    assert change(*exact, "x") == estimate([3.0, 2.0])


def test_a_column_is_averaged_with_its_errors_where_it_has_some() -> None:
    part = by_seed(_two_groups(), "a")
    assert estimate_of(part, "x") == estimate([1.0, 10.0], [3.0, 0.0])
    named = part.rename(columns={"x": "test/x@lens", "x_stderr": "test/x@lens_stderr"})
    expected = estimate([1.0, 10.0], [3.0, 0.0])
    assert estimates(named, ("test/x@lens", "missing")) == {
        "test_x_lens": expected.value,
        "test_x_lens_stderr": expected.stderr,
    }


def test_ratios_are_finite_where_an_error_is_zero() -> None:
    found = ratio(pd.Series([2.0, 1.0, 0.0]), pd.Series([4.0, 0.0, 0.0]))
    assert found.tolist()[0] == 0.5
    assert np.isfinite(found).all()
    assert found.tolist()[1] > 1e37
    assert found.tolist()[2] == 1.0


def test_ratios_of_steps_count_step_zero_as_one() -> None:
    found = log_ratio(np.array([0.0, 10.0]), np.array([1.0, 10.0 * math.e]))
    assert found.value == pytest.approx(0.5)


def _members() -> pd.DataFrame:
    """Seed 1 before seed 0; the gap of effective parameters is the step, times 1 or 2."""
    steps = [0, 10, 100]
    parts = [
        pd.DataFrame(
            {
                "member": f"m{seed}",
                "seed": seed,
                "step": steps,
                "train/effective_parameters": np.multiply(steps, seed + 1.0),
                "test/effective_parameters": 0.0,
                "train/effective_parameters_stderr": 3.0,
                "test/effective_parameters_stderr": 4.0,
            }
        )
        for seed in (1, 0)
    ]
    return pd.concat(parts, ignore_index=True)


def test_curves_are_read_at_a_step_of_every_seed() -> None:
    table = _members()
    early, late = np.array([10.0, 100.0]), np.array([100.0, math.nan])
    gap, error = gap_at(table, early)
    assert gap.tolist() == pytest.approx([10.0, 200.0])
    assert error.tolist() == pytest.approx([5.0, 5.0])
    np.testing.assert_array_equal(at_steps(table, table["step"] * 1.0, late), [100.0, np.nan])
    assert at_end(table, table["train/effective_parameters"]).tolist() == [100.0, 200.0]
    grown = widening(table, early, np.array([100.0, 100.0]))
    expected = estimate([90.0, 0.0], [math.hypot(5, 5)] * 2)
    assert (grown.value, grown.stderr) == pytest.approx((expected.value, expected.stderr))


def test_what_one_seed_lacks_is_undefined_for_all() -> None:
    missing = np.array([1.0, math.nan])
    undefined = estimate(missing)
    assert undefined.record is None
    assert seed_record(missing) is None
    assert not undefined.surely_above(-1e9, 2.0)
    assert not undefined.surely_below(1e9, 2.0)
    assert mean_steps({"seen": np.array([1.0, 3.0]), "missed": missing}) == {"seen": 2.0}
    assert log_ratio(missing, missing + 1).record is None
    for bound in (smallest, largest):
        assert math.isnan(bound({"a": np.array([1.0]), "b": missing}))


def test_bounds_over_groups_hold_for_every_seed() -> None:
    measured = {"a": np.array([2.0, 5.0]), "b": pd.Series([3.0, -1.0])}
    assert smallest(measured) == -1.0
    assert largest(measured) == 5.0
    assert smallest(measured["a"]) == 2.0
    means = {"a": Estimate(10.0, 1.0), "b": Estimate(5.0, 1.0)}
    assert surely_above(means, 2.9, 2.0)
    assert not surely_above(means, 3.1, 2.0)
    assert surely_below(means, 12.1, 2.0)
    assert not surely_below(means, 11.9, 2.0)


def test_a_finding_says_what_was_measured_in_plain_numbers() -> None:
    claim = finding(
        "shorter",
        "It is.",
        "nowhere",
        observed={
            0.5: Estimate(1.0, 0.1),
            7: {"seeds": np.array([1.0, 3.0]), "missed": np.array([math.nan])},
            "steps": [1, None],
        },
        threshold=bounds(Estimate(3.0, 2.0), "stderr", minimum=0.0),
        holds=np.bool_(True),
    )
    assert claim.observed == {
        "0.5": {"value": 1.0, "stderr": 0.1},
        "7": {"seeds": seed_record([1.0, 3.0]), "missed": None},
        "steps": [1, None],
    }
    assert list(claim.threshold.items()) == [("minimum", 0.0), ("stderr", 2.0)]
    assert claim.holds is True
    assert record_of(None) is None

"""Means, standard errors and crossings, against numbers worked out by other means."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telescope_pipeline.study.findings.statistics import (
    Estimate,
    crossing_step,
    estimate,
    final_rows,
    over_seeds,
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
    curve = over_seeds(table, "x", error_column="x_stderr")
    assert curve["step"].tolist() == [1, 2]
    assert curve["mean"].tolist() == [2.0, 6.0]
    assert curve["stderr"].tolist() == pytest.approx([math.hypot(1.0, 0.5), 1.0])

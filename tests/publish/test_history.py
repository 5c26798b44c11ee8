"""Means and standard errors over the seeds of a group."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from telescope_pipeline.publish.history import over_seeds


def _frame(rows: list[tuple[int, int, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["seed", "step", "test/mse"])


def test_mean_and_standard_error_agree_with_numpy() -> None:
    values = np.random.default_rng(0).lognormal(size=(5, 3))
    rows = [(seed, step, values[seed, step]) for seed in range(5) for step in range(3)]
    table = over_seeds(_frame(rows), ["test/mse"])

    assert [step for step, _ in table] == [0, 1, 2]
    for step, row in table:
        column = values[:, step]
        assert row["seeds"] == 5
        assert row["test/mse"] == pytest.approx(column.mean(), rel=1e-14)
        expected = column.std(ddof=1) / math.sqrt(5)
        assert row["stderr/test/mse"] == pytest.approx(expected, rel=1e-14)


def test_one_seed_has_its_own_values_and_no_standard_error() -> None:
    assert over_seeds(_frame([(0, 7, 1 / 3)]), ["test/mse"]) == (
        (7, {"seeds": 1, "test/mse": 1 / 3}),
    )


def test_missing_values_are_left_out() -> None:
    rows = [(0, 0, math.nan), (1, 0, 2.0), (0, 1, math.nan), (1, 1, math.nan)]
    assert over_seeds(_frame(rows), ["test/mse"]) == (
        (0, {"seeds": 2, "test/mse": 2.0}),
        (1, {"seeds": 2}),
    )


def test_a_step_that_one_seed_recorded_counts_one_seed() -> None:
    table = dict(over_seeds(_frame([(0, 0, 1.0), (1, 0, 3.0), (0, 5, 4.0)]), ["test/mse"]))

    assert table[0] == {"seeds": 2, "test/mse": 2.0, "stderr/test/mse": 1.0}
    assert table[5] == {"seeds": 1, "test/mse": 4.0}


def test_standard_errors_of_probes_are_averaged_only() -> None:
    frame = _frame([(0, 0, 1.0), (1, 0, 2.0)]).rename(columns={"test/mse": "test/p_stderr"})

    assert over_seeds(frame, ["test/p_stderr"]) == ((0, {"seeds": 2, "test/p_stderr": 1.5}),)

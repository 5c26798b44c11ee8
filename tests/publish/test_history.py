"""Means and standard errors over the seeds of a group."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from telescope_pipeline.publish.history import seeds_as_one
from telescope_pipeline.study.findings.statistics import over_seeds


def _frame(rows: list[tuple[int, int, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["seed", "step", "test/mse"])


def test_mean_and_standard_error_agree_with_numpy() -> None:
    values = np.random.default_rng(0).lognormal(size=(5, 3))
    rows = [(seed, step, values[seed, step]) for seed in range(5) for step in range(3)]
    table = seeds_as_one(_frame(rows), ["test/mse"])

    assert [step for step, _ in table] == [0, 1, 2]
    for step, row in table:
        column = values[:, step]
        assert row["seeds"] == 5
        assert row["test/mse"] == pytest.approx(column.mean(), rel=1e-14)
        expected = column.std(ddof=1) / math.sqrt(5)
        assert row["stderr/test/mse"] == pytest.approx(expected, rel=1e-14)


def test_one_seed_has_its_own_values_and_no_standard_error() -> None:
    assert seeds_as_one(_frame([(0, 7, 1 / 3)]), ["test/mse"]) == (
        (7, {"seeds": 1, "test/mse": 1 / 3}),
    )


def test_missing_values_are_left_out() -> None:
    rows = [(0, 0, math.nan), (1, 0, 2.0), (0, 1, math.nan), (1, 1, math.nan)]
    assert seeds_as_one(_frame(rows), ["test/mse"]) == (
        (0, {"seeds": 2, "test/mse": 2.0}),
        (1, {"seeds": 2}),
    )


def test_a_step_that_one_seed_recorded_counts_one_seed() -> None:
    table = dict(seeds_as_one(_frame([(0, 0, 1.0), (1, 0, 3.0), (0, 5, 4.0)]), ["test/mse"]))

    assert table[0] == {"seeds": 2, "test/mse": 2.0, "stderr/test/mse": 1.0}
    assert table[5] == {"seeds": 1, "test/mse": 4.0}


def test_standard_errors_of_probes_are_averaged_only() -> None:
    frame = _frame([(0, 0, 1.0), (1, 0, 2.0)]).rename(columns={"test/mse": "test/p_stderr"})

    assert seeds_as_one(frame, ["test/p_stderr"]) == ((0, {"seeds": 2, "test/p_stderr": 1.5}),)


def test_error_bars_are_those_of_figures_and_claims() -> None:
    """One account of a standard error: spread over seeds, and the variance of the probes."""
    draw = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "seed": np.repeat(np.arange(4), 3),
            "step": np.tile([0, 5, 9], 4),
            "test/p": draw.normal(size=12),
            "test/p_stderr": draw.random(12),
        }
    )
    drawn = over_seeds(frame, "test/p", error_column="test/p_stderr")
    for (step, row), at in zip(
        seeds_as_one(frame, ["test/p", "test/p_stderr"]), drawn.itertuples(), strict=True
    ):
        assert (step, row["test/p"], row["stderr/test/p"]) == (at.step, at.mean, at.stderr)
        assert "stderr/test/p_stderr" not in row
    alone = frame[frame["seed"] == 0]
    errors = [row["stderr/test/p"] for _, row in seeds_as_one(alone, ["test/p"])]
    assert errors == pytest.approx(list(alone["test/p_stderr"]), rel=1e-15)

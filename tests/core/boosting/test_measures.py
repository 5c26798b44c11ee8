"""Records, effective parameters, degrees of freedom and kernel norms."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from telescope_core.boosting import BoostingLens

_KINDS = ["gradient", "hist", "xgboost", "lightgbm"]


@pytest.fixture(params=_KINDS)
def lens(request: pytest.FixtureRequest, make: Callable[..., Any], data: Any) -> BoostingLens:
    model = make(request.param, learning_rate=0.2).fit(data.X, data.y)
    return BoostingLens(model, data.X, data.y, {"test": data.X_test})


def test_records_have_the_keys_of_the_lens(lens: BoostingLens) -> None:
    records = list(lens.records())
    assert [record["step"] for record in records] == list(range(1, lens.rounds + 1))
    measures = [
        "smoother_error",
        "effective_parameters",
        "effective_parameters_stderr",
        "kernel_norm_mean",
        "kernel_norm_max",
    ]
    expected = {f"{name}/{measure}" for name in ("train", "test") for measure in measures}
    for record in records:
        assert set(record) == {"step", "train/degrees_of_freedom"} | expected
        assert all(type(value) in (int, float) for value in record.values())
        assert record["test/effective_parameters_stderr"] == 0.0
        assert record["test/smoother_error"] < 1e-5


def test_records_are_read_off_the_smoother_in_any_order(lens: BoostingLens) -> None:
    records = list(lens.records())
    for round in (7, 2, lens.rounds):
        S = lens.smoother("test", round)
        expected = S.shape[1] * np.mean(np.linalg.norm(S, axis=1) ** 2)
        record = records[round - 1]
        assert record["test/effective_parameters"] == pytest.approx(expected, rel=1e-12)
        assert lens.effective_parameters("test", round) == record["test/effective_parameters"]
        trace = np.trace(lens.smoother("train", round))
        assert record["train/degrees_of_freedom"] == pytest.approx(trace, rel=1e-12)
    final = records[-1]["train/effective_parameters"]
    assert lens.effective_parameters("train") == pytest.approx(final, rel=1e-12)


def test_the_mean_has_one_effective_parameter(lens: BoostingLens) -> None:
    assert lens.effective_parameters("test", 0) == pytest.approx(1.0)
    assert np.trace(lens.smoother("train", 0)) == pytest.approx(1.0)


def test_rows_that_start_from_the_mean_sum_to_one(make: Callable[..., Any], data: Any) -> None:
    model = make("gradient").fit(data.X, data.y)
    lens = BoostingLens(model, data.X, data.y, {"test": data.X_test})
    np.testing.assert_allclose(lens.smoother("test").sum(axis=1), 1.0, rtol=1e-10)


def test_degrees_of_freedom_grow(lens: BoostingLens) -> None:
    values = [1.0] + [record["train/degrees_of_freedom"] for record in lens.records()]
    assert np.all(np.diff(values) > 0)
    assert values[-1] < len(lens.smoother("train"))


def test_kernel_norms_lie_between_zero_and_one(lens: BoostingLens) -> None:
    for record in lens.records():
        for name in ("train", "test"):
            mean, largest = record[f"{name}/kernel_norm_mean"], record[f"{name}/kernel_norm_max"]
            assert 0 < mean <= largest <= 1


def test_kernel_norms_of_a_known_tree(make: Callable[..., Any]) -> None:
    X, y = np.array([[0.0], [1.0], [10.0], [11.0], [12.0]]), np.array([0.0, 0.0, 9.0, 9.0, 9.0])
    model = make("gradient", n_estimators=1, max_depth=1).fit(X, y)
    (record,) = BoostingLens(model, X, y, {"far": [[50.0], [60.0]]}).records()
    assert record["train/kernel_norm_max"] == pytest.approx(2**-0.5)
    assert record["train/kernel_norm_mean"] == pytest.approx((2 * 2**-0.5 + 3 * 3**-0.5) / 5)
    assert record["far/kernel_norm_max"] == pytest.approx(3**-0.5)


def test_results_are_copies(lens: BoostingLens) -> None:
    lens.smoother("test")[:] = np.nan
    lens.constant("test")[:] = np.nan
    next(lens.records())["step"] = -1
    assert np.isfinite(lens.smoother("test")).all()
    assert np.isfinite(lens.constant("test")).all()
    assert next(lens.records())["step"] == 1


def test_importing_loads_no_library() -> None:
    script = (
        "import sys, telescope_core.boosting as boosting\n"
        "loaded = {'torch', 'sklearn', 'xgboost', 'lightgbm'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)

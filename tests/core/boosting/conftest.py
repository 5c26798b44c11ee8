"""Fitted models of every library, and what boosting means when it is written as a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Data:
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray


def _gradient_boosting(**options: Any) -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(**{"n_estimators": 12, "random_state": 0, **options})


def _hist_gradient_boosting(**options: Any) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    plain = {"max_iter": 12, "min_samples_leaf": 5, "early_stopping": False, "random_state": 0}
    return HistGradientBoostingRegressor(**{**plain, **options})


def _xgboost(**options: Any) -> Any:
    xgboost = pytest.importorskip("xgboost", reason="reads a model of XGBoost")
    return xgboost.XGBRegressor(**{"n_estimators": 12, "max_depth": 3, "n_jobs": 1, **options})


def _lightgbm(**options: Any) -> Any:
    lightgbm = pytest.importorskip("lightgbm", reason="reads a model of LightGBM")
    plain = {"n_estimators": 12, "min_child_samples": 5, "n_jobs": 1, "verbose": -1}
    return lightgbm.LGBMRegressor(**{**plain, **options})


_MAKERS = {
    "gradient": _gradient_boosting,
    "hist": _hist_gradient_boosting,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
}


@pytest.fixture(scope="session")
def make() -> Callable[..., Any]:
    """``make(kind, **options)``: an unfitted regressor of a library."""
    return lambda kind, **options: _MAKERS[kind](**options)


@pytest.fixture(scope="session")
def data() -> Data:
    rng = np.random.default_rng(0)
    X, X_test = rng.normal(size=(80, 4)), rng.normal(size=(30, 4))
    y = 3 + np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.3 * rng.normal(size=80)
    return Data(X, y, X_test)


@pytest.fixture(scope="session")
def categories(data: Data) -> tuple[Any, np.ndarray]:
    """A table with a column of twenty categories that the labels depend on, and the labels."""
    pandas = pytest.importorskip("pandas", reason="the inputs are a table")
    kinds = np.arange(len(data.y)) % 20
    table = pandas.DataFrame(data.X, columns=list("abcd"))
    return table.assign(e=pandas.Categorical(kinds.astype(str))), data.y + 2 * np.sin(kinds)


@pytest.fixture(scope="session")
def boost() -> Callable[..., np.ndarray]:
    """Boosting on trees whose leaves are given, one training row and one leaf at a time."""

    def run(
        y: np.ndarray,
        train_leaves: np.ndarray,
        leaves: np.ndarray,
        learning_rate: float,
        leaf_regularization: float = 0.0,
        start: float | None = None,
    ) -> np.ndarray:
        first = y.mean() if start is None else start
        f_train, f = np.full(len(y), first), np.full(leaves.shape[1], first)
        for train_leaf, leaf in zip(train_leaves, leaves, strict=True):
            residuals = y - f_train
            for number in np.unique(train_leaf):
                members = train_leaf == number
                value = residuals[members].sum() / (members.sum() + leaf_regularization)
                f_train[members] += learning_rate * value
                f[leaf == number] += learning_rate * value
        return f

    return run

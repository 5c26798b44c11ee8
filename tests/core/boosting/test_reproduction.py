"""S·y + c is what the models predict, and S is the derivative with the trees held fixed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from telescope_core.boosting import BoostingLens

_MODELS = [
    ("gradient", {}),
    ("gradient", {"learning_rate": 0.5, "max_depth": 2, "n_estimators": 40}),
    ("gradient", {"init": "zero", "learning_rate": 1.0}),
    ("gradient", {"max_features": 2, "max_leaf_nodes": 5, "ccp_alpha": 0.01}),
    ("hist", {}),
    ("hist", {"l2_regularization": 3.0, "learning_rate": 0.4, "max_iter": 60}),
    ("hist", {"max_bins": 8, "max_leaf_nodes": 4, "l2_regularization": 0.5}),
    ("xgboost", {}),
    ("xgboost", {"reg_lambda": 0.0, "learning_rate": 0.5, "tree_method": "exact"}),
    ("xgboost", {"reg_lambda": 7.0, "base_score": 0.5, "n_estimators": 200}),
    ("xgboost", {"gamma": 0.1, "colsample_bytree": 0.5, "n_estimators": 1}),
    ("xgboost", {"n_estimators": None, "max_depth": None, "tree_method": "hist"}),
    ("xgboost", {"tree_method": "approx", "max_bin": 8, "min_child_weight": 4.0}),
    ("xgboost", {"grow_policy": "lossguide", "max_depth": 0, "max_leaves": 5}),
    ("xgboost", {"gamma": 3.0, "n_estimators": 30}),
    (
        "xgboost",
        {"colsample_bytree": 0.5, "colsample_bylevel": 0.5, "colsample_bynode": 0.5},
    ),
    ("xgboost", {"base_score": 0.0, "reg_lambda": 0.3}),
    ("lightgbm", {}),
    ("lightgbm", {"reg_lambda": 2.5, "learning_rate": 0.5, "num_leaves": 4}),
    ("lightgbm", {"boost_from_average": False, "n_estimators": 150}),
    ("lightgbm", {"lambda_l2": 1.5, "colsample_bytree": 0.5, "n_estimators": 1}),
    ("lightgbm", {"n_estimators": 100, "min_child_samples": 20}),
    ("lightgbm", {"colsample_bytree": 0.5, "feature_fraction_bynode": 0.5, "extra_trees": True}),
    # Rows are drawn only with a frequency, which is 0 unless given.
    ("lightgbm", {"subsample": 0.5}),
    ("lightgbm", {"subsample_freq": 3}),
    ("lightgbm", {"objective": "mse", "max_depth": 2, "max_bin": 16}),
    ("lightgbm", {"boost_from_average": False, "reg_lambda": 4.0}),
    # No split is possible, so that the only leaf is the mean.
    ("lightgbm", {"min_child_samples": 100}),
    ("lightgbm", {"min_child_samples": 100, "boost_from_average": False}),
]


def _staged(model: Any, X: np.ndarray, rounds: int) -> list[np.ndarray]:
    if hasattr(model, "staged_predict"):
        return list(model.staged_predict(X))
    if type(model).__name__ == "XGBRegressor":
        return [model.predict(X, iteration_range=(0, end)) for end in range(1, rounds + 1)]
    return [model.predict(X, num_iteration=end) for end in range(1, rounds + 1)]


def _close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize(("kind", "options"), _MODELS)
def test_smoother_times_labels_is_every_staged_prediction(
    kind: str, options: dict[str, Any], make: Callable[..., Any], data: Any
) -> None:
    model = make(kind, **options).fit(data.X, data.y)
    lens = BoostingLens(model, data.X, data.y, {"test": data.X_test})
    for name, X in (("train", data.X), ("test", data.X_test)):
        stages = _staged(model, X, lens.rounds)
        assert len(stages) == lens.rounds
        for round, expected in enumerate(stages, start=1):
            _close(lens.smoother(name, round) @ data.y + lens.constant(name, round), expected)
        _close(lens.smoother(name) @ data.y + lens.constant(name), model.predict(X))


@pytest.mark.parametrize(
    ("kind", "options", "regularization", "start"),
    [
        ("gradient", {"learning_rate": 0.3}, 0.0, None),
        ("gradient", {"learning_rate": 0.3, "init": "zero"}, 0.0, 0.0),
        ("hist", {"learning_rate": 0.3, "l2_regularization": 2.0}, 2.0, None),
        ("xgboost", {"learning_rate": 0.3, "reg_lambda": 2.0, "base_score": 0.7}, 2.0, 0.7),
        ("lightgbm", {"learning_rate": 0.3, "reg_lambda": 2.0}, 2.0, None),
    ],
)
def test_smoother_is_the_derivative_with_the_trees_held_fixed(
    kind: str,
    options: dict[str, Any],
    regularization: float,
    start: float | None,
    make: Callable[..., Any],
    boost: Callable[..., np.ndarray],
    data: Any,
) -> None:
    model = make(kind, **options).fit(data.X, data.y)
    lens = BoostingLens(model, data.X, data.y, {"test": data.X_test})
    leaves = [_leaves(model, X) for X in (data.X, data.X_test)]

    def refit(y: np.ndarray) -> np.ndarray:
        return boost(y, *leaves, 0.3, regularization, start)

    _close(refit(data.y), model.predict(data.X_test))
    S, change = lens.smoother("test"), 1e-3
    for i in range(0, len(data.y), 7):
        step = np.zeros_like(data.y)
        step[i] = change
        slope = (refit(data.y + step) - refit(data.y - step)) / (2 * change)
        np.testing.assert_allclose(S[:, i], slope, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(lens.constant("test"), refit(np.zeros_like(data.y)), atol=1e-7)


def _leaves(model: Any, X: np.ndarray) -> np.ndarray:
    """Leaves by the public interface; by the increments of predictions where there is none."""
    name = type(model).__name__
    if name == "LGBMRegressor":
        return np.asarray(model.predict(X, pred_leaf=True)).T
    if name == "HistGradientBoostingRegressor":
        # Values identify the leaves: with noisy labels no two leaves have the same.
        return np.stack([tree.predict(X, *_bins(model), 1) for (tree,) in model._predictors])
    return np.asarray(model.apply(X)).T


def _bins(model: Any) -> tuple[np.ndarray, np.ndarray]:
    return model._bin_mapper.make_known_categories_bitsets()


@pytest.mark.parametrize("kind", ["gradient", "hist", "xgboost", "lightgbm"])
def test_sample_weights_are_followed(kind: str, make: Callable[..., Any], data: Any) -> None:
    weights = np.random.default_rng(1).uniform(0.5, 2.0, size=len(data.y))
    model = make(kind).fit(data.X, data.y, sample_weight=weights)
    lens = BoostingLens(model, data.X, data.y, {"test": data.X_test}, sample_weight=weights)
    _close(lens.smoother("test") @ data.y, model.predict(data.X_test))


@pytest.mark.parametrize("kind", ["hist", "xgboost", "lightgbm"])
def test_missing_values_take_the_way_of_predict(
    kind: str, make: Callable[..., Any], data: Any
) -> None:
    rng = np.random.default_rng(2)
    X, X_test = data.X.copy(), data.X_test.copy()
    X[rng.random(X.shape) < 0.2] = np.nan
    X_test[rng.random(X_test.shape) < 0.2] = np.nan
    model = make(kind).fit(X, data.y)
    lens = BoostingLens(model, X, data.y, {"test": X_test})
    _close(lens.smoother("test") @ data.y, model.predict(X_test))


@pytest.mark.parametrize("kind", ["gradient", "hist", "xgboost", "lightgbm"])
def test_tables_stay_tables(kind: str, make: Callable[..., Any], data: Any) -> None:
    pandas = pytest.importorskip("pandas", reason="the inputs are a table")
    table = pandas.DataFrame(data.X, columns=list("abcd"))
    model = make(kind).fit(table, data.y)
    lens = BoostingLens(model, table, pandas.Series(data.y))
    _close(lens.smoother("train") @ data.y, model.predict(table))


def test_tables_with_categories(make: Callable[..., Any], data: Any) -> None:
    pandas = pytest.importorskip("pandas", reason="the inputs are a table")
    table = pandas.DataFrame(data.X, columns=list("abcd"))
    table["e"] = pandas.Categorical(np.where(data.X[:, 0] > 0, "high", "low"))
    model = make("hist", categorical_features="from_dtype").fit(table, data.y)
    lens = BoostingLens(model, table, data.y)
    _close(lens.smoother("train") @ data.y, model.predict(table))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("hist", {"categorical_features": "from_dtype"}),
        ("xgboost", {"enable_categorical": True}),
        ("xgboost", {"enable_categorical": True, "max_cat_to_onehot": 2}),
        ("lightgbm", {"min_data_per_group": 3, "cat_smooth": 1.0, "cat_l2": 0.0}),
        ("lightgbm", {"min_data_per_group": 3, "max_cat_to_onehot": 30, "min_child_samples": 2}),
    ],
)
def test_many_categories(
    kind: str, options: dict[str, Any], make: Callable[..., Any], categories: Any
) -> None:
    table, y = categories
    model = make(kind, **options).fit(table, y)
    lens = BoostingLens(model, table, y)
    _close(lens.smoother("train") @ y + lens.constant("train"), model.predict(table))
    if kind == "lightgbm":
        trees = model.booster_.dump_model()["tree_info"]
        assert any(tree["num_cat"] for tree in trees), "no split on a category was seen"


def test_another_mark_for_missing_values(make: Callable[..., Any], data: Any) -> None:
    X = np.where(np.random.default_rng(2).random(data.X.shape) < 0.2, -99.0, data.X)
    model = make("xgboost", missing=-99.0).fit(X, data.y)
    lens = BoostingLens(model, X, data.y)
    _close(lens.smoother("train") @ data.y, model.predict(X))


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
def test_copies_and_models_trained_further(kind: str, make: Callable[..., Any], data: Any) -> None:
    options = {"learning_rate": 0.2, "reg_lambda": 3.0}
    first = make(kind, **options).fit(data.X, data.y)
    more = {"xgb_model" if kind == "xgboost" else "init_model": first}
    further = make(kind, **options).fit(data.X, data.y, **more)
    for model, rounds in ((copy.deepcopy(first), 12), (further, 24)):
        lens = BoostingLens(model, data.X, data.y, {"test": data.X_test})
        assert lens.rounds == rounds
        _close(lens.smoother("test") @ data.y, model.predict(data.X_test))


@pytest.mark.parametrize("kind", ["gradient", "hist", "xgboost", "lightgbm"])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_labels_in_other_units(
    kind: str, scale: float, make: Callable[..., Any], data: Any
) -> None:
    y = scale * data.y
    model = make(kind).fit(data.X, y)
    lens = BoostingLens(model, data.X, y, {"test": data.X_test})
    _close(lens.smoother("test") @ y, model.predict(data.X_test))


def test_a_constant_initial_prediction(make: Callable[..., Any], data: Any) -> None:
    from sklearn.dummy import DummyRegressor

    start = DummyRegressor(strategy="constant", constant=2.0)
    model = make("gradient", init=start).fit(data.X, data.y)
    lens = BoostingLens(model, data.X, data.y)
    assert np.all(lens.constant("train", 0) == 2.0)
    _close(lens.smoother("train") @ data.y + lens.constant("train"), model.predict(data.X))


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
def test_early_stopping_ends_at_the_best_round(
    kind: str, make: Callable[..., Any], data: Any
) -> None:
    held_out = [(data.X_test, np.zeros(len(data.X_test)))]
    options = {"n_estimators": 60, "learning_rate": 0.5}
    if kind == "xgboost":
        model = make(kind, early_stopping_rounds=2, **options)
        model.fit(data.X, data.y, eval_set=held_out, verbose=False)
    else:
        model = make(kind, early_stopping_round=2, **options)
        with warnings.catch_warnings():
            # Another name for the argument is advised from LightGBM 4.7 on.
            warnings.filterwarnings("ignore", message="The argument 'eval_set' is deprecated")
            model.fit(data.X, data.y, eval_set=held_out)
    lens = BoostingLens(model, data.X, data.y)
    assert lens.rounds < 60
    _close(lens.smoother("train") @ data.y, model.predict(data.X))


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
def test_many_rounds_and_labels_far_from_zero(
    kind: str, make: Callable[..., Any], data: Any
) -> None:
    y = data.y + 20.0
    model = make(kind, n_estimators=400).fit(data.X, y)
    lens = BoostingLens(model, data.X, y, {"test": data.X_test})
    _close(lens.smoother("test") @ y, model.predict(data.X_test))

"""What cannot be followed is refused, with the reason and the way out."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from telescope_core.boosting import BoostingLens
from telescope_core.errors import (
    ConfigurationError,
    MissingDependencyError,
    ShapeError,
    TelescopeError,
)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("gradient", {"loss": "huber"}, "loss='HuberLoss'"),
        ("gradient", {"subsample": 0.5}, "subsample=0.5"),
        ("hist", {"loss": "absolute_error"}, "loss='AbsoluteError'"),
        ("xgboost", {"objective": "reg:absoluteerror"}, "objective='reg:absoluteerror'"),
        ("xgboost", {"subsample": 0.5}, "subsample=0.5"),
        ("xgboost", {"reg_alpha": 1.0}, "reg_alpha=1.0"),
        ("xgboost", {"max_delta_step": 1.0}, "max_delta_step=1.0"),
        ("xgboost", {"num_parallel_tree": 3}, "num_parallel_tree=3"),
        ("xgboost", {"booster": "dart"}, "booster='dart'"),
        ("xgboost", {"booster": "gblinear", "max_depth": None}, "booster='gblinear'"),
        ("xgboost", {"subsample": 0.5, "tree_method": "approx"}, "subsample=0.5"),
        ("xgboost", {"objective": "reg:pseudohubererror"}, "objective='reg:pseudohubererror'"),
        ("lightgbm", {"objective": "l1"}, "objective='regression_l1'"),
        ("lightgbm", {"subsample": 0.5, "subsample_freq": 1}, "bagging_fraction=0.5"),
        ("lightgbm", {"reg_alpha": 1.0}, "lambda_l1=1.0"),
        ("lightgbm", {"boosting_type": "dart"}, "boosting='dart'"),
        ("lightgbm", {"boosting_type": "goss"}, "data_sample_strategy='goss'"),
        (
            "lightgbm",
            {"boosting_type": "rf", "subsample": 0.5, "subsample_freq": 1},
            "boosting='rf'",
        ),
        ("lightgbm", {"objective": "huber"}, "objective='huber'"),
        ("lightgbm", {"objective": lambda y, f: (f - y, y**0)}, "objective='custom'"),
        ("lightgbm", {"use_quantized_grad": True}, "use_quantized_grad=1.0"),
        ("lightgbm", {"reg_sqrt": True}, "reg_sqrt=1.0"),
        ("lightgbm", {"data_sample_strategy": "goss"}, "data_sample_strategy='goss'"),
        ("lightgbm", {"linear_tree": True}, "linear_tree=1.0"),
        ("lightgbm", {"path_smooth": 1.0}, "path_smooth=1.0"),
    ],
)
def test_options_that_break_the_average(
    kind: str, options: dict[str, Any], words: str, make: Callable[..., Any], data: Any
) -> None:
    model = make(kind, **options).fit(data.X, data.y)
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        BoostingLens(model, data.X, data.y)


@pytest.mark.parametrize("kind", ["gradient", "hist", "xgboost", "lightgbm"])
def test_unfitted_models(kind: str, make: Callable[..., Any], data: Any) -> None:
    with pytest.raises(ConfigurationError, match="not fitted"):
        BoostingLens(make(kind), data.X, data.y)


def test_other_estimators_and_initial_models(make: Callable[..., Any], data: Any) -> None:
    from sklearn.linear_model import LinearRegression

    with pytest.raises(ConfigurationError, match="LinearRegression; give a fitted"):
        BoostingLens(LinearRegression().fit(data.X, data.y), data.X, data.y)
    model = make("gradient", init=LinearRegression()).fit(data.X, data.y)
    with pytest.raises(ConfigurationError, match="init=LinearRegression"):
        BoostingLens(model, data.X, data.y)


@pytest.mark.parametrize("kind", ["gradient", "hist", "xgboost", "lightgbm"])
def test_other_rows_labels_or_weights(kind: str, make: Callable[..., Any], data: Any) -> None:
    model = make(kind).fit(data.X, data.y)
    with pytest.raises(ConfigurationError, match=r"differ from S·y \+ c"):
        BoostingLens(model, data.X, data.y + 0.1 * np.arange(len(data.y)))
    with pytest.raises(ConfigurationError, match=r"differ from S·y \+ c"):
        BoostingLens(model, data.X[:-1], data.y[:-1])
    weights = np.linspace(0.5, 2.0, len(data.y))
    weighted = make(kind).fit(data.X, data.y, sample_weight=weights)
    with pytest.raises(ConfigurationError, match="sample_weight"):
        BoostingLens(weighted, data.X, data.y)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gradient", {"n_iter_no_change": 50}),
        ("hist", {"early_stopping": True, "n_iter_no_change": 50}),
    ],
)
def test_rows_held_out_for_early_stopping(
    kind: str, options: dict[str, Any], make: Callable[..., Any], data: Any
) -> None:
    model = make(kind, **options).fit(data.X, data.y)
    with pytest.raises(ConfigurationError, match="held out"):
        BoostingLens(model, data.X, data.y)


def test_forests_of_xgboost(data: Any) -> None:
    xgboost = pytest.importorskip("xgboost", reason="reads a model of XGBoost")
    model = xgboost.XGBRFRegressor(n_estimators=3, n_jobs=1).fit(data.X, data.y)
    with pytest.raises(ConfigurationError, match="XGBRFRegressor has"):
        BoostingLens(model, data.X, data.y)


@pytest.mark.parametrize("strategy", ["one_output_per_tree", "multi_output_tree"])
def test_labels_of_several_columns(strategy: str, make: Callable[..., Any], data: Any) -> None:
    both = np.stack([data.y, -data.y], axis=1)
    model = make("xgboost", multi_strategy=strategy).fit(data.X, both)
    for labels in (data.y, both):
        with pytest.raises(ConfigurationError, match="num_target=2"):
            BoostingLens(model, data.X, labels)


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm", "hist"])
def test_constraints_that_move_leaf_values(kind: str, make: Callable[..., Any], data: Any) -> None:
    name = "monotonic_cst" if kind == "hist" else "monotone_constraints"
    model = make(kind, **{name: (1, 0, 0, 0)}).fit(data.X, data.y)
    with pytest.raises(ConfigurationError, match="constraints that move leaf values"):
        BoostingLens(model, data.X, data.y)


def test_objectives_that_the_booster_does_not_name(make: Callable[..., Any], data: Any) -> None:
    # XGBoost writes the default's name for a callable.
    model = make("xgboost", objective=lambda y, f: (np.sign(f - y), np.ones_like(f)))
    model.fit(data.X, data.y)
    with pytest.raises(ConfigurationError, match=r"differ from S·y \+ c"):
        BoostingLens(model, data.X, data.y)


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
def test_scores_and_rates_that_only_fit_knew(
    kind: str, make: Callable[..., Any], data: Any
) -> None:
    scores = np.linspace(-1.0, 1.0, len(data.y))
    if kind == "xgboost":
        import xgboost

        schedule = xgboost.callback.LearningRateScheduler(lambda round: 0.3 / (1 + round))
        slower = make(kind, callbacks=[schedule]).fit(data.X, data.y)
        started = make(kind).fit(data.X, data.y, base_margin=scores)
    else:
        import lightgbm

        schedule = lightgbm.reset_parameter(learning_rate=lambda round: 0.3 / (1 + round))
        slower = make(kind).fit(data.X, data.y, callbacks=[schedule])
        started = make(kind).fit(data.X, data.y, init_score=scores)
    for model, words in ((slower, "learning rates that change"), (started, "initial scores")):
        with pytest.raises(ConfigurationError, match=words):
            BoostingLens(model, data.X, data.y)


def test_leaves_of_categories_with_their_own_regularisation(
    make: Callable[..., Any], categories: Any
) -> None:
    table, y = categories
    model = make("lightgbm", min_data_per_group=3, cat_smooth=1.0).fit(table, y)
    with pytest.raises(ConfigurationError, match="cat_l2=0"):
        BoostingLens(model, table, y)


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm", "hist"])
def test_columns_the_library_cannot_read(kind: str, make: Callable[..., Any], data: Any) -> None:
    pandas = pytest.importorskip("pandas", reason="the inputs are a table")
    table = pandas.DataFrame(data.X, columns=list("abcd"))
    model = make(kind).fit(table, data.y)
    words = table.assign(a="x")
    with pytest.raises(ConfigurationError, match="does not take the inputs of 'words'"):
        BoostingLens(model, table, data.y, {"words": words})


def test_infinite_inputs_of_xgboost(make: Callable[..., Any], data: Any) -> None:
    model = make("xgboost").fit(data.X, data.y)
    inputs = data.X_test.copy()
    inputs[0, 0] = np.inf
    with pytest.raises(ConfigurationError, match=r"does not take the inputs of 'far'.*inf"):
        BoostingLens(model, data.X, data.y, {"far": inputs})


@pytest.fixture
def fitted(make: Callable[..., Any], data: Any) -> Any:
    return make("gradient").fit(data.X, data.y)


def test_shapes(fitted: Any, data: Any) -> None:
    with pytest.raises(ShapeError, match=r"'test' have shape \(30, 3\).*\(rows, 4\)"):
        BoostingLens(fitted, data.X, data.y, {"test": data.X_test[:, :3]})
    with pytest.raises(ShapeError, match=r"y_train has shape \(79,\)"):
        BoostingLens(fitted, data.X, data.y[:-1])
    with pytest.raises(ShapeError, match="y_train"):
        BoostingLens(fitted, data.X, np.stack([data.y, data.y], axis=1))
    with pytest.raises(ShapeError, match="at least one row"):
        BoostingLens(fitted, data.X, data.y, {"test": data.X_test[:0]})
    with pytest.raises(ShapeError, match="sample_weight"):
        BoostingLens(fitted, data.X, data.y, sample_weight=np.ones(3))


def test_values(fitted: Any, data: Any) -> None:
    missing = data.X_test.copy()
    missing[0, 0] = np.nan
    with pytest.raises(ConfigurationError, match="'test' contain NaN"):
        BoostingLens(fitted, data.X, data.y, {"test": missing})
    with pytest.raises(ConfigurationError, match="y_train contains NaN"):
        BoostingLens(fitted, data.X, np.full_like(data.y, np.nan))
    with pytest.raises(ConfigurationError, match="must not be negative"):
        BoostingLens(fitted, data.X, data.y, sample_weight=-np.ones_like(data.y))


def test_sparse_inputs(fitted: Any, data: Any) -> None:
    sparse = pytest.importorskip("scipy.sparse", reason="the inputs are sparse")
    with pytest.raises(ConfigurationError, match="toarray"):
        BoostingLens(fitted, sparse.csr_array(data.X), data.y)


@pytest.mark.parametrize("name", ["train", "", "a/b", 3])
def test_names(name: Any, fitted: Any, data: Any) -> None:
    with pytest.raises(ConfigurationError, match="eval_sets has the name"):
        BoostingLens(fitted, data.X, data.y, {name: data.X_test})


def test_sets_and_rounds_that_do_not_exist(fitted: Any, data: Any) -> None:
    lens = BoostingLens(fitted, data.X, data.y)
    with pytest.raises(ConfigurationError, match="no set is named 'test'"):
        lens.smoother("test")
    for round in (-1, lens.rounds + 1, 1.5, True):
        with pytest.raises(ConfigurationError, match="from 0 to 12"):
            lens.effective_parameters("train", round)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("library", "words"),
    [(SimpleNamespace(__version__="1.7.6"), "too old"), (None, "cannot be imported")],
)
def test_libraries_absent_or_too_old(
    library: Any, words: str, monkeypatch: pytest.MonkeyPatch, data: Any
) -> None:
    kind = type("XGBRegressor", (), {"__module__": "xgboost.sklearn"})
    monkeypatch.setitem(sys.modules, "xgboost", library)
    with pytest.raises(MissingDependencyError, match=rf"{words}.*install xgboost>=2"):
        BoostingLens(kind(), data.X, data.y)
    assert issubclass(MissingDependencyError, TelescopeError)

"""The mean or a constant: the fitted model tells, whatever happened to its estimator since.

Either start predicts the same when the constant is the mean, so the check that S·y + c is what the
model predicts cannot tell them apart; refitting on other labels with the same trees can.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from telescope_core.boosting import BoostingLens
from telescope_core.errors import ConfigurationError

_RATE = 0.3
Boost = Callable[..., np.ndarray]
Make = Callable[..., Any]


def _leaves(model: Any, X: np.ndarray) -> np.ndarray:
    if type(model).__name__ == "LGBMRegressor":
        return np.asarray(model.predict(X, pred_leaf=True)).T
    return np.asarray(model.apply(X)).T


def _assert_follows(
    model: Any,
    data: Any,
    y: np.ndarray,
    boost: Boost,
    start: float | None,
    regularization: float = 1.0,
) -> None:
    """S and c against boosting on the same trees, from the mean (None) or from a constant."""
    lens = BoostingLens(model, data.X, y, {"test": data.X_test})
    leaves = [_leaves(model, X) for X in (data.X, data.X_test)]
    S, c = lens.smoother("test"), lens.constant("test")
    for labels in (np.zeros_like(y), np.linspace(1.0, 2.0, len(y))):
        expected = boost(labels, *leaves, _RATE, regularization, start)
        np.testing.assert_allclose(S @ labels + c, expected, atol=1e-6)


def _loaded(make: Make, model: Any, folder: Path, ending: str = "json", **options: Any) -> Any:
    path = folder / f"model.{ending}"
    model.save_model(path)
    loaded = make("xgboost", **options)
    loaded.load_model(path)
    return loaded


@pytest.mark.parametrize("ending", ["json", "ubj"])
def test_an_estimated_intercept_outlives_the_model_file(
    ending: str, make: Make, boost: Boost, data: Any, tmp_path: Path
) -> None:
    fitted = make("xgboost").fit(data.X, data.y)
    loaded = _loaded(make, fitted, tmp_path, ending)
    for model in (loaded, copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        _assert_follows(model, data, data.y, boost, None)


@pytest.mark.parametrize("of_labels", [True, False])
def test_a_given_intercept_outlives_the_model_file(
    of_labels: bool, make: Make, boost: Boost, data: Any, tmp_path: Path
) -> None:
    start = float(np.float32(data.y.mean())) if of_labels else 0.5
    fitted = make("xgboost", base_score=start).fit(data.X, data.y)
    _assert_follows(fitted, data, data.y, boost, start)
    loaded = _loaded(make, fitted, tmp_path)
    if of_labels:
        with pytest.raises(ConfigurationError, match="no longer tells"):
            BoostingLens(loaded, data.X, data.y)
    else:
        _assert_follows(loaded, data, data.y, boost, start)


def test_labels_whose_mean_is_the_given_intercept(make: Make, boost: Boost, data: Any) -> None:
    y = np.where(data.y > np.median(data.y), 1.0, 0.0)
    assert y.mean() == 0.5
    _assert_follows(make("xgboost", base_score=0.5).fit(data.X, y), data, y, boost, 0.5)
    _assert_follows(make("xgboost").fit(data.X, y), data, y, boost, None)


def test_a_booster_put_into_a_new_estimator(
    make: Make, boost: Boost, data: Any, tmp_path: Path
) -> None:
    xgboost = pytest.importorskip("xgboost", reason="reads a model of XGBoost")

    for options, start in (({}, None), ({"base_score": 0.5}, 0.5)):
        make("xgboost", **options).fit(data.X, data.y).save_model(tmp_path / "model.json")
        model = make("xgboost")
        model._Booster = xgboost.Booster(model_file=tmp_path / "model.json")
        _assert_follows(model, data, data.y, boost, start)


def test_options_set_after_loading_make_an_estimate_look_given(
    make: Make, boost: Boost, data: Any, tmp_path: Path
) -> None:
    fitted = make("xgboost", reg_lambda=4.0).fit(data.X, data.y)
    # The file does not keep reg_lambda.
    lost = _loaded(make, fitted, tmp_path, reg_lambda=4.0)
    with pytest.raises(ConfigurationError, match="lost in a model file"):
        BoostingLens(lost, data.X, data.y)
    lost.get_booster().set_param({"reg_lambda": 4.0})
    _assert_follows(lost, data, data.y, boost, None, 4.0)
    careless = _loaded(make, fitted, tmp_path, reg_lambda=4.0).set_params(n_jobs=1)
    with pytest.raises(ConfigurationError, match="no longer tells"):
        BoostingLens(careless, data.X, data.y)
    careful = _loaded(make, fitted, tmp_path, reg_lambda=4.0)
    careful.set_params(base_score=None, n_jobs=1)
    _assert_follows(careful, data, data.y, boost, None, 4.0)


def test_a_loaded_model_trained_further(
    make: Make, boost: Boost, data: Any, tmp_path: Path
) -> None:
    fitted = make("xgboost").fit(data.X, data.y)
    path = tmp_path / "model.json"
    fitted.save_model(path)
    fresh = make("xgboost").fit(data.X, data.y, xgb_model=path)
    assert len(_leaves(fresh, data.X)) == 24
    _assert_follows(fresh, data, data.y, boost, None)
    loaded = _loaded(make, fitted, tmp_path)
    loaded.fit(data.X, data.y, xgb_model=loaded.get_booster())
    with pytest.raises(ConfigurationError, match=r"base_score=None"):
        BoostingLens(loaded, data.X, data.y)
    # The trees of the first model do not start from what the second is given.
    other = make("xgboost", base_score=0.2).fit(data.X, data.y, xgb_model=path)
    with pytest.raises(ConfigurationError, match=r"differ from S·y \+ c"):
        BoostingLens(other, data.X, data.y)


def test_a_clone_of_a_loaded_model_is_given_its_intercept(
    make: Make, boost: Boost, data: Any, tmp_path: Path
) -> None:
    from sklearn.base import clone

    loaded = _loaded(make, make("xgboost").fit(data.X, data.y), tmp_path)
    start = float(np.float32(data.y.mean()))
    y = data.y + 1.0
    _assert_follows(clone(loaded).fit(data.X, y), data, y, boost, start)
    with pytest.raises(ConfigurationError, match="no longer tells"):
        BoostingLens(clone(loaded).fit(data.X, data.y), data.X, data.y)


def test_options_set_after_fit(make: Make, boost: Boost, data: Any) -> None:
    model = make("xgboost").fit(data.X, data.y)
    _assert_follows(model.set_params(n_jobs=1), data, data.y, boost, None)
    model.set_params(base_score=0.1)
    with pytest.raises(ConfigurationError, match=r"differ from S·y \+ c"):
        BoostingLens(model, data.X, data.y)


def test_a_loaded_model_stopped_early(make: Make, boost: Boost, data: Any, tmp_path: Path) -> None:
    held_out = [(data.X_test, np.zeros(len(data.X_test)))]
    model = make("xgboost", early_stopping_rounds=1)
    model.fit(data.X, data.y, eval_set=held_out, verbose=False)
    loaded = _loaded(make, model, tmp_path)
    lens = BoostingLens(loaded, data.X, data.y, {"test": data.X_test})
    assert lens.rounds == model.best_iteration + 1 < 12
    train, test = (_leaves(loaded, X)[: lens.rounds] for X in (data.X, data.X_test))
    labels = np.arange(80.0)
    expected = boost(labels, train, test, _RATE, 1.0, None)
    np.testing.assert_allclose(lens.smoother("test") @ labels, expected, rtol=1e-5)


_LIGHT = {"learning_rate": _RATE, "reg_lambda": 1.0}


def test_lightgbm_starts_from_what_its_first_tree_holds(
    make: Make, boost: Boost, data: Any
) -> None:
    y = data.y - data.y.mean()
    averaged = make("lightgbm", **_LIGHT).fit(data.X, y)
    plain = make("lightgbm", **_LIGHT, boost_from_average=False).fit(data.X, y)
    _assert_follows(averaged, data, y, boost, None)
    _assert_follows(plain, data, y, boost, 0.0)
    # The option is that of the last fit, the start that of the first.
    more = make("lightgbm", **_LIGHT, boost_from_average=False).fit(data.X, y, init_model=averaged)
    _assert_follows(more, data, y, boost, None)
    _assert_follows(pickle.loads(pickle.dumps(more)), data, y, boost, None)


def test_lightgbm_with_initial_scores_of_zero(make: Make, boost: Boost, data: Any) -> None:
    scored = make("lightgbm", **_LIGHT)
    scored.fit(data.X, data.y, init_score=np.zeros(len(data.y)))
    _assert_follows(scored, data, data.y, boost, 0.0)
    shifted = make("lightgbm", **_LIGHT)
    shifted.fit(data.X, data.y, init_score=np.full(len(data.y), data.y.mean()))
    with pytest.raises(ConfigurationError, match=r"differ from S·y \+ c"):
        BoostingLens(shifted, data.X, data.y)


@pytest.mark.parametrize("scores", [None, np.zeros(80)])
def test_lightgbm_does_not_tell_a_mean_of_zero(
    scores: np.ndarray | None, make: Make, boost: Boost, data: Any
) -> None:
    y = np.where(data.y > np.median(data.y), 1.0, -1.0)
    model = make("lightgbm", **_LIGHT).fit(data.X, y, init_score=scores)
    with pytest.raises(ConfigurationError, match="the mean of y_train is zero"):
        BoostingLens(model, data.X, y)
    unaveraged = make("lightgbm", **_LIGHT, boost_from_average=False).fit(data.X, y)
    _assert_follows(unaveraged, data, y, boost, 0.0)


def test_lightgbm_booster_saved_as_text(
    make: Make, boost: Boost, data: Any, tmp_path: Path
) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="reads a model of LightGBM")

    fitted = make("lightgbm", **_LIGHT).fit(data.X, data.y)
    fitted.booster_.save_model(tmp_path / "model.txt")
    loaded = copy.deepcopy(fitted)
    loaded._Booster = lightgbm.Booster(model_file=tmp_path / "model.txt")
    loaded._best_iteration = loaded._Booster.best_iteration
    assert loaded.best_iteration_ == -1
    _assert_follows(loaded, data, data.y, boost, None)
    text = (tmp_path / "model.txt").read_text().partition("parameters:")[0]
    loaded._Booster = lightgbm.Booster(model_str=text)
    with pytest.raises(ConfigurationError, match="no section of parameters"):
        BoostingLens(loaded, data.X, data.y)


@pytest.mark.parametrize("kind", ["gradient", "hist"])
def test_the_loss_is_that_of_the_fit(kind: str, make: Make, data: Any) -> None:
    other = {"gradient": "huber", "hist": "absolute_error"}[kind]
    model = make(kind).fit(data.X, data.y)
    expected = BoostingLens(model, data.X, data.y).smoother("train")
    model.set_params(loss=other)
    np.testing.assert_array_equal(BoostingLens(model, data.X, data.y).smoother("train"), expected)
    model = make(kind, loss=other).fit(data.X, data.y).set_params(loss="squared_error")
    with pytest.raises(ConfigurationError, match=r"has loss='(HuberLoss|AbsoluteError)'"):
        BoostingLens(model, data.X, data.y)


def test_subsampling_is_that_of_the_fit(make: Make, data: Any) -> None:
    model = make("gradient").fit(data.X, data.y).set_params(subsample=0.5)
    assert BoostingLens(model, data.X, data.y).rounds == 12
    model = make("gradient", subsample=0.5).fit(data.X, data.y).set_params(subsample=1.0)
    with pytest.raises(ConfigurationError):
        BoostingLens(model, data.X, data.y)


@pytest.mark.parametrize("kind", ["gradient", "hist"])
def test_a_learning_rate_set_after_fit_is_refused(kind: str, make: Make, data: Any) -> None:
    model = make(kind).fit(data.X, data.y).set_params(learning_rate=0.2)
    with pytest.raises(ConfigurationError, match="changed since fit"):
        BoostingLens(model, data.X, data.y)


def test_training_continued_by_warm_start(make: Make, boost: Boost, data: Any) -> None:
    options = {"learning_rate": _RATE, "warm_start": True}
    model = make("gradient", **options).fit(data.X, data.y)
    model.set_params(n_estimators=20)
    assert BoostingLens(model, data.X, data.y).rounds == 12
    _assert_follows(model.fit(data.X, data.y), data, data.y, boost, None, 0.0)
    # The rows of the first fit decide the start and the first trees.
    model.set_params(n_estimators=25).fit(data.X, data.y[::-1])
    with pytest.raises(ConfigurationError, match=r"differ from S·y \+ c"):
        BoostingLens(model, data.X, data.y[::-1])


def test_an_initial_estimator_changed_after_the_fit(make: Make, boost: Boost, data: Any) -> None:
    from sklearn.dummy import DummyRegressor

    start = DummyRegressor(strategy="mean")
    model = make("gradient", init=start, learning_rate=_RATE).fit(data.X, data.y)
    _assert_follows(model, data, data.y, boost, None, 0.0)
    start.set_params(strategy="constant", constant=1.0)
    with pytest.raises(ConfigurationError, match="changed after the model was fitted"):
        BoostingLens(model, data.X, data.y)

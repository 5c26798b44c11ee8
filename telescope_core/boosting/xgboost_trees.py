"""XGBoost's XGBRegressor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np

from telescope_core.boosting.trees import SINGLE, BoostedTrees, Floats, Integers, require
from telescope_core.errors import ConfigurationError


class XGBoostTrees(BoostedTrees):
    """Leaves are ``Σ residuals/(n_leaf + reg_lambda)``; the start is ``base_score`` or the mean.

    The options are those the booster was trained with, not those the estimator has now.
    """

    accepts_missing = True

    def __init__(self, model: Any) -> None:
        booster = model.get_booster()
        learner = json.loads(booster.save_config())["learner"]
        machine = learner["gradient_booster"]
        start = learner["learner_model_param"]
        options = {
            "objective": (learner["objective"]["name"], "reg:squarederror"),
            "booster": (machine["name"], "gbtree"),
            # Labels of more than one column.
            "num_target": (int(start["num_target"]), 1),
        }
        require(model, options)
        trees = machine["tree_train_param"]
        forest = machine["gbtree_model_param"]["num_parallel_tree"]
        numbers = {
            "subsample": (float(trees["subsample"]), 1.0),
            "reg_alpha": (float(trees["reg_alpha"]), 0.0),
            "max_delta_step": (float(trees["max_delta_step"]), 0.0),
            "num_parallel_tree": (int(forest), 1),
        }
        require(model, numbers)
        self._model = model
        # Early stopping leaves the best round in the booster, and `predict` ends there.
        best = booster.attr("best_iteration")
        self.rounds = booster.num_boosted_rounds() if best is None else int(best) + 1
        # Predictions are summed in single precision, one rounding a round.
        self.rounding = max(1e-6, self.rounds * SINGLE)
        self.learning_rate = float(trees["learning_rate"])
        self.leaf_regularization = float(trees["reg_lambda"])
        self._base_score = float(start["base_score"].strip("[]"))
        # 1 while the booster's base_score is its own estimate (XGBoost 2.0 and later); kept by
        # model files.
        self._estimated = bool(int(start.get("boost_from_average", 0)))
        self.offset = self._base_score

    def settle_start(self, y: Floats, weights: Floats) -> None:
        """The mean where the booster estimated ``base_score`` from labels like these.

        ``load_model`` writes the booster's estimate into the estimator's ``base_score`` (as a list
        or a string).  ``set_params`` and ``fit`` then hand it to the booster, which takes it for
        given from then on.

        Raises:
            ConfigurationError: The model does not tell whether ``base_score`` was estimated or
                given.
        """
        if not self.equals_mean(self._base_score, y, weights):
            return
        if self._estimated:
            self.offset = None
            return
        parameter = self._model.get_params().get("base_score")
        if not isinstance(parameter, Real):
            raise ConfigurationError(
                f"base_score={parameter!r} equals the mean of y_train, and the model no longer "
                "tells whether it was estimated from the labels or given: after load_model, "
                "set_params and fit pass the loaded base_score on as given. Load the file again "
                "and call set_params(base_score=None) first, or fit with base_score as a number"
            )

    def leaves(self, X: Any) -> Integers:
        """The leaf each row falls into, shape ``(rounds, rows)``."""
        leaves = self._model.apply(X, iteration_range=(0, self.rounds))
        return np.asarray(leaves).reshape(len(X), self.rounds).astype(np.intp).T

    def staged_predictions(self, X: Any) -> Iterator[Floats]:
        """The model's own predictions after 1, 2, … rounds."""
        for end in range(1, self.rounds + 1):
            predictions = self._model.predict(X, iteration_range=(0, end))
            yield np.asarray(predictions, dtype=np.float64)

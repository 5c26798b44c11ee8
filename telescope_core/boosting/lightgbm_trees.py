"""LightGBM's LGBMRegressor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from telescope_core.boosting.trees import SINGLE, BoostedTrees, Floats, Integers, require

_SWITCHES: Final = (
    "lambda_l1",
    "max_delta_step",
    "path_smooth",
    "linear_tree",
    "reg_sqrt",
    "use_quantized_grad",
)


class LightGBMTrees(BoostedTrees):
    """Leaves are ``Σ residuals/(n_leaf + reg_lambda)``; the start is the mean or zero.

    The options are those written into the booster, in which every alias has been resolved.
    """

    # Labels are stored in single precision; everything else is summed in double.
    rounding = 2 * SINGLE
    accepts_missing = True

    def __init__(self, model: Any) -> None:
        text = model.booster_.model_to_string()
        found = dict(re.findall(r"^\[(\w+): (.*)\]$", text, flags=re.MULTILINE))
        plain = {
            "objective": "regression",
            "boosting": "gbdt",
            "data_sample_strategy": "bagging",
        }
        require(model, {name: (found.get(name, value), value) for name, value in plain.items()})
        require(model, {name: (float(found.get(name, 0)), 0.0) for name in _SWITCHES})
        if int(found["bagging_freq"]) > 0:
            names = ("bagging_fraction", "pos_bagging_fraction", "neg_bagging_fraction")
            require(model, {name: (float(found.get(name, 1)), 1.0) for name in names})
        self._model = model
        self.rounds = int(model.best_iteration_ or model.booster_.current_iteration())
        self.learning_rate = float(found["learning_rate"])
        self.leaf_regularization = float(found["lambda_l2"])
        # When not even the first tree finds a split, it is the mean of the labels in any case.
        first = re.search(r"^num_leaves=(\d+)$", text, flags=re.MULTILINE)
        constant = first is not None and int(first[1]) == 1
        self.offset = None if int(found["boost_from_average"]) or constant else 0.0

    def leaves(self, X: Any) -> Integers:
        """The leaf each row falls into, shape ``(rounds, rows)``."""
        leaves = self._model.predict(X, pred_leaf=True, num_iteration=self.rounds)
        return np.asarray(leaves).reshape(len(X), self.rounds).astype(np.intp).T

    def staged_predictions(self, X: Any) -> Iterator[Floats]:
        """The model's own predictions after 1, 2, … rounds."""
        # Sums are in double precision, so one tree at a time gives what `predict` gives.
        total = np.zeros(len(X))
        for round in range(self.rounds):
            total += self._model.predict(X, start_iteration=round, num_iteration=1)
            yield total.copy()

    def predictions(self, X: Any) -> Floats:
        """The model's ``predict``, shape ``(rows,)``."""
        return np.asarray(self._model.predict(X), dtype=np.float64)

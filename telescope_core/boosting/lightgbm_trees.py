"""LightGBM's LGBMRegressor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from telescope_core.boosting.trees import SINGLE, BoostedTrees, Floats, Integers, require
from telescope_core.errors import ConfigurationError

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
        if "boost_from_average" not in found:
            raise ConfigurationError(
                "the model's text has no section of parameters, so that the options it was fitted "
                "with are not known: give the estimator as it was fitted (pickle keeps it whole)"
            )
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
        # Not positive where training was not stopped early.
        best = int(model.best_iteration_)
        self.rounds = best if best > 0 else int(model.booster_.current_iteration())
        self.learning_rate = float(found["learning_rate"])
        self.leaf_regularization = float(found["lambda_l2"])
        self._averages = bool(int(found["boost_from_average"]))
        self._first_leaves = int(_first(text, "num_leaves"))
        self._first_shrinkage = float(_first(text, "shrinkage"))
        self.offset = None if self._starts_from_mean() else 0.0

    def _starts_from_mean(self) -> bool:
        # When not even the first tree finds a split, it is the mean of the labels in any case.
        if self._first_leaves == 1:
            return True
        # The mean is added to the first tree, which then counts as not shrunk.  The option tells
        # less: initial scores turn it off, and training continued may have had another.
        shrunk = self.learning_rate != 1.0
        return self._first_shrinkage == 1.0 if shrunk else self._averages

    def settle_start(self, y: Floats, weights: Floats) -> None:
        """Refuse labels of mean zero when nothing tells the mean from no start at all."""
        told = self._first_leaves == 1 or (
            self._first_shrinkage == 1.0 and self.learning_rate != 1.0
        )
        if self._averages and not told and self.equals_mean(0.0, y, weights):
            raise ConfigurationError(
                "the mean of y_train is zero, and then LightGBM does not write down whether it "
                "started from the mean or from initial scores of zero: add a constant to the "
                "labels and fit again, or fit with boost_from_average=False"
            )

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


def _first(text: str, name: str) -> str:
    """A value of the first tree in a model's text."""
    found = re.search(rf"^{name}=(\S+)$", text, flags=re.MULTILINE)
    assert found is not None, f"a LightGBM model without {name}"
    return found[1]
